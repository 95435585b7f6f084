// Many sources, one target: a queue with states, in which a bad file does not stop the others.

import { ask, progressText, request, runJob, upload } from "./api.js";
import { listenButton } from "./clips.js";
import { el, field, newId, save, toast } from "./dom.js";
import { Settings } from "./settings.js";
import { fetchSound } from "./sound.js";
import { Target } from "./target.js";

const AT_ONCE = 2; // uploads and jobs under way: one converts while the next is sent

export class BatchView {
  title = "Many files";

  constructor(server) {
    this.entries = [];
    this.target = new Target({ title: "Target", hint: "The voice to sound like: 5 to 30 seconds of clean speech.",
      onchange: () => this.#update() });
    this.settings = new Settings(server.models);
    this.input = el("input", { type: "file", multiple: true, className: "hidden-text", tabIndex: -1,
      "aria-label": "Sources: files", onchange: () => { this.add([...this.input.files]); this.input.value = ""; } });
    this.start = el("button", { type: "button", className: "primary big", onclick: () => this.run() }, "Convert all");
    this.stop = el("button", { type: "button", hidden: true, onclick: () => this.abort?.abort() }, "Stop");
    this.clear = el("button", { type: "button", onclick: () => this.#clear() }, "Clear the list");
    this.format = el("select", {}, server.formats.map((format) => el("option", { value: format }, format)));
    this.zip = el("button", { type: "button", onclick: () => this.#zip() }, "Download all as zip");
    this.rows = el("tbody", {});
    this.summary = el("p", { className: "muted", role: "status" });
    const heading = newId("batch");
    const card = el("section", { className: "card drop", "aria-labelledby": heading },
      el("h2", { id: heading }, "Sources"),
      el("p", { className: "hint" }, "Any number of recordings. One that cannot be used does not stop the others."),
      el("div", { className: "row" },
        el("button", { type: "button", onclick: () => this.input.click() }, "Choose files"),
        el("span", { className: "muted wide" }, "or drop here")), this.input);
    for (const kind of ["dragover", "dragleave", "drop"]) {
      card.addEventListener(kind, (event) => {
        event.preventDefault();
        card.classList.toggle("over", kind === "dragover");
        if (kind === "drop") this.add([...event.dataTransfer.files]);
      });
    }
    this.table = el("table", { className: "queue", hidden: true },
      el("thead", {}, el("tr", {}, ["File", "State", ""].map((title) => el("th", { scope: "col" }, title)))), this.rows);
    this.element = el("div", {},
      el("div", { className: "columns" }, card, this.target.element),
      el("div", { className: "card action" }, this.settings.element,
        el("div", { className: "row" }, this.start, this.stop, this.clear, this.summary)),
      el("section", { className: "card", "aria-label": "Queue" }, this.table,
        el("div", { className: "row end" }, field("Format", this.format), this.zip)));
    this.#update();
  }

  add(files) {
    for (const file of files) {
      const state = el("td", {}, "ready");
      const actions = el("td", {});
      const row = el("tr", {}, el("td", { className: "name", title: file.name }, file.name), state, actions);
      this.rows.append(row);
      this.entries.push({ file, row, state, actions, status: "ready", job: null });
    }
    this.#update();
  }

  async run() {
    const target = this.target.value;
    const todo = this.entries.filter((entry) => entry.status === "ready");
    if (!target || !todo.length || this.abort) return;
    this.abort = new AbortController();
    const options = { target, ...this.settings.value, draw: false };
    this.#update();
    const next = async () => {
      for (let entry = todo.shift(); entry; entry = todo.shift()) {
        if (this.abort.signal.aborted) this.#set(entry, "ready", "ready");
        else await this.#convert(entry, options, this.abort.signal);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, next));
    this.abort = null;
    this.#update();
  }

  async #convert(entry, options, signal) {
    let clip = null;
    try {
      this.#set(entry, "working", "sending");
      clip = await upload(entry.file, entry.file.name);
      const job = await runJob({ kind: "convert", source: clip.id, ...options }, { signal,
        onstate: (state) => this.#set(entry, "working", progressText(state), state.progress) });
      entry.job = job.id;
      this.#set(entry, "done", "done");
      entry.actions.replaceChildren(listenButton(`the result of ${entry.file.name}`,
        () => fetchSound(`jobs/${job.id}/audio?listen`)));
    } catch (error) {
      if (error.name === "AbortError") this.#set(entry, "ready", "ready");
      else this.#set(entry, "failed", error.message);
    } finally {
      if (clip) ask("DELETE", `uploads/${clip.id}`).catch(() => {});
    }
  }

  #set(entry, status, text, share) {
    entry.status = status;
    entry.row.className = status;
    entry.state.replaceChildren(
      status === "working" && share ? el("progress", { max: 1, value: share, "aria-label": text }) : "", text);
    this.#update();
  }

  #clear() {
    for (const entry of this.entries) {
      if (entry.job) ask("DELETE", `jobs/${entry.job}`).catch(() => {});
      entry.row.remove();
    }
    this.entries = [];
    this.#update();
  }

  async #zip() {
    this.zip.disabled = true;
    try {
      const jobs = this.entries.filter((entry) => entry.job).map((entry) => entry.job);
      const response = await request("POST", "zip", { json: { jobs, format: this.format.value } });
      save(await response.blob(), "vconv.zip");
      const missing = Number(response.headers.get("X-Missing"));
      if (missing) toast(`${missing} results made room for newer ones; missing.txt in the archive names them.`, "error");
    } catch (error) {
      toast(error.message, "error");
    }
    this.#update();
  }

  #update() {
    if (!this.summary) return;
    const count = (status) => this.entries.filter((entry) => entry.status === status).length;
    const busy = Boolean(this.abort);
    this.table.hidden = !this.entries.length;
    this.start.disabled = busy || !this.target.value || !count("ready");
    this.stop.hidden = !busy;
    this.clear.disabled = busy || !this.entries.length;
    this.zip.disabled = busy || !count("done");
    const parts = [`${count("done")} of ${this.entries.length} done`];
    if (count("failed")) parts.push(`${count("failed")} failed`);
    this.summary.textContent = this.entries.length ? parts.join(", ") : "";
  }

  hide() {}
}
