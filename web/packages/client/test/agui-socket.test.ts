/** AguiSocket with centrifuge-js over a scripted gateway: what acceptance tests do not show of cuts and refusals. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { WebSocket, type WebSocket as Socket } from "ws";

import { AguiSocket, type SocketRequest } from "../src/agui-socket.ts";
import type { Wire } from "../src/agui-stream.ts";
import { gateway } from "./gateway.ts";

type Command = { id?: number; [member: string]: unknown };
type Answer = (params: Record<string, unknown>) => { result?: object; error?: { code: number; message: string } };

interface Script {
  rpc: Record<string, Answer>;
  /** Of the n-th subscription. */
  subscribe?: (attempt: number, since: Record<string, unknown>) => object;
}

/** The part of the Centrifuge protocol that is needed; publications come with the reply to a subscription. */
async function scripted(script: Script, work: (agui: AguiSocket, asked: [string, Record<string, unknown>][]) => Promise<void>): Promise<void> {
  const asked: [string, Record<string, unknown>][] = [];
  let subscriptions = 0;
  const admitted = (socket: Socket): void => {
    socket.on("message", (raw: Buffer) => {
      for (const line of raw.toString().split("\n")) {
        const command = JSON.parse(line) as Command;
        const reply = (member: string, body: object): void => socket.send(JSON.stringify({ id: command.id, [member]: body }));
        if ("connect" in command) reply("connect", { client: "c", version: "1", ping: 25, pong: true });
        else if ("unsubscribe" in command) reply("unsubscribe", {});
        else if ("subscribe" in command) reply("subscribe", script.subscribe?.(++subscriptions, command["subscribe"] as never) ?? { recoverable: true, epoch: "e", offset: 0 });
        else if ("rpc" in command) {
          const { method, data } = command["rpc"] as { method: string; data: Record<string, unknown> };
          asked.push([method, data]);
          const { result, error } = script.rpc[method]!(data);
          if (error) reply("error", error);
          else reply("rpc", { data: result });
        }
      }
    });
  };
  const server = await gateway(() => "admit", { admitted });
  const agui = new AguiSocket({ url: server.url, getToken: () => "token", WebSocket });
  try {
    await work(agui, asked);
  } finally {
    agui.close();
    await server.stop();
  }
}

const REPLY = { thread_id: "t", run_id: "real", parent_run_id: "", channel: "thread:t", offset: 4, epoch: "e" };
const IDS = { threadId: "t", runId: "real" };
const RUN = [
  { type: "RUN_STARTED", ...IDS, seq: 1, parentRunId: "before" },
  { type: "TEXT_MESSAGE_START", ...IDS, seq: 2, messageId: "m", role: "assistant" },
  { type: "RUN_FINISHED", ...IDS, seq: 3, count: 3, digest: "d", outcome: { type: "success" } },
];

function request(more: Partial<SocketRequest> = {}, messages: object[] = []): SocketRequest {
  return { agent: "bot", input: { threadId: "mine", runId: "r", messages }, until: "run", retries: 3, ...more };
}

async function read(agui: AguiSocket, asked: SocketRequest): Promise<Wire[]> {
  const events: Wire[] = [];
  await agui.read(asked, new AbortController().signal, (event) => events.push(event));
  return events;
}

test("a run's events come under the client's names, once, and only its own", async () => {
  const subscribe = (attempt: number, since: Record<string, unknown>): object => {
    assert.deepEqual([attempt, since["offset"], since["epoch"]], [1, 4, "e"]);
    const other = { type: "RUN_FINISHED", threadId: "t", runId: "other", seq: 9 };
    const publications = [RUN[0], { type: "TEXT_MESSAGE_START", threadId: "t", messageId: "u", role: "user" }, other, ...RUN.slice(1)];
    return { recoverable: true, recovered: true, was_recovering: true, epoch: "e", offset: 9, publications: publications.map((data, at) => ({ data, offset: 5 + at })) };
  };
  await scripted({ rpc: { "agui.run": () => ({ result: { ...REPLY, parent_run_id: "parent" } }) }, subscribe }, async (agui, asked) => {
    const user = { id: "u", role: "user", content: "hi" };
    const events = await read(agui, request({}, [{ id: "x", role: "user", content: "old" }, { id: "a", role: "assistant" }, user]));
    assert.deepEqual(events, [
      { type: "RUN_STARTED", threadId: "mine", runId: "r", parentRunId: "parent", metadata: { narthex: { ...IDS, parentRunId: "before" } } },
      { type: "TEXT_MESSAGE_START", messageId: "m", role: "assistant" },
      { type: "RUN_FINISHED", threadId: "mine", runId: "r", outcome: { type: "success" }, metadata: { narthex: { ...IDS, count: 3, digest: "d" } } },
    ]);
    const sent = asked[0]![1]["input"] as { messages: object[] };
    assert.deepEqual(sent.messages, [user]); // the gateway has the others
  });
});

