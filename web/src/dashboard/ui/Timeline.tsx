/** States over time as bars: the breakers' timeline. */

import type { JSX } from "preact";

import type { Line } from "../history.ts";
import { clock, moment } from "../format.ts";

interface TimelineProps {
  title: string;
  hint?: string;
  at: readonly number[];
  lines: readonly Line[];
  /** Names of the states, by value. */
  states: readonly string[];
}

interface Span {
  from: number;
  length: number;
  state: number | null;
}

export function Timeline({ title, hint, at, lines, states }: TimelineProps): JSX.Element {
  const long = at.length > 1 && at.at(-1)! - at[0]! > 86_400;
  const when = (index: number): string => (at[index] === undefined ? "now" : long ? moment(at[index]) : clock(at[index]));
  return (
    <figure class="panel timeline">
      <figcaption>
        <h3>{title}</h3>
        {hint && <p class="hint">{hint}</p>}
      </figcaption>
      {lines.length === 0 ? <p class="no-data">No data in this range.</p> : (
        <table>
          <thead class="sr"><tr><th scope="col">Breaker</th><th scope="col">States</th></tr></thead>
          <tbody>
            {lines.map((line) => {
              const found = spans(line);
              const troubled = found.filter((span) => span.state);
              return (
                <tr key={line.label}>
                  <th scope="row">{line.label}</th>
                  <td>
                    <div class="bar" role="img" aria-label={troubled.length ? troubled.map((span) => `${states[span.state!]} from ${when(span.from)} to ${when(span.from + span.length)}`).join("; ") : `${states[0]} all the time`}>
                      {found.map((span) => (
                        <span key={span.from} data-state={span.state === null ? "unknown" : states[span.state]} style={{ flexGrow: String(span.length) }}
                          title={span.state === null ? "no data" : `${states[span.state]} from ${when(span.from)}`} />
                      ))}
                    </div>
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
    </figure>
  );
}

function spans({ values }: Line): Span[] {
  const found: Span[] = [];
  values.forEach((state, index) => {
    const last = found.at(-1);
    if (last && last.state === state) last.length += 1;
    else found.push({ from: index, length: 1, state });
  });
  return found;
}
