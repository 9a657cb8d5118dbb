// Philox4x64-10 (Salmon et al., 2011) as numpy numbers its counters, without BigInt: a 64-bit word is two 32-bit halves.

const MULTIPLIERS = [0xd2e7470e, 0xe14c6c93, 0xca5a8263, 0x95121157]; // high and low halves of the two constants
const WEYL = [0x9e3779b9, 0x7f4a7c15, 0xbb67ae85, 0x84caa73b]; // what the key grows by each round
const ROUNDS = 10;
const BLOCK = 8; // numbers of 32 bits of one counter
const UNIT = Math.fround(2 ** -31 - 2 ** -55); // the largest float32 below 2^-31, so that u never rounds to 1

/** The upper 32 bits of a product of two unsigned 32-bit numbers. */
function multiplyHigh(a, b) {
  const aLow = a & 0xffff, aHigh = a >>> 16, bLow = b & 0xffff, bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16); // below 2^32
  const other = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + (middle >>> 16) + (other >>> 16)) >>> 0;
}

const product = new Uint32Array(4); // the last product of 64 x 64 bits, low word first

function multiply(aHigh, aLow, bHigh, bLow) {
  const cross = Math.imul(aHigh, bLow) >>> 0, cross2 = Math.imul(aLow, bHigh) >>> 0;
  const word1 = multiplyHigh(aLow, bLow) + cross + cross2;
  const word2 = multiplyHigh(aHigh, bLow) + multiplyHigh(aLow, bHigh) + (Math.imul(aHigh, bHigh) >>> 0)
    + Math.floor(word1 / 2 ** 32);
  product[0] = Math.imul(aLow, bLow);
  product[1] = word1;
  product[2] = word2;
  product[3] = multiplyHigh(aHigh, bHigh) + Math.floor(word2 / 2 ** 32);
}

/**
 * Eight numbers of 32 bits for each counter (first, step, 0, 0), (first + 1, step, 0, 0), ...
 * The key is (seed, stream). A word's low half comes first.
 */
export function randomWords(seed, step, count, { stream = 0, first = 1 } = {}) {
  const words = new Uint32Array(count * BLOCK);
  const seedLow = seed >>> 0, seedHigh = Math.floor(seed / 2 ** 32) >>> 0;
  const c = new Uint32Array(8), key = new Uint32Array(4); // halves, low first
  for (let block = 0; block < count; block++) {
    c.fill(0);
    c[0] = first + block;
    c[2] = step;
    key[0] = seedLow; key[1] = seedHigh; key[2] = stream; key[3] = 0;
    for (let round = 0; round < ROUNDS; round++) {
      multiply(MULTIPLIERS[0], MULTIPLIERS[1], c[1], c[0]);
      const [low0, low1, high0, high1] = product;
      multiply(MULTIPLIERS[2], MULTIPLIERS[3], c[5], c[4]);
      const a0 = product[2] ^ c[2] ^ key[0], a1 = product[3] ^ c[3] ^ key[1];
      const b0 = high0 ^ c[6] ^ key[2], b1 = high1 ^ c[7] ^ key[3];
      c[2] = product[0]; c[3] = product[1];
      c[0] = a0; c[1] = a1;
      c[4] = b0; c[5] = b1;
      c[6] = low0; c[7] = low1;
      for (let word = 0; word < 2; word++) {
        const sum = key[2 * word] + WEYL[2 * word + 1];
        key[2 * word] = sum;
        key[2 * word + 1] += WEYL[2 * word] + (sum >= 2 ** 32 ? 1 : 0);
      }
    }
    words.set(c, block * BLOCK);
  }
  return words;
}

/** Gumbel noise of an image at a part: (length, size), the numbers that numpy and `nextscale generate` draw. */
export function gumbelNoise(seed, part, length, size, { stream = 0 } = {}) {
  const blocks = Math.ceil(size / BLOCK);
  const words = randomWords(seed, part, length * blocks, { stream });
  const noise = new Float32Array(length * size);
  for (let place = 0; place < length; place++) {
    for (let code = 0; code < size; code++) {
      const bits = words[place * blocks * BLOCK + code] >>> 1;
      const uniform = Math.fround(Math.fround(Math.fround(bits) + 0.5) * UNIT);
      noise[place * size + code] = -Math.log(Math.fround(-Math.log1p(-uniform)));
    }
  }
  return noise;
}
