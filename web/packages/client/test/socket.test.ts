/** The drop-in class against a real server: what a page sees of attempts, refusals, drops, sleep and going offline. */

import assert from "node:assert/strict";
import test from "node:test";

import { WebSocket as NodeSocket } from "ws";

import {
  narthexSocket,
  SignedOut,
  type Refusal,
  type SocketCloseEvent,
  type SocketConstructor,
  type SocketOptions,
  type WebSocketConstructor,
} from "@narthex/client";
import { gateway, problem, type Answer } from "./gateway.ts";

/** The class with short waits. */
function quick(options: SocketOptions = {}): SocketConstructor {
  return narthexSocket({ WebSocket: NodeSocket as unknown as WebSocketConstructor, minDelayMs: 5, maxDelayMs: 10, ...options });
}

/** Everything that a socket said so far, and waiting for more. */
class Heard {
  readonly events: string[] = [];
  readonly closes: SocketCloseEvent[] = [];
  #waiting: { count: number; type: string; resolve: () => void }[] = [];

  constructor(socket: WebSocket) {
    for (const type of ["open", "message", "error", "close"] as const) {
      socket.addEventListener(type, (event) => {
        if (type === "close") this.closes.push(event as SocketCloseEvent);
        this.events.push(type === "message" ? `message ${String((event as MessageEvent).data)}` : type);
        this.#waiting = this.#waiting.filter(({ count, type: wanted, resolve }) => this.#count(wanted) < count || resolve());
      });
    }
  }

  #count(type: string): number {
    return this.events.filter((event) => event.split(" ")[0] === type).length;
  }

  /** Until the n-th event of a type. */
  until(type: string, count = 1): Promise<void> {
    if (this.#count(type) >= count) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ count, type, resolve }));
  }
}

const turn = (ms = 0): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const expired: Answer = { explain: 3500, reason: "token_expired: It expired 5 minutes ago.", problem: problem("token_expired", 401), status: 401 };
const forged: Answer = { explain: 3500, reason: "token_invalid: No key verifies it.", problem: problem("token_invalid", 401), status: 401 };

test("it has the interface of the plain class", async () => {
  const server = await gateway(() => "admit", { admitted: (ws) => ws.on("message", (data, binary) => ws.send(data, { binary })) });
  const Socket = quick();
  const socket: WebSocket = new Socket(server.url); // the types fit
  const said = new Heard(socket);
  assert.deepEqual([Socket.CONNECTING, Socket.OPEN, Socket.CLOSING, Socket.CLOSED], [0, 1, 2, 3]);
  assert.deepEqual([socket.CONNECTING, socket.OPEN, socket.CLOSING, socket.CLOSED], [0, 1, 2, 3]);
  assert.deepEqual([socket.url, socket.readyState, socket.binaryType, socket.bufferedAmount], [server.url, 0, "blob", 0]);
  socket.binaryType = "arraybuffer";
  await said.until("open");
  assert.deepEqual([socket.readyState, socket.protocol, socket.binaryType], [1, "", "arraybuffer"]);
  socket.send("hello");
  await said.until("message");
  const binary = new Promise<unknown>((resolve) => (socket.onmessage = (event) => resolve(event.data)));
  socket.send(new Uint8Array([1, 2, 3]));
  assert.deepEqual(new Uint8Array((await binary) as ArrayBuffer), new Uint8Array([1, 2, 3]));
  socket.close(1000, "bye");
  assert.equal(socket.readyState, 2);
  await said.until("close");
  const [end] = said.closes;
  assert.deepEqual([end!.code, end!.reason, end!.wasClean, end!.willReconnect, socket.readyState], [1000, "bye", true, false, 3]);
  assert.deepEqual(said.events.filter((event) => !event.startsWith("message")), ["open", "close"]);
  assert.equal(server.offers.length, 1);
  await server.stop();
});

