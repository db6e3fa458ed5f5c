import assert from "node:assert/strict";
import test from "node:test";

import type { Shelf } from "../src/chat/drafts.ts";
import { People } from "../src/chat/people.ts";

function shelf(): Shelf & { items: Map<string, string> } {
  const items = new Map<string, string>();
  return {
    items,
    get length() {
      return items.size;
    },
    key: (place) => [...items.keys()][place] ?? null,
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => void items.set(key, value),
    removeItem: (key) => void items.delete(key),
  };
}

test("people met in threads are known by name after a reload, the latest first, and each user's are their own", () => {
  const kept = shelf();
  const people = new People("ada", kept);
  people.met([["u1", "Bob"], ["u2", "Cid"], ["u3", ""]]);
  people.met([["u1", "Bobby"]]);
  assert.deepEqual(new People("ada", kept).known, [{ user: "u1", name: "Bobby" }, { user: "u2", name: "Cid" }]);
  assert.deepEqual(new People("bob", kept).known, []);
  people.clear();
  assert.equal(kept.items.size, 0);
});

test("their number is bounded, and what is broken counts as nothing", () => {
  const kept = shelf();
  const people = new People("ada", kept);
  people.met(Array.from({ length: 700 }, (_, n) => [`u${n}`, `Name ${n}`] as const));
  assert.equal(people.known.length, 500);
  assert.equal(people.known[0]!.user, "u699");
  kept.items.set("narthex.people.ada", '{"no": "list"}');
  assert.deepEqual(new People("ada", kept).known, []);
});
