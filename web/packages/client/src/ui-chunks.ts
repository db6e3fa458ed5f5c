/**
 * Turns the AG-UI events of a run into chunks of the AI SDK's UI message stream. Not here: requests (`ai-sdk.ts`), a
 * thread's stored messages (`ui-messages.ts`).
 *
 * Rules: one run is one step of an assistant's message, so that a run which begins anew takes back exactly what it
 * showed; parts that a stored message does not have (state, progress) are transient, so that a page shows the same
 * messages after a reload.
 */

import type { UIMessage, UIMessageChunk } from "ai";

import { metaOf, type RunProof, type Wire } from "./agui-stream.ts";
import { interruptsOf, isTerminal, outcomeOf, type AguiEvent, type Interrupt, type Json } from "./events.ts";
import { PatchedDocument, type Operation } from "./json-patch.ts";

/** What `metadata.narthex` of an assistant's message says. */
export interface RunMetadata {
  /** The gateway's id of the message's (last) run. */
  runId: string;
  state: "queued" | "running" | "finished" | "interrupted" | "cancelled" | "failed";
  /** Whether the run arrived whole (docs/runs.md); null: the gateway named no digest. Of runs that were streamed. */
  complete?: boolean | null;
  /** AG-UI's TokenUsage entries. */
  usage?: Json;
  /** The agent's own result; after a reload where it has up to 4 KB. */
  result?: Json;
  /** Of a run that failed. */
  error?: { code: string; message: string };
}

/** `data` of a part of type `data-interrupt`: a question to a person. `answeredBy`: empty while it is open. */
export type AskedInterrupt = Interrupt & { answeredBy: string };

