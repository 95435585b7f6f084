// Ways to a new voice: from recordings, mixed, drawn, moved, tuned. Each listens first and then saves under a name.

import { ask, progressText, runJob } from "./api.js";
import { Clips, listenButton } from "./clips.js";
import { announce, el, field, slider, toast } from "./dom.js";
import { onVoices, refreshVoices } from "./library.js";
import { preview } from "./preview.js";

const MAX_SEED = 1000000;

/** A form with a name and a save button; `request` is what the job needs beside the name. */
class Maker {
  constructor({ kind, title, hint }) {
    this.kind = kind;
    this.title = title;
    this.name = el("input", { type: "text", maxLength: 60, autocomplete: "off", oninput: () => this.update() });
    this.save = el("button", { type: "submit", className: "primary" }, "Save");
    this.cancel = el("button", { type: "button", hidden: true, onclick: () => this.abort?.abort() }, "Cancel");
    this.bar = el("progress", { max: 1, hidden: true, "aria-label": "Progress" });
    this.stage = el("span", { className: "muted" });
    this.body = el("div", { className: "maker" });
    this.element = el("form", { onsubmit: (event) => { event.preventDefault(); this.make(); } },
      el("p", { className: "hint" }, hint), this.body,
      el("div", { className: "row" }, field("Name", this.name), this.save, this.cancel, this.bar, this.stage));
  }

  /** For the server; null while something is missing. */
  get request() { return null; }

  update() {
    this.save.disabled = Boolean(this.abort) || !this.name.value.trim() || !this.request;
    this.cancel.hidden = !this.abort;
    this.bar.hidden = !this.abort;
  }

  async make() {
    this.abort = new AbortController();
    this.update();
    try {
      await runJob({ kind: this.kind, name: this.name.value, ...this.request }, { signal: this.abort.signal,
        onstate: (job) => {
          if (job.progress) this.bar.value = job.progress;
          else this.bar.removeAttribute("value");
          this.stage.textContent = progressText(job);
        } });
      toast(`Saved ${this.name.value}.`);
      announce(`Saved ${this.name.value}.`);
      this.name.value = "";
      await refreshVoices();
    } catch (error) {
      if (error.name !== "AbortError") toast(error.message, "error");
    }
    this.abort = null;
    this.stage.textContent = "";
    this.update();
  }
}

/** From clips: `embed`, or `tune` where the train extra is installed. */
export class FromClips extends Maker {
  constructor(options) {
    super(options);
    this.clips = new Clips({ title: "Recordings", hint: "One speaker, no music.", multiple: true,
      onchange: () => this.update() });
    this.body.append(this.clips.element);
    this.update();
  }

  get request() {
    return this.clips?.clips.length ? { target: { uploads: this.clips.ids } } : null;
  }
}

/** Two voices or more, each with a slider. */
export class Mix extends Maker {
  constructor() {
    super({ kind: "embed", title: "Mix", hint: "A voice between voices: only the ratio of the sliders counts." });
    this.rows = [];
    this.list = el("div", {});
    this.listen = el("div", { className: "row" });
    this.body.append(this.list, this.listen);
    onVoices((voices) => this.#show(voices.filter((voice) => !voice.error)));
  }

  #show(voices) {
    const before = new Map(this.rows.map(({ name, control }) => [name, control.value]));
    this.rows = voices.map(({ name }) => {
      const control = slider(name, { min: 0, max: 100, step: 5, value: 0, unit: " %", oninput: () => this.#changed() });
      control.value = before.get(name) ?? 0;
      return { name, control };
    });
    this.list.replaceChildren(...this.rows.map(({ control }) => control.element));
    if (!voices.length) this.list.append(el("p", { className: "muted" }, "Save two voices first."));
    this.#changed();
  }

  #changed() {
    const { request } = this;
    this.listen.replaceChildren(request ? listenButton("the mixture", () => preview(request)) : "", "Listen");
    this.listen.hidden = !request;
    this.update();
  }

  get request() {
    const mix = (this.rows ?? []).filter(({ control }) => control.value > 0)
      .map(({ name, control }) => ({ voice: name, weight: control.value / 100 }));
    return mix.length > 1 ? { target: { mix } } : null;
  }
}

/** A voice that nobody has. */
export class Dice extends Maker {
  constructor() {
    super({ kind: "new", title: "Dice", hint: "A voice that nobody has; the same number is the same voice." });
    this.seed = el("input", { type: "number", min: 0, max: MAX_SEED, step: 1, oninput: () => this.#changed() });
    this.listen = el("div", { className: "row" });
    this.body.append(el("div", { className: "row" }, field("Number", this.seed),
      el("button", { type: "button", className: "big", onclick: () => this.#roll() }, "🎲 Roll")), this.listen);
    this.#roll();
  }

  #roll() {
    this.seed.value = String(Math.floor(Math.random() * MAX_SEED));
    this.#changed();
  }

  #changed() {
    const { request } = this;
    this.listen.replaceChildren(...(request ? [listenButton(`voice ${request.seed}`,
      () => preview({ new: true, ...request })), "Listen"] : []));
    this.update();
  }

  get request() {
    const seed = this.seed?.valueAsNumber;
    return Number.isInteger(seed) && seed >= 0 ? { seed } : null;
  }
}

/** A voice some way along the directions in which voices differ. */
export class Move extends Maker {
  constructor() {
    super({ kind: "move", title: "Move",
      hint: "Steps away from a voice, in standard deviations between speakers. Double-click a slider for 0." });
    this.controls = {};
    this.select = el("select", { onchange: () => this.#changed() });
    this.sliders = el("div", {});
    this.more = el("details", { hidden: true }, el("summary", {}, "More directions"));
    this.listen = el("div", { className: "row" });
    this.body.append(field("Voice", this.select), this.sliders, this.more, this.listen);
    this.#add("higher", "Lower – higher", this.sliders);
    this.#add("brighter", "Darker – brighter", this.sliders);
    onVoices((voices) => {
      const chosen = this.select.value;
      const usable = voices.filter((voice) => !voice.error);
      this.select.replaceChildren(...usable.map(({ name }) => el("option", { value: name }, name)));
      if (usable.some(({ name }) => name === chosen)) this.select.value = chosen;
      this.#changed();
    });
    this.#directions();
  }

  async #directions() {
    try {
      const { directions } = await ask("GET", "directions");
      for (const { number, share, name } of directions) {
        const label = `${number}${name ? ` (${name})` : ""}, ${(100 * share).toFixed(0)} % of the variance`;
        this.#add(String(number), label, this.more);
      }
      this.more.hidden = !directions.length;
    } catch (error) {
      toast(error.message, "error");
    }
  }

  #add(key, label, place) {
    this.controls[key] = slider(label, { min: -3, max: 3, step: 0.25, oninput: () => this.#changed() });
    place.append(this.controls[key].element);
  }

  #changed() {
    const { request } = this;
    this.listen.replaceChildren(...(request ? [listenButton("the moved voice", () => preview(request)), "Listen"] : []));
    this.update();
  }

  get request() {
    const steps = Object.entries(this.controls ?? {}).filter(([, control]) => control.value)
      .map(([key, control]) => [key, control.value]);
    return this.select?.value && steps.length
      ? { target: { voice: this.select.value }, steps: Object.fromEntries(steps) } : null;
  }
}
