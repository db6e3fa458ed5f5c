/**
 * From the JSON Schema of an agent's question to form fields, and from what was typed to the payload.
 *
 * Rules: the gateway checks the payload; here only its form is made. What has no field of its own (arrays, anyOf) is
 * asked for as JSON, so that every schema that an agent may ask with can be answered. Member names are an agent's: any
 * text, `__proto__` and `a/b` included, so they are never a path's separator nor set by plain assignment.
 */

import type { Json } from "@narthex/client";

type JsonObject = { [member: string]: Json };
type Schema = JsonObject;

export interface Field {
  /** Member names from the root; empty for a schema that is no object. */
  path: readonly string[];
  /** The path as one text, different for different paths. */
  key: string;
  label: string;
  description: string;
  required: boolean;
  input: "text" | "number" | "boolean" | "choice" | "json";
  long: boolean;
  integer: boolean;
  choices: Json[];
  minimum?: number | undefined;
  maximum?: number | undefined;
  maxLength?: number | undefined;
  initial: string;
  /** The least value of its type: for a "no", which needs nothing filled in. */
  least: Json;
}

/** What was typed, by `Field.key`. Booleans are `true` or `false`, choices and JSON are JSON text. */
export type Values = Record<string, string>;

/** A question that is decided with yes or no, perhaps with something to add. */
export interface Decision {
  yes: string;
  no: string;
  /** What may, or for a yes must, be added beside the decision. */
  fields: Field[];
  payload: (yes: boolean, added: Json) => Json;
}

/** The schema as a decision: a boolean, or an object with exactly one boolean member. Null when it asks something else. */
export function decision(schema: Json | undefined): Decision | null {
  const root = asSchema(schema);
  if (root["type"] === "boolean") return { yes: "Yes", no: "No", fields: [], payload: (yes) => yes };
  const fields = fieldsOf(schema);
  const booleans = fields.filter((one) => one.input === "boolean");
  const only = booleans[0];
  if (!only || booleans.length !== 1 || only.path.length !== 1) return null;
  const name = only.path[0]!;
  const approval = /^(approve|confirm|allow|accept|proceed|ok)/i.test(name);
  return {
    yes: approval ? "Approve" : "Yes",
    no: approval ? "Decline" : "No",
    fields: fields.filter((one) => one !== only),
    payload: (yes, added) => {
      const payload = { ...(added as JsonObject) };
      define(payload, name, yes);
      return payload;
    },
  };
}

/** The fields of a form for the schema; nested objects become fields of their own. */
export function fieldsOf(schema: Json | undefined): Field[] {
  const root = asSchema(schema);
  if (root["type"] === "object" || root["properties"]) return members(root, [], true);
  return [field([], "Your answer", root, true)];
}

/** The values that the schema begins with. */
export function blank(fields: readonly Field[]): Values {
  return Object.fromEntries(fields.map(({ key, initial }) => [key, initial]));
}

/** The payload of a "no": what was typed where it makes sense, else the least that the schema takes. Never a problem. */
export function gatherForNo(fields: readonly Field[], values: Values): Json {
  const payload: JsonObject = {};
  for (const one of fields) {
    const typed = values[one.key] ?? "";
    const given = typed.trim() === "" ? undefined : read(one, typed);
    if (given !== undefined || one.required) put(payload, one.path, given ?? one.least);
  }
  return payload;
}

/** The payload, or what is not right yet. */
export function gather(schema: Json | undefined, fields: readonly Field[], values: Values): { payload: Json } | { problem: string } {
  const root = asSchema(schema);
  const isObject = root["type"] === "object" || root["properties"] !== undefined;
  const payload: JsonObject = {};
  for (const one of fields) {
    const typed = values[one.key] ?? "";
    if (typed.trim() === "" && !one.required && one.input !== "boolean") continue;
    const value = read(one, typed);
    if (value === undefined) return { problem: `${one.label}: ${one.input === "number" ? "this is not a number" : "this is not valid JSON"}.` };
    if (!isObject) return { payload: value };
    put(payload, one.path, value);
  }
  return { payload };
}

/** A member of an object that may be left out is never required as a whole, whatever it requires inside. */
function members(schema: Schema, prefix: readonly string[], needed: boolean): Field[] {
  const required = Array.isArray(schema["required"]) ? schema["required"] : [];
  return Object.entries(asSchema(schema["properties"])).flatMap(([name, value]) => {
    const inner = asSchema(value);
    const path = [...prefix, name];
    const must = needed && required.includes(name);
    if (inner["type"] === "object" && inner["properties"]) return members(inner, path, must);
    return [field(path, label(name, inner), inner, must)];
  });
}

function field(path: readonly string[], shown: string, schema: Schema, required: boolean): Field {
  const type = schema["type"];
  const choices = Array.isArray(schema["enum"]) ? schema["enum"] : "const" in schema ? [schema["const"]!] : [];
  const input = choices.length ? "choice" : type === "boolean" ? "boolean" : type === "number" || type === "integer" ? "number" : type === "string" ? "text" : "json";
  const number = (keyword: string): number | undefined => (typeof schema[keyword] === "number" ? schema[keyword] : undefined);
  const first = schema["default"] ?? (required && choices.length ? choices[0] : undefined);
  const asText = input === "choice" || input === "json" ? JSON.stringify(first) : String(first);
  return {
    path,
    key: JSON.stringify(path),
    label: shown,
    description: typeof schema["description"] === "string" ? schema["description"] : "",
    required,
    input,
    long: (number("maxLength") ?? 0) > 200 || (type === "string" && schema["format"] === "textarea"),
    integer: type === "integer",
    choices,
    minimum: number("minimum"),
    maximum: number("maximum"),
    maxLength: number("maxLength"),
    initial: first === undefined ? (input === "boolean" ? "false" : "") : asText,
    least: choices[0] ?? least(type, number("minimum")),
  };
}

function least(type: Json | undefined, minimum = 0): Json {
  switch (type) {
    case "string":
      return "";
    case "number":
    case "integer":
      return Math.max(0, Math.ceil(minimum));
    case "boolean":
      return false;
    case "array":
      return [];
    case "object":
      return {};
    default:
      return null;
  }
}

function read({ input }: Field, typed: string): Json | undefined {
  switch (input) {
    case "text":
      return typed;
    case "boolean":
      return typed === "true";
    case "number":
      return typed.trim() === "" || Number.isNaN(Number(typed)) ? undefined : Number(typed);
    default:
      try {
        return JSON.parse(typed) as Json;
      } catch {
        return undefined;
      }
  }
}

function put(into: JsonObject, path: readonly string[], value: Json): void {
  const name = path[0]!;
  if (path.length === 1) return define(into, name, value);
  if (!Object.hasOwn(into, name)) define(into, name, {});
  put(into[name] as JsonObject, path.slice(1), value);
}

/** Set a member of any name. Plain assignment to `__proto__` would change the prototype. */
function define(into: JsonObject, name: string, value: Json): void {
  Object.defineProperty(into, name, { value, enumerable: true, configurable: true, writable: true });
}

function asSchema(value: Json | undefined): Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value : {};
}

function label(name: string, schema: Schema): string {
  if (typeof schema["title"] === "string" && schema["title"].trim() !== "") return schema["title"];
  const words = name.replace(/([a-z])([A-Z])/g, "$1 $2").replace(/(?<=\w)_(?=\w)/g, " ").toLowerCase().trim();
  if (words === "" || words.startsWith("_")) return name || "(no name)";
  return words.charAt(0).toUpperCase() + words.slice(1);
}
