/** A thread as the page shows it: a pure function of the events of its channel. */

import { EMPTY_VIEW, fold, type AguiEvent, type RunView } from "@narthex/client";

/** A user's message, or a run: an agent's answer. `answered`: its question has an answer, of any user on any device. */
export type Item =
  | { kind: "message"; id: string; author: string; text: string }
  | { kind: "run"; id: string; view: RunView; answered: boolean };

/** The items after one more event. An event with a `runId` belongs to that run; the others are users' messages. */
export function append(items: readonly Item[], event: AguiEvent): readonly Item[] {
  if (event.runId) {
    const id = event.runId;
    // The answer to a question opens a new run, which names the one that asked.
    const asking = event.type === "RUN_STARTED" ? event.parentRunId : undefined;
    const known = items.map((item) => (item.kind === "run" && item.id === asking ? { ...item, answered: true } : item));
    return change(known, id, { kind: "run", id, view: EMPTY_VIEW, answered: false }, (item) =>
      item.kind === "run" ? { ...item, view: fold(item.view, event) } : item,
    );
  }
  if (event.type === "TEXT_MESSAGE_START") {
    const id = event.messageId;
    return change(items, id, { kind: "message", id, author: event.name ?? "", text: "" }, (item) => item);
  }
  if (event.type === "TEXT_MESSAGE_CONTENT") {
    const { messageId: id, delta } = event;
    return items.map((item) => (item.kind === "message" && item.id === id ? { ...item, text: delta } : item));
  }
  return items;
}

function change(items: readonly Item[], id: string, fresh: Item, update: (item: Item) => Item): readonly Item[] {
  const known = items.some((item) => item.id === id);
  return (known ? items : [...items, fresh]).map((item) => (item.id === id ? update(item) : item));
}
