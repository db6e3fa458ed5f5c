/**
 * Figures of processes, as the gateway sends them: sums by label, growth between two readings, quantiles.
 *
 * A key is the metric's name and its labels' values, joined by `|`, such as `handshakes|refused|token_expired|user`.
 */

export type Histogram = readonly [counts: readonly number[], total?: number];

export interface Figures {
  counters?: Record<string, number>;
  gauges?: Record<string, number>;
  peaks?: Record<string, number>;
  histograms?: Record<string, Histogram>;
}

/** Label values of a key, without the metric's name. */
export function labels(key: string): string[] {
  return key.split("|").slice(1);
}

export function isOf(key: string, metric: string): boolean {
  return key === metric || key.startsWith(`${metric}|`);
}

/** The sum of a metric's values, of those whose labels fit. */
export function sumOf(values: Record<string, number> | undefined, metric: string, fits: (labels: string[]) => boolean = () => true): number {
  let sum = 0;
  for (const key in values) if (isOf(key, metric) && fits(labels(key))) sum += values[key]!;
  return sum;
}

/** Sums of a metric's values by one label. */
export function byLabel(values: Record<string, number> | undefined, metric: string, at: number): Map<string, number> {
  const found = new Map<string, number>();
  for (const key in values) {
    if (!isOf(key, metric)) continue;
    const label = labels(key)[at] ?? "";
    found.set(label, (found.get(label) ?? 0) + values[key]!);
  }
  return found;
}

/** The growth of counters and histograms between two readings of one process. A value that fell is all new. */
export function increase(before: Figures, after: Figures): Figures {
  const counters: Record<string, number> = {};
  for (const key in after.counters) {
    const now = after.counters[key]!;
    const then = before.counters?.[key] ?? 0;
    counters[key] = now >= then ? now - then : now;
  }
  const histograms: Record<string, Histogram> = {};
  for (const key in after.histograms) {
    const now = after.histograms[key]![0];
    const then = before.histograms?.[key]?.[0] ?? [];
    histograms[key] = [now.map((count, at) => Math.max(0, count - (then[at] ?? 0)))];
  }
  return { counters, histograms, gauges: after.gauges ?? {}, peaks: after.peaks ?? {} };
}

/** Counts by bucket of all series of a metric, added up. */
export function countsOf(histograms: Record<string, Histogram> | undefined, metric: string): number[] {
  const sum: number[] = [];
  for (const key in histograms) {
    if (!isOf(key, metric)) continue;
    histograms[key]![0].forEach((count, at) => (sum[at] = (sum[at] ?? 0) + count));
  }
  return sum;
}

/** A quantile by interpolation within its bucket, as Prometheus computes it; null without values. */
export function quantile(bounds: readonly number[], counts: readonly number[], share: number): number | null {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (all === 0 || bounds.length === 0) return null;
  const rank = share * all;
  let seen = 0;
  for (let at = 0; at < bounds.length; at += 1) {
    const count = counts[at] ?? 0;
    if (count > 0 && seen + count >= rank) {
      const low = at > 0 ? bounds[at - 1]! : 0;
      return low + ((bounds[at]! - low) * (rank - seen)) / count;
    }
    seen += count;
  }
  return bounds.at(-1)!;
}
