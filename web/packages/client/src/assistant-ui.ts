/**
 * What a page of assistant-ui needs beside `useAgUiRuntime` of `@assistant-ui/react-ag-ui` and a `NarthexAgent`: the thread
 * after a reload, the rest of a run that is under way, and runs that others begin.
 *
 * Rules: assistant-ui's own functions make its messages, passed in as `convert`, so that this module needs none of its
 * packages; what is stored at the gateway is not stored again (`append` does nothing).
 */

import type { NarthexAgent } from "./ag-ui.ts";
import { metaOf, sleep, TERMINAL, type Wire } from "./agui-stream.ts";
import type { Json } from "./events.ts";
import { BUSY_STEP_MS } from "./watching.ts";

/** assistant-ui's `ExportedMessageRepository`, as far as it is needed here. */
export interface Repository {
  messages: { parentId: string | null; message: { id: string; role: string; content: readonly unknown[] } }[];
}

/** `(messages) => ExportedMessageRepository.fromArray(fromAgUiMessages(messages))`. */
export type Convert<Stored extends Repository> = (messages: readonly unknown[]) => Stored;

type Assistant<Stored extends Repository> = Extract<Stored["messages"][number]["message"], { role: "assistant" }>;

/** A part of the answer so far, as `ThreadHistoryAdapter.resume` yields it. */
export interface ResumedAnswer<Content> {
  content: Content;
  status?: Status;
  metadata?: { custom: Record<string, unknown> };
}

type Status =
  | { type: "running" }
  | { type: "complete"; reason: "unknown" }
  | { type: "requires-action"; reason: "interrupt" | "tool-calls" }
  | { type: "incomplete"; reason: "cancelled" | "error"; error?: string };

/** assistant-ui's `ThreadHistoryAdapter` over a thread of a gateway. */
export interface NarthexHistory<Stored extends Repository> {
  load(): Promise<Stored & { headId: string | null; state?: Json; unstable_resume?: boolean }>;
  resume(options: { abortSignal: AbortSignal }): AsyncGenerator<ResumedAnswer<Assistant<Stored>["content"]>, void, unknown>;
  append(): Promise<void>;
  update(): Promise<void>;
}

/** What `followThread` needs of assistant-ui's runtime. */
export interface FollowingRuntime<Stored extends Repository> {
  readonly thread: {
    /** `extras` of `useAgUiRuntime` has what `useAgUiSetState` calls. */
    getState(): { readonly isRunning: boolean; readonly isLoading: boolean; readonly extras: unknown };
    import(repository: Stored): void;
    importExternalState(state: Json): void;
    /** Declared as `void`, but it is a promise that rejects where the run cannot be shown. */
    resumeRun(config: {
      parentId: string | null;
      stream: (options: { abortSignal: AbortSignal }) => AsyncGenerator<never, void, unknown>;
    }): void | Promise<void>;
  };
}

/** Gives the agent's state to the runtime that shows an agent's thread: a request carries it back to the gateway. */
const SHOW_STATE = new WeakMap<NarthexAgent, (state: Json) => void>();

/** The option `adapters.history` of `useAgUiRuntime`. */
export function narthexHistory<Stored extends Repository>(agent: NarthexAgent, convert: Convert<Stored>): NarthexHistory<Stored> {
  let known: Known = { last: undefined, asks: false };
  return {
    load: async () => {
      const thread = await agent.thread();
      const goesOn = thread.runs.length > 0;
      known = { last: thread.messages.at(-1)?.["id"], asks: goesOn && thread.interrupts.length > 0 };
      // While a run goes on, assistant-ui takes an open question for a reason not to show the run.
      const stored = convert(withQuestions(thread.messages, goesOn ? [] : thread.interrupts));
      return {
        ...stored,
        headId: stored.messages.at(-1)?.message.id ?? null,
        ...(thread.state === null ? {} : { state: thread.state }),
        ...(goesOn ? { unstable_resume: true } : {}),
      };
    },
    resume: ({ abortSignal }) => answerAfter(known, agent, convert, abortSignal),
    append: async () => undefined,
    update: async () => undefined,
  };
}

/**
 * Bring runs that other tabs, other devices or the server begin into a runtime, one after the other, and the agent's
 * state as a followed run changes it. Returns a function that stops it. It holds one request open, which brings every
 * event of the thread's runs.
 */
export function followThread<Stored extends Repository>(
  runtime: FollowingRuntime<Stored>,
  agent: NarthexAgent,
  convert: Convert<Stored>,
  onError: (error: unknown) => void = () => undefined,
): () => void {
  const isBusy = (): boolean => {
    const { isRunning, isLoading } = runtime.thread.getState();
    return isRunning || isLoading;
  };
  const showState = (state: Json): void => {
    // `importExternalState` would end the calls of tools that the page executes.
    const { setState } = (runtime.thread.getState().extras ?? {}) as { setState?: (state: Json) => void };
    if (setState !== undefined) setState(state);
    else runtime.thread.importExternalState(state);
  };
  const take = async (signal: AbortSignal): Promise<void> => {
    const history = narthexHistory(agent, convert);
    for (;;) {
      while (isBusy() && !signal.aborted) await sleep(BUSY_STEP_MS, signal);
      if (signal.aborted) return;
      const { headId, unstable_resume: goesOn, state, ...stored } = await history.load();
      if (isBusy()) continue; // the user sent something meanwhile: this does not have it
      if (signal.aborted) return;
      runtime.thread.import({ ...stored, headId } as unknown as Stored);
      if (state !== undefined) showState(state);
      if (goesOn !== true) return;
      const stream = (options: { abortSignal: AbortSignal }): AsyncGenerator<never> => history.resume(options) as AsyncGenerator<never>;
      return orAborted(runtime.thread.resumeRun({ parentId: headId, stream }), signal);
    }
  };
  SHOW_STATE.set(agent, showState);
  const stop = agent.onRuns(take, isBusy, onError);
  return () => {
    stop();
    if (SHOW_STATE.get(agent) === showState) SHOW_STATE.delete(agent);
  };
}

