/** What an operator looks at first: what is wrong, the numbers that count, connections and handshakes over time. */

import type { JSX } from "preact";

import type { Console } from "../console.ts";
import { manySlow } from "../fleet.ts";
import { count, percent, rate, seconds } from "../format.ts";
import { lineOf, linesBy } from "../history.ts";
import { useMemo } from "preact/hooks";
import { Instances } from "./Instances.tsx";
import { Plot } from "./Plot.tsx";
import { Refusals } from "./Refusals.tsx";
import { Tile } from "./Tile.tsx";

export function Overview({ app }: { app: Console }): JSX.Element {
  void app.version.value;
  const totals = app.fleet.totals();
  const troubles = app.fleet.troubles();
  const spark = app.spark.value;
  const history = app.history.value;
  const lines = useMemo(() => ({
    connections: linesBy(history, "gauges", "connections_active", 0, { order: ["user", "e2e", "guest"] }),
    handshakes: linesBy(history, "counters", "handshakes", 0, { fits: (one) => one[2] !== "probe", order: ["admitted", "refused"] }),
    runs: [lineOf(history, "gauges", "runs_active", "running")],
  }), [history]);
  const failing = totals.failureShare !== null && totals.failureShare > 0.05;
  return (
    <>
      <Troubles troubles={troubles} up={app.fleet.up.length} />
      <div class="tiles">
        <Tile name="Connections" value={count(totals.connections)} line={spark.map((one) => one.connections)} section="connections" />
        <Tile name="Handshakes" value={rate(totals.handshakesPerS)} line={spark.map((one) => one.handshakes)} section="handshakes" />
        <Tile name="Refused" value={percent(totals.failureShare)} note={rate(totals.refusedPerS)} level={failing ? "bad" : ""} line={spark.map((one) => one.failures)} section="handshakes" />
        <Tile name="Handshake, p95" value={seconds(totals.handshakeP95)} section="handshakes" />
        <Tile name="Runs" value={count(totals.runs)} line={spark.map((one) => one.runs)} section="runs" />
        <Tile name="First event, p95" value={seconds(totals.firstEventP95)} section="runs" />
        <Tile name="Slow clients" value={count(totals.slow)} level={manySlow(totals.slow, totals.connections) ? "warn" : ""} section="connections" />
        <Tile name="Events lost" value={count(totals.lost)} level={totals.lost ? "bad" : ""} section="instances" />
      </div>
      <div class="panels">
        <Plot title="Connections by class" at={history.at} lines={lines.connections} format={count} stacked />
        <Plot title="Handshakes by outcome" at={history.at} lines={lines.handshakes} format={rate} />
      </div>
      <Instances app={app} />
      <Refusals app={app} most={12} />
    </>
  );
}

function Troubles({ troubles, up }: { troubles: ReturnType<Console["fleet"]["troubles"]>; up: number }): JSX.Element {
  return (
    <section class="troubles" aria-label="State" data-level={troubles[0]?.level ?? "good"} role="status">
      {troubles.length === 0
        ? <p><span class="dot" aria-hidden="true" /> {up === 1 ? "One process is up" : `${up} processes are up`}, and nothing is wrong that this page can see.</p>
        : (
          <ul>
            {troubles.slice(0, 6).map((one) => (
              <li key={one.text} data-level={one.level}><span class="dot" aria-hidden="true" /> <a href={`#/${one.section}`}>{one.text}</a></li>
            ))}
            {troubles.length > 6 && <li>and {troubles.length - 6} more</li>}
          </ul>
        )}
    </section>
  );
}
