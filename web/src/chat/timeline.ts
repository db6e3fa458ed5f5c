/**
 * A thread as the page shows it: people's messages and agents' runs, in order. Pure: it is told of stored messages
 * and live events, and answers with new items; it sends nothing and knows no DOM.
 *
 * Rules: items are replaced, never mutated, so that `===` tells a component whether to render again. A run that can
 * be followed from its first event is shown from its events and proven; one that cannot is shown as it was stored.
 */

import {
  EMPTY_VIEW,
  RunAssembler,
  fold,
  viewOf,
  type AguiEvent,
  type Interrupt,
  type Part,
  type Proof,
  type RunView,
} from "@narthex/client";

import type { EndedRun, OpenInterrupt, StoredMessage, ThreadView } from "./wire.ts";

export interface MessageItem {
  kind: "message";
  id: string;
  author: string;
  name: string;
  text: string;
  /** Milliseconds since the epoch. */
  at: number;
  /** `sending` and `failed` exist only on the device that writes it. */
  state: "sent" | "sending" | "failed";
  problem: string;
  offset: number;
}

/** What became of a wish to stop: asked, acknowledged by the gateway after `ms`, or refused. */
export type Stop = { state: "asked"; at: number } | { state: "acknowledged"; ms: number } | { state: "failed"; problem: string };

export interface RunItem {
  kind: "run";
  id: string;
  agent: string;
  /** User id of who began it; empty where it is not known. */
  user: string;
  parent: string;
  view: RunView;
  /** `live`: followed event by event; `stored`: from the thread's history, nothing to prove here. */
  source: "live" | "stored";
  proof: Proof | null;
  startedAt: number;
  endedAt: number;
  stop: Stop | null;
  /** Place in the queue (0: next), or null when it is not queued or nobody said. */
  position: number | null;
  /** The agent has been silent for so many seconds, says the gateway (`narthex.working`); 0 when it is not. */
  silentFor: number;
  /** Ids of questions that somebody answered. */
  answered: readonly string[];
  /** Who asked for it to stop: a user id, from the terminal event or the run's record. */
  stoppedBy: string;
  /** Ids of questions that nobody answered in time, as the gateway says. */
  expired: readonly string[];
  /** Who answered its question: a user id; empty when nobody did, or it is not known. */
  answeredBy: string;
  /** Channel offset of its last event that is known; 0 when none is. */
  offset: number;
}

export type Item = MessageItem | RunItem;

/** What the caller has to do after an event. */
export type Applied = "shown" | "nothing" | "reload" | "ended";

/** Names that people have told the channel about themselves, by user id. */
export type Names = ReadonlyMap<string, string>;

export class Timeline {
  #items: Item[] = [];
  #index = new Map<string, number>();
  #assemblers = new Map<string, RunAssembler>();
  #names = new Map<string, string>();

  get items(): readonly Item[] {
    return this.#items;
  }

  get names(): Names {
    return this.#names;
  }

  /** The run that is going on, if any: the newest that has begun and not ended. */
  get active(): RunItem | null {
    return (this.#items.findLast((item) => item.kind === "run" && item.view.phase === "running") as RunItem) ?? null;
  }

  /** Start over from what `thread.get` gave. Messages being sent stay. */
  load(view: ThreadView): void {
    const pending = this.#items.filter((item) => item.kind === "message" && item.state !== "sent");
    this.#items = [];
    this.#index.clear();
    this.#assemblers.clear();
    for (const message of view.messages) this.#store(message);
    for (const run of view.runs) {
      const waiting = run.state === "queued";
      const item = this.#run(run.run_id);
      this.#putAfter(run.message_id, {
        ...item,
        agent: run.agent,
        user: run.user_id,
        parent: run.parent_run_id ?? "",
        view: { ...item.view, phase: waiting ? "waiting" : "running" },
        startedAt: run.started_at ? run.started_at * 1000 : item.startedAt,
      });
    }
    for (const ended of view.outcomes ?? []) this.#end(ended, view.interrupts);
    for (const question of view.interrupts) this.#ask(question);
    for (const item of pending) if (!this.#index.has(item.id)) this.#put(item);
  }

