/** The open thread: header, timeline, composer. */

import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import type { Refusal } from "@narthex/client";

import type { App } from "../app.ts";
import type { Conversation } from "../conversation.ts";
import { exportThread } from "../export.ts";
import type { Item, MessageItem } from "../timeline.ts";
import { Composer } from "./Composer.tsx";
import { Icon } from "./icons.tsx";
import { composing } from "./keys.ts";
import { Members } from "./Members.tsx";
import { Menu } from "./Menu.tsx";
import { Message } from "./Message.tsx";
import { RefusalCard } from "./RefusalCard.tsx";
import { Run } from "./Run.tsx";
import { Welcome } from "./Welcome.tsx";
import { initials } from "./words.ts";

/** Nearer to the end than this counts as reading along. */
const NEAR_PX = 120;

export function Thread({ app, conversation, onMenu }: { app: App; conversation: Conversation; onMenu: () => void }): JSX.Element {
  const scroller = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const [away, setAway] = useState(false);
  const items = conversation.items.value;
  const state = conversation.state.value;
  const typing = conversation.typing.value;
  const wanted = conversation.wanted.value;

  useLayoutEffect(() => {
    const box = scroller.current;
    if (box && following.current) box.scrollTop = items.length ? box.scrollHeight : 0;
  }, [items, state, typing]);

  useEffect(() => {
    // The dock and what is said grow and shrink: whoever reads along stays at the end.
    const box = scroller.current!;
    // A thread without messages greets: on a small or enlarged screen that begins at the top.
    const observer = new ResizeObserver(() => { if (following.current && conversation.items.peek().length) box.scrollTop = box.scrollHeight; });
    observer.observe(box);
    observer.observe(box.firstElementChild!);
    return () => observer.disconnect();
  }, []);

  useEffect(() => {
    if (!wanted || !items.length) return;
    const mark = CSS.escape(wanted);
    const found = scroller.current?.querySelector(`[data-message="${mark}"], [data-parts~="${mark}"]`);
    conversation.wanted.value = "";
    history.replaceState(null, "", `#/t/${encodeURIComponent(conversation.id.value)}`);
    if (!found) return;
    following.current = false;
    found.scrollIntoView({ block: "center" });
  }, [items, wanted]);

  function scrolled(): void {
    const box = scroller.current!;
    following.current = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_PX;
    setAway(!following.current);
  }

  function toEnd(): void {
    following.current = true;
    const box = scroller.current!;
    box.scrollTo({ top: box.scrollHeight, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  const retry = (message: MessageItem): void => void conversation.send(message.text, message.id).catch(() => undefined);
  const discard = (message: MessageItem): void => conversation.discard(message.id);
  const again = (text: string): void => {
    following.current = true;
    conversation.send(text).catch(() => undefined);
  };

  return (
    <main class="thread" id="main">
      <Header app={app} conversation={conversation} onMenu={onMenu} />
      <div class="scroller" ref={scroller} onScroll={scrolled} tabIndex={-1}>
        <div class="column">
          {state === "loading" && <p class="status-line"><span class="dots" aria-hidden="true" /> Opening the thread</p>}
          {state === "failed" && <p class="ending bad" role="alert">{conversation.problem.value}</p>}
          {state === "new" && items.length === 0 && <Welcome app={app} conversation={conversation} onAsk={(text) => void conversation.send(text).catch(() => undefined)} />}
          {conversation.more.value && (
            <button type="button" class="small center" onClick={() => void app.attempt(() => conversation.older())}>Earlier messages</button>
          )}
          <Items app={app} conversation={conversation} items={items} onRetry={retry} onDiscard={discard} onAgain={again} />
          <Typing names={typing} />
        </div>
      </div>
      {away && <button type="button" class="to-end" onClick={toEnd}><Icon name="down" size={16} /> Latest</button>}
      <div class="dock">
        <Banner app={app} />
        <Composer app={app} conversation={conversation} onSent={() => { following.current = true; }} />
      </div>
      <div class="sr" role="status" aria-live="polite" aria-relevant="additions">{conversation.said.value.map(({ id, text }) => <p key={id}>{text}</p>)}</div>
    </main>
  );
}

interface ItemsProps {
  app: App;
  conversation: Conversation;
  items: readonly Item[];
  onRetry: (message: MessageItem) => void;
  onDiscard: (message: MessageItem) => void;
  onAgain: (text: string) => void;
}

function Items({ app, conversation, items, onRetry, onDiscard, onAgain }: ItemsProps): JSX.Element {
  const me = app.me.value?.user ?? "";
  const seen = seenUpTo(conversation, items, me);
  let question = "";
  return (
    <div class="items" role="log" aria-live="off" aria-label="Messages">
      {items.map((item, place) => {
        if (item.kind === "message") {
          question = item.text;
          const mine = item.author === me;
          const name = mine ? "You" : item.name || conversation.nameOf(item.author);
          return <Message key={item.id} message={item} mine={mine} name={name} seenBy={seen.get(item.id) ?? ""} onRetry={onRetry} onDiscard={onDiscard} />;
        }
        return <Run key={item.id} run={item} conversation={conversation} question={question} last={place === items.length - 1} onRetry={onAgain} />;
      })}
    </div>
  );
}

/** For the last of one's own messages that somebody has read: who. */
function seenUpTo(conversation: Conversation, items: readonly Item[], me: string): Map<string, string> {
  const found = new Map<string, string[]>();
  for (const [user, offset] of conversation.read.value) {
    if (user === me || offset === 0) continue;
    const last = items.findLast((item) => item.kind === "message" && item.author === me && item.offset > 0 && item.offset <= offset);
    if (last) found.set(last.id, [...(found.get(last.id) ?? []), conversation.nameOf(user)]);
  }
  return new Map([...found].map(([id, names]) => [id, names.join(", ")]));
}

function Header({ app, conversation, onMenu }: { app: App; conversation: Conversation; onMenu: () => void }): JSX.Element {
  const [renaming, setRenaming] = useState(false);
  const [people, setPeople] = useState(false);
  const id = conversation.id.value;
  const title = conversation.title.value || (id ? "Untitled" : "New thread");
  const others = conversation.present.value.filter((one) => one.user !== app.me.value?.user);
  return (
    <header class="bar">
      <button type="button" class="ghost only-phone" onClick={onMenu} aria-label="Threads"><Icon name="menu" /></button>
      {renaming ? (
        <Rename title={title} onDone={(next) => { setRenaming(false); if (next && next !== title) void app.attempt(() => conversation.rename(next)); }} />
      ) : (
        <h1 class="bar-title" title={title}>{title}</h1>
      )}
      {others.length > 0 && (
        <span class="present" aria-label={`Here now: ${others.map((one) => one.name || one.user).join(", ")}`}>
          {others.slice(0, 3).map((one) => <span class="face" key={one.user} title={`${one.name || one.user} is here`}>{initials(one.name || one.user)}</span>)}
          {others.length > 3 && <span class="face">+{others.length - 3}</span>}
        </span>
      )}
      {id && (
        <>
          <button type="button" class="ghost" onClick={() => setPeople(true)} aria-label="People in this thread" title="People"><Icon name="people" /></button>
          <Menu label="More about this thread" icon="more" entries={[
            { text: "Rename", run: () => setRenaming(true) },
            { text: "Export as Markdown", run: () => void app.attempt(() => exportThread(app, conversation, "md")) },
            { text: "Export as JSON", run: () => void app.attempt(() => exportThread(app, conversation, "json")) },
            ...(conversation.role.value === "owner"
              ? [{ text: "Delete for all members", danger: true, confirm: "Really delete for all members", run: () => void app.attempt(() => app.remove(id)) }]
              : [{ text: "Leave", danger: true, confirm: "Really leave", run: () => void app.attempt(() => app.leave([id])) }]),
          ]} />
        </>
      )}
      {people && <Members app={app} conversation={conversation} onClose={() => setPeople(false)} />}
    </header>
  );
}

function Rename({ title, onDone }: { title: string; onDone: (title: string) => void }): JSX.Element {
  const field = useRef<HTMLInputElement>(null);
  const [value, setValue] = useState(title);
  useEffect(() => field.current?.select(), []);
  return (
    <form class="rename" onSubmit={(event) => { event.preventDefault(); onDone(value.trim()); }}>
      <label class="sr" for="rename">Title</label>
      <input ref={field} id="rename" maxLength={200} value={value} onInput={(event) => setValue(event.currentTarget.value)}
        onBlur={() => onDone(value.trim())} onKeyDown={(event) => { if (event.key === "Escape" && !composing(event)) { event.stopPropagation(); onDone(""); } }} />
    </form>
  );
}

function Typing({ names }: { names: readonly string[] }): JSX.Element | null {
  if (!names.length) return null;
  return <p class="status-line typing"><span class="dots" aria-hidden="true" /> {names.join(", ")} {names.length === 1 ? "is" : "are"} typing</p>;
}

/** The state of the session and of its connection where one writes: only when there is something to say. */
function Banner({ app }: { app: App }): JSX.Element | null {
  const state = app.state.value;
  const link = app.connection.link.value;
  if (state.name === "refused") {
    return (
      <div class="banner">
        <RefusalCard refusal={state.refusal} />
        <button type="button" onClick={() => app.retry()}>Connect again</button>
      </div>
    );
  }
  const words = state.name === "offline" ? `${state.refusal.title}.`
    : state.name === "renewing" ? "Renewing your sign-in."
    : link.phase === "connecting" && (link.attempt > 0 || link.refusal) ? whyDown(link.refusal) : "";
  if (!words) return null;
  return (
    <div class="banner soft">
      <span class="spinner" aria-hidden="true" />
      <p role="status">{words} Retrying automatically; all messages are kept.</p>
      <button type="button" class="small" onClick={() => app.retry()}>Try now</button>
    </div>
  );
}

function whyDown(refusal: Refusal | null): string {
  return refusal && refusal.code !== "unreachable" ? `${refusal.title}.` : "The connection is down.";
}
