/**
 * Turns a thread as the gateway stores it (`GET /agui/{agent}/threads/{id}`) into the AI SDK's messages: those that its
 * streams made, so that a page shows the same ones after a reload. Not here: streams (`ui-chunks.ts`).
 *
 * Rules: an assistant's message is one answer: the run that a user's message began, and the runs that went on with it
 * after a question or a result of the page's own tools. Its id is the first run's. A run that is under way is left out,
 * because its stream brings it whole.
 */

import type { UIMessage } from "ai";

import type { Interrupt, Json } from "./events.ts";
import { argumentsOf, valueOf, type AskedInterrupt, type RunMetadata, type StoredTool } from "./ui-chunks.ts";

/** A message in AG-UI's form. */
interface StoredMessage {
  id: string;
  role: string;
  content?: string;
  name?: string;
  toolCalls?: { id: string; function: { name: string; arguments: string } }[];
  toolCallId?: string;
  error?: string;
}

interface StoredRun {
  runId: string;
  /** Of a user: the one that it answers. */
  messageId: string;
  /** The run whose questions were answered. */
  parentRunId: string;
  state: RunMetadata["state"];
  error?: string;
  errorMessage?: string;
  usage?: Json;
  result?: Json;
  interrupts?: (Interrupt & { answeredBy: string })[];
}

/** The gateway's answer, as far as it is used here. */
export interface StoredThread {
  messages: StoredMessage[];
  /** Message id → run id. */
  messageRuns: Record<string, string>;
  /** Queued and running ones. */
  runs: StoredRun[];
  /** Oldest first. */
  endedRuns: StoredRun[];
  /** The agent's, as its last run left it. */
  state?: Json;
}

type Part = UIMessage["parts"][number];

/** The messages, and of each run the message that it belongs to. */
export class StoredChat {
  readonly messages: UIMessage[];
  readonly #thread: StoredThread;
  readonly #roots: Map<string, string>;

