/** One number that counts, with its last two minutes as a line. */

import type { JSX } from "preact";

interface TileProps {
  name: string;
  value: string;
  note?: string;
  level?: "" | "warn" | "bad";
  line?: readonly number[];
  section?: string;
}

export function Tile({ name, value, note, level = "", line, section }: TileProps): JSX.Element {
  const inside = (
    <>
      <dt>{name}</dt>
      <dd><strong>{value}</strong>{note && <span class="note">{note}</span>}</dd>
    </>
  );
  return (
    <div class="tile" data-level={level}>
      <dl>{inside}</dl>
      {line && line.length > 1 && <Sparkline values={line} />}
      {section && <a class="cover" href={`#/${section}`}><span class="sr">{name}: show {section}</span></a>}
    </div>
  );
}

function Sparkline({ values }: { values: readonly number[] }): JSX.Element {
  const most = Math.max(...values, 1e-9);
  const points = values.map((value, at) => `${((at / (values.length - 1)) * 100).toFixed(1)},${(27 - (value / most) * 25).toFixed(1)}`).join(" ");
  return (
    <svg class="spark" viewBox="0 0 100 28" preserveAspectRatio="none" aria-hidden="true" focusable="false">
      <polyline points={points} fill="none" stroke="currentColor" stroke-width="1.5" vector-effect="non-scaling-stroke" />
    </svg>
  );
}
