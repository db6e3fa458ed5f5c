/** A panel with a plot: title, canvas, and a legend that holds the values, which is what a screen reader reads. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { ComponentChildren, JSX } from "preact";

import type { Line } from "../history.ts";
import { clock } from "../format.ts";
import { colourNames, css } from "./colours.ts";

interface PlotProps {
  title: string;
  hint?: string;
  at: readonly number[];
  lines: readonly Line[];
  format: (value: number) => string;
  stacked?: boolean;
  children?: ComponentChildren;
}

export function Plot({ title, hint, at, lines, format, stacked = false, children }: PlotProps): JSX.Element {
  const host = useRef<HTMLDivElement>(null);
  const [point, setPoint] = useState<number | null>(null);
  const scheme = useScheme();
  const names = colourNames(lines.map((line) => line.label));
  const empty = !lines.some((line) => line.values.some((value) => value !== null));

  useEffect(() => {
    const where = host.current;
    if (!where || empty) return;
    let end: (() => void) | undefined;
    let gone = false;
    void import("./draw.ts").then(({ draw }) => {
      if (!gone) end = draw(where, { at, lines, stacked, format, colours: names.map(css), onPoint: setPoint });
    });
    return () => {
      gone = true;
      end?.();
    };
  }, [at, lines, stacked, scheme, empty]);

  const index = point ?? lastKnown(lines);
  return (
    <figure class="panel plot">
      <figcaption>
        <h3>{title}</h3>
        {hint && <p class="hint">{hint}</p>}
      </figcaption>
      {empty ? <p class="no-data">No data in this range.</p> : <div ref={host} class="canvas" aria-hidden="true" />}
      {!empty && (
        <ul class="legend" aria-label={`${title}${point !== null && at[index] ? ` at ${clock(at[index]!)}` : ", newest values"}`}>
          {lines.map((line, which) => {
            const value = line.values[index];
            return (
              <li key={line.label}>
                <span class="swatch" style={{ background: `var(${names[which]})` }} aria-hidden="true" />
                <span class="label">{line.label || "all"}</span> <span class="value">{value == null ? "–" : format(value)}</span>
              </li>
            );
          })}
        </ul>
      )}
      {children}
    </figure>
  );
}

function lastKnown(lines: readonly Line[]): number {
  let found = 0;
  for (const { values } of lines) {
    for (let at = values.length - 1; at > found; at -= 1) {
      if (values[at] !== null) {
        found = at;
        break;
      }
    }
  }
  return found;
}

/** The scheme, so that a canvas is drawn anew when it changes. */
export function useScheme(): string {
  const [scheme, setScheme] = useState(document.documentElement.dataset["theme"] ?? "light");
  useEffect(() => {
    const watcher = new MutationObserver(() => setScheme(document.documentElement.dataset["theme"] ?? "light"));
    watcher.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => watcher.disconnect();
  }, []);
  return scheme;
}
