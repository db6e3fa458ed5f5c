import assert from "node:assert/strict";
import test from "node:test";

import { blank, decision, fieldsOf, gather, gatherForNo } from "../src/chat/schema.ts";

test("a yes or no is two buttons, named by what it is about", () => {
  const approval = decision({ type: "object", properties: { approved: { type: "boolean" } }, required: ["approved"] })!;
  assert.deepEqual([approval.yes, approval.no, approval.payload(false, {})], ["Approve", "Decline", { approved: false }]);
  const other = decision({ type: "object", properties: { urgent: { type: "boolean" } } })!;
  assert.deepEqual([other.yes, other.payload(true, {})], ["Yes", { urgent: true }]);
  assert.equal(decision({ type: "boolean" })!.payload(true, {}), true);
});

test("a decision may have a note; another boolean makes it a form", () => {
  const noted = { type: "object", required: ["approved"], properties: { approved: { type: "boolean" }, note: { type: "string" } } };
  const choice = decision(noted)!;
  assert.deepEqual(choice.fields.map((field) => field.path), [["note"]]);
  const added = gather(noted, choice.fields, { '["note"]': "later" });
  assert.deepEqual("payload" in added && choice.payload(false, added.payload), { approved: false, note: "later" });
  assert.equal(decision({ type: "object", properties: { a: { type: "boolean" }, b: { type: "boolean" } } }), null);
  assert.equal(decision({ type: "object", properties: { a: { type: "string" } } }), null);
});

test("each kind of member has its field, and nested objects are asked for one by one", () => {
  const schema = {
    type: "object",
    required: ["channel", "address"],
    properties: {
      channel: { enum: ["mail", "chat"] },
      address: { type: "object", required: ["street"], properties: { street: { type: "string" }, zip: { type: "integer" } } },
      copies: { type: "integer", minimum: 1, default: 2 },
      urgent: { type: "boolean" },
      tags: { type: "array", items: { type: "string" } },
    },
  };
  const fields = fieldsOf(schema);
  assert.deepEqual(fields.map(({ path, input, required }) => [path, input, required]), [
    [["channel"], "choice", true],
    [["address", "street"], "text", true],
    [["address", "zip"], "number", false],
    [["copies"], "number", false],
    [["urgent"], "boolean", false],
    [["tags"], "json", false],
  ]);
  const values = { ...blank(fields), '["address","street"]': "Main", '["tags"]': '["a"]' };
  assert.deepEqual(gather(schema, fields, values), {
    payload: { channel: "mail", address: { street: "Main" }, copies: 2, urgent: false, tags: ["a"] },
  });
});

test("what is no number or no JSON is said before it is sent", () => {
  const schema = { type: "object", required: ["n", "list"], properties: { n: { type: "number" }, list: { type: "array" } } };
  const fields = fieldsOf(schema);
  assert.deepEqual(gather(schema, fields, { '["n"]': "many", '["list"]': "[]" }), { problem: "N: this is not a number." });
  assert.deepEqual(gather(schema, fields, { '["n"]': "1", '["list"]': "[" }), { problem: "List: this is not valid JSON." });
});

test("a schema that is no object asks for one answer", () => {
  assert.deepEqual(gather({ type: "string" }, fieldsOf({ type: "string" }), { '[]': "Ada" }), { payload: "Ada" });
  assert.deepEqual(gather({ type: "integer" }, fieldsOf({ type: "integer" }), { '[]': "3" }), { payload: 3 });
  assert.deepEqual(gather(undefined, fieldsOf(undefined), { '[]': "{}" }), { payload: {} });
});

test("a no needs nothing filled in, and is still what the schema takes", () => {
  const schema = {
    type: "object",
    required: ["approved", "reason", "copies", "list", "kind"],
    properties: { approved: { type: "boolean" }, reason: { type: "string" }, copies: { type: "integer", minimum: 2 }, list: { type: "array" }, kind: { enum: ["a", "b"] }, note: { type: "string" } },
  };
  const choice = decision(schema)!;
  assert.deepEqual(choice.payload(false, gatherForNo(choice.fields, {})), { approved: false, reason: "", copies: 2, list: [], kind: "a" });
  const typed = { '["reason"]': "no time", '["copies"]': "many", '["note"]': "later" };
  assert.deepEqual(choice.payload(false, gatherForNo(choice.fields, typed)), { approved: false, reason: "no time", copies: 2, list: [], kind: "a", note: "later" });
  assert.ok("problem" in gather(schema, choice.fields, { '["list"]': "[" }));
});

test("what an object that may be left out requires inside is not required of the person", () => {
  const schema = { type: "object", properties: { address: { type: "object", required: ["street"], properties: { street: { type: "string" } } } } };
  assert.equal(fieldsOf(schema)[0]!.required, false);
  assert.deepEqual(gather(schema, fieldsOf(schema), {}), { payload: {} });
});

test("members of any name are asked for and answered, and no prototype is touched", () => {
  const names = ["__proto__", "constructor", "input/output", "a.b", "", "toString"];
  const properties = JSON.parse(`{${names.map((name) => `${JSON.stringify(name)}: {"type": "string"}`).join(",")}, "deep": {"type": "object", "properties": {"__proto__": {"type": "string"}, "constructor": {"type": "object", "properties": {"x": {"type": "string"}}}}}}`);
  const schema = { type: "object", properties };
  const fields = fieldsOf(schema);
  assert.equal(new Set(fields.map((field) => field.key)).size, names.length + 2);
  const values = Object.fromEntries(fields.map((field, place) => [field.key, `v${place}`]));
  const gathered = gather(schema, fields, values);
  assert.ok("payload" in gathered);
  const expected = JSON.parse(`{${names.map((name, place) => `${JSON.stringify(name)}: "v${place}"`).join(",")}, "deep": {"__proto__": "v6", "constructor": {"x": "v7"}}}`);
  assert.equal(JSON.stringify(gathered.payload), JSON.stringify(expected));
  assert.equal(({} as { x?: string }).x, undefined);
  assert.equal(Object.prototype.hasOwnProperty.call(Object, "x"), false);
});
