/** Where one writes. Enter sends, Shift+Enter begins a line, Ctrl+Enter adds to the run that is going on. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import type { App } from "../app.ts";
import { said, type Conversation } from "../conversation.ts";
import { TEXT_BYTES, sizeOf } from "../drafts.ts";
import { AgentPicker, Completions, completions } from "./AgentPicker.tsx";
import { Icon } from "./icons.tsx";
import { composing } from "./keys.ts";

/** From here on the size is shown; below, counting it would only cost time. */
const NEAR_FULL = 0.8;

export function Composer({ app, conversation, onSent }: { app: App; conversation: Conversation; onSent: () => void }): JSX.Element {
  const [text, setText] = useState(conversation.draft);
  const area = useRef<HTMLTextAreaElement>(null);
  const [at, setAt] = useState(0);
  const [closed, setClosed] = useState(false);
  const { link } = app.connection;
  void conversation.items.value; // what is active follows from the items
  const active = conversation.active;
  const stopping = active?.stop != null && active.stop.state !== "failed";
  const offline = link.value.phase !== "connected";
  // No text is shorter in bytes than in UTF-16 units.
  const size = text.length * 3 < TEXT_BYTES * NEAR_FULL ? 0 : sizeOf(text.trim());
  const tooLong = size > TEXT_BYTES;

  const found = closed ? [] : completions(text, app.agents.value);
  const place = found.length ? Math.min(at, found.length - 1) : -1;

  function write(next: string): void {
    setText(next);
    setAt(0);
    setClosed(false);
    conversation.draft = next;
  }

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
    if (!written || offline || tooLong) return;
    write("");
    // A failure is shown where the message stands, with a way to try again.
    conversation.send(written).catch(() => undefined);
    onSent();
  }

  async function steer(): Promise<void> {
    const written = text.trim();
    if (!written || !active || tooLong) return;
    try {
      await conversation.steer(active, written);
      write("");
    } catch (error) {
      app.say(said(error));
    }
  }

  function complete(name: string): void {
    write(`@${name} `);
    area.current?.focus();
  }

  /** Keys that belong to the list of agents while it is open. Whether this was one. */
  function listKeys(event: KeyboardEvent): boolean {
    if (!found.length || composing(event)) return false;
    const step = { ArrowDown: 1, ArrowUp: found.length - 1 }[event.key];
    if (step !== undefined) setAt((place + step) % found.length);
    else if (event.key === "Enter" || event.key === "Tab") complete(found[place]!.name);
    else if (event.key === "Escape") setClosed(true);
    else return false;
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  function keys(event: KeyboardEvent): void {
    if (listKeys(event)) return;
    if (event.key !== "Enter" || event.shiftKey || composing(event)) return;
    event.preventDefault();
    if ((event.ctrlKey || event.metaKey) && active) void steer();
    else send();
  }

  const hint = active ? "Enter queues the message, Ctrl+Enter adds to this run, Esc stops it" : "Enter sends, Shift+Enter starts a new line";
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); send(); }}>
      <label class="sr" for="composer">Message</label>
      {found.length > 0 && <Completions id="composer-agents" found={found} at={place} onChoose={(agent) => complete(agent.name)} />}
      <textarea ref={area} id="composer" rows={1} dir="auto" placeholder={active ? "Add to this run, or ask the next question" : "Write a message"}
        aria-autocomplete="list" aria-haspopup="listbox" aria-controls="composer-agents" aria-activedescendant={place >= 0 ? `composer-agents-${place}` : undefined}
        aria-describedby="composer-hint" aria-invalid={tooLong} value={text} onKeyDown={keys}
        onInput={(event) => { write(event.currentTarget.value); conversation.type(); }} />
      {tooLong && (
        <p class="problem too-long" role="alert">
          This message has {size.toLocaleString()} bytes; a message may have {TEXT_BYTES.toLocaleString()}. Shorten it, or send it in parts. Nothing was cut.
        </p>
      )}
      <div class="composer-row">
        <AgentPicker app={app} conversation={conversation} />
        {size > TEXT_BYTES * NEAR_FULL && !tooLong && <p class="hint size">{(TEXT_BYTES - size).toLocaleString()} bytes left</p>}
        <p class="hint" id="composer-hint">{offline ? "Not connected: your text stays here." : hint}</p>
        {active && text.trim() !== "" && (
          <button type="button" class="small" disabled={tooLong} onClick={() => void steer()} title="Ctrl+Enter"><Icon name="steer" size={15} /> Add to this run</button>
        )}
        {active && (
          <button type="button" class="stop" disabled={stopping} onClick={() => void conversation.stop(active)} aria-label="Stop the run" title="Esc">
            <Icon name="stop" size={16} /> <span>{stopping ? "Stopping …" : "Stop"}</span>
          </button>
        )}
        <button type="submit" class="primary send" disabled={offline || tooLong || text.trim() === ""} aria-label="Send"><Icon name="send" /></button>
      </div>
    </form>
  );
}
