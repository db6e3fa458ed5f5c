/**
 * The page's state as a whole: the session, the thread list, which thread is open. One instance per page.
 *
 * Rules: the session's states and edges are those of `session-state.ts`; here each state's work is done and what came
 * of it is put in as the next input. What a person wrote and where they were survives every state but `signed_out`.
 */

import { computed, signal, type Signal } from "@preact/signals";

import { type Custom, type LinkedThread, type Refusal } from "@narthex/client";

import { takeAddress } from "./address.ts";
import { Attention } from "./attention.ts";
import { Conversation, said } from "./conversation.ts";
import { Drafts, storage } from "./drafts.ts";
import { comingAfter, placeOf } from "./pages.ts";
import { People } from "./people.ts";
import { SessionPage } from "./session-page.ts";
import type { SessionState } from "./session-state.ts";
import type { AgentInfo, Hit, Invitation, Thread, Whoami } from "./wire.ts";

const THREADS_PAGE = 50;
const ENDED_KEPT = 500; // more than end while one list is on its way

/** What the page shows as a whole. */
export type Stage = "blank" | "sign-in" | "unreachable" | "inside";

export class App extends SessionPage {
  /** Whether the threads are on the screen: they stay there while a session is renewed or the gateway is away. */
  readonly #inside = signal(false);
  readonly stage = computed(() => stageOf(this.state.value, this.#inside.value));
  readonly me: Signal<Whoami | null> = signal(null);
  /** Whom one can ask; the first is the default. */
  readonly agents: Signal<readonly AgentInfo[]> = signal([]);
  readonly threads: Signal<readonly Thread[]> = signal([]);
  readonly moreThreads = signal(false);
  /** Open invitations to this person, newest first. */
  readonly invitations: Signal<readonly Invitation[]> = signal([]);
  /** Threads in which something happened that this person has not looked at. */
  readonly unseen: Signal<ReadonlySet<string>> = signal(new Set());
  /** Runs that are going on, by id, with their threads. */
  readonly working: Signal<ReadonlyMap<string, string>> = signal(new Map());
  readonly conversation: Signal<Conversation | null> = signal(null);

  /** What the person who is signed in wrote and did not send. */
  drafts = new Drafts("");
  /** Whom they have met in threads. */
  people = new People("", null);
  /** Whose own link was opened. */
  readonly inviting: Signal<{ user: string; name: string } | null> = signal(null);
  /** The token of a link to a thread that was opened. */
  readonly joining = signal("");
  /** Calls the person back to a page that is in the background. */
  readonly attention = new Attention((threadId) => this.go(threadId));
  #reloading: ReturnType<typeof setTimeout> | undefined;
  /** Runs whose end was announced: a list that was on its way then still names them. */
  readonly #ended = new Set<string>();
  /** Whether the next connection has to say whose it is: after a renewal it may be another person's. */
  #unknown = true;

  constructor() {
    super();
    this.connection.onNotice = (notice) => this.#notice(notice);
    this.connection.onNoticesLost = () => {
      this.working.value = new Map(); // a run that ended meanwhile would turn its spinner for ever
      if (this.#unknown) return;
      void this.#readInvitations();
      this.#reloadSoon();
    };
    this.connection.onConnected = () => void this.#connected();
    addEventListener("hashchange", () => this.#route());
    addEventListener("online", () => this.retry());
  }

  override start(): void {
    const kept = takeAddress();
    if (kept && location.hash.length < 3) history.replaceState(null, "", location.pathname + location.search + kept);
    super.start();
  }

  /** Show a guest the sign-in page. */
  guestSignsIn(): void {
    this.connection.close();
    this.input({ type: "rejected", refusal: NOBODY });
  }

  /** Show a thread, or with `""` a new one. */
  go(threadId: string): void {
    const hash = threadId ? `#/t/${encodeURIComponent(threadId)}` : "#/";
    if (location.hash === hash || (hash === "#/" && location.hash === "")) this.#route();
    else location.hash = hash;
  }

  /** The conversation that is shown got its thread: put it into the address without opening it again. */
  settled(threadId: string): void {
    history.replaceState(null, "", `#/t/${encodeURIComponent(threadId)}`);
    this.#see(threadId, false);
    this.#reloadSoon();
  }

  async moreOfList(): Promise<void> {
    const place = placeOf(this.threads.value.at(-1));
    const { threads } = await this.connection.rpc("thread.list", { limit: THREADS_PAGE, ...place });
    this.threads.value = [...this.threads.value, ...threads];
    this.#atWork(threads);
    this.moreThreads.value = threads.length >= THREADS_PAGE;
  }

  async search(text: string): Promise<Hit[]> {
    return (await this.connection.rpc("thread.search", { text })).hits;
  }

  async remove(threadId: string): Promise<void> {
    await this.connection.rpc("thread.delete", { thread_id: threadId });
    this.#forget(threadId);
    if (this.conversation.value?.id.value === threadId) this.go("");
  }

  async accept({ thread_id }: Invitation): Promise<void> {
    await this.connection.rpc("thread.invitation.accept", { thread_id });
    await this.#readInvitations();
    this.go(thread_id);
  }

  async decline({ thread_id }: Invitation): Promise<void> {
    await this.connection.rpc("thread.invitation.decline", { thread_id });
    await this.#readInvitations();
  }

  /** No more invitations by this user; the open ones disappear. They are not told. */
  async block({ invited_by, inviter_name }: Invitation): Promise<void> {
    await this.connection.rpc("user.block", { user_id: invited_by });
    await this.#readInvitations();
    this.say(`${inviter_name || invited_by} can no longer invite you.`);
  }

  /** This person's own link: who opens it can invite them. */
  get ownLink(): string {
    const { user = "", name = "" } = this.me.value ?? {};
    return `${location.origin}${location.pathname}#/invite/${encodeURIComponent(user)}${name ? `?n=${encodeURIComponent(name)}` : ""}`;
  }

  async invite(threadId: string, user: string): Promise<"invited" | "member"> {
    const { state = "member" } = await this.connection.rpc("thread.members.add", { thread_id: threadId, user_id: user });
    const open = this.conversation.value;
    if (open?.id.value === threadId) await open.refreshMembers().catch(() => undefined);
    return state;
  }

  /** Open a link by which others join a thread; an earlier one of the thread is over. */
  async makeLink(threadId: string): Promise<{ url: string; expiresAt: number }> {
    const { token, expires_at } = await this.connection.rpc("thread.link", { thread_id: threadId });
    // Behind the #, so that no server and no log on the way sees the token.
    return { url: `${location.origin}${location.pathname}#/join/${token}`, expiresAt: expires_at * 1000 };
  }

  /** When a thread's open link is over, in milliseconds; null: it has none. */
  async linkOf(threadId: string): Promise<number | null> {
    const { link } = await this.connection.rpc("thread.link.get", { thread_id: threadId });
    return link && link.expires_at * 1000;
  }

  async revokeLink(threadId: string): Promise<void> {
    await this.connection.rpc("thread.link.revoke", { thread_id: threadId });
  }

  /** What this person would join by a link. */
  preview(token: string): Promise<LinkedThread> {
    return this.connection.rpc("thread.link.preview", { token });
  }

  /** Become a member by a link, and open the thread. */
  async join(token: string): Promise<void> {
    const { thread_id } = await this.connection.rpc("thread.join", { token });
    await this.#reload();
    this.go(thread_id);
  }

  /** Whom this person has blocked. */
  async blocked(): Promise<string[]> {
    return (await this.connection.rpc("user.blocked", {})).users;
  }

  async unblock(user: string): Promise<void> {
    await this.connection.rpc("user.unblock", { user_id: user });
    await this.#readInvitations();
  }

  /** Delete threads for everybody. Stops at the first that cannot be deleted, and says why. */
  async removeMany(threadIds: readonly string[]): Promise<void> {
    for (const id of threadIds) await this.remove(id);
  }

  /** Leave threads; what could not be left is said. */
  async leave(threadIds: readonly string[]): Promise<void> {
    const { left, failed } = await this.connection.rpc("thread.leave", { thread_ids: [...threadIds] });
    for (const id of left) this.#forget(id);
    if (left.includes(this.conversation.value?.id.value ?? "")) this.go("");
    const kept = Object.keys(failed).length;
    if (kept) this.say(`${kept === 1 ? "One thread was" : `${kept} threads were`} not left: you are the only member. Delete it instead.`);
  }

  protected override words(error: unknown): string {
    return said(error);
  }

  protected override entered(state: SessionState): void {
    if (state.name === "signed_out") return this.#leave(state.refusal);
    if (state.name !== "signed_in") return;
    this.refusal.value = null;
    this.#inside.value = true;
    this.#unknown = true;
    this.connection.open();
  }

  protected override left(): void {
    this.drafts.clear();
    this.people.clear();
    history.replaceState(null, "", "#/");
  }

  #leave(refusal: Refusal | null): void {
    this.connection.close();
    this.conversation.value?.close();
    this.conversation.value = null;
    this.me.value = null;
    this.working.value = new Map();
    this.unseen.value = new Set();
    this.threads.value = [];
    this.invitations.value = [];
    this.joining.value = "";
    this.moreThreads.value = false;
    clearTimeout(this.#reloading);
    // That nobody is signed in is no news; a credential that is not accepted any more is, and a sign-in that failed.
    this.refusal.value = signInError() ?? (refusal?.code === "auth_required" ? null : refusal);
    this.#inside.value = false;
  }

  async #connected(): Promise<void> {
    this.input({ type: "admitted" });
    if (this.#unknown) {
      const whoami = await this.connection.rpc("whoami", {}).catch(() => null);
      if (whoami === null) return;
      this.#unknown = false;
      const before = this.me.value;
      if (before && before.user !== whoami.user) {
        this.conversation.value?.close();
        this.conversation.value = null;
        this.threads.value = [];
      }
      if (before?.user !== whoami.user) {
        this.drafts = new Drafts(whoami.user);
        this.people = new People(whoami.user, storage());
      }
      this.me.value = whoami;
      if (this.conversation.value === null) this.#route();
      // Once a session: when all come back at the same moment, each question counts a thousand times.
      void this.#readInvitations();
      void this.#readAgents();
    }
    await this.#reload();
  }

  async #readAgents(): Promise<void> {
    const found = await this.connection.rpc("agents", {}).catch(() => null);
    if (found) this.agents.value = found.agents;
  }

  async #readInvitations(): Promise<void> {
    const found = await this.connection.rpc("thread.invitations", { limit: THREADS_PAGE }).catch(() => null);
    if (!found) return;
    this.invitations.value = found.invitations;
    this.people.met(found.invitations.map((one) => [one.invited_by, one.inviter_name] as const));
  }

  async #reload(): Promise<void> {
    const { threads } = await this.connection.rpc("thread.list", { limit: THREADS_PAGE }).catch(() => ({ threads: null }));
    if (threads === null) return;
    // Pages that were asked for before stay.
    const older = threads.length >= THREADS_PAGE ? comingAfter(threads, this.threads.value) : [];
    this.threads.value = [...threads, ...older];
    this.#atWork(threads);
    if (older.length === 0) this.moreThreads.value = threads.length >= THREADS_PAGE;
  }

