/** NarthexAgent with the real @ag-ui/client, over a scripted fetch: resumption, connect, proof, cancel, refusals. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { NarthexAgent, type RunProof } from "../src/ag-ui.ts";
import { watchThread } from "../src/watching.ts";
import { numbered, replay, run, scripted, until, watched, type Answer, type Call, type Event } from "./agui-script.ts";

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

test("abortRun before the gateway has the run cancels it once it has", async () => {
  const events = await run("t", "r");
  let arrive = (): void => undefined;
  const after = new Promise<void>((resolve) => (arrive = resolve));
  const { calls, agent } = agentOf([{ events: numbered(events), after }, { json: { run_id: "real-run", state: "running" } }]);
  const running = agent.runAgent({ runId: "r" });
  await until(() => calls.length === 1);
  agent.abortRun();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(calls.length, 1);
  arrive();
  await until(() => calls.length > 1);
  assert.equal(calls[1]?.url, "https://chat.example/agui/bot/runs/r/cancel");
  await running;
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

const LOST: Answer = { status: 410, json: { code: "position_lost", detail: "The stream cannot go on without a gap." } };
const QUESTION = { id: "q", reason: "confirmation", message: "May I?" };

test("a question that another device has answered does not stop what comes", async () => {
  const asked = numbered(replay([], [], { type: "interrupt", interrupts: [QUESTION] }));
  const { calls, agent } = agentOf([{ events: asked }, { events: numbered(replay([{ id: "a", role: "assistant", content: "I did." }])) }, { events: numbered(await run("t", "r")) }]);
  await agent.connectAgent();
  assert.equal(agent.pendingInterrupts.length, 1);
  await agent.connectAgent(); // another device answered, and its run has ended
  assert.deepEqual([agent.pendingInterrupts, agent.messages.map(({ content }) => content)], [[], ["I did."]]);
  await agent.runAgent({ runId: "r" });
  assert.equal(calls.length, 3);
});

test("watchThread leaves no question with the agent for which it would refuse the run", async () => {
  const { fetch } = scripted([await watched("theirs")]);
  const agent = { isRunning: false, pendingInterrupts: [QUESTION], subscribe: () => ({ unsubscribe: () => undefined }) };
  const open: number[] = [];
  const stop = watchThread({ url: "https://chat.example/agui/bot", threadId: "t", fetch, agent }, () => void open.push(agent.pendingInterrupts.length));
  await until(() => open.length > 0);
  stop();
  assert.deepEqual(open, [0]);
});

test("a watch that was cut for longer than the log reaches back begins anew, and says so once", async () => {
  const { calls, fetch } = scripted([{ ...(await watched("first")), open: false, cut: true }, LOST, await watched("second")]);
  const faults: unknown[] = [];
  const seen: string[] = [];
  const stop = watchThread(
    { url: "https://chat.example/agui/bot", threadId: "t", fetch, onError: (fault) => faults.push(fault) },
    ({ runId }) => void seen.push(runId),
  );
  await until(() => seen.length > 2);
  stop();
  assert.deepEqual(seen, ["first", "", "second"]);
  assert.deepEqual(calls.map((call) => call.last), [null, "2-e", null]);
  assert.deepEqual(faults, []);
});

test("an agent that watches reads the thread again after such a cut, and says what ends the watch", async () => {
  const { calls, fetch } = scripted([
    { ...(await watched()), cut: true, open: false },
    LOST,
    { ...(await watched()), cut: true, open: false },
    { events: numbered(replay([{ id: "a", role: "assistant", content: "Meanwhile." }])) },
    { status: 403, json: { code: "forbidden", detail: "Not any more." } },
  ]);
  const began: string[] = [];
  const faults: { code: string }[] = [];
  const agent = new NarthexAgent({ url: "https://chat.example/agui/bot", threadId: "t", fetch, onRun: ({ runId }) => began.push(runId) });
  agent.watch((fault) => faults.push(fault as { code: string }));
  await until(() => faults.length > 0);
  assert.deepEqual(agent.messages.map(({ content }) => content), ["Meanwhile."]);
  assert.deepEqual([began, faults.map(({ code }) => code), calls.length], [[], ["forbidden"], 5]);
});

test("a page whose onRun throws gets the run all the same, and the ones after it", async () => {
  const { calls, fetch } = scripted([await watched("first", "second"), { events: numbered(await run("t", "first")) }, { events: numbered(await run("t", "second")) }]);
  const faults: Error[] = [];
  const onRun = (): void => {
    throw new Error("the page's own");
  };
  const agent = new NarthexAgent({ url: "https://chat.example/agui/bot", threadId: "t", fetch, onRun });
  const stop = agent.watch((fault) => faults.push(fault as Error));
  await until(() => calls.length > 2);
  stop();
  assert.deepEqual(faults.map(({ message }) => message), ["the page's own", "the page's own"]);
});

test("abortRun leaves a connection whose run cannot be cancelled", async () => {
  const events = [...replay(), ...(await run("t", "theirs")).slice(0, 3)];
  const { calls, agent } = agentOf([{ events: numbered(events), open: true }, { status: 404, json: { code: "run_not_found" } }]);
  await agent.connectAgent({}, { onTextMessageStartEvent: () => agent.abortRun() });
  assert.match(String(calls[1]?.url), /\/runs\/theirs\/cancel$/);
});

test("a run that failed is over: abortRun cancels nothing", async () => {
  const failed: Event[] = [...(await run("t", "r")).slice(0, 2), { type: "RUN_ERROR", message: "no", metadata: { narthex: {} } }];
  const { calls, agent } = agentOf([{ events: numbered(failed) }]);
  await agent.runAgent({ runId: "r" }).catch(() => undefined);
  agent.abortRun();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(calls.length, 1);
});

test("what an agent over the WebSocket could not load is loaded again by its next run", async () => {
  const agent = new NarthexAgent({ url: "/agui/bot", threadId: "t", transport: "websocket", retries: 0 });
  await assert.rejects(agent.runAgent({ runId: "a" }), /Invalid URL/); // here there is no page whose address completes it
  agent.close();
  agent.url = "http://127.0.0.1:9/agui/bot";
  await assert.rejects(agent.runAgent({ runId: "b" }), { name: "Unreachable" });
  agent.close();
});
