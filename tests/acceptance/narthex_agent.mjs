// NarthexAgent of @narthex/client/ag-ui with the real @ag-ui/client, driven by lines of stdin:
// {"op": "run", "text", "id", "runId", "resume"?}, {"op": "connect"}, {"op": "watch"}, {"op": "cancel", "runId"}, {"op": "quit"}.
// Lines of stdout: {"event"} as each arrives, {"proof"}, {"began"} of runs that `watch` sees, {"done", "messages", "state", "error"?}.

import { createHash } from "node:crypto";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.cwd(), "package.json"));
const esbuild = await import(pathToFileURL(require.resolve("esbuild")));
const { default: WebSocket } = await import(pathToFileURL(require.resolve("ws")));
const [url, token, threadId, transport, socketUrl] = process.argv.slice(2);

// Inside web/, so that its imports resolve as they do for the sources.
const built = await esbuild.build({
  entryPoints: [join(process.cwd(), "packages/client/src/ag-ui.ts")],
  bundle: true,
  format: "esm",
  platform: "node",
  packages: "external",
  write: false,
});
const [file] = built.outputFiles;
const folder = join(process.cwd(), "node_modules/.narthex-agent");
mkdirSync(folder, { recursive: true });
const path = join(folder, `${createHash("sha256").update(file.contents).digest("hex").slice(0, 16)}-${process.pid}.mjs`);
const { writeFileSync, rmSync } = await import("node:fs");
writeFileSync(path, file.contents);
const { NarthexAgent } = await import(pathToFileURL(path)).finally(() => rmSync(path));

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const agent = new NarthexAgent({
  url,
  threadId,
  transport,
  ...(socketUrl ? { socketUrl } : {}),
  WebSocket,
  getToken: () => token,
  retries: 40,
  onProof: (proof) => say({ proof }),
  onRun: (began) => say({ began }),
});
agent.subscribe({ onEvent: ({ event }) => say({ event }) });

const work = {
  run: ({ text, id, runId, resume }) => {
    if (text) agent.addMessage({ id, role: "user", content: text });
    return agent.runAgent({ runId, ...(resume ? { resume } : {}) });
  },
  connect: () => agent.connectAgent(),
  watch: async () => void agent.watch(),
  cancel: ({ runId }) => agent.cancel(runId),
  abort: async () => agent.abortRun(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (asked.op === "quit") break;
  const done = (more) => say({ done: asked.op, messages: agent.messages, state: agent.state, interrupts: agent.pendingInterrupts, ...more });
  work[asked.op](asked).then(() => done({}), (error) => done({ error: `${error.code ?? ""} ${error.message}` }));
}
process.exit(0);
