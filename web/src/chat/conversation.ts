/**
 * The thread that is open: its timeline kept in step with the channel, and everything a person can do in it.
 *
 * Rules: it is read once (`thread.get`), then followed from that position, so that nothing falls between; what cannot
 * be recovered is read again. Events are folded at once but shown once per frame.
 */

import { signal, type Signal } from "@preact/signals";
import type { Subscription } from "centrifuge";

import { RunAssembler, isEvent, type AguiEvent, type Interrupt, type Json } from "@narthex/client";

import { RpcError, type Connection } from "./connection.ts";
import type { Drafts } from "./drafts.ts";
import type { People } from "./people.ts";
import { Timeline, type Item, type RunItem } from "./timeline.ts";
import type { Member, ThreadView, Whoami } from "./wire.ts";

const PAGE = 100;
/** The gateway shows "is typing" for a moment only; telling it more often than this adds nothing. */
const TYPING_EVERY_MS = 3_000;
const TYPING_FOR_MS = 5_000;
const READ_AFTER_MS = 1_200;
/** A message that was sent so recently is on its way for the person too. */
const SEND_AGAIN_MS = 60_000;
/** Lines for screen readers that stay on the page. */
const SPOKEN_LINES = 6;
/** Publications a replay asks for at a time. */
const REPLAY_PAGE = 500;

export interface Present {
  user: string;
  name: string;
}

let serials = 0;

export class Conversation {
  /** Tells one opening from the next, also of the same thread. */
  readonly serial = ++serials;
  readonly id: Signal<string>;
  readonly title = signal("");
  readonly role = signal<"owner" | "member">("member");
  readonly items: Signal<readonly Item[]> = signal([]);
  readonly members: Signal<readonly Member[]> = signal([]);
  /** Users who were invited and have not answered. */
  readonly invited: Signal<readonly string[]> = signal([]);
  readonly present: Signal<readonly Present[]> = signal([]);
  readonly typing: Signal<readonly string[]> = signal([]);
  /** Others' read markers: user id → offset. */
  readonly read: Signal<ReadonlyMap<string, number>> = signal(new Map());
  readonly state: Signal<"new" | "loading" | "ready" | "failed"> = signal("new");
  readonly problem = signal("");
  readonly more = signal(false);
  /** A message to show (found by a search), until it was shown. */
  readonly wanted = signal("");
  /** The agent that is asked next: by name; empty: the gateway's default. */
  readonly agent = signal("");
  /** The latest lines for screen readers, oldest first: several may come within one frame, and none replaces another. */
  readonly said: Signal<readonly { id: number; text: string }[]> = signal([]);

