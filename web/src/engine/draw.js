// From logits to tokens: guidance, temperature, top-k, top-p, noise. Arrays are (l, V), V codebook entries.

/** (1 + t) conditional - t unconditional. */
export function guide(conditional, unconditional, strength) {
  if (!unconditional || strength === 0) return conditional.slice();
  return conditional.map((value, at) => Math.fround((1 + strength) * value) - Math.fround(strength * unconditional[at]));
}

/** One position's logits (V) with what top-k and then top-p drop at minus infinity; 0 is off. */
export function keepLikely(logits, topK, topP) {
  const ordered = logits.slice().sort().reverse(); // typed arrays sort as numbers
  const count = topK ? Math.min(topK, ordered.length) : ordered.length;
  let last = ordered[count - 1];
  if (topP) {
    const shares = new Float32Array(count);
    let total = 0;
    for (let at = 0; at < count; at++) total += shares[at] = Math.exp(Math.fround(ordered[at] - ordered[0]));
    total = Math.fround(total);
    let gathered = 0, kept = 0;
    while (kept < count - 1) {
      gathered = Math.fround(gathered + Math.fround(shares[kept] / total));
      if (gathered >= topP) break;
      kept++;
    }
    last = ordered[kept];
  }
  return logits.map((value) => (value < last ? -Infinity : value));
}

/** Logits (l, V) divided by the temperature and cut, position by position. */
export function filter(logits, size, { temperature = 1, top_k: topK = 0, top_p: topP = 0 }) {
  const scaled = temperature === 1 ? logits : logits.map((value) => value / temperature);
  const result = new Float32Array(logits.length);
  for (let at = 0; at < logits.length; at += size) {
    result.set(keepLikely(scaled.subarray(at, at + size), topK, topP), at);
  }
  return result;
}

/** The argmax of logits plus noise (none: the likeliest) at each position. */
export function choose(logits, size, noise) {
  const tokens = [];
  for (let at = 0; at < logits.length; at += size) {
    let best = 0, highest = -Infinity;
    for (let code = 0; code < size; code++) {
      const score = Math.fround(logits[at + code] + (noise ? noise[at + code] : 0));
      if (score > highest) [best, highest] = [code, score];
    }
    tokens.push(best);
  }
  return tokens;
}

/** Probabilities of one position's logits (V). */
export function softmax(logits) {
  let most = -Infinity, total = 0;
  for (const value of logits) if (value > most) most = value;
  const shares = Float64Array.from(logits, (value) => Math.exp(value - most));
  for (const share of shares) total += share;
  return shares.map((share) => share / total);
}
