/**
 * The dashboard's state: the session, the fleet as it is now, the history of the chosen range.
 *
 * Rules: the session's states are those of the chat page (`session-state.ts`); what the gateway does not say is shown as
 * unknown, never as zero; without the permission `operator` nothing is shown but that.
 */

import { signal, type Signal } from "@preact/signals";

import { SignedOut, type Refusal } from "@narthex/client";

import { Connection } from "../chat/connection.ts";
import { START, inputOf, next, pauseMs, type SessionInput, type SessionState } from "../chat/session-state.ts";
import { Problem, Session, preflight, request } from "../chat/session.ts";
import type { Config, Whoami } from "../chat/wire.ts";
import { Fleet, type RecentRefusal, type Snapshot } from "./fleet.ts";
import { EMPTY, refreshMs, type History, type RangeName } from "./history.ts";

const LIVE = "operator:live";
const SPARK_POINTS = 120;

export type Stage = "blank" | "sign-in" | "unreachable" | "forbidden" | "inside";

/** One second of the whole fleet, for the tiles' lines. */
export interface Spark {
  connections: number;
  handshakes: number;
  failures: number;
  runs: number;
}

export class Console {
  readonly state: Signal<SessionState> = signal(START);
  readonly stage: Signal<Stage> = signal("blank");
  readonly refusal: Signal<Refusal | null> = signal(null);
  readonly config: Signal<Config> = signal({});
  readonly me: Signal<Whoami | null> = signal(null);
  /** Changes whenever the fleet does. */
  readonly version = signal(0);
  readonly live = signal(false);
  readonly spark: Signal<readonly Spark[]> = signal([]);
  readonly range: Signal<RangeName> = signal("15m");
  readonly history: Signal<History> = signal(EMPTY);
  readonly historyProblem: Signal<string> = signal("");
  readonly section = signal("overview");
  readonly toast = signal("");
  /** The user whose connections are asked for, chosen on another section. */
  readonly wantedUser = signal("");

