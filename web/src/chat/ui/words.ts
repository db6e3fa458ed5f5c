/** Times and sizes as people read them. */

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/** `14:02` today, `3 Nov` otherwise; empty for no time. */
export function shortTime(ms: number, now: number = Date.now()): string {
  if (!ms) return "";
  const date = new Date(ms);
  return date.toDateString() === new Date(now).toDateString() ? time.format(date) : day.format(date);
}

const month = new Intl.DateTimeFormat(undefined, { month: "long", year: "numeric" });

/** The heading that a thread of that moment is listed under: days, then weeks, then months. */
export function dateGroup(ms: number, now: number = Date.now()): string {
  const midnight = new Date(now);
  midnight.setHours(0, 0, 0, 0);
  const since = (days: number): number => new Date(midnight).setDate(midnight.getDate() - days);
  if (ms >= midnight.getTime()) return "Today";
  if (ms >= since(1)) return "Yesterday";
  if (ms >= since(7)) return "Previous 7 days";
  if (ms >= since(30)) return "Previous 30 days";
  return month.format(new Date(ms));
}

export function fullTime(ms: number): string {
  return ms ? full.format(new Date(ms)) : "";
}

/** `6 Dec 2026, 21:43`: until when something holds. */
export function until(ms: number): string {
  return moment.format(new Date(ms));
}

/** `0.4 s`, `12 s`, `3 min`. */
export function duration(ms: number): string {
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 120_000) return `${Math.round(ms / 1000)} s`;
  return `${Math.round(ms / 60_000)} min`;
}

export function count(n: number, one: string, many = `${one}s`): string {
  return `${n.toLocaleString()} ${n === 1 ? one : many}`;
}

/** Up to two letters for a person without a picture. */
export function initials(name: string): string {
  const words = name.split(/[\s._@-]+/).filter(Boolean);
  return ((words[0]?.[0] ?? "?") + (words.length > 1 ? words[1]![0]! : "")).toUpperCase();
}

/** JSON text indented, or as it is while it streams. */
export function pretty(text: string): string {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "string" ? value : JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
}
