// The models' own thread: the page asks by message and stays free. One task at a time, in the order of asking.

import * as ort from "ort";
import wasmUrl from "ort-wasm?url";
import glueUrl from "ort-glue?url";
import { codebookColours, toPixels, toRgba } from "./colours.js";
import { Model } from "./model.js";
import { evidence, fillHole, keptShares } from "./edit.js";
import { choose, filter, softmax } from "./draw.js";

const models = {}; // by name
const runs = {}; // the last run of each asker, for questions about its positions
const dropped = new Set(); // ids of tasks that nobody waits for any more
const GRAPHS = { demo: ["encoder", "transformer", "decoder"], "demo-raster": ["transformer", "decoder"] };

const tasks = {
  /** Download the runtime and the models; tells the bytes so far, and each model when it is ready. */
  async load({ base, threads }, tell) {
    let loaded = 0;
    const totals = await (await fetch(new URL("sizes.json", base))).json();
    const all = Object.values(totals).reduce((sum, bytes) => sum + bytes, 0);
    const download = async (path) => {
      const response = await fetch(new URL(path, base));
      if (!response.ok) throw new Error(`${path}: ${response.status}`);
      const reader = response.body.getReader(), parts = [];
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        parts.push(value);
        loaded += value.length;
        tell({ loaded, total: all });
      }
      return new Blob(parts).arrayBuffer();
    };
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = { mjs: new URL(glueUrl, self.location).href };
    ort.env.wasm.wasmBinary = await download(new URL(wasmUrl, self.location).href);
    for (const [name, graphs] of Object.entries(GRAPHS)) {
      models[name] = await Model.load(name, graphs, download);
      tell({ loaded, total: all, ready: name, about: models[name].about, colours: codebookColours(models[name].quantizer) });
    }
    return {};
  },

  /** Draw an image; tells after each part, with a picture after `every` of them and the last. */
  async generate({ model: name, run, label, seed, settings, every = 1 }, tell, wanted) {
    const model = models[name], steps = [];
    let last;
    for await (const step of model.sample({ label, seed, settings })) {
      if (!wanted()) return null;
      steps.push(keep(step));
      const map = step.accumulated ?? model.partial(step.drawn.flat());
      const drawn = step.part + 1, due = drawn % every === 0 || drawn === model.about.parts.length;
      const pixels = due ? (await model.decode([map]))[0] : null;
      last = pixels ?? last;
      tell({
        part: step.part, tokens: step.tokens, milliseconds: step.milliseconds, frame: pixels && toRgba(pixels),
        moved: run && movedByGuidance(model, step),
      });
    }
    if (run) runs[run] = { model, steps, settings, seed };
    return { tokens: steps.map((step) => step.tokens), pixels: last, milliseconds: steps.at(-1).milliseconds };
  },

  /** An image (RGBA bytes) as tokens: what each scale adds, in pixels and in the norm that is left. */
  async tokenise({ rgba }) {
    const model = models.demo, { steps, left } = await model.tokenise(toPixels(rgba));
    const frames = (await model.decode(steps.map((step) => step.accumulated))).map(toRgba);
    return { tokens: steps.map((step) => step.tokens), left, frames };
  },

  /** Frames after each scale of known tokens. */
  async decode({ tokens }) {
    const model = models.demo;
    return { frames: (await model.decode(model.quantizer.accumulate(tokens))).map(toRgba) };
  },

  /** The picture of a map that holds one code everywhere, and the code's numbers. */
  async swatch({ token }) {
    const model = models.demo, { quantizer, about } = model, scale = about.scales.length - 1;
    const tokens = new Array(quantizer.height * quantizer.width).fill(token);
    const [pixels] = await model.decode([quantizer.contribution(quantizer.lookup(tokens), scale)]);
    return { frame: toRgba(pixels), code: quantizer.code(token).slice() };
  },

  /** Teacher forcing: nats of each token and the code that the model thought likeliest; attention if wanted. */
  async follow({ run, tokens, label, attention }) {
    const model = models.demo, V = model.about.codebook_size, steps = [], nats = [], ranks = [];
    const seen = [];
    for await (const step of model.follow(tokens, label, { attention })) {
      steps.push(keep(step));
      const found = step.tokens.map((token, place) => {
        const logits = step.guided.subarray(place * V, (place + 1) * V), shares = softmax(logits);
        let rank = 0;
        for (const value of logits) if (value > logits[token]) rank++;
        return { nats: -Math.log(shares[token]), rank };
      });
      nats.push(found.map((one) => one.nats));
      ranks.push(found.map((one) => one.rank));
      if (attention) seen.push({ data: step.attention.data.slice(), dims: step.attention.dims });
    }
    if (run) runs[run] = { model, steps };
    return { nats, ranks, attention: seen };
  },

  /** Whole next maps after the true coarser ones: the true map first, then one of each seed. */
  async candidates({ tokens, scale, label, seeds }) {
    const model = models.demo, { quantizer, about } = model, V = about.codebook_size;
    const maps = [tokens[scale]], nats = [];
    for (const seed of seeds) {
      const given = tokens.slice(0, scale);
      for await (const step of model.sample({ label, seed, settings: { guidance: 0 }, hook: { given } })) {
        if (step.part === scale) {
          maps.push(step.tokens);
          break;
        }
      }
    }
    for await (const step of model.follow(tokens.slice(0, scale + 1), label)) {
      if (step.part < scale) continue;
      for (const map of maps) {
        nats.push(map.reduce((total, token, place) => {
          return total - Math.log(softmax(step.guided.subarray(place * V, (place + 1) * V))[token]);
        }, 0) / map.length);
      }
      break;
    }
    const before = scale ? quantizer.accumulate(tokens.slice(0, scale)).at(-1) : quantizer.zeros();
    const frames = await model.decode([before, ...maps.map((map) => quantizer.add(before, map, scale))]);
    return { maps, nats, before: toRgba(frames[0]), frames: frames.slice(1).map(toRgba) };
  },

  /** What a run computed at one position: the likeliest codes with their probabilities in four stages. */
  async position({ run, part, place, count = 12 }) {
    const { model, steps } = runs[run], step = steps[part], V = model.about.codebook_size;
    const at = (values) => values && softmax(values.subarray(place * V, (place + 1) * V));
    const stages = {
      none: at(step.unconditional), with_class: at(step.conditional), guided: at(step.guided), kept: at(step.kept),
    };
    const order = Array.from(stages.guided.keys()).sort((a, b) => stages.guided[b] - stages.guided[a]).slice(0, count);
    const drawn = step.tokens[place];
    if (!order.includes(drawn)) order[count - 1] = drawn;
    return {
      drawn, strength: step.strength, left: stages.kept.reduce((total, share) => total + (share > 0), 0),
      rows: order.map((token) => ({
        token, ...Object.fromEntries(Object.entries(stages).map(([name, values]) => [name, values ? values[token] : null])),
      })),
    };
  },

  /** Draw the hole of an image (RGBA bytes) anew, or all of it after its first scales; tells after each scale. */
  async edit({ rgba, hole, label, seed, settings, keepScales = 0 }, tell, wanted) {
    const model = models.demo, { about, quantizer } = model, [size] = about.image_size;
    const pixels = toPixels(rgba), whole = hole.every(Boolean);
    let hook = {};
    if (keepScales) {
      const { steps } = await model.tokenise(pixels);
      hook.given = steps.slice(0, keepScales).map((step) => step.tokens);
    }
    if (!whole) {
      const { features, steps } = await model.tokenise(fillHole(pixels, hole, size));
      hook = { ...hook, ...evidence(quantizer, features, steps, keptShares(hole, size, quantizer.height)) };
    }
    const tokens = [];
    let milliseconds = 0;
    for await (const step of model.sample({ label, seed, settings, hook })) {
      if (!wanted()) return null;
      tokens.push(step.tokens);
      milliseconds = step.milliseconds;
      const frame = toRgba((await model.decode([step.accumulated]))[0]);
      for (let at = 0; at < hole.length; at++) if (!hole[at]) frame.set(rgba.subarray(4 * at, 4 * at + 4), 4 * at);
      tell({ part: step.part, frame });
    }
    return { tokens, milliseconds };
  },
};

/** Of each token, whether the same noise would have drawn another without guidance. */
function movedByGuidance({ about: { codebook_size: size } }, { unguided, tokens, noise, how }) {
  const plain = choose(filter(unguided, size, how), size, noise);
  return tokens.map((token, place) => token !== plain[place]);
}

/** What questions about a step need, without its cache. */
function keep({ part, tokens, milliseconds, conditional, unconditional, guided, kept, strength }) {
  return { part, tokens, milliseconds, conditional, unconditional, guided, kept, strength };
}

let queue = Promise.resolve();
self.onmessage = ({ data: { id, task, given, drop } }) => {
  if (drop) return dropped.add(drop);
  queue = queue.then(async () => {
    const wanted = () => !dropped.has(id);
    try {
      const result = wanted() ? await tasks[task](given, (told) => self.postMessage({ id, told }), wanted) : null;
      self.postMessage({ id, result });
    } catch (error) {
      self.postMessage({ id, error: String(error?.message ?? error) });
    }
    dropped.delete(id);
  });
};
