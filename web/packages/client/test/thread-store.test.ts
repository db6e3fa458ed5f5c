/** ThreadStore over a scripted connection: sharing, coming back at once, gaps, refusals, order. */

import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";

import type { Centrifuge } from "centrifuge";

import { runDigest } from "../src/assembler.ts";
import type { AguiEvent } from "../src/events.ts";
import { send, threadStore, typist, type RunItem } from "../src/thread-store.ts";

class FakeSubscription extends EventEmitter {
  readonly channel: string;
  readonly since: unknown;
  state = "unsubscribed";

  constructor(channel: string, options: { since?: unknown }) {
    super();
    this.channel = channel;
    this.since = options.since;
  }

  subscribe(): void {
    this.state = "subscribed";
  }

  unsubscribe(): void {
    this.state = "unsubscribed";
  }

  presence(): Promise<unknown> {
    const one = (client: string, user: string, name: string) => ({ client, user, connInfo: { name } });
    return Promise.resolve({ clients: { a: one("a", "bob", "Bob"), b: one("b", "ada", "Ada"), c: one("c", "ada", "Ada") } });
  }

  publish(...events: object[]): void {
    for (const data of events) this.emit("publication", { data });
  }
}

class FakeClient {
  readonly calls: [string, unknown][] = [];
  readonly subscriptions: FakeSubscription[] = [];
  readonly answers: (() => unknown)[];

  constructor(...answers: (() => unknown)[]) {
    this.answers = answers;
  }

  rpc(method: string, data: unknown): Promise<{ data: unknown }> {
    this.calls.push([method, data]);
    return Promise.resolve().then(() => ({ data: (this.answers.length > 1 ? this.answers.shift() : this.answers[0])!() }));
  }

  getSubscription(channel: string): FakeSubscription | null {
    return this.subscriptions.find((one) => one.channel === channel) ?? null;
  }

  newSubscription(channel: string, options: object): FakeSubscription {
    const made = new FakeSubscription(channel, options);
    this.subscriptions.push(made);
    return made;
  }

  removeSubscription(subscription: FakeSubscription): void {
    this.subscriptions.splice(this.subscriptions.indexOf(subscription), 1);
  }

  get centrifuge(): Centrifuge {
    return this as unknown as Centrifuge;
  }
}

const row = (message_id: string, role: string, content: string, run_id = "", detail: object = {}) => ({
  ...{ message_id, role, author: role === "user" ? "ada" : "bot", content, run_id, detail: JSON.stringify(detail) },
});
const stored = (more: object = {}) => ({
  thread: { title: "A thread" },
  messages: [row("u1", "user", "one", "", { name: "Ada" }), row("a1", "assistant", "First.", "r1"), row("c1", "tool", "21", "r1", { toolCallName: "look", args: "{}" })],
  runs: [],
  outcomes: [{ run_id: "r1", state: "finished", attempt: 1, error: "", error_message: "", questions: [] }],
  channel: "thread:t",
  offset: 5,
  epoch: "e",
  ...more,
});

async function runOf(runId: string, text: string): Promise<object[]> {
  const events = [
    { type: "RUN_STARTED" },
    { type: "TEXT_MESSAGE_START", messageId: `${runId}-m`, role: "assistant" },
    { type: "TEXT_MESSAGE_CONTENT", messageId: `${runId}-m`, delta: text },
    { type: "TEXT_MESSAGE_END", messageId: `${runId}-m` },
    { type: "RUN_FINISHED", outcome: { type: "success" } },
  ].map((event, at) => ({ ...event, threadId: "t", runId, seq: at + 1 }));
  const digest = await runDigest(events as unknown as AguiEvent[]);
  return [...events.slice(0, -1), { ...events.at(-1), count: 5, digest }];
}

const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));
const until = async (holds: () => boolean): Promise<void> => {
  for (let turn = 0; !holds() && turn < 2_000; turn += 1) await settled();
};
const texts = (item: RunItem | undefined) => item?.view.parts.map((part) => (part.kind === "text" ? part.text : part.kind));

