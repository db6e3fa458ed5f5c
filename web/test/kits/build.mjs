// Bundles the pages of a folder (each .tsx and .ts) into a directory. usage: node build.mjs OUT [FOLDER]
// Without a folder: this one. Pages of another folder use the packages that are installed there.

import { existsSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const [out, folder = here] = process.argv.slice(2);
const pages = resolve(folder);
const client = join(here, "../../packages/client/src");
const exports = Object.fromEntries(
  ["ag-ui", "ai-sdk", "assistant-ui", "react", "vue", "index"].map((name) => [
    name === "index" ? "@narthex/client" : `@narthex/client/${name}`,
    join(client, `${name}.ts`),
  ]),
);
// The helper's own imports are the kit's packages too: a class that is there twice is two classes.
const shared = ["@ag-ui/client", "@assistant-ui/react", "@assistant-ui/react-ag-ui", "rxjs", "react"].filter((name) => existsSync(join(pages, "node_modules", name)));

await esbuild.build({
  absWorkingDir: pages,
  entryPoints: readdirSync(pages).filter((name) => /\.tsx?$/.test(name)).map((name) => join(pages, name)),
  bundle: true,
  splitting: true, // a kit loads much of itself only when it is needed
  minify: pages !== here,
  format: "esm",
  target: ["es2022", "chrome110"],
  outdir: out,
  alias: { ...exports, ...Object.fromEntries(shared.map((name) => [name, join(pages, "node_modules", name)])) },
  define: { "process.env.NODE_ENV": '"development"', __VUE_OPTIONS_API__: "true", __VUE_PROD_DEVTOOLS__: "false" },
  loader: { ".woff": "empty", ".woff2": "empty", ".ttf": "empty" },
  jsx: "automatic",
  jsxImportSource: "react",
  logLevel: "warning",
});
