// The first view: one source, one target, and the result beside both.

import { ask, progressText, request, runJob } from "./api.js";
import { Clips } from "./clips.js";
import { announce, el, save, toast } from "./dom.js";
import { Player } from "./player.js";
import { Settings } from "./settings.js";
import { fetchSound } from "./sound.js";
import { Target } from "./target.js";

const LONGEST = 600; // seconds that the player holds

export class ConvertView {
  title = "Convert";

  constructor(server) {
    this.server = server;
    this.player = null;
    this.source = new Clips({ title: "Source", hint: "What is said, and how: one person speaking.",
      onchange: () => this.#update() });
    this.target = new Target({ title: "Target", hint: "The voice to sound like: 5 to 30 seconds of clean speech.",
      onchange: () => this.#update() });
    this.settings = new Settings(server.models);
    this.button = el("button", { type: "button", className: "primary big", onclick: () => this.convert() }, "Convert");
    this.cancel = el("button", { type: "button", hidden: true, onclick: () => this.abort?.abort() }, "Cancel");
    this.bar = el("progress", { max: 1, "aria-label": "Progress of the conversion" });
    this.stage = el("span", { className: "muted" });
    this.progress = el("div", { className: "progress", hidden: true }, this.bar, this.stage);
    this.result = el("section", { className: "card result", hidden: true, "aria-label": "Result" });
    this.element = el("div", {},
      el("div", { className: "columns" }, this.source.element, this.target.element),
      el("div", { className: "card action" }, this.settings.element,
        el("div", { className: "row" }, this.button, this.cancel, this.progress)),
      this.result);
    this.#update();
  }

  /** A key of the page; true where it was used. */
  shortcut(key) {
    return this.player?.shortcut(key) ?? false;
  }

  hide() {
    this.player?.pause();
  }

  async convert() {
    const source = this.source.clips[0];
    const target = this.target.value;
    if (!source || !target || this.abort) return;
    this.abort = new AbortController();
    this.#update();
    this.progress.hidden = false;
    try {
      const body = { kind: "convert", source: source.id, target, ...this.settings.value };
      const job = await runJob(body, { signal: this.abort.signal, onstate: (state) => this.#progress(state) });
      await this.#show(job, source, this.target.clip);
      announce("The conversion is done.");
    } catch (error) {
      if (error.name !== "AbortError") toast(error.message, "error");
      else toast("Cancelled.");
    } finally {
      this.abort = null;
      this.progress.hidden = true;
      this.#update();
    }
  }

  #progress(job) {
    if (job.progress > 0) this.bar.value = job.progress;
    else this.bar.removeAttribute("value");
    this.stage.textContent = progressText(job);
  }

  #update() {
    if (!this.button) return;
    const busy = Boolean(this.abort);
    this.button.disabled = busy || !this.source.clips.length || !this.target.value;
    this.button.title = this.button.disabled && !busy ? "Choose a source and a target first" : "Ctrl+Enter";
    this.cancel.hidden = !busy;
  }

  async #show(job, source, clip) {
    const { result } = job;
    const pictures = await ask("GET", `jobs/${job.id}/pictures`);
    const track = async (label, path, facts, picture) => ({ label, buffer: await fetchSound(path),
      loudness: facts.loudness, peaks: facts.peaks, picture: picture ?? null });
    // A clip may have been replaced while the job ran: it is left out then.
    const clipTrack = (label, shown, picture) =>
      track(label, `uploads/${shown.id}/audio`, shown, picture).catch(() => null);
    const tracks = await Promise.all([
      track("Result", `jobs/${job.id}/audio?listen`, result, pictures.result),
      clipTrack("Source", source, pictures.source),
      ...(clip ? [clipTrack("Target", clip, pictures.target)] : []),
    ]);
    this.player?.pause();
    this.player = new Player(tracks.filter(Boolean));
    this.result.replaceChildren(
      el("h2", {}, "Result"),
      this.player.element,
      result.seconds > LONGEST ? el("p", { className: "hint" }, "The player holds the first ten minutes.") : "",
      facts(result),
      el("div", { className: "row" }, this.server.formats.map((format) => this.#download(job, format))),
      command(result.command));
    this.result.hidden = false;
    this.result.scrollIntoView({ behavior: "smooth", block: "nearest" });
    if (this.shown) ask("DELETE", `jobs/${this.shown}`).catch(() => {});
    this.shown = job.id;
  }

  #download(job, format) {
    return el("button", { type: "button", async onclick(event) {
      event.target.disabled = true;
      try {
        const response = await request("GET", `jobs/${job.id}/audio?format=${format}`);
        save(await response.blob(), `${job.result.name}.${format}`);
      } catch (error) {
        toast(error.message, "error");
      }
      event.target.disabled = false;
    } }, `Download ${format}`);
  }
}

/** What was measured of a result. */
function facts(result) {
  const { similarity, check } = result;
  const list = el("dl", { className: "facts" });
  if (similarity) {
    const meter = (label, value) => list.append(el("div", {}, el("dt", {}, label),
      el("dd", {}, el("meter", { min: 0, max: 1, value: Math.max(0, value), "aria-label": label }),
        ` ${value.toFixed(2)}`)));
    meter("Similarity to the target", similarity.target);
    meter("Similarity to the source", similarity.source);
    if (similarity.threshold !== undefined) {
      list.append(el("div", {}, el("dt", {}, `Same speaker (from ${similarity.threshold.toFixed(2)})`),
        el("dd", {}, speaker(similarity))));
    }
  }
  if (check) list.append(el("div", {}, el("dt", {}, "The source is"), el("dd", {}, check.text)));
  return list;
}

function speaker({ target, source, threshold }) {
  if (target >= threshold && target >= source) return "the target";
  return source >= threshold ? "the source" : "neither speaker";
}

/** The command line that makes the same. */
function command(text) {
  const code = el("code", {}, text);
  return el("div", { className: "command" }, code,
    el("button", { type: "button", async onclick() {
      try {
        await navigator.clipboard.writeText(text);
        toast("Copied.");
      } catch {
        getSelection().selectAllChildren(code); // to be copied by hand
      }
    } }, "Copy as command line"));
}
