// The quantiser as tables: safetensors in, and the recursion over scales as products of small matrices.
// Shapes: l tokens of a scale, C latent channels, V codebook entries, (h, w) the final grid. Maps are rows, (h w, C).

/** Tensors by name of a safetensors file: { data: Float32Array, shape }. */
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, { data_offsets: [begin, end], shape, dtype }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (dtype !== "F32") throw new Error(`${name} is ${dtype}, not float32`);
    tensors[name] = { data: new Float32Array(buffer.slice(8 + length + begin, 8 + length + end)), shape };
  }
  return tensors;
}

/** A table (m, n) times rows (n, C) -> (m, C). */
export function multiply({ data, shape: [rows, inner] }, values, channels) {
  const result = new Float32Array(rows * channels);
  for (let row = 0; row < rows; row++) {
    const sums = new Float64Array(channels);
    for (let k = 0; k < inner; k++) {
      const weight = data[row * inner + k];
      if (weight === 0) continue;
      for (let c = 0; c < channels; c++) sums[c] += weight * values[k * channels + c];
    }
    result.set(sums, row * channels);
  }
  return result;
}

/** The recursion over scales of one tokenizer, with the names of sampling.json and quantizer.safetensors. */
export class Quantizer {
  constructor(about, tables) {
    this.about = about;
    this.tables = tables;
    this.channels = about.latent_channels;
    this.size = about.codebook_size;
    [this.height, this.width] = about.scales.at(-1);
    this.codebook = tables.codebook.data;
    this.squares = new Float64Array(this.size);
    for (let code = 0; code < this.size; code++) {
      for (const value of this.code(code)) this.squares[code] += value * value;
    }
  }

  /** A map of zeros, (h w, C). */
  zeros() {
    return new Float32Array(this.height * this.width * this.channels);
  }

  code(token) {
    return this.codebook.subarray(token * this.channels, (token + 1) * this.channels);
  }

  /** Codebook rows of tokens, (l, C). */
  lookup(tokens) {
    const rows = new Float32Array(tokens.length * this.channels);
    tokens.forEach((token, place) => rows.set(this.code(token), place * this.channels));
    return rows;
  }

  /** What a scale of codes (l, C) contributes to the map, (h w, C): enlarged, then phi's 3 x 3 convolution. */
  contribution(codes, scale) {
    const { height, width, channels: C } = this;
    const number = this.about.phi[scale];
    const kernel = this.tables[`phi.${number}`].data, bias = this.tables[`phi_bias.${number}`].data;
    const enlarged = multiply(this.tables[`enlarge.${scale}`], codes, C);
    const result = new Float32Array(height * width * C);
    const sums = new Float64Array(C);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        sums.set(bias);
        for (let tap = 0; tap < 9; tap++) {
          const row = y + Math.floor(tap / 3) - 1, column = x + (tap % 3) - 1;
          if (row < 0 || row >= height || column < 0 || column >= width) continue;
          for (let c = 0; c < C; c++) {
            const value = enlarged[(row * width + column) * C + c];
            const weights = (tap * C + c) * C;
            for (let o = 0; o < C; o++) sums[o] += value * kernel[weights + o];
          }
        }
        result.set(sums, (y * width + x) * C);
      }
    }
    return result;
  }

  /** The accumulated map with a scale's tokens. */
  add(accumulated, tokens, scale) {
    return sum(accumulated, this.contribution(this.lookup(tokens), scale));
  }

  /** A map averaged to a scale's size, (l, C). */
  reduce(map, scale) {
    return multiply(this.tables[`reduce.${scale}`], map, this.channels);
  }

  /** |e|^2 - 2 r e of rows r (l, C) and all codes e, (l, V): squared distances but for |r|^2. */
  distances(rows) {
    const { channels: C, size: V } = this;
    const result = new Float32Array((rows.length / C) * V);
    for (let place = 0; place < rows.length / C; place++) {
      for (let code = 0; code < V; code++) {
        let product = 0;
        for (let c = 0; c < C; c++) product += rows[place * C + c] * this.codebook[code * C + c];
        result[place * V + code] = this.squares[code] - 2 * product;
      }
    }
    return result;
  }

  /** Nearest codes of rows (l, C). */
  nearest(rows) {
    const distances = this.distances(rows), tokens = [];
    for (let place = 0; place < rows.length / this.channels; place++) {
      let best = place * this.size;
      for (let at = best + 1; at < (place + 1) * this.size; at++) if (distances[at] < distances[best]) best = at;
      tokens.push(best - place * this.size);
    }
    return tokens;
  }

  /** Features (h w, C) -> what each scale does: its tokens and the map accumulated through it (algorithm 1). */
  encode(features) {
    const steps = [];
    let accumulated = this.zeros();
    for (let scale = 0; scale < this.about.scales.length; scale++) {
      const tokens = this.nearest(this.reduce(difference(features, accumulated), scale));
      accumulated = this.add(accumulated, tokens, scale);
      steps.push({ tokens, accumulated });
    }
    return steps;
  }

  /** Maps accumulated through each scale of known tokens. */
  accumulate(tokens) {
    let accumulated = this.zeros();
    return tokens.map((map, scale) => (accumulated = this.add(accumulated, map, scale)));
  }
}

export const sum = (a, b) => a.map((value, at) => value + b[at]);
export const difference = (a, b) => a.map((value, at) => value - b[at]);
export const squaredNorm = (values) => values.reduce((total, value) => total + value * value, 0);
