/** NarthexAgent with the real @ag-ui/client, over a scripted fetch: resumption, connect, proof, cancel, refusals. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { NarthexAgent, type RunProof } from "../src/ag-ui.ts";
import { runDigest } from "../src/assembler.ts";
import type { AguiEvent } from "../src/events.ts";
import { watchThread } from "../src/watching.ts";

type Event = Record<string, unknown>;
type Call = { url: string; last: string | null; authorization: string | null; body: Record<string, unknown> };
type Answer = { events?: [id: string, event: Event][]; cut?: boolean; open?: boolean; status?: number; json?: unknown; retryAfter?: string };

const IDS = { threadId: "real-thread", runId: "real-run" };

/** A run as the gateway streams it under the client's names, with its digest. */
async function run(threadId: string, runId: string, broken = false): Promise<Event[]> {
  const inner = [
    { type: "TEXT_MESSAGE_START", messageId: "m", role: "assistant" },
    { type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: "Hello, " },
    { type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: "world" },
    { type: "TEXT_MESSAGE_END", messageId: "m" },
  ];
  const end = { type: "RUN_FINISHED", outcome: { type: "success" } };
  const own = [{ type: "RUN_STARTED" }, ...inner, end].map((event) => ({ ...event, ...IDS }));
  const digest = broken ? "0".repeat(64) : await runDigest(own as unknown as AguiEvent[]);
  return [
    { type: "RUN_STARTED", threadId, runId, metadata: { narthex: IDS } },
    ...inner,
    { ...end, threadId, runId, metadata: { narthex: { ...IDS, count: 6, digest } } },
  ];
}

function scripted(answers: Answer[]): { calls: Call[]; fetch: typeof fetch } {
  const calls: Call[] = [];
  const answer = (url: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const headers = new Headers(init?.headers);
    const body = typeof init?.body === "string" ? (JSON.parse(init.body) as Record<string, unknown>) : {};
    calls.push({ url: String(url), last: headers.get("Last-Event-ID"), authorization: headers.get("Authorization"), body });
    const next = answers.shift();
    if (next === undefined) return Promise.reject(new TypeError("no answer is left"));
    if (next.json !== undefined || next.status !== undefined) {
      const retry: Record<string, string> = next.retryAfter === undefined ? {} : { "Retry-After": next.retryAfter };
      return Promise.resolve(new Response(JSON.stringify(next.json ?? {}), { status: next.status ?? 200, headers: retry }));
    }
    const blocks = (next.events ?? []).map(([id, event]) => `${id === "" ? "" : `id: ${id}\n`}data: ${JSON.stringify(event)}\n\n`);
    let sent = false;
    const stream = new ReadableStream<Uint8Array>(
      {
        start(controller) {
          init?.signal?.addEventListener("abort", () => controller.error(new DOMException("left", "AbortError")));
        },
        pull(controller) {
          if (!sent) controller.enqueue(new TextEncoder().encode(`:\n\n${blocks.join("")}`));
          else if (next.open === true) return new Promise<void>(() => undefined); // until the reader leaves
          else if (next.cut === true) controller.error(new TypeError("the line broke"));
          else controller.close();
          sent = true;
          return undefined;
        },
      },
      { highWaterMark: 0 }, // an error drops what waits
    );
    return Promise.resolve(new Response(stream, { status: 200 }));
  };
  return { calls, fetch: answer as typeof fetch };
}

const numbered = (events: Event[], from = 1): [string, Event][] => events.map((event, at) => [`${at + from}-e`, event]);

