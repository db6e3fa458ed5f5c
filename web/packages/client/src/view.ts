/**
 * Folds a run's events into what a page shows: parts in the order in which they began. Display only: it proves
 * nothing (see `assembler.ts`) and never invents a state that no event announced.
 */

import { interruptsOf, outcomeOf, type AguiEvent, type Interrupt, type Json } from "./events.ts";

export interface TextPart {
  kind: "text";
  id: string;
  role: string;
  text: string;
  done: boolean;
}

export interface ReasoningPart {
  kind: "reasoning";
  id: string;
  text: string;
  done: boolean;
}

export interface ToolPart {
  kind: "tool";
  id: string;
  name: string;
  /** The arguments' JSON text, as far as it has streamed. */
  args: string;
  /** `calling`: arguments stream; `running`: it works; `done`: the result is there. */
  state: "calling" | "running" | "done";
  result: string;
}

export interface StepPart {
  kind: "step";
  id: string;
  name: string;
  done: boolean;
}

/** Something that a person added while the run went on (`run.steer`). */
export interface SteerPart {
  kind: "steer";
  id: string;
  text: string;
  /** User id. */
  by: string;
  /** Whether the agent has taken it. What it has not taken when the run ends becomes a message with a run of its own. */
  done: boolean;
}

export type Part = TextPart | ReasoningPart | ToolPart | StepPart | SteerPart;

export type RunPhase = "waiting" | "running" | "finished" | "cancelled" | "interrupted" | "failed";

/** A run as it looks after the events so far. Parts are replaced, never mutated: `===` tells what changed. */
export interface RunView {
  phase: RunPhase;
  parts: readonly Part[];
  /** Questions that the run ended with. */
  interrupts: readonly Interrupt[];
  /** Message and code of a RUN_ERROR. */
  error: { message: string; code: string } | null;
  /** 1, or more after the gateway restarted the run. */
  attempt: number;
}

export const EMPTY_VIEW: RunView = { phase: "waiting", parts: [], interrupts: [], error: null, attempt: 1 };

/** The view after one more event. Returns `view` itself when the event shows nothing. */
export function fold(view: RunView, event: AguiEvent): RunView {
  switch (event.type) {
    case "RUN_STARTED":
      return { ...view, phase: "running" };
    case "RUN_FINISHED": {
      const outcome = outcomeOf(event);
      const phase = outcome === "cancelled" ? "cancelled" : outcome === "interrupt" ? "interrupted" : "finished";
      return { ...view, phase, parts: settle(view.parts), interrupts: interruptsOf(event) };
    }
    case "RUN_ERROR":
      return {
        ...view,
        phase: "failed",
        parts: settle(view.parts),
        error: { message: event.message, code: event.code ?? "" },
      };
    case "CUSTOM":
      if (event.name === "narthex.steering") return { ...view, parts: [...view.parts, steer(event.value, view.parts.length, false)] };
      if (event.name === "narthex.steered") return { ...view, parts: taken(view.parts, event.value) };
      if (event.name !== "narthex.restarted") return view;
      // What came before belongs to an attempt that died: the run begins again.
      return { ...view, parts: [], attempt: attemptOf(event.value) ?? view.attempt + 1 };
    default: {
      const parts = foldPart(view.parts, event);
      return parts === view.parts ? view : { ...view, parts };
    }
  }
}

/** The view of a whole list of events. */
export function viewOf(events: Iterable<AguiEvent>): RunView {
  let view = EMPTY_VIEW;
  for (const event of events) view = fold(view, event);
  return view;
}

/** All text parts' text, in order, with nothing put between: the same as `text` of `run.get`. */
export function textOf(view: RunView): string {
  return view.parts.map((part) => (part.kind === "text" ? part.text : "")).join("");
}

/** A tool result's text: itself, or the text parts of AG-UI's multimodal form. */
function plain(content: string | Json[]): string {
  if (typeof content === "string") return content;
  const texts = content.map((part) => (part as { text?: unknown } | null)?.text);
  return texts.filter((text) => typeof text === "string").join("\n");
}

