/** Where one writes. Enter sends, Shift+Enter begins a line, Ctrl+Enter adds to the run that is going on. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import type { App } from "../app.ts";
import { said, type Conversation } from "../conversation.ts";
import { Icon } from "./icons.tsx";
import { composing } from "./keys.ts";

/** Of a message's 32 KB, in characters that may take four bytes each: the gateway has the last word. */
const MAX_CHARS = 30_000;

export function Composer({ app, conversation, onSent }: { app: App; conversation: Conversation; onSent: () => void }): JSX.Element {
  const [text, setText] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);
  const { link } = app.connection;
  void conversation.items.value; // what is active follows from the items
  const active = conversation.active;
  const stopping = active?.stop != null && active.stop.state !== "failed";
  const offline = link.value.phase !== "connected";

  useEffect(() => {
    // On a phone a focus would open the keyboard over the thread.
    if (matchMedia("(hover: hover)").matches) area.current?.focus();
  }, [conversation]);

  useEffect(() => {
    const field = area.current;
    if (!field) return;
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight, innerHeight * 0.4)}px`;
  }, [text]);

  function send(): void {
    const written = text.trim();
    if (!written || offline) return;
    setText("");
    // A failure is shown where the message stands, with a way to try again.
    conversation.send(written).catch(() => undefined);
    onSent();
  }

  async function steer(): Promise<void> {
    const written = text.trim();
    if (!written || !active) return;
    try {
      await conversation.steer(active, written);
      setText("");
    } catch (error) {
      app.say(said(error));
    }
  }

  function keys(event: KeyboardEvent): void {
    if (event.key !== "Enter" || event.shiftKey || composing(event)) return;
    event.preventDefault();
    if ((event.ctrlKey || event.metaKey) && active) void steer();
    else send();
  }

  const hint = active ? "Enter waits its turn, Ctrl+Enter adds to this run, Esc stops it" : "Enter sends, Shift+Enter begins a new line";
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); send(); }}>
      <label class="sr" for="composer">Message</label>
      <textarea ref={area} id="composer" rows={1} maxLength={MAX_CHARS} placeholder={active ? "Add something, or ask the next thing" : "Write a message"}
        aria-describedby="composer-hint" value={text} onKeyDown={keys}
        onInput={(event) => { setText(event.currentTarget.value); conversation.type(); }} />
      <div class="composer-row">
        <p class="hint" id="composer-hint">{offline ? "Not connected: what you write stays here." : hint}</p>
        {active && text.trim() !== "" && (
          <button type="button" class="small" onClick={() => void steer()} title="Ctrl+Enter"><Icon name="steer" size={15} /> Add to this run</button>
        )}
        {active && (
          <button type="button" class="stop" disabled={stopping} onClick={() => void conversation.stop(active)} aria-label="Stop the run" title="Esc">
            <Icon name="stop" size={16} /> <span>{stopping ? "Stopping …" : "Stop"}</span>
          </button>
        )}
        <button type="submit" class="primary send" disabled={offline || text.trim() === ""} aria-label="Send"><Icon name="send" /></button>
      </div>
    </form>
  );
}