  /** Put an older page of the thread before everything else (scrolling back). */
  prepend({ messages, outcomes = [], interrupts = [] }: Pick<ThreadView, "messages"> & Partial<ThreadView>): void {
    const older = new Timeline();
    for (const message of messages) if (!this.#index.has(message.message_id)) older.#store(message);
    for (const ended of outcomes) if (!this.#index.has(ended.run_id)) older.#end(ended, interrupts);
    for (const [user, name] of older.#names) if (!this.#names.has(user)) this.#names.set(user, name);
    const fresh: Item[] = [];
    for (const item of older.#items) {
      const newer = this.#get(item.id);
      if (newer === undefined) {
        fresh.push(item);
      } else if (item.kind === "run" && newer.kind === "run" && newer.source === "stored") {
        // A run across the pages' edge: its first parts are on the older page.
        const parts = [...item.view.parts, ...newer.view.parts];
        this.#put({ ...newer, view: { ...newer.view, parts }, startedAt: Math.min(item.startedAt || newer.startedAt, newer.startedAt) });
      }
    }
    this.#items = [...fresh, ...this.#items];
    this.#reindex();
  }

  /** Show a message that is on its way, before the gateway confirmed it. */
  sending(id: string, author: string, text: string, at: number): void {
    this.#put({ kind: "message", id, author, name: "", text, at, state: "sending", problem: "", offset: 0 });
  }

  /** The gateway took it under its own id, or did not. */
  sent(id: string, messageId: string): void {
    const item = this.#get(id);
    if (item?.kind !== "message") return;
    const place = this.#index.get(id)!;
    if (this.#index.has(messageId)) {
      this.#items = this.#items.filter((other) => other.id !== id);
    } else {
      this.#items = replaced(this.#items, place, { ...item, id: messageId, state: "sent", problem: "" });
    }
    this.#reindex();
  }

  failed(id: string, problem: string): void {
    const item = this.#get(id);
    if (item?.kind === "message") this.#put({ ...item, state: "failed", problem });
  }

  has(id: string): boolean {
    return this.#index.has(id);
  }

  /** Take away a message that is not sent after all. */
  remove(id: string): void {
    this.#items = this.#items.filter((item) => item.id !== id);
    this.#reindex();
  }

  /** Show a run that was accepted, before its first event. */
  expect(runId: string, position: number | null, now: number): void {
    const item = this.#run(runId);
    if (item.view.phase === "waiting") this.#put({ ...item, position, startedAt: item.startedAt || now });
  }

  /** Change what the page itself knows of a run (stop, problem, agent …). */
  amend(runId: string, change: Partial<Omit<RunItem, "kind" | "id" | "view">>): void {
    const item = this.#get(runId);
    if (item?.kind === "run") this.#put({ ...item, ...change });
  }

  /** Somebody answered a question. */
  answered(runId: string, interruptId: string): void {
    const item = this.#get(runId);
    if (item?.kind === "run" && !item.answered.includes(interruptId)) {
      this.#put({ ...item, answered: [...item.answered, interruptId] });
    }
  }

  /** Take one event of the thread's channel. `ended` asks the caller for `prove`; `reload` for `thread.get`. */
  apply(event: AguiEvent, offset: number, now: number): Applied {
    const at = event.timestamp ?? now;
    return event.runId === undefined ? this.#person(event, offset, at) : this.#event(event, event.runId, offset, at);
  }

  /** Runs that wait their turn. */
  get queued(): readonly RunItem[] {
    return this.#items.filter((item): item is RunItem => item.kind === "run" && item.view.phase === "waiting");
  }

  /** The last known channel offset before an item: a replay of the item's run may begin there. */
  offsetBefore(id: string): number {
    let offset = 0;
    for (const item of this.#items) {
      if (item.id === id) break;
      offset = Math.max(offset, item.offset);
    }
    return offset;
  }

  /** Show a stored run from its events, read again from the channel, with their proof. */
  proven(assembler: RunAssembler, proof: Proof): void {
    const item = this.#run(assembler.runId);
    this.#put({ ...item, source: "live", view: viewOf(assembler.events), proof });
  }

  /** Check count and digest of a run that ended. Its events are not kept any longer than that. */
  async prove(runId: string): Promise<void> {
    const assembler = this.#assemblers.get(runId);
    if (!assembler) return;
    const proof = await assembler.verify();
    this.amend(runId, { proof });
    if (this.#assemblers.get(runId) === assembler) this.#assemblers.delete(runId);
  }

  /** Runs whose events are held, for as long as they go on. */
  get held(): number {
    return this.#assemblers.size;
  }

  #person(event: AguiEvent, offset: number, at: number): Applied {
    if (event.type === "TEXT_MESSAGE_START") {
      const { userId } = event as { userId?: string };
      const author = userId ?? event.name ?? "";
      if (event.name) this.#names.set(author, event.name);
      const there = this.#get(event.messageId);
      if (there?.kind === "message") {
        // Known from `thread.get` or from this device's own sending: only the name may be new.
        this.#put({ ...there, author: author || there.author, name: event.name ?? there.name, state: "sent", problem: "", offset });
        return "shown";
      }
      this.#put({ kind: "message", id: event.messageId, author, name: event.name ?? "", text: "", at, state: "sent", problem: "", offset });
      return "nothing";
    }
    if (event.type === "TEXT_MESSAGE_CONTENT") {
      const there = this.#get(event.messageId);
      // A person's message is one content event; when the text is there already this is a repeat.
      if (there?.kind !== "message" || there.text.endsWith(event.delta)) return "nothing";
      this.#put({ ...there, text: there.text + event.delta, offset });
      return "shown";
    }
    return "nothing";
  }

  #event(event: AguiEvent, runId: string, offset: number, at: number): Applied {
    let assembler = this.#assemblers.get(runId);
    const known = this.#get(runId);
    if (!assembler) {
      // What comes again of a run that is over and was checked adds nothing.
      if (known?.kind === "run" && known.source === "live" && known.proof !== null) return "nothing";
      // The tail of a run that is shown as stored proves nothing and adds nothing.
      if (known?.kind === "run" && known.source === "stored" && (event.seq_from ?? event.seq) !== 1) return "nothing";
      assembler = new RunAssembler(runId);
      this.#assemblers.set(runId, assembler);
    }
    const pushed = assembler.push(event);
    if (pushed.kind === "repeat" || pushed.kind === "early") return "nothing";
    if (pushed.kind === "conflict") return "reload";
    const item = { ...this.#run(runId), source: "live" as const };
    const rebuilt = pushed.kind === "replaced" || (known?.kind === "run" && known.source === "stored");
    const base = rebuilt ? EMPTY_VIEW : item.view;
    const events = rebuilt ? assembler.events : pushed.events;
    let next: RunItem = { ...item, view: events.reduce(fold, base), silentFor: 0, offset: Math.max(item.offset, offset) };
    for (const one of events) next = this.#beside(next, one, at);
    this.#put(next);
    return assembler.terminal ? "ended" : "shown";
  }

  /** What an event says beyond the view: when it began and ended, whose question it answers, silence. */
  #beside(item: RunItem, event: AguiEvent, at: number): RunItem {
    switch (event.type) {
      case "RUN_STARTED": {
        const { agent } = event as { agent?: string };
        const parent = event.parentRunId ?? item.parent;
        const asked = this.#get(parent);
        if (asked?.kind === "run") this.#put({ ...asked, answered: asked.view.interrupts.map((question) => question.id) });
        return { ...item, parent, agent: agent ?? item.agent, startedAt: at, position: null };
      }
      case "RUN_FINISHED": {
        const { cancelledBy } = (event.result ?? {}) as { cancelledBy?: unknown };
        return { ...item, endedAt: at, stoppedBy: typeof cancelledBy === "string" ? cancelledBy : "" };
      }
      case "RUN_ERROR":
        return { ...item, endedAt: at };
      case "CUSTOM":
        if (event.name === "narthex.answered") this.amend(item.parent, { answeredBy: textOf(event.value, "by") });
        return event.name === "narthex.working" ? { ...item, silentFor: silence(event.value) } : item;
      default:
        return item;
    }
  }

  #store(message: StoredMessage): void {
    if (message.role === "user" || !message.run_id) {
      const { message_id: id, author, content: text, offset = 0 } = message;
      const at = message.created_at * 1000;
      const { name } = (parse(message.detail ?? "{}") ?? {}) as { name?: unknown };
      if (typeof name === "string" && name !== "") this.#names.set(author, name);
      this.#put({ kind: "message", id, author, name: this.#names.get(author) ?? "", text, at, state: "sent", problem: "", offset });
      return;
    }
    const item = this.#run(message.run_id);
    const parts = message.role === "activity" ? [] : [storedPart(message)]; // for pages that know its type
    const at = message.created_at * 1000;
    this.#put({
      ...item,
      source: "stored",
      agent: item.agent || message.author,
      view: { ...item.view, phase: "finished", parts: [...item.view.parts, ...parts] },
      startedAt: item.startedAt || at,
      endedAt: at,
      offset: Math.max(item.offset, message.offset ?? 0),
    });
  }

  /** What the gateway keeps of a run that has ended: shown as when it happened. */
  #end(ended: EndedRun, open: readonly OpenInterrupt[]): void {
    const item = this.#run(ended.run_id);
    if (item.source === "live" && item.view.phase !== "waiting") return; // its own events say it
    const asked = ended.questions.map(asInterrupt);
    const answered = ended.questions.filter((question) => question.resume_run_id !== "");
    const waiting = new Set(open.map((question) => question.interrupt_id));
    const expired = ended.questions.filter((question) => question.resume_run_id === "" && !waiting.has(question.interrupt_id));
    this.#putAfter(
      ended.message_id,
      {
        ...item,
        source: "stored",
        agent: item.agent || ended.agent,
        user: ended.user_id,
        parent: ended.parent_run_id,
        view: {
          ...item.view,
          phase: ended.state,
          interrupts: asked,
          error: ended.state === "failed" ? { message: ended.error_message, code: ended.error } : null,
        },
        startedAt: ended.started_at * 1000,
        endedAt: ended.finished_at * 1000,
        stoppedBy: ended.state === "cancelled" ? ended.cancel_requested_by : "",
        answered: answered.map((question) => question.interrupt_id),
        expired: expired.map((question) => question.interrupt_id),
        answeredBy: answered[0]?.answered_by ?? "",
      },
      ended.created_at * 1000,
    );
  }

  #ask(question: OpenInterrupt): void {
    const item = this.#run(question.run_id);
    this.#put({ ...item, source: "stored", view: { ...item.view, phase: "interrupted", interrupts: [asInterrupt(question)] } });
  }

  #run(id: string): RunItem {
    const there = this.#get(id);
    if (there?.kind === "run") return there;
    return {
      kind: "run",
      id,
      agent: "",
      user: "",
      parent: "",
      view: EMPTY_VIEW,
      source: "live",
      proof: null,
      startedAt: 0,
      endedAt: 0,
      stop: null,
      position: null,
      silentFor: 0,
      answered: [],
      stoppedBy: "",
      expired: [],
      answeredBy: "",
      offset: 0,
    };
  }

  #get(id: string): Item | undefined {
    const place = this.#index.get(id);
    return place === undefined ? undefined : this.#items[place];
  }

  #put(item: Item): void {
    const place = this.#index.get(item.id);
    if (place === undefined) {
      this.#index.set(item.id, this.#items.length);
      this.#items = [...this.#items, item];
    } else {
      this.#items = replaced(this.#items, place, item);
    }
  }

  /**
   * A new one goes behind the message that began it and that message's other answers; where the message is not there,
   * by the moment `at` (default: the end).
   */
  #putAfter(messageId: string, item: RunItem, at = Number.POSITIVE_INFINITY): void {
    if (this.#index.has(item.id)) return this.#put(item);
    const place = this.#index.get(messageId);
    let end = place === undefined ? this.#items.findIndex((other) => momentOf(other) > at) : place + 1;
    if (end < 0) end = this.#items.length;
    while (place !== undefined && this.#items[end]?.kind === "run") end += 1;
    this.#items = [...this.#items.slice(0, end), item, ...this.#items.slice(end)];
    this.#reindex();
  }

  #reindex(): void {
    this.#index = new Map(this.#items.map((item, place) => [item.id, place]));
  }
}

