// One audio context for the page, and buffers from the server.

import { request } from "./api.js";

let context = null;

/** The audio context; made at the first use, which must follow a click or a key. */
export function audioContext() {
  context ??= new AudioContext();
  if (context.state === "suspended") context.resume();
  return context;
}

/** The decoded sound at a path of the API. */
export async function fetchSound(path) {
  const response = await request("GET", path);
  return new OfflineAudioContext(1, 1, 48000).decodeAudioData(await response.arrayBuffer());
}

let playing = null;

/** Play a sound once; whatever else this function plays stops. `onend` is called when it ends or is stopped. */
export function playOnce(buffer, onend) {
  stopOnce();
  const node = new AudioBufferSourceNode(audioContext(), { buffer });
  node.connect(audioContext().destination);
  node.onended = () => { if (playing === node) playing = null; onend?.(); };
  node.start();
  playing = node;
}

/** Stop what `playOnce` plays. */
export function stopOnce() {
  playing?.stop();
  playing = null;
}
