/**
 * A thread as state that a framework can draw: stored messages, then the channel's events, with the people who are
 * there. One store serves all components of a page that show the same thread; `react.ts` and `vue.ts` bind to it.
 *
 * Rules: state is replaced, never mutated, so that `===` tells what changed; nothing is shown that the gateway has not
 * sent; a store follows its thread while anything listens, and a listener that leaves and comes back at once (React's
 * StrictMode) costs nothing; a gap that cannot be recovered is closed by reading the thread again.
 */

import type { Centrifuge, PublicationContext, SubscribedContext, Subscription } from "centrifuge";

import { RunAssembler } from "./assembler.ts";
import { isEvent, type AguiEvent, type Json } from "./events.ts";
import { EMPTY_VIEW, fold, viewOf, type Part, type RunPhase, type RunView } from "./view.ts";

/** What a person wrote. */
export interface MessageItem {
  kind: "message";
  id: string;
  userId: string;
  name: string;
  text: string;
}

/** A run of an agent. */
export interface RunItem {
  kind: "run";
  id: string;
  view: RunView;
  /** Whether it arrived whole; null: it goes on, or was read as it is stored. */
  complete: boolean | null;
  /** Whether its questions (`view.interrupts`) have their answers, of any user on any device. */
  answered: boolean;
}

export type ThreadItem = MessageItem | RunItem;

export interface ThreadState {
  /** `idle`: there is no thread, or nothing listens. */
  status: "idle" | "loading" | "ready" | "failed";
  /** Why it failed. */
  error: Error | null;
  title: string;
  /** In the order of the thread: people's messages and agents' runs. */
  items: readonly ThreadItem[];
}

export interface PresentUser {
  userId: string;
  name: string;
}

export interface PresenceState {
  /** Users with a connection to the thread, in the order of their ids. */
  users: readonly PresentUser[];
  /** Those of them who are typing, as the same objects. The user of this page is one of them. */
  typing: readonly PresentUser[];
}

/** What `send` may say beside the text. */
export interface SendOptions {
  agent?: string;
  busy?: "enqueue" | "reject" | "interrupt" | "steer";
  /** AG-UI's: tools that this client runs, the state of the agent, context and properties for it. */
  tools?: Json[];
  state?: Json;
  context?: Json[];
  forwarded?: { [member: string]: Json };
  /** The same id again never sends twice. Default: a random one. */
  clientMessageId?: string;
}

export const IDLE: ThreadState = { status: "idle", error: null, title: "", items: [] };
export const ABSENT: PresenceState = { users: [], typing: [] };

const LINGER_MS = 500;
const TYPING_MS = 6_000;
const TYPING_STEP_MS = 3_000;
const RETRY_MS = 1_000;

interface StoredRow {
  message_id: string;
  role: string;
  author: string;
  content: string;
  run_id: string;
  detail: string;
}

interface StoredThread {
  thread: { title: string };
  messages: StoredRow[];
  runs: StoredRun[];
  outcomes: (StoredRun & { attempt: number; error: string; error_message: string; questions: StoredQuestion[] })[];
  channel: string;
  offset: number;
  epoch: string;
}

interface StoredRun {
  run_id: string;
  state: string;
  /** The message that it answers. */
  message_id: string;
  /** The run whose question it answers; empty: none. */
  parent_run_id: string;
}

interface StoredQuestion {
  interrupt_id: string;
  answered_by: string;
  text: string;
  schema: string;
}

/** The store of a thread on a connection: the same one for each caller. */
export function threadStore(client: Centrifuge, threadId: string): ThreadStore {
  let stores = STORES.get(client);
  if (stores === undefined) STORES.set(client, (stores = new Map()));
  let store = stores.get(threadId);
  if (store === undefined) stores.set(threadId, (store = new ThreadStore(client, threadId, () => stores.delete(threadId))));
  return store;
}

const STORES = new WeakMap<Centrifuge, Map<string, ThreadStore>>();

/** Send a message, to a new thread where `threadId` is null. */
export async function send(
  client: Centrifuge,
  threadId: string | null,
  text: string,
  { clientMessageId = randomId(), ...given }: SendOptions = {},
): Promise<{ threadId: string; runId: string }> {
  const { data } = await client.rpc("run.start", {
    text,
    client_message_id: clientMessageId,
    ...(threadId === null ? {} : { thread_id: threadId }),
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
  });
  return { threadId: data.thread_id as string, runId: data.run_id as string };
}

