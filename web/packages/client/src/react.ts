/**
 * Hooks for React over a connection of centrifuge-js: a thread, a run, the people who are there. Components that show the
 * same thread share one subscription, also in StrictMode.
 */

import type { Centrifuge } from "centrifuge";
import { useCallback, useMemo, useSyncExternalStore } from "react";

import type { Json } from "./events.ts";
import {
  ABSENT,
  answer,
  cancel,
  IDLE,
  send,
  steer,
  threadStore,
  typist,
  type PresenceState,
  type RunItem,
  type SendOptions,
  type ThreadState,
} from "./thread-store.ts";

export type { MessageItem, PresenceState, PresentUser, RunItem, SendOptions, ThreadItem, ThreadState } from "./thread-store.ts";

export interface Thread extends ThreadState {
  /** Send a message; without a thread it begins one. Resolves when the gateway has it. */
  send(text: string, options?: SendOptions): Promise<{ threadId: string; runId: string }>;
  /** Say that the user is typing: at most every three seconds. */
  typing(): void;
}

export interface Run extends Partial<RunItem> {
  cancel(): Promise<unknown>;
  /** Add something while it goes on. */
  steer(text: string): Promise<unknown>;
  /** Answer one of its questions (`view.interrupts`). */
  answer(interruptId: string, payload: Json): Promise<unknown>;
}

/** A thread and what goes on in it. `threadId` null: none yet. */
export function useThread(client: Centrifuge, threadId: string | null): Thread {
  const state = useStore(client, threadId, (store) => store.state(), IDLE);
  const type = useMemo(() => typist(client), [client]);
  return useMemo(
    () => ({
      ...state,
      send: (text, options) => send(client, threadId, text, options),
      typing: () => type(threadId),
    }),
    [client, threadId, state, type],
  );
}

/** A run of a thread; without `runId` its last one. It renders anew only when that run changes. */
export function useRun(client: Centrifuge, threadId: string | null, runId?: string): Run {
  const item = useStore(client, threadId, (store) => store.run(runId), undefined);
  const id = item?.id ?? runId ?? "";
  return useMemo(
    () => ({
      ...item,
      cancel: () => cancel(client, id),
      steer: (text) => steer(client, id, text),
      answer: (interruptId, payload) => answer(client, id, interruptId, payload),
    }),
    [client, id, item],
  );
}

/** Who has the thread open, and who is typing. */
export function usePresence(client: Centrifuge, threadId: string | null): PresenceState {
  return useStore(client, threadId, (store) => store.presence(), ABSENT);
}

function useStore<Value>(
  client: Centrifuge,
  threadId: string | null,
  read: (store: ReturnType<typeof threadStore>) => Value,
  without: Value,
): Value {
  // The store is asked for at each use: one that nothing listened to for a while is forgotten.
  const subscribe = useCallback(
    (listener: () => void) => (threadId === null ? () => undefined : threadStore(client, threadId).subscribe(listener)),
    [client, threadId],
  );
  const snapshot = (): Value => (threadId === null ? without : read(threadStore(client, threadId)));
  return useSyncExternalStore(subscribe, snapshot, () => without);
}
