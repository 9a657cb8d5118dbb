// Sizes, counts and laws; nothing here needs a model.

/** Sides of scales that grow by about a third up to `final` (docs: `small_scales`). */
export function growingSides(final) {
  const sides = [final];
  while (sides[0] > 1) sides.unshift(Math.max(1, Math.min(sides[0] - 1, roundEven(sides[0] / 1.36))));
  return sides;
}

/** Whole numbers between two are rounded to the even one, as in Python. */
function roundEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 ? low + 1 : low;
}

/** Tokens, pairs of query and key with a cache and without, of parts of these lengths. */
export function countWork(parts) {
  let tokens = 0, pairs = 0, recomputed = 0;
  for (const length of parts) {
    tokens += length;
    pairs += length * tokens;
    recomputed += tokens * tokens;
  }
  return { tokens, pairs, recomputed, share: pairs / tokens ** 2 };
}

/** Parameters of the blocks at a depth, and the width. */
export const parametersOf = (depth) => 73728 * depth ** 3;

/** y = a x^b by least squares in logarithms. */
export function fitPowerLaw(points) {
  const xs = points.map(([x]) => Math.log(x)), ys = points.map(([, y]) => Math.log(y));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const mx = mean(xs), my = mean(ys);
  const slope = xs.reduce((sum, x, at) => sum + (x - mx) * (ys[at] - my), 0) / xs.reduce((sum, x) => sum + (x - mx) ** 2, 0);
  return { exponent: slope, at: (x) => Math.exp(my + slope * (Math.log(x) - mx)) };
}

export const areas = (sides) => sides.map((side) => side * side);

/** 12,345 or 0.0123, three digits or as many as are asked for. */
export function readable(value, digits = 3) {
  if (value === 0) return "0";
  if (Math.abs(value) >= 10 ** digits) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

/** 1.23 million and the like. */
export function large(value) {
  for (const [size, word] of [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"]]) {
    if (value >= size) return `${readable(value / size)} ${word}`;
  }
  return readable(value);
}
