/** JSON Patch (RFC 6902), as far as STATE_DELTA and ACTIVITY_DELTA use it: `test` and `copy` too. */

import type { Json } from "./events.ts";

/** One operation. */
export interface Operation {
  op: string;
  path: string;
  from?: string;
  value?: Json;
}

/** Of one patch's `copy` operations together, in UTF-16 units of their JSON: thirty of them make a gigabyte of a kilobyte. */
const MAX_COPIED = 1_048_576;
/** A document's bytes as JSON, and its levels: as the gateway keeps it (`src/narthex/domain/json_patch.py`). */
const MAX_BYTES = 262_144;
const MAX_DEPTH = 126;

/** The value after the operations; `document` itself is not changed. Throws a RangeError where one cannot be applied. */
export function patched(document: Json, operations: readonly Operation[]): Json {
  return change(document, operations).value;
}

function change(document: Json, operations: readonly Operation[]): { value: Json; copied: number } {
  let copied = 0;
  const value = operations.reduce((here, operation) => {
    if (operation.op === "copy") copied += JSON.stringify(found(here, pointer(operation.from ?? ""))).length;
    if (copied > MAX_COPIED) throw new RangeError("The copies of one patch are too large together.");
    return applied(here, operation);
  }, structuredClone(document));
  return { value, copied };
}

/**
 * A document that patches change one after the other, up to the size and the depth up to which the gateway keeps it:
 * patches of a kilobyte can double it each. Beyond them it is null, and later patches change nothing.
 */
export class PatchedDocument {
  #value: Json;
  #tooLarge = false;
  /** Bytes that it may still grow, at least; negative: unknown. */
  #room = -1;

  constructor(value: Json) {
    this.#value = value;
  }

  get value(): Json {
    return this.#value;
  }

  /** Apply a patch whole. Throws a RangeError where it does not fit, and changes nothing then. */
  apply(operations: readonly Operation[]): void {
    if (this.#tooLarge) return;
    const { value, copied } = change(this.#value, operations);
    this.#value = value;
    this.#room -= 3 * (JSON.stringify(operations).length + copied); // a unit has three bytes at most
    if (this.#room >= 0 && depthOf(value) <= MAX_DEPTH) return;
    this.#room = MAX_BYTES - new TextEncoder().encode(JSON.stringify(value)).length;
    this.#tooLarge = this.#room < 0 || depthOf(value) > MAX_DEPTH;
    if (this.#tooLarge) this.#value = null;
  }
}

/** The levels of a value; without recursion, because it may have thousands. */
function depthOf(value: Json): number {
  let depth = 0;
  for (let level: Json[] = [value]; level.length > 0; depth += 1) {
    const inner = level.filter((one) => typeof one === "object" && one !== null);
    if (inner.length === 0) break;
    level = inner.flatMap((one) => Object.values(one as object) as Json[]);
  }
  return depth;
}

function applied(document: Json, { op, path, from, value }: Operation): Json {
  const place = pointer(path);
  switch (op) {
    case "add":
      return added(document, place, structuredClone(value ?? null));
    case "replace":
      return place.length === 0 ? structuredClone(value ?? null) : added(removed(document, place), place, structuredClone(value ?? null));
    case "remove":
      return removed(document, place);
    case "move": {
      const moved = found(document, pointer(from ?? ""));
      return added(removed(document, pointer(from ?? "")), place, moved);
    }
    case "copy":
      return added(document, place, structuredClone(found(document, pointer(from ?? ""))));
    case "test":
      if (!same(found(document, place), value ?? null)) throw new RangeError(`The value at ${path} is another one.`);
      return document;
    default:
      throw new RangeError(`There is no operation ${op}.`);
  }
}

/** RFC 6901. */
function pointer(path: string): string[] {
  if (path === "") return [];
  if (!path.startsWith("/")) throw new RangeError(`${path} is no JSON Pointer.`);
  return path.slice(1).split("/").map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
}

function found(document: Json, place: string[]): Json {
  let here: Json = document;
  for (const step of place) {
    const next: Json | undefined = Array.isArray(here) ? here[index(step, here.length - 1)] : own(here, step);
    if (next === undefined) throw new RangeError(`There is nothing at /${place.join("/")}.`);
    here = next;
  }
  return here;
}

function own(here: Json, step: string): Json | undefined {
  if (typeof here !== "object" || here === null || Array.isArray(here)) return undefined;
  return Object.hasOwn(here, step) ? here[step] : undefined;
}

function index(step: string, most: number): number {
  const at = /^(0|[1-9]\d*)$/.test(step) ? Number(step) : -1;
  if (at < 0 || at > most) throw new RangeError(`${step} is no place in the array.`);
  return at;
}

function added(document: Json, place: string[], value: Json): Json {
  const last = place.at(-1);
  if (last === undefined) return value;
  const parent = found(document, place.slice(0, -1));
  if (Array.isArray(parent)) parent.splice(last === "-" ? parent.length : index(last, parent.length), 0, value);
  else if (typeof parent === "object" && parent !== null) define(parent, last, value);
  else throw new RangeError(`/${place.join("/")} is within a value that has no members.`);
  return document;
}

/** `__proto__` is a member like any other. */
function define(parent: { [member: string]: Json }, name: string, value: Json): void {
  Object.defineProperty(parent, name, { value, writable: true, enumerable: true, configurable: true });
}

function removed(document: Json, place: string[]): Json {
  const last = place.at(-1);
  if (last === undefined) return null;
  found(document, place); // throws where there is nothing
  const parent = found(document, place.slice(0, -1));
  if (Array.isArray(parent)) parent.splice(index(last, parent.length - 1), 1);
  else delete (parent as { [member: string]: Json })[last];
  return document;
}

function same(one: Json, other: Json): boolean {
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return one === other;
  const names = Object.keys(one);
  if (Array.isArray(one) !== Array.isArray(other) || names.length !== Object.keys(other).length) return false;
  return names.every((name) => Object.hasOwn(other, name) && same((one as { [member: string]: Json })[name]!, (other as { [member: string]: Json })[name]!));
}