export const cancel = (client: Centrifuge, runId: string): Promise<unknown> => client.rpc("run.cancel", { run_id: runId });
export const steer = (client: Centrifuge, runId: string, text: string): Promise<unknown> =>
  client.rpc("run.steer", { run_id: runId, text });
export const answer = (client: Centrifuge, runId: string, interruptId: string, payload: Json): Promise<unknown> =>
  client.rpc("run.resume", { run_id: runId, interrupt_id: interruptId, payload });

/** Says that the user is typing in a thread: at most every three seconds. */
export function typist(client: Centrifuge): (threadId: string | null) => void {
  let said = { threadId: "", at: 0 };
  return (threadId) => {
    const now = Date.now();
    if (threadId === null || (threadId === said.threadId && now - said.at < TYPING_STEP_MS)) return;
    said = { threadId, at: now };
    client.rpc("typing", { thread_id: threadId }).catch(() => undefined);
  };
}

/** See the module. */
export class ThreadStore {
  readonly #client: Centrifuge;
  readonly #threadId: string;
  readonly #forgotten: () => void;
  readonly #listeners = new Set<() => void>();
  #state: ThreadState = IDLE;
  #presence: PresenceState = ABSENT;
  #items: ThreadItem[] = [];
  readonly #places = new Map<string, number>();
  readonly #runs = new Map<string, RunAssembler>();
  readonly #connected = new Map<string, PresentUser>();
  readonly #typists = new Map<string, { user: PresentUser; timer: Timer }>();
  #subscription: Subscription | null = null;
  #stop: Timer | undefined;
  #flush = false;
  /** Counts readings: what an earlier one brings says nothing any more. */
  #round = 0;

  constructor(client: Centrifuge, threadId: string, forgotten: () => void) {
    this.#client = client;
    this.#threadId = threadId;
    this.#forgotten = forgotten;
  }

  readonly state = (): ThreadState => this.#state;
  readonly presence = (): PresenceState => this.#presence;
  /** A run by its id; without one the thread's last. */
  readonly run = (runId?: string): RunItem | undefined => {
    const { items } = this.#state;
    if (runId === undefined) return items.findLast((item): item is RunItem => item.kind === "run");
    return items.find((item): item is RunItem => item.kind === "run" && item.id === runId);
  };

