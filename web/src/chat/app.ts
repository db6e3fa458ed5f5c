/** The page's state as a whole: signed in or not, the thread list, which thread is open. One instance per page. */

import { signal, type Signal } from "@preact/signals";

import type { Custom, Refusal } from "@narthex/client";

import { Connection, ENDED } from "./connection.ts";
import { Conversation, said } from "./conversation.ts";
import { Session, preflight, request } from "./session.ts";
import type { Config, Hit, Thread, Whoami } from "./wire.ts";

const THREADS_PAGE = 50;
/** A token that was just renewed and is refused again will not get better by renewing it. */
const RENEW_AGAIN_MS = 60_000;

export type Stage = "starting" | "signed-out" | "unreachable" | "inside";

export class App {
  readonly stage: Signal<Stage> = signal("starting");
  readonly refusal: Signal<Refusal | null> = signal(null);
  readonly config: Signal<Config> = signal({});
  readonly me: Signal<Whoami | null> = signal(null);
  readonly threads: Signal<readonly Thread[]> = signal([]);
  readonly moreThreads = signal(false);
  /** Threads in which something happened that this person has not looked at. */
  readonly unseen: Signal<ReadonlySet<string>> = signal(new Set());
  /** Runs that are going on, by id, with their threads. */
  readonly working: Signal<ReadonlyMap<string, string>> = signal(new Map());
  readonly conversation: Signal<Conversation | null> = signal(null);
  readonly toast = signal("");

  readonly session = new Session();
  readonly connection = new Connection(this.session);
  #toastTimer: ReturnType<typeof setTimeout> | undefined;
  #renewedAt = 0;
  #reloading: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    this.connection.onNotice = (notice) => this.#notice(notice);
    this.connection.onConnected = () => void this.#connected();
    this.connection.link.subscribe((link) => {
      // A session that ended is for the sign-in page to say; other refusals are shown where the person is.
      if (link.phase === "refused" && link.refusal.close === ENDED) void this.#turnedAway(link.refusal);
    });
    addEventListener("hashchange", () => this.#route());
  }

  /** First thing on the page: is there somebody signed in already? */
  async start(): Promise<void> {
    void request("/ws/config").then(
      (config) => (this.config.value = (config ?? {}) as Config),
      () => undefined,
    );
    const refusal = await preflight(this.session);
    if (refusal === null) {
      this.session.accepted();
      return this.#enter();
    }
    if (refusal.retries && (this.session.pasted || this.session.renewable)) return this.#enter();
    if (refusal.status === 401 || refusal.status === 400) {
      // The session cookie lives as long as its token, an hour; the refresh cookie for weeks.
      if (this.session.renewable && (await this.#renewed())) return this.#enter();
      // Nobody signed in is no news; a credential that is not accepted any more is.
      this.refusal.value = signInError() ?? (refusal.code === "auth_required" ? null : refusal);
      this.stage.value = "signed-out";
    } else {
      this.refusal.value = refusal;
      this.stage.value = "unreachable";
    }
  }

  async signIn(email: string, password: string): Promise<void> {
    await this.session.signIn(email, password);
    this.#enter();
  }

  /** Use a pasted token. The gateway's verdict comes back in words when it is not admitted. */
  async paste(token: string): Promise<void> {
    this.session.paste(token);
    const refusal = await preflight(this.session);
    // "Come back later" is no verdict on the token: go in, where it is tried again.
    if (refusal === null || refusal.retries) return this.#enter();
    await this.session.signOut();
    this.refusal.value = refusal;
  }

  /** A guest wants to be somebody. */
  door(): void {
    this.connection.close();
    this.#leave(null);
  }

  async signOut(): Promise<void> {
    this.connection.close();
    await this.session.signOut();
    this.#leave(null);
    history.replaceState(null, "", "#/");
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
    const last = this.threads.value.at(-1);
    const place = last ? { before: last.updated_at, before_id: last.thread_id } : {};
    const { threads } = await this.connection.rpc("thread.list", { limit: THREADS_PAGE, ...place });
    this.threads.value = [...this.threads.value, ...threads];
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

  /** Say something for a few seconds. */
  say(text: string): void {
    this.toast.value = text;
    clearTimeout(this.#toastTimer);
    this.#toastTimer = setTimeout(() => (this.toast.value = ""), 4_500);
  }

  /** Run something that may fail, and say so if it does. */
  async attempt(work: () => Promise<unknown>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      this.say(said(error));
      return false;
    }
  }

  #enter(): void {
    this.refusal.value = null;
    this.stage.value = "inside";
    this.connection.open();
  }

  /** The credential is not accepted any more: renew it once, else back to the door. */
  async #turnedAway(refusal: Refusal): Promise<void> {
    if (refusal.code !== "token_revoked" && this.session.renewable && Date.now() - this.#renewedAt > RENEW_AGAIN_MS) {
      this.#renewedAt = Date.now();
      if (await this.#renewed()) return this.connection.open();
    }
    this.#leave(refusal);
  }

  #leave(refusal: Refusal | null): void {
    this.conversation.value?.close();
    this.conversation.value = null;
    this.me.value = null;
    this.working.value = new Map();
    this.unseen.value = new Set();
    this.threads.value = [];
    this.moreThreads.value = false;
    clearTimeout(this.#reloading);
    this.refusal.value = refusal?.code === "auth_required" ? null : refusal;
    this.stage.value = "signed-out";
  }

  async #renewed(): Promise<boolean> {
    try {
      await this.session.refresh();
      return true;
    } catch {
      return false;
    }
  }

  async #connected(): Promise<void> {
    if (this.me.value === null) {
      const whoami = await this.connection.rpc("whoami", {}).catch(() => null);
      if (whoami === null) return;
      this.me.value = whoami;
      this.#route();
    }
    await this.#reload();
  }

