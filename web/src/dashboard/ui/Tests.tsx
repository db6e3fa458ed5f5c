/** End-to-end runs with their reports, and performance measurements over time. */

import type { JSX } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";

import type { Console } from "../console.ts";
import { count, moment, percent } from "../format.ts";
import { Plot } from "./Plot.tsx";

interface TestRun {
  test_run: string;
  at: number;
  environment: string;
  passed: number;
  failed: number;
  skipped: number;
  duration_s: number;
  /** JSON text. */
  report: string;
}

interface Report {
  /** "gate": the checks of `narthex gate --post`. */
  kind?: string;
  target?: string;
  success_rate?: number;
  categories?: Record<string, Record<string, number>>;
  failed?: { name?: string; detail?: string }[];
}

interface Baseline {
  at: number;
  kind: string;
  version: string;
  machine: string;
  figures: Record<string, number>;
}

export function Tests({ app }: { app: Console }): JSX.Element {
  const [runs, setRuns] = useState<TestRun[]>([]);
  const [baselines, setBaselines] = useState<Baseline[]>([]);
  const [read, setRead] = useState(false);

  useEffect(() => {
    void app.attempt(async () => {
      setRuns((await app.get<{ results: TestRun[] }>("/api/v1/e2e/results")).results);
      setBaselines((await app.get<{ baselines: Baseline[] }>("/api/v1/operator/baselines")).baselines);
    }).then(() => setRead(true));
  }, []);

  const plots = useMemo(() => {
    const oldestFirst = runs.filter((run) => reportOf(run).kind !== "gate").reverse();
    const measured = [...baselines].reverse();
    const names = [...new Set(measured.flatMap((one) => Object.keys(one.figures)))];
    const units = [...new Set(names.map((name) => name.split(": ").at(-1)!))];
    return {
      at: oldestFirst.map((one) => one.at),
      lines: [
        { label: "passed", values: oldestFirst.map((one) => one.passed) },
        { label: "failed", values: oldestFirst.map((one) => one.failed) },
      ],
      measuredAt: measured.map((one) => one.at),
      units: units.map((unit) => ({
        unit,
        lines: names.filter((name) => name.endsWith(`: ${unit}`)).slice(0, 8).map((name) => ({
          label: name.slice(0, -unit.length - 2), values: measured.map((one) => one.figures[name] ?? null),
        })),
      })),
    };
  }, [runs, baselines]);

  return (
    <>
      <Plot title="End-to-end tests, by run" at={plots.at} lines={plots.lines} format={count} />
      <section class="panel" aria-labelledby="runs-title">
        <div class="panel-head"><h3 id="runs-title">End-to-end runs and gates</h3></div>
        {runs.length === 0 ? <p class="no-data">{read ? "No run was reported. narthex test and narthex gate --post report here." : "Reading …"}</p> : (
          <div class="scroll" tabIndex={0} role="region" aria-labelledby="runs-title">
            <table class="list">
              <thead><tr><th scope="col">When</th><th scope="col">Run</th><th scope="col">Environment</th><th scope="col" class="num">Passed</th><th scope="col" class="num">Failed</th><th scope="col" class="num">Skipped</th><th scope="col" class="num">Took</th><th scope="col">Report</th></tr></thead>
              <tbody>{runs.map((run) => <RunRow key={run.test_run} run={run} />)}</tbody>
            </table>
          </div>
        )}
      </section>
      <div class="panels">
        {plots.units.map(({ unit, lines }) => (
          <Plot key={unit} title={`Performance: ${unit}`} hint="narthex bench --post" at={plots.measuredAt} lines={lines} format={(value) => value.toPrecision(3)} />
        ))}
      </div>
      {read && baselines.length === 0 && (
        <section class="panel" aria-labelledby="baselines-title">
          <div class="panel-head"><h3 id="baselines-title">Performance over time</h3></div>
          <p class="no-data">No measurement was recorded. narthex bench --post URL records one.</p>
        </section>
      )}
    </>
  );
}

function RunRow({ run }: { run: TestRun }): JSX.Element {
  const report = reportOf(run);
  const failed = report.failed ?? [];
  return (
    <tr data-status={run.failed ? "dead" : "ready"}>
      <td>{moment(run.at)}</td>
      <th scope="row" class="code">{run.test_run}{report.kind === "gate" && <span class="hint"> {run.failed ? "gate closed" : "gate open"}</span>}</th>
      <td>{run.environment}</td>
      <td class="num">{count(run.passed)}</td>
      <td class="num">{run.failed ? <strong>{count(run.failed)}</strong> : "0"}</td>
      <td class="num">{count(run.skipped)}</td>
      <td class="num">{run.duration_s.toFixed(1)} s</td>
      <td>
        <details>
          <summary>{report.success_rate === undefined ? "Report" : `${percent(report.success_rate)} of them passed`}</summary>
          {report.target && <p class="hint">{report.target}</p>}
          <ul class="hint">
            {Object.entries(report.categories ?? {}).map(([name, counts]) => <li key={name}>{name}: {Object.entries(counts).map(([state, number]) => `${number} ${state}`).join(", ")}</li>)}
          </ul>
          {failed.length > 0 && <ul>{failed.map((one) => <li key={one.name}><strong class="code">{one.name}</strong> {one.detail}</li>)}</ul>}
        </details>
      </td>
    </tr>
  );
}

/** Whatever a runner has reported; another program's report may have another form. */
function reportOf(run: TestRun): Report {
  try {
    const found: unknown = JSON.parse(run.report);
    return typeof found === "object" && found !== null ? (found as Report) : {};
  } catch {
    return {};
  }
}
