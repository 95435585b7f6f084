// Options of a conversion that every view offers: pitch, register and model.

import { el, field, slider } from "./dom.js";

export class Settings {
  constructor(models) {
    this.pitch = slider("Pitch", { min: -12, max: 12, step: 0.5, unit: " st" });
    this.keep = el("input", { type: "checkbox" });
    this.model = el("select", {}, models.map((name) => el("option", { value: name }, name)));
    const modelField = field("Model", this.model);
    modelField.hidden = models.length < 2;
    this.element = el("div", { className: "settings" },
      this.pitch.element,
      el("label", { className: "check", title: "Leave the melody in the register of the source" }, this.keep,
        "Keep the source's pitch"),
      modelField);
  }

  /** For a request. */
  get value() {
    return { pitch: this.pitch.value, keep_pitch: this.keep.checked, model: this.model.value };
  }
}
