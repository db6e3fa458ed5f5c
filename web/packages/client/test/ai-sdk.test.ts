/** NarthexChatTransport over a scripted fetch: cuts, restarts, stops, reconnections, stored threads. No AI SDK runs here. */

import assert from "node:assert/strict";
import { test } from "node:test";

import type { UIMessage, UIMessageChunk } from "ai";

import { NarthexChatTransport, type FollowedChat, type NarthexChatOptions } from "../src/ai-sdk.ts";
import { runDigest } from "../src/assembler.ts";
import type { AguiEvent } from "../src/events.ts";
import { StoredChat, type StoredThread } from "../src/ui-messages.ts";

type Event = Record<string, unknown>;

const IDS = { threadId: "real-thread", runId: "real-run" };

/** A run as the gateway streams it, with its digest. */
async function run(inner: Event[], end: Event = { type: "RUN_FINISHED", outcome: { type: "success" } }): Promise<Event[]> {
  const own = [{ type: "RUN_STARTED" }, ...inner, end].map((event) => ({ ...event, ...IDS }));
  const digest = await runDigest(own as unknown as AguiEvent[]);
  return [
    { type: "RUN_STARTED", threadId: "t", runId: "r", metadata: { narthex: IDS } },
    ...inner,
    { ...end, threadId: "t", runId: "r", metadata: { narthex: { ...IDS, count: own.length, digest } } },
  ];
}

const said = (id: string, ...deltas: string[]): Event[] => [
  { type: "TEXT_MESSAGE_START", messageId: id, role: "assistant" },
  ...deltas.map((delta) => ({ type: "TEXT_MESSAGE_CONTENT", messageId: id, delta })),
  { type: "TEXT_MESSAGE_END", messageId: id },
];

interface Call {
  method: string;
  path: string;
  last: string | null;
  body: Event;
}

/** A gateway that answers each path as the test says. A list of events is a stream; `null` in it cuts the line. */
class Gateway {
  readonly calls: Call[] = [];
  readonly #answers: Record<string, ((call: Call) => Promise<Response> | Response)[]>;

  constructor(answers: Record<string, ((call: Call) => Promise<Response> | Response)[]>) {
    this.#answers = answers;
  }

  readonly fetch = async (url: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const { pathname } = new URL(String(url));
    const body = typeof init?.body === "string" ? (JSON.parse(init.body) as Event) : {};
    const call = { method: init?.method ?? "GET", path: pathname, last: new Headers(init?.headers).get("Last-Event-ID"), body };
    this.calls.push(call);
    init?.signal?.throwIfAborted();
    const answer = this.#answers[`${call.method} ${pathname}`]?.shift();
    if (answer === undefined) throw new TypeError(`fetch failed: no answer is left for ${call.method} ${pathname}`);
    return answer(call);
  };

  transport(options: Partial<NarthexChatOptions> = {}): NarthexChatTransport {
    return new NarthexChatTransport({ url: "https://chat.example/agui/bot", fetch: this.fetch as typeof fetch, retries: 3, ...options });
  }

  count(path: string): number {
    return this.calls.filter((call) => call.path === path).length;
  }
}

const streamed = (events: (Event | null)[], first = 1): (() => Response) => () => {
  let at = 0;
  const body = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        if (at >= events.length) return controller.close();
        const event = events[at];
        at += 1;
        if (event === null || event === undefined) controller.error(new TypeError("network: the line broke"));
        else controller.enqueue(new TextEncoder().encode(`id: ${first + at - 1}-e\ndata: ${JSON.stringify(event)}\n\n`));
      },
    },
    { highWaterMark: 0 },
  );
  return new Response(body);
};

const json = (value: unknown, status = 200): (() => Response) => () => new Response(JSON.stringify(value), { status });

const user = (text: string, id = "u"): UIMessage => ({ id, role: "user", parts: [{ type: "text", text }] });

function sending(messages: UIMessage[], more: object = {}) {
  return { trigger: "submit-message" as const, chatId: "t", messageId: undefined, messages, abortSignal: undefined, ...more };
}

