// The library of voices: listen, rename, export, delete; and the ways to make a new one.

import { ask, request, send } from "./api.js";
import { listenButton } from "./clips.js";
import { el, newId, save, toast } from "./dom.js";
import { onVoices, refreshVoices, voicesFolder } from "./library.js";
import { preview } from "./preview.js";
import { FromClips, Dice, Mix, Move } from "./voice_makers.js";

export class VoicesView {
  title = "Voices";

  constructor(server) {
    this.list = el("ul", { className: "voices" });
    this.folder = el("p", { className: "hint" });
    this.input = el("input", { type: "file", accept: ".npz", multiple: true, className: "hidden-text", tabIndex: -1,
      "aria-label": "Voice files", onchange: () => { this.#import([...this.input.files]); this.input.value = ""; } });
    const library = newId("library");
    this.element = el("div", { className: "columns voices-view" },
      el("section", { className: "card", "aria-labelledby": library },
        el("h2", { id: library }, "Your voices"), this.list, this.folder,
        el("div", { className: "row" },
          el("button", { type: "button", onclick: () => this.input.click() }, "Import voice files"), this.input)),
      this.#makers(server));
    onVoices((voices) => this.#show(voices));
  }

  hide() {}

  #makers(server) {
    const makers = [
      new FromClips({ kind: "embed", title: "From recordings",
        hint: "5 to 30 seconds of clean speech do; several clips are averaged." }),
      new Mix(), new Dice(), new Move(),
    ];
    if (server.can_tune) {
      makers.push(new FromClips({ kind: "tune", title: "Tune",
        hint: "A minute or more of one speaker. Takes minutes; nearer to the speaker, at the cost of some words." }));
    }
    const name = newId("maker");
    const panels = makers.map((maker, index) => el("div", { hidden: index > 0 }, maker.element));
    const choices = makers.map((maker, index) => el("label", {},
      el("input", { type: "radio", name, checked: index === 0,
        onchange: () => panels.forEach((panel, other) => { panel.hidden = other !== index; }) }),
      el("span", {}, maker.title)));
    const heading = newId("new-voice");
    return el("section", { className: "card", "aria-labelledby": heading },
      el("h2", { id: heading }, "A new voice"),
      el("fieldset", { className: "segments" }, el("legend", { className: "hidden-text" }, "How to make it"), choices),
      panels);
  }

  #show(voices) {
    this.list.replaceChildren(...voices.map((voice) => this.#item(voice)));
    if (!voices.length) this.list.append(el("li", { className: "muted" }, "None yet. Make one beside this list."));
    this.folder.textContent = voicesFolder() ? `Kept in ${voicesFolder()}` : "";
  }

  #item(voice) {
    if (voice.error) {
      return el("li", {}, el("span", { className: "name" }, voice.name), el("small", { className: "bad" }, voice.error),
        el("span", { className: "row" }, this.#deletion(voice)));
    }
    const facts = [voice.register ? `${voice.register} Hz` : null,
      voice.seconds ? `${Math.round(voice.seconds)} s of speech` : "no speech", voice.tuned ? "tuned" : null];
    return el("li", {},
      listenButton(voice.name, () => preview({ target: { voice: voice.name } })),
      el("span", { className: "name", title: voice.name }, voice.name),
      el("small", { className: "muted" }, facts.filter(Boolean).join(", ")),
      el("span", { className: "row" },
        button("Rename", voice, () => this.#rename(voice)),
        button("Export", voice, async () => {
          const response = await request("GET", `voices/file?name=${encodeURIComponent(voice.name)}`);
          save(await response.blob(), `${voice.name}.npz`);
        }),
        this.#deletion(voice)));
  }

  #deletion(voice) {
    return button("Delete", voice, async () => {
      if (!confirm(`Delete the voice “${voice.name}”? Its file is removed.`)) return;
      await ask("DELETE", `voices?name=${encodeURIComponent(voice.name)}`);
      await refreshVoices();
    });
  }

  async #rename(voice) {
    const name = prompt("New name", voice.name);
    if (!name || name === voice.name) return;
    await ask("POST", "voices/rename", { json: { name: voice.name, new: name } });
    await refreshVoices();
  }

  async #import(files) {
    for (const file of files) {
      try {
        const { voice } = await send(`voices/import?name=${encodeURIComponent(file.name)}`, file);
        toast(`Imported ${voice}.`);
      } catch (error) {
        toast(error.message, "error");
      }
    }
    await refreshVoices();
  }
}

/** A small button about a voice, whose errors are shown. */
function button(label, voice, work) {
  return el("button", { type: "button", className: "small", "aria-label": `${label} ${voice.name}`, async onclick() {
    try {
      await work();
    } catch (error) {
      toast(error.message, "error");
    }
  } }, label);
}
