// Runs the TypeScript tests with node's own runner: esbuild turns each test/*.test.ts into one module first,
// because the oldest Node that builds narthex (18) does not strip types. Exits as `node --test` exits.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, existsSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const folders = ["test", "packages/client/test"].map((f) => join(here, f)).filter((f) => existsSync(f));
const tests = folders.flatMap((f) => readdirSync(f).filter((n) => n.endsWith(".test.ts")).map((n) => join(f, n)));

// Inside web/, so that `centrifuge`, `ws` and the like resolve as they do for the sources.
const out = mkdtempSync(join(here, "node_modules/.narthex-test-"));
try {
  await esbuild.build({
    absWorkingDir: here,
    entryPoints: tests,
    bundle: true,
    format: "esm",
    platform: "node",
    packages: "external",
    alias: {
      "@narthex/client/ag-ui": join(here, "packages/client/src/ag-ui.ts"),
      "@narthex/client/ai-sdk": join(here, "packages/client/src/ai-sdk.ts"),
      "@narthex/client": join(here, "packages/client/src/index.ts"),
    },
    define: { "import.meta.dirname": JSON.stringify(here) },
    jsx: "automatic",
    jsxImportSource: "preact",
    outdir: out,
    outbase: here,
    outExtension: { ".js": ".mjs" },
    sourcemap: "inline",
    logLevel: "warning",
  });
  const built = readdirSync(out, { recursive: true }).filter((n) => n.endsWith(".test.mjs")).map((n) => join(out, n));
  // A failed test can leave a server open, with which its process would never end.
  const run = spawnSync(process.execPath, ["--enable-source-maps", "--test", ...built], { stdio: "inherit", timeout: 300_000 });
  process.exitCode = run.status ?? 1;
} finally {
  rmSync(out, { recursive: true, force: true });
}
