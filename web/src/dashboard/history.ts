/** Figures over time, as the gateway sends them, and the columns that plots are made of. */

import { isOf, labels, quantile } from "./figures.ts";

export const RANGES = ["15m", "1h", "6h", "24h", "7d", "30d", "90d"] as const;
export type RangeName = (typeof RANGES)[number];

/** A value for each moment; null where there is no data. */
export type Column = readonly (number | null)[];

export interface History {
  range: RangeName;
  step_s: number;
  at: number[];
  counters: Record<string, Column>;
  gauges: Record<string, Column>;
  peaks: Record<string, Column>;
  histograms: Record<string, readonly (readonly number[] | null)[]>;
}

export const EMPTY: History = { range: "15m", step_s: 10, at: [], counters: {}, gauges: {}, peaks: {}, histograms: {} };

/** A line of a plot. */
export interface Line {
  label: string;
  values: Column;
}

/** How often a range is read again: there is nothing new before its next point. */
export function refreshMs(range: RangeName): number {
  return range === "15m" || range === "1h" ? 10_000 : 60_000;
}

type Kind = "counters" | "gauges" | "peaks";

/** Lines by one label of a metric, the largest first; those beyond `most` are one line. Counters are rates. */
export function linesBy(
  history: History, kind: Kind, metric: string, at: number,
  { fits = () => true, most = 8, order = [] }: { fits?: (labels: string[]) => boolean; most?: number; order?: readonly string[] } = {},
): Line[] {
  const sums = new Map<string, (number | null)[]>();
  const columns = history[kind];
  for (const key in columns) {
    if (!isOf(key, metric)) continue;
    const found = labels(key);
    if (!fits(found)) continue;
    add(sums, found[at] ?? "", columns[key]!);
  }
  const weight = ([, values]: [string, (number | null)[]]): number => values.reduce<number>((sum, value) => sum + (value ?? 0), 0);
  const sorted = [...sums].sort((a, b) => weight(b) - weight(a));
  const shown = sorted.length > most ? sorted.slice(0, most - 1) : sorted;
  if (sorted.length > most) {
    const others = new Map<string, (number | null)[]>();
    for (const [, values] of sorted.slice(most - 1)) add(others, "others", values);
    shown.push(...others);
  }
  const place = (label: string): number => (order.includes(label) ? order.indexOf(label) : order.length);
  if (order.length) shown.sort((a, b) => place(a[0]) - place(b[0]));
  return shown.map(([label, values]) => ({ label, values: kind === "counters" ? perSecond(values, history.step_s) : values }));
}

/** The sum of a metric's series; counters as rates. */
export function lineOf(history: History, kind: Kind, metric: string, label: string, fits: (labels: string[]) => boolean = () => true): Line {
  const sums = new Map<string, (number | null)[]>();
  for (const key in history[kind]) if (isOf(key, metric) && fits(labels(key))) add(sums, "", history[kind][key]!);
  const values = sums.get("") ?? history.at.map(() => null);
  return { label, values: kind === "counters" ? perSecond(values, history.step_s) : values };
}

/** The share of one line in another, in percent; null where the whole is nothing. */
export function shareOf(part: Line, whole: Line, label: string): Line {
  return { label, values: whole.values.map((all, at) => (all === null ? null : all > 0 ? (100 * (part.values[at] ?? 0)) / all : null)) };
}

/** Counts by bucket of all series of a histogram, for each moment. */
export function countsOver(history: History, metric: string): (readonly number[] | null)[] {
  const found: (number[] | null)[] = history.at.map(() => null);
  for (const key in history.histograms) {
    if (!isOf(key, metric)) continue;
    history.histograms[key]!.forEach((counts, at) => {
      if (!counts) return;
      const sum = (found[at] ??= counts.map(() => 0));
      counts.forEach((value, bucket) => (sum[bucket] = (sum[bucket] ?? 0) + value));
    });
  }
  return found;
}

/** Quantiles of a histogram over time, in seconds. */
export function quantilesOf(history: History, metric: string, bounds: readonly number[], shares: readonly number[] = [0.5, 0.95, 0.99]): Line[] {
  const counts = countsOver(history, metric);
  return shares.map((share) => ({
    label: `p${Math.round(share * 100)}`,
    values: counts.map((one) => (one ? quantile(bounds, one, share) : null)),
  }));
}

function perSecond(values: readonly (number | null)[], step: number): (number | null)[] {
  return values.map((value) => (value === null ? null : value / step));
}

function add(sums: Map<string, (number | null)[]>, label: string, values: Column): void {
  const known = sums.get(label);
  if (!known) sums.set(label, [...values]);
  else values.forEach((value, at) => (known[at] = value === null ? known[at]! : (known[at] ?? 0) + value));
}
