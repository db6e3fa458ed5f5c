// @narthex/client as files of the bundle: client.js, one ES module for a page without a bundler, and
// narthex-client.tgz, the package as `npm pack` would make it, for `npm install URL`. Called by build.mjs; it fetches nothing.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const source = join(here, "packages/client");

/** File name → bytes. The same bytes for the same source, so that every instance serves one ETag. */
export async function clientFiles() {
  return { "client.js": await bundled(), "narthex-client.tgz": packed() };
}

async function bundled() {
  const result = await esbuild.build({
    absWorkingDir: here,
    entryPoints: [join(source, "src/index.ts")],
    bundle: true,
    format: "esm",
    target: ["es2022", "chrome110", "firefox115", "safari16.4"],
    banner: { js: `// @narthex/client ${manifest().version}, Apache-2.0. For centrifuge-js and a narthex gateway.` },
    legalComments: "inline",
    write: false,
    logLevel: "warning",
  });
  return result.outputFiles[0].contents;
}

function manifest() {
  return JSON.parse(readFileSync(join(source, "package.json"), "utf8"));
}

function packed() {
  const out = mkdtempSync(join(tmpdir(), "narthex-client-"));
  try {
    const tsc = join(here, "node_modules/typescript/bin/tsc");
    execFileSync(process.execPath, [tsc, "-p", join(source, "tsconfig.json"), "--outDir", out], { stdio: ["ignore", 2, 2] });
    const { scripts, ...published } = manifest(); // what builds it is not there any more
    const files = [["package.json", Buffer.from(JSON.stringify(published, null, 2) + "\n")]];
    files.push(["README.md", readFileSync(join(source, "README.md"))]);
    for (const name of readdirSync(out, { recursive: true }).map(String).sort()) {
      if (/\.(js|d\.ts)$/.test(name)) files.push([`dist/${name.replaceAll("\\", "/")}`, readFileSync(join(out, name))]);
    }
    return gzipSync(tar(files), { level: 9 });
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

/** A ustar archive (POSIX.1-1988) below `package/`, as npm wants it: no owner, one fixed date. */
function tar(files) {
  const blocks = [];
  for (const [name, bytes] of files) {
    const head = Buffer.alloc(512);
    head.write(`package/${name}`, 0, 100);
    head.write("0000644\0" + "0000000\0" + "0000000\0", 100);
    head.write(bytes.length.toString(8).padStart(11, "0") + "\0", 124);
    head.write("03560116604\0", 136); // 1985-10-26, which npm takes too
    head.write("        0", 148);
    head.write("ustar\0" + "00", 257);
    const sum = head.reduce((total, byte) => total + byte, 0);
    head.write(sum.toString(8).padStart(6, "0") + "\0 ", 148);
    blocks.push(head, bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512));
  }
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}
