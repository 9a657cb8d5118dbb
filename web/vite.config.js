import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const runtime = (name) => here(`node_modules/onnxruntime-web/dist/${name}`);

/** index.html with its chapters, which are files of their own. */
const chapters = {
  name: "chapters",
  transformIndexHtml: {
    order: "pre",
    handler: (html) => {
      const names = readdirSync(here("src/chapters")).filter((name) => name.endsWith(".html")).sort();
      return html.replace("<!-- chapters -->", names.map((name) => readFileSync(here(`src/chapters/${name}`), "utf8")).join("\n"));
    },
  },
};

export default defineConfig({
  base: "./",
  plugins: [chapters],
  resolve: {
    alias: [
      { find: /^ort$/, replacement: runtime("ort.wasm.min.mjs") },
      { find: /^ort-wasm\?url$/, replacement: `${runtime("ort-wasm-simd-threaded.wasm")}?url` },
      { find: /^ort-glue\?url$/, replacement: `${runtime("ort-wasm-simd-threaded.mjs")}?url` },
    ],
  },
  worker: { format: "es" },
  build: { outDir: "../src/nextscale/explain/site", emptyOutDir: true, target: "es2022", assetsInlineLimit: 0 },
});