test("the application's own subprotocol stays; ours are not shown", async () => {
  const server = await gateway(() => "admit");
  const socket = new (quick({ getToken: () => "a.b.c" }))(server.url, ["chat.v1", "chat.v0"]);
  await new Heard(socket).until("open");
  assert.equal(socket.protocol, "chat.v1");
  assert.deepEqual(server.offers[0], ["chat.v1", "chat.v0", "jwt-auth", "jwt.a.b.c", "narthex.explain"]);
  socket.close();
  await server.stop();
});

test("a lost connection comes back, with a fresh token for each attempt", async () => {
  const server = await gateway((attempt) => (attempt === 2 ? { refuse: 502, preflight: 502 } : "admit"), {
    admitted: (ws, attempt) => (attempt === 1 ? ws.terminate() : ws.send(`hello ${attempt}`)),
  });
  let minted = 0;
  const socket = new (quick({ getToken: async () => `t${++minted}` }))(server.url);
  const said = new Heard(socket);
  await said.until("message");
  assert.deepEqual(server.offers.map((offer) => offer[1]), ["jwt.t1", "jwt.t2", "jwt.t3"]);
  assert.deepEqual(said.events, ["open", "close", "error", "close", "open", "message hello 3"]);
  assert.deepEqual(said.closes.map((event) => [event.code, event.willReconnect]), [[1006, true], [1006, true]]);
  socket.close();
  await server.stop();
});

test("a refusal is one close with the real reason, without an `open` before it, and final", async () => {
  const answers: Answer[] = [forged, { refuse: 401, problem: problem("token_revoked", 401) }];
  for (const answer of answers) {
    const server = await gateway(() => answer);
    let tell!: (refusal: Refusal) => void;
    const refused = new Promise<Refusal>((resolve) => (tell = resolve));
    const socket = new (quick({ getToken: () => "a.b.c", onRefused: tell }))(server.url);
    const said = new Heard(socket);
    await said.until("close");
    const [end] = said.closes;
    assert.deepEqual([end!.code, end!.willReconnect, socket.readyState, said.events.includes("open")], [3500, false, 3, false]);
    assert.match(end!.reason, /^token_(invalid|revoked): /);
    assert.equal(end!.refusal!.code, end!.reason.split(":")[0]);
    assert.equal((await refused).remedy, "Refresh the token and connect again."); // a request later
    await turn(50);
    assert.equal(server.offers.length, 1);
    await server.stop();
  }
});

test("a token that went stale is renewed once, at once; a second refusal is final", async () => {
  for (const again of ["admit", expired] as const) {
    const server = await gateway((attempt) => (attempt === 1 ? expired : again));
    const asked: boolean[] = [];
    const getToken = (request: { expired: boolean }): string => (asked.push(request.expired), "t");
    // No wait but the one of a renewal would end within this test.
    const socket = new (quick({ getToken, minDelayMs: 1e6, maxDelayMs: 1e6 }))(server.url);
    const said = new Heard(socket);
    await said.until(again === "admit" ? "open" : "close", again === "admit" ? 1 : 2);
    assert.deepEqual(asked, [false, true]);
    assert.deepEqual(said.closes.map((event) => event.willReconnect), again === "admit" ? [true] : [true, false]);
    socket.close();
    await server.stop();
  }
});

test("the close code decides: revoked and done are final, an ended token and a restart are not", async () => {
  const final = [1000, 1008, 3500, 3503, 4500];
  for (const code of [...final, 1001, 1011, 1012, 1013, 3001, 3005, 3011, 4002]) {
    const server = await gateway(() => "admit", { admitted: (ws, attempt) => attempt === 1 && ws.close(code, "why: because") });
    const asked: boolean[] = [];
    const socket = new (quick({ getToken: ({ expired: stale }) => (asked.push(stale), "") }))(server.url);
    const said = new Heard(socket);
    await said.until("close");
    assert.deepEqual([said.closes[0]!.code, said.closes[0]!.willReconnect], [code, !final.includes(code)]);
    if (!final.includes(code)) {
      await said.until("open", 2);
      assert.deepEqual(asked, [false, code === 3005]);
    }
    socket.close();
    await server.stop();
  }
});

