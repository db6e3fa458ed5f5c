import assert from "node:assert/strict";
import test from "node:test";

import { Drafts, sizeOf } from "../src/chat/drafts.ts";
import { Memory } from "./memory.ts";

const message = (id: string) => ({ id, text: `text of ${id}`, at: 1 });

test("drafts and unsent messages survive a reload, by user and thread", () => {
  const shelf = new Memory();
  const drafts = new Drafts("ada", shelf);
  drafts.setDraft("t1", "half a thought");
  drafts.setDraft("", "of a new thread");
  drafts.sending("t1", message("c1"));
  drafts.sending("t1", message("c2"));
  drafts.sending("t1", message("c1"));
  const again = new Drafts("ada", shelf);
  assert.equal(again.draft("t1"), "half a thought");
  assert.equal(again.draft(""), "of a new thread");
  assert.equal(again.draft("t2"), "");
  assert.deepEqual(again.unsent("t1").map((one) => one.id), ["c2", "c1"]);
  assert.equal(new Drafts("ad", shelf).draft("a.t1"), "");
  assert.equal(new Drafts("bob", shelf).draft("t1"), "");
  again.settled("t1", "c1");
  again.settled("t1", "c2");
  again.setDraft("t1", "");
  again.setDraft("", "");
  assert.equal(shelf.length, 0);
});

test("a sign-out takes one's own away and nobody else's", () => {
  const shelf = new Memory();
  shelf.setItem("narthex.theme", "dark");
  new Drafts("bob", shelf).setDraft("t1", "bob's");
  const ada = new Drafts("ada", shelf);
  ada.setDraft("t1", "ada's");
  ada.clear();
  assert.equal(ada.draft("t1"), "");
  assert.equal(new Drafts("bob", shelf).draft("t1"), "bob's");
  assert.equal(shelf.getItem("narthex.theme"), "dark");
});

test("where storage is full, off or broken, drafts last as long as the page", () => {
  const shelf = new Memory();
  const drafts = new Drafts("ada", shelf);
  drafts.setDraft("t1", "first");
  shelf.full = true;
  drafts.setDraft("t1", "second");
  assert.equal(drafts.draft("t1"), "second");
  const none = new Drafts("ada", null);
  none.setDraft("t1", "kept");
  assert.equal(none.draft("t1"), "kept");
  shelf.full = false;
  shelf.setItem("narthex.draft.ada.t1", "{no json");
  assert.equal(new Drafts("ada", shelf).draft("t1"), "");
});

test("what is older than a month is dropped", () => {
  const shelf = new Memory();
  new Drafts("ada", shelf).setDraft("t1", "old");
  assert.equal(new Drafts("ada", shelf, Date.now() + 31 * 24 * 3600 * 1000).draft("t1"), "");
});

test("a text's size is counted in bytes, not in characters", () => {
  assert.equal(sizeOf("aé漢😀"), 1 + 2 + 3 + 4);
});
