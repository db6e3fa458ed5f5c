import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import test from "node:test";

import { canonicalJson, sha256, sha256Hex } from "@narthex/client";

test("the example of RFC 8785 section 3.2.3 comes out in its order", () => {
  const value = { "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew", "1": "One", "\ud83d\ude00": "Smiley" };
  const names = [...canonicalJson(value).matchAll(/"([^"]+)":/g)].map((match) => JSON.parse(`"${match[1]}"`) as string);
  assert.deepEqual(names, ["\r", "1", "\u20ac", "\ud83d\ude00", "\ufb33"]);
});

test("what JSON cannot hold is refused", () => {
  assert.throws(() => canonicalJson({ a: Number.NaN }), RangeError);
  assert.throws(() => canonicalJson("\ud800"), RangeError);
  assert.throws(() => canonicalJson("x\udc00"), RangeError);
});

test("the SHA-256 of our own equals the platform's at every padding boundary", () => {
  for (const length of [0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000, 100_003]) {
    const bytes = Uint8Array.from({ length }, (_, i) => (i * 31 + length) & 255);
    assert.equal(Buffer.from(sha256(bytes)).toString("hex"), createHash("sha256").update(bytes).digest("hex"));
  }
});

test("pages without WebCrypto (plain http on a LAN) get the same digest", async () => {
  const there = Object.getOwnPropertyDescriptor(globalThis, "crypto");
  const expected = await sha256Hex("naïve 😀");
  Object.defineProperty(globalThis, "crypto", { value: undefined, configurable: true });
  try {
    assert.equal(await sha256Hex("naïve 😀"), expected);
  } finally {
    if (there) Object.defineProperty(globalThis, "crypto", there);
  }
});
