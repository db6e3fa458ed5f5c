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

import { AguiSocket } from "./agui-socket.ts";
import { DEFAULT_RETRIES, metaOf, Proofs, readEvents, refusalOf, type RunProof, type StreamRequest, type Wire } from "./agui-stream.ts";

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

const END_AFTER_CANCEL_MS = 5_000;

/** See the module. `url` is the agent's, as `https://chat.example.org/agui/concierge`. */
export class NarthexAgent extends HttpAgent {
  readonly #config: NarthexAgentConfig;
  #socket: AguiSocket | null = null;
  #running = "";

  constructor(config: NarthexAgentConfig) {
    super(config);
    this.#config = config;
    if (config.transport !== "websocket") return;
    const url = config.socketUrl ?? socketUrl(this.url);
    this.#socket = new AguiSocket({ url, getToken: config.getToken, WebSocket: config.WebSocket });
  }

  /** The run in the AG-UI client's pipeline: begins it, and goes on after a cut. */
  override run(input: RunAgentInput): Observable<BaseEvent> {
    this.#running = input.runId;
    return this.#stream("", this.#wished(input, this.#config.busy === undefined ? {} : { busy: this.#config.busy }), false);
  }

  /** The thread so far, then the rest of its runs until none is left. For `connectAgent()`. */
  protected override connect(input: RunAgentInput): Observable<BaseEvent> {
    return this.#stream("/connect", input, true);
  }

  /** Cancels the run at the gateway, which ends its stream; the stream is left if that takes too long. */
  override abortRun(): void {
    const runId = this.#running;
    const controller = this.abortController;
    const leave = setTimeout(() => controller.abort(), END_AFTER_CANCEL_MS);
    (leave as { unref?: () => void }).unref?.(); // in Node it must not keep the process alive
    if (runId === "") controller.abort();
    else this.cancel(runId).catch(() => controller.abort());
  }

  /** Cancel a run by the gateway's id or the client's; resolves to its state. */
  async cancel(runId: string): Promise<string> {
    if (this.#socket !== null) return this.#socket.cancel(runId, this.#config.retries ?? DEFAULT_RETRIES);
    const path = `/runs/${encodeURIComponent(runId)}/cancel`;
    const response = await this.fetch(`${this.url}${path}`, { method: "POST", headers: await this.#headers() });
    if (!response.ok) throw await refusalOf(response);
    return ((await response.json()) as { state: string }).state;
  }

  /**
   * Follow runs that other devices or the server begin in the thread: each is brought in by `connectAgent()`. Returns a
   * function that stops it. It holds one stream open.
   */
  watch(): () => void {
    const controller = new AbortController();
    const input = this.#wished(this.prepareRunAgentInput(), { connect: true, follow: true });
    const seen = new Subscription(async (event) => {
      const meta = metaOf(event);
      if (event.type !== "RUN_STARTED" || meta.connect === true || event["runId"] === this.#running) return;
      this.#config.onRun?.({ threadId: String(event["threadId"]), runId: String(event["runId"]) });
      if (!this.isRunning) await this.connectAgent();
    });
    void this.#pump("/connect", input, true, controller.signal, (event) => seen.take(event)).catch(() => undefined);
    return () => controller.abort();
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
      const proofs = new Proofs();
      const { onProof } = this.#config;
      const emit = (event: Wire): void => {
        if (onProof !== undefined) void proofs.take(event)?.then(onProof);
        subscriber.next(event as unknown as BaseEvent);
      };
      this.#pump(path, input, connects, controller.signal, emit).then(
        () => subscriber.complete(),
        (error: unknown) => (controller.signal.aborted ? subscriber.complete() : subscriber.error(error)),
      );
      return () => {
        outer.removeEventListener("abort", stop);
        controller.abort();
      };
    });
  }

  #pump(path: string, input: RunAgentInput, connects: boolean, signal: AbortSignal, emit: (event: Wire) => void): Promise<void> {
    const follows = followed(input);
    const until = !connects ? "run" : follows ? "never" : "idle";
    const retries = follows ? Infinity : (this.#config.retries ?? DEFAULT_RETRIES); // a device may sleep for hours
    if (this.#socket !== null) return this.#socket.read({ agent: agentOf(this.url), input: { ...input }, until, retries }, signal, emit);
    const request: StreamRequest = {
      url: `${this.url}${path}`,
      body: JSON.stringify(input),
      headers: () => this.#headers(),
      fetch: this.fetch,
      until,
      retries,
    };
    return readEvents(request, signal, emit);
  }
}

/** Calls a handler for one event after the other, never two at once. */
class Subscription {
  #tail: Promise<void> = Promise.resolve();
  readonly #handler: (event: Wire) => Promise<void>;

  constructor(handler: (event: Wire) => Promise<void>) {
    this.#handler = handler;
  }

  take(event: Wire): void {
    this.#tail = this.#tail.then(() => this.#handler(event)).catch(() => undefined);
  }
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