async function all(stream: ReadableStream<UIMessageChunk>): Promise<UIMessageChunk[]> {
  const found: UIMessageChunk[] = [];
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return found;
    found.push(value);
  }
}

const kinds = (chunks: UIMessageChunk[]): string[] => chunks.map((chunk) => chunk.type);
const until = async (holds: () => boolean): Promise<void> => {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 1));
};

const EMPTY: StoredThread = { messages: [], messageRuns: {}, runs: [], endedRuns: [] };
const RUNNING: StoredThread = {
  messages: [{ id: "u", role: "user", content: "hi" }],
  messageRuns: {},
  runs: [{ runId: "real-run", messageId: "u", parentRunId: "", state: "running" }],
  endedRuns: [],
};

test("a run is one step of a message whose id is the run's, and proves that it is whole", async () => {
  const events = await run(said("m", "Hello, ", "world"));
  const gateway = new Gateway({ "POST /agui/bot": [streamed([...events.slice(0, 3), null]), streamed(events.slice(3), 4)] });
  const chunks = await all(await gateway.transport().sendMessages(sending([user("hi")])));
  assert.deepEqual(kinds(chunks), ["start", "start-step", "text-start", "text-delta", "text-delta", "text-end", "finish-step", "finish"]);
  assert.equal((chunks[0] as { messageId: string }).messageId, "real-run");
  const { finishReason, messageMetadata } = chunks.at(-1) as { finishReason: string; messageMetadata: unknown };
  assert.equal(finishReason, "stop");
  assert.deepEqual(messageMetadata, { narthex: { runId: "real-run", state: "finished", complete: true } });
  assert.deepEqual(gateway.calls.map((call) => call.last), [null, "3-e"]);
  assert.deepEqual(gateway.calls[0]?.body["messages"], [{ id: "u", role: "user", content: "hi" }]);
});

test("an agent that begins anew takes back what it showed", async () => {
  const events = await run([
    { type: "TEXT_MESSAGE_START", messageId: "a", role: "assistant" },
    { type: "TEXT_MESSAGE_CONTENT", messageId: "a", delta: "Hal" },
    { type: "CUSTOM", name: "narthex.restarted", value: { attempt: 2 } },
    { type: "TEXT_MESSAGE_CONTENT", messageId: "a", delta: "a stray one" },
    ...said("b", "Hello"),
  ]);
  const gateway = new Gateway({ "POST /agui/bot": [streamed(events)] });
  const chunks = await all(await gateway.transport().sendMessages(sending([user("hi")])));
  assert.deepEqual(kinds(chunks).slice(2, 8), ["text-start", "text-delta", "reset-step", "text-start", "text-delta", "text-end"]);
});

test("state is patched, and a delta that cannot be applied waits for the next snapshot", async () => {
  const delta = (...operations: object[]): Event => ({ type: "STATE_DELTA", delta: operations });
  const events = await run([
    { type: "STATE_SNAPSHOT", snapshot: { list: ["a"], "x/y": 1 } },
    delta({ op: "add", path: "/list/-", value: "b" }, { op: "replace", path: "/x~1y", value: 2 }),
    delta({ op: "remove", path: "/nothing" }),
    delta({ op: "move", from: "/list/0", path: "/first" }, { op: "test", path: "/list", value: ["b"] }, { op: "copy", from: "/list", path: "/copy" }),
  ]);
  const gateway = new Gateway({ "POST /agui/bot": [streamed(events)] });
  const chunks = await all(await gateway.transport().sendMessages(sending([user("hi")])));
  const states = chunks.filter((chunk) => chunk.type === "data-state").map((chunk) => (chunk as { data: unknown }).data);
  assert.deepEqual(states, [
    { list: ["a"], "x/y": 1 },
    { list: ["a", "b"], "x/y": 2 },
    { list: ["b"], "x/y": 2, first: "a", copy: ["b"] },
  ]);
});

