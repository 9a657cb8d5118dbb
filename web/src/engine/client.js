// The page's side of the models' thread.

import EngineWorker from "./worker.js?worker";

export class Engine {
  constructor() {
    this.worker = new EngineWorker();
    this.waiting = new Map();
    this.next = 1;
    this.ready = {}; // what sampling.json says of each model that is loaded, with its codes' colours
    this.listeners = new Set();
    this.worker.onmessage = ({ data: { id, told, result, error } }) => {
      const task = this.waiting.get(id);
      if (!task) return;
      if (told) return task.tell?.(told);
      this.waiting.delete(id);
      if (error) task.reject(new Error(error));
      else task.resolve(result);
    };
  }

  /** Ask for a task; `tell` gets its news. Of tasks with the same `key` only the last is finished; others give null. */
  ask(task, given, { tell, key } = {}) {
    const id = this.next++;
    if (key) {
      for (const [other, { key: theirs }] of this.waiting) if (theirs === key) this.worker.postMessage({ drop: other });
    }
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { tell, key, resolve, reject });
      this.worker.postMessage({ id, task, given });
    });
  }

  load(progress) {
    // A core stays free for the page: where another process has it, threads that wait for each other are slower than one.
    const threads = self.crossOriginIsolated ? Math.max(1, Math.min(4, (navigator.hardwareConcurrency || 1) - 1)) : 1;
    const base = new URL("models/", document.baseURI).href;
    return this.ask("load", { base, threads }, {
      tell: (told) => {
        if (told.ready) {
          this.ready[told.ready] = { ...told.about, colours: told.colours };
          for (const listener of this.listeners) listener();
        }
        progress(told);
      },
    });
  }

  /** Resolves with a model's description once it is loaded. */
  model(name = "demo") {
    return new Promise((resolve) => {
      const look = () => {
        if (!this.ready[name]) return;
        this.listeners.delete(look);
        resolve(this.ready[name]);
      };
      this.listeners.add(look);
      look();
    });
  }
}
