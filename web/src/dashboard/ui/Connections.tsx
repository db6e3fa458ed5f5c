/** Connections: by class, plan and instance, slow ones, recoveries, how they end. */

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";

import type { Console } from "../console.ts";
import { count, rate } from "../format.ts";
import { lineOf, linesBy } from "../history.ts";
import { ConnectionList } from "./ConnectionList.tsx";
import { Plot } from "./Plot.tsx";

export function Connections({ app }: { app: Console }): JSX.Element {
  const history = app.history.value;
  const lines = useMemo(() => ({
    classes: linesBy(history, "gauges", "connections_active", 0, { order: ["user", "e2e", "guest"] }),
    plans: linesBy(history, "gauges", "connections_by_plan", 0, { order: ["enterprise", "mid", "early", "free", "guest"] }),
    nodes: linesBy(history, "gauges", "node", 0, { most: 8 }),
    slow: [lineOf(history, "gauges", "clients_lagging", "slow clients")],
    closed: linesBy(history, "counters", "slow_closes", 0),
    recoveries: linesBy(history, "counters", "recoveries", 0, { order: ["recovered", "lost"] }),
    ends: linesBy(history, "counters", "disconnects", 0),
  }), [history]);
  return (
    <>
      <ConnectionList key={JSON.stringify(app.wanted.value)} app={app} />
      <div class="panels">
        <Plot title="Connections by class" at={history.at} lines={lines.classes} format={count} stacked />
        <Plot title="Connections by plan" at={history.at} lines={lines.plans} format={count} stacked />
        <Plot title="Connections by instance" at={history.at} lines={lines.nodes} format={count} stacked />
        <Plot title="Slow clients" at={history.at} lines={lines.slow} format={count} />
        <Plot title="Slow clients that were closed, by limit" at={history.at} lines={lines.closed} format={rate} />
        <Plot title="Recoveries after a reconnect" at={history.at} lines={lines.recoveries} format={rate} />
        <Plot title="Closed connections, by close code" at={history.at} lines={lines.ends} format={rate} stacked />
      </div>
    </>
  );
}