test("deltas of a run go on from the state that the thread, the request or the run before left", async () => {
  const delta = (value: string): Event => ({ type: "STATE_DELTA", delta: [{ op: "add", path: "/list/-", value }] });
  const answers = [streamed(await run([delta("b")])), streamed(await run([delta("c")])), streamed(await run([delta("d")]))];
  const gateway = new Gateway({
    "GET /agui/bot/threads/t": [json({ ...EMPTY, state: { list: ["a"] } })],
    "POST /agui/bot": answers,
  });
  const transport = gateway.transport();
  await transport.loadMessages("t");
  const states: unknown[] = [];
  for (const body of [{}, {}, { state: { list: [] } }]) {
    const chunks = await all(await transport.sendMessages(sending([user("hi")], { body })));
    states.push(...chunks.filter((chunk) => chunk.type === "data-state").map((chunk) => (chunk as { data: unknown }).data));
  }
  assert.deepEqual(states, [{ list: ["a", "b"] }, { list: ["a", "b", "c"] }, { list: ["d"] }]);
});

test("an agent that begins anew begins with the state before its run", async () => {
  const delta = { type: "STATE_DELTA", delta: [{ op: "add", path: "/list/-", value: "b" }] };
  const events = await run([delta, { type: "CUSTOM", name: "narthex.restarted", value: { attempt: 2 } }, delta]);
  const gateway = new Gateway({ "POST /agui/bot": [streamed(events)] });
  const sent = gateway.transport().sendMessages(sending([user("hi")], { body: { state: { list: ["a"] } } }));
  const states = (await all(await sent)).filter((chunk) => chunk.type === "data-state").map((chunk) => (chunk as { data: unknown }).data);
  assert.deepEqual(states, [{ list: ["a", "b"] }, { list: ["a"] }, { list: ["a", "b"] }]);
});

test("a refusal is the error of the call, and is not tried again", async () => {
  const gateway = new Gateway({ "POST /agui/bot": [json({ code: "thread_busy", detail: "A run goes on.", remedy: "Wait." }, 409)] });
  const sent = gateway.transport().sendMessages(sending([user("hi")]));
  await assert.rejects(sent, { name: "AguiRefusal", code: "thread_busy", message: "A run goes on. Wait." });
  assert.equal(gateway.calls.length, 1);
});

test("a gateway that cannot be reached is a network error to the SDK", async () => {
  const sent = new Gateway({}).transport({ retries: 0 }).sendMessages(sending([user("hi")]));
  await assert.rejects(sent, (error) => error instanceof TypeError && error.message.includes("network"));
});

test("stop cancels the run once the gateway has it, also when it is pressed before the answer", async () => {
  const controller = new AbortController();
  let admit: (response: Response) => void = () => undefined;
  const events = await run(said("m", "Hello"));
  const gateway = new Gateway({
    "POST /agui/bot": [() => new Promise<Response>((resolve) => (admit = resolve))],
  });
  const transport = gateway.transport();
  const sent = transport.sendMessages(sending([user("hi")], { abortSignal: controller.signal }));
  await until(() => gateway.calls.length === 1);
  controller.abort();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(gateway.calls.length, 1, "there is nothing to cancel yet");
  admit(streamed(events.slice(0, -1))());
  await sent;
  const { runId } = gateway.calls[0]!.body as { runId: string };
  await until(() => gateway.count(`/agui/bot/runs/${runId}/cancel`) > 0);
  assert.equal(gateway.calls.at(-1)?.method, "POST");
});

test("with `continue`, stop leaves the run once the gateway has it", async () => {
  const controller = new AbortController();
  let admit: (response: Response) => void = () => undefined;
  const gateway = new Gateway({ "POST /agui/bot": [() => new Promise<Response>((resolve) => (admit = resolve))] });
  const transport = gateway.transport({ onStop: "continue" });
  const sent = transport.sendMessages(sending([user("hi")], { abortSignal: controller.signal }));
  await until(() => gateway.calls.length === 1);
  controller.abort();
  await new Promise((resolve) => setTimeout(resolve, 20));
  const events = await run(said("m", "Hello"));
  admit(streamed(events.slice(0, -1))()); // the message is sent, although stop was pressed before the answer
  await all(await sent);
  assert.deepEqual(gateway.calls.map((call) => call.path), ["/agui/bot"]);
});

