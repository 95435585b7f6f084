// Waveforms, spectrograms and F0 on canvases, sharp on any screen and in the colours of the theme.

const F0_LOW = 60; // Hz, bottom of the F0 curve
const F0_HIGH = 500;
// Colours of the spectrogram from quiet to loud (after matplotlib's magma), red, green, blue.
const STOPS = [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];

/** The canvas's context, in CSS pixels, with its size. */
export function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return { context, width, height };
}

const THEME = "themechange"; // event on the window

/** Tell all drawings that the colours have changed. */
export const themeChanged = () => dispatchEvent(new Event(THEME));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themeChanged);

/** Draw on a canvas now, and again whenever its size or the colours change, as long as it is on the page. */
export function keepDrawn(canvas, draw) {
  const again = () => {
    if (canvas.isConnected) draw();
    else { observer.disconnect(); removeEventListener(THEME, again); }
  };
  const observer = new ResizeObserver(again);
  observer.observe(canvas);
  addEventListener(THEME, again);
}

/** A colour of the style sheet. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A waveform of peaks [n] from 0 to 1. */
export function drawWave(canvas, peaks, paint = colour("--accent")) {
  const { context, width, height } = prepare(canvas);
  if (!width || !peaks.length) return;
  const top = Math.max(...peaks, 1e-3);
  context.fillStyle = paint;
  const bars = Math.min(Math.floor(width / 2), peaks.length);
  for (let bar = 0; bar < bars; bar += 1) {
    const stretch = peaks.slice(Math.floor(bar * peaks.length / bars), Math.ceil((bar + 1) * peaks.length / bars));
    const size = Math.max(1, Math.max(...stretch) / top * (height - 2));
    context.fillRect(bar * width / bars, (height - size) / 2, Math.max(1, width / bars - 1), size);
  }
}

/** An offscreen canvas of a picture's spectrogram, a pixel for each band and column. */
export function spectrogram(picture) {
  const { columns, bands } = picture;
  const shades = Uint8Array.from(atob(picture.mel), (letter) => letter.charCodeAt(0));
  const image = new ImageData(columns, bands);
  for (let column = 0; column < columns; column += 1) {
    for (let band = 0; band < bands; band += 1) {
      const place = 4 * ((bands - 1 - band) * columns + column);
      image.data.set(shade(shades[column * bands + band] / 255), place);
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = bands;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function shade(value) {
  const place = value * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  const share = place - low;
  return [0, 1, 2].map((i) => STOPS[low][i] * (1 - share) + STOPS[low + 1][i] * share).concat(255);
}

/** The F0 curve of a picture over its spectrogram, on a logarithmic scale, with gaps where it is unvoiced. */
export function drawF0(context, f0, width, height, paint) {
  context.save();
  context.lineWidth = 2;
  context.lineJoin = "round";
  context.strokeStyle = paint;
  context.shadowColor = "#000";
  context.shadowBlur = 3;
  context.beginPath();
  let down = false;
  f0.forEach((hertz, column) => {
    if (hertz > 0) {
      const x = (column + 0.5) * width / f0.length;
      const y = height * (1 - Math.log(hertz / F0_LOW) / Math.log(F0_HIGH / F0_LOW));
      if (down) context.lineTo(x, y);
      else context.moveTo(x, y);
    }
    down = hertz > 0;
  });
  context.stroke();
  context.restore();
}
