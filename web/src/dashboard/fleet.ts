/**
 * The processes as they are now: their latest snapshots, the growth of their counters over the last seconds, and what is
 * wrong with them. Pure: moments are arguments.
 */

import { countsOf, increase, labels, quantile, sumOf, type Figures } from "./figures.ts";

export interface RecentRefusal {
  at: number;
  code: string;
  detail: string;
  remedy?: string;
  carriers?: string[];
  /** Of a credential whose signature was verified. */
  user?: string;
  tenant?: string;
  address?: string;
  traffic?: string;
  trace_id?: string;
  node?: string;
}

export interface Snapshot {
  node: string;
  kind?: string;
  version?: string;
  environment?: string;
  state?: string;
  started_at?: number;
  at: number;
  every_s?: number;
  figures?: Figures;
  facts?: Record<string, string>;
  refusals?: RecentRefusal[];
  refusals_omitted?: number;
}

export type Status = "up" | "dead" | "left";

export interface Member {
  status: Status;
  snapshot: Snapshot;
  /** When the snapshot arrived, in milliseconds of this page's clock. */
  receivedAt: number;
  /** Earlier readings, oldest first, for rates. */
  earlier: { at: number; figures: Figures }[];
}

/** A process whose snapshots stopped for so long is dead: they come every second while this page is open. */
export const DEAD_AFTER_MS = 3_500;
/** Rates are over this time. */
const WINDOW_S = 10;
const KEPT_REFUSALS = 200;

/** Keys and certificates that end so soon are worth knowing; the alert NarthexKeyExpiring has the same default. */
const EXPIRING_S = 14 * 86_400;
const EXPIRING_BAD_S = 2 * 86_400;

/** A key or certificate in use. */
export interface Expiry {
  name: string;
  /** Seconds since the epoch: the earliest end that a process knows. */
  ends: number;
  /** Seconds that are left, by that process's clock; negative once it has ended. */
  left: number;
}

export interface Trouble {
  /** `bad` must be acted on; `warn` is worth knowing. */
  level: "bad" | "warn";
  text: string;
  /** The section of the page with more about it. */
  section: string;
}

/** Sums over the processes that are up. */
export interface Totals {
  connections: number;
  handshakesPerS: number;
  refusedPerS: number;
  /** Share of handshakes that were refused, 0 to 1; null without handshakes. */
  failureShare: number | null;
  handshakeP95: number | null;
  runs: number;
  firstEventP95: number | null;
  slow: number;
  lost: number;
}

export class Fleet {
  readonly members = new Map<string, Member>();
  refusals: RecentRefusal[] = [];
  /** Refusals that the last snapshots left out. */
  omitted = 0;
  buckets: Record<string, number[]> = {};

  /** The answer of the API; `now` in milliseconds. */
  load(answer: { members: { status: Status; age_s: number; snapshot: Snapshot }[]; buckets: Record<string, number[]> }, now: number): void {
    this.buckets = answer.buckets;
    for (const { status, age_s, snapshot } of answer.members) {
      const known = this.members.get(snapshot.node);
      if (known && known.snapshot.at >= snapshot.at) continue;
      this.members.set(snapshot.node, { status, snapshot, receivedAt: now - age_s * 1000, earlier: known?.earlier ?? [] });
    }
  }

  /** A snapshot arrived. */
  take(snapshot: Snapshot, now: number): void {
    const known = this.members.get(snapshot.node);
    if (known && known.snapshot.at > snapshot.at) return;
    const earlier = known ? [...known.earlier, { at: known.snapshot.at, figures: known.snapshot.figures ?? {} }] : [];
    while (earlier.length > 1 && snapshot.at - earlier[1]!.at >= WINDOW_S) earlier.shift();
    const status: Status = snapshot.state === "stopped" ? "left" : "up";
    this.members.set(snapshot.node, { status, snapshot, receivedAt: now, earlier });
    this.addRefusals(snapshot.refusals ?? []);
    this.omitted = snapshot.refusals_omitted ?? this.omitted;
  }

  /** Newest first, each once. */
  addRefusals(found: readonly RecentRefusal[]): void {
    if (!found.length) return;
    const known = new Set(this.refusals.map(identity));
    const fresh = found.filter((one) => !known.has(identity(one)));
    this.refusals = [...fresh, ...this.refusals].sort((a, b) => b.at - a.at).slice(0, KEPT_REFUSALS);
  }

  /** Time has passed: which processes are dead? Returns whether that changed. */
  age(now: number): boolean {
    let changed = false;
    for (const [node, member] of this.members) {
      const age = now - member.receivedAt;
      if (member.status === "up" && age > DEAD_AFTER_MS) {
        member.status = "dead";
        changed = true;
      }
      if (age > (member.status === "left" ? 60_000 : 900_000)) {
        this.members.delete(node);
        changed = true;
      }
    }
    return changed;
  }

  get up(): Member[] {
    return [...this.members.values()].filter((member) => member.status === "up");
  }

