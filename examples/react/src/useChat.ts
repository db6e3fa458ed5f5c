/** One thread, live: its items, the state of the connection, and what a user can do. */

import { isEvent } from "@narthex/client";
import type { Centrifuge, PublicationContext } from "centrifuge";
import { useCallback, useEffect, useReducer, useState } from "react";
import { append, type Item } from "./conversation";
import { createClient } from "./gateway";

export interface Chat {
  items: readonly Item[];
  /** Words for the user: `connected`, `connecting…`, or why the gateway refused. */
  status: string;
  send: (text: string) => Promise<void>;
  cancel: (runId: string) => Promise<void>;
  answer: (runId: string, interruptId: string, payload: unknown) => Promise<void>;
}

type Action = { publication: PublicationContext } | "clear";

function reduce(items: readonly Item[], action: Action): readonly Item[] {
  if (action === "clear") return [];
  const { data } = action.publication;
  return isEvent(data) ? append(items, data) : items;
}

/** `threadId`: from the page's address; null until the first message makes one. */
export function useChat(threadId: string | null, onThread: (threadId: string) => void): Chat {
  const [client, setClient] = useState<Centrifuge | null>(null);
  const [status, setStatus] = useState("connecting…");
  const [items, dispatch] = useReducer(reduce, []);

  useEffect(() => {
    const made = createClient(({ title, remedy }) => setStatus(`${title}. ${remedy}`));
    made.on("connected", () => setStatus("connected"));
    made.on("connecting", () => setStatus("connecting…"));
    made.connect();
    setClient(made);
    return () => made.disconnect();
  }, []);

  useEffect(() => {
    if (!client || !threadId) return;
    // From the beginning of the channel. After an outage the SDK asks for what it missed, by itself.
    const subscription = client.newSubscription(`thread:${threadId}`, { since: { offset: 0, epoch: "" } });
    subscription.on("publication", (publication) => dispatch({ publication }));
    subscription.on("unsubscribed", ({ code, reason }) => code !== 0 && setStatus(reason));
    subscription.subscribe();
    return () => {
      subscription.unsubscribe();
      client.removeSubscription(subscription);
      dispatch("clear");
    };
  }, [client, threadId]);

  const call = useCallback(
    async (method: string, params: object) => (await client!.rpc(method, params)).data,
    [client],
  );
  const send = useCallback(
    async (text: string) => {
      const message = { text, client_message_id: crypto.randomUUID() };
      const { thread_id } = await call("run.start", threadId ? { ...message, thread_id: threadId } : message);
      if (!threadId) onThread(thread_id);
    },
    [call, threadId, onThread],
  );
  return {
    items,
    status,
    send,
    cancel: (runId) => call("run.cancel", { run_id: runId }),
    answer: (runId, interruptId, payload) =>
      call("run.resume", { run_id: runId, interrupt_id: interruptId, payload }),
  };
}