test("a reconnection that the next one replaces does not cancel the run; stop of the last one does", async () => {
  const events = await run(said("m", "Hello"));
  const open = (): Response => new Response(new ReadableStream({ start: (body) => body.enqueue(new TextEncoder().encode(`id: 1-e\ndata: ${JSON.stringify(events[0])}\n\n`)) }));
  const gateway = new Gateway({
    "GET /agui/bot/threads/t": [json(RUNNING), json(RUNNING)],
    "GET /agui/bot/runs/real-run": [open, open],
    "POST /agui/bot/runs/real-run/cancel": [json({ run_id: "real-run", state: "running" })],
  });
  const transport = gateway.transport();
  await transport.loadMessages("t");
  const [first, second] = [new AbortController(), new AbortController()];
  const one = transport.reconnectToStream({ chatId: "t", abortSignal: first.signal });
  first.abort(); // React's StrictMode: the SDK aborts and reconnects in one tick
  const two = transport.reconnectToStream({ chatId: "t", abortSignal: second.signal });
  await Promise.all([one, two]);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(gateway.count("/agui/bot/runs/real-run/cancel"), 0);
  second.abort();
  await until(() => gateway.count("/agui/bot/runs/real-run/cancel") === 1);
});

test("a run that ended after the messages were loaded is streamed all the same", async () => {
  const events = await run(said("m", "Hello"));
  const gateway = new Gateway({
    "GET /agui/bot/threads/t": [json(RUNNING), json({ ...RUNNING, runs: [] })],
    "GET /agui/bot/runs/real-run": [streamed(events)],
  });
  const transport = gateway.transport();
  await transport.loadMessages("t");
  const stream = await transport.reconnectToStream({ chatId: "t" });
  assert.equal(kinds(await all(stream!)).at(-1), "finish");
  assert.equal(await transport.reconnectToStream({ chatId: "t" }), null);
});

test("a run that goes on with a message brings the message first, and runs no tool of the page again", async () => {
  const stored: StoredThread = {
    messages: [
      { id: "u", role: "user", content: "paint" },
      { id: "c", role: "assistant", toolCalls: [{ id: "c", function: { name: "paint", arguments: '{"colour": "red"}' } }] },
      { id: "c-result", role: "tool", toolCallId: "c", content: "done" },
    ],
    messageRuns: { c: "first" },
    runs: [{ runId: "real-run", messageId: "derived", parentRunId: "", state: "running" }],
    endedRuns: [{ runId: "first", messageId: "u", parentRunId: "", state: "finished" }],
  };
  const events = await run(said("m", "Painted."));
  const gateway = new Gateway({ "GET /agui/bot/threads/t": [json(stored)], "GET /agui/bot/runs/real-run": [streamed(events)] });
  const transport = gateway.transport({ tools: [{ name: "paint", description: "", parameters: {} }] });
  const chunks = await all((await transport.reconnectToStream({ chatId: "t" }))!);
  assert.deepEqual(kinds(chunks), [
    ...["start", "start-step", "tool-input-start", "tool-input-delta", "tool-output-available", "finish-step"],
    ...["start-step", "text-start", "text-delta", "text-end", "finish-step", "finish"],
  ]);
  assert.equal((chunks[0] as { messageId: string }).messageId, "first");
});

