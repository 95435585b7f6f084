// A card that takes recordings: drop, choose or record; each is uploaded, listed, played and removed.

import { ask, upload } from "./api.js";
import { clock, el, newId, toast } from "./dom.js";
import { drawWave, keepDrawn } from "./drawing.js";
import { record } from "./recorder.js";
import { fetchSound, playOnce, stopOnce } from "./sound.js";

const ACCEPT = "audio/*,.wav,.flac,.ogg,.oga,.opus,.mp3,.aif,.aiff,.au,.caf";

/**
 * Args: title, hint, multiple (several clips), onchange (called with the clips).
 * `clips` are what the server said of the uploads.
 */
export class Clips {
  constructor({ title, hint, multiple = false, onchange }) {
    this.clips = [];
    this.multiple = multiple;
    this.onchange = onchange;
    const heading = newId("clips");
    this.input = el("input", { type: "file", accept: ACCEPT, multiple, className: "hidden-text", tabIndex: -1,
      "aria-label": `${title}: files`, onchange: () => { this.add([...this.input.files]); this.input.value = ""; } });
    this.list = el("ul", { className: "clips" });
    this.recording = el("div", {});
    this.element = el("section", { className: "card drop", "aria-labelledby": heading },
      el("h2", { id: heading }, title),
      el("p", { className: "hint" }, hint),
      this.list,
      this.recording,
      el("div", { className: "row" },
        el("button", { type: "button", onclick: () => this.input.click() }, multiple ? "Choose files" : "Choose a file"),
        el("button", { type: "button", onclick: () => this.record() }, "Record"),
        el("span", { className: "muted wide" }, "or drop here")),
      this.input);
    this.#acceptDrops();
  }

  get ids() {
    return this.clips.map((clip) => clip.id);
  }

  /** Upload files; one that cannot be used does not stop the others. */
  async add(files) {
    for (const file of this.multiple ? files : files.slice(0, 1)) {
      const bar = el("progress", { max: 1, value: 0, "aria-label": `Uploading ${file.name}` });
      const item = el("li", {}, el("span", { className: "name" }, file.name), bar);
      this.list.append(item);
      try {
        const clip = await upload(file, file.name, (share) => { bar.value = share; });
        if (!this.multiple) this.clear();
        this.clips.push(clip);
        item.replaceWith(this.#item(clip));
      } catch (error) {
        item.remove();
        toast(error.message, "error");
      }
      this.onchange?.(this.clips);
    }
  }

  async record() {
    if (this.recording.childElementCount) return;
    try {
      const blob = await record(this.recording);
      const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
      if (blob) await this.add([new File([blob], `recording ${time}.wav`)]);
    } catch (error) {
      toast(error.message, "error");
    }
  }

  clear() {
    for (const clip of this.clips.splice(0)) {
      ask("DELETE", `uploads/${clip.id}`).catch(() => {});
      this.list.querySelector(`[data-id="${clip.id}"]`)?.remove();
    }
  }

  #remove(clip, item) {
    this.clips = this.clips.filter((other) => other !== clip);
    ask("DELETE", `uploads/${clip.id}`).catch(() => {});
    item.remove();
    this.onchange?.(this.clips);
  }

  #item(clip) {
    const canvas = el("canvas", { className: "wave", "aria-hidden": "true" });
    const item = el("li", { "data-id": clip.id },
      listenButton(clip.name, () => fetchSound(`uploads/${clip.id}/audio`)),
      el("span", { className: "name", title: clip.name }, clip.name),
      canvas,
      el("span", { className: "muted" }, clock(clip.seconds)),
      el("button", { type: "button", className: "icon", "aria-label": `Remove ${clip.name}`,
        onclick: () => this.#remove(clip, item) }, "✕"));
    requestAnimationFrame(() => keepDrawn(canvas, () => drawWave(canvas, clip.peaks)));
    return item;
  }

  #acceptDrops() {
    const over = (on) => (event) => {
      event.preventDefault();
      this.element.classList.toggle("over", on);
    };
    this.element.addEventListener("dragover", over(true));
    this.element.addEventListener("dragleave", over(false));
    this.element.addEventListener("drop", (event) => {
      over(false)(event);
      this.add([...event.dataTransfer.files]);
    });
  }
}

/** A button that plays a sound, and stops it. `load` gives the buffer; it is asked once. */
export function listenButton(name, load) {
  let sound = null;
  let playing = false;
  const show = () => {
    button.textContent = playing ? "■" : "▶";
    button.setAttribute("aria-label", `${playing ? "Stop" : "Play"} ${name}`);
  };
  const button = el("button", { type: "button", className: "icon", async onclick() {
    if (playing) { stopOnce(); return; }
    button.disabled = true;
    try {
      sound ??= await load();
      playOnce(sound, () => { playing = false; show(); });
      playing = true;
    } catch (error) {
      if (error.name !== "AbortError") toast(error.message, "error");
    }
    button.disabled = false;
    show();
  } });
  show();
  return button;
}
