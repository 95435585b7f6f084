// How a voice sounds, before or after it is saved.

import { ask, runJob } from "./api.js";
import { fetchSound } from "./sound.js";

/** A sample sentence in a voice; `body` says which, as for the job. */
export async function preview(body) {
  const job = await runJob({ kind: "preview", ...body });
  try {
    return await fetchSound(`jobs/${job.id}/audio?listen`);
  } finally {
    ask("DELETE", `jobs/${job.id}`).catch(() => {});
  }
}
