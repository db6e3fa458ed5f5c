/**
 * Puts one run's events in order and proves that they are all there (docs/protocol.md, "Completeness").
 *
 * Rules: events may arrive in any order, twice, merged (`seq_from` … `seq`) or not; what `events` holds is always
 * the gapless beginning of the run. Nothing is guessed: a gap stays a gap until the missing events arrive.
 */

import { canonicalJson, sha256Hex } from "./canonical.ts";
import { isDelta, isTerminal, type AguiEvent, type Delta, type RunError, type RunFinished } from "./events.ts";

/** How many events may wait behind a gap; more means that the channel must be read again (`conflict`). */
const MAX_EARLY = 10_000;

/** What became of a pushed event. */
export type Pushed =
  /** Appended; `events` are the ones that became visible with it, in order. */
  | { kind: "new"; events: AguiEvent[] }
  /** Was there already; drop it. */
  | { kind: "repeat" }
  /** Waits for the events before it. */
  | { kind: "early"; missing: number }
  /**
   * A merged delta took the place of smaller ones already there (it reaches further): rebuild what is derived from
   * `events`.
   */
  | { kind: "replaced"; events: AguiEvent[] }
  /** Cannot be fitted in: read the channel's history again into a new assembler. */
  | { kind: "conflict"; reason: string };

/** The outcome of the proof. `complete` is true only when count and digest both agree. */
export interface Proof {
  complete: boolean;
  /** Why not, in words; empty when complete. */
  reason: string;
  /** Events counted by `seq`, here. */
  count: number;
  /** SHA-256 hex of the normal form, computed here; empty while events are missing. */
  digest: string;
  /** What the terminal event says. */
  expected: { count: number | null; digest: string | null };
}

interface Piece {
  from: number;
  to: number;
  event: AguiEvent;
}

/** One run's events, in order. Feed it every event of the run with `push`, then `await verify()`. */
export class RunAssembler {
  readonly runId: string;
  #pieces: Piece[] = [];
  #early: Piece[] = [];
  #terminal: RunFinished | RunError | null = null;

  constructor(runId: string) {
    this.runId = runId;
  }

  /** The last `seq` of the gapless beginning. */
  get last(): number {
    return this.#pieces.at(-1)?.to ?? 0;
  }

  /** The gapless beginning of the run, in order. */
  get events(): AguiEvent[] {
    return this.#pieces.map((piece) => piece.event);
  }

  /** The event that ended the run, once everything before it is there; else null. */
  get terminal(): RunFinished | RunError | null {
    return this.#terminal;
  }

  /** Whether events after a gap are waiting. */
  get hasGap(): boolean {
    return this.#early.length > 0;
  }

  /** Take one event. Events without this run's id or without a `seq` are a conflict: they are not the run's. */
  push(event: AguiEvent): Pushed {
    const to = event.seq;
    if (event.runId !== this.runId || to === undefined || !Number.isInteger(to) || to < 1) {
      return { kind: "conflict", reason: "the event has no seq of this run" };
    }
    const piece = { from: event.seq_from ?? to, to, event };
    if (piece.to <= this.last) return { kind: "repeat" };
    if (piece.from > this.last + 1) return this.#wait(piece);
    if (piece.from <= this.last) return this.#replace(piece);
    const first = this.#append(piece);
    const { events, replaced } = this.#catchUp();
    return replaced ? { kind: "replaced", events: this.events } : { kind: "new", events: [first, ...events] };
  }

  /** Compare `count` and `digest` with the terminal event's. Computes; changes nothing. */
  async verify(): Promise<Proof> {
    const end = this.#terminal;
    const expected = { count: end?.count ?? null, digest: end?.digest ?? null };
    const at = { count: this.last, digest: "", expected };
    if (end === null) {
      const reason = this.hasGap ? `event ${this.last + 1} has not arrived` : "the run has not ended";
      return { ...at, complete: false, reason };
    }
    if (expected.count === null || expected.digest === null) {
      return { ...at, complete: false, reason: "the terminal event has no count and digest" };
    }
    let digest: string;
    try {
      digest = await runDigest(this.events);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      return { ...at, complete: false, reason: `an event has no canonical form: ${error.message}` };
    }
    if (expected.count !== this.last) {
      const reason = `${this.last} events arrived, the run has ${expected.count}`;
      return { ...at, digest, complete: false, reason };
    }
    const same = digest === expected.digest;
    return { ...at, digest, complete: same, reason: same ? "" : "the digest differs: an event was altered" };
  }