  async #reload(): Promise<void> {
    const { threads } = await this.connection.rpc("thread.list", { limit: THREADS_PAGE }).catch(() => ({ threads: null }));
    if (threads === null) return;
    const last = threads.at(-1);
    // Pages that were asked for before stay: what is older than this page's last one is not on it.
    const older = last && threads.length >= THREADS_PAGE ? this.threads.value.filter((thread) => thread.updated_at < last.updated_at) : [];
    this.threads.value = [...threads, ...older];
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
    const [, id = "", message = ""] = /^#\/t\/([^/?]+)(?:\?m=(.+))?/.exec(location.hash) ?? [];
    const wanted = decoded(id);
    let open = this.conversation.value;
    if (!open || open.id.value !== wanted || (wanted === "" && open.items.value.length > 0)) {
      open?.close();
      open = new Conversation(this.connection, me.user, wanted);
      this.conversation.value = open;
    }
    if (message) open.wanted.value = decoded(message);
    this.#see(wanted, false);
  }

  #see(threadId: string, unseen: boolean): void {
    const changed = new Set(this.unseen.value);
    if (unseen) changed.add(threadId);
    else changed.delete(threadId);
    this.unseen.value = changed;
  }

  #work(threadId: string, runId: string, begins: boolean): void {
    const changed = new Map(this.working.value);
    if (begins) changed.set(runId, threadId);
    else changed.delete(runId);
    this.working.value = changed;
  }

  #notice(notice: Custom): void {
    const value = (notice.value ?? {}) as { threadId?: string; title?: string; userId?: string; by?: string; runId?: string; agent?: string };
    const threadId = value.threadId ?? "";
    const open = this.conversation.value;
    const here = threadId !== "" && open?.id.value === threadId;
    switch (notice.name) {
      case "narthex.run_began":
        this.#work(threadId, value.runId ?? "", true);
        if (here) open.heard(value.runId ?? "", value.agent ?? "");
        break;
      case "narthex.run_ended":
        this.#work(threadId, value.runId ?? "", false);
        if (!here) this.#see(threadId, true);
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
      case "narthex.thread_owner":
        if (here) void open.refreshMembers().catch(() => undefined);
        break;
      case "narthex.thread_added":
        if (here) void open.refreshMembers().catch(() => undefined);
        else this.#see(threadId, true);
        if (!here && value.userId === this.me.value?.user) this.say("You were added to a thread.");
        break;
    }
    if (threadId) this.#reloadSoon();
  }
}

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
  const remedy = "Try again; if it stays, the operator's log has the reason.";
  return { code, title: "The sign-in did not succeed", detail: "", remedy, status: 0, close: 0, traceId: "", retryAfter: null, retries: false };
}
