/**
 * A `ChatTransport` for Vercel's AI SDK (`useChat` of `@ai-sdk/react`, `@ai-sdk/vue` …): the gateway keeps the chat, so a
 * page goes on after a reload in mid-run, in a second tab and on another device, without a back end of its own. Here:
 * requests; `ui-chunks.ts` makes the stream, `ui-messages.ts` the stored messages.
 *
 * Rules: the chat's id is the user's name for the thread; a run has one request that starts it, and any number that
 * follow it; a page that leaves does not cancel its run, `stop()` does.
 */

import type { ChatRequestOptions, ChatTransport, UIMessage, UIMessageChunk } from "ai";

import {
  AguiRefusal,
  DEFAULT_RETRIES,
  metaOf,
  Proofs,
  readEvents,
  refusalOf,
  sleep,
  Unreachable,
  type StreamRequest,
} from "./agui-stream.ts";
import type { Json } from "./events.ts";
import { chunksOf, RunChunks, type AskedInterrupt } from "./ui-chunks.ts";
import { StoredChat, type StoredThread } from "./ui-messages.ts";
import { begins, BUSY_STEP_MS, followed, queued } from "./watching.ts";

export { AguiRefusal, Unreachable } from "./agui-stream.ts";
export type { AskedInterrupt, RunMetadata } from "./ui-chunks.ts";

/** A tool that the page runs, for the agent: `parameters` is JSON Schema. */
export interface ClientTool {
  name: string;
  description: string;
  parameters: Json;
}

export interface NarthexChatOptions {
  /** The agent's, as `https://chat.example.org/agui/concierge`, or `/agui/concierge` on the gateway's own site. */
  url: string | URL;
  /** Asked before each request; the token goes into `Authorization`. `""` or null: a cookie may serve. */
  getToken?: () => Promise<string | null> | string | null;
  headers?: Record<string, string>;
  /** Whether cookies go with the requests: `include` for a page of another site. */
  credentials?: RequestCredentials;
  /** Tools of the page: the agent gets them, and a call of one is the page's (`onToolCall`, `addToolOutput`). */
  tools?: readonly ClientTool[] | (() => readonly ClientTool[]);
  /** What a message does in a thread with a run; default: as the agent declares. */
  busy?: "enqueue" | "reject" | "interrupt";
  /** What the SDK's `stop()` does: `cancel` (default) ends the run, `continue` leaves it, for `resumeStream()` or a reload. */
  onStop?: "cancel" | "continue";
  /** The answer to the agent's question for `addToolApprovalResponse`. Default `{approved, reason}`. */
  answer?: (approval: { id: string; approved: boolean; reason?: string }) => Json;
  /** Default: the global one. */
  fetch?: typeof fetch;
  /** Attempts to go on after a cut, without an event in between. Default 8, which take half a minute. */
  retries?: number;
}

/** What `body` of `sendMessage` may have; every other member goes to the agent as `forwardedProps`. */
export interface NarthexChatBody {
  /** Answers to questions (`data-interrupt`), all of a run at once. */
  resume?: { interruptId: string; status?: "resolved" | "cancelled"; payload?: Json }[];
  tools?: readonly ClientTool[];
  context?: { description: string; value: string }[];
  state?: Json;
  busy?: NarthexChatOptions["busy"];
}

/** What `follow` needs of a `Chat`. */
export interface FollowedChat<Message extends UIMessage> {
  readonly id: string;
  readonly status: "submitted" | "streaming" | "ready" | "error";
  messages: Message[];
  resumeStream(): Promise<void>;
}

const END_AFTER_STOP_MS = 5_000;

/** See the module. */
export class NarthexChatTransport<Message extends UIMessage = UIMessage> implements ChatTransport<Message> {
  /** For the SDK: a reconnection brings the whole answer again, so that what a cut stream showed is dropped first. */
  readonly resumeStreamIsReplay = true;
  readonly #options: NarthexChatOptions;
  readonly #url: string;
  /** Of each chat: what `loadMessages` read, until the run that was under way then has been streamed. */
  readonly #loaded = new Map<string, StoredChat>();
  /** Of each chat: how often `reconnectToStream` was called. */
  readonly #reconnects = new Map<string, number>();
  /** Of each chat: the agent's state, as the last run that the page has seen left it. */
  readonly #states = new Map<string, Json>();
  /** Runs that this page has started or followed, by both names. */
  readonly #ours = new Set<string>();

  constructor(options: NarthexChatOptions) {
    this.#options = options;
    this.#url = String(options.url).replace(/\/$/, "");
  }

