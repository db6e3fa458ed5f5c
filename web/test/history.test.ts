import assert from "node:assert/strict";
import test from "node:test";

import { countsOver, lineOf, linesBy, quantilesOf, shareOf, type History } from "../src/dashboard/history.ts";

const HISTORY: History = {
  range: "15m",
  step_s: 10,
  at: [0, 10, 20],
  counters: { "handshakes|admitted|ok|user": [null, 20, 0], "handshakes|refused|auth_required|user": [null, 10, 0], "handshakes|admitted|ok|probe": [5, 5, 5] },
  gauges: Object.fromEntries(Array.from({ length: 10 }, (_, at) => [`node|n${at}`, [null, at, at]])),
  peaks: {},
  histograms: { "handshake_seconds": [null, [1, 1, 0], [0, 0, 0]] },
};

test("counters become rates, and unknown moments stay unknown", () => {
  const [admitted, refused] = linesBy(HISTORY, "counters", "handshakes", 0, { fits: (one) => one[2] !== "probe", order: ["admitted", "refused"] });
  assert.deepEqual(admitted, { label: "admitted", values: [null, 2, 0] });
  assert.deepEqual(refused, { label: "refused", values: [null, 1, 0] });
});

test("the smallest lines beyond the limit are one", () => {
  const lines = linesBy(HISTORY, "gauges", "node", 0, { most: 4 });
  assert.deepEqual(lines.map((line) => line.label), ["n9", "n8", "n7", "others"]);
  assert.deepEqual(lines[3]!.values, [null, 21, 21]);
});

test("a share of nothing is unknown", () => {
  const all = lineOf(HISTORY, "counters", "handshakes", "all", (one) => one[2] !== "probe");
  const refused = lineOf(HISTORY, "counters", "handshakes", "refused", (one) => one[0] === "refused");
  assert.deepEqual(shareOf(refused, all, "refused").values.map((value) => value && Math.round(value)), [null, 33, null]);
});

test("quantiles over time come from the counts of each moment", () => {
  assert.deepEqual(countsOver(HISTORY, "handshake_seconds"), [null, [1, 1, 0], [0, 0, 0]]);
  assert.deepEqual(quantilesOf(HISTORY, "handshake_seconds", [1, 2], [0.5])[0]!.values, [null, 1, null]);
});
