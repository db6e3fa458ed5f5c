/**
 * People this person has met in threads, so that they can be found by name. Kept in this browser, by user; removed by a
 * sign-out. The gateway has no directory: who never wrote in a thread with somebody is not listed to them.
 */

import type { Shelf } from "./drafts.ts";

const PREFIX = "narthex.people.";
/** The most recently met ones. */
const MAX_PEOPLE = 500;

export class People {
  readonly #shelf: Shelf | null;
  readonly #key: string;
  #names: Map<string, string>;

  constructor(user: string, shelf: Shelf | null) {
    this.#shelf = shelf;
    this.#key = PREFIX + encodeURIComponent(user);
    this.#names = new Map(this.#read());
  }

  /** User ids and names, the most recently met first. */
  get known(): readonly { user: string; name: string }[] {
    return [...this.#names].map(([user, name]) => ({ user, name })).reverse();
  }

  /** Remember people by their ids and names. */
  met(names: Iterable<readonly [string, string]>): void {
    let changed = false;
    for (const [user, name] of names) {
      if (!user || !name || this.#names.get(user) === name) continue;
      this.#names.delete(user);
      this.#names.set(user, name);
      changed = true;
    }
    if (!changed) return;
    this.#names = new Map([...this.#names].slice(-MAX_PEOPLE));
    try {
      this.#shelf?.setItem(this.#key, JSON.stringify([...this.#names]));
    } catch {
      // Storage is full or off: they are known as long as the page lasts.
    }
  }

  clear(): void {
    this.#names.clear();
    try {
      this.#shelf?.removeItem(this.#key);
    } catch {
      // Storage is off: there is nothing to remove.
    }
  }

  #read(): [string, string][] {
    try {
      const kept: unknown = JSON.parse(this.#shelf?.getItem(this.#key) ?? "[]");
      if (!Array.isArray(kept)) return [];
      return kept.filter((one): one is [string, string] => Array.isArray(one) && typeof one[0] === "string" && typeof one[1] === "string");
    } catch {
      return [];
    }
  }
}
