/**
 * Composables for Vue over a connection of centrifuge-js: a thread, a run, the people who are there. Components that show
 * the same thread share one subscription; it ends with the last of their scopes.
 */

import type { Centrifuge } from "centrifuge";
import { computed, onScopeDispose, shallowReadonly, shallowRef, toValue, watch, type ComputedRef, type MaybeRefOrGetter, type ShallowRef } from "vue";

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
  type ThreadStore,
} from "./thread-store.ts";

export type { MessageItem, PresenceState, PresentUser, RunItem, SendOptions, ThreadItem, ThreadState } from "./thread-store.ts";

export interface Thread {
  state: Readonly<ShallowRef<ThreadState>>;
  /** Send a message; without a thread it begins one. Resolves when the gateway has it. */
  send(text: string, options?: SendOptions): Promise<{ threadId: string; runId: string }>;
  /** Say that the user is typing: at most every three seconds. */
  typing(): void;
}

export interface Run {
  run: Readonly<ShallowRef<RunItem | undefined>>;
  /** Whether it goes on. */
  active: ComputedRef<boolean>;
  cancel(): Promise<unknown>;
  /** Add something while it goes on. */
  steer(text: string): Promise<unknown>;
  /** Answer one of its questions (`view.interrupts`). */
  answer(interruptId: string, payload: Json): Promise<unknown>;
}

type ThreadName = MaybeRefOrGetter<string | null>;

/** A thread and what goes on in it. `threadId` null: none yet. */
export function useThread(client: Centrifuge, threadId: ThreadName): Thread {
  const state = useStore(client, threadId, (store) => store.state(), IDLE);
  const type = typist(client);
  return {
    state,
    send: (text, options) => send(client, toValue(threadId), text, options),
    typing: () => type(toValue(threadId)),
  };
}

/** A run of a thread; without `runId` its last one. */
export function useRun(client: Centrifuge, threadId: ThreadName, runId?: MaybeRefOrGetter<string | undefined>): Run {
  const run = useStore<RunItem | undefined>(client, threadId, (store) => store.run(toValue(runId)), undefined, () => toValue(runId));
  const id = (): string => run.value?.id ?? toValue(runId) ?? "";
  return {
    run,
    active: computed(() => run.value?.view.phase === "waiting" || run.value?.view.phase === "running"),
    cancel: () => cancel(client, id()),
    steer: (text) => steer(client, id(), text),
    answer: (interruptId, payload) => answer(client, id(), interruptId, payload),
  };
}

/** Who has the thread open, and who is typing. */
export function usePresence(client: Centrifuge, threadId: ThreadName): Readonly<ShallowRef<PresenceState>> {
  return useStore(client, threadId, (store) => store.presence(), ABSENT);
}

function useStore<Value>(
  client: Centrifuge,
  threadId: ThreadName,
  read: (store: ThreadStore) => Value,
  without: Value,
  also: () => unknown = () => undefined,
): Readonly<ShallowRef<Value>> {
  const value = shallowRef(without) as ShallowRef<Value>;
  let leave: () => void = () => undefined;
  watch(
    [() => toValue(threadId), also],
    ([id]) => {
      leave();
      leave = () => undefined;
      if (id === null) {
        value.value = without;
        return;
      }
      const store = threadStore(client, id);
      const show = (): void => {
        value.value = read(store);
      };
      leave = store.subscribe(show);
      show();
    },
    { immediate: true, flush: "sync" },
  );
  onScopeDispose(() => leave());
  return shallowReadonly(value) as Readonly<ShallowRef<Value>>;
}
