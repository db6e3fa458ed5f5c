// The path below which the pages find the gateway.

import assert from "node:assert/strict";
import { test } from "node:test";

import { root, rootOf } from "../src/chat/root.ts";

test("a script's address shows what a proxy removes", () => {
  assert.equal(rootOf("https://x.example/static/chat-A.js"), "");
  assert.equal(rootOf("https://x.example/chat/static/chat-A.js"), "/chat");
  assert.equal(rootOf("http://x.example/a/static/b/static/chat-A.js?v=1"), "/a/static/b");
});

test("outside of a page there is none", () => {
  assert.equal(root, "");
  assert.equal(rootOf("https://x.example/elsewhere/chat.js"), "");
});
