// Bundles the pages of this folder (each .tsx and .ts but for this one) into a directory. usage: node build.mjs OUT

import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const client = join(here, "../../packages/client/src");

await esbuild.build({
  absWorkingDir: here,
  entryPoints: readdirSync(here).filter((name) => /\.tsx?$/.test(name)).map((name) => join(here, name)),
  bundle: true,
  format: "esm",
  target: ["es2022", "chrome110"],
  outdir: process.argv[2],
  alias: Object.fromEntries(
    ["ag-ui", "ai-sdk", "react", "vue", "index"].map((name) => [
      name === "index" ? "@narthex/client" : `@narthex/client/${name}`,
      join(client, `${name}.ts`),
    ]),
  ),
  define: { "process.env.NODE_ENV": '"development"', __VUE_OPTIONS_API__: "true", __VUE_PROD_DEVTOOLS__: "false" },
  jsx: "automatic",
  jsxImportSource: "react",
  logLevel: "warning",
});