test("stored messages, then what the channel brings, in one order and without doubles", async () => {
  const client = new FakeClient(() => stored());
  const store = threadStore(client.centrifuge, "t");
  let told = 0;
  const leave = store.subscribe(() => (told += 1));
  assert.equal(store.state().status, "loading");
  await settled();
  const [subscription] = client.subscriptions;
  assert.deepEqual(subscription?.since, { offset: 5, epoch: "e" });
  const said = [
    { type: "TEXT_MESSAGE_START", messageId: "u2", role: "user", name: "Bob", userId: "bob", threadId: "t" },
    { type: "TEXT_MESSAGE_CONTENT", messageId: "u2", delta: "two", threadId: "t" },
    { type: "TEXT_MESSAGE_END", messageId: "u2", threadId: "t" },
  ];
  const first = store.state().items[0];
  told = 0;
  subscription?.publish(...said, ...said, ...(await runOf("r1", "again")), ...(await runOf("r2", "Second.")));
  await until(() => store.run()?.complete === true); // the digest is made on another thread
  assert.ok(told <= 3, `${told} calls for one burst`);
  const { title, items, status } = store.state();
  assert.deepEqual([title, status], ["A thread", "ready"]);
  assert.deepEqual(items.map((item) => item.id), ["u1", "r1", "u2", "r2"]);
  assert.equal(items[0], first, "what did not change is the same object");
  assert.deepEqual(items[2], { kind: "message", id: "u2", userId: "bob", name: "Bob", text: "two" });
  assert.deepEqual(texts(store.run("r1")), ["First.", "tool"]);
  assert.deepEqual([texts(store.run()), store.run()?.complete, store.run()?.view.phase], [["Second."], true, "finished"]);
  leave();
});

test("a component that leaves and comes back in one tick costs nothing; one that stays away ends the subscription", async () => {
  const client = new FakeClient(() => stored());
  for (let mount = 0; mount < 200; mount += 1) {
    const first = threadStore(client.centrifuge, "t").subscribe(() => undefined);
    first();
    const leave = threadStore(client.centrifuge, "t").subscribe(() => undefined);
    await Promise.resolve();
    if (mount < 199) leave();
    else setTimeout(leave, 5);
  }
  await settled();
  assert.equal(client.calls.length, 1);
  assert.equal(client.subscriptions.length, 1);
  await new Promise((resolve) => setTimeout(resolve, 700));
  assert.equal(client.subscriptions.length, 0);
  assert.equal(threadStore(client.centrifuge, "t").state().status, "idle");
});

test("a gap that the log does not reach back over is closed by reading again", async () => {
  const client = new FakeClient(() => stored(), () => stored({ thread: { title: "Read again" }, offset: 900 }));
  const store = threadStore(client.centrifuge, "t");
  const leave = store.subscribe(() => undefined);
  await settled();
  client.subscriptions[0]?.emit("subscribed", { wasRecovering: true, recovered: false });
  await settled();
  assert.equal(store.state().title, "Read again");
  assert.deepEqual(client.subscriptions.map((one) => one.since), [{ offset: 900, epoch: "e" }]);
  leave();
});

test("a refusal is final and is said; another error is tried again", async () => {
  const refuse = (code: number) => (): never => {
    throw Object.assign(new Error("thread_not_found: No such thread."), { code });
  };
  const gone = threadStore(new FakeClient(refuse(404)).centrifuge, "t");
  const leave = gone.subscribe(() => undefined);
  await settled();
  assert.deepEqual([gone.state().status, gone.state().error?.message], ["failed", "thread_not_found: No such thread."]);
  leave();
  const client = new FakeClient(refuse(503), () => stored());
  const store = threadStore(client.centrifuge, "t");
  const left = store.subscribe(() => undefined);
  await settled();
  assert.equal(store.state().status, "loading");
  await new Promise((resolve) => setTimeout(resolve, 1_050));
  assert.equal(store.state().status, "ready");
  left();
});

