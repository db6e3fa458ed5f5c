/**
 * AG-UI events as narthex publishes them on `thread:<id>` channels (docs/protocol.md). Types only; what they
 * amount to is folded in `view.ts`, and whether they are all there is proven in `assembler.ts`.
 */

/** A JSON value. */
export type Json = null | boolean | number | string | Json[] | { [member: string]: Json };

/** What every event carries. `runId`, `seq` are absent from a person's message and from notices. */
export interface Envelope {
  threadId?: string;
  runId?: string;
  /** 1, 2, 3 … in the run. */
  seq?: number;
  /** A merged delta stands for `seq_from` … `seq`. */
  seq_from?: number;
  /** Milliseconds since the epoch; not part of the digest. */
  timestamp?: number;
}

export interface RunStarted extends Envelope {
  type: "RUN_STARTED";
  threadId: string;
  runId: string;
  parentRunId?: string;
}

/** A question to a person: the run ends with it, and `run.resume` with an answer opens the next run. */
export interface Interrupt {
  id: string;
  reason?: string;
  message?: string;
  /** The call that the question is about. */
  toolCallId?: string;
  /** JSON Schema of the answer. */
  responseSchema?: Json;
  /** ISO 8601, or seconds since the epoch. */
  expiresAt?: string | number;
  /** `answerableBy`: `asker`, `owner`, `member` or `permission:<name>`; without it the asker and the thread's owners. */
  metadata?: { answerableBy?: string; [member: string]: Json | undefined };
}

export type Outcome =
  | { type: "success" }
  | { type: "cancelled" }
  | { type: "interrupt"; interrupts: Interrupt[] };

/** `count` (the last `seq`) and `digest` seal the run. */
export interface Seal {
  count?: number;
  digest?: string;
}

export interface RunFinished extends Envelope, Seal {
  type: "RUN_FINISHED";
  result?: Json;
  outcome?: Outcome | "success" | "cancelled" | "interrupt";
}

export interface RunError extends Envelope, Seal {
  type: "RUN_ERROR";
  message: string;
  code?: string;
}

export interface StepEvent extends Envelope {
  type: "STEP_STARTED" | "STEP_FINISHED";
  stepName: string;
}

/** `name` is who wrote it, for people's messages (`role: "user"`). */
export interface TextMessageStart extends Envelope {
  type: "TEXT_MESSAGE_START";
  messageId: string;
  role: string;
  name?: string;
}

export interface TextMessageContent extends Envelope {
  type: "TEXT_MESSAGE_CONTENT";
  messageId: string;
  delta: string;
}

export interface TextMessageEnd extends Envelope {
  type: "TEXT_MESSAGE_END";
  messageId: string;
}

/** A whole message in one event: how a person's message is published. */
export interface TextMessageChunk extends Envelope {
  type: "TEXT_MESSAGE_CHUNK";
  messageId?: string;
  role?: string;
  name?: string;
  delta?: string;
}

export interface ReasoningEvent extends Envelope {
  type: "REASONING_START" | "REASONING_END" | "REASONING_MESSAGE_START" | "REASONING_MESSAGE_END";
  messageId: string;
  role?: string;
}

export interface ReasoningContent extends Envelope {
  type: "REASONING_MESSAGE_CONTENT";
  messageId: string;
  delta: string;
}

export interface ReasoningChunk extends Envelope {
  type: "REASONING_MESSAGE_CHUNK";
  messageId?: string;
  delta?: string;
}

export interface ToolCallStart extends Envelope {
  type: "TOOL_CALL_START";
  toolCallId: string;
  toolCallName: string;
  parentMessageId?: string;
}

export interface ToolCallArgs extends Envelope {
  type: "TOOL_CALL_ARGS";
  toolCallId: string;
  delta: string;
}

export interface ToolCallEnd extends Envelope {
  type: "TOOL_CALL_END";
  toolCallId: string;
}

export interface ToolCallChunk extends Envelope {
  type: "TOOL_CALL_CHUNK";
  toolCallId?: string;
  toolCallName?: string;
  delta?: string;
}

export interface ToolCallResult extends Envelope {
  type: "TOOL_CALL_RESULT";
  toolCallId: string;
  messageId?: string;
  /** Text, or AG-UI's multimodal form. */
  content: string | Json[];
  role?: string;
}

export interface StateEvent extends Envelope {
  type: "STATE_SNAPSHOT" | "STATE_DELTA" | "MESSAGES_SNAPSHOT" | "ACTIVITY_SNAPSHOT" | "ACTIVITY_DELTA" | "RAW";
  [member: string]: unknown;
}

/** `narthex.*` names are the gateway's own: `narthex.restarted`, `narthex.run_started`, `narthex.typing` … */
export interface Custom extends Envelope {
  type: "CUSTOM";
  name: string;
  value?: Json;
}

/** One AG-UI event; narrow it by `type`. */
export type AguiEvent =
  | RunStarted
  | RunFinished
  | RunError
  | StepEvent
  | TextMessageStart
  | TextMessageContent
  | TextMessageEnd
  | TextMessageChunk
  | ReasoningEvent
  | ReasoningContent
  | ReasoningChunk
  | ToolCallStart
  | ToolCallArgs
  | ToolCallEnd
  | ToolCallChunk
  | ToolCallResult
  | StateEvent
  | Custom;

/** Whether a publication's `data` looks like an event at all. */
export function isEvent(data: unknown): data is AguiEvent {
  return typeof data === "object" && data !== null && typeof (data as { type?: unknown }).type === "string";
}

/** Whether the event ends its run. */
export function isTerminal(event: AguiEvent): event is RunFinished | RunError {
  return event.type === "RUN_FINISHED" || event.type === "RUN_ERROR";
}

/** `success`, `cancelled` or `interrupt`, in whichever of AG-UI's two notations it came. */
export function outcomeOf(event: RunFinished): "success" | "cancelled" | "interrupt" {
  const outcome = event.outcome;
  if (outcome === undefined) return "success";
  return typeof outcome === "string" ? outcome : outcome.type;
}

/** The questions of a run that ended to ask. */
export function interruptsOf(event: RunFinished): Interrupt[] {
  const outcome = event.outcome;
  if (typeof outcome === "object" && outcome.type === "interrupt") return outcome.interrupts;
  return [];
}

/** Types whose `delta` may be joined with an adjacent one's. */
const DELTAS = new Set(["TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS"]);

/** An event whose `delta` text appends to something that is open. */
export type Delta = TextMessageContent | ReasoningContent | ToolCallArgs;

/** Whether the event is a delta. */
export function isDelta(event: AguiEvent): event is Delta {
  return DELTAS.has(event.type) && typeof (event as { delta?: unknown }).delta === "string";
}
