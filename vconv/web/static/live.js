// Live conversion: microphone, server, headphones, with honest figures.

import { token } from "./api.js";
import { Clips } from "./clips.js";
import { announce, el, field, newId, toast } from "./dom.js";
import { microphones, openMicrophone, peakOf } from "./microphone.js";
import { Settings } from "./settings.js";
import { Target } from "./target.js";

const SEND = 0.016; // seconds of sound in a message
const FLOOR = -60; // dB, left end of the meter
const JITTER = 0.06; // seconds of sound kept beside one block

export class LiveView {
  title = "Live";

  constructor(server) {
    this.session = null;
    this.target = new Target({ title: "Target", hint: "The voice to sound like: 5 to 30 seconds of clean speech.",
      onchange: () => this.#retarget() });
    this.me = new Clips({ title: "Your own voice (advised)", onchange: () => this.#update(),
      hint: "Ten seconds of you: register and loudness are then right from the first word." });
    this.settings = new Settings(server.models);
    this.settings.element.addEventListener("change", () => this.#send(this.#melody()));
    this.device = el("select", {}, el("option", { value: "" }, "Default microphone"));
    this.start = el("button", { type: "button", className: "primary big", onclick: () => this.toggle() }, "Start");
    this.bypass = this.#switch("Bypass", "b", "hear yourself unconverted", (on) => this.#send({ bypass: on }));
    this.mute = this.#switch("Mute", "m", "send silence", () => {});
    this.meter = el("div", { className: "meter-fill" });
    this.figures = {};
    const readout = el("dl", { className: "facts readout", "aria-live": "off" });
    for (const [key, label] of [["latency", "Latency, mouth to ear"], ["parts", "of it buffer, device"],
      ["compute", "Computing a block, p50 and p99"], ["underruns", "Underruns"], ["dropped", "Dropped"]]) {
      this.figures[key] = el("dd", {}, "–");
      readout.append(el("div", {}, el("dt", {}, label), this.figures[key]));
    }
    const heading = newId("live");
    this.element = el("div", {},
      el("div", { className: "columns" }, this.me.element, this.target.element),
      el("section", { className: "card", "aria-labelledby": heading },
        el("h2", { id: heading }, "Live"),
        el("p", { className: "hint" },
          "Wear headphones: with loudspeakers the microphone picks the result up again. Conversions of files wait."),
        this.settings.element,
        el("div", { className: "row" }, field("Microphone", this.device), this.start,
          this.bypass.element, this.mute.element),
        el("div", { className: "meter live-meter", role: "presentation" }, this.meter),
        readout));
    this.#update();
    this.#listDevices();
  }

  hide() {
    this.stop();
  }

  shortcut(key) {
    if (key === "b" || key === "m") (key === "b" ? this.bypass : this.mute).toggle();
    else return false;
    return true;
  }

  toggle() {
    if (this.session) this.stop();
    else this.begin();
  }

  async begin() {
    const session = { sent: 0, dropped: 0, pending: [], waiting: 0, closed: false };
    this.session = session;
    this.#update();
    try {
      session.microphone = await openMicrophone((block) => this.#onblock(session, block), this.device.value);
      if (session.closed) { session.microphone.close(); return; }
      this.#listDevices();
      await session.microphone.context.audioWorklet.addModule("player-worklet.js");
      this.#connect(session);
    } catch (error) {
      toast(error.message, "error");
      this.stop();
    }
  }

  stop() {
    const { session } = this;
    if (!session) return;
    session.closed = true;
    session.socket?.close();
    session.microphone?.close();
    this.session = null;
    this.meter.style.transform = "scaleX(0)";
    announce("Live conversion has stopped.");
    this.#update();
  }

  #connect(session) {
    const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`;
    const socket = new WebSocket(address, ["vconv", token]);
    session.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      const target = this.target.value;
      session.target = JSON.stringify(target);
      socket.send(JSON.stringify({ target, rate: session.microphone.rate,
        enrolment: this.me.ids[0] ?? "", ...this.settings.value }));
    };
    socket.onclose = () => { if (this.session === session) { toast("Live conversion has ended."); this.stop(); } };
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) {
        const block = new Float32Array(data);
        session.player?.port.postMessage(block, [block.buffer]);
        return;
      }
      const message = JSON.parse(data);
      if (message.error) { toast(message.error, "error"); this.stop(); }
      if (message.refused) toast(`The voice stays as it was: ${message.refused}`, "error");
      if (message.ready) this.#play(session, message);
      if (message.p50 !== undefined) this.#told(session, message);
    };
  }

  #play(session, { block, latency }) {
    const { context } = session.microphone;
    session.engine = latency;
    session.player = new AudioWorkletNode(context, "vconv-player", { numberOfInputs: 0, outputChannelCount: [1],
      processorOptions: { fill: block + JITTER } });
    session.player.port.onmessage = ({ data }) => this.#played(session, data);
    session.player.connect(context.destination);
    this.element.dataset.state = "live";
    announce("Live conversion runs.");
    // Changed while the model was loaded, for which the server waits with everything else.
    this.#send({ ...this.#melody(), bypass: this.bypass.on });
    if (JSON.stringify(this.target.value) !== session.target) this.#retarget();
  }

  #melody() {
    const { pitch, keep_pitch } = this.settings.value;
    return { pitch, keep_pitch };
  }

  #onblock(session, block) {
    const level = Math.max(FLOOR, 20 * Math.log10(peakOf(block) + 1e-9));
    this.meter.style.transform = `scaleX(${1 - level / FLOOR})`;
    this.meter.classList.toggle("hot", level > -1);
    if (!session.player) return;
    session.pending.push(this.mute.on ? new Float32Array(block.length) : block);
    session.waiting += block.length;
    if (session.waiting < SEND * session.microphone.rate) return;
    const message = new Float32Array(session.waiting);
    let place = 0;
    for (const part of session.pending) { message.set(part, place); place += part.length; }
    session.sent += session.waiting;
    session.pending = [];
    session.waiting = 0;
    if (session.socket.readyState === WebSocket.OPEN) session.socket.send(message);
  }

  /** Sample for sample the result is the microphone's sound, so what was sent and not yet played is the delay. */
  #played(session, { passed, underruns, fill }) {
    const { context, rate } = session.microphone;
    const device = context.baseLatency + (context.outputLatency || 0);
    const delay = (session.sent - session.dropped - passed) / rate + device;
    const ms = (seconds) => `${Math.round(1000 * seconds)} ms`;
    if (passed) this.figures.latency.textContent = ms(delay);
    this.figures.parts.textContent = `${ms(fill)}, ${ms(device)}`;
    this.figures.underruns.textContent = String(underruns);
  }

  #told(session, { p50, p99, dropped }) {
    this.figures.dropped.classList.toggle("bad", dropped > session.dropped);
    if (dropped > session.dropped && !session.warned) {
      toast("This computer cannot keep up, and sound is dropped. Close other programs.", "error");
      session.warned = true;
    }
    session.dropped = dropped;
    this.figures.compute.textContent = `${Math.round(p50)} ms, ${Math.round(p99)} ms`;
    this.figures.dropped.textContent = `${Math.round(1000 * dropped / session.microphone.rate)} ms`;
  }

  /** Another target was chosen; it may be while converting. */
  #retarget() {
    this.#update();
    if (this.session && this.target.value) this.#send({ target: this.target.value });
  }

  #send(settings) {
    const { session } = this;
    if (session?.player && session.socket.readyState === WebSocket.OPEN) {
      session.socket.send(JSON.stringify(settings));
    }
  }

  #switch(label, key, title, onchange) {
    const state = { on: false };
    state.toggle = () => {
      state.on = !state.on;
      state.element.setAttribute("aria-pressed", String(state.on));
      onchange(state.on);
    };
    state.element = el("button", { type: "button", title, "aria-pressed": "false", onclick: state.toggle },
      el("kbd", {}, key), label);
    return state;
  }

  async #listDevices() {
    const chosen = this.device.value;
    const found = await microphones().catch(() => []);
    this.device.replaceChildren(el("option", { value: "" }, "Default microphone"),
      ...found.filter(({ id }) => id && id !== "default").map(({ id, label }) => el("option", { value: id }, label)));
    this.device.value = chosen;
  }

  #update() {
    if (!this.start) return;
    this.start.textContent = this.session ? "Stop" : "Start";
    this.start.disabled = !this.session && !this.target.value;
    this.device.disabled = Boolean(this.session);
    if (!this.session) delete this.element?.dataset.state;
  }
}
