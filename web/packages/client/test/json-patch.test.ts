import assert from "node:assert/strict";
import { test } from "node:test";

import { PatchedDocument, patched, type Operation } from "../src/json-patch.ts";

test("the copies of one patch have a largest size", () => {
  const twice = Array.from({ length: 30 }, (_, n) => ({ op: "copy", from: "", path: `/${n}` }));
  assert.throws(() => patched({ text: "x".repeat(1_000) }, twice), RangeError);
  assert.deepEqual(patched({ a: [1] }, [{ op: "copy", from: "/a", path: "/b" }]), { a: [1], b: [1] });
});

test("a document that patches double again and again is given up, and a patch that does not fit changes nothing", () => {
  const doubled: Operation[] = [
    { op: "copy", from: "/text", path: "/more" },
    { op: "add", path: "/text", value: [] },
    { op: "move", from: "/more", path: "/text/-" },
  ];
  const document = new PatchedDocument({ text: "x".repeat(1_000) });
  assert.throws(() => document.apply([{ op: "add", path: "/a", value: 1 }, { op: "remove", path: "/nothing" }]), RangeError);
  assert.deepEqual(document.value, { text: "x".repeat(1_000) });
  for (let turn = 0; turn < 5; turn += 1) document.apply([{ op: "copy", from: "/text", path: `/copy-${turn}` }]);
  assert.equal(Object.keys(document.value as object).length, 6);
  for (let turn = 0; turn < 9; turn += 1) document.apply([{ op: "copy", from: "", path: `/all-${turn}` }]);
  assert.equal(document.value, null);
  document.apply([{ op: "add", path: "", value: 1 }]);
  assert.equal(document.value, null);
  const deep = new PatchedDocument({ text: 0 });
  for (let turn = 0; turn < 124; turn += 1) deep.apply(doubled.slice(0, 3));
  assert.notEqual(deep.value, null);
  deep.apply(doubled);
  deep.apply(doubled);
  assert.equal(deep.value, null);
});

test("a document of three-byte characters has the gateway's size in bytes", () => {
  const document = new PatchedDocument({ text: "" });
  document.apply([{ op: "replace", path: "/text", value: "\u20ac".repeat(80_000) }]);
  assert.equal((document.value as { text: string }).text.length, 80_000);
  document.apply([{ op: "replace", path: "/text", value: "\u20ac".repeat(90_000) }]);
  assert.equal(document.value, null);
});
