/** Instances: versions and drains over time, engines, event loops. */

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";

import type { Console } from "../console.ts";
import type { Expiry } from "../fleet.ts";
import { age, count, moment, rate, seconds } from "../format.ts";
import { lineOf, linesBy, quantilesOf, type History } from "../history.ts";
import { Audits } from "./Audits.tsx";
import { Instances } from "./Instances.tsx";
import { Plot } from "./Plot.tsx";
import { Timeline } from "./Timeline.tsx";

export function Operations({ app }: { app: Console }): JSX.Element {
  void app.version.value;
  const history = app.history.value;
  const { buckets } = app.fleet;
  const lines = useMemo(() => ({
    versions: linesBy(history, "gauges", "version", 0),
    states: linesBy(history, "gauges", "state", 0, { order: ["ready", "draining", "starting"] }),
    lag: quantilesOf(history, "loop_lag_seconds", buckets["loop_lag_seconds"] ?? []),
    cpu: [lineOf(history, "counters", "cpu_seconds", "cores")],
    engine: ["broker", "store"].flatMap((name) => quantilesOf(narrowed(history, `engine_seconds|${name}`), "engine_seconds", buckets["engine_seconds"] ?? [], [0.95]).map((line) => ({ ...line, label: `${name} p95` }))),
    failures: linesBy(history, "counters", "engine_failures", 0),
    commands: linesBy(history, "counters", "commands", 0),
    delivered: [lineOf(history, "counters", "deliveries", "deliveries")],
    drains: linesBy(history, "gauges", "drain_remaining", 0),
    health: Object.keys(history.peaks).filter((key) => key.startsWith("health_status|")).sort().map((key) => ({ label: key.split("|")[1] ?? "", values: history.peaks[key]! })),
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
        <Plot title="Left to close while draining" at={history.at} lines={lines.drains} format={count} />
        <Plot title="Latency of the engines" at={history.at} lines={lines.engine} format={seconds} />
        <Plot title="Failed operations of the engines" at={history.at} lines={lines.failures} format={rate} />
        <Plot title="Commands of clients" at={history.at} lines={lines.commands} format={rate} stacked />
        <Plot title="Deliveries to clients" at={history.at} lines={lines.delivered} format={rate} />
        <Plot title="Faults" at={history.at} lines={lines.faults} format={rate} />
      </div>
      <Timeline title="Health checks" hint="The worst state of any instance" at={history.at} lines={lines.health} states={["healthy", "degraded", "unhealthy"]} />
      <section class="panel" aria-labelledby="engines-title">
        <div class="panel-head"><h3 id="engines-title">Engines</h3></div>
        <dl class="facts-list">
          {[...engines].map(([name, fact]) => <div key={name}><dt>{name}</dt><dd>{fact}</dd></div>)}
        </dl>
      </section>
      <Expiries found={app.fleet.expiries()} />
      <Audits app={app} />
    </>
  );
}

/** When keys and certificates end; nothing where none does. */
function Expiries({ found }: { found: Expiry[] }): JSX.Element | null {
  if (!found.length) return null;
  return (
    <section class="panel" aria-labelledby="expiries-title">
      <div class="panel-head"><h3 id="expiries-title">Keys and certificates</h3></div>
      <dl class="facts-list">
        {found.map(({ name, ends, left }) => <div key={name}><dt>{name}</dt><dd>{left > 0 ? `expires in ${age(left)}` : "has expired"}, {moment(ends)}</dd></div>)}
      </dl>
    </section>
  );
}

/** The history with one series of histograms only. */
function narrowed(history: History, key: string): History {
  const found = history.histograms[key];
  return { ...history, histograms: found ? { [key]: found } : {} };
}