  /** The thread's messages, for `new Chat({ id, messages, transport })`; none for a thread that does not exist yet. */
  async loadMessages(chatId: string): Promise<Message[]> {
    const stored = await this.#read(chatId);
    if (stored.active === undefined) this.#loaded.delete(chatId);
    else this.#loaded.set(chatId, stored);
    return stored.messages as Message[];
  }

  /** For the SDK: send the last user message, the results of the page's tools, or answers to questions. */
  async sendMessages(
    options: Parameters<ChatTransport<Message>["sendMessages"]>[0],
  ): Promise<ReadableStream<UIMessageChunk>> {
    const { chatId, messages, messageId, abortSignal, headers, body } = options;
    const runId = uuid();
    // An approval may belong to an earlier answer than the last one.
    const last = messages.find((message) => message.id === messageId) ?? messages.at(-1);
    const sent = (body ?? {}) as NarthexChatBody;
    const input = this.#input(chatId, runId, last, sent);
    if (typeof sent.state === "object" && sent.state !== null && Object.keys(sent.state).length > 0) this.#states.set(chatId, sent.state);
    this.#ours.add(runId);
    this.#loaded.delete(chatId);
    const request = this.#request(this.#url, headers, JSON.stringify(input));
    return this.#streamed(chatId, request, runId, last?.role === "assistant" ? last : undefined, [], abortSignal, () => true);
  }