test("results of the page's tools and answers are sent; files and nothing at all are not", async () => {
  const events = await run(said("m", "ok"));
  const gateway = new Gateway({ "POST /agui/bot": [streamed(events), streamed(events), streamed(events)] });
  const transport = gateway.transport({ answer: ({ approved }) => ({ ok: approved }) });
  const tool = { type: "tool-paint", toolCallId: "c", input: {} } as const;
  const answered = (...parts: object[]): UIMessage => ({ id: "a", role: "assistant", parts: [{ type: "step-start" }, ...parts] as UIMessage["parts"] });
  const earlier = { ...tool, toolCallId: "old", state: "output-available", output: 1 };
  const step = { type: "step-start" };
  await all(await transport.sendMessages(sending([user("hi"), answered(earlier, step, { ...tool, state: "output-available", output: { n: 1 } })])));
  await all(await transport.sendMessages(sending([user("hi"), answered({ ...tool, state: "approval-responded", approval: { id: "q", approved: true } })])));
  const resume = [{ interruptId: "q", payload: 5 }];
  await all(await transport.sendMessages(sending([user("hi"), answered()], { body: { resume, mine: 1, busy: "reject" } })));
  assert.deepEqual(gateway.calls[0]?.body["messages"], [{ id: "c-result", role: "tool", toolCallId: "c", content: '{"n":1}' }]);
  assert.deepEqual(gateway.calls[1]?.body["resume"], [{ status: "resolved", interruptId: "q", payload: { ok: true } }]);
  assert.deepEqual(gateway.calls[2]?.body["resume"], [{ status: "resolved", interruptId: "q", payload: 5 }]);
  assert.deepEqual(gateway.calls[2]?.body["forwardedProps"], { mine: 1, narthex: { busy: "reject" } });
  const file: UIMessage = { id: "u", role: "user", parts: [{ type: "file", mediaType: "image/png", url: "data:" }] };
  await assert.rejects(transport.sendMessages(sending([file])), /text only/);
  await assert.rejects(transport.sendMessages(sending([user("hi"), answered()])), /nothing to send/);
  assert.equal(gateway.calls.length, 3);
});

test("a chat that follows gets another device's run, and leaves its own alone", async () => {
  const started = (runId: string, real: string): Event => ({ type: "RUN_STARTED", threadId: "t", runId, metadata: { narthex: { ...IDS, runId: real } } });
  const preamble: Event[] = [{ type: "RUN_STARTED", metadata: { narthex: { connect: true } } }, { type: "RUN_FINISHED" }];
  const own = await run(said("m", "Hello"));
  let push: (event: Event) => void = () => undefined;
  const follow = (): Response => {
    const encoder = new TextEncoder();
    return new Response(
      new ReadableStream<Uint8Array>({
        start: (body) => {
          let id = 0;
          push = (event) => body.enqueue(encoder.encode(`id: ${++id}-e\ndata: ${JSON.stringify(event)}\n\n`));
          preamble.forEach(push);
        },
      }),
    );
  };
  const gateway = new Gateway({
    "POST /agui/bot/connect": [follow],
    "POST /agui/bot": [streamed(own)],
    "GET /agui/bot/threads/t": [json({ ...EMPTY, messages: [{ id: "theirs", role: "user", content: "from elsewhere" }] })],
  });
  const transport = gateway.transport();
  const resumed: string[][] = [];
  const chat: FollowedChat<UIMessage> = {
    id: "t",
    status: "ready",
    messages: [],
    resumeStream: () => Promise.resolve(void resumed.push(chat.messages.map((message) => message.id))),
  };
  const leave = transport.follow(chat, assert.ifError);
  await until(() => gateway.count("/agui/bot/connect") === 1);
  await all(await transport.sendMessages(sending([user("hi")])));
  const { runId } = gateway.calls.find((call) => call.path === "/agui/bot")!.body as { runId: string };
  push(started(runId, "real-run"));
  push(started("theirs", "their-run"));
  await until(() => resumed.length > 0);
  assert.deepEqual(resumed, [["theirs"]]);
  leave();
});