async function until(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!holds()) {
    assert.ok(Date.now() < deadline, String(holds));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

function agentOf(answers: Answer[], proofs: RunProof[] = []): { calls: Call[]; agent: NarthexAgent } {
  const { calls, fetch } = scripted(answers);
  const agent = new NarthexAgent({
    url: "https://chat.example/agui/bot",
    threadId: "t",
    fetch,
    getToken: () => `token-${calls.length}`,
    onProof: (proof) => proofs.push(proof),
  });
  agent.addMessage({ id: "u", role: "user", content: "hi" });
  return { calls, agent };
}

test("a stream that is cut goes on after the last event, and the run is proved", async () => {
  const events = await run("t", "r");
  const proofs: RunProof[] = [];
  const { calls, agent } = agentOf(
    [{ events: numbered(events.slice(0, 3)), cut: true }, { status: 503, json: { code: "draining" } }, { events: numbered(events.slice(3), 4) }],
    proofs,
  );
  await agent.runAgent({ runId: "r" });
  assert.deepEqual(calls.map((call) => call.last), [null, "3-e", "3-e"]);
  assert.deepEqual(calls.map((call) => call.authorization), ["Bearer token-0", "Bearer token-1", "Bearer token-2"]);
  assert.deepEqual(agent.messages.map((message) => [message.role, message.content]), [["user", "hi"], ["assistant", "Hello, world"]]);
  await until(() => proofs.length > 0);
  assert.deepEqual(proofs, [{ runId: "real-run", clientRunId: "r", complete: true }]);
});

test("an altered run is not proved", async () => {
  const proofs: RunProof[] = [];
  const { agent } = agentOf([{ events: numbered(await run("t", "r", true)) }], proofs);
  await agent.runAgent({ runId: "r" });
  await until(() => proofs.length > 0);
  assert.equal(proofs[0]?.complete, false);
});

test("connectAgent replays the thread and the rest of the run", async () => {
  const snapshot: [string, Event][] = [
    ["", { type: "RUN_STARTED", threadId: "t", runId: "c", metadata: { narthex: { connect: true } } }],
    ["", { type: "MESSAGES_SNAPSHOT", messages: [{ id: "u", role: "user", content: "hi" }] }],
    ["", { type: "STATE_SNAPSHOT", snapshot: { count: 1 } }],
    ["7-e", { type: "RUN_FINISHED", threadId: "t", runId: "c", outcome: { type: "success" } }],
  ];
  const rest = await run("t", "other");
  const proofs: RunProof[] = [];
  const { calls, agent } = agentOf(
    [
      { events: snapshot.slice(0, 2), cut: true }, // within the snapshot: it comes again whole
      { events: [...snapshot, ...numbered(rest.slice(0, 4), 8)], cut: true },
      { events: numbered(rest.slice(4), 12) },
    ],
    proofs,
  );
  agent.setMessages([]);
  await agent.connectAgent();
  assert.deepEqual(calls.map((call) => [call.url, call.last]), [
    ["https://chat.example/agui/bot/connect", null],
    ["https://chat.example/agui/bot/connect", null],
    ["https://chat.example/agui/bot/connect", "11-e"],
  ]);
  assert.deepEqual(agent.messages.map((message) => message.content), ["hi", "Hello, world"]);
  assert.deepEqual(agent.state, { count: 1 });
  await until(() => proofs.length > 0);
  assert.deepEqual(proofs.map((proof) => [proof.clientRunId, proof.complete]), [["other", true]]);
});

test("a refusal is final and has the gateway's words", async () => {
  const { calls, agent } = agentOf([{ status: 404, json: { code: "thread_not_found", detail: "No such thread.", remedy: "Look again." } }]);
  await assert.rejects(agent.runAgent({ runId: "r" }), { code: "thread_not_found", message: "No such thread. Look again." });
  assert.equal(calls.length, 1);
});

test("abortRun cancels the run at the gateway, and its stream ends as it says", async () => {
  const events = await run("t", "r");
  const { calls, agent } = agentOf([{ events: numbered(events) }, { json: { run_id: "real-run", state: "running" } }]);
  await agent.runAgent({ runId: "r" }, { onRunStartedEvent: () => agent.abortRun() });
  await until(() => calls.length > 1);
  assert.ok(calls.some((call) => call.url === "https://chat.example/agui/bot/runs/r/cancel"));
});

test("abortRun cancels a run that connectAgent found", async () => {
  const events = await run("t", "theirs");
  const preamble: [string, Event] = ["7-e", { type: "RUN_STARTED", threadId: "t", runId: "c", metadata: { narthex: { connect: true } } }];
  const over: [string, Event] = ["7-e", { type: "RUN_FINISHED", threadId: "t", runId: "c", outcome: { type: "success" } }];
  const { calls, agent } = agentOf([
    { events: [preamble, over, ...numbered(events.slice(0, 3), 8)], open: true },
    { json: { run_id: "real-run", state: "running" } },
  ]);
  const connecting = agent.connectAgent({}, { onTextMessageStartEvent: () => agent.abortRun() });
  await until(() => calls.length > 1);
  await agent.detachActiveRun();
  await connecting;
  assert.equal(calls[1]?.url, "https://chat.example/agui/bot/runs/theirs/cancel");
});

/** The answer to `watch`: the thread, then the beginnings of runs. */
async function watched(...runs: string[]): Promise<Answer> {
  const opening = { type: "RUN_STARTED", threadId: "t", runId: "w", metadata: { narthex: { connect: true } } };
  const begins = await Promise.all(runs.map(async (name) => ({ ...(await run("t", name))[0], metadata: { narthex: { threadId: "real-thread", runId: `real-${name}` } } })));
  return { events: numbered([opening, ...begins]), open: true };
}

test("watchThread tells of others' runs one after the other, when the page's own is over", async () => {
  const { calls, fetch } = scripted([await watched("mine", "first", "second")]);
  const seen: string[] = [];
  let started!: (params: { event: { runId: string } }) => void;
  const page = {
    isRunning: true,
    subscribe: (subscriber: { onRunStartedEvent: typeof started }) => {
      started = subscriber.onRunStartedEvent;
      return { unsubscribe: () => void seen.push("unsubscribed") };
    },
  };
  let ended!: () => void;
  const stop = watchThread({ url: "https://chat.example/agui/bot/", threadId: "t", fetch, getToken: () => "tok", agent: page }, async ({ runId, id }) => {
    seen.push(`${runId} ${id}`);
    if (runId === "first") await new Promise<void>((resolve) => (ended = resolve));
  });
  await until(() => calls.length > 0);
  started({ event: { runId: "mine" } });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(seen, []); // the page's own run goes on
  page.isRunning = false;
  await until(() => seen.length > 0);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(seen, ["first real-first"]); // its `onRun` goes on
  ended();
  await until(() => seen.length > 1);
  stop();
  assert.deepEqual(seen, ["first real-first", "second real-second", "unsubscribed"]);
  assert.equal(calls[0]?.url, "https://chat.example/agui/bot/connect");
  assert.equal(calls[0]?.authorization, "Bearer tok");
});

test("watchThread tells of the refusal that ends it", async () => {
  const { fetch } = scripted([{ status: 404, json: { code: "agent_not_found", detail: "No such agent." } }]);
  const faults: unknown[] = [];
  watchThread({ url: "https://chat.example/agui/bot", threadId: "t", fetch, onError: (fault) => faults.push(fault) }, () => undefined);
  await until(() => faults.length > 0);
  assert.equal((faults[0] as { code: string }).code, "agent_not_found");
});

test("watch brings in a run that began while the last one ended", async () => {
  const { calls, fetch } = scripted([await watched("theirs"), { events: numbered(await run("t", "theirs")) }]);
  const began: string[] = [];
  const agent = new NarthexAgent({ url: "https://chat.example/agui/bot", threadId: "t", fetch, onRun: ({ runId }) => began.push(runId) });
  agent.isRunning = true; // its own run is not quite over
  const stop = agent.watch();
  await until(() => began.length > 0);
  assert.equal(calls.length, 1);
  agent.isRunning = false;
  await until(() => calls.length > 1);
  stop();
  assert.deepEqual([began, calls[1]?.url], [["theirs"], "https://chat.example/agui/bot/connect"]);
});

test("a server that renders the page can make an agent over the WebSocket", () => {
  const agent = new NarthexAgent({ url: "/agui/bot", threadId: "t", transport: "websocket" });
  agent.close(); // there is no connection yet
  assert.equal(agent.threadId, "t");
});

test("a wish of the page goes to the gateway beside its own properties", async () => {
  const { fetch, calls } = scripted([{ events: numbered(await run("t", "r")) }]);
  const agent = new NarthexAgent({ url: "https://chat.example/agui/bot", threadId: "t", fetch, busy: "interrupt" });
  agent.addMessage({ id: "u", role: "user", content: "hi" });
  await agent.runAgent({ runId: "r", forwardedProps: { mine: 1 } });
  assert.deepEqual(calls[0]?.body["forwardedProps"], { mine: 1, narthex: { busy: "interrupt" } });
});
