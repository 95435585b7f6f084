// Requests to the server of this page. The token comes in the fragment of the address and stays in this tab.

const KEY = "vconv-token";
const POLL = 250; // ms

if (location.hash.length > 1) {
  sessionStorage.setItem(KEY, decodeURIComponent(location.hash.slice(1)));
  history.replaceState(null, "", location.pathname);
}
// The printed address may be opened in a tab that has the page already, after a restart of the server for one.
addEventListener("hashchange", () => { if (location.hash.length > 1) location.reload(); });
export const token = sessionStorage.getItem(KEY) ?? "";

/** A request that the server refused; the message is its one line. */
export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The response to a request; throws RequestError. */
export async function request(method, path, { json, body, signal } = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  if (json !== undefined) {
    body = JSON.stringify(json);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(`/api/${path}`, { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(0, "vconv web does not answer; is it still running?");
  }
  if (!response.ok) throw new RequestError(response.status, await reason(response));
  return response;
}

async function reason(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `the server answered ${response.status}`;
  }
}

/** The JSON that a request answers with. */
export async function ask(method, path, options) {
  const response = await request(method, path, options);
  return response.status === 204 ? null : response.json();
}

/** Send a recording or a voice file; `onprogress` is told the share from 0 to 1. */
export function send(path, blob, onprogress) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", `/api/${path}`);
    sending.setRequestHeader("Authorization", `Bearer ${token}`);
    sending.responseType = "json";
    sending.upload.onprogress = (event) => event.lengthComputable && onprogress?.(event.loaded / event.total);
    sending.onerror = () => reject(new RequestError(0, "the upload was cut off; is vconv web still running?"));
    sending.onload = () => {
      if (sending.status < 300) resolve(sending.response);
      else reject(new RequestError(sending.status, sending.response?.error ?? `the server answered ${sending.status}`));
    };
    sending.send(blob);
  });
}

/** Send a recording: {id, name, seconds, peaks, ...}. */
export const upload = (blob, name, onprogress) =>
  send(`uploads?name=${encodeURIComponent(name)}`, blob, onprogress);

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/**
 * Run a job to its end: the job, with its result. `onstate` is told each state on the way.
 * Aborting the signal cancels it. Throws RequestError where it fails, AbortError where it was cancelled.
 */
export async function runJob(body, { onstate, signal } = {}) {
  let job;
  for (;;) {
    try {
      job = await ask("POST", "jobs", { json: body });
      break;
    } catch (error) {
      if (error.status !== 503 || signal?.aborted) throw error;
      await wait(1000); // the queue is full
    }
  }
  const cancel = () => ask("DELETE", `jobs/${job.id}`).catch(() => {});
  signal?.addEventListener("abort", cancel);
  try {
    while (job.state === "queued" || job.state === "running") {
      onstate?.(job);
      await wait(POLL);
      if (signal?.aborted) throw new DOMException("cancelled", "AbortError");
      job = await ask("GET", `jobs/${job.id}`);
    }
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
  onstate?.(job);
  if (job.state === "failed") throw new RequestError(422, job.error);
  if (job.state === "cancelled") throw new DOMException("cancelled", "AbortError");
  return job;
}

/** The words for a job on its way. */
export function progressText(job) {
  if (job.state === "queued") return job.ahead ? `waiting, ${job.ahead} before it` : "waiting";
  if (job.left === null) return job.stage;
  const left = Math.max(1, Math.round(job.left));
  return `${job.stage}, about ${left < 60 ? `${left} s` : `${Math.ceil(left / 60)} min`} left`;
}
