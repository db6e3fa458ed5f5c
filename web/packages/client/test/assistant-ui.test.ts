/** followThread and narthexHistory over a scripted `/agui`, with a runtime that behaves as assistant-ui's. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { NarthexAgent } from "../src/ag-ui.ts";
import { followThread, narthexHistory, type FollowingRuntime, type Repository } from "../src/assistant-ui.ts";
import type { Json } from "../src/events.ts";
import { numbered, replay, scripted, until, watched, type Answer, type Call, type Event } from "./agui-script.ts";

const convert = (messages: readonly unknown[]): Repository => ({
  messages: (messages as { id: string; role: string; content: string }[]).map((one) => ({ parentId: null, message: { ...one, content: [{ text: one.content }] } })),
});

/** Shows what it is given; refuses a run while a question is open, and fails with it. */
class FakeRuntime {
  readonly state = { isRunning: false, isLoading: false, extras: { setState: (state: Json): void => void this.states.push(state) } };
  readonly states: Json[] = [];
  readonly imports: string[][] = [];
  readonly answers: string[] = [];
  last: { status?: { type: string; reason?: string }; metadata?: object } = {};
  #asks = false;

  readonly thread: FollowingRuntime<Repository>["thread"] = {
    getState: () => this.state,
    import: ({ messages }) => {
      this.imports.push(messages.map(({ message }) => message.id));
      this.#asks = messages.some(({ message }) => (message as { metadata?: object }).metadata !== undefined);
    },
    importExternalState: () => assert.fail("it would end the calls of the page's tools"),
    resumeRun: async ({ stream }) => {
      if (this.#asks) throw new Error("interrupts are pending");
      this.state.isRunning = true;
      try {
        for await (const part of stream({ abortSignal: new AbortController().signal })) this.show(part);
      } finally {
        this.state.isRunning = false;
      }
    },
  };

  show(part: { content: readonly unknown[] }): void {
    this.answers.push((part.content as { text: string }[]).map(({ text }) => text).join("|"));
    this.last = part as typeof this.last;
  }
}

const QUESTION = { id: "q", reason: "confirmation", message: "May I?" };
const said = (id: string, content: string, role = "user"): { id: string; role: string; content: string } => ({ id, role, content });

function stored(messages: object[], more: object = {}): Answer {
  return { json: { messages, state: null, interrupts: [], runs: [{ runId: "theirs", state: "running" }], ...more } };
}

/** What a run of others is: one message, and what comes behind it. */
function run(name: string, ...more: Event[]): Event[] {
  const messageId = `${name}-m`;
  return [
    { type: "RUN_STARTED", threadId: "t", runId: name, metadata: { narthex: { threadId: "real-thread", runId: `real-${name}` } } },
    { type: "TEXT_MESSAGE_START", messageId, role: "assistant" },
    { type: "TEXT_MESSAGE_CONTENT", messageId, delta: `It is ${name}.` },
    { type: "TEXT_MESSAGE_END", messageId },
    ...more,
    { type: "RUN_FINISHED", threadId: "t", runId: name, outcome: { type: "success" } },
  ];
}

const connected = (messages: object[], ...events: Event[]): Answer => ({ events: numbered([...replay(messages), ...events]) });

interface Page {
  calls: Call[];
  agent: NarthexAgent;
  runtime: FakeRuntime;
  faults: Error[];
  stop: () => void;
}

function followed(...answers: Answer[]): Page {
  const { calls, fetch } = scripted(answers);
  const agent = new NarthexAgent({ url: "https://chat.example/agui/bot", threadId: "t", fetch, retries: 0 });
  const runtime = new FakeRuntime();
  const faults: Error[] = [];
  const stop = followThread(runtime, agent, convert, (fault) => faults.push(fault as Error));
  return { calls, agent, runtime, faults, stop };
}

const kinds = (calls: Call[]): (string | undefined)[] => calls.map((call) => call.url.split("/").at(-1));

test("the state of a thread comes with a run of others, also as that run changes it", async () => {
  const user = said("u", "hi");
  const changes: Event = { type: "STATE_DELTA", delta: [{ op: "replace", path: "/count", value: 2 }] };
  const replayed = replay([user], [{ type: "STATE_SNAPSHOT", snapshot: { count: 1 } }]);
  const { runtime, faults, stop } = followed(await watched("theirs"), stored([user], { state: { count: 1 } }), { events: numbered([...replayed, ...run("theirs", changes)]) });
  await until(() => runtime.last.status !== undefined);
  stop();
  assert.deepEqual([runtime.states[0], runtime.states.at(-1), faults], [{ count: 1 }, { count: 2 }, []]);
  assert.deepEqual([runtime.imports, runtime.answers.at(-1)], [[["u"]], "It is theirs."]);
});

test("the state comes too for a run that a reload finds under way", async () => {
  const changes: Event = { type: "STATE_SNAPSHOT", snapshot: { count: 3 } };
  const { agent, runtime, stop } = followed(await watched(), stored([]), connected([], ...run("mine", changes)));
  const history = narthexHistory(agent, convert);
  assert.equal((await history.load()).unstable_resume, true);
  for await (const part of history.resume({ abortSignal: new AbortController().signal })) runtime.show(part);
  stop();
  assert.deepEqual([runtime.states, runtime.answers.at(-1)], [[{ count: 3 }], "It is mine."]);
});

test("a question of this page that another tab has answered does not stop the next message", async () => {
  const { agent, runtime, stop } = followed(await watched("theirs"), stored([said("a", "I did.", "assistant")], { runs: [] }), { events: numbered(run("mine")) });
  agent.pendingInterrupts = [QUESTION];
  await until(() => runtime.imports.length > 0);
  await agent.runAgent({ runId: "mine" });
  stop();
  assert.equal(agent.messages.at(-1)?.content, "It is mine.");
});

test("a run that begins beside an open question is shown; the question comes again when it ends", async () => {
  const messages = [said("u", "ask"), said("a", "I would.", "assistant"), said("v", "and this?")];
  const open = { interrupts: [QUESTION] };
  const later = stored([...messages, said("theirs-m", "It is theirs.", "assistant")], { ...open, runs: [] });
  const { calls, runtime, faults, stop } = followed(await watched("theirs", "next"), stored(messages, open), connected(messages, ...run("theirs")), later, stored([said("z", "new")]), connected([said("z", "new")], ...run("next")));
  await until(() => runtime.answers.includes("It is next."));
  await until(() => calls.length === 6 && !runtime.state.isRunning);
  stop();
  assert.deepEqual(kinds(calls), ["connect", "t", "connect", "t", "t", "connect"]);
  assert.deepEqual([faults, runtime.imports.length], [[], 2]);
});

test("the question that comes again has what assistant-ui reads", async () => {
  const messages = [said("a", "I would.", "assistant")];
  const open = { interrupts: [QUESTION] };
  const { runtime, stop } = followed(await watched("theirs"), stored(messages, open), connected(messages, ...run("theirs")), stored(messages, open));
  await until(() => runtime.last.status !== undefined);
  stop();
  assert.deepEqual(runtime.last.status, { type: "requires-action", reason: "interrupt" });
  assert.deepEqual(runtime.last.metadata, { custom: { agui: { interrupts: [QUESTION] } } });
});

test("a run that cannot be shown is an error of the page, and the next one comes", async () => {
  const refused: Answer = { status: 403, json: { code: "forbidden", detail: "Not this one." } };
  const { runtime, faults, stop } = followed(await watched("theirs", "next"), stored([]), refused, stored([]), connected([], ...run("next")));
  await until(() => runtime.answers.includes("It is next."));
  stop();
  assert.deepEqual(faults.map(({ message }) => message), ["Not this one."]);
});

test("what the user sends while the thread is read stays on the page", async () => {
  let read!: () => void;
  const slow = new Promise<void>((resolve) => (read = resolve));
  const { calls, runtime, stop } = followed(await watched("theirs"), { ...stored([said("u", "old")], { runs: [] }), after: slow }, stored([said("u", "old"), said("v", "just sent")], { runs: [] }));
  await until(() => calls.length === 2);
  runtime.state.isRunning = true; // Send
  read();
  await new Promise((resolve) => setTimeout(resolve, 60));
  runtime.state.isRunning = false;
  await until(() => runtime.imports.length > 0);
  stop();
  assert.deepEqual(runtime.imports, [["u", "v"]]);
});

test("a run of others waits for the page's own first reading", async () => {
  const { calls, runtime, stop } = followed(await watched("theirs"), stored([said("u", "hi")], { runs: [] }));
  runtime.state.isLoading = true;
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.equal(calls.length, 1);
  runtime.state.isLoading = false;
  await until(() => runtime.imports.length > 0);
  stop();
});

test("the next queued run is brought in although its beginning came with the end of the one before", async () => {
  const second = run("second");
  const { calls, agent, runtime, stop } = followed(
    await watched("first", "second"),
    stored([]),
    { ...connected([], ...run("first"), ...second.slice(0, 1)), open: true },
    stored([said("first-m", "It is first.", "assistant")]),
    connected([said("first-m", "It is first.", "assistant")], ...second),
  );
  await until(() => runtime.answers.includes("It is second."));
  await until(() => !runtime.state.isRunning);
  agent.abortRun();
  stop();
  assert.deepEqual(kinds(calls), ["connect", "t", "connect", "t", "connect"]);
});

test("a follower that ended leaves the run after its own to the next follower", async () => {
  const { calls, agent, runtime, stop } = followed(await watched("first"), stored([]), { ...connected([], ...run("first"), ...run("second").slice(0, 1)), open: true });
  await until(() => runtime.last.status !== undefined && !runtime.state.isRunning);
  agent.abortRun();
  await new Promise((resolve) => setTimeout(resolve, 20));
  stop();
  assert.deepEqual(kinds(calls), ["connect", "t", "connect"]); // no cancel
});

test("the answer is what stands behind the last message that the page has, however many there are", async () => {
  const last = said("m3", "three");
  const windowed = [last, said("m4", "It is four.", "assistant"), said("m5", "five")]; // as many as before, but later ones
  const { runtime, stop } = followed(await watched("theirs"), stored([said("m1", "one"), said("m2", "two"), last]), connected(windowed, ...run("theirs")));
  await until(() => runtime.last.status !== undefined);
  stop();
  assert.equal(runtime.answers.at(-1), "It is four.|It is theirs.");
});

test("a page that has left before its answer begins gets none", async () => {
  const { fetch } = scripted([{ events: numbered([...replay(), ...run("theirs")]), open: true }]);
  const agent = new NarthexAgent({ url: "https://chat.example/agui/bot", threadId: "t", fetch });
  const parts: unknown[] = [];
  for await (const part of narthexHistory(agent, convert).resume({ abortSignal: AbortSignal.abort() })) parts.push(part);
  assert.deepEqual(parts, []);
});
