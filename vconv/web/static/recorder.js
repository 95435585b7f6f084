// A panel that records: countdown, level meter, time, stop.

import { announce, clock, el } from "./dom.js";
import { openMicrophone, peakOf, wavFile } from "./microphone.js";

const COUNTDOWN = 3; // seconds
const LONGEST = 600; // seconds
const FLOOR = -60; // dB, left end of the meter

/** Shows the panel in `place` until it is done: a WAV blob, or null where it was cancelled. */
export function record(place) {
  return new Promise((resolve, reject) => {
    const blocks = [];
    let samples = 0;
    let recording = false;
    let microphone = null;
    let timer = null;
    let closed = false;
    const meter = el("div", { className: "meter-fill" });
    const state = el("strong", {}, "Opening the microphone");
    const stop = el("button", { type: "button", className: "primary", disabled: true, onclick: () => end(true) }, "Stop");
    const panel = el("div", { className: "recorder", role: "group", "aria-label": "Recording" },
      state, el("div", { className: "meter", role: "presentation" }, meter), stop,
      el("button", { type: "button", onclick: () => end(false) }, "Cancel"));
    place.append(panel);
    stop.focus();

    function end(keep) {
      if (closed) return;
      closed = true;
      clearInterval(timer);
      microphone?.close();
      panel.remove();
      announce(keep ? "recorded" : "recording cancelled");
      resolve(keep && samples ? wavFile(blocks, microphone.rate) : null);
    }

    function onblock(block) {
      const level = Math.max(FLOOR, 20 * Math.log10(peakOf(block) + 1e-9));
      meter.style.transform = `scaleX(${1 - level / FLOOR})`;
      meter.classList.toggle("hot", level > -1);
      if (!recording) return;
      blocks.push(block);
      samples += block.length;
      state.textContent = `Recording ${clock(samples / microphone.rate, true)}`;
      if (samples > LONGEST * microphone.rate) end(true);
    }

    openMicrophone(onblock).then((opened) => {
      microphone = opened;
      if (closed) { microphone.close(); return; }
      let left = COUNTDOWN;
      const tick = () => {
        if (left > 0) {
          state.textContent = `Starts in ${left}`;
          announce(String(left));
        } else {
          clearInterval(timer);
          recording = true;
          stop.disabled = false;
          stop.focus();
          announce("recording");
        }
        left -= 1;
      };
      tick();
      timer = setInterval(tick, 1000);
    }).catch((error) => {
      panel.remove();
      reject(error);
    });
  });
}