  readonly fleet = new Fleet();
  readonly session = new Session();
  readonly connection = new Connection(this.session, "narthex-dashboard");
  #retry: ReturnType<typeof setTimeout> | undefined;
  #ticking: ReturnType<typeof setInterval> | undefined;
  #reading: ReturnType<typeof setTimeout> | undefined;
  #toastTimer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    this.connection.onConnected = () => {
      this.#input({ type: "admitted" });
      void this.#arrived();
    };
    this.connection.link.subscribe((link) => {
      this.live.value = link.phase === "connected";
      if (link.phase === "refused") queueMicrotask(() => this.#input(inputOf(link.refusal, this.session.renewable)));
    });
    addEventListener("hashchange", () => this.#route());
    this.#route();
  }

  start(): void {
    void request("/ws/config").then(
      (config) => (this.config.value = (config ?? {}) as Config),
      () => undefined,
    );
    void this.#ask();
  }

  async signIn(email: string, password: string): Promise<void> {
    await this.session.signIn(email, password);
    this.#input({ type: "admitted" });
  }

  async paste(token: string): Promise<void> {
    this.session.paste(token);
    const refusal = await preflight(this.session);
    if (refusal === null) return this.#input({ type: "admitted" });
    const input = inputOf(refusal, false);
    if (input.type !== "unavailable") this.session.dropPasted();
    this.#input(input);
  }

  signOut(): void {
    this.#input({ type: "sign_out" });
  }

  retry(): void {
    const { name } = this.state.value;
    if (name === "offline" || name === "refused") this.#input({ type: "retry" });
    else this.connection.retry();
  }

  choose(range: RangeName): void {
    this.range.value = range;
    void this.#readHistory();
  }

  say(text: string): void {
    this.toast.value = text;
    clearTimeout(this.#toastTimer);
    this.#toastTimer = setTimeout(() => (this.toast.value = ""), 6_000);
  }

  /** A request to the operators' API. */
  async get<T>(path: string): Promise<T> {
    return (await request(path, { headers: this.session.headers() })) as T;
  }

  async post<T>(path: string, body: object): Promise<T> {
    return (await request(path, { method: "POST", body: JSON.stringify(body), headers: this.session.headers() })) as T;
  }

  /** Run something that may fail, and say so if it does. */
  async attempt(work: () => Promise<unknown>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      this.say(failure(error).detail || failure(error).title);
      return false;
    }
  }

  #route(): void {
    const [, section = "overview", user = ""] = /^#\/([a-z]+)(?:\?user=(.*))?$/.exec(location.hash) ?? [];
    this.section.value = section;
    this.wantedUser.value = safelyDecoded(user);
  }

  // -- session ---------------------------------------------------------------------------------------------------

  #input(input: SessionInput): void {
    const before = this.state.value;
    const state = next(before, input, Date.now());
    if (state === before) return;
    clearTimeout(this.#retry);
    this.state.value = state;
    switch (state.name) {
      case "starting":
        return void this.#ask();
      case "signed_in":
        this.refusal.value = null;
        return this.connection.open();
      case "renewing":
        return void this.#renew(state.refusal);
      case "offline":
        if (this.stage.value !== "inside") this.stage.value = "unreachable";
        this.#retry = setTimeout(() => this.#input({ type: "retry" }), pauseMs(state));
        return;
      case "leaving":
        return void this.#leave();
      case "signed_out":
        this.connection.close();
        this.#halt();
        this.refusal.value = state.refusal?.code === "auth_required" ? null : state.refusal;
        this.stage.value = "sign-in";
        return;
      case "refused":
        this.refusal.value = state.refusal;
        this.stage.value = "unreachable";
        return;
    }
  }

  async #ask(): Promise<void> {
    const refusal = await preflight(this.session).catch(failure);
    if (refusal === null) {
      this.session.accepted();
      return this.#input({ type: "admitted" });
    }
    this.#input(inputOf(refusal, this.session.renewable));
  }

  async #renew(refusal: Refusal): Promise<void> {
    try {
      await this.session.renew();
      this.#input({ type: "renewed" });
    } catch (error) {
      if (error instanceof SignedOut) this.#input({ type: "ended", refusal });
      else this.#input({ type: "unavailable", refusal: failure(error) });
    }
  }

  async #leave(): Promise<void> {
    this.connection.close();
    try {
      await this.session.signOut();
    } catch (error) {
      this.#input({ type: "leave_failed" });
      return this.say(`You are still signed in on this browser: ${failure(error).title.toLowerCase()}. Try again.`);
    }
    this.#input({ type: "left" });
  }

  // -- data ------------------------------------------------------------------------------------------------------

  async #arrived(): Promise<void> {
    try {
      this.me.value = await this.connection.rpc("whoami", {});
      this.fleet.load(await this.get("/api/v1/operator/fleet"), Date.now());
      const { refusals } = await this.get<{ refusals: RecentRefusal[] }>("/api/v1/operator/refusals");
      this.fleet.addRefusals(refusals);
    } catch (error) {
      const refusal = failure(error);
      if (refusal.code !== "permission_denied") return; // the connection comes back, and with it this
      this.refusal.value = refusal;
      this.stage.value = "forbidden";
      return this.#halt();
    }
    this.stage.value = "inside";
    this.#changed();
    const subscription = this.connection.live(LIVE);
    subscription.on("publication", ({ data }) => this.#event(data as { type?: string; snapshot?: Snapshot }));
    subscription.on("unsubscribed", ({ code, reason }) => {
      if (code === 103 || code === 2000) this.say(`Live figures ended: ${reason}.`);
    });
    subscription.subscribe();
    this.#ticking ??= setInterval(() => this.#tick(), 1_000);
    void this.#readHistory();
  }

  #event(event: { type?: string; snapshot?: Snapshot }): void {
    if (event.type !== "snapshot" || !event.snapshot) return;
    this.fleet.take(event.snapshot, Date.now());
    this.#changed();
  }

  #tick(): void {
    const connected = this.live.value;
    // Without a connection of our own nothing is known about the others.
    if (connected) this.fleet.age(Date.now());
    const { connections, handshakesPerS, refusedPerS, runs } = this.fleet.totals();
    if (connected) {
      this.spark.value = [...this.spark.value, { connections, handshakes: handshakesPerS, failures: refusedPerS, runs }].slice(-SPARK_POINTS);
    }
    this.#changed();
  }

  #changed(): void {
    this.version.value += 1;
  }

  async #readHistory(): Promise<void> {
    clearTimeout(this.#reading);
    const range = this.range.value;
    try {
      const history = await this.get<History>(`/api/v1/operator/history?range=${range}`);
      if (range !== this.range.value) return;
      this.history.value = history;
      this.historyProblem.value = "";
    } catch (error) {
      this.historyProblem.value = failure(error).title;
    }
    if (this.stage.value === "inside") this.#reading = setTimeout(() => void this.#readHistory(), refreshMs(range));
  }

  #halt(): void {
    clearInterval(this.#ticking);
    this.#ticking = undefined;
    clearTimeout(this.#reading);
  }
}

function failure(error: unknown): Refusal {
  if (error instanceof Problem) return error.refusal;
  const title = error instanceof Error ? error.message : "The request failed";
  return { code: "page_error", title, detail: "", remedy: "Reload the page.", status: 0, close: 0, traceId: "", retryAfter: null, retries: true };
}

function safelyDecoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
