import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";

import { RunAssembler, type AguiEvent } from "@narthex/client";

import { Timeline, answerOf, type Item, type MessageItem, type RunItem } from "../src/chat/timeline.ts";
import type { EndedRun, StoredMessage, ThreadView } from "../src/chat/wire.ts";

const view = (change: Partial<ThreadView> = {}): ThreadView => ({
  thread: { thread_id: "t1", title: "T", created_by: "u1", created_at: 1, updated_at: 1 },
  role: "owner",
  messages: [],
  members: [],
  runs: [],
  interrupts: [],
  channel: "thread:t1",
  offset: 0,
  epoch: "e",
  ...change,
});

const stored = (id: string, role: string, content: string, more: Partial<StoredMessage> = {}): StoredMessage => ({
  message_id: id,
  role,
  author: role === "user" ? "u1" : "concierge",
  content,
  created_at: 10,
  ...more,
});

const said = (id: string, text: string, userId = "u1"): AguiEvent[] => [
  { type: "TEXT_MESSAGE_START", messageId: id, role: "user", threadId: "t1", userId, name: "Ada" } as AguiEvent,
  { type: "TEXT_MESSAGE_CONTENT", messageId: id, delta: text, threadId: "t1" },
  { type: "TEXT_MESSAGE_END", messageId: id, threadId: "t1" },
];

const of = (runId: string, seq: number, event: object): AguiEvent => ({ ...event, threadId: "t1", runId, seq }) as AguiEvent;

const answer = (runId: string, text: string): AguiEvent[] => [
  of(runId, 1, { type: "RUN_STARTED", timestamp: 5000 }),
  of(runId, 2, { type: "TEXT_MESSAGE_START", messageId: `${runId}.1`, role: "assistant" }),
  of(runId, 3, { type: "TEXT_MESSAGE_CONTENT", messageId: `${runId}.1`, delta: text }),
  of(runId, 4, { type: "TEXT_MESSAGE_END", messageId: `${runId}.1` }),
];

const apply = (timeline: Timeline, events: AguiEvent[], from = 1): void => events.forEach((event, i) => void timeline.apply(event, from + i, 1000));
const shape = (items: readonly Item[]): string[] => items.map((item) => (item.kind === "run" ? `run ${item.id} ${item.view.phase}: ${answerOf(item)}` : `${item.author}: ${item.text}`));

test("a message sent from here and its echo on the channel are one item, whichever comes first", () => {
  for (const echoFirst of [true, false]) {
    const timeline = new Timeline();
    timeline.sending("c1", "u1", "hello", 1);
    if (!echoFirst) timeline.sent("c1", "m1");
    apply(timeline, said("m1", "hello"));
    if (echoFirst) timeline.sent("c1", "m1");
    assert.deepEqual(shape(timeline.items), ["u1: hello"]);
    assert.equal((timeline.items[0] as MessageItem).state, "sent");
    assert.equal(timeline.names.get("u1"), "Ada");
  }
});

test("messages known from the store are not repeated by the channel", () => {
  const timeline = new Timeline();
  timeline.load(view({ messages: [stored("m1", "user", "hello")] }));
  apply(timeline, said("m1", "hello"));
  assert.deepEqual(shape(timeline.items), ["u1: hello"]);
});

test("a run in mid-flight after a reload is rebuilt from its first event", () => {
  const timeline = new Timeline();
  const run = { run_id: "r1", state: "running", agent: "concierge", user_id: "u1", message_id: "m1" };
  timeline.load(view({ messages: [stored("m1", "user", "hello")], runs: [run] }));
  assert.equal(timeline.active?.id, "r1");
  apply(timeline, answer("r1", "Hi there"));
  assert.deepEqual(shape(timeline.items), ["u1: hello", "run r1 running: Hi there"]);
  assert.equal(timeline.active?.agent, "concierge");
});

test("what was asked while a run goes on stands behind that run, also after a reload", () => {
  const timeline = new Timeline();
  const active = (run_id: string, state: string, message_id: string) => ({ run_id, state, agent: "a", user_id: "u1", message_id });
  const messages = [stored("m1", "user", "first"), stored("m2", "user", "second"), stored("m3", "user", "third")];
  timeline.load(view({ messages, runs: [active("r1", "running", "m1"), active("r2", "queued", "m2")] }));
  assert.deepEqual(timeline.items.map((item) => item.id), ["m1", "r1", "m2", "r2", "m3"]);
  assert.deepEqual(timeline.queued.map((run) => run.id), ["r2"]);
  apply(timeline, answer("r1", "one"));
  assert.deepEqual(timeline.items.map((item) => item.id), ["m1", "r1", "m2", "r2", "m3"]);
});

test("people's names come with their stored messages", () => {
  const timeline = new Timeline();
  timeline.load(view({ messages: [stored("m1", "user", "hi", { detail: '{"name":"Ada"}' })] }));
  assert.equal((timeline.items[0] as MessageItem).name, "Ada");
});

