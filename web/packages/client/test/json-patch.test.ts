import assert from "node:assert/strict";
import { test } from "node:test";

import { patched } from "../src/json-patch.ts";

test("the copies of one patch have a largest size", () => {
  const twice = Array.from({ length: 30 }, (_, n) => ({ op: "copy", from: "", path: `/${n}` }));
  assert.throws(() => patched({ text: "x".repeat(1_000) }, twice), RangeError);
  assert.deepEqual(patched({ a: [1] }, [{ op: "copy", from: "/a", path: "/b" }]), { a: [1], b: [1] });
});
