// Passes the microphone's samples on in blocks, from the audio thread.

class Recorder extends AudioWorkletProcessor {
  process(inputs) {
    const channel = inputs[0]?.[0];
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
}

registerProcessor("vconv-recorder", Recorder);