test("a run that finished while the thread was read appears once, and is proven when its events come from the first on", async () => {
  const vector = (JSON.parse(readFileSync(join(import.meta.dirname, "../tests/vectors/digest.json"), "utf8")) as { cases: { name: string; events: AguiEvent[] }[] }).cases.find((one) => one.name === "plain")!;
  const timeline = new Timeline();
  timeline.load(view({ messages: [stored("m1", "assistant", "Hello, world", { run_id: "r1" })] }));
  assert.deepEqual(shape(timeline.items), ["run r1 finished: Hello, world"]);
  apply(timeline, vector.events);
  await timeline.prove("r1");
  const run = timeline.items[0] as RunItem;
  assert.deepEqual([timeline.items.length, run.source, run.proof?.complete, answerOf(run)], [1, "live", true, "Hello, world"]);
});

test("the tail of a stored run adds nothing", () => {
  const timeline = new Timeline();
  timeline.load(view({ messages: [stored("x", "assistant", "whole", { run_id: "r1" })] }));
  assert.equal(timeline.apply(of("r1", 7, { type: "TEXT_MESSAGE_CONTENT", messageId: "x", delta: "tail" }), 9, 1), "nothing");
  assert.deepEqual(shape(timeline.items), ["run r1 finished: whole"]);
});

test("stored thoughts and tools keep their place and their details", () => {
  const timeline = new Timeline();
  const detail = JSON.stringify({ toolCallName: "health", args: '{"deep":true}', answered: true });
  timeline.load(
    view({
      messages: [
        stored("q", "reasoning", "hm", { run_id: "r1" }),
        stored("c", "tool", "ok", { run_id: "r1", detail }),
        stored("a", "assistant", "Fine.", { run_id: "r1", offset: 12 }),
      ],
    }),
  );
  const run = timeline.items[0] as RunItem;
  assert.deepEqual(run.view.parts.map((part) => part.kind), ["reasoning", "tool", "text"]);
  assert.deepEqual(run.view.parts[1], { kind: "tool", id: "c", name: "health", args: '{"deep":true}', state: "done", result: "ok" });
  assert.equal(run.offset, 12);
});

test("an open question survives a reload, and is answered by the run that goes on from it", () => {
  const timeline = new Timeline();
  const question = { interrupt_id: "i1", run_id: "r1", text: "May I?", schema: '{"type":"boolean"}', expires_at: 99 };
  timeline.load(view({ messages: [stored("a", "assistant", "Hm.", { run_id: "r1" })], interrupts: [question] }));
  const asked = timeline.items[0] as RunItem;
  assert.equal(asked.view.phase, "interrupted");
  assert.deepEqual(asked.view.interrupts[0], { id: "i1", message: "May I?", responseSchema: { type: "boolean" }, expiresAt: 99 });
  timeline.apply(of("r2", 1, { type: "RUN_STARTED", parentRunId: "r1" }), 5, 1);
  assert.deepEqual((timeline.items[0] as RunItem).answered, ["i1"]);
});

const ended = (run_id: string, state: EndedRun["state"], more: Partial<EndedRun> = {}): EndedRun => ({
  run_id, state, agent: "concierge", user_id: "u1", message_id: "", parent_run_id: "", created_at: 10, started_at: 11, finished_at: 14, attempt: 1,
  cancel_requested_by: "", error: "", error_message: "", questions: [], ...more,
});

test("how runs ended is shown after a reload as when it happened, also where they left no message", () => {
  const timeline = new Timeline();
  const messages = [
    stored("m1", "user", "one"), stored("m2", "user", "two"), stored("a2", "assistant", "Half", { run_id: "r2" }),
    stored("m3", "user", "three"), stored("m4", "user", "four"), stored("a4", "assistant", "Hm.", { run_id: "r4" }),
  ];
  const question = { interrupt_id: "i1", run_id: "r4", text: "May I?", schema: '{"type":"boolean"}', expires_at: 99, answered_by: "u2", resume_run_id: "r5" };
  const outcomes = [
    ended("r1", "failed", { message_id: "m1", error: "agent_failed", error_message: "It broke." }),
    ended("r2", "cancelled", { message_id: "m2", cancel_requested_by: "u2" }),
    ended("r3", "cancelled", { message_id: "m3", cancel_requested_by: "u1", started_at: 0 }),
    ended("r4", "interrupted", { message_id: "m4", questions: [question] }),
    ended("r5", "finished", { message_id: "m4", parent_run_id: "r4" }),
  ];
  timeline.load(view({ messages, outcomes }));
  assert.deepEqual(shape(timeline.items), [
    "u1: one", "run r1 failed: ", "u1: two", "run r2 cancelled: Half", "u1: three", "run r3 cancelled: ", "u1: four", "run r4 interrupted: Hm.", "run r5 finished: ",
  ]);
  const run = (id: string): RunItem => timeline.items.find((item) => item.id === id) as RunItem;
  assert.deepEqual(run("r1").view.error, { message: "It broke.", code: "agent_failed" });
  assert.deepEqual([run("r2").stoppedBy, run("r2").endedAt - run("r2").startedAt], ["u2", 3000]);
  assert.equal(run("r3").startedAt, 0);
  assert.deepEqual([run("r4").answered, run("r4").answeredBy], [["i1"], "u2"]);
  assert.equal(run("r4").view.interrupts[0]!.message, "May I?");
});

