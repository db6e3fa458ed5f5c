/** What a person wrote. */

import type { JSX } from "preact";

import type { MessageItem } from "../timeline.ts";
import { CopyButton } from "./CopyButton.tsx";
import { Icon } from "./icons.tsx";
import { memo } from "./memo.ts";
import { fullTime, shortTime } from "./words.ts";

interface Props {
  message: MessageItem;
  mine: boolean;
  name: string;
  /** Others who have read as far as this. */
  seenBy: string;
  onRetry: (message: MessageItem) => void;
  onDiscard: (message: MessageItem) => void;
}

export const Message = memo(function Message({ message, mine, name, seenBy, onRetry, onDiscard }: Props): JSX.Element {
  const { state } = message;
  return (
    <article class={mine ? "said mine" : "said"} data-message={message.id} data-state={state} aria-label={`${name} wrote`}>
      <header class="who">
        <span class="name">{name}</span>
        <time title={fullTime(message.at)}>{shortTime(message.at)}</time>
        <CopyButton text={() => message.text} label="Copy message" />
      </header>
      <p class="said-text" dir="auto">{message.text}</p>
      {state === "sending" && <p class="said-state">Sending …</p>}
      {state === "failed" && (
        <p class="said-state bad" role="alert">
          Not sent: {message.problem}{" "}
          <button type="button" class="small" onClick={() => onRetry(message)}><Icon name="again" size={14} /> Try again</button>{" "}
          <button type="button" class="small ghost" onClick={() => onDiscard(message)}>Discard</button>
        </p>
      )}
      {seenBy && <p class="said-state">Seen by {seenBy}</p>}
    </article>
  );
});
