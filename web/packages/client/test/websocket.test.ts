import assert from "node:assert/strict";
import test from "node:test";

import { Centrifuge } from "centrifuge";
import { WebSocket } from "ws";

import { narthexWebSocket, SignedOut, type Refusal, type WebSocketConstructor, type WebSocketOptions } from "@narthex/client";
import { gateway as anyGateway, problem, type Answer, type Gateway } from "./gateway.ts";

/** Just enough of the Centrifuge protocol to connect. */
function centrifuge(socket: WebSocket): void {
  socket.on("message", (data) => {
    for (const line of String(data).split("\n")) {
      const command = JSON.parse(line) as { id?: number; connect?: object };
      if (command.connect) socket.send(JSON.stringify({ id: command.id, connect: { client: "c1", version: "0", ping: 25, pong: true } }));
    }
  });
}

const gateway = (answer: (attempt: number) => Answer): Promise<Gateway> => anyGateway(answer, { admitted: centrifuge });

/** Connect an unmodified SDK through the helper until it is connected or gives up; at most `attempts` attempts. */
async function connect(url: string, options: WebSocketOptions, stopAfter = 10): Promise<{ state: string; code: number; reason: string; refusals: Refusal[] }> {
  const refusals: Refusal[] = [];
  const client = new Centrifuge(url, {
    websocket: narthexWebSocket({
      WebSocket: WebSocket as unknown as WebSocketConstructor,
      onRefused: (refusal) => refusals.push(refusal),
      ...options,
    }),
    minReconnectDelay: 5,
    maxReconnectDelay: 10,
  });
  const outcome = await new Promise<{ state: string; code: number; reason: string }>((resolve) => {
    let connecting = 0;
    client.on("connected", () => resolve({ state: "connected", code: 0, reason: "" }));
    client.on("disconnected", ({ code, reason }) => resolve({ state: "disconnected", code, reason }));
    client.on("error", () => {
      if (++connecting >= stopAfter) resolve({ state: "connecting", code: 0, reason: "" });
    });
    client.connect();
  });
  client.disconnect();
  return { ...outcome, refusals };
}

test("the subprotocol of the SDK's protobuf build is offered before the helper's own", async () => {
  const server = await gateway(() => ({ refuse: 401, problem: problem("token_expired", 401) }));
  const Socket = narthexWebSocket({ getToken: () => "a.b.c", WebSocket: WebSocket as unknown as WebSocketConstructor });
  for (const protocols of ["centrifuge-protobuf", ["centrifuge-protobuf"]]) {
    await new Promise<unknown>((resolve) => (new Socket(server.url, protocols).onclose = resolve));
  }
  await server.stop();
  const offered = ["centrifuge-protobuf", "jwt-auth", "jwt.a.b.c", "narthex.explain"];
  assert.deepEqual(server.offers, [offered, offered]);
});

test("a refused handshake reaches the SDK as one final close with its reason", async () => {
  const server = await gateway(() => ({ refuse: 401, problem: problem("token_expired", 401) }));
  const got = await connect(server.url, { getToken: () => "a.b.c" });
  await server.stop();
  assert.deepEqual([got.state, got.code, got.reason], ["disconnected", 3500, "token_expired: It expired 5 minutes ago."]);
  assert.equal(server.offers.length, 1);
  assert.deepEqual(server.offers[0], ["jwt-auth", "jwt.a.b.c", "narthex.explain"]);
  assert.equal(server.preflights[0]!.headers.authorization, "Bearer a.b.c");
  assert.equal(server.preflights[0]!.url, "/ws/preflight");
  const { code, detail, remedy, traceId, retries } = got.refusals[0]!;
  assert.deepEqual(
    [code, detail, remedy, traceId, retries],
    ["token_expired", "It expired 5 minutes ago.", "Refresh the token and connect again.", "0af7651916cd43dd", false],
  );
});

test("a gateway that upgrades to explain is passed through, and the remedy fetched", async () => {
  const reply = { explain: 3507, reason: "origin_not_allowed: This page may not connect.", problem: problem("origin_not_allowed", 403), status: 403 };
  const server = await gateway(() => reply);
  const told = new Promise<Refusal>((resolve) => {
    void connect(server.url, { onRefused: resolve }).then((got) => {
      assert.deepEqual([got.state, got.code, got.reason], ["disconnected", 3507, reply.reason]);
    });
  });
  const refusal = await told;
  await server.stop();
  assert.deepEqual(server.offers[0], ["jwt-auth", "narthex.explain"]);
  assert.deepEqual([refusal.code, refusal.close, refusal.remedy], ["origin_not_allowed", 3507, "Refresh the token and connect again."]);
});

test("503 makes the SDK come back, with a fresh token for each attempt", async () => {
  const busy = { ...problem("auth_unavailable", 503) };
  const server = await gateway((attempt) => (attempt < 3 ? { refuse: 503, problem: busy, headers: { "Retry-After": "2" } } : "admit"));
  let minted = 0;
  const got = await connect(server.url, { getToken: async () => `t${++minted}` });
  await server.stop();
  assert.equal(got.state, "connected");
  assert.deepEqual(server.offers.map((offer) => offer[1]), ["jwt.t1", "jwt.t2", "jwt.t3"]);
  assert.deepEqual(got.refusals.map((refusal) => [refusal.close, refusal.retryAfter, refusal.retries]), [[4002, 2, true], [4002, 2, true]]);
});

test("a proxy that eats the upgrade is named, and it stays retryable", async () => {
  const server = await gateway(() => ({ refuse: 404, preflight: 200 }));
  const got = await connect(server.url, {}, 2);
  await server.stop();
  assert.equal(got.state, "connecting");
  assert.equal(got.refusals[0]!.code, "handshake_blocked");
});

test("a proxy's own error page is no verdict: the SDK keeps trying", async () => {
  const server = await gateway(() => ({ refuse: 502, preflight: 502 }));
  const got = await connect(server.url, {}, 2);
  await server.stop();
  assert.equal(got.state, "connecting");
  assert.equal(got.refusals[0]!.code, "unreachable");
});

test("a token source that says nobody is signed in ends it at once; another failure is tried again", async () => {
  const server = await gateway(() => "admit");
  const out = await connect(server.url, { getToken: () => Promise.reject(new SignedOut("Your session ended.")) });
  assert.deepEqual([out.state, out.code, out.reason], ["disconnected", 3500, "auth_required: Your session ended."]);
  let calls = 0;
  const flaky = await connect(server.url, { getToken: () => (++calls < 3 ? Promise.reject(new Error("network")) : Promise.resolve("t")) });
  assert.deepEqual([flaky.state, calls], ["connected", 3]);
  const hanging = await connect(server.url, { timeoutMs: 20, getToken: () => new Promise(() => undefined) }, 2);
  await server.stop();
  assert.equal(hanging.state, "connecting");
});

test("a close after the connection was up is the server's own and asks nobody", async () => {
  const server = await gateway(() => "admit");
  const Socket = narthexWebSocket({ WebSocket: WebSocket as unknown as WebSocketConstructor });
  const socket = new Socket(server.url);
  await new Promise((resolve) => (socket.onopen = resolve));
  const closed = new Promise<{ code: number }>((resolve) => (socket.onclose = resolve));
  socket.close(1000, "bye");
  assert.equal((await closed).code, 1000);
  assert.equal(server.preflights.length, 0);
  await server.stop();
});
