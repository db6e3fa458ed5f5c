/** A scripted `/agui` for tests of AG-UI's clients: one answer after the other, over `fetch`. */

import assert from "node:assert/strict";

import { runDigest } from "../src/assembler.ts";
import type { AguiEvent } from "../src/events.ts";

export type Event = Record<string, unknown>;
export type Call = { url: string; last: string | null; authorization: string | null; body: Record<string, unknown> };
export type Answer = { events?: [id: string, event: Event][]; cut?: boolean; open?: boolean; status?: number; json?: unknown; retryAfter?: string; after?: Promise<unknown> };

export const IDS = { threadId: "real-thread", runId: "real-run" };

/** A run as the gateway streams it under the client's names, with its digest. */
export async function run(threadId: string, runId: string, broken = false): Promise<Event[]> {
  const inner = [
    { type: "TEXT_MESSAGE_START", messageId: "m", role: "assistant" },
    { type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: "Hello, " },
    { type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: "world" },
    { type: "TEXT_MESSAGE_END", messageId: "m" },
  ];
  const end = { type: "RUN_FINISHED", outcome: { type: "success" } };
  const own = [{ type: "RUN_STARTED" }, ...inner, end].map((event) => ({ ...event, ...IDS }));
  const digest = broken ? "0".repeat(64) : await runDigest(own as unknown as AguiEvent[]);
  return [
    { type: "RUN_STARTED", threadId, runId, metadata: { narthex: IDS } },
    ...inner,
    { ...end, threadId, runId, metadata: { narthex: { ...IDS, count: 6, digest } } },
  ];
}

export function scripted(answers: Answer[]): { calls: Call[]; fetch: typeof fetch } {
  const calls: Call[] = [];
  const answer = async (url: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const headers = new Headers(init?.headers);
    const body = typeof init?.body === "string" ? (JSON.parse(init.body) as Record<string, unknown>) : {};
    calls.push({ url: String(url), last: headers.get("Last-Event-ID"), authorization: headers.get("Authorization"), body });
    const next = answers.shift();
    if (next === undefined) throw new TypeError("no answer is left");
    await next.after;
    if (next.json !== undefined || next.status !== undefined) {
      const retry: Record<string, string> = next.retryAfter === undefined ? {} : { "Retry-After": next.retryAfter };
      return new Response(JSON.stringify(next.json ?? {}), { status: next.status ?? 200, headers: retry });
    }
    const blocks = (next.events ?? []).map(([id, event]) => `${id === "" ? "" : `id: ${id}\n`}data: ${JSON.stringify(event)}\n\n`);
    let sent = false;
    const stream = new ReadableStream<Uint8Array>(
      {
        start(controller) {
          init?.signal?.addEventListener("abort", () => controller.error(new DOMException("left", "AbortError")));
        },
        pull(controller) {
          if (!sent) controller.enqueue(new TextEncoder().encode(`:\n\n${blocks.join("")}`));
          else if (next.open === true) return new Promise<void>(() => undefined); // until the reader leaves
          else if (next.cut === true) controller.error(new TypeError("the line broke"));
          else controller.close();
          sent = true;
          return undefined;
        },
      },
      { highWaterMark: 0 }, // an error drops what waits
    );
    return new Response(stream, { status: 200 });
  };
  return { calls, fetch: answer as typeof fetch };
}

export const numbered = (events: Event[], from = 1): [string, Event][] => events.map((event, at) => [`${at + from}-e`, event]);

export async function until(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!holds()) {
    assert.ok(Date.now() < deadline, String(holds));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** What `connect` sends first: the thread as it is. */
export function replay(messages: object[] = [], more: Event[] = [], outcome: object = { type: "success" }): Event[] {
  return [
    { type: "RUN_STARTED", threadId: "t", runId: "c", metadata: { narthex: { connect: true } } },
    { type: "MESSAGES_SNAPSHOT", messages },
    ...more,
    { type: "RUN_FINISHED", threadId: "t", runId: "c", outcome },
  ];
}

/** The answer to `watch`: the thread, then the beginnings of runs. */
export async function watched(...runs: string[]): Promise<Answer> {
  const opening = { type: "RUN_STARTED", threadId: "t", runId: "w", metadata: { narthex: { connect: true } } };
  const begins = await Promise.all(runs.map(async (name) => ({ ...(await run("t", name))[0], metadata: { narthex: { threadId: "real-thread", runId: `real-${name}` } } })));
  return { events: numbered([opening, ...begins]), open: true };
}
