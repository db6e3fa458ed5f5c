/**
 * From the JSON Schema of an agent's question to form fields, and from what was typed to the payload.
 *
 * Rules: the gateway checks the payload; here only its form is made. What has no field of its own (arrays, anyOf) is
 * asked for as JSON, so that every schema that an agent may ask with can be answered.
 */

import type { Json } from "@narthex/client";

type Schema = { [keyword: string]: Json };

export interface Field {
  /** Member names from the root, joined by `/`; empty for a schema that is no object. */
  path: string;
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
}

/** What was typed, by path. Booleans are `true` or `false`, choices and JSON are JSON text. */
export type Values = Record<string, string>;

/** A question that is decided with yes or no, perhaps with something to add. */
export interface Decision {
  yes: string;
  no: string;
  /** What may be added beside the decision; all of it optional. */
  fields: Field[];
  payload: (yes: boolean, added: Json) => Json;
}

/** The schema as a decision: a boolean, or an object whose only required member is one. Null when it asks for more. */
export function decision(schema: Json | undefined): Decision | null {
  const root = asSchema(schema);
  if (root["type"] === "boolean") return { yes: "Yes", no: "No", fields: [], payload: (yes) => yes };
  const fields = fieldsOf(schema);
  const booleans = fields.filter((one) => one.input === "boolean" && one.path !== "" && !one.path.includes("/"));
  const rest = fields.filter((one) => one.input !== "boolean");
  const only = booleans[0];
  if (!only || booleans.length + rest.length !== fields.length || booleans.length !== 1 || rest.some((one) => one.required)) return null;
  const approval = /^(approve|confirm|allow|accept|proceed|ok)/i.test(only.path);
  return {
    yes: approval ? "Approve" : "Yes",
    no: approval ? "Decline" : "No",
    fields: rest,
    payload: (yes, added) => ({ ...(added as { [member: string]: Json }), [only.path]: yes }),
  };
}

/** The fields of a form for the schema; nested objects become fields of their own. */
export function fieldsOf(schema: Json | undefined): Field[] {
  const root = asSchema(schema);
  if (root["type"] === "object" || root["properties"]) return members(root, "");
  return [field("", "Your answer", root, true)];
}

/** The values that the schema begins with. */
export function blank(fields: readonly Field[]): Values {
  return Object.fromEntries(fields.map(({ path, initial }) => [path, initial]));
}

/** The payload, or what is not right yet. */
export function gather(schema: Json | undefined, fields: readonly Field[], values: Values): { payload: Json } | { problem: string } {
  const root = asSchema(schema);
  const isObject = root["type"] === "object" || root["properties"] !== undefined;
  const payload: { [member: string]: Json } = {};
  for (const one of fields) {
    const typed = values[one.path] ?? "";
    if (typed.trim() === "" && !one.required && one.input !== "boolean") continue;
    const value = read(one, typed);
    if (value === undefined) return { problem: `${one.label} ${one.input === "number" ? "is no number" : "is no JSON"}.` };
    if (!isObject) return { payload: value };
    put(payload, one.path.split("/"), value);
  }
  return { payload };
}

function members(schema: Schema, prefix: string): Field[] {
  const required = Array.isArray(schema["required"]) ? schema["required"] : [];
  return Object.entries(asSchema(schema["properties"])).flatMap(([name, value]) => {
    const inner = asSchema(value);
    const path = prefix + name;
    if (inner["type"] === "object" && inner["properties"]) return members(inner, `${path}/`);
    return [field(path, label(name, inner), inner, required.includes(name))];
  });
}

function field(path: string, shown: string, schema: Schema, required: boolean): Field {
  const type = schema["type"];
  const choices = Array.isArray(schema["enum"]) ? schema["enum"] : "const" in schema ? [schema["const"]!] : [];
  const input = choices.length ? "choice" : type === "boolean" ? "boolean" : type === "number" || type === "integer" ? "number" : type === "string" ? "text" : "json";
  const number = (keyword: string): number | undefined => (typeof schema[keyword] === "number" ? schema[keyword] : undefined);
  const first = schema["default"] ?? (required && choices.length ? choices[0] : undefined);
  const asText = input === "choice" || input === "json" ? JSON.stringify(first) : String(first);
  return {
    path,
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
  };
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

function put(into: { [member: string]: Json }, path: string[], value: Json): void {
  const name = path[0]!;
  if (path.length === 1) {
    into[name] = value;
    return;
  }
  const inner = (into[name] ??= {});
  put(inner as { [member: string]: Json }, path.slice(1), value);
}

function asSchema(value: Json | undefined): Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value : {};
}

function label(name: string, schema: Schema): string {
  if (typeof schema["title"] === "string") return schema["title"];
  const words = name.replace(/([a-z])([A-Z])/g, "$1 $2").replaceAll("_", " ").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}