test("results of the page's tools are sent without what came before", async () => {
  const rpc = { "agui.run": (): { error: { code: number; message: string } } => ({ error: { code: 404, message: "thread_not_found: No such thread. Look again." } }) };
  await scripted({ rpc }, async (agui, asked) => {
    const results = [{ id: "1", role: "tool", toolCallId: "a" }, { id: "2", role: "tool", toolCallId: "b" }];
    const refused = read(agui, request({}, [{ id: "u", role: "user" }, { id: "x", role: "assistant" }, ...results]));
    await assert.rejects(refused, { name: "AguiRefusal", code: "thread_not_found", status: 404, message: "No such thread. Look again." });
    assert.deepEqual((asked[0]![1]["input"] as { messages: object[] }).messages, results);
  });
});

test("a failure that passes is tried again, one that lasts is told", async () => {
  let left = 2;
  const rpc: Script["rpc"] = {
    "agui.cancel": () => (left-- > 0 ? { error: { code: 503, message: "store: It is away. Try again." } } : { result: { run_id: "real", state: "running" } }),
  };
  await scripted({ rpc }, async (agui, asked) => {
    assert.equal(await agui.cancel("r", 3), "running");
    assert.equal(asked.length, 3);
    left = 99;
    await assert.rejects(agui.cancel("r", 1), { code: "store", status: 503 });
    assert.equal(asked.length, 5);
  });
});

test("a position that is lost ends the stream with a reason", async () => {
  const subscribe = (): object => ({ recoverable: true, recovered: false, was_recovering: true, epoch: "other", offset: 2 });
  await scripted({ rpc: { "agui.run": () => ({ result: REPLY }) }, subscribe }, async (agui) => {
    await assert.rejects(read(agui, request()), { code: "position_lost", status: 410 });
  });
});

test("a stream without an end replays its thread again where a position is lost", async () => {
  const subscribe = (attempt: number): object => ({ recoverable: true, recovered: attempt > 1, was_recovering: true, epoch: "e", offset: 4 });
  const events = [{ type: "RUN_STARTED", metadata: { narthex: { connect: true } } }, { type: "RUN_FINISHED" }];
  await scripted({ rpc: { "agui.connect": () => ({ result: { ...REPLY, events, ended: [] } }) }, subscribe }, async (agui, asked) => {
    const controller = new AbortController();
    const got: string[] = [];
    await agui.read(request({ until: "never" }), controller.signal, ({ type }) => {
      if (got.push(type) === 4) controller.abort();
    });
    assert.deepEqual(got, ["RUN_STARTED", "RUN_FINISHED", "RUN_STARTED", "RUN_FINISHED"]);
    assert.deepEqual(asked.map(([method]) => method), ["agui.connect", "agui.connect"]);
  });
});

test("a request that no frame holds is refused before it is sent", async () => {
  await scripted({ rpc: {} }, async (agui, asked) => {
    const large = request({ input: { threadId: "mine", runId: "r", messages: [], state: "x".repeat(70_000) } });
    await assert.rejects(read(agui, large), { code: "input_too_large", status: 413 });
    assert.equal(asked.length, 0);
  });
});

