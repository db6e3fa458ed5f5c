import assert from "node:assert/strict";
import test from "node:test";

import { comingAfter, placeOf } from "../src/chat/pages.ts";

const one = (thread_id: string, updated_at: number): { thread_id: string; updated_at: number } => ({ thread_id, updated_at });

test("a page begins after the moment and the id of the last thread", () => {
  assert.deepEqual(placeOf(one("b", 5)), { before: 5, before_id: "b" });
  assert.deepEqual(placeOf(undefined), {});
});

test("threads of older pages stay in the list, also those of the moment of the page's last thread", () => {
  const page = [one("z", 7), one("m", 5)];
  const shown = [one("gone", 6), one("m", 5), one("n", 5), one("a", 5), one("z", 4), one("b", 4)];
  assert.deepEqual(comingAfter(page, shown).map((thread) => thread.thread_id), ["n", "a", "b"]);
  assert.deepEqual(comingAfter([], shown), []);
});