  #forget(threadId: string): void {
    this.threads.value = this.threads.value.filter((thread) => thread.thread_id !== threadId);
  }

  /** Notices come in bursts: read the list once for all of them. */
  #reloadSoon(): void {
    clearTimeout(this.#reloading);
    this.#reloading = setTimeout(() => void this.#reload(), 150);
  }

  #route(): void {
    const me = this.me.value;
    if (me === null) return;
    const [, invited = "", name = ""] = /^#\/invite\/([^/?]+)(?:\?n=(.*))?$/.exec(location.hash) ?? [];
    if (invited) {
      this.inviting.value = { user: decoded(invited), name: decoded(name).slice(0, 100) };
      history.replaceState(null, "", "#/");
    }
    const [, token = ""] = /^#\/join\/([\w-]+)$/.exec(location.hash) ?? [];
    if (token) {
      this.joining.value = token;
      history.replaceState(null, "", "#/"); // the token stays in no history
    }
    const [, id = "", message = ""] = /^#\/t\/([^/?]+)(?:\?m=(.+))?/.exec(location.hash) ?? [];
    const wanted = decoded(id);
    let open = this.conversation.value;
    if (!open || open.id.value !== wanted || (wanted === "" && open.items.value.length > 0)) {
      open?.close();
      open = new Conversation(this.connection, this, me, wanted);
      this.conversation.value = open;
    }
    if (message) open.wanted.value = decoded(message);
    this.#see(wanted, false);
  }

  #titleOf(threadId: string): string {
    const open = this.conversation.value;
    if (open?.id.value === threadId && open.title.value) return open.title.value;
    return this.threads.value.find((thread) => thread.thread_id === threadId)?.title ?? "";
  }

  #see(threadId: string, unseen: boolean): void {
    const changed = new Set(this.unseen.value);
    if (unseen) changed.add(threadId);
    else changed.delete(threadId);
    this.unseen.value = changed;
  }

  /** The runs of listed threads are those that the list names. */
  #atWork(threads: readonly Thread[]): void {
    const listed = new Set(threads.map((thread) => thread.thread_id));
    const working = new Map([...this.working.value].filter(([, threadId]) => !listed.has(threadId)));
    for (const { thread_id, active_runs = [] } of threads) {
      for (const runId of active_runs) if (!this.#ended.has(runId)) working.set(runId, thread_id);
    }
    this.working.value = working;
  }

  #work(threadId: string, runId: string, begins: boolean): void {
    if (!begins) this.#ended.add(runId);
    if (this.#ended.size > ENDED_KEPT) this.#ended.delete(this.#ended.values().next().value ?? "");
    const changed = new Map(this.working.value);
    if (begins) changed.set(runId, threadId);
    else changed.delete(runId);
    this.working.value = changed;
  }

  #notice(notice: Custom): void {
    const value = (notice.value ?? {}) as { threadId?: string; title?: string; name?: string; userId?: string; by?: string; runId?: string; agent?: string; state?: string };
    const threadId = value.threadId ?? "";
    const open = this.conversation.value;
    const here = threadId !== "" && open?.id.value === threadId;
    switch (notice.name) {
      case "narthex.run_began":
        this.#work(threadId, value.runId ?? "", true);
        if (here) open.heard(value.runId ?? "", value.agent ?? "", value.by ?? "");
        break;
      case "narthex.run_ended":
        this.#work(threadId, value.runId ?? "", false);
        if (!here) this.#see(threadId, true);
        this.attention.runEnded(threadId, this.#titleOf(threadId), value.agent ?? "", value.state ?? "");
        break;
      case "narthex.thread_renamed":
        if (here && value.title) open.title.value = value.title;
        break;
      case "narthex.thread_deleted":
        this.#see(threadId, false);
        this.#forget(threadId);
        if (here) this.go("");
        if (here && value.by !== this.me.value?.user) this.say("The thread was deleted by its owner.");
        break;
      case "narthex.thread_removed":
        if (value.userId === this.me.value?.user) {
          this.#see(threadId, false);
          this.#forget(threadId);
          if (here) this.go("");
        } else if (here) void open.refreshMembers().catch(() => undefined);
        break;
      case "narthex.thread_invited":
        this.say(`${value.name || value.by || "A user"} invites you to a thread.`);
        void this.#readInvitations();
        return;
      case "narthex.invitation_closed":
        void this.#readInvitations();
        return;
      case "narthex.thread_owner":
        if (here) void open.refreshMembers().catch(() => undefined);
        break;
      case "narthex.thread_added":
        if (here) void open.refreshMembers().catch(() => undefined);
        else this.#see(threadId, true);
        if (!here && value.userId === this.me.value?.user && value.by !== value.userId) this.say("You were added to a thread.");
        break;
    }
    if (threadId) this.#reloadSoon();
  }
}

function stageOf(state: SessionState, inside: boolean): Stage {
  if (state.name === "signed_out") return "sign-in";
  if (inside) return "inside";
  return state.name === "offline" || state.name === "refused" || ("tries" in state && state.tries > 0) ? "unreachable" : "blank";
}

/** What went wrong with a request, as a refusal. */
const NOBODY: Refusal = {
  code: "auth_required", title: "Authentication required", detail: "", remedy: "Sign in.", status: 401, close: 0, traceId: "", retryAfter: null, retries: false,
};

/** A part of the address as it was meant; as it stands where somebody typed a `%` of their own. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** A sign-in with another provider that failed comes back as `/?sign_in_error=<code>`. */
function signInError(): Refusal | null {
  const code = new URLSearchParams(location.search).get("sign_in_error");
  if (code === null) return null;
  history.replaceState(null, "", location.pathname + location.hash);
  const remedy = "Try again; if the problem persists, the operator's log has the reason.";
  return { code, title: "The sign-in did not succeed", detail: "", remedy, status: 0, close: 0, traceId: "", retryAfter: null, retries: false };
}