test("a chat that follows reads the thread again after a cut over which the log does not reach", async () => {
  const preamble: Event[] = [{ type: "RUN_STARTED", metadata: { narthex: { connect: true } } }, { type: "RUN_FINISHED" }];
  const lost = json({ code: "position_lost", detail: "The stream cannot go on without a gap." }, 410);
  const gateway = new Gateway({
    "POST /agui/bot/connect": [streamed(preamble), lost, streamed(preamble)],
    "GET /agui/bot/threads/t": [json({ ...EMPTY, messages: [{ id: "meanwhile", role: "user", content: "from elsewhere" }] })],
  });
  const chat: FollowedChat<UIMessage> = { id: "t", status: "ready", messages: [], resumeStream: () => Promise.resolve() };
  const leave = gateway.transport().follow(chat, assert.ifError);
  await until(() => chat.messages.length > 0);
  leave();
  assert.deepEqual(chat.messages.map((message) => message.id), ["meanwhile"]);
});

test("a stored thread is the messages that its streams made", () => {
  const stored: StoredThread = {
    messages: [
      { id: "u1", role: "user", content: "one", name: "Ada" },
      { id: "u2", role: "user", content: "two" },
      { id: "r", role: "reasoning", content: "Hm." },
      { id: "a1", role: "assistant", content: "First.", toolCalls: [{ id: "c", function: { name: "look", arguments: "{}" } }] },
      { id: "c-result", role: "tool", toolCallId: "c", content: "[1]" },
      { id: "a2", role: "assistant", content: "Second." },
      { id: "d", role: "assistant", toolCalls: [{ id: "d", function: { name: "delete", arguments: "{" } }], content: "After it." },
      { id: "u3", role: "user", content: "three" },
    ],
    messageRuns: { r: "run-1", a1: "run-1", a2: "run-2", d: "run-3" },
    runs: [],
    endedRuns: [
      { runId: "run-1", messageId: "u1", parentRunId: "", state: "finished", usage: [{ inputTokens: 7 }], result: { sum: 8 } },
      { runId: "run-2", messageId: "u2", parentRunId: "", state: "interrupted", interrupts: [{ id: "q", message: "May I?", answeredBy: "ada" }] },
      { runId: "run-3", messageId: "u2", parentRunId: "run-2", state: "interrupted", interrupts: [{ id: "p", toolCallId: "d", answeredBy: "" }] },
      { runId: "run-4", messageId: "u3", parentRunId: "", state: "failed", error: "agent_failed", errorMessage: "No." },
    ],
  };
  const { messages } = new StoredChat(stored, () => false);
  const step = { type: "step-start" };
  assert.deepEqual(messages, [
    { id: "u1", role: "user", metadata: { narthex: { name: "Ada" } }, parts: [{ type: "text", text: "one" }] },
    { id: "u2", role: "user", parts: [{ type: "text", text: "two" }] },
    {
      id: "run-1",
      role: "assistant",
      metadata: { narthex: { runId: "run-1", state: "finished", usage: [{ inputTokens: 7 }], result: { sum: 8 } } },
      parts: [
        step,
        { type: "reasoning", id: "r", text: "Hm.", state: "done" },
        { type: "text", text: "First.", state: "done" },
        { type: "tool-look", toolCallId: "c", state: "output-available", input: {}, output: [1], providerExecuted: true },
      ],
    },
    {
      id: "run-2",
      role: "assistant",
      metadata: { narthex: { runId: "run-3", state: "interrupted" } },
      parts: [
        step,
        { type: "text", text: "Second.", state: "done" },
        { type: "data-interrupt", id: "q", data: { id: "q", message: "May I?", answeredBy: "ada" } },
        step,
        { type: "tool-delete", toolCallId: "d", state: "approval-requested", input: undefined, providerExecuted: true, approval: { id: "p" } },
        { type: "text", text: "After it.", state: "done" },
        { type: "data-interrupt", id: "p", data: { id: "p", toolCallId: "d", answeredBy: "" } },
      ],
    },
    { id: "u3", role: "user", parts: [{ type: "text", text: "three" }] },
    {
      id: "run-4",
      role: "assistant",
      metadata: { narthex: { runId: "run-4", state: "failed", error: { code: "agent_failed", message: "No." } } },
      parts: [step],
    },
  ] as unknown as UIMessage[]);
});
