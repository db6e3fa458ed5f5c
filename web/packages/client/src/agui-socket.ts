/**
 * Reads AG-UI events from a gateway over its WebSocket (docs/ag-ui.md): the requests are the RPC methods `agui.*`, the
 * events come on the thread's channel, whose subscription goes on by itself after a cut.
 *
 * Rules: as over HTTP (`agui-stream.ts`): the events are the gateway's, in its order, under the client's names, and none
 * comes twice. One connection serves all streams of an agent; it is closed a moment after the last one has ended.
 */

import type { Centrifuge, Subscription } from "centrifuge";

import { AguiRefusal, POSITION_LOST, sleep, TERMINAL, Unreachable, voidsAttempt, type Wire } from "./agui-stream.ts";
import { narthexWebSocket, type WebSocketConstructor } from "./websocket.ts";

export interface SocketOptions {
  /** As `wss://chat.example.org/ws`. */
  url: string;
  getToken?: (() => Promise<string | null> | string | null) | undefined;
  /** Default: the global one. Node before 22 has none: pass the one of package `ws`. */
  WebSocket?: WebSocketConstructor | undefined;
}

/** What an agent asks for. */
export interface SocketRequest {
  agent: string;
  /** AG-UI's RunAgentInput. */
  input: Record<string, unknown> & { threadId: string; runId: string };
  /** As of `agui-stream.ts`; `run` begins one, the others replay a thread and follow its runs. */
  until: "run" | "idle" | "never";
  /** Failed attempts to connect or to ask, one after the other. */
  retries: number;
  /** Called when the gateway has the run. */
  onOpen?: () => void;
}

const FIRST_RETRY_MS = 250;
const MAX_RETRY_MS = 8_000;
const LINGER_MS = 2_000;
const LOOK_AGAIN_MS = 10_000;
const MAX_REQUEST_CHARS = 60_000;

interface Position {
  offset: number;
  epoch: string;
}

interface Reply extends Position {
  thread_id: string;
  run_id?: string;
  parent_run_id?: string;
  channel: string;
  events?: Wire[];
  ended?: string[];
}

interface Names {
  threadId: string;
  runId: string;
  parentRunId: string;
}

/** See the module. */
export class AguiSocket {
  readonly #options: SocketOptions;
  readonly #channels = new Map<string, Channel>();
  #client: Promise<Centrifuge> | null = null;
  #streams = 0;
  #linger: ReturnType<typeof setTimeout> | undefined;

  constructor(options: SocketOptions) {
    this.#options = options;
  }

