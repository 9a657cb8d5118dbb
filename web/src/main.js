import { Engine } from "./engine/client.js";
const engine = new Engine();
window.engine = engine;
window.loaded = engine.load(() => {});
