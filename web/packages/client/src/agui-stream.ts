/**
 * Reads AG-UI events from a gateway over HTTP (docs/ag-ui.md): one request whose stream goes on by itself after a cut,
 * and the proof that a run arrived whole. `ag-ui.ts` and `ai-sdk.ts` are made of it; it needs no other package.
 *
 * Rules: the events are the gateway's, in its order, and none comes twice: a stream goes on after the last event that
 * arrived (`Last-Event-ID`), or fails with the gateway's reason. A stream without an end begins anew instead.
 */

import { runDigest } from "./assembler.ts";
import type { AguiEvent } from "./events.ts";

/** An event as it is on the wire. */
export type Wire = Record<string, unknown> & { type: string };

/** Whether a run arrived whole. */
export interface RunProof {
  /** The gateway's id of the run. */
  runId: string;
  /** The name that the client gave it, else the same. */
  clientRunId: string;
  /** Whether the digest of its events is the one that its last event names; null: the gateway named none. */
  complete: boolean | null;
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

/** A refusal that passes: the request is tried again. */
class Later extends AguiRefusal {
  readonly waitMs: number;

  constructor(code: string, status: number, message: string, waitMs: number) {
    super(code, status, message);
    this.waitMs = waitMs;
  }
}

/** No attempt came through. */
export class Unreachable extends TypeError {
  override name = "Unreachable";

  constructor(cause: unknown) {
    super("The gateway cannot be reached (network error).", { cause });
  }
}

/** A request whose answer is a stream of events. */
export interface StreamRequest {
  url: string;
  /** JSON of a POST; without it the request is a GET. */
  body?: string;
  /** Asked before each attempt. */
  headers: () => Promise<Record<string, string>>;
  fetch: (url: string, init: RequestInit) => Promise<Response>;
  credentials?: RequestCredentials;
  /**
   * When the stream has come to its own end: with the end of its run, with the end of the last run of its thread, or
   * never. One without an end replays its thread again where the gateway's log does not reach back over a cut.
   */
  until: "run" | "idle" | "never";
  /** Attempts to go on after a cut, without an event in between. */
  retries: number;
  /** Called when the gateway has accepted the request. */
  onOpen?: () => void;
}

const FIRST_RETRY_MS = 250;
const MAX_RETRY_MS = 8_000;
export const DEFAULT_RETRIES = 8;
/** The code of a refusal: the gateway's log does not reach back to where a stream broke. */
export const POSITION_LOST = "position_lost";
export const TERMINAL = new Set(["RUN_FINISHED", "RUN_ERROR"]);

/** What is known of a stream. */
interface Progress {
  last: string;
  ended: boolean;
  events: number;
}

/**
 * Read the stream to its end; after a cut go on where it broke. Resolves early when `signal` is aborted.
 *
 * Rejects with `AguiRefusal`, or with `Unreachable` when no attempt came through.
 */
export async function readEvents(request: StreamRequest, signal: AbortSignal, emit: (event: Wire) => void): Promise<void> {
  const progress: Progress = { last: "", ended: false, events: 0 };
  for (let attempt = 0; ; ) {
    const before = progress.events;
    let wait = 0;
    let fault: unknown;
    try {
      const whole = await once(request, signal, progress, emit);
      if (whole || signal.aborted) return;
    } catch (error) {
      if (signal.aborted) return;
      const final = error instanceof AguiRefusal && !(error instanceof Later);
      if (final && (request.until !== "never" || error.code !== POSITION_LOST)) throw error;
      if (final) progress.last = "";
      if (error instanceof Later) wait = error.waitMs;
      fault = error;
    }
    if (progress.events > before) attempt = 0;
    if (attempt >= request.retries) throw fault instanceof Later ? fault : new Unreachable(fault);
    const pause = Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** attempt);
    attempt += 1;
    await sleep(Math.max(wait, pause * (0.5 + Math.random() / 2)), signal);
  }
}

