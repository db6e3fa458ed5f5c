/** Agent runs: how many, how they end, how long their users wait. */

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";

import type { Console } from "../console.ts";
import { count, rate, seconds } from "../format.ts";
import { countsOver, lineOf, linesBy, quantilesOf } from "../history.ts";
import { HeatMap } from "./HeatMap.tsx";
import { Plot } from "./Plot.tsx";

export function Runs({ app }: { app: Console }): JSX.Element {
  const history = app.history.value;
  const { buckets } = app.fleet;
  const bounds = buckets["run_start_seconds"] ?? [];
  const lines = useMemo(() => ({
    active: [lineOf(history, "gauges", "runs_active", "running"), lineOf(history, "peaks", "runs_queued", "queued")],
    ended: linesBy(history, "counters", "runs", 0, { order: ["finished", "interrupted", "cancelled", "failed"] }),
    errors: linesBy(history, "counters", "runs", 1, { fits: (one) => Boolean(one[1]) && one[1] !== "none" }),
    first: quantilesOf(history, "run_start_seconds", bounds),
    counts: countsOver(history, "run_start_seconds"),
    cancel: quantilesOf(history, "run_cancel_seconds", buckets["run_cancel_seconds"] ?? []),
    taken: [lineOf(history, "counters", "runs_taken_over", "taken over"), lineOf(history, "counters", "runs_lost", "lease lost")],
  }), [history, buckets]);
  return (
    <div class="panels">
      <Plot title="Runs now" at={history.at} lines={lines.active} format={count} />
      <Plot title="Runs that ended, by state" at={history.at} lines={lines.ended} format={rate} />
      <Plot title="Time to the first event" hint="From run.start to what the user sees first" at={history.at} lines={lines.first} format={seconds} />
      <HeatMap title="Time to the first event, all runs" at={history.at} bounds={bounds} counts={lines.counts} />
      <Plot title="Time to stop after a cancel" at={history.at} lines={lines.cancel} format={seconds} />
      <Plot title="Failed runs, by error" at={history.at} lines={lines.errors} format={rate} />
      <Plot title="Runs that changed their owner" at={history.at} lines={lines.taken} format={rate} />
    </div>
  );
}
