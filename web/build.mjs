// Bundles the pages into the Python package. Called by hatch_build.py and by `npm run build`; it writes files
// whose names carry their content's hash (so they may be cached for ever) and manifest.json, which
// src/narthex/web/pages.py serves from. It fetches nothing.
//
//   node build.mjs [--out DIR] [--watch]

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import * as esbuild from "esbuild";

import { clientFiles } from "./pack.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const args = process.argv.slice(2);
const outAt = args.indexOf("--out");
const out = resolve(outAt >= 0 ? args[outAt + 1] : join(here, "../src/narthex/web/static"));
const pagesDir = join(here, "src/pages");

/** Every folder of src/pages that has an index.html is a page; main.tsx and boot.ts are its scripts. */
const pages = readdirSync(pagesDir).filter((name) => existsSync(join(pagesDir, name, "index.html")));

function scripts(file, suffix) {
  const found = pages.map((page) => [page + suffix, join(pagesDir, page, file)]).filter(([, path]) => existsSync(path));
  return Object.fromEntries(found);
}

const mains = scripts("main.tsx", "");
const boots = scripts("boot.ts", "-boot");
const entries = { ...mains, ...boots };

const shared = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022", "chrome110", "firefox115", "safari16.4"],
  outdir: out,
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  legalComments: "linked",
  metafile: true,
  write: false,
  jsx: "automatic",
  jsxImportSource: "preact",
  alias: { "@narthex/client": "./packages/client/src/index.ts" },
  loader: { ".svg": "file" },
  logLevel: "warning",
};
// What a page imports when it first needs it becomes a file of its own. A boot script is no module: it is built apart,
// so that it shares (and imports) nothing.
const builds = [
  { ...shared, entryPoints: mains, splitting: true },
  { ...shared, entryPoints: boots },
];

function write(results) {
  const files = {};
  const assets = {};
  const outputs = Object.assign({}, ...results.map((result) => result.metafile.outputs));
  for (const file of results.flatMap((result) => result.outputFiles)) {
    const name = basename(file.path);
    files[name] = file.contents;
    const output = outputs[relative(here, file.path)];
    const entry = output?.entryPoint;
    if (entry) {
      const key = Object.keys(entries).find((k) => resolve(here, entry) === entries[k]);
      const chunks = output.imports.filter((one) => one.kind === "import-statement").map((one) => basename(one.path));
      assets[key] = { js: name, css: output.cssBundle ? basename(output.cssBundle) : null, chunks };
    }
  }
  const licences = Buffer.from(licencesOf(results.flatMap((result) => Object.keys(result.metafile.inputs))));
  files[`licences-${digest(licences).slice(0, 8)}.txt`] = licences;
  const manifest = { pages: {}, files: {} };
  for (const page of pages) {
    const main = assets[page];
    const boot = assets[`${page}-boot`];
    const icon = `icon-${digest(readFileSync(join(here, "src/icon.svg"))).slice(0, 8)}.svg`;
    files[icon] = readFileSync(join(here, "src/icon.svg"));
    const html = readFileSync(join(pagesDir, page, "index.html"), "utf8")
      .replaceAll("{{icon}}", `/static/${icon}`)
      .replaceAll("{{boot}}", boot ? `/static/${boot.js}` : "")
      .replaceAll("{{css}}", main.css ? `/static/${main.css}` : "")
      // Files that the script imports at once: the browser asks for them without waiting for the script.
      .replaceAll("{{preload}}", main.chunks.map((name) => `<link rel="modulepreload" href="/static/${name}">`).join(""))
      .replaceAll("{{js}}", `/static/${main.js}`);
    files[`${page}.html`] = Buffer.from(html);
    manifest.pages[page] = `${page}.html`;
  }
  Object.assign(files, client);
  for (const [name, bytes] of Object.entries(files)) {
    const immutable = extname(name) !== ".html" && !(name in client);
    manifest.files[name] = { sha256: digest(bytes), bytes: bytes.length, immutable };
  }
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(out, name), bytes);
  writeFileSync(join(out, "manifest.json"), JSON.stringify(manifest, null, 1) + "\n");
  const total = Object.entries(manifest.files).map(([name, f]) => `${name} ${(f.bytes / 1024).toFixed(1)} KB`);
  console.log(`built ${relative(process.cwd(), out) || out}: ${total.join(", ")}`);
}

/** The licences of the packages that went into the bundle: they ask to be passed on with it. */
function licencesOf(inputs) {
  const packages = new Set(inputs.map((input) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1]).filter(Boolean));
  return [...packages].sort().map((name) => {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
    return `${name} ${version} (${license})\n\n${file ? readFileSync(join(folder, file), "utf8").trim() : ""}\n`;
  }).join(`\n${"-".repeat(79)}\n\n`);
}

const client = await clientFiles();

function digest(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

if (args.includes("--watch")) {
  const latest = new Map();
  for (const options of builds) {
    const done = (result) => {
      if (!result.errors.length) latest.set(options, result);
      if (latest.size === builds.length) write([...latest.values()]);
    };
    const writer = { name: "write", setup: (build) => build.onEnd(done) };
    await (await esbuild.context({ ...options, plugins: [writer] })).watch();
  }
} else {
  write(await Promise.all(builds.map((options) => esbuild.build(options))));
}