  /** Call `listener` after each change. Returns a function that ends it. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    clearTimeout(this.#stop);
    if (this.#state.status === "idle") {
      this.#state = { ...this.#state, status: "loading" };
      void this.#read(++this.#round);
    }
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      clearTimeout(this.#stop);
      this.#stop = setTimeout(() => this.#close(), LINGER_MS);
    };
  };

  #close(): void {
    this.#round += 1;
    this.#leave();
    for (const { timer } of this.#typists.values()) clearTimeout(timer);
    this.#state = IDLE;
    this.#forgotten();
  }

  #leave(): void {
    const subscription = this.#subscription;
    this.#subscription = null;
    if (subscription === null) return;
    subscription.removeAllListeners();
    subscription.unsubscribe();
    this.#client.removeSubscription(subscription);
  }

  async #read(round: number): Promise<void> {
    let found: StoredThread;
    try {
      found = (await this.#client.rpc("thread.get", { thread_id: this.#threadId })).data as StoredThread;
    } catch (error) {
      if (round !== this.#round) return;
      const { code = 0, message = String(error) } = error as { code?: number; message?: string };
      if (code >= 400 && code < 500 && code !== 429) return this.#failed(new Error(message));
      setTimeout(() => void (round === this.#round && this.#read(round)), RETRY_MS); // the network or an engine is away
      return;
    }
    if (round !== this.#round) return;
    this.#load(found);
    this.#state = { ...this.#state, status: "ready", error: null, title: found.thread.title };
    this.#changed();
    this.#follow(found, round);
  }

  #failed(error: Error): void {
    this.#leave();
    this.#state = { ...this.#state, status: "failed", error };
    this.#changed();
  }

  #again(): void {
    this.#leave();
    void this.#read(++this.#round);
  }

  // -- what is stored -------------------------------------------------------------------------------------

  #load({ messages, runs, outcomes }: StoredThread): void {
    this.#items = [];
    this.#places.clear();
    this.#runs.clear();
    const parts = new Map<string, Part[]>();
    for (const row of messages) {
      if (row.role === "user") {
        const { name = "" } = detailOf(row) as { name?: string };
        this.#put({ kind: "message", id: row.message_id, userId: row.author, name, text: row.content });
      } else if (row.run_id !== "") {
        const part = partOf(row);
        if (part === null) continue;
        parts.set(row.run_id, [...(parts.get(row.run_id) ?? []), part]);
        this.#put(storedRun(row.run_id, "finished", parts.get(row.run_id)!));
      }
    }
    for (const run of outcomes) {
      const phase: RunPhase = run.state as RunPhase;
      const item = storedRun(run.run_id, phase, parts.get(run.run_id) ?? []);
      item.view = {
        ...item.view,
        attempt: run.attempt || 1,
        error: run.error === "" ? null : { code: run.error, message: run.error_message },
        interrupts: run.questions.map(({ interrupt_id, text, schema }) => ({
          id: interrupt_id,
          message: text,
          responseSchema: JSON.parse(schema) as Json,
        })),
      };
      item.answered = run.questions.length > 0 && run.questions.every((question) => question.answered_by !== "");
      this.#insert(item, run);
    }
    for (const run of runs) this.#insert(newRun(run.run_id), run);
  }

  /** A run that has no message yet stands behind the one that it answers, and not behind what was said since. */
  #insert(item: RunItem, { message_id: messageId, parent_run_id: parent }: StoredRun): void {
    const before = this.#places.get(`run ${parent}`) ?? this.#places.get(`message ${messageId}`);
    if (this.#places.has(`run ${item.id}`) || before === undefined) return this.#put(item);
    let at = before + 1;
    while (this.#items[at]?.kind === "run") at += 1;
    this.#items.splice(at, 0, item);
    for (const [index, { kind, id }] of this.#items.entries()) this.#places.set(`${kind} ${id}`, index);
  }

  #put(item: ThreadItem): void {
    const key = `${item.kind} ${item.id}`;
    const at = this.#places.get(key) ?? this.#items.length;
    this.#places.set(key, at);
    this.#items[at] = item;
  }

  #item(runId: string): RunItem | undefined {
    const at = this.#places.get(`run ${runId}`);
    return at === undefined ? undefined : (this.#items[at] as RunItem);
  }

  // -- what comes ------------------------------------------------------------------------------------------

  #follow({ channel, offset, epoch }: StoredThread, round: number): void {
    const there = this.#client.getSubscription(channel);
    if (there !== null) {
      return this.#failed(new Error(`The page has a subscription to ${channel} of its own. Remove it before.`));
    }
    const subscription = this.#client.newSubscription(channel, { since: { offset, epoch }, recoverable: true, joinLeave: true });
    this.#subscription = subscription;
    subscription.on("publication", (context) => this.#published(context));
    subscription.on("subscribed", (context) => this.#subscribed(context, subscription, round));
    subscription.on("join", ({ info }) => this.#arrived(info.client, info.user, info.connInfo));
    subscription.on("leave", ({ info }) => {
      this.#connected.delete(info.client);
      this.#present();
    });
    subscription.on("unsubscribed", ({ code, reason }) => {
      if (code !== 0) this.#failed(new Error(reason)); // by the gateway: not a member any more
    });
    subscription.subscribe();
  }

  #subscribed({ wasRecovering, recovered }: SubscribedContext, subscription: Subscription, round: number): void {
    if (wasRecovering && !recovered) return this.#again();
    subscription.presence().then(
      ({ clients }) => {
        if (round !== this.#round) return;
        this.#connected.clear();
        for (const info of Object.values(clients)) this.#arrived(info.client, info.user, info.connInfo);
      },
      () => undefined, // the next join or subscription brings it
    );
  }

  #published({ data }: PublicationContext): void {
    if (!isEvent(data)) return;
    const event: AguiEvent = data;
    if (event.runId !== undefined && event.seq !== undefined) this.#ofRun(event.runId, event);
    else if (event.type === "CUSTOM") this.#notice(event.name, event.value ?? null);
    else this.#ofPerson(event);
    this.#changed();
  }

  #ofRun(runId: string, event: AguiEvent): void {
    const item = this.#item(runId) ?? newRun(runId);
    let assembler = this.#runs.get(runId);
    if (assembler === undefined) {
      if (item.view.phase !== "waiting" && item.view.phase !== "running") return; // it is here as it was stored
      this.#runs.set(runId, (assembler = new RunAssembler(runId)));
    }
    const pushed = assembler.push(event);
    if (pushed.kind === "conflict") return this.#again();
    if (pushed.kind !== "new" && pushed.kind !== "replaced") return;
    const view = pushed.kind === "new" ? pushed.events.reduce(fold, item.view) : viewOf(pushed.events);
    this.#put({ ...item, view });
    const asked = event.type === "RUN_STARTED" && event.parentRunId !== undefined ? this.#item(event.parentRunId) : undefined;
    if (asked !== undefined) this.#put({ ...asked, answered: true });
    if (assembler.terminal === null) return;
    const round = this.#round;
    void assembler.verify().then(({ complete }) => {
      const last = this.#item(runId);
      if (round !== this.#round || last === undefined) return;
      this.#put({ ...last, complete });
      this.#changed();
    });
  }

  /** A person's message in its three events, or the result of a tool that a person's page ran. */
  #ofPerson(event: AguiEvent): void {
    if (event.type === "TEXT_MESSAGE_START" || event.type === "TEXT_MESSAGE_CHUNK") {
      const { messageId = "", name = "", userId = name } = event as typeof event & { userId?: string };
      if (this.#places.has(`message ${messageId}`)) return;
      const text = event.type === "TEXT_MESSAGE_CHUNK" ? (event.delta ?? "") : "";
      this.#put({ kind: "message", id: messageId, userId, name, text });
    } else if (event.type === "TEXT_MESSAGE_CONTENT") {
      const at = this.#places.get(`message ${event.messageId}`);
      const item = at === undefined ? undefined : (this.#items[at] as MessageItem);
      if (item?.text === "") this.#put({ ...item, text: event.delta });
    } else if (event.type === "TOOL_CALL_RESULT") {
      const item = this.#items.findLast((one): one is RunItem => one.kind === "run" && one.view.parts.some((part) => part.kind === "tool" && part.id === event.toolCallId));
      if (item !== undefined) this.#put({ ...item, view: fold(item.view, event) });
    }
  }

  // -- who is there ----------------------------------------------------------------------------------------

  #arrived(client: string, userId: string, info: unknown): void {
    const name = (info as { name?: string } | undefined)?.name ?? "";
    this.#connected.set(client, { userId, name: name || userId });
    this.#present();
  }

  #notice(name: string, value: Json): void {
    if (name !== "narthex.typing") return;
    const { userId, name: called } = (value ?? {}) as { userId?: string; name?: string };
    if (userId === undefined) return;
    clearTimeout(this.#typists.get(userId)?.timer);
    const timer = setTimeout(() => {
      this.#typists.delete(userId);
      this.#present();
    }, TYPING_MS);
    this.#typists.set(userId, { user: { userId, name: called || userId }, timer });
    this.#present();
  }

  #present(): void {
    const users = new Map([...this.#connected.values()].map((user) => [user.userId, user]));
    this.#presence = {
      users: [...users.values()].sort((one, other) => (one.userId < other.userId ? -1 : 1)),
      typing: [...this.#typists.values()].map(({ user }) => users.get(user.userId) ?? user),
    };
    this.#changed();
  }

  /** One call of the listeners for all that comes in one turn of the event loop: a replay has thousands of events. */
  #changed(): void {
    if (this.#flush) return;
    this.#flush = true;
    queueMicrotask(() => {
      this.#flush = false;
      if (this.#state.status !== "idle") this.#state = { ...this.#state, items: [...this.#items] };
      for (const listener of [...this.#listeners]) listener();
    });
  }
}

type Timer = ReturnType<typeof setTimeout>;

function newRun(id: string): RunItem {
  return { kind: "run", id, view: EMPTY_VIEW, complete: null, answered: false };
}

function storedRun(id: string, phase: RunPhase, parts: Part[]): RunItem {
  return { ...newRun(id), view: { ...EMPTY_VIEW, phase, parts } };
}

function detailOf(row: StoredRow): unknown {
  return row.detail === "" ? {} : (JSON.parse(row.detail) as unknown);
}

function partOf(row: StoredRow): Part | null {
  const { message_id: id, content: text } = row;
  if (row.role === "assistant") return { kind: "text", id, role: row.role, text, done: true };
  if (row.role === "reasoning") return { kind: "reasoning", id, text, done: true };
  if (row.role !== "tool") return null;
  const { toolCallName: name = "", args = "", answered = true } = detailOf(row) as { toolCallName?: string; args?: string; answered?: boolean };
  return { kind: "tool", id, name, args, state: answered ? "done" : "running", result: text };
}

function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