  /**
   * Read a stream to its end. Resolves early when `signal` is aborted.
   *
   * Rejects with `AguiRefusal`, or with `Unreachable` when no attempt came through.
   */
  async read(request: SocketRequest, signal: AbortSignal, emit: (event: Wire) => void): Promise<void> {
    await this.#held(async (client) => {
      for (let attempt = 0; !signal.aborted; attempt += 1) {
        const inbox = new Inbox(client, request.retries, signal);
        try {
          if (request.until === "run") await this.#run(client, request, inbox, emit);
          else await this.#connect(client, request, inbox, emit);
          return;
        } catch (error) {
          if (signal.aborted) return;
          // A stream without an end replays its thread again.
          if (request.until !== "never" || !(error instanceof AguiRefusal) || error.code !== POSITION_LOST) throw error;
        } finally {
          inbox.close();
        }
        await sleep(Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** attempt), signal);
      }
    });
  }

  /** Cancel a run by the gateway's id or the client's; resolves to its state. */
  async cancel(runId: string, retries: number): Promise<string> {
    let state = "";
    await this.#held(async (client) => {
      const inbox = new Inbox(client, retries, new AbortController().signal);
      try {
        state = (await inbox.ask<{ state: string }>("agui.cancel", { run_id: runId })).state;
      } finally {
        inbox.close();
      }
    });
    return state;
  }

  /** Close the connection now; streams that are open fail. */
  close(): void {
    clearTimeout(this.#linger);
    void this.#client?.then((client) => client.disconnect());
    this.#client = null;
    this.#channels.clear();
  }

  async #held(work: (client: Centrifuge) => Promise<void>): Promise<void> {
    clearTimeout(this.#linger);
    this.#streams += 1;
    try {
      this.#client ??= this.#open();
      this.#client.catch(() => (this.#client = null));
      await work(await this.#client);
    } finally {
      this.#streams -= 1;
      if (this.#streams === 0) this.#linger = setTimeout(() => this.close(), LINGER_MS);
      (this.#linger as { unref?: () => void } | undefined)?.unref?.();
    }
  }

  async #open(): Promise<Centrifuge> {
    const { Centrifuge } = await import("centrifuge");
    const { url, getToken, WebSocket } = this.#options;
    const token = (await getToken?.()) ?? "";
    const client = new Centrifuge(url, {
      websocket: narthexWebSocket({ ...(getToken ? { getToken } : {}), ...(WebSocket ? { WebSocket } : {}) }),
      minReconnectDelay: FIRST_RETRY_MS,
      maxReconnectDelay: MAX_RETRY_MS,
      // A token that ends is renewed on the connection; a cookie is not: the gateway closes, and the SDK comes back.
      ...(token && getToken ? { token, getToken: async () => (await getToken()) ?? "" } : {}),
    });
    client.connect();
    return client;
  }

  async #run(client: Centrifuge, request: SocketRequest, inbox: Inbox, emit: (event: Wire) => void): Promise<void> {
    const input = { ...request.input, messages: news(request.input["messages"] as Message[]) };
    const reply = await inbox.ask<Reply>("agui.run", { agent: request.agent, input });
    request.onOpen?.();
    const { threadId, runId } = request.input;
    const names = { threadId, runId, parentRunId: reply.parent_run_id ?? "" };
    await this.#listening(client, reply, inbox, async () => {
      for (;;) {
        const event = await inbox.next();
        if (event === null || event["runId"] !== reply.run_id || event["seq"] === undefined) continue;
        if (voidsAttempt(event)) for (const before of await this.#before(inbox, reply.run_id as string)) emit(before);
        emit(pure(event, names));
        if (TERMINAL.has(event.type)) return;
      }
    });
  }

  async #connect(client: Centrifuge, request: SocketRequest, inbox: Inbox, emit: (event: Wire) => void): Promise<void> {
    const params = { agent: request.agent, input: { ...request.input, messages: [] } };
    let reply = await inbox.ask<Reply>("agui.connect", params);
    for (const event of reply.events ?? []) emit(event);
    while (reply.thread_id === "") {
      if (request.until === "idle") return;
      await inbox.noticed(); // the thread is not there yet: another device may begin it
      reply = await inbox.ask<Reply>("agui.connect", params);
    }
    const feed = new Feed(
      reply,
      (runId) => this.#names(inbox, request.input.threadId, runId),
      (runId) => this.#before(inbox, runId),
    );
    await this.#listening(client, reply, inbox, async () => {
      let look = true;
      for (;;) {
        const event = inbox.waiting();
        if (event !== undefined) {
          for (const out of await feed.take(event)) {
            emit(out);
            look ||= TERMINAL.has(out.type);
          }
        } else if (request.until === "idle" && feed.current === "" && look) {
          if (await this.#isIdle(inbox, reply.thread_id, feed)) return;
          look = false;
        } else {
          look = !(await inbox.arrived(LOOK_AGAIN_MS)) || look;
        }
      }
    });
  }

  async #names(inbox: Inbox, threadId: string, runId: string): Promise<Names> {
    const found = await inbox.ask<{ run_id: string; parent_run_id: string }>("agui.names", { run_id: runId });
    return { threadId, runId: found.run_id, parentRunId: found.parent_run_id };
  }

  /** The thread as it was before a run whose agent begins anew: what the void attempt has shown is dropped by it. */
  async #before(inbox: Inbox, runId: string): Promise<Wire[]> {
    try {
      return (await inbox.ask<{ events: Wire[] }>("agui.before", { run_id: runId })).events;
    } catch (error) {
      if (error instanceof AguiRefusal) return []; // an earlier version of the gateway does not have the method
      throw error;
    }
  }

  /** Whether no run of the thread is queued or running, but for those whose end was emitted. */
  async #isIdle(inbox: Inbox, threadId: string, feed: Feed): Promise<boolean> {
    const { runs } = await inbox.ask<{ runs: { run_id: string }[] }>("thread.get", { thread_id: threadId, limit: 1 });
    return !inbox.pending && runs.every((run) => feed.ended.has(run.run_id));
  }

  async #listening(client: Centrifuge, reply: Reply, inbox: Inbox, work: () => Promise<void>): Promise<void> {
    let channel = this.#channels.get(reply.channel);
    if (channel === undefined) this.#channels.set(reply.channel, (channel = new Channel(client, reply.channel)));
    const leave = channel.listen({ offset: reply.offset, epoch: reply.epoch }, inbox);
    try {
      await inbox.subscribed();
      await work();
    } finally {
      if (leave()) this.#channels.delete(reply.channel);
    }
  }
}

