/**
 * An agent for AG-UI clients (`@ag-ui/client`, CopilotKit, assistant-ui …) whose runs and threads a narthex gateway
 * keeps: `connectAgent()` replays the thread and follows the run that goes on, a stream that is cut goes on by itself,
 * and each run is proved by its digest.
 *
 * Rules: nothing is made up and nothing comes twice: the events are the gateway's, in its order; a stream goes on after
 * the last event that arrived, over HTTP and over the WebSocket alike, or fails with the gateway's reason. Leaving does not cancel a run;
 * `abortRun()` does.
 */

import { HttpAgent, type HttpAgentConfig } from "@ag-ui/client";
import { Observable, type Subscriber } from "rxjs";

import {
  DEFAULT_RETRIES,
  metaOf,
  Proofs,
  readEvents,
  refusalOf,
  sleep,
  TERMINAL,
  voidsAttempt,
  type RunProof,
  type StreamRequest,
  type Wire,
} from "./agui-stream.ts";
import { begins, BUSY_STEP_MS, queued, type BegunRun } from "./watching.ts";
import type { AguiSocket } from "./agui-socket.ts";
import type { Json } from "./events.ts";
import type { WebSocketConstructor } from "./websocket.ts";

export { AguiRefusal, Unreachable, type RunProof } from "./agui-stream.ts";

type RunAgentInput = Parameters<HttpAgent["run"]>[0];
type BaseEvent = ReturnType<HttpAgent["run"]> extends Observable<infer Event> ? Event : never;

export interface NarthexAgentConfig extends HttpAgentConfig {
  /** Asked before each request; the token goes into `Authorization`. `""` or null: a cookie may serve. */
  getToken?: () => Promise<string | null> | string | null;
  /** Called when a run has ended. */
  onProof?: (proof: RunProof) => void;
  /** Called when a run that this agent did not start begins, while `watch` is on. */
  onRun?: (run: { threadId: string; runId: string }) => void;
  /** What a message does in a thread with a run; default: as the agent declares. */
  busy?: "enqueue" | "reject" | "interrupt" | "steer";
  /** Attempts to go on after a cut, without an event in between. Default 8, which take half a minute. */
  retries?: number;
  /** `websocket`: runs and threads come over the gateway's WebSocket, all over one connection. Default `http`. */
  transport?: "http" | "websocket";
  /** With `websocket`. Default: `/ws` beside `/agui` of `url`. */
  socketUrl?: string;
  /** With `websocket`. Default: the global one. Node before 22 has none: pass the one of package `ws`. */
  WebSocket?: WebSocketConstructor;
}

/** A thread as the gateway keeps it, in AG-UI's form. */
export interface StoredThread {
  messages: Record<string, unknown>[];
  state: Json | null;
  interrupts: Record<string, unknown>[];
  /** Queued and running ones. */
  runs: { runId: string; state: string }[];
}

const END_AFTER_CANCEL_MS = 5_000;

/** See the module. `url` is the agent's, as `https://chat.example.org/agui/concierge`. */
export class NarthexAgent extends HttpAgent {
  readonly #config: NarthexAgentConfig;
  /** The connection of `transport: "websocket"`, made when it is first needed, so that a server may render the page. */
  #socket: Connection | null = null;
  /** The run that this agent streams, by the client's name; empty: none. */
  #running = "";
  /** Settled once the gateway has the run that this agent began last, or the request for it has failed. */
  #accepted: Promise<void> = Promise.resolve();
  /** Leaves what this agent or its follower streams. */
  #leave: () => void = () => undefined;
  /** Runs that this agent began. */
  readonly #started = new Set<string>();
  /** Runs of which it has the events. */
  readonly #streamed = new Set<string>();
  /** Whose runs its own are. */
  #follows: NarthexAgent | null = null;

  constructor(config: NarthexAgentConfig) {
    super(config);
    this.#config = config;
    if (config.transport !== "websocket") return;
    const { getToken, WebSocket } = config;
    this.#socket = new Connection(() => ({ url: config.socketUrl ?? socketUrl(this.url), getToken, WebSocket }));
  }

  /** The run in the AG-UI client's pipeline: begins it, and goes on after a cut. */
  override run(input: RunAgentInput): Observable<BaseEvent> {
    this.#running = input.runId;
    this.#started.add(input.runId);
    return this.#stream("", this.#wished(input, this.#config.busy === undefined ? {} : { busy: this.#config.busy }), false);
  }

  /** The thread so far, then the rest of its runs until none is left. For `connectAgent()`. */
  protected override connect(input: RunAgentInput): Observable<BaseEvent> {
    return this.#stream("/connect", input, true);
  }

  /**
   * The thread so far, and the rest of the run that goes on. A question that another device has answered is no reason
   * to refuse: the replay brings the open ones.
   */
  override connectAgent(...args: Parameters<HttpAgent["connectAgent"]>): ReturnType<HttpAgent["connectAgent"]> {
    this.pendingInterrupts = [];
    return super.connectAgent(...args);
  }

