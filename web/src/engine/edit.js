// Editing without training: kept pixels are evidence while the sampler draws (docs/editing.md).
// Pixels are (3, H, W) in [-1, 1], a hole (H W) is 1 where the image is drawn anew.

import { difference } from "./tables.js";

/** Known pixels averaged to half the size, level by level, and unknown ones filled from the coarser level. */
export function fillHole(pixels, hole, size) {
  const channels = pixels.length / (size * size);
  const weight = Float32Array.from(hole, (value) => 1 - value);
  if (!weight.some(Boolean)) return pixels.slice();
  const sums = pixels.map((value, at) => value * weight[at % (size * size)]);
  const filled = pull(sums, weight, size, channels);
  return pixels.map((value, at) => (hole[at % (size * size)] ? filled[at] : value));
}

function pull(sums, weight, size, channels) {
  const area = size * size, here = sums.map((value, at) => value / Math.max(weight[at % area], 1e-6));
  if (size === 1 || weight.every((value) => value > 0)) return here;
  const half = size / 2, smallArea = half * half;
  const shrink = (values, count) => {
    const result = new Float32Array(count * smallArea);
    for (let c = 0; c < count; c++) {
      for (let y = 0; y < half; y++) {
        for (let x = 0; x < half; x++) {
          const at = c * area + 2 * y * size + 2 * x;
          result[c * smallArea + y * half + x] = (values[at] + values[at + 1] + values[at + size] + values[at + size + 1]) / 4;
        }
      }
    }
    return result;
  };
  const below = pull(shrink(sums, channels), shrink(weight, 1), half, channels);
  const current = here.slice();
  for (let at = 0; at < current.length; at++) {
    const place = at % area;
    if (weight[place] > 0) continue;
    current[at] = between(below.subarray(Math.floor(at / area) * smallArea), half, Math.floor(place / size), place % size);
  }
  return current;
}

/** A value of a map enlarged twofold, between its four neighbours. */
function between(map, size, y, x) {
  const clamp = (value) => Math.min(Math.max(value, 0), size - 1);
  const row = (y + 0.5) / 2 - 0.5, column = (x + 0.5) / 2 - 0.5;
  const top = Math.floor(row), left = Math.floor(column);
  const at = (r, c) => map[clamp(r) * size + clamp(c)];
  const mix = (a, b, share) => a + (b - a) * share;
  return mix(
    mix(at(top, left), at(top, left + 1), column - left),
    mix(at(top + 1, left), at(top + 1, left + 1), column - left),
    row - top,
  );
}

/** Shares of each latent's pixels that are kept, (h w). */
export function keptShares(hole, size, side) {
  const patch = size / side, shares = new Float32Array(side * side);
  for (let at = 0; at < hole.length; at++) {
    const y = Math.floor(Math.floor(at / size) / patch), x = Math.floor((at % size) / patch);
    shares[y * side + x] += (1 - hole[at]) / (patch * patch);
  }
  return shares;
}

/**
 * A hook of the sampler: logits of a position are lowered by how badly a code explains what is known there.
 * `features` are those of the image with its hole filled from around; `strength` multiplies the evidence.
 */
export function evidence(quantizer, features, steps, kept, strength = 2) {
  const { channels: C, size: V } = quantizer;
  const known = (accumulated, scale) => {
    const rest = difference(features, accumulated).map((value, at) => value * kept[Math.floor(at / C)]);
    const shares = reduceShares(quantizer, kept, scale);
    const rows = quantizer.reduce(rest, scale).map((value, at) => value / Math.max(shares[Math.floor(at / C)], 1e-3));
    return { rows, shares };
  };
  const variances = steps.map(({ accumulated }, scale) => {
    const { rows, shares } = known(accumulated, scale);
    let squares = 0, total = 0;
    shares.forEach((share, place) => {
      let mean = 0;
      for (let c = 0; c < C; c++) mean += rows[place * C + c] ** 2 / C;
      squares += mean * share;
      total += share;
    });
    return Math.max(squares / Math.max(total, 1e-6), 1e-8);
  });
  return {
    logits(scale, logits, accumulated) {
      const { rows, shares } = known(accumulated, scale);
      const distances = quantizer.distances(rows);
      return logits.map((value, at) => value - ((strength * shares[Math.floor(at / V)]) / (2 * variances[scale])) * distances[at]);
    },
  };
}

function reduceShares(quantizer, kept, scale) {
  const { data, shape: [rows, inner] } = quantizer.tables[`reduce.${scale}`];
  return Float32Array.from({ length: rows }, (_, row) => {
    let total = 0;
    for (let k = 0; k < inner; k++) total += data[row * inner + k] * kept[k];
    return total;
  });
}

/** Drawn pixels inside the hole, the image's own, to the bit, outside. */
export function paste(image, drawn, hole) {
  return image.map((value, at) => (hole[at % hole.length] ? drawn[at] : value));
}
