// The saved voices, as the server knows them, for every view that offers them.

import { ask } from "./api.js";

const listeners = [];
let state = { voices: [], folder: "" };

/** Call `listener` with the voices, now and whenever they change. */
export function onVoices(listener) {
  listeners.push(listener);
  listener(state.voices);
}

/** Where they are kept. */
export const voicesFolder = () => state.folder;

/** Ask the server again. */
export async function refreshVoices() {
  state = await ask("GET", "voices");
  for (const listener of listeners) listener(state.voices);
}
