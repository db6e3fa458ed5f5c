/**
 * The part of the address after `#` while a person signs in at another provider: the way back has none, because a
 * fragment is sent to no server, and a link to a thread must stand in no log.
 *
 * Rules: it is kept in this tab's storage, as long as the gateway keeps the sign-in (`STATE_TTL_S`); it is only ever set
 * as this page's own fragment, so that it leads nowhere else; without storage the page opens at its beginning.
 */

import type { Shelf } from "./drafts.ts";

const KEY = "narthex.address";
const MAX_AGE_MS = 10 * 60 * 1000;
const PLACES = /^#\/(?:join|invite|t)\/[^\s]{1,500}$/;

/** Before the page is left for the provider's. */
export function keepAddress(hash: string, shelf: Shelf | null = tabStorage(), now: number = Date.now()): void {
  try {
    if (PLACES.test(hash)) shelf?.setItem(KEY, JSON.stringify({ hash, at: now }));
    else shelf?.removeItem(KEY);
  } catch {
    // Full or off: the page opens at its beginning.
  }
}

/** What was kept, once; empty when there is nothing, or it is too old. */
export function takeAddress(shelf: Shelf | null = tabStorage(), now: number = Date.now()): string {
  try {
    const text = shelf?.getItem(KEY) ?? "";
    shelf?.removeItem(KEY);
    const { hash, at } = JSON.parse(text || "{}") as { hash?: unknown; at?: unknown };
    const fresh = typeof at === "number" && at <= now && now - at <= MAX_AGE_MS;
    return fresh && typeof hash === "string" && PLACES.test(hash) ? hash : "";
  } catch {
    return "";
  }
}

function tabStorage(): Shelf | null {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}
