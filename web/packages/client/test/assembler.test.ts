import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";

import { RunAssembler, fold, EMPTY_VIEW, normalForm, runDigest, textOf, viewOf, type AguiEvent, type Part } from "@narthex/client";

interface Vector {
  name: string;
  why: string;
  events: AguiEvent[];
  normal_form: string[];
  count: number;
  digest: string;
}

// Two folders up from web/ in the repository; an npm package on its own has no vectors.
const file = join(import.meta.dirname, "../tests/vectors/digest.json");
const vectors: Vector[] = existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as { cases: Vector[] }).cases : [];

/** A small generator with a seed, so that a failure can be repeated. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1664525 + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function shuffled<T>(items: T[], next: () => number): T[] {
  const copy = [...items];
  for (let i = copy.length - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    [copy[i], copy[j]] = [copy[j]!, copy[i]!];
  }
  return copy;
}

for (const vector of vectors) {
  test(`vector "${vector.name}": ${vector.why}`, async () => {
    assert.deepEqual(normalForm(vector.events).split("\n"), vector.normal_form);
    assert.equal(await runDigest(vector.events), vector.digest);
    const run = new RunAssembler("r1");
    for (const event of vector.events) assert.equal(run.push(event).kind, "new");
    const proof = await run.verify();
    assert.deepEqual([proof.complete, proof.reason, proof.count], [true, "", vector.count]);
  });

  test(`vector "${vector.name}": any order, with repeats, gives the same`, async () => {
    const next = random(vector.count);
    for (let round = 0; round < 20; round++) {
      const run = new RunAssembler("r1");
      for (const event of shuffled([...vector.events, ...vector.events], next)) run.push(event);
      assert.deepEqual(run.events, vector.events);
      assert.equal((await run.verify()).complete, true);
    }
  });
}

test("the vectors of the repository were found", () => {
  assert.ok(vectors.length > 20, `${vectors.length} vectors at ${file}`);
});

const ids = { threadId: "t1", runId: "r1" };
const delta = (seq: number, text: string, from?: number): AguiEvent => ({
  type: "TEXT_MESSAGE_CONTENT",
  messageId: "m1",
  delta: text,
  ...ids,
  seq,
  ...(from === undefined ? {} : { seq_from: from }),
});
const begin: AguiEvent[] = [
  { type: "RUN_STARTED", ...ids, seq: 1 },
  { type: "TEXT_MESSAGE_START", messageId: "m1", role: "assistant", ...ids, seq: 2 },
];

test("a missing event is named and the run is not complete", async () => {
  const run = new RunAssembler("r1");
  for (const event of begin) run.push(event);
  assert.deepEqual(run.push(delta(4, "b")), { kind: "early", missing: 3 });
  assert.equal(run.hasGap, true);
  assert.equal((await run.verify()).reason, "event 3 has not arrived");
  assert.deepEqual(run.push(delta(3, "a")), { kind: "new", events: [delta(3, "a"), delta(4, "b")] });
  assert.equal((await run.verify()).reason, "the run has not ended");
});

test("a lost, an altered and an unsealed run are told apart", async () => {
  const plain = vectors.find((vector) => vector.name === "plain")!;
  const altered = new RunAssembler("r1");
  for (const event of plain.events) {
    altered.push(event.type === "TEXT_MESSAGE_CONTENT" ? { ...event, delta: "Hello, World" } : event);
  }
  assert.equal((await altered.verify()).reason, "the digest differs: an event was altered");
  const counted = new RunAssembler("r1");
  for (const event of plain.events) counted.push(event.type === "RUN_FINISHED" ? { ...event, count: 9 } : event);
  assert.equal((await counted.verify()).reason, "5 events arrived, the run has 9");
  const unsealed = new RunAssembler("r1");
  for (const event of plain.events) {
    unsealed.push(event.type === "RUN_FINISHED" ? { type: "RUN_FINISHED", ...ids, seq: 5 } : event);
  }
  assert.equal((await unsealed.verify()).reason, "the terminal event has no count and digest");
});

test("a merged delta that reaches further takes the place of its parts", () => {
  const run = new RunAssembler("r1");
  for (const event of [...begin, delta(3, "a"), delta(4, "b")]) run.push(event);
  assert.equal(run.push(delta(5, "abc", 3)).kind, "replaced");
  assert.equal(textOf(viewOf(run.events)), "abc");
  assert.equal(run.push(delta(4, "b")).kind, "repeat");
  assert.equal(run.push(delta(6, "d")).kind, "new");
});

test("a merged delta that was early takes the place of its parts when the gap closes", () => {
  const run = new RunAssembler("r1");
  for (const event of begin) run.push(event);
  run.push(delta(6, "bcd", 4));
  run.push(delta(4, "b"));
  assert.equal(run.push(delta(3, "a")).kind, "new");
  assert.equal(textOf(viewOf(run.events)), "abcd");
  assert.equal(run.hasGap, false);
});

test("a merged delta that cuts a part in two is a conflict, not a guess", () => {
  const run = new RunAssembler("r1");
  for (const event of [...begin, delta(4, "ab", 3)]) run.push(event);
  assert.equal(run.push(delta(5, "bc", 4)).kind, "conflict");
  assert.equal(textOf(viewOf(run.events)), "ab");
});

test("a run whose events have no canonical form is not proven, and nothing is thrown", async () => {
  const run = new RunAssembler("r");
  run.push({ type: "RUN_STARTED", threadId: "t", runId: "r", seq: 1 });
  run.push({ type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: "half \ud83d", runId: "r", seq: 2 });
  run.push({ type: "RUN_FINISHED", runId: "r", seq: 3, count: 3, digest: "0".repeat(64) });
  const proof = await run.verify();
  assert.equal(proof.complete, false);
  assert.match(proof.reason, /no canonical form/);
});

test("events of another run or without a seq are refused", () => {
  const run = new RunAssembler("r1");
  assert.equal(run.push({ type: "RUN_STARTED", threadId: "t1", runId: "r2", seq: 1 }).kind, "conflict");
  assert.equal(run.push({ type: "RUN_STARTED", threadId: "t1", runId: "r1" }).kind, "conflict");
  assert.equal(run.last, 0);
});

test("the view follows tools, reasoning and steps, and a restart voids what came before", () => {
  const events: AguiEvent[] = [
    { type: "RUN_STARTED", ...ids },
    { type: "STEP_STARTED", stepName: "plan" },
    { type: "REASONING_MESSAGE_START", messageId: "q" },
    { type: "REASONING_MESSAGE_CONTENT", messageId: "q", delta: "hm" },
    { type: "REASONING_MESSAGE_END", messageId: "q" },
    { type: "STEP_FINISHED", stepName: "plan" },
    { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "health" },
    { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: "{}" },
    { type: "TOOL_CALL_END", toolCallId: "c" },
  ];
  const running = viewOf(events);
  assert.deepEqual(running.parts, [
    { kind: "step", id: "plan 0", name: "plan", done: true },
    { kind: "reasoning", id: "q", text: "hm", done: true },
    { kind: "tool", id: "c", name: "health", args: "{}", state: "running", result: "" },
  ]);
  const done = fold(running, { type: "TOOL_CALL_RESULT", toolCallId: "c", content: [{ type: "text", text: "ok" }] });
  assert.deepEqual(done.parts[2], { kind: "tool", id: "c", name: "health", args: "{}", state: "done", result: "ok" });
  const again = fold(done, { type: "CUSTOM", name: "narthex.restarted", value: { attempt: 2 } });
  assert.deepEqual([again.parts, again.attempt], [[], 2]);
});

test("a steering text waits in the view until the agent takes it, and goes with the run's end else", () => {
  const steering = (name: string, steerId: string): AguiEvent => ({
    type: "CUSTOM", name: `narthex.${name}`, value: { steerId, text: `${steerId}!`, by: "ada" },
  });
  const started = viewOf([{ type: "RUN_STARTED", threadId: "t", runId: "r" }, steering("steering", "a"), steering("steering", "b")]);
  const shown = (parts: readonly Part[]) => parts.map((part) => [part.id, part.kind === "steer" && part.done]);
  assert.deepEqual(shown(started.parts), [["steer a", false], ["steer b", false]]);
  const read = fold(started, steering("steered", "b"));
  assert.deepEqual(shown(read.parts), [["steer a", false], ["steer b", true]]);
  assert.deepEqual(fold(read, { type: "RUN_FINISHED" }).parts.map((part) => part.id), ["steer b"]);
});

test("the view ends as the run ended", () => {
  const at = (event: AguiEvent): string => fold({ ...EMPTY_VIEW, phase: "running" }, event).phase;
  assert.equal(at({ type: "RUN_FINISHED" }), "finished");
  assert.equal(at({ type: "RUN_FINISHED", outcome: { type: "cancelled" } }), "cancelled");
  assert.equal(at({ type: "RUN_FINISHED", outcome: "cancelled" }), "cancelled");
  assert.equal(at({ type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts: [{ id: "i" }] } }), "interrupted");
  assert.equal(at({ type: "RUN_ERROR", message: "gone", code: "owner_lost" }), "failed");
});