/** One request; resolves to whether the stream came to its own end. */
async function once(
  request: StreamRequest,
  signal: AbortSignal,
  progress: Progress,
  emit: (event: Wire) => void,
): Promise<boolean> {
  const { url, body, credentials, until } = request;
  const headers: Record<string, string> = {
    ...(await request.headers()),
    ...(body === undefined ? {} : { "Content-Type": "application/json" }),
    Accept: "text/event-stream",
    ...(progress.last === "" ? {} : { "Last-Event-ID": progress.last }),
  };
  const response = await request.fetch(url, {
    method: body === undefined ? "GET" : "POST",
    headers,
    signal,
    ...(body === undefined ? {} : { body }),
    ...(credentials === undefined ? {} : { credentials }),
  });
  if (!response.ok) throw await refusalOf(response);
  if (response.body === null) throw new Error("The answer has no body.");
  request.onOpen?.();
  let held: Wire[] = [];
  for await (const { id, data } of serverSentEvents(response.body)) {
    held.push(JSON.parse(data) as Wire);
    if (id === "") continue; // the middle of a snapshot: after a cut here it comes again from its beginning
    progress.last = id;
    for (const event of held) {
      progress.events += 1;
      progress.ended = TERMINAL.has(event.type);
      emit(event);
    }
    held = [];
    if (until === "run" && progress.ended) return true;
  }
  if (until === "run") return progress.ended;
  return until === "idle" && progress.ended && held.length === 0;
}

/** `metadata.narthex` of an event. */
export function metaOf(event: Wire): Record<string, unknown> {
  const metadata = event["metadata"] as Record<string, unknown> | undefined;
  return (metadata?.["narthex"] ?? {}) as Record<string, unknown>;
}

/** Whether the agent begins anew: everything that its run has shown before is void. */
export function voidsAttempt(event: Wire): boolean {
  return event.type === "CUSTOM" && event["name"] === "narthex.restarted";
}

/** Collects the events of one run after the other. */
export class Proofs {
  #events: Wire[] = [];
  #ids: Record<string, unknown> = {};
  #clientRunId = "";

  /** Take an event; the proof of its run, when it is the last one of a run. */
  take(event: Wire): Promise<RunProof> | null {
    if (event.type === "RUN_STARTED") {
      this.#events = [];
      this.#ids = metaOf(event);
      this.#clientRunId = String(event["runId"]);
    }
    if (typeof this.#ids["runId"] !== "string") return null; // a snapshot is no run of the gateway's
    if (metaOf(event)["between"] === true) return null; // a person's message within the run: it is not the run's
    this.#events.push(event);
    return TERMINAL.has(event.type) ? prove(this.#events, this.#ids, this.#clientRunId) : null;
  }
}

async function prove(events: Wire[], ids: Record<string, unknown>, clientRunId: string): Promise<RunProof> {
  const expected = metaOf(events.at(-1) as Wire)["digest"];
  const named = { threadId: ids["threadId"], runId: ids["runId"] };
  const own = events.map((event) => {
    const { metadata, ...rest } = event;
    const ours = event.type === "RUN_STARTED" || TERMINAL.has(event.type);
    return { ...rest, ...(ours || metadata === undefined ? {} : { metadata }), ...(event.type === "RUN_STARTED" ? ids : named) };
  });
  const digest = await runDigest(own as unknown as AguiEvent[]);
  return { runId: String(ids["runId"]), clientRunId, complete: typeof expected === "string" ? digest === expected : null };
}

/** The refusal in an answer: one that passes for 408, 429 and 5xx. */
export async function refusalOf(response: Response): Promise<AguiRefusal> {
  const body = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  const text = (name: string): string => (typeof body[name] === "string" ? (body[name] as string) : "");
  const words = [text("detail") || text("title") || `The gateway answered ${response.status}.`, text("remedy")].join(" ").trim();
  if (response.status >= 500 || response.status === 429 || response.status === 408) {
    const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
    return new Later(text("code"), response.status, words, Number.isFinite(seconds) ? seconds * 1000 : 0);
  }
  return new AguiRefusal(text("code"), response.status, words);
}

/** Wait; not longer than until the abort. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
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