test("an older page brings its runs' outcomes, and the first parts of a run across the edge", () => {
  const timeline = new Timeline();
  timeline.load(view({ messages: [stored("b", "assistant", "second", { run_id: "r2", created_at: 20 }), stored("m3", "user", "three", { created_at: 30 })], outcomes: [ended("r2", "failed", { error: "owner_lost" })] }));
  timeline.prepend({
    messages: [stored("m1", "user", "one"), stored("m2", "user", "two"), stored("a", "assistant", "first", { run_id: "r2" })],
    outcomes: [ended("r1", "failed", { message_id: "m1", error: "agent_silent" }), ended("r2", "failed", { error: "owner_lost" })],
  });
  assert.deepEqual(shape(timeline.items), ["u1: one", "run r1 failed: ", "u1: two", "run r2 failed: first\n\nsecond", "u1: three"]);
});

test("an outcome that was stored says nothing new of a run whose events were followed", () => {
  const timeline = new Timeline();
  apply(timeline, answer("r1", "abc"));
  timeline.prepend({ messages: [], outcomes: [ended("r1", "failed")] });
  assert.equal((timeline.items[0] as RunItem).view.phase, "running");
});

test("a run that is over and checked holds no events, and its repeats add nothing", async () => {
  const timeline = new Timeline();
  apply(timeline, [...answer("r1", "abc"), of("r1", 5, { type: "RUN_FINISHED", outcome: "success" })]);
  assert.equal(timeline.held, 1);
  await timeline.prove("r1");
  assert.equal(timeline.held, 0);
  assert.equal(timeline.apply(of("r1", 4, { type: "TEXT_MESSAGE_END", messageId: "r1.1" }), 4, 1), "nothing");
  assert.equal(timeline.apply(of("r1", 1, { type: "RUN_STARTED" }), 1, 1), "nothing");
  assert.deepEqual(shape(timeline.items), ["run r1 finished: abc"]);
});

test("a run is asked to be read again when its events do not fit", () => {
  const timeline = new Timeline();
  apply(timeline, answer("r1", "abc"));
  const merged = { ...of("r1", 6, { type: "TEXT_MESSAGE_CONTENT", messageId: "r1.1", delta: "x" }), seq_from: 4 };
  assert.equal(timeline.apply(merged, 9, 1), "reload");
});

test("who stopped a run and how long the agent is silent are taken from the events", () => {
  const timeline = new Timeline();
  apply(timeline, answer("r1", "abc"));
  timeline.apply(of("r1", 5, { type: "CUSTOM", name: "narthex.working", value: { silent_s: 20 } }), 5, 1);
  assert.equal((timeline.items[0] as RunItem).silentFor, 20);
  const end = of("r1", 6, { type: "RUN_FINISHED", outcome: { type: "cancelled" }, result: { cancelledBy: "u2" }, timestamp: 9000 });
  assert.equal(timeline.apply(end, 6, 1), "ended");
  const run = timeline.items[0] as RunItem;
  assert.deepEqual([run.view.phase, run.stoppedBy, run.silentFor, run.endedAt - run.startedAt], ["cancelled", "u2", 0, 4000]);
});

test("older messages go before, without repeats", () => {
  const timeline = new Timeline();
  timeline.load(view({ messages: [stored("m2", "user", "two")] }));
  timeline.prepend({ messages: [stored("m1", "user", "one"), stored("m2", "user", "two")] });
  assert.deepEqual(shape(timeline.items), ["u1: one", "u1: two"]);
  apply(timeline, said("m3", "three"));
  assert.deepEqual(shape(timeline.items), ["u1: one", "u1: two", "u1: three"]);
});

test("a message that could not be sent stays through a reload of the thread, and can be sent again", () => {
  const timeline = new Timeline();
  timeline.sending("c1", "u1", "hello", 1);
  timeline.failed("c1", "The gateway is not connected right now.");
  timeline.load(view({ messages: [stored("m1", "user", "before")] }));
  assert.deepEqual(shape(timeline.items), ["u1: before", "u1: hello"]);
  timeline.sending("c1", "u1", "hello", 2);
  timeline.sent("c1", "m2");
  assert.deepEqual(timeline.items.map((item) => (item as MessageItem).state), ["sent", "sent"]);
});

test("a stored run becomes a proven one when its events were read again", async () => {
  const timeline = new Timeline();
  timeline.load(view({ messages: [stored("m0", "user", "hi", { offset: 0 }), stored("a", "assistant", "Hi", { run_id: "r1", offset: 7 })] }));
  assert.equal(timeline.offsetBefore("r1"), 0);
  const assembler = new RunAssembler("r1");
  for (const event of answer("r1", "Hi")) assembler.push(event);
  timeline.proven(assembler, await assembler.verify());
  const run = timeline.items[1] as RunItem;
  assert.deepEqual([run.source, run.proof?.complete, run.proof?.reason], ["live", false, "the run has not ended"]);
});