/** Wait, not longer than until the abort. */
async function orAborted(work: void | Promise<void>, signal: AbortSignal): Promise<void> {
  let stop = (): void => undefined;
  const aborted = new Promise<void>((resolve) => (stop = resolve));
  signal.addEventListener("abort", stop);
  try {
    await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** What a page had of a thread when it was loaded. */
interface Known {
  /** The id of the last message. */
  last: unknown;
  /** Whether there were open questions, which are not shown while a run goes on. */
  asks: boolean;
}

/** What the thread has after that, to the end of the run that is under way: one answer that grows. */
async function* answerAfter<Stored extends Repository>(
  known: Known,
  agent: NarthexAgent,
  convert: Convert<Stored>,
  signal: AbortSignal,
): AsyncGenerator<ResumedAnswer<Assistant<Stored>["content"]>, void, unknown> {
  if (signal.aborted) return;
  let live = false; // the run, behind what is stored
  let end: Wire | undefined;
  let fault: unknown;
  let over = false;
  let fresh = false; // since the last yield
  let wake = (): void => undefined;
  const reader = agent.follower();
  // Not by their number: both readings have the newest 1,000.
  const news = (): typeof reader.messages => reader.messages.slice(reader.messages.findLastIndex(({ id }) => id === known.last) + 1);
  const answer = (): Assistant<Stored>["content"] => {
    const { messages } = convert(news());
    return messages.filter(({ message }) => message.role === "assistant").flatMap(({ message }) => message.content) as unknown as Assistant<Stored>["content"];
  };
  const changed = (): void => {
    fresh = true;
    wake();
  };
  const stop = (): void => {
    over = true;
    wake();
  };
  const reading = reader
    .connectAgent(
      {},
      {
        onRunStartedEvent: ({ event }) => {
          live = metaOf(event as unknown as Wire)["connect"] !== true;
        },
        onEvent: ({ event }) => {
          if (!TERMINAL.has(event.type)) return;
          end = event as unknown as Wire;
          if (live) stop(); // a later run is another answer
        },
        onMessagesChanged: changed,
        onStateChanged: ({ state }) => SHOW_STATE.get(agent)?.(state as Json),
      },
    )
    .catch((error: unknown) => {
      fault = error;
    })
    .finally(stop);
  signal.addEventListener("abort", stop, { once: true });
  try {
    while (!over) {
      if (!fresh) await new Promise<void>((resolve) => (wake = resolve));
      fresh = false;
      if (!over && news().length > 0) yield { content: answer() };
    }
    if (signal.aborted) return;
    if (fault !== undefined) throw fault;
    const how = endOf(end, news());
    const open = known.asks && how.status.type === "complete" ? (await agent.thread()).interrupts : [];
    yield { content: answer(), ...(open.length > 0 ? asking(open) : how) };
  } finally {
    signal.removeEventListener("abort", stop);
    await reader.detachActiveRun();
    await reading;
  }
}

/** How a run ended, in assistant-ui's words. */
function endOf(end: Wire | undefined, messages: readonly { role: string }[]): { status: Status; metadata?: { custom: Record<string, unknown> } } {
  const outcome = (end?.["outcome"] ?? {}) as { type?: string; interrupts?: unknown[] };
  if (end?.type === "RUN_ERROR") return { status: { type: "incomplete", reason: "error", error: String(end["message"]) } };
  if (outcome.type === "cancelled") return { status: { type: "incomplete", reason: "cancelled" } };
  if (outcome.type === "interrupt") return asking(outcome.interrupts ?? []);
  return { status: openCalls(messages) ? { type: "requires-action", reason: "tool-calls" } : { type: "complete", reason: "unknown" } };
}

/** Whether an AG-UI message has a call without a result. */
export function openCalls(messages: readonly object[]): boolean {
  const calls = new Set<string>();
  for (const message of messages as { toolCalls?: { id: string }[]; toolCallId?: string }[]) {
    for (const call of message.toolCalls ?? []) calls.add(call.id);
    if (message.toolCallId !== undefined) calls.delete(message.toolCallId);
  }
  return calls.size > 0;
}

const asking = (interrupts: readonly unknown[]): { status: Status; metadata: { custom: Record<string, unknown> } } => ({
  status: { type: "requires-action", reason: "interrupt" },
  metadata: questions(interrupts),
});

const questions = (interrupts: readonly unknown[]): { custom: Record<string, unknown> } => ({ custom: { agui: { interrupts } } });

/** The messages, with open questions where assistant-ui reads them: in the last answer, or in one made for them. */
function withQuestions(messages: readonly Record<string, unknown>[], interrupts: readonly unknown[]): readonly Record<string, unknown>[] {
  if (interrupts.length === 0) return messages;
  const at = messages.findLastIndex((message) => message["role"] === "assistant" || message["role"] === "user");
  const last = messages[at];
  const metadata = questions(interrupts);
  if (last?.["role"] === "assistant") return messages.map((message, index) => (index === at ? { ...message, metadata } : message));
  return [...messages, { id: `${String(last?.["id"] ?? "")}-questions`, role: "assistant", content: "", metadata }];
}