  #append(piece: Piece): AguiEvent {
    this.#pieces.push(piece);
    if (isTerminal(piece.event)) this.#terminal = piece.event;
    return piece.event;
  }

  #wait(piece: Piece): Pushed {
    // Only the same range is a repeat: what a waiting merged delta covers may still be needed beside another merged
    // delta that begins within it.
    if (this.#early.some((waiting) => waiting.from === piece.from && waiting.to === piece.to)) return { kind: "repeat" };
    if (this.#early.length >= MAX_EARLY) return { kind: "conflict", reason: "too many events are buffered behind a gap" };
    this.#early.push(piece);
    this.#early.sort((a, b) => a.from - b.from || b.to - a.to);
    return { kind: "early", missing: this.last + 1 };
  }

  #replace(piece: Piece): Pushed {
    if (!this.#substitute(piece)) {
      return { kind: "conflict", reason: `events ${piece.from} to ${piece.to} overlap earlier ones` };
    }
    this.#catchUp();
    return { kind: "replaced", events: this.events };
  }

  /** A merged delta that overlaps what is there and reaches further takes the place of the pieces it stands for. */
  #substitute(piece: Piece): boolean {
    const index = this.#pieces.findIndex((there) => there.from === piece.from);
    const { event } = piece;
    if (index < 0 || !isDelta(event)) return false;
    const covered = this.#pieces.slice(index).map((there) => there.event);
    const base = baseOf(event);
    if (base === null || !covered.every((there) => isDelta(there) && baseOf(there) === base)) return false;
    const seen = covered.map((there) => (isDelta(there) ? there.delta : "")).join("");
    if (!event.delta.startsWith(seen)) return false;
    this.#pieces.length = index;
    this.#append(piece);
    return true;
  }

  /** Append what waited for the event just appended; `replaced` when a waiting merged delta took others' place. */
  #catchUp(): { events: AguiEvent[]; replaced: boolean } {
    const events: AguiEvent[] = [];
    let replaced = false;
    for (let next = this.#early[0]; next && next.from <= this.last + 1; next = this.#early[0]) {
      this.#early.shift();
      if (next.to <= this.last) continue;
      if (next.from === this.last + 1) events.push(this.#append(next));
      else replaced = this.#substitute(next) || replaced;
    }
    return { events, replaced };
  }
}

/** Members that are no part of the normal form. */
const LEFT_OUT = new Set(["seq", "seq_from", "count", "digest", "timestamp"]);

/**
 * The normal form of a run: the top-level members `seq`, `seq_from`, `count`, `digest` and `timestamp` left out,
 * adjacent deltas that are equal in everything but `delta` joined, each event as RFC 8785 JSON, joined by newlines.
 */
export function normalForm(events: readonly AguiEvent[]): string {
  const lines: string[] = [];
  let open: { base: string; bare: object; deltas: string[] } | null = null;
  const close = (): void => {
    if (open) lines.push(canonicalJson({ ...open.bare, delta: open.deltas.join("") }));
    open = null;
  };
  for (const event of events) {
    const bare = Object.fromEntries(Object.entries(event).filter(([name]) => !LEFT_OUT.has(name)));
    if (!isDelta(event)) {
      close();
      lines.push(canonicalJson(bare));
      continue;
    }
    delete bare["delta"];
    const base = canonicalJson(bare);
    if ((open as { base: string } | null)?.base !== base) {
      close();
      open = { base, bare, deltas: [] };
    }
    open!.deltas.push(event.delta);
  }
  close();
  return lines.join("\n");
}

/**
 * What two deltas must share to be parts of one: everything but text and place, compared as RFC 8785 writes it (so `true`
 * is not `1`, and `1.0` is). Null for one that has no canonical form.
 */
function baseOf(event: Delta): string | null {
  const bare = Object.fromEntries(Object.entries(event).filter(([name]) => !LEFT_OUT.has(name) && name !== "delta"));
  try {
    return canonicalJson(bare);
  } catch {
    return null;
  }
}

/** SHA-256 hex over `normalForm(events)`. */
export function runDigest(events: readonly AguiEvent[]): Promise<string> {
  return sha256Hex(normalForm(events));
}
