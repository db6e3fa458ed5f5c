/**
 * Parts of the page that are fetched when they are first needed: colours for code, formulas. Until one is there its
 * content is shown plainly; the signal changes when it is, so that what is on the screen is shown again.
 */

import { signal, type Signal } from "@preact/signals";

import type { highlight } from "./highlight.ts";
import type { setMath } from "./math.ts";

/** A module that is loaded on the first `get`; null until it is there, and for good where it cannot be fetched. */
class Extra<T> {
  readonly loaded: Signal<T | null> = signal(null);
  readonly #load: () => Promise<T>;
  #asked = false;

  constructor(load: () => Promise<T>) {
    this.#load = load;
  }

  get(): T | null {
    if (!this.#asked) {
      this.#asked = true;
      this.#load().then(
        (module) => (this.loaded.value = module),
        () => (this.#asked = false), // offline: asked for again with the next one
      );
    }
    return this.loaded.value;
  }
}

export const colours = new Extra<{ highlight: typeof highlight }>(() => import("./highlight.ts"));
export const formulas = new Extra<{ setMath: typeof setMath }>(() => import("./math.ts"));