/** A result as a page's types have it: JSON objects and arrays are parsed, every other text stays as it is. */
export function valueOf(content: unknown): unknown {
  if (typeof content !== "string" || !/^\s*[[{]/.test(content)) return content;
  try {
    return JSON.parse(content) as unknown;
  } catch {
    return content;
  }
}

/** The parsed arguments of a call; undefined where they are no JSON. */
export function argumentsOf(text: string): unknown {
  if (text.trim() === "") return {};
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

interface Call {
  name: string;
  args: string;
  whole: boolean;
}

/** The chunks of one run. */
export class RunChunks {
  readonly #continued: UIMessage | undefined;
  readonly #isClientTool: (name: string) => boolean;
  readonly #texts = new Set<string>();
  readonly #reasonings = new Set<string>();
  #calls = new Map<string, Call>();
  readonly #earlierCalls = new Set<string>();
  readonly #asked = new Map<string, AskedInterrupt>();
  #runId = "";
  #pendingClientTool = false;
  #stopReason = "";
  readonly #before: Json;
  #state: PatchedDocument;
  #stateChanged = false;

  /** `continued`: the message that the run goes on with, if it begins none. `state`: the agent's before the run. */
  constructor(continued: UIMessage | undefined, isClientTool: (name: string) => boolean, state: Json) {
    this.#continued = continued;
    this.#before = state ?? {};
    this.#state = new PatchedDocument(this.#before);
    this.#isClientTool = isClientTool;
    for (const part of continued?.parts ?? []) {
      if ("toolCallId" in part) this.#earlierCalls.add(part.toolCallId);
      if (part.type === "data-interrupt") this.#asked.set(part.id ?? "", part.data as AskedInterrupt);
    }
  }

  /** The agent's state as the run has left it so far. */
  get state(): Json {
    return this.#state.value;
  }

  /** The chunks of one more event, but for the run's last one. */
  take(wire: Wire): UIMessageChunk[] {
    const event = wire as unknown as AguiEvent;
    switch (event.type) {
      case "RUN_STARTED":
        this.#runId = String(metaOf(wire)["runId"] ?? event.runId);
        return [
          { type: "start", messageId: this.#continued?.id ?? this.#runId, messageMetadata: this.#metadata({ state: "running" }) },
          { type: "start-step" },
        ];
      case "TEXT_MESSAGE_START":
        return event.role === "user" ? [] : this.#opened("text", event.messageId);
      case "TEXT_MESSAGE_CONTENT":
        return this.#texts.has(event.messageId) ? [{ type: "text-delta", id: event.messageId, delta: event.delta }] : [];
      case "TEXT_MESSAGE_END":
        return this.#closed("text", event.messageId);
      case "TEXT_MESSAGE_CHUNK": {
        const id = event.messageId ?? [...this.#texts].at(-1);
        if (id === undefined || event.role === "user") return [];
        const delta: UIMessageChunk[] = event.delta === undefined ? [] : [{ type: "text-delta", id, delta: event.delta }];
        return [...(this.#texts.has(id) ? [] : this.#opened("text", id)), ...delta];
      }
      case "REASONING_MESSAGE_START":
        return this.#opened("reasoning", event.messageId);
      case "REASONING_MESSAGE_CONTENT":
        return this.#reasonings.has(event.messageId) ? [{ type: "reasoning-delta", id: event.messageId, delta: event.delta }] : [];
      case "REASONING_MESSAGE_END":
        return this.#closed("reasoning", event.messageId);
      case "REASONING_MESSAGE_CHUNK": {
        const id = event.messageId ?? [...this.#reasonings].at(-1);
        if (id === undefined) return [];
        const delta: UIMessageChunk[] = event.delta === undefined ? [] : [{ type: "reasoning-delta", id, delta: event.delta }];
        return [...(this.#reasonings.has(id) ? [] : this.#opened("reasoning", id)), ...delta];
      }
      case "TOOL_CALL_START":
        return this.#called(event.toolCallId, event.toolCallName);
      case "TOOL_CALL_ARGS":
        return this.#argued(event.toolCallId, event.delta);
      case "TOOL_CALL_END":
        return this.#complete(event.toolCallId);
      case "TOOL_CALL_CHUNK": {
        const id = event.toolCallId ?? [...this.#calls.keys()].at(-1);
        if (id === undefined) return [];
        const begun = this.#calls.has(id) ? [] : this.#called(id, event.toolCallName ?? "");
        return [...begun, ...(event.delta === undefined ? [] : this.#argued(id, event.delta))];
      }
      case "TOOL_CALL_RESULT":
        return this.#answered(event.toolCallId, event.content, wire["error"]);
      case "STEP_STARTED":
      case "STEP_FINISHED":
        return [transient("step", { name: event.stepName, done: event.type === "STEP_FINISHED" })];
      case "STATE_SNAPSHOT":
        this.#state = new PatchedDocument((event["snapshot"] ?? null) as Json);
        return this.#stateShown();
      case "STATE_DELTA":
        return this.#changed(event["delta"]);
      case "ACTIVITY_SNAPSHOT":
      case "ACTIVITY_DELTA":
        return [transient("activity", event)];
      case "CUSTOM":
        return this.#custom(event.name, event.value ?? null);
      default:
        return [];
    }
  }

  /** The chunks of the run's last event. */
  end(wire: Wire, proof: RunProof | null): UIMessageChunk[] {
    const event = wire as unknown as AguiEvent;
    if (!isTerminal(event)) return [];
    const chunks: UIMessageChunk[] = [...this.#settled()];
    const shared = {
      ...(proof === null ? {} : { complete: proof.complete }),
      ...(wire["usage"] === undefined ? {} : { usage: wire["usage"] as Json }),
    };
    if (event.type === "RUN_ERROR") {
      const error = { code: event.code ?? "", message: event.message };
      chunks.push({ type: "finish-step" });
      chunks.push({ type: "message-metadata", messageMetadata: this.#metadata({ state: "failed", error, ...shared }) });
      chunks.push({ type: "error", errorText: event.message });
      return chunks;
    }
    const outcome = outcomeOf(event);
    for (const interrupt of interruptsOf(event)) chunks.push(...this.#questioned(interrupt));
    chunks.push({ type: "finish-step" });
    if (outcome === "cancelled") chunks.push({ type: "abort", reason: "cancelled" });
    const state = outcome === "cancelled" ? "cancelled" : outcome === "interrupt" ? "interrupted" : "finished";
    const result = event.result === undefined ? {} : { result: event.result };
    chunks.push({
      type: "finish",
      finishReason: this.#finishReason(outcome),
      messageMetadata: this.#metadata({ state, ...shared, ...result }),
    });
    return chunks;
  }

  #metadata(run: Omit<RunMetadata, "runId">): { narthex: RunMetadata } {
    return { narthex: { runId: this.#runId, ...run } };
  }

  #finishReason(outcome: "success" | "cancelled" | "interrupt"): "stop" | "length" | "content-filter" | "tool-calls" | "other" {
    if (outcome === "cancelled") return "other";
    if (outcome === "interrupt" || this.#pendingClientTool) return "tool-calls";
    if (this.#stopReason === "length") return "length";
    if (this.#stopReason === "content_filter") return "content-filter";
    return this.#stopReason === "" ? "stop" : "other";
  }

  #open(kind: "text" | "reasoning"): Set<string> {
    return kind === "text" ? this.#texts : this.#reasonings;
  }

  #opened(kind: "text" | "reasoning", id: string): UIMessageChunk[] {
    this.#open(kind).add(id);
    return [{ type: `${kind}-start`, id }];
  }

  #closed(kind: "text" | "reasoning", id: string): UIMessageChunk[] {
    return this.#open(kind).delete(id) ? [{ type: `${kind}-end`, id }] : [];
  }

  /** What a run that ended leaves open. */
  *#settled(): Iterable<UIMessageChunk> {
    for (const id of [...this.#reasonings]) yield* this.#closed("reasoning", id);
    for (const id of [...this.#texts]) yield* this.#closed("text", id);
  }

  #called(toolCallId: string, name: string): UIMessageChunk[] {
    this.#calls.set(toolCallId, { name, args: "", whole: false });
    return [{ type: "tool-input-start", toolCallId, toolName: name, ...this.#executed(name) }];
  }

  /** The agent runs the tool: the page must not. */
  #executed(name: string): { providerExecuted?: true } {
    return this.#isClientTool(name) ? {} : { providerExecuted: true };
  }

  #argued(toolCallId: string, delta: string): UIMessageChunk[] {
    const call = this.#calls.get(toolCallId);
    if (call === undefined) return [];
    call.args += delta;
    return [{ type: "tool-input-delta", toolCallId, inputTextDelta: delta }];
  }

  #complete(toolCallId: string): UIMessageChunk[] {
    const call = this.#calls.get(toolCallId);
    if (call === undefined || call.whole) return [];
    call.whole = true;
    const shared = { toolCallId, toolName: call.name, ...this.#executed(call.name) };
    const input = argumentsOf(call.args);
    if (input === undefined) {
      return [{ type: "tool-input-error", ...shared, input: call.args, errorText: "The agent's arguments are no JSON." }];
    }
    this.#pendingClientTool ||= this.#isClientTool(call.name);
    return [{ type: "tool-input-available", ...shared, input }];
  }

  #answered(toolCallId: string, content: unknown, error: unknown): UIMessageChunk[] {
    const call = this.#calls.get(toolCallId);
    if (call === undefined && !this.#earlierCalls.has(toolCallId)) return []; // the SDK fails on calls that it does not know
    if (call !== undefined && this.#isClientTool(call.name)) this.#pendingClientTool = false;
    const executed = call === undefined ? {} : this.#executed(call.name);
    const answer: UIMessageChunk =
      typeof error === "string" && error !== ""
        ? { type: "tool-output-error", toolCallId, errorText: error, ...executed }
        : { type: "tool-output-available", toolCallId, output: valueOf(content), ...executed };
    return [...this.#complete(toolCallId), answer];
  }

  #changed(delta: unknown): UIMessageChunk[] {
    try {
      this.#state.apply(delta as Operation[]);
    } catch (error) {
      if (error instanceof RangeError || error instanceof TypeError) return []; // as AG-UI's client: the next snapshot mends it
      throw error;
    }
    return this.#stateShown();
  }

  #stateShown(): UIMessageChunk[] {
    this.#stateChanged = true;
    return [transient("state", this.#state.value)];
  }

  #custom(name: string, value: Json): UIMessageChunk[] {
    if (name === "narthex.restarted") {
      this.#texts.clear();
      this.#reasonings.clear();
      this.#calls = new Map();
      this.#pendingClientTool = false;
      this.#state = new PatchedDocument(this.#before);
      return [{ type: "reset-step" }, ...(this.#stateChanged ? this.#stateShown() : [])];
    }
    if (name === "narthex.answered") {
      const { interruptId, by } = (value ?? {}) as { interruptId?: string; by?: string };
      const asked = this.#asked.get(interruptId ?? "");
      if (asked === undefined) return [];
      return [{ type: "data-interrupt", id: asked.id, data: { ...asked, answeredBy: by ?? "" } }];
    }
    if (name === "narthex.model_stopped") this.#stopReason = String((value as { reason?: unknown } | null)?.reason ?? "");
    return [transient("custom", { name, value })];
  }

  #questioned(interrupt: Interrupt): UIMessageChunk[] {
    const chunks: UIMessageChunk[] = [{ type: "data-interrupt", id: interrupt.id, data: { ...interrupt, answeredBy: "" } }];
    const { toolCallId } = interrupt;
    if (toolCallId !== undefined && (this.#calls.has(toolCallId) || this.#earlierCalls.has(toolCallId))) {
      chunks.push(...this.#complete(toolCallId), { type: "tool-approval-request", approvalId: interrupt.id, toolCallId });
    }
    return chunks;
  }
}

function transient(name: string, data: unknown): UIMessageChunk {
  return { type: `data-${name}`, data, transient: true };
}

/** The parts of a message as chunks: a message that a stream builds anew begins with them. */
export function chunksOf(message: UIMessage): UIMessageChunk[] {
  const chunks: UIMessageChunk[] = [{ type: "start", messageId: message.id, messageMetadata: message.metadata ?? {} }];
  let steps = 0;
  for (const [at, part] of message.parts.entries()) {
    const id = `part-${at}`;
    if (part.type === "step-start") {
      if (steps++ > 0) chunks.push({ type: "finish-step" });
      chunks.push({ type: "start-step" });
    } else if (part.type === "text") {
      chunks.push({ type: "text-start", id }, { type: "text-delta", id, delta: part.text }, { type: "text-end", id });
    } else if (part.type === "reasoning") {
      const own = (part as { id?: string }).id ?? id;
      chunks.push({ type: "reasoning-start", id: own }, { type: "reasoning-delta", id: own, delta: part.text }, { type: "reasoning-end", id: own });
    } else if (part.type === "data-interrupt") {
      chunks.push({ type: "data-interrupt", id: part.id ?? id, data: part.data });
    } else if (part.type.startsWith("tool-") && "toolCallId" in part) {
      chunks.push(...toolChunks(part as StoredTool));
    }
  }
  if (steps > 0) chunks.push({ type: "finish-step" });
  return chunks;
}

/** A part of type `tool-<name>`, as far as it is stored. */
export interface StoredTool {
  type: `tool-${string}`;
  toolCallId: string;
  state: "input-available" | "output-available" | "output-error" | "approval-requested";
  input: unknown;
  providerExecuted?: boolean;
  output?: unknown;
  errorText?: string;
  approval?: { id: string };
}

/** A call with its result by start and delta, and not whole: for a whole one the SDK would run the page's tool again. */
function* toolChunks(part: StoredTool): Iterable<UIMessageChunk> {
  const { toolCallId } = part;
  const executed = part.providerExecuted === true ? { providerExecuted: true } : {};
  const shared = { toolCallId, toolName: part.type.slice("tool-".length), ...executed };
  yield { type: "tool-input-start", ...shared };
  yield { type: "tool-input-delta", toolCallId, inputTextDelta: JSON.stringify(part.input ?? {}) };
  if (part.state === "output-available") yield { type: "tool-output-available", toolCallId, output: part.output, ...executed };
  else if (part.state === "output-error") yield { type: "tool-output-error", toolCallId, errorText: part.errorText ?? "", ...executed };
  else yield { type: "tool-input-available", ...shared, input: part.input };
  if (part.approval !== undefined && part.state === "approval-requested") {
    yield { type: "tool-approval-request", approvalId: part.approval.id, toolCallId };
  }
}
