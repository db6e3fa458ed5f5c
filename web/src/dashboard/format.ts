/** Numbers, moments and durations as people read them. */

export function count(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) < 10 && !Number.isInteger(value)) return value.toFixed(1);
  return Math.abs(value) >= 100_000 ? compact.format(value) : whole.format(value);
}

export function rate(value: number): string {
  if (value === 0) return "0/s";
  return `${value >= 100 ? whole.format(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2)}/s`;
}

export function percent(share: number | null): string {
  if (share === null) return "–";
  const value = share * 100;
  const whole = value === 0 || value === 100 || (value >= 10 && value < 99);
  return `${whole ? value.toFixed(0) : value.toFixed(1)} %`;
}

/** A duration in seconds. */
export function seconds(value: number | null): string {
  if (value === null) return "–";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 1 : 0)} ms`;
  return `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

/** A long time in seconds: how long something has been up. */
export function age(value: number): string {
  if (value < 60) return `${Math.max(0, Math.floor(value))} s`;
  if (value < 3_600) return `${Math.floor(value / 60)} min`;
  if (value < 86_400) return `${Math.floor(value / 3_600)} h ${Math.floor((value % 3_600) / 60)} min`;
  return `${Math.floor(value / 86_400)} d ${Math.floor((value % 86_400) / 3_600)} h`;
}

/** A moment in seconds since the epoch. */
export function clock(at: number): string {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

export function moment(at: number): string {
  return new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en-GB", { notation: "compact", maximumFractionDigits: 1 });
