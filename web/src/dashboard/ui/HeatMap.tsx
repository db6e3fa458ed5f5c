/** How long things took, over time: a column for each moment, a row for each bucket, darker where there were more. */

import { useEffect, useRef } from "preact/hooks";
import type { JSX } from "preact";

import { clock, count, seconds } from "../format.ts";
import { css } from "./colours.ts";
import { useScheme } from "./Plot.tsx";

interface HeatMapProps {
  title: string;
  hint?: string;
  at: readonly number[];
  bounds: readonly number[];
  counts: readonly (readonly number[] | null)[];
}

const ROW = 11;

export function HeatMap({ title, hint, at, bounds, counts }: HeatMapProps): JSX.Element {
  const canvas = useRef<HTMLCanvasElement>(null);
  const scheme = useScheme();
  const rows = bounds.length + 1;
  const sums = Array.from({ length: rows }, (_, bucket) => counts.reduce((sum, one) => sum + (one?.[bucket] ?? 0), 0));
  const empty = sums.every((sum) => sum === 0);

  useEffect(() => {
    const target = canvas.current;
    const pen = target?.getContext("2d");
    if (!target || !pen) return;
    const scale = devicePixelRatio || 1;
    const width = target.clientWidth;
    target.width = width * scale;
    target.height = rows * ROW * scale;
    pen.scale(scale, scale);
    const most = Math.max(1, ...counts.flatMap((one) => one ?? []));
    const cell = width / Math.max(1, counts.length);
    const strong = css("--heat");
    const unknown = css("--paper-3");
    counts.forEach((one, column) => {
      if (!one) {
        pen.globalAlpha = 1;
        pen.fillStyle = unknown;
        pen.fillRect(column * cell, 0, cell + 0.5, rows * ROW);
        return;
      }
      one.forEach((value, bucket) => {
        if (value === 0) return;
        pen.globalAlpha = 0.15 + 0.85 * (Math.log1p(value) / Math.log1p(most));
        pen.fillStyle = strong;
        pen.fillRect(column * cell, (rows - 1 - bucket) * ROW, Math.max(1, cell - (cell > 4 ? 1 : 0)), ROW - 1);
      });
    });
  }, [at, counts, bounds, scheme, empty]);

  const busiest = sums.indexOf(Math.max(...sums));
  return (
    <figure class="panel heat">
      <figcaption>
        <h3>{title}</h3>
        {hint && <p class="hint">{hint}</p>}
      </figcaption>
      {empty ? <p class="no-data">No data in this range.</p> : (
        <>
          <div class="heat-body">
            <ol class="heat-scale" aria-hidden="true">
              {[...bounds.keys()].reverse().filter((bucket) => bucket % 3 === 1).map((bucket) => (
                <li key={bucket} style={{ top: `${(rows - 1 - bucket) * ROW - 5}px` }}>{seconds(bounds[bucket]!)}</li>
              ))}
            </ol>
            <canvas ref={canvas} role="img" aria-label={`${title}: most took up to ${seconds(bounds[busiest] ?? bounds.at(-1) ?? 0)}`} style={{ height: `${rows * ROW}px` }} />
          </div>
          <p class="heat-times" aria-hidden="true"><span>{at[0] ? clock(at[0]) : ""}</span><span>{at.length ? clock(at.at(-1)!) : ""}</span></p>
          <details class="numbers">
            <summary>As numbers</summary>
            <table>
              <thead><tr><th scope="col">Up to</th><th scope="col">Count in the range</th></tr></thead>
              <tbody>
                {sums.map((sum, bucket) => sum > 0 && <tr key={bucket}><td>{bucket < bounds.length ? seconds(bounds[bucket]!) : "longer"}</td><td>{count(sum)}</td></tr>)}
              </tbody>
            </table>
          </details>
        </>
      )}
    </figure>
  );
}
