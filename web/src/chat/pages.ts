/**
 * Pages of `thread.list`, which lists the most recently updated first. The next page begins at the moment and id of the
 * last thread: the moment alone would leave out others of the same one.
 */

import type { Thread } from "./wire.ts";

/** The params of `thread.list` that ask for what comes after `last`. */
export function placeOf(last: Pick<Thread, "thread_id" | "updated_at"> | undefined): { before?: number; before_id?: string } {
  return last ? { before: last.updated_at, before_id: last.thread_id } : {};
}

/** The threads of `shown` that come after a full page. Those of the moment of its last one that are not on it do. */
export function comingAfter<T extends Pick<Thread, "thread_id" | "updated_at">>(page: readonly T[], shown: readonly T[]): T[] {
  const last = page.at(-1);
  if (last === undefined) return [];
  const onPage = new Set(page.map((thread) => thread.thread_id));
  return shown.filter((thread) => thread.updated_at <= last.updated_at && !onPage.has(thread.thread_id));
}
