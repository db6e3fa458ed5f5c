import assert from "node:assert/strict";
import test from "node:test";

import { blank, decision, fieldsOf, gather } from "../src/chat/schema.ts";

test("a yes or no is two buttons, named by what it is about", () => {
  const approval = decision({ type: "object", properties: { approved: { type: "boolean" } }, required: ["approved"] })!;
  assert.deepEqual([approval.yes, approval.no, approval.payload(false, {})], ["Approve", "Decline", { approved: false }]);
  const other = decision({ type: "object", properties: { urgent: { type: "boolean" } } })!;
  assert.deepEqual([other.yes, other.payload(true, {})], ["Yes", { urgent: true }]);
  assert.equal(decision({ type: "boolean" })!.payload(true, {}), true);
});

test("a decision may have a note, but nothing else that must be filled in", () => {
  const noted = { type: "object", required: ["approved"], properties: { approved: { type: "boolean" }, note: { type: "string" } } };
  const choice = decision(noted)!;
  assert.deepEqual(choice.fields.map((field) => field.path), ["note"]);
  const added = gather(noted, choice.fields, { note: "later" });
  assert.deepEqual("payload" in added && choice.payload(false, added.payload), { approved: false, note: "later" });
  assert.equal(decision({ ...noted, required: ["approved", "note"] }), null);
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
    ["channel", "choice", true],
    ["address/street", "text", true],
    ["address/zip", "number", false],
    ["copies", "number", false],
    ["urgent", "boolean", false],
    ["tags", "json", false],
  ]);
  const values = { ...blank(fields), "address/street": "Main", tags: '["a"]' };
  assert.deepEqual(gather(schema, fields, values), {
    payload: { channel: "mail", address: { street: "Main" }, copies: 2, urgent: false, tags: ["a"] },
  });
});

test("what is no number or no JSON is said before it is sent", () => {
  const schema = { type: "object", required: ["n", "list"], properties: { n: { type: "number" }, list: { type: "array" } } };
  const fields = fieldsOf(schema);
  assert.deepEqual(gather(schema, fields, { n: "many", list: "[]" }), { problem: "N is no number." });
  assert.deepEqual(gather(schema, fields, { n: "1", list: "[" }), { problem: "List is no JSON." });
});

test("a schema that is no object asks for one answer", () => {
  assert.deepEqual(gather({ type: "string" }, fieldsOf({ type: "string" }), { "": "Ada" }), { payload: "Ada" });
  assert.deepEqual(gather({ type: "integer" }, fieldsOf({ type: "integer" }), { "": "3" }), { payload: 3 });
  assert.deepEqual(gather(undefined, fieldsOf(undefined), { "": "{}" }), { payload: {} });
});
