import assert from "node:assert/strict";
import test from "node:test";

import { increase, quantile, sumOf } from "../src/dashboard/figures.ts";
import { DEAD_AFTER_MS, Fleet, type Snapshot } from "../src/dashboard/fleet.ts";

function snapshot(node: string, at: number, counters: Record<string, number> = {}, more: Partial<Snapshot> = {}): Snapshot {
  return { node, at, state: "ready", figures: { counters, gauges: { "connections_active|user": 3 } }, ...more };
}

test("rates come from the growth between two snapshots, over ten seconds at most", () => {
  const fleet = new Fleet();
  for (let at = 0; at <= 30; at += 1) {
    fleet.take(snapshot("a", at, { "handshakes|admitted|ok|user": at * 2, "handshakes|refused|auth_required|user": at, "handshakes|admitted|ok|probe": at * 9 }), at * 1000);
  }
  const totals = fleet.totals();
  assert.equal(totals.handshakesPerS, 3);
  assert.equal(totals.refusedPerS, 1);
  assert.equal(totals.connections, 3);
  assert.ok(fleet.members.get("a")!.earlier.length <= 12);
});

test("a process whose snapshots stop is dead and counts no more; one that says so has left", () => {
  const fleet = new Fleet();
  fleet.take(snapshot("a", 1), 0);
  fleet.take(snapshot("b", 1, {}, { state: "stopped" }), 0);
  assert.equal(fleet.age(DEAD_AFTER_MS), false);
  assert.equal(fleet.age(DEAD_AFTER_MS + 1), true);
  assert.deepEqual([...fleet.members.values()].map((member) => member.status), ["dead", "left"]);
  assert.equal(fleet.totals().connections, 0);
  assert.deepEqual(fleet.troubles().map((one) => one.level), ["bad", "warn"]);
});

test("an open breaker, a failing check, lost events and many refusals are troubles, the worst first", () => {
  const fleet = new Fleet();
  const counters = { "handshakes|refused|token_expired|user": 0 };
  fleet.take(snapshot("a", 1, counters), 0);
  const figures = { counters: { "handshakes|refused|token_expired|user": 50, events_lost: 1 }, gauges: {}, peaks: { "breaker_state|jwks|user": 2, "health_status|agents": 1 } };
  fleet.take(snapshot("a", 11, {}, { figures }), 10_000);
  const texts = fleet.troubles().map((one) => `${one.level}: ${one.text}`);
  assert.deepEqual(texts, [
    "bad: The breaker for jwks (user) is open on a",
    "bad: a lost events since its start",
    "bad: 100 % of handshakes are refused (5.0 a second)",
    "warn: Health check agents is degraded on a",
  ]);
});

test("refusals are listed once, the newest first", () => {
  const fleet = new Fleet();
  const one = { at: 1, code: "auth_required", detail: "", trace_id: "x" };
  fleet.addRefusals([one]);
  fleet.take(snapshot("a", 2, {}, { refusals: [one, { ...one, at: 2, trace_id: "y" }] }), 0);
  assert.deepEqual(fleet.refusals.map((found) => found.trace_id), ["y", "x"]);
});

test("a late snapshot does not replace a newer one, and the API's does not replace a live one", () => {
  const fleet = new Fleet();
  fleet.take(snapshot("a", 5), 5_000);
  fleet.take(snapshot("a", 4), 5_100);
  fleet.load({ members: [{ status: "dead", age_s: 9, snapshot: snapshot("a", 3) }], buckets: {} }, 5_200);
  assert.equal(fleet.members.get("a")!.snapshot.at, 5);
  assert.equal(fleet.members.get("a")!.status, "up");
});

test("growth of a restarted process is all that it counted since", () => {
  const grown = increase({ counters: { a: 9 }, histograms: { h: [[5, 5]] } }, { counters: { a: 2 }, histograms: { h: [[6, 8]] } });
  assert.equal(grown.counters!["a"], 2);
  assert.deepEqual(grown.histograms!["h"]![0], [1, 3]);
});

test("quantiles and sums are those of the gateway", () => {
  assert.equal(quantile([1, 2], [10, 0, 0], 0.5), 0.5);
  assert.ok(Math.abs(quantile([1, 2], [5, 5, 0], 0.9)! - 1.8) < 1e-9);
  assert.equal(quantile([1, 2], [0, 0, 4], 0.5), 2);
  assert.equal(quantile([1, 2], [0, 0, 0], 0.5), null);
  assert.equal(sumOf({ "runs|a": 1, "runs_active": 5, runs: 2 }, "runs"), 3);
});

test("keys and certificates that end soon are troubles; of several processes the earliest end counts", () => {
  const fleet = new Fleet();
  const day = 86_400;
  const key = (name: string): string => `key_expiry_timestamp_seconds|${name}`;
  fleet.take(snapshot("a", 1_000, {}, { figures: { peaks: { [key("default")]: 1_000 + 40 * day, [key("tls:broker")]: 1_000 + 5.5 * day, [key("tls:store")]: 900 } } }), 0);
  fleet.take(snapshot("b", 1_000, {}, { figures: { peaks: { [key("tls:broker")]: 1_000 + 1.5 * day } } }), 0);
  assert.deepEqual(fleet.expiries().map((one) => [one.name, one.left / day]), [
    ["The TLS certificate of the store", -100 / day],
    ["The TLS certificate of the broker", 1.5],
    ["The key or certificate default", 40],
  ]);
  assert.deepEqual(fleet.troubles().map((one) => `${one.level}: ${one.text}`), [
    "bad: The TLS certificate of the store has expired",
    "bad: The TLS certificate of the broker expires in 1 day",
  ]);
});