test("a removed member is told, and a page's own subscription is left alone", async () => {
  const client = new FakeClient(() => stored());
  const store = threadStore(client.centrifuge, "t");
  const leave = store.subscribe(() => undefined);
  await settled();
  client.subscriptions[0]?.emit("unsubscribed", { code: 103, reason: "permission denied" });
  await settled();
  assert.deepEqual([store.state().status, store.state().error?.message], ["failed", "permission denied"]);
  leave();
  const other = new FakeClient(() => stored());
  const own = other.newSubscription("thread:t", {});
  const blocked = threadStore(other.centrifuge, "t");
  const left = blocked.subscribe(() => undefined);
  await settled();
  assert.match(blocked.state().error?.message ?? "", /subscription to thread:t of its own/);
  assert.deepEqual(other.subscriptions, [own]);
  left();
});

test("who is there, once for each user, and who types", async () => {
  const client = new FakeClient(() => stored());
  const store = threadStore(client.centrifuge, "t");
  const leave = store.subscribe(() => undefined);
  await settled();
  const [subscription] = client.subscriptions;
  subscription?.emit("subscribed", { wasRecovering: false, recovered: false });
  await settled();
  const names = () => store.presence().users.map((user) => user.name);
  assert.deepEqual(names(), ["Ada", "Bob"]);
  subscription?.emit("leave", { info: { client: "b" } });
  assert.deepEqual(names(), ["Ada", "Bob"], "she has another tab");
  subscription?.emit("leave", { info: { client: "c" } });
  subscription?.emit("join", { info: { client: "d", user: "eve", connInfo: { name: "Eve" } } });
  subscription?.publish({ type: "CUSTOM", name: "narthex.typing", value: { userId: "eve", name: "Eve" }, threadId: "t" });
  await settled();
  assert.deepEqual([names(), store.presence().typing.map((user) => user.name)], [["Bob", "Eve"], ["Eve"]]);
  assert.ok(store.presence().users.includes(store.presence().typing[0]!), "one object for a user");
  leave();
});

test("a user who types says so once in three seconds, in each thread", (context) => {
  let now = 10_000;
  context.mock.method(Date, "now", () => now);
  const client = new FakeClient(() => ({}));
  const type = typist(client.centrifuge);
  for (const at of [null, "t", "t", "other"]) type(at);
  now = 12_999;
  type("other");
  now = 13_000;
  type("other");
  assert.deepEqual(client.calls.map(([, data]) => (data as { thread_id: string }).thread_id), ["t", "other", "other"]);
});

test("a message without a thread begins one", async () => {
  const client = new FakeClient(() => ({ thread_id: "new", run_id: "r" }));
  assert.deepEqual(await send(client.centrifuge, null, "hi", { clientMessageId: "m", busy: "reject" }), { threadId: "new", runId: "r" });
  assert.deepEqual(client.calls, [["run.start", { text: "hi", client_message_id: "m", busy: "reject" }]]);
});

test("a run without messages stands behind the one that it answers, and a question knows whether it has an answer", async () => {
  const question = (answered_by: string) => ({ interrupt_id: "q", text: "May I?", schema: "{}", answered_by });
  const client = new FakeClient(() =>
    stored({
      messages: [row("u1", "user", "one"), row("u2", "user", "two"), row("a3", "assistant", "Done.", "r3")],
      outcomes: [
        { run_id: "r1", message_id: "u1", parent_run_id: "", state: "interrupted", attempt: 1, error: "", error_message: "", questions: [question("ada")] },
        { run_id: "r2", message_id: "u1", parent_run_id: "r1", state: "interrupted", attempt: 1, error: "", error_message: "", questions: [question("")] },
        { run_id: "r3", message_id: "u2", parent_run_id: "", state: "finished", attempt: 1, error: "", error_message: "", questions: [] },
      ],
    }),
  );
  const store = threadStore(client.centrifuge, "t");
  const leave = store.subscribe(() => undefined);
  await settled();
  assert.deepEqual(store.state().items.map((item) => item.id), ["u1", "r1", "r2", "u2", "r3"]);
  assert.deepEqual(["r1", "r2", "r3"].map((id) => store.run(id)?.answered), [true, false, false]);
  client.subscriptions[0]!.publish({ type: "RUN_STARTED", threadId: "t", runId: "r4", parentRunId: "r2", seq: 1 });
  await settled();
  assert.equal(store.run("r2")?.answered, true);
  assert.equal(store.run("r2")?.view.interrupts.length, 1);
  leave();
});