/** The list with another item at a place; `with` would do it, and is not in Node 18, the oldest that builds this. */
function replaced(items: readonly Item[], place: number, item: Item): Item[] {
  const changed = [...items];
  changed[place] = item;
  return changed;
}

/** The run's answer as Markdown text. */
export function answerOf(item: RunItem): string {
  const texts = item.view.parts.filter((part) => part.kind === "text").map((part) => part.text.trim());
  return texts.filter(Boolean).join("\n\n");
}

function momentOf(item: Item): number {
  return item.kind === "message" ? item.at : item.startedAt;
}

function asInterrupt(question: OpenInterrupt): Interrupt {
  return {
    id: question.interrupt_id,
    message: question.text,
    responseSchema: parse(question.schema) as never,
    expiresAt: question.expires_at,
    ...(question.answerable_by ? { metadata: { answerableBy: question.answerable_by } } : {}),
  };
}

function storedPart(message: StoredMessage): Part {
  const { message_id: id, content: text } = message;
  if (message.role === "reasoning") return { kind: "reasoning", id, text, done: true };
  if (message.role !== "tool") return { kind: "text", id, role: message.role, text, done: true };
  const detail = (parse(message.detail ?? "{}") ?? {}) as Record<string, unknown>;
  const name = typeof detail["toolCallName"] === "string" ? detail["toolCallName"] : "tool";
  const args = detail["args"] ?? "";
  const state = detail["answered"] === false ? "running" : "done";
  return { kind: "tool", id, name, args: typeof args === "string" ? args : JSON.stringify(args), state, result: text };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return null;
  }
}

function textOf(value: unknown, name: string): string {
  const text = (value as Record<string, unknown> | null)?.[name];
  return typeof text === "string" ? text : "";
}

function silence(value: unknown): number {
  const seconds = (value as { silent_s?: unknown } | null)?.silent_s;
  return typeof seconds === "number" ? seconds : 0;
}