  /** For the SDK (`resume: true`, `resumeStream()`): the run that is under way, from its beginning; null: there is none. */
  async reconnectToStream(
    options: Parameters<ChatTransport<Message>["reconnectToStream"]>[0],
  ): Promise<ReadableStream<UIMessageChunk> | null> {
    const { chatId, abortSignal, headers } = options;
    const number = (this.#reconnects.get(chatId) ?? 0) + 1;
    this.#reconnects.set(chatId, number);
    const stored = this.#loaded.get(chatId) ?? (await this.#read(chatId, headers, abortSignal));
    const runId = stored.active;
    if (runId === undefined) return null;
    this.#ours.add(runId);
    const path = `${this.#url}/runs/${encodeURIComponent(runId)}?threadId=${encodeURIComponent(chatId)}`;
    const continued = stored.continuedBy(runId);
    const before = continued === undefined ? [] : chunksOf(continued);
    // The SDK aborts a reconnection for `stop()`, and also for the next reconnection (React's StrictMode makes two).
    const stops = (): boolean => this.#reconnects.get(chatId) === number;
    const over = (): void => {
      if (this.#loaded.get(chatId) === stored) this.#loaded.delete(chatId);
    };
    return this.#streamed(chatId, this.#request(path, headers), runId, continued, before, abortSignal, stops, over);
  }

  /**
   * Bring runs that other devices, tabs or the server begin into a chat. Returns a function that stops it. It holds one
   * request open, which brings every event of the thread's runs.
   */
  follow(chat: FollowedChat<Message>, onError: (error: unknown) => void = () => undefined): () => void {
    const controller = new AbortController();
    const { signal } = controller;
    const request = this.#request(`${this.#url}/connect`, undefined, JSON.stringify(followed(chat.id)));
    const isBusy = (): boolean => chat.status === "submitted" || chat.status === "streaming";
    const take = queued(async ({ runId, id }) => {
      for (;;) {
        while (!signal.aborted && isBusy()) await sleep(BUSY_STEP_MS, signal);
        if (signal.aborted || this.#ours.has(runId) || this.#ours.has(id)) return;
        const messages = await this.loadMessages(chat.id);
        if (isBusy()) continue; // the user sent something meanwhile: these messages do not have it
        if (!signal.aborted) chat.messages = messages;
        break;
      }
      if (!signal.aborted) await chat.resumeStream();
    }, onError);
    readEvents({ ...request, until: "never", retries: Infinity }, signal, begins(take)).catch(onError);
    return () => controller.abort();
  }

  // -- inside ----------------------------------------------------------------------------------------------

  readonly #isClientTool = (name: string): boolean => this.#tools().some((tool) => tool.name === name);

  #tools(): readonly ClientTool[] {
    const { tools = [] } = this.#options;
    return typeof tools === "function" ? tools() : tools;
  }

  #input(threadId: string, runId: string, last: UIMessage | undefined, body: NarthexChatBody): object {
    const { resume, tools = this.#tools(), context = [], state = {}, busy = this.#options.busy, ...forwarded } = body;
    const forwardedProps = { ...forwarded, ...(busy === undefined ? {} : { narthex: { busy } }) };
    // The SDK sends `body` again with the request that it makes by itself after the run: then the questions are answered.
    const open = resume?.filter(({ interruptId }) => !isAnswered(last, interruptId)) ?? [];
    const news = open.length > 0 ? { resume: open } : newsOf(last, this.#options.answer ?? asItIs);
    const answers = (news.resume ?? []).map((entry) => ({ status: "resolved", ...entry }));
    return {
      threadId,
      runId,
      messages: news.messages ?? [],
      tools,
      context,
      state,
      forwardedProps,
      ...(answers.length > 0 ? { resume: answers } : {}),
    };
  }

  #request(url: string, headers: ChatRequestOptions["headers"], body?: string): StreamRequest {
    const { credentials, retries = DEFAULT_RETRIES } = this.#options;
    return {
      url,
      headers: () => this.#headers(headers),
      fetch: this.#fetch,
      until: "run",
      retries,
      ...(body === undefined ? {} : { body }),
      ...(credentials === undefined ? {} : { credentials }),
    };
  }

  readonly #fetch = (url: string, init: RequestInit): Promise<Response> => (this.#options.fetch ?? globalThis.fetch)(url, init);

  async #headers(more: ChatRequestOptions["headers"]): Promise<Record<string, string>> {
    const token = await this.#options.getToken?.();
    return {
      ...this.#options.headers,
      ...Object.fromEntries(new Headers(more).entries()),
      ...(token ? { Authorization: `Bearer ${token}` } : {}),
    };
  }

  /**
   * The run as the SDK's stream, once the gateway has accepted the request. `before`: chunks that come first.
   * `stops`: asked after the SDK's abort, whether it is for `stop()`.
   */
  async #streamed(
    chatId: string,
    request: StreamRequest,
    runId: string,
    continued: UIMessage | undefined,
    before: UIMessageChunk[],
    abortSignal: AbortSignal | undefined,
    stops: () => boolean,
    over: () => void = () => undefined,
  ): Promise<ReadableStream<UIMessageChunk>> {
    const controller = new AbortController();
    let left = false;
    let accepted!: (open: boolean) => void;
    const open = new Promise<boolean>((resolve) => (accepted = resolve));
    let out!: ReadableStreamDefaultController<UIMessageChunk>;
    const stream = new ReadableStream<UIMessageChunk>({
      start: (own) => {
        out = own;
      },
      cancel: () => {
        left = true;
        if (abortSignal?.aborted !== true) controller.abort(); // a stopped run's cancellation needs the answer first
      },
    });
    const write = (chunks: UIMessageChunk[]): void => {
      if (!left) for (const chunk of chunks) out.enqueue(chunk);
    };

    const chunks = new RunChunks(continued, this.#isClientTool, this.#states.get(chatId) ?? null);
    const proofs = new Proofs();
    let ended = Promise.resolve();
    const reading = readEvents({ ...request, onOpen: () => accepted(true) }, controller.signal, (event) => {
      if (event.type === "RUN_STARTED") this.#ours.add(String(metaOf(event)["runId"]));
      const proof = proofs.take(event);
      if (proof === null) write(event.type === "RUN_STARTED" && before.length > 0 ? resumed(before, chunks.take(event)) : chunks.take(event));
      else {
        this.#states.set(chatId, chunks.state);
        ended = proof.then((found) => write(chunks.end(event, found)));
      }
    }).then(async () => {
      await ended;
      if (!controller.signal.aborted) over();
      if (!left) out.close();
    });

    const stop = (): void => {
      queueMicrotask(() => void (stops() ? this.#stop(request, runId, open) : Promise.resolve()).finally(() => controller.abort()));
    };
    if (abortSignal?.aborted === true) stop();
    else abortSignal?.addEventListener("abort", stop, { once: true });

    reading.catch((error: unknown) => {
      if (!left) out.error(error);
    });
    void reading.catch(() => undefined).then(() => accepted(false));
    if (!(await open)) await reading;
    return stream;
  }

  /** Once the gateway has the run: cancel it there, unless it is to go on. */
  async #stop(request: StreamRequest, runId: string, open: Promise<boolean>): Promise<void> {
    const late = new AbortController();
    await Promise.race([open, sleep(END_AFTER_STOP_MS, late.signal)]);
    late.abort();
    if (this.#options.onStop === "continue") return;
    const url = `${this.#url}/runs/${encodeURIComponent(runId)}/cancel`;
    // `keepalive`: the request goes out although the page is closed.
    await this.#answer(url, request.headers, { method: "POST", keepalive: true }, 3).catch(() => undefined);
  }

  async #read(chatId: string, headers?: ChatRequestOptions["headers"], signal?: AbortSignal): Promise<StoredChat> {
    const url = `${this.#url}/threads/${encodeURIComponent(chatId)}`;
    const attempts = this.#options.retries ?? DEFAULT_RETRIES;
    try {
      const answer = await this.#answer(url, () => this.#headers(headers), { ...(signal === undefined ? {} : { signal }) }, attempts);
      const stored = new StoredChat((await answer.json()) as StoredThread, this.#isClientTool);
      this.#states.set(chatId, stored.state);
      return stored;
    } catch (error) {
      if (!(error instanceof AguiRefusal) || error.status !== 404) throw error;
      return new StoredChat({ messages: [], messageRuns: {}, runs: [], endedRuns: [] }, this.#isClientTool);
    }
  }

  /** A plain answer; tried again where the network or the gateway is away. */
  async #answer(url: string, headers: () => Promise<Record<string, string>>, init: RequestInit, attempts: number): Promise<Response> {
    const { credentials } = this.#options;
    const signal = init.signal ?? new AbortController().signal;
    for (let attempt = 1; ; attempt += 1) {
      let fault: unknown;
      try {
        const answer = await this.#fetch(url, { ...init, headers: await headers(), ...(credentials === undefined ? {} : { credentials }) });
        if (answer.ok) return answer;
        fault = await refusalOf(answer);
      } catch (error) {
        fault = error;
      }
      signal.throwIfAborted();
      const passes = !(fault instanceof AguiRefusal) || fault.status >= 500 || fault.status === 429;
      if (!passes || attempt >= attempts) throw fault instanceof AguiRefusal ? fault : new Unreachable(fault);
      await sleep(Math.min(4_000, 125 * 2 ** attempt), signal);
    }
  }
}

/** Whether the gateway has said that a question of this message is answered. */
function isAnswered(message: UIMessage | undefined, interruptId: string): boolean {
  return (message?.parts ?? []).some((part) => part.type === "data-interrupt" && part.id === interruptId && (part.data as AskedInterrupt).answeredBy !== "");
}

/** A message's chunks, then those of the run that goes on with it: one `start`. */
function resumed(before: UIMessageChunk[], begun: UIMessageChunk[]): UIMessageChunk[] {
  const [, ...rest] = before;
  return [begun[0]!, ...rest, ...begun.slice(1)];
}

const asItIs = ({ approved, reason }: { approved: boolean; reason?: string }): Json =>
  reason === undefined ? { approved } : { approved, reason };

type News = { messages?: object[]; resume?: NonNullable<NarthexChatBody["resume"]> };

/** What the gateway does not have yet: a user's message, or what the page added to the last step of an answer. */
function newsOf(last: UIMessage | undefined, answer: NonNullable<NarthexChatOptions["answer"]>): News {
  if (last?.role === "user") {
    const texts = last.parts.map((part) => (part.type === "text" ? part.text : null));
    if (texts.includes(null)) throw new TypeError("The gateway takes text only. Send the message without files.");
    return { messages: [{ id: last.id, role: "user", content: texts.join("\n") }] };
  }
  const parts = last?.role === "assistant" ? last.parts.slice(last.parts.findLastIndex((part) => part.type === "step-start") + 1) : [];
  const messages: object[] = [];
  const resume: NonNullable<NarthexChatBody["resume"]> = [];
  for (const part of parts) {
    if (!("toolCallId" in part)) continue;
    if (part.state === "approval-responded" && part.approval !== undefined) {
      const { id, approved, reason } = part.approval as { id: string; approved: boolean; reason?: string };
      resume.push({ interruptId: id, payload: answer({ id, approved, ...(reason === undefined ? {} : { reason }) }) });
    } else if (part.providerExecuted !== true && (part.state === "output-available" || part.state === "output-error")) {
      const failed = part.state === "output-error" ? { content: part.errorText, error: part.errorText } : { content: textOf(part.output) };
      messages.push({ id: `${part.toolCallId}-result`, role: "tool", toolCallId: part.toolCallId, ...failed });
    }
  }
  if (resume.length > 0) return { resume };
  if (messages.length > 0) return { messages };
  throw new TypeError("There is nothing to send: no user message, no result of a tool and no answer to a question.");
}

function textOf(output: unknown): string {
  return typeof output === "string" ? output : JSON.stringify(output ?? null);
}

/** `crypto.randomUUID` is missing on pages that were loaded by plain http. */
function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
