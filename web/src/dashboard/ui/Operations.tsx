/** Instances: versions and drains over time, engines, event loops. */

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";

import type { Console } from "../console.ts";
import { count, rate, seconds } from "../format.ts";
import { lineOf, linesBy, quantilesOf } from "../history.ts";
import { Instances } from "./Instances.tsx";
import { Plot } from "./Plot.tsx";

export function Operations({ app }: { app: Console }): JSX.Element {
  void app.version.value;
  const history = app.history.value;
  const { buckets } = app.fleet;
  const lines = useMemo(() => ({
    versions: linesBy(history, "gauges", "version", 0),
    states: linesBy(history, "gauges", "state", 0, { order: ["ready", "draining", "starting"] }),
    lag: quantilesOf(history, "loop_lag_seconds", buckets["loop_lag_seconds"] ?? []),
    cpu: [lineOf(history, "counters", "cpu_seconds", "cores")],
    faults: [lineOf(history, "counters", "events_lost", "events lost"), lineOf(history, "counters", "bugs", "bugs"), lineOf(history, "counters", "channels_behind", "channels re-read")],
  }), [history, buckets]);
  const engines = new Map(app.fleet.up.flatMap(({ snapshot }) => Object.entries(snapshot.facts ?? {})));
  return (
    <>
      <Instances app={app} actions />
      <div class="panels">
        <Plot title="Instances by version" at={history.at} lines={lines.versions} format={count} stacked />
        <Plot title="Instances by state" hint="Drains and starts" at={history.at} lines={lines.states} format={count} stacked />
        <Plot title="Event loop lag" at={history.at} lines={lines.lag} format={seconds} />
        <Plot title="CPU of all instances" hint="In cores" at={history.at} lines={lines.cpu} format={(value) => value.toFixed(2)} />
        <Plot title="Faults" at={history.at} lines={lines.faults} format={rate} />
      </div>
      <section class="panel" aria-labelledby="engines-title">
        <div class="panel-head"><h3 id="engines-title">Engines</h3></div>
        <dl class="facts-list">
          {[...engines].map(([name, fact]) => <div key={name}><dt>{name}</dt><dd>{fact}</dd></div>)}
        </dl>
      </section>
    </>
  );
}
