// Chooses a target: clips, or a voice of the library.

import { Clips } from "./clips.js";
import { el, newId } from "./dom.js";
import { onVoices } from "./library.js";

export class Target {
  /** Args: title, hint, onchange. */
  constructor({ title, hint, onchange }) {
    this.onchange = onchange;
    this.clips = new Clips({ title, hint, multiple: true, onchange: () => { this.#use("clips"); } });
    this.kind = "clips";
    const name = newId("target");
    this.radios = {};
    const choice = (kind, label) => {
      this.radios[kind] = el("input", { type: "radio", name, checked: kind === "clips",
        onchange: () => this.#use(kind) });
      return el("label", {}, this.radios[kind], el("span", {}, label));
    };
    this.select = el("select", { "aria-label": "Voice", onchange: () => this.#use("voice") });
    this.voiceRow = el("div", { className: "field", hidden: true }, this.select);
    const head = this.clips.element.querySelector("h2");
    head.after(el("fieldset", { className: "segments" }, el("legend", { className: "hidden-text" }, "Kind of target"),
      choice("clips", "Recordings"), choice("voice", "Saved voice")), this.voiceRow);
    this.element = this.clips.element;
    onVoices((voices) => this.#list(voices));
  }

  /** For a request; null where nothing is chosen. */
  get value() {
    if (this.kind === "voice") return this.select.value ? { voice: this.select.value } : null;
    return this.clips.ids.length ? { uploads: this.clips.ids } : null;
  }

  /** The first clip, for the player; null for a saved voice. */
  get clip() {
    return this.kind === "clips" ? this.clips.clips[0] ?? null : null;
  }

  #use(kind) {
    this.kind = kind;
    this.radios[kind].checked = true;
    this.voiceRow.hidden = kind !== "voice";
    for (const part of this.element.querySelectorAll(".hint, .clips, .drop > .row")) part.hidden = kind === "voice";
    this.onchange?.();
  }

  #list(voices) {
    const chosen = this.select.value;
    const usable = voices.filter((voice) => !voice.error);
    this.select.replaceChildren(...usable.map((voice) => el("option", { value: voice.name }, voice.name)));
    if (!usable.length) this.select.append(el("option", { value: "" }, "No voice saved yet"));
    if (usable.some((voice) => voice.name === chosen)) this.select.value = chosen;
    this.onchange?.();
  }
}