test("a message between runs comes within the next one, and a run that is stored is left out", async () => {
  const said = [
    { type: "TEXT_MESSAGE_START", threadId: "t", messageId: "u2", role: "user", name: "" },
    { type: "TEXT_MESSAGE_CONTENT", threadId: "t", messageId: "u2", delta: "more" },
    { type: "TEXT_MESSAGE_END", threadId: "t", messageId: "u2" },
  ];
  const known = { type: "TEXT_MESSAGE_START", threadId: "t", messageId: "u1", role: "user" };
  const stored = { type: "RUN_STARTED", threadId: "t", runId: "stored", seq: 1 };
  const snapshot = [{ type: "MESSAGES_SNAPSHOT", messages: [{ id: "u1", role: "user", content: "hi" }] }];
  const rpc: Script["rpc"] = {
    "agui.connect": () => ({ result: { ...REPLY, events: snapshot, ended: ["stored"] } }),
    "agui.names": () => ({ result: { run_id: "theirs", parent_run_id: "" } }),
    "thread.get": () => ({ result: { runs: done ? [] : [{ run_id: "real" }] } }),
  };
  let done = false;
  const publications = [known, stored, ...said, ...RUN].map((data, at) => ({ data, offset: 5 + at }));
  const subscribe = (): object => ({ recoverable: true, recovered: true, was_recovering: true, epoch: "e", offset: 12, publications });
  await scripted({ rpc, subscribe }, async (agui) => {
    const events: Wire[] = [];
    await agui.read(request({ until: "idle" }), new AbortController().signal, (event) => {
      events.push(event);
      done ||= event.type === "RUN_FINISHED";
    });
    const between = { metadata: { narthex: { between: true } } };
    assert.deepEqual(events.slice(2, 5), [
      { type: "TEXT_MESSAGE_START", messageId: "u2", role: "user", ...between },
      { type: "TEXT_MESSAGE_CONTENT", messageId: "u2", delta: "more", ...between },
      { type: "TEXT_MESSAGE_END", messageId: "u2", ...between },
    ]);
    assert.deepEqual(events.map((event) => event["runId"]).filter(Boolean), ["theirs", "theirs"]);
    assert.equal(events.length, 7);
  });
});

test("a reader that leaves ends its stream at once", async () => {
  await scripted({ rpc: { "agui.run": () => ({ result: REPLY }) } }, async (agui) => {
    const controller = new AbortController();
    const reading = agui.read(request(), controller.signal, () => undefined);
    setTimeout(() => controller.abort(), 50);
    await reading;
  });
});

test("an agent that begins anew puts the thread back to before its run", async () => {
  const anew = [RUN[0]!, RUN[1]!, { type: "CUSTOM", ...IDS, seq: 3, name: "narthex.restarted", value: { attempt: 2 } }, { ...RUN[2]!, seq: 4 }];
  const subscribe = (): object => ({
    recoverable: true,
    recovered: true,
    was_recovering: true,
    epoch: "e",
    offset: 8,
    publications: anew.map((data, at) => ({ data, offset: 5 + at })),
  });
  const between = { metadata: { narthex: { between: true } } };
  const snapshot = { type: "MESSAGES_SNAPSHOT", messages: [{ id: "u", role: "user", content: "hi" }], ...between };
  const earlier = { error: { code: 104, message: "method not found" } };
  let answer: ReturnType<Answer> = { result: { events: [snapshot] } };
  const rpc = { "agui.run": () => ({ result: REPLY }), "agui.before": () => answer };
  await scripted({ rpc, subscribe }, async (agui, asked) => {
    const sent = request({}, [{ id: "u", role: "user", content: "hi" }]);
    const events = await read(agui, sent);
    assert.deepEqual(asked.at(-1), ["agui.before", { run_id: "real" }]);
    assert.deepEqual(
      events.map((event) => event.type),
      ["RUN_STARTED", "TEXT_MESSAGE_START", "MESSAGES_SNAPSHOT", "CUSTOM", "RUN_FINISHED"],
    );
    assert.deepEqual(events[2], snapshot);
    answer = earlier; // of a gateway of an earlier version
    assert.deepEqual(
      (await read(agui, sent)).map((event) => event.type),
      ["RUN_STARTED", "TEXT_MESSAGE_START", "CUSTOM", "RUN_FINISHED"],
    );
  });
});