test("the page decides about codes of its own", async () => {
  const server = await gateway(() => "admit", { admitted: (ws, attempt) => ws.close(attempt === 1 ? 1000 : 4400, "") });
  const seen: number[] = [];
  const reconnect = ({ code }: { code: number }): boolean | undefined => (seen.push(code), code === 1000);
  const socket = new (quick({ reconnect }))(server.url);
  await new Heard(socket).until("close", 2);
  assert.deepEqual([seen, socket.readyState], [[1000, 4400], 3]);
  await server.stop();
});

test("waits are random up to a limit that doubles, after what the server asked for", async (context) => {
  const server = await gateway(() => ({ refuse: 503, problem: problem("overloaded", 503), headers: { "Retry-After": "2" } }));
  const waits: number[] = [];
  const real = globalThis.setTimeout;
  context.mock.method(Math, "random", () => 0.999999);
  context.mock.method(globalThis, "setTimeout", (work: () => void, ms = 0, ...more: unknown[]) => {
    if (String(work).includes("#begin")) waits.push(Math.round(ms));
    return real(work, String(work).includes("#begin") ? 0 : ms, ...more);
  });
  const socket = new (narthexSocket({ WebSocket: NodeSocket as unknown as WebSocketConstructor }))(server.url);
  const said = new Heard(socket);
  await said.until("close", 8);
  assert.deepEqual(waits, [1, 2, 4, 8, 16, 30, 30, 30].map((s) => 2000 + s * 1000));
  assert.equal(said.closes[0]!.refusal!.retryAfter, 2);
  context.mock.method(Math, "random", () => 0);
  await said.until("close", 9);
  assert.equal(waits[8], 2000);
  socket.close();
  await server.stop();
});