  totals(): Totals {
    let connections = 0, runs = 0, slow = 0, lost = 0, handshakes = 0, refused = 0;
    const durations: Record<string, number[]> = { handshake_seconds: [], run_start_seconds: [] };
    for (const member of this.up) {
      const { gauges, counters } = member.snapshot.figures ?? {};
      connections += sumOf(gauges, "connections_active");
      runs += sumOf(gauges, "runs_active");
      slow += sumOf(gauges, "clients_lagging");
      lost += sumOf(counters, "events_lost");
      const { grown, seconds } = growth(member);
      if (seconds <= 0) continue;
      handshakes += sumOf(grown.counters, "handshakes", users) / seconds;
      refused += sumOf(grown.counters, "handshakes", (one) => users(one) && one[0] === "refused") / seconds;
      for (const metric in durations) {
        countsOf(grown.histograms, metric).forEach((count, at) => (durations[metric]![at] = (durations[metric]![at] ?? 0) + count));
      }
    }
    const p95 = (metric: string): number | null => quantile(this.buckets[metric] ?? [], durations[metric]!, 0.95);
    return {
      connections, runs, slow, lost,
      handshakesPerS: handshakes,
      refusedPerS: refused,
      failureShare: handshakes > 0 ? refused / handshakes : null,
      handshakeP95: p95("handshake_seconds"),
      firstEventP95: p95("run_start_seconds"),
    };
  }

  /** Keys and certificates that end, the first to end first. */
  expiries(): Expiry[] {
    const found = new Map<string, Expiry>();
    for (const { snapshot } of this.up) {
      for (const [key, ends] of Object.entries(snapshot.figures?.peaks ?? {})) {
        if (!key.startsWith("key_expiry_timestamp_seconds|")) continue;
        const name = expiring(labels(key)[0] ?? "");
        if (ends < (found.get(name)?.ends ?? Infinity)) found.set(name, { name, ends, left: ends - snapshot.at });
      }
    }
    return [...found.values()].sort((a, b) => a.ends - b.ends);
  }

  /** What is wrong now, the worst first. */
  troubles(): Trouble[] {
    const found: Trouble[] = [];
    for (const { status, snapshot } of this.members.values()) {
      const name = snapshot.node;
      if (status === "dead") found.push({ level: "bad", text: `${name} sends no snapshots any more: it died, hangs or is cut off`, section: "instances" });
      if (status === "left") found.push({ level: "warn", text: `${name} has drained and stopped`, section: "instances" });
      if (status !== "up") continue;
      if (snapshot.state === "draining") found.push({ level: "warn", text: `${name} is draining`, section: "instances" });
      if (snapshot.state === "starting") found.push({ level: "warn", text: `${name} is starting`, section: "instances" });
      const peaks = snapshot.figures?.peaks ?? {};
      for (const key in peaks) {
        const [dependency = "", traffic = ""] = labels(key);
        if (key.startsWith("breaker_state|") && peaks[key]! > 0) {
          const state = peaks[key] === 2 ? "open" : "half open";
          found.push({ level: "bad", text: `The breaker for ${dependency} (${traffic}) is ${state} on ${name}`, section: "handshakes" });
        }
        if (key.startsWith("health_status|") && peaks[key]! > 0) {
          found.push({ level: peaks[key] === 2 ? "bad" : "warn", text: `Health check ${dependency} is ${peaks[key] === 2 ? "unhealthy" : "degraded"} on ${name}`, section: "instances" });
        }
      }
      if (sumOf(snapshot.figures?.counters, "events_lost") > 0) found.push({ level: "bad", text: `${name} lost events since its start`, section: "instances" });
    }
    for (const { name, left } of this.expiries()) {
      if (left > EXPIRING_S) break;
      const days = Math.floor(left / 86_400);
      const when = left <= 0 ? "has expired" : days < 1 ? "expires within a day" : `expires in ${days} ${days === 1 ? "day" : "days"}`;
      found.push({ level: left <= EXPIRING_BAD_S ? "bad" : "warn", text: `${name} ${when}`, section: "instances" });
    }
    const { failureShare, refusedPerS, slow, connections } = this.totals();
    if (failureShare !== null && failureShare > 0.05 && refusedPerS > 0.3) {
      found.push({ level: failureShare > 0.25 ? "bad" : "warn", text: `${Math.round(failureShare * 100)} % of handshakes are refused (${refusedPerS.toFixed(1)} a second)`, section: "handshakes" });
    }
    if (manySlow(slow, connections)) found.push({ level: "warn", text: `${slow} ${slow === 1 ? "client reads" : "clients read"} too slowly`, section: "connections" });
    return found.sort((a, b) => (a.level === b.level ? 0 : a.level === "bad" ? -1 : 1));
  }
}

/** The growth of a process's counters over the last seconds. */
export function growth(member: Member): { grown: Figures; seconds: number } {
  const first = member.earlier[0];
  if (!first) return { grown: {}, seconds: 0 };
  return { grown: increase(first.figures, member.snapshot.figures ?? {}), seconds: member.snapshot.at - first.at };
}

/** A few slow clients are always there: phones in tunnels. One in a hundred is a network's trouble, or the server's. */
export function manySlow(slow: number, connections: number): boolean {
  return slow > Math.max(3, connections / 100);
}

/** Labels of `handshakes` (outcome, code, class) that are people's or tests', not health's own. */
function users(one: string[]): boolean {
  return one[2] !== "probe";
}

/** A key's label in words. */
function expiring(label: string): string {
  return label.startsWith("tls:") ? `The TLS certificate of the ${label.slice(4)}` : `The key or certificate ${label}`;
}

function identity(one: RecentRefusal): string {
  return `${one.at} ${one.trace_id ?? ""} ${one.code}`;
}
