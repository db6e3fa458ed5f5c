/**
 * What a person wrote and the gateway does not have yet: the draft of each thread, and messages that were sent and not
 * confirmed. Kept in this browser, by user and thread, so that a reload, another thread or an ended session loses
 * nothing; removed by a sign-out.
 *
 * Rules: storage may be off, full or cleared at any time: then drafts last as long as the page. What is older than a
 * month is dropped.
 */

export interface Unsent {
  /** The client message id: sent again with it, a message that had arrived after all is not doubled. */
  id: string;
  text: string;
  /** Milliseconds since the epoch. */
  at: number;
}

interface Kept {
  at: number;
  draft: string;
  unsent: Unsent[];
}

const PREFIX = "narthex.draft.";
const MAX_AGE_MS = 30 * 24 * 3600 * 1000;

/** The part of `localStorage` that is used. */
export type Shelf = Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length">;

export class Drafts {
  readonly #shelf: Shelf | null;
  readonly #prefix: string;
  /** What could not be stored, and a copy of what was: storage may fail at any time. */
  readonly #memory = new Map<string, Kept>();

  /** @param user whose drafts; another user of this browser has others. */
  constructor(user: string, shelf: Shelf | null = storage(), now: number = Date.now()) {
    this.#shelf = shelf;
    this.#prefix = `${PREFIX}${encodeURIComponent(user)}.`;
    for (const key of this.#keys()) {
      const kept = this.#parse(key);
      if (!kept || now - kept.at > MAX_AGE_MS) this.#drop(key);
    }
  }

  draft(thread: string): string {
    return this.#read(thread).draft;
  }

  setDraft(thread: string, draft: string): void {
    const kept = this.#read(thread);
    if (kept.draft !== draft) this.#write(thread, { ...kept, draft });
  }

  /** Messages of a thread that were not confirmed, oldest first. */
  unsent(thread: string): readonly Unsent[] {
    return this.#read(thread).unsent;
  }

  sending(thread: string, message: Unsent): void {
    const kept = this.#read(thread);
    this.#write(thread, { ...kept, unsent: [...kept.unsent.filter((one) => one.id !== message.id), message] });
  }

  /** The gateway has it, or the person does not want to send it any more. */
  settled(thread: string, id: string): void {
    const kept = this.#read(thread);
    const unsent = kept.unsent.filter((one) => one.id !== id);
    if (unsent.length !== kept.unsent.length) this.#write(thread, { ...kept, unsent });
  }

  /** Forget all of this user's. */
  clear(): void {
    this.#memory.clear();
    for (const key of this.#keys()) this.#drop(key);
  }

  #read(thread: string): Kept {
    const key = this.#prefix + thread;
    return this.#parse(key) ?? this.#memory.get(key) ?? { at: 0, draft: "", unsent: [] };
  }

  #write(thread: string, kept: Kept): void {
    const key = this.#prefix + thread;
    if (kept.draft === "" && kept.unsent.length === 0) {
      this.#memory.delete(key);
      return this.#drop(key);
    }
    const dated = { ...kept, at: Date.now() };
    this.#memory.set(key, dated);
    try {
      this.#shelf?.setItem(key, JSON.stringify(dated));
    } catch {
      this.#drop(key); // full: an older state must not stand in for the newer one in memory
    }
  }

  #parse(key: string): Kept | null {
    try {
      const kept = JSON.parse(this.#shelf?.getItem(key) ?? "null") as Kept | null;
      return kept && typeof kept.draft === "string" && Array.isArray(kept.unsent) ? kept : null;
    } catch {
      return null;
    }
  }

  #drop(key: string): void {
    try {
      this.#shelf?.removeItem(key);
    } catch {
      // Storage is off: there is nothing to remove.
    }
  }

  #keys(): string[] {
    try {
      const { length = 0 } = this.#shelf ?? {};
      const keys = Array.from({ length }, (_, place) => this.#shelf?.key(place) ?? "");
      return keys.filter((key) => key.startsWith(this.#prefix));
    } catch {
      return [];
    }
  }
}

/** The browser's storage; null where it is off. */
export function storage(): Shelf | null {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

/** A person's message may have so many bytes of UTF-8 (`chat.TEXT_BYTES` of the gateway; 413 beyond it). */
export const TEXT_BYTES = 32 * 1024;

const encoder = new TextEncoder();

/** Bytes of a text in UTF-8. */
export function sizeOf(text: string): number {
  return encoder.encode(text).length;
}
