import assert from "node:assert/strict";
import test from "node:test";

import { keepAddress, takeAddress } from "../src/chat/address.ts";
import { Memory } from "./memory.ts";

const LINK = "#/join/abc_DEF-123";
const MINUTE = 60_000;

test("a fragment survives the way to the provider and back, once", () => {
  const shelf = new Memory();
  for (const hash of [LINK, "#/t/0a1b?m=2c", "#/invite/ada%40example.org?n=Ada%20L"]) {
    keepAddress(hash, shelf, 0);
    assert.equal(takeAddress(shelf, 9 * MINUTE), hash);
    assert.equal(takeAddress(shelf, 9 * MINUTE), "");
  }
});

test("an address of an earlier sign-in does not come back later", () => {
  const shelf = new Memory();
  keepAddress(LINK, shelf, 0);
  assert.equal(takeAddress(shelf, 11 * MINUTE), "");
  keepAddress(LINK, shelf, 0);
  keepAddress("", shelf, 1);
  assert.equal(takeAddress(shelf, 2), "");
});

test("only this page's places are kept, and only they are taken", () => {
  const shelf = new Memory();
  for (const hash of ["//evil.example", "https://evil.example/#/join/x", "#/", "#", "#/other/x", "#/join/a b", `#/t/${"x".repeat(501)}`]) {
    keepAddress(hash, shelf, 0);
    assert.equal(takeAddress(shelf, 1), "", hash);
    shelf.setItem("narthex.address", JSON.stringify({ hash, at: 0 }));
    assert.equal(takeAddress(shelf, 1), "", hash);
  }
  for (const junk of ["{", "null", "7", '{"hash":7,"at":0}', `{"hash":"${LINK}"}`, `{"hash":"${LINK}","at":99}`]) {
    shelf.setItem("narthex.address", junk);
    assert.equal(takeAddress(shelf, 1), "", junk);
  }
});

test("without storage nothing is kept and nothing fails", () => {
  const full = new Memory();
  full.full = true;
  keepAddress(LINK, full, 0);
  keepAddress(LINK, null, 0);
  assert.equal(takeAddress(full, 1), "");
  assert.equal(takeAddress(null, 1), "");
});
