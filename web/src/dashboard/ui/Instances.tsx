/** Every process: what it runs, how it is, what it carries. */

import type { JSX } from "preact";

import type { Console } from "../console.ts";
import { sumOf, countsOf, quantile } from "../figures.ts";
import { growth, type Member } from "../fleet.ts";
import { age, count, percent, rate, seconds } from "../format.ts";

export function Instances({ app, actions = false }: { app: Console; actions?: boolean }): JSX.Element {
  void app.version.value;
  const members = [...app.fleet.members.values()].sort((a, b) => (a.snapshot.started_at ?? 0) - (b.snapshot.started_at ?? 0));
  const now = Date.now();
  return (
    <section class="panel" aria-labelledby="instances-title">
      <div class="panel-head"><h3 id="instances-title">Instances</h3></div>
      <div class="scroll" tabIndex={0} role="region" aria-labelledby="instances-title">
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Node</th><th scope="col">State</th><th scope="col">Version</th><th scope="col" class="num">Up for</th>
              <th scope="col" class="num">Connections</th><th scope="col" class="num">Handshakes</th><th scope="col" class="num">Runs</th>
              <th scope="col" class="num">CPU</th><th scope="col" class="num">Loop lag, p99</th><th scope="col" class="num">Heard</th>
              {actions && <th scope="col">Action</th>}
            </tr>
          </thead>
          <tbody>{members.map((member) => <Row key={member.snapshot.node} app={app} member={member} now={now} actions={actions} />)}</tbody>
        </table>
      </div>
    </section>
  );
}

function Row({ app, member, now, actions }: { app: Console; member: Member; now: number; actions: boolean }): JSX.Element {
  const { snapshot, status } = member;
  const figures = snapshot.figures ?? {};
  const { grown, seconds: over } = growth(member);
  const per = (value: number): number => (over > 0 ? value / over : 0);
  const lag = quantile(app.fleet.buckets["loop_lag_seconds"] ?? [], countsOf(grown.histograms, "loop_lag_seconds"), 0.99);
  const state = status === "up" ? snapshot.state ?? "ready" : status;
  const fresh = status === "up";
  return (
    <tr data-status={state}>
      <th scope="row" class="code">{snapshot.node}<span class="kind">{snapshot.kind ?? "gateway"}</span></th>
      <td><span class="state" data-state={state}><span class="dot" aria-hidden="true" /> {state}</span></td>
      <td>{snapshot.version}</td>
      <td class="num">{snapshot.started_at ? age(snapshot.at - snapshot.started_at) : "–"}</td>
      <td class="num">{fresh ? count(sumOf(figures.gauges, "connections_active")) : "–"}</td>
      <td class="num">{fresh ? rate(per(sumOf(grown.counters, "handshakes", (one) => one[2] !== "probe"))) : "–"}</td>
      <td class="num">{fresh ? count(sumOf(figures.gauges, "runs_active")) : "–"}</td>
      <td class="num">{fresh && over > 0 ? percent(per(sumOf(grown.counters, "cpu_seconds"))) : "–"}</td>
      <td class="num">{fresh ? seconds(lag) : "–"}</td>
      <td class="num">{Math.max(0, Math.round((now - member.receivedAt) / 1000))} s ago</td>
      {actions && (
        <td>
          {fresh && state === "ready" && <button type="button" class="small" aria-label={`Drain ${snapshot.node}`} onClick={() => void drain(app, snapshot.node)}>Drain</button>}
        </td>
      )}
    </tr>
  );
}

async function drain(app: Console, node: string): Promise<void> {
  if (!confirm(`Drain and stop ${node}? Its clients reconnect elsewhere.`)) return;
  if (await app.attempt(() => app.post("/api/v1/drain", { node }))) app.say(`${node} drains.`);
}
