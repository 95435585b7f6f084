// Compares recordings: one position, equal loudness, a switch without a gap; spectrogram with F0, and waveform.

import { announce, clock, el, newId } from "./dom.js";
import { colour, drawF0, drawWave, keepDrawn, prepare, spectrogram } from "./drawing.js";
import { audioContext, stopOnce } from "./sound.js";

const SWITCH = 0.01; // seconds of a crossfade
const LOUDEST = 0.95; // of full scale

/**
 * Args: tracks [{label, buffer, loudness (dBFS), picture or null, peaks}], the first of which sets the length.
 */
export class Player {
  constructor(tracks) {
    this.tracks = tracks;
    this.current = 0;
    this.position = 0; // seconds
    this.running = null; // {nodes, started}
    this.length = tracks[0].buffer.duration;
    this.images = tracks.map((track) => track.picture && spectrogram(track.picture));
    const level = Math.min(...tracks.map((track) => LOUDEST / peak(track.buffer) * 10 ** (track.loudness / 20)), 0.2);
    this.gains = tracks.map((track) => Math.min(level / 10 ** (track.loudness / 20), LOUDEST / peak(track.buffer)));
    this.#build();
  }

  #build() {
    const name = newId("track");
    this.choices = this.tracks.map((track, index) => el("input", { type: "radio", name, checked: index === 0,
      onchange: () => this.choose(index) }));
    this.play = el("button", { type: "button", className: "primary round", onclick: () => this.toggle() });
    this.time = el("span", { className: "time" });
    this.canvas = el("canvas", { className: "picture" });
    this.strip = el("canvas", { className: "strip" });
    this.head = el("div", { className: "playhead" });
    this.seek = el("div", { className: "seek", role: "slider", tabIndex: 0, "aria-label": "Position",
      "aria-valuemin": "0", onpointerdown: (event) => this.#drag(event), onkeydown: (event) => this.#key(event) },
    this.canvas, this.strip, this.head);
    this.element = el("div", { className: "player" },
      this.seek,
      el("div", { className: "row" },
        this.play, this.time,
        el("fieldset", { className: "segments" }, el("legend", { className: "hidden-text" }, "Listen to"),
          this.tracks.map((track, index) => el("label", {}, this.choices[index],
            el("span", {}, el("kbd", {}, String(index + 1)), track.label)))),
        el("small", { className: "wide" }, "equally loud; spectrogram to 8 kHz, F0 from 60 to 500 Hz")));
    requestAnimationFrame(() => keepDrawn(this.canvas, () => this.draw()));
    this.#show();
  }

  /** Switch to a track at the same position. */
  choose(index) {
    if (!this.tracks[index]) return;
    this.current = index;
    this.choices[index].checked = true;
    const now = audioContext().currentTime;
    this.running?.gains.forEach((gain, track) => {
      gain.gain.setTargetAtTime(track === index ? this.gains[track] : 0, now, SWITCH);
    });
    this.draw();
    announce(this.tracks[index].label);
  }

  toggle() {
    if (this.running) this.pause();
    else this.start();
  }

  start() {
    stopOnce();
    const context = audioContext();
    if (this.position >= this.length - 0.02) this.position = 0;
    const begin = context.currentTime + 0.02;
    const gains = [];
    const nodes = this.tracks.map((track, index) => {
      // A recording of another length, such as the target, goes round.
      const node = new AudioBufferSourceNode(context, { buffer: track.buffer, loop: index > 0 });
      const gain = new GainNode(context, { gain: index === this.current ? this.gains[index] : 0 });
      node.connect(gain).connect(context.destination);
      node.start(begin, this.position % track.buffer.duration);
      gains.push(gain);
      return node;
    });
    this.running = { nodes, gains, started: begin - this.position };
    nodes[0].onended = () => { if (this.running?.nodes === nodes) { this.pause(); this.position = 0; this.#show(); } };
    this.#tick();
  }

  pause() {
    if (!this.running) return;
    this.position = this.#now();
    this.running.nodes.forEach((node) => node.stop());
    this.running = null;
    this.#show();
  }

  /** Go to a position in seconds. */
  go(seconds) {
    const running = this.running !== null;
    this.pause();
    this.position = Math.max(0, Math.min(seconds, this.length));
    if (running) this.start();
    this.#show();
  }

  draw() {
    const { context, width, height } = prepare(this.canvas);
    const track = this.tracks[this.current];
    const image = this.images[this.current];
    if (!width) return;
    if (image) {
      // The target has its own length: its picture is that of its own time.
      context.imageSmoothingEnabled = true;
      context.drawImage(image, 0, 0, width, height);
      drawF0(context, track.picture.f0, width, height, colour("--f0"));
    } else {
      context.fillStyle = colour("--muted");
      context.font = "14px system-ui";
      context.fillText("A saved voice has no recording to draw.", 12, 24);
    }
    drawWave(this.strip, track.peaks);
    this.#show();
  }

  #now() {
    return this.running
      ? Math.max(0, Math.min(audioContext().currentTime - this.running.started, this.length)) : this.position;
  }

  #tick() {
    this.#show();
    if (this.running) requestAnimationFrame(() => this.#tick());
  }

  #show() {
    const now = this.#now();
    const length = this.tracks[this.current].buffer.duration;
    const share = this.current === 0 ? now / this.length : (now % length) / length;
    this.head.style.left = `${100 * Math.min(share, 1)}%`;
    this.time.textContent = `${clock(now, true)} / ${clock(this.length, true)}`;
    this.play.textContent = this.running ? "❚❚" : "▶";
    this.play.setAttribute("aria-label", this.running ? "Pause" : "Play");
    this.seek.setAttribute("aria-valuemax", this.length.toFixed(1));
    this.seek.setAttribute("aria-valuenow", now.toFixed(1));
    this.seek.setAttribute("aria-valuetext", `${now.toFixed(1)} seconds of ${this.length.toFixed(1)}`);
  }

  #drag(event) {
    const move = ({ clientX }) => {
      const { left, width } = this.seek.getBoundingClientRect();
      this.go(Math.max(0, Math.min(1, (clientX - left) / width)) * this.tracks[this.current].buffer.duration);
    };
    this.seek.setPointerCapture(event.pointerId);
    move(event);
    this.seek.onpointermove = move;
    this.seek.onpointerup = () => { this.seek.onpointermove = null; };
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      event.preventDefault();
      event.stopPropagation();
      this.go(this.#now() + steps[event.key]);
    }
  }

  /** A key of the page; true where it was one of the player's. */
  shortcut(key) {
    if (key === " ") this.toggle();
    else if (key === "ArrowLeft" || key === "ArrowRight") this.go(this.#now() + (key === "ArrowLeft" ? -1 : 1));
    else if (key >= "1" && key <= String(this.tracks.length)) this.choose(Number(key) - 1);
    else return false;
    return true;
  }
}

function peak(buffer) {
  const samples = buffer.getChannelData(0);
  let most = 1e-4;
  for (const sample of samples) most = Math.max(most, Math.abs(sample));
  return most;
}