  /**
   * Cancels the run that is streamed, also one that this agent did not begin, at the gateway, which ends its stream; the
   * stream is left if that takes too long.
   */
  override abortRun(): void {
    const runId = this.#running;
    const controller = this.abortController;
    const leaveStream = this.#leave;
    const leave = (): void => {
      controller.abort();
      leaveStream();
    };
    if (runId === "") return leave();
    const timer = setTimeout(leave, END_AFTER_CANCEL_MS);
    (timer as { unref?: () => void }).unref?.(); // in Node it must not keep the process alive
    // The user may be faster than the request: a cancellation that overtook it would find no run.
    this.#accepted.then(() => this.cancel(runId)).catch(leave);
  }

  /** Cancel a run by the gateway's id or the client's; resolves to its state. */
  async cancel(runId: string): Promise<string> {
    if (this.#socket !== null) return (await this.#socket.open()).cancel(runId, this.#config.retries ?? DEFAULT_RETRIES);
    const path = `/runs/${encodeURIComponent(runId)}/cancel`;
    const response = await this.fetch(`${this.url}${path}`, { method: "POST", headers: await this.#headers() });
    if (!response.ok) throw await refusalOf(response);
    return ((await response.json()) as { state: string }).state;
  }

  /**
   * Follow runs that other devices or the server begin in the thread: each is brought in by `connectAgent()`. Returns a
   * function that stops it. It holds one stream open. `onError` gets what fails, also the refusal that ends the watch.
   */
  watch(onError?: (error: unknown) => void): () => void {
    return this.onRuns(
      () => this.connectAgent(),
      () => this.isRunning,
      onError,
    );
  }

  /**
   * Call `take` for each run that this agent has not streamed, one after the other, when the page is idle; and after a
   * cut over which runs may have been missed. Returns a function that stops it and aborts the signal.
   */
  onRuns(take: (signal: AbortSignal) => Promise<unknown>, isBusy: () => boolean, onError: (error: unknown) => void = () => undefined): () => void {
    const controller = new AbortController();
    const { signal } = controller;
    const input = this.#wished(this.prepareRunAgentInput(), { connect: true, follow: true });
    const bring = queued(async ({ runId }) => {
      while (isBusy() && !signal.aborted) await sleep(BUSY_STEP_MS, signal);
      if (signal.aborted || this.#streamed.has(runId)) return;
      this.pendingInterrupts = []; // another device may have answered; `take` reads what is open
      await take(signal);
    }, onError);
    const seen = (run: BegunRun): void => {
      bring(run);
      if (run.runId === "" || this.#started.has(run.runId)) return;
      try {
        this.#config.onRun?.({ threadId: this.threadId, runId: run.runId });
      } catch (error) {
        onError(error);
      }
    };
    this.#pump("/connect", input, true, signal, begins(seen)).catch(onError);
    return () => controller.abort();
  }

  /** The thread as it is stored: its messages, the agent's state, open questions, and the runs under way. */
  async thread(): Promise<StoredThread> {
    const response = await this.fetch(`${this.url}/threads/${encodeURIComponent(this.threadId)}`, { headers: await this.#headers() });
    if (!response.ok) throw await refusalOf(response);
    return (await response.json()) as StoredThread;
  }

  /** Another agent of the same thread, to read what goes on in it. Its runs are this one's: `abortRun()` cancels them. */
  follower(): NarthexAgent {
    const follower = this.clone();
    follower.setMessages([]);
    follower.#follows = this;
    return follower;
  }

  override clone(): NarthexAgent {
    const cloned = new NarthexAgent({ ...this.#config, url: this.url, headers: { ...this.headers }, threadId: this.threadId });
    cloned.agentId = this.agentId as string;
    cloned.setMessages(structuredClone(this.messages));
    cloned.setState(structuredClone(this.state));
    cloned.#socket = this.#socket; // one connection serves both
    return cloned;
  }

  /** Close the connection of `transport: "websocket"` now; by itself it closes a moment after its last stream. */
  close(): void {
    this.#socket?.close();
  }

  // -- inside ----------------------------------------------------------------------------------------------

  #wished(input: RunAgentInput, wishes: Record<string, unknown>): RunAgentInput {
    const props = (input.forwardedProps ?? {}) as Record<string, unknown>;
    const theirs = (props["narthex"] ?? {}) as Record<string, unknown>;
    return { ...input, forwardedProps: { ...props, narthex: { ...wishes, ...theirs } } };
  }

  async #headers(): Promise<Record<string, string>> {
    const token = await this.#config.getToken?.();
    return token ? { ...this.headers, Authorization: `Bearer ${token}` } : { ...this.headers };
  }

  #stream(path: string, input: RunAgentInput, connects: boolean): Observable<BaseEvent> {
    return new Observable<BaseEvent>((subscriber: Subscriber<BaseEvent>) => {
      const controller = new AbortController();
      const stop = (): void => controller.abort();
      const outer = this.abortController.signal;
      if (!connects) outer.addEventListener("abort", stop); // a connection outlives a run that was aborted before
      const noting = this.#follows ?? this;
      noting.#leave = stop;
      let accept = (): void => undefined;
      if (!connects) this.#accepted = new Promise((resolve) => (accept = resolve));
      let over = false; // the run of a follower: the next one is brought in by itself
      const proofs = new Proofs();
      const calls = new OpenCalls();
      const { onProof } = this.#config;
      const emit = (event: Wire): void => {
        if (onProof !== undefined) void proofs.take(event)?.then(onProof);
        if (!over) over = noting.#note(event) && noting !== this;
        calls.take(event);
        subscriber.next(calls.open ? (unsettled(event) as unknown as BaseEvent) : (event as unknown as BaseEvent));
      };
      this.#pump(path, input, connects, controller.signal, emit, accept)
        .finally(accept)
        .then(
          () => subscriber.complete(),
          (error: unknown) => (controller.signal.aborted ? subscriber.complete() : subscriber.error(error)),
        );
      return () => {
        outer.removeEventListener("abort", stop);
        controller.abort();
      };
    });
  }

  /** Note which run is streamed; true: it has ended. */
  #note(event: Wire): boolean {
    const runId = String(event["runId"]);
    if (event.type === "RUN_STARTED" && metaOf(event)["connect"] !== true) {
      this.#running = runId;
      this.#streamed.add(runId);
    } else if (this.#running !== "" && (event.type === "RUN_ERROR" || (TERMINAL.has(event.type) && runId === this.#running))) {
      this.#running = "";
      return true;
    }
    return false;
  }

  async #pump(
    path: string,
    input: RunAgentInput,
    connects: boolean,
    signal: AbortSignal,
    emit: (event: Wire) => void,
    onOpen?: () => void,
  ): Promise<void> {
    const follows = followed(input);
    const until = !connects ? "run" : follows ? "never" : "idle";
    const retries = follows ? Infinity : (this.#config.retries ?? DEFAULT_RETRIES); // a device may sleep for hours
    const opening = onOpen === undefined ? {} : { onOpen };
    if (this.#socket !== null) {
      const socket = await this.#socket.open();
      return socket.read({ agent: agentOf(this.url), input: { ...input }, until, retries, ...opening }, signal, emit);
    }
    const request: StreamRequest = {
      url: `${this.url}${path}`,
      body: JSON.stringify(input),
      headers: () => this.#headers(),
      fetch: this.fetch,
      until,
      retries,
      ...opening,
    };
    return readEvents(request, signal, emit);
  }
}

/** One connection for an agent and its clones. Pages over HTTP do not load what it needs. */
class Connection {
  readonly #options: () => ConstructorParameters<typeof AguiSocket>[0];
  #made: Promise<AguiSocket> | null = null;

  constructor(options: () => ConstructorParameters<typeof AguiSocket>[0]) {
    this.#options = options;
  }

  open(): Promise<AguiSocket> {
    this.#made ??= import("./agui-socket.ts")
      .then(({ AguiSocket }) => new AguiSocket(this.#options()))
      .catch((error: unknown) => {
        this.#made = null; // the next stream tries again
        throw error;
      });
    return this.#made;
  }

  close(): void {
    void this.#made?.then((socket) => socket.close()).catch(() => undefined);
  }
}

/** Calls of tools without a result. */
class OpenCalls {
  readonly #ids = new Set<unknown>();

  get open(): boolean {
    return this.#ids.size > 0;
  }

  take(event: Wire): void {
    if (event.type === "RUN_STARTED" || voidsAttempt(event)) this.#ids.clear();
    else if (event.type === "TOOL_CALL_START") this.#ids.add(event["toolCallId"]);
    else if (event.type === "TOOL_CALL_RESULT") this.#ids.delete(event["toolCallId"]);
  }
}

/**
 * A run that ended for a tool of the page, without the outcome `success`: assistant-ui takes that as an end of all calls,
 * and does not go on with the page's results. Every client reads a missing outcome as success.
 */
function unsettled(event: Wire): Wire {
  const { outcome, ...rest } = event as Wire & { outcome?: { type?: string } };
  return event.type === "RUN_FINISHED" && outcome?.type === "success" ? rest : event;
}

/** `https://host/base/agui/bot` → `bot`. */
function agentOf(url: string): string {
  return decodeURIComponent(new URL(url, base()).pathname.replace(/\/$/, "").split("/").at(-1) ?? "");
}

/** `https://host/base/agui/bot` → `wss://host/base/ws`. */
function socketUrl(agent: string): string {
  const url = new URL(agent, base());
  url.protocol = url.protocol.replace("http", "ws");
  url.pathname = url.pathname.replace(/\/agui\/[^/]*\/?$/, "/ws");
  url.search = "";
  return url.href;
}

const base = (): string | undefined => globalThis.location?.href;

function followed(input: RunAgentInput): boolean {
  const props = (input.forwardedProps ?? {}) as { narthex?: { follow?: boolean } };
  return props.narthex?.follow === true;
}