test("offline it is silent; online again it connects", async (context) => {
  const device = new EventTarget();
  const globals = { navigator: { onLine: false }, addEventListener: device.addEventListener.bind(device), removeEventListener: device.removeEventListener.bind(device) };
  const before = Object.getOwnPropertyDescriptors(globalThis);
  for (const [name, value] of Object.entries(globals)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  context.after(() => {
    for (const name of Object.keys(globals)) {
      if (before[name]) Object.defineProperty(globalThis, name, before[name]!);
      else delete (globalThis as Record<string, unknown>)[name];
    }
  });
  const server = await gateway(() => "admit");
  const { port } = new URL(server.url);
  let asked = 0;
  const mapped = class extends NodeSocket {
    constructor(url: string, protocols?: string[]) {
      super(url.replace("chat.example.org", "127.0.0.1"), protocols);
    }
  } as unknown as WebSocketConstructor;
  const socket = new (quick({ WebSocket: mapped, getToken: () => (++asked, "") }))(`ws://chat.example.org:${port}/ws`);
  const said = new Heard(socket);
  await turn(60);
  assert.deepEqual([said.events, asked, socket.readyState], [[], 0, 0]);
  globals.navigator.onLine = true;
  device.dispatchEvent(new Event("online"));
  await said.until("open");
  // A drop while offline is one close, and then silence.
  globals.navigator.onLine = false;
  server.sockets[0]!.terminate();
  await said.until("close");
  await turn(60);
  assert.equal(asked, 1);
  socket.close();
  await said.until("close", 2);
  globals.navigator.onLine = true;
  device.dispatchEvent(new Event("online"));
  await turn(60);
  assert.equal(asked, 1); // closed for good
  // A server on this machine needs no network.
  globals.navigator.onLine = false;
  const local = new (quick())(server.url);
  await new Heard(local).until("open");
  local.close();
  await server.stop();
});

test("after sleep a silent connection is replaced, with a fresh token", async (context) => {
  const server = await gateway(() => "admit");
  const asked: boolean[] = [];
  const real = globalThis.setTimeout;
  context.mock.method(globalThis, "setTimeout", (work: () => void, ms = 0, ...more: unknown[]) => real(work, ms === 3_000 ? 30 : ms, ...more));
  const socket = new (quick({ sleepMs: 90, getToken: ({ expired: stale }) => (asked.push(stale), "t") }))(server.url);
  const said = new Heard(socket);
  await said.until("open");
  const now = Date.now;
  let slept = 0;
  context.mock.method(Date, "now", () => now() + slept);
  slept = 3_600_000;
  await said.until("open", 2);
  assert.deepEqual(asked, [false, true]);
  assert.deepEqual([said.closes[0]!.code, said.closes[0]!.reason.split(":")[0], said.closes[0]!.willReconnect], [1006, "slept", true]);
  socket.close();
  await server.stop();
});

test("after sleep a connection that speaks is kept", async (context) => {
  const server = await gateway(() => "admit");
  const real = globalThis.setTimeout;
  context.mock.method(globalThis, "setTimeout", (work: () => void, ms = 0, ...more: unknown[]) => real(work, ms === 3_000 ? 100 : ms, ...more));
  const socket = new (quick({ sleepMs: 90 }))(server.url);
  const said = new Heard(socket);
  await said.until("open");
  const now = Date.now;
  let slept = 0;
  context.mock.method(Date, "now", () => now() + slept);
  slept = 3_600_000;
  const speaking = setInterval(() => server.sockets[0]!.send("here"), 10);
  await turn(300);
  clearInterval(speaking);
  assert.deepEqual([said.closes, server.offers.length], [[], 1]);
  socket.close();
  await server.stop();
});

test("messages are kept only where the page allows it, and go after its own first ones", async () => {
  const server = await gateway((attempt) => (attempt === 1 ? { refuse: 502, preflight: 502 } : "admit"), {
    admitted: (ws) => ws.on("message", (data) => ws.send(String(data))),
  });
  const strict = new (quick())(server.url);
  assert.throws(() => strict.send("lost"), { name: "InvalidStateError" });
  strict.close();
  const socket = new (quick({ buffer: 2 }))(server.url);
  const said = new Heard(socket);
  socket.onopen = () => socket.send("join");
  socket.send("ä");
  socket.send(new TextEncoder().encode("two"));
  assert.equal(socket.bufferedAmount, 5);
  assert.throws(() => socket.send("three"), { name: "InvalidStateError" });
  await said.until("message", 3);
  assert.deepEqual(said.events.filter((event) => event.startsWith("message")), ["message join", "message ä", "message two"]);
  assert.equal(socket.bufferedAmount, 0);
  socket.close();
  await said.until("close");
  socket.send("gone");
  assert.equal(socket.bufferedAmount, 4);
  await server.stop();
});

test("close ends it in every state; arguments are checked as the plain class checks them", async () => {
  const server = await gateway(() => ({ refuse: 502, preflight: 502 }));
  const socket = new (quick({ minDelayMs: 1e6, maxDelayMs: 1e6 }))(server.url);
  const said = new Heard(socket);
  assert.throws(() => socket.close(1001), { name: "InvalidAccessError" });
  assert.throws(() => socket.close(3000, "ü".repeat(62)), { name: "SyntaxError" });
  await said.until("close");
  assert.equal(socket.readyState, 0);
  socket.close();
  assert.equal(socket.readyState, 2);
  await said.until("close", 2);
  assert.deepEqual([said.closes[1]!.code, said.closes[1]!.willReconnect, socket.readyState], [1006, false, 3]);
  const early = new (quick({ getToken: () => new Promise(() => undefined) }))(server.url);
  early.close();
  await new Heard(early).until("close");
  assert.equal(server.offers.length, 1);
  await server.stop();
  for (const url of ["ftp://example.org/ws", "ws://example.org/#part", "nonsense"]) {
    assert.throws(() => new (quick())(url), { name: "SyntaxError" });
  }
  for (const protocols of [["a", "a"], ["a b"], [""]]) {
    assert.throws(() => new (quick())("ws://127.0.0.1:1/ws", protocols), { name: "SyntaxError" });
  }
});

test("a ticket is fetched for each attempt, and no token goes with the handshake", async () => {
  const server = await gateway(() => "admit", {
    admitted: (ws, attempt) => attempt === 1 && ws.terminate(),
    ticket: (attempt) => (attempt === 3 ? [401, problem("token_revoked", 401)] : [201, { ticket: `ticket-${attempt}` }]),
  });
  const socket = new (quick({ ticket: true, getToken: () => "a.b.c" }))(`${server.url}?room=7`);
  const said = new Heard(socket);
  await said.until("open", 2);
  assert.deepEqual(server.upgrades.map(({ url }) => url), ["/ws?room=7&ticket=ticket-1", "/ws?room=7&ticket=ticket-2"]);
  assert.deepEqual(server.offers[0], ["jwt-auth", "narthex.explain"]);
  assert.deepEqual([server.tickets[0]!.method, server.tickets[0]!.headers.authorization], ["POST", "Bearer a.b.c"]);
  server.sockets[1]!.terminate();
  await said.until("close", 2);
  await said.until("close", 3);
  assert.deepEqual([said.closes[2]!.code, said.closes[2]!.refusal!.code, said.closes[2]!.willReconnect], [3500, "token_revoked", false]);
  assert.equal(server.offers.length, 2);
  await server.stop();
});

test("a handshake that nobody answers is given up, and tried again", async () => {
  const server = await gateway((attempt) => (attempt === 1 ? "silence" : "admit"));
  const socket = new (quick({ connectTimeoutMs: 2_000 }))(server.url); // the second handshake must be answered within it
  const said = new Heard(socket);
  await said.until("open");
  assert.deepEqual(said.events, ["error", "close", "open"]);
  socket.close();
  await server.stop();
});

test("a user who is not signed in ends it; after the sign-in `reconnect` begins anew", async () => {
  const server = await gateway(() => "admit");
  let user = "";
  const getToken = (): string => {
    if (!user) throw new SignedOut("Please sign in again.");
    return user;
  };
  const socket = new (quick({ getToken }))(server.url);
  const said = new Heard(socket);
  await said.until("close");
  assert.deepEqual([said.closes[0]!.code, said.closes[0]!.reason, socket.readyState], [3500, "auth_required: Please sign in again.", 3]);
  user = "ann";
  socket.reconnect();
  assert.equal(socket.readyState, 0);
  await said.until("open");
  user = "bob";
  socket.reconnect();
  await said.until("open", 2);
  assert.deepEqual(server.offers.map((offer) => offer[1]), ["jwt.ann", "jwt.bob"]);
  assert.deepEqual(said.events, ["close", "open", "close", "open"]);
  socket.close();
  await server.stop();
});

test("a handler is replaced, removed, and independent of listeners", async () => {
  const server = await gateway(() => "admit", { admitted: (ws) => ws.on("message", (data) => ws.send(String(data))) });
  const socket = new (quick())(server.url);
  const said = new Heard(socket);
  const calls: string[] = [];
  const both = (): number => calls.push("both");
  socket.addEventListener("message", both);
  socket.onmessage = () => calls.push("replaced");
  socket.onmessage = both;
  assert.equal(socket.onmessage, both);
  await said.until("open");
  socket.send("1");
  await said.until("message");
  assert.deepEqual(calls, ["both", "both"]);
  socket.onmessage = null;
  assert.equal(socket.onmessage, null);
  socket.send("2");
  await said.until("message", 2);
  assert.deepEqual(calls, ["both", "both", "both"]);
  socket.close();
  await server.stop();
});