  constructor(thread: StoredThread, isClientTool: (name: string) => boolean) {
    this.#thread = thread;
    this.#roots = rootsOf(thread);
    this.messages = built(thread, this.#roots, isClientTool);
  }

  /** The agent's state before the run that is under way. */
  get state(): Json {
    return this.#thread.state ?? null;
  }

  /** The run to follow first: the one that runs, else the next in the queue. */
  get active(): string | undefined {
    const { runs } = this.#thread;
    return (runs.find((run) => run.state === "running") ?? runs[0])?.runId;
  }

  /** The message with which a run goes on; undefined: it begins one. */
  continuedBy(runId: string): UIMessage | undefined {
    const root = this.#roots.get(runId);
    return root === runId ? undefined : this.messages.find((message) => message.id === root);
  }
}

/** Run id → the run that began its answer. */
function rootsOf({ messages, runs, endedRuns }: StoredThread): Map<string, string> {
  const users = new Set(messages.filter((message) => message.role === "user").map((message) => message.id));
  const roots = new Map<string, string>();
  let last: string | undefined;
  for (const run of [...endedRuns, ...runs]) {
    // One that no user's message began goes on after the results of the page's tools.
    const before = run.parentRunId !== "" ? roots.get(run.parentRunId) : users.has(run.messageId) ? undefined : last;
    last = before ?? run.runId;
    roots.set(run.runId, last);
  }
  return roots;
}

/** The parts of one run: those of its messages, then its questions. */
interface Answer {
  root: string;
  runs: Map<string, Part[]>;
}

function built(thread: StoredThread, roots: Map<string, string>, isClientTool: (name: string) => boolean): UIMessage[] {
  const ended = new Map(thread.endedRuns.map((run) => [run.runId, run]));
  const entries: (UIMessage | Answer)[] = [];
  const answers = new Map<string, Answer>();
  const tools = new Map<string, StoredTool>();

  const partsOf = (runId: string, after?: number): Part[] => {
    const root = roots.get(runId) ?? runId;
    let answer = answers.get(root);
    if (answer === undefined) {
      answer = { root, runs: new Map() };
      answers.set(root, answer);
      entries.splice(after ?? entries.length, 0, answer);
    }
    const parts = answer.runs.get(runId) ?? [];
    answer.runs.set(runId, parts);
    return parts;
  };

  for (const message of thread.messages) {
    const text = message.content ?? "";
    if (message.role === "user" || message.role === "system") {
      const metadata = message.name === undefined ? {} : { metadata: { narthex: { name: message.name } } };
      entries.push({ id: message.id, role: message.role, ...metadata, parts: [{ type: "text", text }] });
    } else if (message.role === "tool") {
      const tool = tools.get(message.toolCallId ?? "");
      if (tool !== undefined) answer(tool, message);
    } else if (message.role === "assistant" || message.role === "reasoning") {
      const parts = partsOf(thread.messageRuns[message.id] ?? message.id);
      parts.push(...partsOfMessage(message, tools, isClientTool));
    }
  }
  for (const run of thread.endedRuns) {
    if (roots.get(run.runId) !== run.runId || answers.has(run.runId)) partsOf(run.runId, entries.length);
    else partsOf(run.runId, placeAfter(entries, run.messageId)); // it left no message
  }
  for (const run of thread.endedRuns) {
    for (const asked of run.interrupts ?? []) question(partsOf(run.runId), asked, tools);
  }
  return entries.map((entry) => ("root" in entry ? assembled(entry, thread.endedRuns, ended) : entry));
}

/** Behind a user's message and the answers that follow it. */
function placeAfter(entries: (UIMessage | Answer)[], messageId: string): number {
  let at = entries.findIndex((entry) => "id" in entry && entry.id === messageId) + 1;
  if (at === 0) return entries.length;
  while (at < entries.length && "root" in entries[at]!) at += 1;
  return at;
}

function assembled({ root, runs }: Answer, order: StoredRun[], ended: Map<string, StoredRun>): UIMessage {
  const known = order.filter((run) => runs.has(run.runId)).map((run) => run.runId);
  const names = [...[...runs.keys()].filter((runId) => !ended.has(runId)), ...known];
  const last = ended.get(names.at(-1)!);
  const parts = names.flatMap((runId): Part[] => [{ type: "step-start" }, ...runs.get(runId)!]);
  const metadata: { narthex: RunMetadata } = { narthex: { runId: last?.runId ?? root, state: last?.state ?? "finished" } };
  if (last?.error) metadata.narthex.error = { code: last.error, message: last.errorMessage ?? "" };
  if (last?.usage !== undefined) metadata.narthex.usage = last.usage;
  if (last?.result !== undefined) metadata.narthex.result = last.result;
  return { id: root, role: "assistant", metadata, parts };
}

function partsOfMessage(message: StoredMessage, tools: Map<string, StoredTool>, isClientTool: (name: string) => boolean): Part[] {
  const said: Part[] = [];
  if (message.content) {
    // Members as the stream's parts have them.
    if (message.role === "reasoning") said.push({ type: "reasoning", id: message.id, text: message.content, state: "done" } as Part);
    else said.push({ type: "text", text: message.content, state: "done" });
  }
  const calls = (message.toolCalls ?? []).map((call): StoredTool => {
    const { name, arguments: args } = call.function;
    const tool: StoredTool = { type: `tool-${name}`, toolCallId: call.id, state: "input-available", input: argumentsOf(args) };
    if (!isClientTool(name)) tool.providerExecuted = true;
    tools.set(call.id, tool);
    return tool;
  });
  // The gateway writes the member first that began first.
  const names = Object.keys(message);
  const callsFirst = calls.length > 0 && names.indexOf("toolCalls") < names.indexOf("content");
  return (callsFirst ? [...calls, ...said] : [...said, ...calls]) as Part[];
}

function answer(tool: StoredTool, { content, error }: StoredMessage): void {
  if (error) {
    tool.state = "output-error";
    tool.errorText = error;
  } else {
    tool.state = "output-available";
    tool.output = valueOf(content);
  }
}

function question(parts: Part[], asked: AskedInterrupt, tools: Map<string, StoredTool>): void {
  parts.push({ type: "data-interrupt", id: asked.id, data: asked });
  const tool = tools.get(asked.toolCallId ?? "");
  if (tool?.state === "input-available" && asked.answeredBy === "") {
    tool.state = "approval-requested";
    tool.approval = { id: asked.id };
  }
}
