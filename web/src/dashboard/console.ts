/**
 * The dashboard's state: the session, the fleet as it is now, the history of the chosen range.
 *
 * Rules: the session's states are those of the chat page (`session-state.ts`); what the gateway does not say is shown as
 * unknown, never as zero; without the permission `operator` nothing is shown but that.
 */

import { signal, type Signal } from "@preact/signals";

import { SessionPage, failure } from "../chat/session-page.ts";
import type { SessionState } from "../chat/session-state.ts";
import { request } from "../chat/session.ts";
import type { Whoami } from "../chat/wire.ts";
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

export class Console extends SessionPage {
  readonly stage: Signal<Stage> = signal("blank");
  readonly me: Signal<Whoami | null> = signal(null);
  /** Changes whenever the fleet does. */
  readonly version = signal(0);
  readonly live = signal(false);
  readonly spark: Signal<readonly Spark[]> = signal([]);
  readonly range: Signal<RangeName> = signal("15m");
  readonly history: Signal<History> = signal(EMPTY);
  readonly historyProblem: Signal<string> = signal("");
  readonly section = signal("overview");
  /** The filter of the connection list that a link of another section asks for. */
  readonly wanted: Signal<Readonly<Record<string, string>>> = signal({});

  readonly fleet = new Fleet();
  #ticking: ReturnType<typeof setInterval> | undefined;
  #reading: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    super("narthex-dashboard");
    this.connection.onConnected = () => {
      this.input({ type: "admitted" });
      void this.#arrived();
    };
    this.connection.link.subscribe((link) => (this.live.value = link.phase === "connected"));
    addEventListener("hashchange", () => this.#route());
    this.#route();
  }

  choose(range: RangeName): void {
    this.range.value = range;
    void this.#readHistory();
  }

  /** A request to the operators' API. */
  async get<T>(path: string): Promise<T> {
    return (await request(path, { headers: this.session.headers() })) as T;
  }

  async post<T>(path: string, body: object): Promise<T> {
    return (await request(path, { method: "POST", body: JSON.stringify(body), headers: this.session.headers() })) as T;
  }

  #route(): void {
    const [, section = "overview", query = ""] = /^#\/([a-z]+)(?:\?(.*))?$/.exec(location.hash) ?? [];
    this.section.value = section;
    this.wanted.value = Object.fromEntries(new URLSearchParams(query));
  }

  // -- session ---------------------------------------------------------------------------------------------------

  protected override entered(state: SessionState): void {
    switch (state.name) {
      case "signed_in":
        this.refusal.value = null;
        return this.connection.open();
      case "offline":
        if (this.stage.value !== "inside") this.stage.value = "unreachable";
        return;
      case "signed_out":
        this.connection.close();
        this.#halt();
        this.refusal.value = state.refusal?.code === "auth_required" ? null : state.refusal;
        this.stage.value = "sign-in";
        return;
      case "refused":
        this.refusal.value = state.refusal;
        this.stage.value = "unreachable";
    }
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

/** The place of the connection list, filtered. */
export function connectionsOf(filter: Record<string, string>): string {
  return `#/connections?${new URLSearchParams(filter)}`;
}
