// Pixels, bytes and the colours that codes are shown in.

/** Pixels (3, H, W) in [-1, 1] -> RGBA bytes. */
export function toRgba(pixels) {
  const area = pixels.length / 3, rgba = new Uint8ClampedArray(4 * area);
  for (let at = 0; at < area; at++) {
    for (let c = 0; c < 3; c++) rgba[4 * at + c] = Math.round((pixels[c * area + at] + 1) * 127.5);
    rgba[4 * at + 3] = 255;
  }
  return rgba;
}

/** RGBA bytes -> pixels (3, H, W) in [-1, 1]. */
export function toPixels(rgba) {
  const area = rgba.length / 4, pixels = new Float32Array(3 * area);
  for (let at = 0; at < area; at++) {
    for (let c = 0; c < 3; c++) pixels[c * area + at] = rgba[4 * at + c] / 127.5 - 1;
  }
  return pixels;
}

/** A colour (r, g, b bytes) for each code, alike where codes are: three principal components as OKLab. */
export function codebookColours({ codebook, size, channels: C }) {
  const mean = new Float64Array(C);
  for (let at = 0; at < codebook.length; at++) mean[at % C] += codebook[at] / size;
  const rest = Float64Array.from(codebook, (value, at) => value - mean[at % C]);
  const scores = [0, 1, 2].map((number) => component(rest, size, C, number));
  const ranks = scores.map((values) => {
    const order = Array.from(values.keys()).sort((a, b) => values[a] - values[b]), rank = new Float64Array(size);
    order.forEach((code, place) => (rank[code] = place / (size - 1)));
    return rank;
  });
  const colours = new Uint8ClampedArray(3 * size);
  for (let code = 0; code < size; code++) {
    const [l, a, b] = ranks.map((rank) => rank[code]);
    colours.set(fromOklab(0.42 + 0.44 * l, 0.26 * (a - 0.5), 0.28 * (b - 0.5)), 3 * code);
  }
  return colours;
}

/** Scores along the next principal component, which is then taken out of the rows (power iteration). */
function component(rows, size, C, number) {
  let axis = Float64Array.from({ length: C }, (_, c) => Math.sin(1 + c + number));
  for (let round = 0; round < 60; round++) {
    const next = new Float64Array(C);
    for (let row = 0; row < size; row++) {
      let score = 0;
      for (let c = 0; c < C; c++) score += rows[row * C + c] * axis[c];
      for (let c = 0; c < C; c++) next[c] += score * rows[row * C + c];
    }
    const norm = Math.hypot(...next);
    axis = next.map((value) => value / norm);
  }
  const scores = new Float64Array(size);
  for (let row = 0; row < size; row++) {
    for (let c = 0; c < C; c++) scores[row] += rows[row * C + c] * axis[c];
    for (let c = 0; c < C; c++) rows[row * C + c] -= scores[row] * axis[c];
  }
  return scores;
}

function fromOklab(L, a, b) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((value) => 255 * (value <= 0.0031308 ? 12.92 * Math.max(value, 0) : 1.055 * value ** (1 / 2.4) - 0.055));
}
