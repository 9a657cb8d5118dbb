// One exported model: its description, tables and graphs, and what runs through them.

import * as ort from "ort";
import { choose, filter, guide } from "./draw.js";
import { gumbelNoise } from "./philox.js";
import { Quantizer, multiply, readSafetensors, squaredNorm, difference } from "./tables.js";

const float = (data, dims) => new ort.Tensor("float32", data, dims);

export class Model {
  constructor(about, quantizer, graphs) {
    this.about = about;
    this.quantizer = quantizer;
    this.graphs = graphs;
  }

  /** Load a folder that `nextscale export onnx` wrote; `download(url)` gives ArrayBuffers. */
  static async load(folder, graphs, download) {
    const about = JSON.parse(new TextDecoder().decode(await download(`${folder}/sampling.json`)));
    const weightsOf = (name) => about.files[`${name}.onnx`].weights; // a file that several graphs may read
    const names = new Set([...graphs.map((name) => `${name}.onnx`), ...graphs.map(weightsOf), "quantizer.safetensors"]);
    names.delete(undefined);
    const read = async (name) => [name, new Uint8Array(await download(`${folder}/${name}`))];
    const files = Object.fromEntries(await Promise.all([...names].map(read)));
    const sessions = {};
    for (const name of graphs) {
      const path = weightsOf(name), externalData = path ? [{ path, data: files[path] }] : [];
      const options = { graphOptimizationLevel: "all", externalData };
      sessions[name] = await ort.InferenceSession.create(files[`${name}.onnx`], options);
    }
    return new Model(about, new Quantizer(about, readSafetensors(files["quantizer.safetensors"].buffer)), sessions);
  }

  /** Pixels (3, H, W) in [-1, 1] -> features (h w, C). */
  async features(pixels) {
    const [height, width] = this.about.image_size;
    const { features } = await this.graphs.encoder.run({ images: float(pixels, [1, 3, height, width]) });
    return features.data;
  }

  /** Maps (h w, C) -> their pixels, (3, H, W) in [-1, 1] each. */
  async decode(maps) {
    const places = this.quantizer.height * this.quantizer.width, all = new Float32Array(maps.length * maps[0].length);
    maps.forEach((map, at) => all.set(map, at * map.length));
    const { images } = await this.graphs.decoder.run({ accumulated: float(all, [maps.length, places, this.quantizer.channels]) });
    const pixels = images.data.length / maps.length;
    return maps.map((_, at) => images.data.slice(at * pixels, (at + 1) * pixels));
  }

  /** One part of the transformer: latents (l, C) for each class -> logits (l, V) of each, the cache, attention. */
  async step(classes, latents, cache, { attention = false } = {}) {
    const count = classes.length, length = latents.length / this.quantizer.channels;
    const repeated = new Float32Array(count * latents.length);
    for (let at = 0; at < count; at++) repeated.set(latents, at * latents.length);
    const inputs = {
      classes: new ort.Tensor("int32", Int32Array.from(classes), [count]),
      latents: float(repeated, [count, length, this.quantizer.channels]),
      cache: cache ?? float(new Float32Array(0), [count, ...this.about.cache]),
    };
    const wanted = ["logits", "next_cache", ...(attention ? ["attention"] : [])];
    const given = await this.graphs.transformer.run(inputs, wanted);
    const share = given.logits.data.length / count;
    return {
      logits: classes.map((_, at) => given.logits.data.slice(at * share, (at + 1) * share)),
      cache: given.next_cache,
      attention: given.attention,
    };
  }

  /** Image -> for each scale its tokens, the accumulated map and the share of the features' norm that is left. */
  async tokenise(pixels) {
    const features = await this.features(pixels), whole = squaredNorm(features);
    const steps = this.quantizer.encode(features);
    const left = steps.map(({ accumulated }) => squaredNorm(difference(features, accumulated)) / whole);
    return { features, steps, left };
  }

  /**
   * Sample part by part; yields what each part drew. Without a seed the likeliest tokens.
   *
   * `hook.logits(part, logits, accumulated)` and `hook.tokens(part, tokens)` may replace them; `hook.given[part]` are
   * tokens that are not drawn. `milliseconds` is the time of the transformer and the recursion since the start.
   */
  async *sample({ label, seed = null, settings = {}, hook = {}, attention = false }) {
    const { about, quantizer } = this, how = { ...about.sampling, ...settings }, V = about.codebook_size;
    const byScale = about.read === "accumulated";
    const classes = how.guidance ? [label, about.unconditional] : [label];
    let accumulated = quantizer.zeros(), latents = accumulated.slice(0, about.parts[0] * quantizer.channels);
    let cache, coarser, spent = 0;
    const drawn = [];
    for (const [part, length] of about.parts.entries()) {
      const begun = performance.now();
      const given = await this.step(classes, latents, cache, { attention });
      cache = given.cache;
      const strength = Math.fround(how.guidance * how.ramp[part]);
      const guided = guide(given.logits[0], given.logits[1], strength);
      const away = Math.fround(how.spatial_guidance?.[part] ?? 0);
      const prior = away ? multiply(quantizer.tables[`prior.${part}`], coarser, V) : null;
      const apart = (some) => (prior ? some.map((value, at) => value + away * (value - prior[at])) : some);
      let logits = apart(guided);
      coarser = guided;
      if (hook.logits) logits = hook.logits(part, logits, accumulated);
      const kept = filter(logits, V, how);
      const noise = seed === null ? null : gumbelNoise(seed, part, length, V);
      let tokens = hook.given?.[part] ?? choose(kept, V, noise);
      if (hook.tokens) tokens = hook.tokens(part, tokens);
      drawn.push(tokens);
      latents = quantizer.lookup(tokens);
      if (byScale) {
        accumulated = quantizer.add(accumulated, tokens, part);
        if (part + 1 < about.parts.length) latents = quantizer.reduce(accumulated, part + 1);
      }
      spent += performance.now() - begun;
      yield {
        part, tokens, drawn, noise, strength, how, milliseconds: spent,
        conditional: given.logits[0], unconditional: given.logits[1], guided, kept, attention: given.attention,
        unguided: apart(given.logits[0]),
        accumulated: byScale ? accumulated : null,
      };
    }
  }

  /** The map of a raster-order model's tokens so far; places without a token hold nothing. */
  partial(tokens) {
    const codes = new Float32Array(this.quantizer.height * this.quantizer.width * this.quantizer.channels);
    codes.set(this.quantizer.lookup(tokens));
    return this.quantizer.contribution(codes, 0);
  }

  /** Known tokens under a class: logits (l, V) of each part (teacher forcing), with attention if wanted. */
  async *follow(tokens, label, { attention = false } = {}) {
    for await (const step of this.sample({ label, settings: { guidance: 0, top_p: 0, top_k: 0 }, hook: { given: tokens }, attention })) {
      yield step;
    }
  }
}