/** A stream's place in a channel, and where what comes goes. */
interface Listener extends Position {
  inbox: Inbox;
}

/** The one subscription to a channel that the SDK allows, for several streams, each from a position of its own. */
class Channel {
  readonly #client: Centrifuge;
  readonly #name: string;
  readonly #listeners = new Set<Listener>();
  #subscription: Subscription | null = null;

  constructor(client: Centrifuge, name: string) {
    this.#client = client;
    this.#name = name;
  }

  /** Let an inbox have all after a position. Returns a function that ends that; it says whether it was the last one. */
  listen(since: Position, inbox: Inbox): () => boolean {
    const listener: Listener = { ...since, inbox };
    this.#listeners.add(listener);
    this.#subscribe();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return false;
      this.#unsubscribe();
      return true;
    };
  }

  #unsubscribe(): void {
    if (this.#subscription === null) return;
    this.#subscription.removeAllListeners();
    this.#subscription.unsubscribe();
    this.#client.removeSubscription(this.#subscription);
    this.#subscription = null;
  }

  /** Anew, from the earliest position that a listener needs; the others drop what they have. */
  #subscribe(): void {
    this.#unsubscribe();
    const { offset, epoch } = [...this.#listeners].reduce((one, other) => (other.offset < one.offset ? other : one));
    const subscription = this.#client.newSubscription(this.#name, { since: { offset, epoch } });
    this.#subscription = subscription;
    subscription.on("subscribed", (context) => {
      const lost = context.wasRecovering && !context.recovered;
      for (const { inbox } of [...this.#listeners]) {
        if (lost) inbox.fail(new AguiRefusal(POSITION_LOST, 410, "The stream cannot go on without a gap. Connect again."));
        else inbox.opened();
      }
    });
    subscription.on("publication", ({ data, offset: at }) => {
      for (const listener of [...this.#listeners]) {
        if (at === undefined || at <= listener.offset) continue;
        listener.offset = at;
        listener.inbox.push(data as Wire);
      }
    });
    subscription.on("unsubscribed", ({ code, reason }) => {
      for (const { inbox } of [...this.#listeners]) inbox.fail(refusal(code, reason));
    });
    subscription.subscribe();
  }
}

/** What arrives for one stream, and its questions to the gateway. Every wait ends with the signal. */
class Inbox {
  readonly #client: Centrifuge;
  readonly #retries: number;
  readonly #signal: AbortSignal;
  readonly #events: Wire[] = [];
  #fault: Error | null = null;
  #subscribed = false;
  #notices = 0;
  #failures = 0;
  #wake: () => void = () => undefined;

  readonly #onError = (): void => {
    this.#failures += 1;
    if (this.#failures > this.#retries) this.fail(new Unreachable(null));
  };
  readonly #onConnected = (): void => void (this.#failures = 0);
  readonly #onDisconnected = (context: { code: number; reason: string }): void => this.fail(refusal(context.code, context.reason));
  readonly #onPublication = (): void => {
    this.#notices += 1;
    this.#wake();
  };
  readonly #onAbort = (): void => this.fail(new Error("aborted"));

  constructor(client: Centrifuge, retries: number, signal: AbortSignal) {
    this.#client = client;
    this.#retries = retries;
    this.#signal = signal;
    client.on("error", this.#onError);
    client.on("connected", this.#onConnected);
    client.on("disconnected", this.#onDisconnected);
    client.on("publication", this.#onPublication); // of server-side subscriptions: the user's notices
    signal.addEventListener("abort", this.#onAbort);
    if (signal.aborted) this.#onAbort();
    if (client.state === "disconnected") client.connect(); // a refusal ended it before
  }

  close(): void {
    this.#client.off("error", this.#onError);
    this.#client.off("connected", this.#onConnected);
    this.#client.off("disconnected", this.#onDisconnected);
    this.#client.off("publication", this.#onPublication);
    this.#signal.removeEventListener("abort", this.#onAbort);
  }

  push(event: Wire): void {
    this.#events.push(event);
    this.#wake();
  }

  opened(): void {
    this.#subscribed = true;
    this.#wake();
  }

  fail(fault: Error): void {
    this.#fault ??= fault;
    this.#wake();
  }

  get pending(): boolean {
    return this.#events.length > 0;
  }

  /** The next event that is here. Throws the fault once all were read. */
  waiting(): Wire | undefined {
    if (this.#events.length === 0 && this.#fault !== null) throw this.#fault;
    return this.#events.shift();
  }

  async next(): Promise<Wire | null> {
    await this.arrived(0);
    return this.waiting() ?? null;
  }

  /** Wait for an event; false when none came within `ms` (0: no end). */
  arrived(ms: number): Promise<boolean> {
    return this.#until(() => this.#events.length > 0, ms);
  }

  async subscribed(): Promise<void> {
    await this.#until(() => this.#subscribed, 0);
    if (this.#fault !== null) throw this.#fault;
  }

  /** Wait for a notice of the user's own channel; a reconnection may have missed one. */
  async noticed(): Promise<void> {
    const before = this.#notices;
    await this.#until(() => this.#notices > before, LOOK_AGAIN_MS);
    if (this.#fault !== null) throw this.#fault;
  }

  /** An RPC method's result; a failure that passes is tried again. */
  async ask<T>(method: string, params: Record<string, unknown>): Promise<T> {
    if (JSON.stringify(params).length > MAX_REQUEST_CHARS)
      throw new AguiRefusal("input_too_large", 413, 'The request is over 60 KB. Send less state and context, or use `transport: "http"`.');
    for (let attempt = 0; ; attempt += 1) {
      if (this.#fault !== null) throw this.#fault;
      try {
        return (await this.#client.rpc(method, params)).data as T;
      } catch (error) {
        const { code, message } = error as { code: number; message: string };
        const passes = code < 100 || code === 429 || code >= 500;
        if (!passes) throw refusal(code, message);
        if (attempt >= this.#retries) throw code < 100 ? new Unreachable(error) : refusal(code, message);
        const pause = Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** attempt);
        await sleep(pause * (0.5 + Math.random() / 2), this.#signal);
      }
    }
  }

  /** Wait until `holds`, a fault, or for `ms`. */
  #until(holds: () => boolean, ms: number): Promise<boolean> {
    return new Promise((resolve) => {
      const check = (timedOut = false): void => {
        if (!holds() && this.#fault === null && !timedOut) return;
        clearTimeout(timer);
        this.#wake = () => undefined;
        resolve(holds());
      };
      const timer = ms > 0 ? setTimeout(() => check(true), ms) : undefined;
      this.#wake = check;
      check();
    });
  }
}

/** Turns a thread's publications into one run after the other, as the gateway does over HTTP. */
class Feed {
  readonly ended: Set<string>;
  current = "";
  readonly #known: Set<unknown>;
  readonly #namesOf: (runId: string) => Promise<Names>;
  readonly #before: (runId: string) => Promise<Wire[]>;
  #names: Names = { threadId: "", runId: "", parentRunId: "" };
  #between: Wire[] = [];

  constructor(reply: Reply, namesOf: (runId: string) => Promise<Names>, before: (runId: string) => Promise<Wire[]>) {
    this.#before = before;
    const snapshot = reply.events?.find((event) => event.type === "MESSAGES_SNAPSHOT");
    this.ended = new Set(reply.ended);
    this.#known = new Set(((snapshot?.["messages"] ?? []) as { id: string }[]).map((message) => message.id));
    this.#namesOf = namesOf;
  }

  /** The events that a publication stands for. */
  async take(event: Wire): Promise<Wire[]> {
    const runId = event["runId"];
    if (typeof runId !== "string" || event["seq"] === undefined) return this.#say(event);
    if (this.ended.has(runId)) return [];
    if (this.current === "" && event.type === "RUN_STARTED") {
      this.current = runId;
      this.#names = await this.#namesOf(runId);
    } else if (runId !== this.current) {
      this.ended.add(runId); // cancelled in the queue: its two events, beside the run that goes on
      return [];
    }
    const out = [pure(event, this.#names)];
    if (voidsAttempt(event)) {
      const before = await this.#before(runId);
      for (const snapshot of before) {
        for (const { id } of (snapshot["messages"] ?? []) as { id: string }[]) this.#known.add(id);
        this.#between = []; // the snapshot has what users sent meanwhile
      }
      out.unshift(...before);
    }
    if (event.type === "RUN_STARTED") out.push(...this.#between.splice(0));
    if (TERMINAL.has(event.type)) {
      this.ended.add(runId);
      this.current = "";
    }
    return out;
  }

  /** A person's message or a result of their tool comes within the next run: AG-UI has no events between runs. */
  #say(event: Wire): Wire[] {
    const members = BETWEEN[event.type];
    if (members === undefined || this.#known.has(event["messageId"])) return [];
    const kept = Object.fromEntries(members.map((name) => [name, event[name]]).filter(([, value]) => value !== undefined && value !== ""));
    this.#between.push({ ...kept, type: event.type, metadata: { narthex: { between: true } } });
    return [];
  }
}

const BETWEEN: Record<string, string[]> = {
  TEXT_MESSAGE_START: ["type", "messageId", "role", "name"],
  TEXT_MESSAGE_CONTENT: ["type", "messageId", "delta"],
  TEXT_MESSAGE_END: ["type", "messageId"],
  TOOL_CALL_RESULT: ["type", "messageId", "toolCallId", "content", "role"],
};

const OURS = new Set(["threadId", "runId", "seq", "seq_from", "count", "digest"]);

/** A published event in AG-UI's form, under the client's names: `narthex.app.agui.names.pure` in Python. */
function pure(event: Wire, names: Names): Wire {
  const kept = Object.fromEntries(Object.entries(event).filter(([name]) => !OURS.has(name))) as Wire;
  const started = event.type === "RUN_STARTED";
  if (started || event.type === "RUN_FINISHED") {
    kept["threadId"] = names.threadId;
    kept["runId"] = names.runId;
    if (kept["parentRunId"]) kept["parentRunId"] = names.parentRunId || kept["parentRunId"];
  }
  if (!started && !TERMINAL.has(event.type)) return kept;
  const ids = started ? ["threadId", "runId", "parentRunId"] : ["threadId", "runId", "count", "digest"];
  kept["metadata"] = { narthex: Object.fromEntries(ids.filter((name) => name in event).map((name) => [name, event[name]])) };
  return kept;
}

interface Message {
  role: string;
}

/** What the gateway does not have yet: the last user message, or the results of tools after it. */
function news(messages: Message[]): Message[] {
  const other = messages.findLastIndex((message) => message.role !== "tool");
  if (other < messages.length - 1) return messages.slice(other + 1);
  return messages.filter((message) => message.role === "user").slice(-1);
}

/** `name: what happened. What to do.`, of an RPC error or a close. */
function refusal(code: number, message: string): AguiRefusal {
  const [, name = "", words = message] = /^([a-z][a-z0-9_]*): (.*)$/s.exec(message) ?? [];
  return new AguiRefusal(name, code, words);
}
