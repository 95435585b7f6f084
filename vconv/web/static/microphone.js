// The microphone as blocks of samples, and as a WAV file. MediaRecorder would give formats that libsndfile cannot read.

/** Microphones by name: [{id, label}]. Names are known once one has been allowed. */
export async function microphones() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter((device) => device.kind === "audioinput")
    .map((device, index) => ({ id: device.deviceId, label: device.label || `Microphone ${index + 1}` }));
}

/** Opens a microphone as it is, without the browser's processing; `onblock` gets Float32Array blocks. */
export async function openMicrophone(onblock, deviceId) {
  if (!navigator.mediaDevices?.getUserMedia) throw new Error("this browser gives no microphone to this page");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: {
      deviceId: deviceId ? { exact: deviceId } : undefined, channelCount: 1,
      echoCancellation: false, noiseSuppression: false, autoGainControl: false,
    } });
  } catch (error) {
    throw new Error(error.name === "NotAllowedError"
      ? "the microphone was not allowed; allow it in the browser's address bar"
      : "no microphone was found; connect one");
  }
  const context = new AudioContext({ latencyHint: "interactive" });
  await context.audioWorklet.addModule("recorder-worklet.js");
  const source = context.createMediaStreamSource(stream);
  const node = new AudioWorkletNode(context, "vconv-recorder", { numberOfOutputs: 0, channelCount: 1,
    channelCountMode: "explicit" });
  node.port.onmessage = (event) => onblock(event.data);
  source.connect(node);
  return {
    rate: context.sampleRate,
    context,
    close() {
      source.disconnect();
      stream.getTracks().forEach((track) => track.stop());
      return context.close();
    },
  };
}

/** Largest magnitude of a block. */
export const peakOf = (block) => block.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);

/** A 16-bit mono WAV file of blocks of samples. */
export function wavFile(blocks, rate) {
  const samples = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples));
  const text = (place, letters) => [...letters].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true);
  view.setUint16(34, 16, true); text(36, "data"); view.setUint32(40, 2 * samples, true);
  let place = 44;
  for (const block of blocks) {
    for (const sample of block) {
      view.setInt16(place, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true);
      place += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
