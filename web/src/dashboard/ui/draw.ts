/** Draws a plot with uPlot. In a file of its own, which is loaded when the first plot is on the screen. */

import uPlot from "uplot";

import type { Line } from "../history.ts";
import { css } from "./colours.ts";

export interface Drawing {
  at: readonly number[];
  lines: readonly Line[];
  stacked: boolean;
  format: (value: number) => string;
  colours: readonly string[];
  /** The point under the pointer, null when it left. */
  onPoint: (index: number | null) => void;
}

const HEIGHT = 170;
const sync = uPlot.sync("narthex");

/** Draw into `host`; returns how to remove the drawing. */
export function draw(host: HTMLElement, drawing: Drawing): () => void {
  const ink = css("--ink-2");
  const grid = { stroke: css("--line"), width: 1 };
  const { lines, stacked } = drawing;
  const data: uPlot.AlignedData = [drawing.at as number[], ...columns(lines, stacked)];
  // The topmost sum is drawn first, so that the ones below cover it.
  const order = lines.map((_, index) => index);
  if (stacked) order.reverse();
  const plot = new uPlot(
    {
      width: Math.max(120, host.clientWidth),
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: sync.key }, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.08 : 1] } },
      axes: [
        { stroke: ink, grid: { show: false }, ticks: { ...grid, size: 4 }, font: "11px system-ui", space: 70, size: 30, values: times },
        { stroke: ink, grid, ticks: { show: false }, font: "11px system-ui", size: 56, space: 34, values: (_, ticks) => ticks.map((tick) => drawing.format(tick)) },
      ],
      series: [
        {},
        ...order.map((index) => ({
          label: lines[index]!.label,
          stroke: drawing.colours[index % drawing.colours.length]!,
          width: 1.5,
          points: { show: false },
          spanGaps: false,
          ...(stacked ? { fill: mixed(drawing.colours[index % drawing.colours.length]!) } : {}),
        })),
      ],
      hooks: { setCursor: [(self) => drawing.onPoint(self.cursor.idx ?? null)] },
    },
    stacked ? [data[0], ...(data.slice(1).reverse() as uPlot.AlignedData)] as uPlot.AlignedData : data,
    host,
  );
  const resized = new ResizeObserver(() => plot.setSize({ width: Math.max(120, host.clientWidth), height: HEIGHT }));
  resized.observe(host);
  return () => {
    resized.disconnect();
    plot.destroy();
  };
}

function columns(lines: readonly Line[], stacked: boolean): (number | null)[][] {
  if (!stacked) return lines.map((line) => [...line.values]);
  const sums: (number | null)[][] = [];
  lines.forEach((line, index) => {
    const below = sums[index - 1];
    sums.push(line.values.map((value, at) => (value === null && below?.[at] == null ? null : (value ?? 0) + (below?.[at] ?? 0))));
  });
  return sums;
}

/** A colour on the card's ground, opaque so that it covers what is behind it. Both are `#rrggbb`. */
function mixed(colour: string): string {
  const ground = css("--card");
  const parts = [1, 3, 5].map((at) => {
    const [over, under] = [colour, ground].map((one) => parseInt(one.slice(at, at + 2), 16)) as [number, number];
    return Math.round(0.32 * over + 0.68 * under).toString(16).padStart(2, "0");
  });
  return `#${parts.join("")}`;
}

/** Hours of a day, or days where the range is long. Two lines would not fit into small plots. */
function times(_: uPlot, ticks: number[]): string[] {
  const long = (ticks.at(-1) ?? 0) - (ticks[0] ?? 0) > 2 * 86_400;
  return ticks.map((tick) => {
    const date = new Date(tick * 1000);
    return long ? date.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  });
}
