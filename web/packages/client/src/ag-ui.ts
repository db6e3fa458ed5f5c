/**
 * An agent for AG-UI clients (`@ag-ui/client`, CopilotKit, assistant-ui …) whose runs and threads a narthex gateway
 * keeps: `connectAgent()` replays the thread and follows the run that goes on, a stream that is cut goes on by itself,
 * and each run is proved by its digest.
 *
 * Rules: nothing is made up and nothing comes twice: the events are the gateway's, in its order; a stream goes on after
 * the last event that arrived (`Last-Event-ID`), or fails with the gateway's reason. Leaving does not cancel a run;
 * `abortRun()` does.
 */

import { HttpAgent, type HttpAgentConfig } from "@ag-ui/client";
import { Observable, type Subscriber } from "rxjs";

import { runDigest } from "./assembler.ts";
import type { AguiEvent } from "./events.ts";

type RunAgentInput = Parameters<HttpAgent["run"]>[0];
type BaseEvent = ReturnType<HttpAgent["run"]> extends Observable<infer Event> ? Event : never;

/** Whether a run arrived whole. */
export interface RunProof {
  /** The gateway's id of the run. */
  runId: string;
  /** The name that the client gave it, else the same. */
  clientRunId: string;
  /** Whether the digest of its events is the one that its last event names; null: the gateway named none. */
  complete: boolean | null;
}

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
}

/** The gateway refused a request for good. `code` as in problem+json. */
export class AguiRefusal extends Error {
  override name = "AguiRefusal";
  readonly code: string;
  readonly status: number;

  constructor(code: string, status: number, message: string) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

const FIRST_RETRY_MS = 250;
const MAX_RETRY_MS = 8_000;
const END_AFTER_CANCEL_MS = 5_000;
const TERMINAL = new Set(["RUN_FINISHED", "RUN_ERROR"]);

type Wire = Record<string, unknown> & { type: string };

/** What is known of a stream; `open`: a run has begun and not ended. */
interface Progress {
  last: string;
  open: boolean;
  ended: boolean;
  events: number;
}

/** See the module. `url` is the agent's, as `https://chat.example.org/agui/concierge`. */
export class NarthexAgent extends HttpAgent {
  readonly #config: NarthexAgentConfig;
  #running = "";

  constructor(config: NarthexAgentConfig) {
    super(config);
    this.#config = config;
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
    void this.#pump("/connect", input, true, controller, (event) => seen.take(event)).catch(() => undefined);
    return () => controller.abort();
  }

  override clone(): NarthexAgent {
    const cloned = new NarthexAgent({ ...this.#config, url: this.url, headers: { ...this.headers }, threadId: this.threadId });
    cloned.agentId = this.agentId as string;
    cloned.setMessages(structuredClone(this.messages));
    cloned.setState(structuredClone(this.state));
    return cloned;
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
      const proofs = new Proofs(this.#config.onProof);
      const emit = (event: Wire): void => {
        proofs.take(event);
        subscriber.next(event as unknown as BaseEvent);
      };
      this.#pump(path, input, connects, controller, emit).then(
        () => subscriber.complete(),
        (error: unknown) => (controller.signal.aborted ? subscriber.complete() : subscriber.error(error)),
      );
      return () => {
        outer.removeEventListener("abort", stop);
        controller.abort();
      };
    });
  }