function foldPart(parts: readonly Part[], event: AguiEvent): readonly Part[] {
  switch (event.type) {
    case "TEXT_MESSAGE_START":
      return [...parts, { kind: "text", id: event.messageId, role: event.role, text: "", done: false }];
    case "TEXT_MESSAGE_CONTENT":
      return upsert(parts, "text", event.messageId, event.delta);
    case "TEXT_MESSAGE_END":
      return update(parts, "text", event.messageId, { done: true });
    case "TEXT_MESSAGE_CHUNK":
      return upsert(parts, "text", event.messageId ?? lastId(parts, "text"), event.delta ?? "");
    case "REASONING_MESSAGE_START":
      return [...parts, { kind: "reasoning", id: event.messageId, text: "", done: false }];
    case "REASONING_MESSAGE_CONTENT":
      return upsert(parts, "reasoning", event.messageId, event.delta);
    case "REASONING_MESSAGE_CHUNK":
      return upsert(parts, "reasoning", event.messageId ?? lastId(parts, "reasoning"), event.delta ?? "");
    case "REASONING_MESSAGE_END":
      return update(parts, "reasoning", event.messageId, { done: true });
    case "TOOL_CALL_START": {
      const { toolCallId: id, toolCallName: name } = event;
      return [...parts, { kind: "tool", id, name, args: "", state: "calling", result: "" }];
    }
    case "TOOL_CALL_ARGS": {
      const tool = parts.find((part): part is ToolPart => part.kind === "tool" && part.id === event.toolCallId);
      return tool ? update(parts, "tool", tool.id, { args: tool.args + event.delta }) : parts;
    }
    case "TOOL_CALL_END":
      return update(parts, "tool", event.toolCallId, { state: "running" });
    case "TOOL_CALL_RESULT":
      return update(parts, "tool", event.toolCallId, { state: "done", result: plain(event.content) });
    case "STEP_STARTED":
      return [...parts, { kind: "step", id: `${event.stepName} ${parts.length}`, name: event.stepName, done: false }];
    case "STEP_FINISHED": {
      const step = parts.findLast((part) => part.kind === "step" && part.name === event.stepName && !part.done);
      return step ? update(parts, "step", step.id, { done: true }) : parts;
    }
    default:
      return parts;
  }
}

/** Add text to a part, opening it first when a chunk event is the first that names it. */
function upsert(parts: readonly Part[], kind: "text" | "reasoning", id: string, delta: string): readonly Part[] {
  const found = parts.findLast((part) => part.kind === kind && part.id === id) as TextPart | ReasoningPart | undefined;
  if (found) return update(parts, kind, id, { text: found.text + delta });
  if (kind === "text") return [...parts, { kind, id, role: "assistant", text: delta, done: false }];
  return [...parts, { kind, id, text: delta, done: false }];
}

function update(parts: readonly Part[], kind: Part["kind"], id: string, change: object): readonly Part[] {
  const index = parts.findLastIndex((part) => part.kind === kind && part.id === id);
  if (index < 0) return parts;
  const copy = [...parts];
  copy[index] = { ...parts[index]!, ...change } as Part;
  return copy;
}

/** A run that ended leaves nothing open. A tool without a result stays as it was: it did not finish. */
function settle(parts: readonly Part[]): readonly Part[] {
  const left = parts.filter((part) => part.kind !== "steer" || part.done);
  return left.map((part) => (part.kind === "tool" || part.done ? part : { ...part, done: true }));
}

function lastId(parts: readonly Part[], kind: Part["kind"]): string {
  return parts.findLast((part) => part.kind === kind)?.id ?? "";
}

function steer(value: unknown, place: number, done: boolean): SteerPart {
  const { text, by, steerId } = (value ?? {}) as { text?: unknown; by?: unknown; steerId?: unknown };
  return { kind: "steer", id: `steer ${String(steerId ?? place)}`, text: String(text ?? ""), by: String(by ?? ""), done };
}

function taken(parts: readonly Part[], value: unknown): readonly Part[] {
  const read = steer(value, parts.length, true);
  const known = parts.some((part) => part.id === read.id && part.kind === "steer");
  return known ? parts.map((part) => (part.id === read.id ? read : part)) : [...parts, read];
}

function attemptOf(value: unknown): number | null {
  const attempt = (value as { attempt?: unknown } | null)?.attempt;
  return typeof attempt === "number" ? attempt : null;
}
