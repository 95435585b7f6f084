// Plays blocks as they come, from the audio thread: a short buffer, underruns counted, no permanent backlog.

const REPORT = 0.1; // seconds
const EXCESS = 0.25; // seconds above the wanted fill, from which on old sound is dropped

class LivePlayer extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.wanted = Math.round(processorOptions.fill * sampleRate);
    this.blocks = [];
    this.offset = 0; // into the first block
    this.fill = 0; // samples that wait
    this.passed = 0; // samples played or dropped
    this.underruns = 0;
    this.playing = false;
    this.told = 0;
    this.port.onmessage = ({ data }) => {
      this.blocks.push(data);
      this.fill += data.length;
      if (this.fill > this.wanted + EXCESS * sampleRate) this.skip(this.fill - this.wanted);
    };
  }

  skip(samples) {
    for (let left = samples; left > 0 && this.blocks.length;) {
      const count = Math.min(left, this.blocks[0].length - this.offset);
      left -= count;
      this.use(count);
    }
  }

  use(count) {
    this.offset += count;
    this.fill -= count;
    this.passed += count;
    if (this.offset === this.blocks[0].length) {
      this.blocks.shift();
      this.offset = 0;
    }
  }

  process(_, [[out]]) {
    if (!this.playing && this.fill >= this.wanted) this.playing = true;
    if (this.playing) {
      let done = 0;
      while (done < out.length && this.blocks.length) {
        const count = Math.min(out.length - done, this.blocks[0].length - this.offset);
        out.set(this.blocks[0].subarray(this.offset, this.offset + count), done);
        done += count;
        this.use(count);
      }
      if (done < out.length) {
        this.underruns += 1;
        this.playing = false; // until the buffer is filled again
      }
    }
    if (currentTime - this.told > REPORT) {
      this.told = currentTime;
      this.port.postMessage({ passed: this.passed, underruns: this.underruns, fill: this.fill / sampleRate });
    }
    return true;
  }
}

registerProcessor("vconv-player", LivePlayer);