  /** Read the stream to its end; after a cut go on where it broke. */
  async #pump(
    path: string,
    input: RunAgentInput,
    connects: boolean,
    controller: AbortController,
    emit: (event: Wire) => void,
  ): Promise<void> {
    const progress: Progress = { last: "", open: false, ended: false, events: 0 };
    for (let attempt = 0; ; ) {
      const before = progress.events;
      let wait = 0;
      try {
        const whole = await this.#once(path, input, connects, controller.signal, progress, emit);
        if (whole || controller.signal.aborted) return;
      } catch (error) {
        if (controller.signal.aborted || (error instanceof AguiRefusal && !(error instanceof Later))) throw error;
        if (error instanceof Later) wait = error.waitMs;
      }
      if (progress.events > before) attempt = 0;
      if (attempt >= (this.#config.retries ?? 8)) throw new Error("The gateway cannot be reached.");
      const pause = Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** attempt);
      attempt += 1;
      await sleep(Math.max(wait, pause * (0.5 + Math.random() / 2)), controller.signal);
    }
  }

  /** One request; resolves to whether the stream came to its own end. */
  async #once(
    path: string,
    input: RunAgentInput,
    connects: boolean,
    signal: AbortSignal,
    progress: Progress,
    emit: (event: Wire) => void,
  ): Promise<boolean> {
    const headers: Record<string, string> = {
      ...(await this.#headers()),
      "Content-Type": "application/json",
      Accept: "text/event-stream",
      ...(progress.last === "" ? {} : { "Last-Event-ID": progress.last }),
    };
    const response = await this.fetch(`${this.url}${path}`, { method: "POST", headers, body: JSON.stringify(input), signal });
    if (!response.ok) throw await refusalOf(response);
    if (response.body === null) throw new Error("The answer has no body.");
    let held: Wire[] = [];
    for await (const { id, data } of serverSentEvents(response.body)) {
      held.push(JSON.parse(data) as Wire);
      if (id === "") continue; // the middle of a snapshot: after a cut here it comes again from its beginning
      progress.last = id;
      for (const event of held) {
        progress.events += 1;
        progress.open = event.type === "RUN_STARTED" || (progress.open && !TERMINAL.has(event.type));
        progress.ended = TERMINAL.has(event.type);
        emit(event);
      }
      held = [];
      if (!connects && progress.ended) return true;
    }
    return connects ? progress.ended && held.length === 0 && !followed(input) : progress.ended;
  }
}

/** A refusal that passes: the request is tried again. */
class Later extends AguiRefusal {
  readonly waitMs: number;

  constructor(code: string, status: number, message: string, waitMs: number) {
    super(code, status, message);
    this.waitMs = waitMs;
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

/** Collects the events of one run after the other, and proves each. */
class Proofs {
  readonly #told: ((proof: RunProof) => void) | undefined;
  #events: Wire[] = [];
  #ids: Record<string, unknown> = {};
  #clientRunId = "";

  constructor(told: ((proof: RunProof) => void) | undefined) {
    this.#told = told;
  }

  take(event: Wire): void {
    if (this.#told === undefined) return;
    if (event.type === "RUN_STARTED") {
      this.#events = [];
      this.#ids = metaOf(event);
      this.#clientRunId = String(event["runId"]);
    }
    if (typeof this.#ids["runId"] !== "string") return; // a snapshot is no run of the gateway's
    if (isSpoken(event)) return; // a person's message within the run: it is not the run's
    this.#events.push(event);
    if (TERMINAL.has(event.type)) void this.#prove(this.#told, this.#events, this.#ids, this.#clientRunId);
  }

  async #prove(told: (proof: RunProof) => void, events: Wire[], ids: Record<string, unknown>, name: string): Promise<void> {
    const end = metaOf(events.at(-1) as Wire);
    const named = { threadId: ids["threadId"], runId: ids["runId"] };
    const own = events.map((event) => {
      const { metadata, ...rest } = event;
      const ours = event.type === "RUN_STARTED" || TERMINAL.has(event.type);
      return { ...rest, ...(ours || metadata === undefined ? {} : { metadata }), ...(event.type === "RUN_STARTED" ? ids : named) };
    });
    const expected = end["digest"];
    const digest = await runDigest(own as unknown as AguiEvent[]);
    told({
      runId: String(ids["runId"]),
      clientRunId: name,
      complete: typeof expected === "string" ? digest === expected : null,
    });
  }
}

const isSpoken = (event: Wire): boolean => metaOf(event)["between"] === true;

function metaOf(event: Wire): Record<string, unknown> {
  const metadata = event["metadata"] as Record<string, unknown> | undefined;
  return (metadata?.["narthex"] ?? {}) as Record<string, unknown>;
}

function followed(input: RunAgentInput): boolean {
  const props = (input.forwardedProps ?? {}) as { narthex?: { follow?: boolean } };
  return props.narthex?.follow === true;
}

async function refusalOf(response: Response): Promise<AguiRefusal> {
  const body = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  const text = (name: string): string => (typeof body[name] === "string" ? (body[name] as string) : "");
  const words = [text("detail") || text("title") || `The gateway answered ${response.status}.`, text("remedy")].join(" ").trim();
  if (response.status >= 500 || response.status === 429 || response.status === 408) {
    const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
    return new Later(text("code"), response.status, words, Number.isFinite(seconds) ? seconds * 1000 : 0);
  }
  return new AguiRefusal(text("code"), response.status, words);
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** Server-sent events with their ids; comments are left out. */
async function* serverSentEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<{ id: string; data: string }> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        let id = "";
        const data: string[] = [];
        for (const line of block.split("\n")) {
          if (line.startsWith("id: ")) id = line.slice(4);
          else if (line.startsWith("data: ")) data.push(line.slice(6));
        }
        if (data.length > 0) yield { id, data: data.join("\n") };
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
