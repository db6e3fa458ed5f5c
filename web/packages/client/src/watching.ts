/**
 * Tells of runs of a thread that this page did not begin: another tab, another device or the server did. For pages of
 * AG-UI kits, which read a thread once and do not hear of later runs. It needs no other package.
 *
 * Rules: one run after the other, each when the page is idle, so that none is lost and none comes into another; a run
 * that the page streams itself is left out.
 */

import { metaOf, readEvents, sleep, type StreamRequest, type Wire } from "./agui-stream.ts";

/** What `watchThread` needs of an agent of `@ag-ui/client`. */
export interface WatchedAgent {
  readonly isRunning: boolean;
  /** Questions for which the agent refuses every run that does not answer them. */
  pendingInterrupts?: unknown[];
  subscribe(subscriber: { onRunStartedEvent(params: { event: { runId: string } }): void }): { unsubscribe(): void };
}

export interface WatchOptions {
  /** The agent's, as `https://chat.example.org/agui/concierge`, or `/agui/concierge` on the gateway's own site. */
  url: string;
  /** The user's name for the thread, or a thread's id. It need not exist yet. */
  threadId: string;
  /** Asked before each request; the token goes into `Authorization`. `""` or null: a cookie may serve. */
  getToken?: () => Promise<string | null> | string | null;
  headers?: Record<string, string>;
  /** Whether cookies go with the request: `include` for a page of another site. */
  credentials?: RequestCredentials;
  /** Whose runs are the page's own; while it runs, the others wait. */
  agent?: WatchedAgent;
  /** Default: the global one. */
  fetch?: typeof fetch;
  /** Called with what `onRun` throws, and with the refusal that ends the watch. */
  onError?: (error: unknown) => void;
}

/** A run that began. With empty names: some may have begun and ended that the watch did not see; load the thread. */
export interface BegunRun {
  /** The name that its client gave it, else the gateway's id. */
  runId: string;
  /** The gateway's id. */
  id: string;
}

export const BUSY_STEP_MS = 25;

/**
 * Call `onRun` for each run that others begin in the thread, one after the other; and once, with empty names, when the
 * watch was cut for longer than the gateway's log reaches back. Returns a function that stops it. It holds one request
 * open, which brings every event of the thread's runs.
 */
export function watchThread(options: WatchOptions, onRun: (run: BegunRun) => Promise<unknown> | void): () => void {
  const { agent, getToken, threadId, onError = () => undefined } = options;
  const controller = new AbortController();
  const own = new Set<string>();
  const subscription = agent?.subscribe({ onRunStartedEvent: ({ event }) => void own.add(event.runId) });
  const request: StreamRequest = {
    url: `${options.url.replace(/\/$/, "")}/connect`,
    body: JSON.stringify(followed(threadId)),
    headers: async () => {
      const token = await getToken?.();
      return { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    },
    fetch: (url, init) => (options.fetch ?? globalThis.fetch)(url, init),
    until: "never",
    retries: Infinity, // a device may sleep for hours
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
  };
  const take = queued(async (run) => {
    while (agent?.isRunning === true && !controller.signal.aborted) await sleep(BUSY_STEP_MS, controller.signal);
    if (controller.signal.aborted || own.has(run.runId)) return;
    // Another tab may have answered. The replay of `connectAgent()` brings the questions that are open.
    if (agent?.pendingInterrupts !== undefined) agent.pendingInterrupts = [];
    await onRun(run);
  }, onError);
  readEvents(request, controller.signal, begins(take)).catch(onError);
  return () => {
    controller.abort();
    subscription?.unsubscribe();
  };
}

/** The body of a request for a thread and every later run. */
export function followed(threadId: string): Record<string, unknown> {
  return { threadId, runId: `watch-${threadId}`.slice(0, 255), messages: [], forwardedProps: { narthex: { connect: true, follow: true } } };
}

/** Passes on runs that the events of a followed thread begin. A second replay of the thread says that some were missed. */
export function begins(take: (run: BegunRun) => void): (event: Wire) => void {
  let replayed = false;
  return (event) => {
    if (event.type !== "RUN_STARTED") return;
    const ids = metaOf(event);
    if (ids["connect"] !== true) take({ runId: String(event["runId"]), id: String(ids["runId"]) });
    else if (replayed) take({ runId: "", id: "" });
    else replayed = true;
  };
}

/** Handles one run after the other, never two at once. */
export function queued(handle: (run: BegunRun) => Promise<void>, onError: (error: unknown) => void): (run: BegunRun) => void {
  let tail = Promise.resolve();
  return (run) => {
    tail = tail.then(() => handle(run)).catch(onError);
  };
}