  readonly #connection: Connection;
  readonly #drafts: Drafts;
  readonly #people: People;
  readonly #me: string;
  readonly #permissions: readonly string[];
  readonly #timeline = new Timeline();
  readonly #here = new Map<string, Present>();
  readonly #typists = new Map<string, ReturnType<typeof setTimeout>>();
  #subscription: Subscription | null = null;
  #frame = 0;
  #typedAt = 0;
  #readTimer: ReturnType<typeof setTimeout> | undefined;
  /** Agents' names by run: a notice may come before the run's first event. */
  readonly #agents = new Map<string, string>();
  #epoch = "";
  #offset = 0;
  #readOffset = 0;
  #oldest: { before: number; before_id: string } | null = null;
  #closed = false;
  /** What is shown has a gap and could not be read again yet. */
  #stale = false;
  /** Counts subscriptions: the answer to a presence question of an earlier one says nothing any more. */
  #round = 0;
  readonly #looked = (): void => {
    if (document.visibilityState === "visible") this.#markRead();
  };

  constructor(connection: Connection, kept: { drafts: Drafts; people: People }, who: Whoami, threadId: string) {
    this.#connection = connection;
    this.#drafts = kept.drafts;
    this.#people = kept.people;
    this.#me = who.user;
    this.#permissions = who.permissions;
    this.id = signal(threadId);
    document.addEventListener("visibilitychange", this.#looked);
    if (threadId) void this.open();
    else this.#showUnsent();
  }

  /** The run that is going on. */
  get active(): RunItem | null {
    return this.#timeline.active;
  }

  nameOf(user: string): string {
    if (user === this.#me) return "You";
    const named = this.#timeline.names.get(user) || this.present.value.find((one) => one.user === user)?.name;
    return named || user;
  }

  close(): void {
    this.#closed = true;
    document.removeEventListener("visibilitychange", this.#looked);
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#readTimer);
    for (const timer of this.#typists.values()) clearTimeout(timer);
    if (this.#subscription) this.#connection.drop(this.#subscription.channel);
  }

  /** Read the thread and follow it from there. Again after a gap that could not be recovered. */
  async open(): Promise<void> {
    if (this.state.value === "new") this.state.value = "loading";
    let view: ThreadView;
    try {
      view = await this.#read({});
    } catch (error) {
      if (this.#closed) return;
      const gone = error instanceof RpcError && error.code === 404;
      this.problem.value = gone ? "This thread is not visible to you: it was deleted, or you are not a member." : said(error);
      this.state.value = this.items.value.length && !gone ? "ready" : "failed";
      this.#stale = !gone;
      return;
    }
    if (this.#closed) return;
    this.#stale = false;
    this.#timeline.load(view);
    const last = this.#timeline.items.findLast((item): item is RunItem => item.kind === "run" && item.agent !== "");
    if (this.agent.value === "" && last) this.agent.value = last.agent; // the thread goes on with whom it was with
    this.#showUnsent();
    this.#describe(view);
    this.#reached(view);
    this.state.value = "ready";
    this.problem.value = "";
    this.#show();
    this.#follow(view.channel, { offset: view.offset, epoch: view.epoch });
    this.#markRead();
  }

  /** A page of messages with the outcomes of all its runs. */
  async #read(place: { before?: number; before_id?: string }): Promise<ThreadView> {
    const thread_id = this.id.value;
    const view = await this.#connection.rpc("thread.get", { thread_id, limit: PAGE, ...place });
    for (let next = view.outcomes_next; next;) {
      const page = await this.#connection.rpc("thread.outcomes", { thread_id, ...next });
      view.outcomes = [...page.outcomes, ...(view.outcomes ?? [])];
      next = page.next;
    }
    return view;
  }

  /** Older messages, before what is shown. */
  async older(): Promise<void> {
    if (this.#oldest === null) return;
    const view = await this.#read(this.#oldest);
    this.#timeline.prepend(view);
    this.#reached(view);
    this.#show();
  }

  /** The oldest message that was read: an older page begins before it. */
  #reached({ messages }: ThreadView): void {
    const first = messages[0];
    if (first) this.#oldest = { before: first.created_at, before_id: first.message_id };
    this.more.value = messages.length >= PAGE;
  }

  /** Send what a person wrote. The same `clientId` again (a retry) never sends it twice. */
  async send(text: string, clientId: string = randomId()): Promise<string> {
    // A text that begins with a name names its agent itself.
    const agent = text.startsWith("@") ? "" : this.agent.value;
    const inThread = this.id.value;
    this.#timeline.sending(clientId, this.#me, text, Date.now());
    this.#drafts.sending(inThread, { id: clientId, text, at: Date.now() });
    this.#show();
    try {
      const started = await this.#connection.rpc("run.start", {
        ...(inThread ? { thread_id: inThread } : {}),
        text,
        client_message_id: clientId,
        ...(agent ? { agent } : {}),
      });
      this.#drafts.settled(inThread, clientId);
      this.#timeline.sent(clientId, started.message_id);
      this.#timeline.expect(started.run_id, null, Date.now());
      this.#timeline.amend(started.run_id, { user: this.#me });
      if (started.queued) void this.#places();
      if (!inThread && !this.#closed) this.#begin(started.thread_id, started.channel, text);
      this.#show();
      return started.run_id;
    } catch (error) {
      this.#timeline.failed(clientId, said(error));
      this.#show();
      throw error;
    }
  }

  /** Do not send it any more. */
  discard(clientId: string): void {
    this.#drafts.settled(this.id.value, clientId);
    this.#timeline.remove(clientId);
    this.#show();
  }

  /** What was written in this thread; kept until it is sent. */
  get draft(): string {
    return this.#drafts.draft(this.id.value);
  }

  set draft(text: string) {
    this.#drafts.setDraft(this.id.value, text);
  }

  /**
   * Messages whose confirmation never came, because the page was closed or reloaded. One of a moment ago is sent again
   * by itself (one that had arrived after all is not doubled); whether an older one is still wanted is the person's to say.
   */
  #showUnsent(): void {
    for (const { id, text, at } of this.#drafts.unsent(this.id.value)) {
      if (this.#timeline.has(id)) continue;
      if (Date.now() - at < SEND_AGAIN_MS) {
        this.send(text, id).catch(() => undefined);
        continue;
      }
      this.#timeline.sending(id, this.#me, text, at);
      this.#timeline.failed(id, "the page was closed before the gateway confirmed it.");
    }
    this.#show();
  }

  /** Ask the run to stop; the gateway's acknowledgement is shown with how long it took. */
  async stop(run: RunItem): Promise<void> {
    if (run.stop?.state === "asked") return;
    const at = performance.now();
    this.#amend(run.id, { stop: { state: "asked", at: Date.now() } });
    try {
      await this.#connection.rpc("run.cancel", { run_id: run.id });
      this.#amend(run.id, { stop: { state: "acknowledged", ms: Math.round(performance.now() - at) } });
      this.#say("Stop acknowledged.");
    } catch (error) {
      this.#amend(run.id, { stop: { state: "failed", problem: said(error) } });
    }
  }

  steer(run: RunItem, text: string): Promise<object> {
    return this.#connection.rpc("run.steer", { run_id: run.id, text });
  }

  /** Answer a question that a run ended with. */
  async answer(run: RunItem, interruptId: string, payload: Json): Promise<void> {
    const params = { run_id: run.id, interrupt_id: interruptId, payload };
    const { run_id } = await this.#connection.rpc("run.resume", params);
    this.#timeline.answered(run.id, interruptId);
    this.#timeline.expect(run_id, null, Date.now());
    this.#show();
  }

  /** Who may answer a question, and whether this person may, as far as the page knows; the gateway decides. */
  answerers(run: RunItem, question: Interrupt): { words: string; me: boolean } {
    const by = question.metadata?.answerableBy ?? "";
    const asker = run.user === "" || run.user === this.#me;
    const owner = this.role.value === "owner";
    const asking = run.user === "" ? "The user who started this run" : this.nameOf(run.user);
    if (by === "member") return { words: "Any member may answer", me: true };
    if (by === "asker") return { words: `${asking} may answer`, me: asker };
    if (by === "owner") return { words: "An owner of the thread may answer", me: owner };
    if (by.startsWith("permission:")) {
      const name = by.slice("permission:".length);
      return { words: `Members with the permission ${name} may answer`, me: this.#permissions.includes(name) };
    }
    return { words: `${asking}, or an owner of the thread, may answer`, me: asker || owner };
  }

  /** Prove a run that is shown as it was stored: read its events again from the channel's log and check them. */
  async check(run: RunItem): Promise<void> {
    const assembler = new RunAssembler(run.id);
    let from = this.#timeline.offsetBefore(run.id);
    while (assembler.terminal === null && this.#subscription) {
      const page = await this.#subscription.history({ since: { offset: from, epoch: this.#epoch }, limit: REPLAY_PAGE });
      for (const { data } of page.publications) if (isEvent(data) && data.runId === run.id) assembler.push(data);
      const last = page.publications.at(-1)?.offset;
      if (last === undefined) break;
      from = last;
    }
    if (assembler.terminal === null) throw new Error("The gateway's log no longer holds all of this run's events.");
    this.#timeline.proven(assembler, await assembler.verify());
    this.#show();
  }

  /** What a notice to this user, or its record, says of a run of this thread: the agent, and who began it. */
  heard(runId: string, agent: string, user = ""): void {
    if (agent) this.#agents.set(runId, agent);
    this.#amend(runId, { ...(agent ? { agent } : {}), ...(user ? { user } : {}) });
  }

  type(): void {
    if (!this.id.value || Date.now() - this.#typedAt < TYPING_EVERY_MS) return;
    this.#typedAt = Date.now();
    this.#connection.rpc("typing", { thread_id: this.id.value }).catch(() => undefined);
  }

  async rename(title: string): Promise<void> {
    await this.#connection.rpc("thread.rename", { thread_id: this.id.value, title });
    this.title.value = title;
  }

  /** Invite somebody; where the gateway adds members without asking them, they are one at once. */
  async invite(user: string): Promise<"invited" | "member"> {
    const { state = "member" } = await this.#connection.rpc("thread.members.add", { thread_id: this.id.value, user_id: user });
    await this.refreshMembers();
    return state;
  }

  async removeMember(user: string): Promise<void> {
    await this.#connection.rpc("thread.members.remove", { thread_id: this.id.value, user_id: user });
    if (user !== this.#me) await this.refreshMembers();
  }

  async refreshMembers(): Promise<void> {
    const view = await this.#connection.rpc("thread.get", { thread_id: this.id.value, limit: 1 });
    this.#describe(view);
  }

  /** A thread that this page just began: everything in its channel is still to come. */
  #begin(threadId: string, channel: string, text: string): void {
    this.id.value = threadId;
    this.title.value = text.split("\n", 1)[0]!.slice(0, 60);
    this.role.value = "owner";
    this.state.value = "ready";
    this.#follow(channel, { offset: 0, epoch: "" });
    void this.refreshMembers().catch(() => undefined);
  }

  #describe(view: ThreadView): void {
    this.title.value = view.thread.title;
    this.role.value = view.role;
    this.members.value = view.members;
    this.invited.value = (view.invited ?? []).map((one) => one.user_id);
    this.read.value = new Map(view.members.map((member) => [member.user_id, member.read_offset ?? 0]));
  }

  #follow(channel: string, since: { offset: number; epoch: string }): void {
    if (this.#closed) return;
    this.#offset = since.offset;
    const subscription = this.#connection.subscription(channel, since);
    this.#subscription = subscription;
    subscription.on("publication", ({ data, offset }) => {
      if (isEvent(data)) this.#take(data, offset);
    });
    subscription.on("subscribed", ({ wasRecovering, recovered, streamPosition }) => {
      this.#epoch = streamPosition?.epoch ?? since.epoch;
      if (this.#stale || (wasRecovering && !recovered)) void this.open();
      // Those who left during an outage sent no word of it: only the answer says who is here.
      const round = ++this.#round;
      subscription.presence().then(
        ({ clients }) => {
          if (round !== this.#round) return;
          this.#here.clear();
          this.#arrived(Object.values(clients));
        },
        () => undefined,
      );
    });
    subscription.on("join", ({ info }) => this.#arrived([info]));
    subscription.on("leave", ({ info }) => {
      this.#here.delete(info.client);
      this.#showPresent();
    });
    subscription.on("unsubscribed", ({ code, reason }) => {
      if (code === 0 || this.#closed) return;
      this.problem.value = reason || "You are no longer a member of this thread.";
      this.state.value = "failed";
    });
    subscription.subscribe();
  }

  #take(event: AguiEvent, offset: number | undefined): void {
    if (offset !== undefined) this.#offset = offset;
    if (event.type === "CUSTOM" && event.runId === undefined) {
      this.#ephemeral(event.name, (event.value ?? {}) as Record<string, Json>);
      return;
    }
    const applied = this.#timeline.apply(event, offset ?? 0, Date.now());
    if (applied === "shown" && event.type === "TEXT_MESSAGE_CONTENT" && event.runId === undefined) this.#announce(event.messageId);
    // Whoever has said it is not typing it any more.
    if (event.type === "TEXT_MESSAGE_START" && event.runId === undefined) this.#stopped((event as { userId?: string }).userId ?? "");
    if (applied === "reload") void this.open();
    if (applied === "ended" && event.runId) void this.#ended(event.runId);
    if (event.type === "RUN_STARTED") {
      this.#say("The agent is working.");
      this.#named(event.runId);
    }
    if (event.type === "TOOL_CALL_START") this.#say(`Running ${event.toolCallName}.`);
    if (applied !== "nothing") this.#show();
    this.#markRead();
  }

  async #ended(runId: string): Promise<void> {
    await this.#timeline.prove(runId);
    const run = this.#timeline.items.find((item) => item.id === runId);
    if (run?.kind === "run") this.#say(ENDINGS[run.view.phase] ?? "");
    this.#show();
    void this.#places();
  }

  #say(text: string): void {
    if (text) this.said.value = [...this.said.value.slice(1 - SPOKEN_LINES), { id: ++serials, text }];
  }

  /** Another person's message, for those who listen to the page. */
  #announce(messageId: string): void {
    const item = this.#timeline.items.find((one) => one.id === messageId);
    if (item?.kind === "message" && item.author !== this.#me) this.#say(`${this.nameOf(item.author)} wrote: ${item.text.slice(0, 300)}`);
  }

  /** Where the waiting runs stand in the queue. */
  async #places(): Promise<void> {
    for (const run of this.#timeline.queued) {
      const record = await this.#connection.rpc("run.get", { run_id: run.id }).catch(() => null);
      if (record?.state === "queued") this.#timeline.amend(run.id, { position: record.queue_position, agent: record.agent });
    }
    this.#show();
  }

  /** A run that somebody else's device, or this one before a reload, began: only its record names the agent. */
  #named(runId: string): void {
    const heard = this.#agents.get(runId);
    if (heard) return this.heard(runId, heard);
    if (this.#timeline.items.some((item) => item.kind === "run" && item.id === runId && item.agent !== "")) return;
    this.#connection.rpc("run.get", { run_id: runId }).then(({ agent }) => this.heard(runId, agent), () => undefined);
  }

  #ephemeral(name: string, value: Record<string, Json>): void {
    const user = String(value["userId"] ?? "");
    if (name === "narthex.typing" && user !== this.#me) {
      clearTimeout(this.#typists.get(user));
      this.#typists.set(user, setTimeout(() => this.#stopped(user), TYPING_FOR_MS));
      this.typing.value = [...this.#typists.keys()].map((id) => (id === user && String(value["name"] ?? "")) || this.nameOf(id));
    }
    if (name === "narthex.read") this.read.value = new Map(this.read.value).set(user, Number(value["offset"] ?? 0));
  }

  #stopped(user: string): void {
    clearTimeout(this.#typists.get(user));
    if (!this.#typists.delete(user)) return;
    this.typing.value = [...this.#typists.keys()].map((id) => this.nameOf(id));
  }

  #arrived(infos: { client: string; user: string; connInfo?: unknown }[]): void {
    for (const info of infos) {
      const name = (info.connInfo as { name?: string } | undefined)?.name ?? "";
      this.#here.set(info.client, { user: info.user, name });
    }
    this.#showPresent();
  }

  #showPresent(): void {
    this.present.value = [...new Map([...this.#here.values()].map((one) => [one.user, one])).values()];
    this.#people.met(this.present.value.filter((one) => one.user !== this.#me).map((one) => [one.user, one.name] as const));
  }

  /** Tell others how far this person has read, when the page is being looked at; a while after the last event. */
  #markRead(): void {
    clearTimeout(this.#readTimer);
    this.#readTimer = setTimeout(() => {
      if (document.visibilityState !== "visible" || this.#offset <= this.#readOffset || this.members.value.length < 2) return;
      this.#readOffset = this.#offset;
      this.#connection.rpc("thread.read", { thread_id: this.id.value, offset: this.#offset }).catch(() => undefined);
    }, READ_AFTER_MS);
  }

  #amend(runId: string, change: Parameters<Timeline["amend"]>[1]): void {
    this.#timeline.amend(runId, change);
    this.#show();
  }

  /** Once per frame; a page in the background gets no frames and needs none. */
  #show(): void {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.items.value = this.#timeline.items;
      this.#people.met([...this.#timeline.names].filter(([user]) => user !== this.#me));
    });
  }
}

const ENDINGS: Record<string, string> = {
  finished: "The answer is complete.",
  cancelled: "The run was stopped.",
  interrupted: "The agent asks you a question.",
  failed: "The run failed.",
};

/** An error as one sentence. */
export function said(error: unknown): string {
  if (error instanceof RpcError || error instanceof Error) return error.message;
  return "The request failed.";
}

/** A random id; `crypto.randomUUID` is missing on plain http. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
