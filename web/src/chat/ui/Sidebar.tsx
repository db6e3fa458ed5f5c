/** Invitations, threads by date, search, who one is, and how the connection is doing. On a phone it slides over the thread. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import type { App } from "../app.ts";
import type { Thread } from "../wire.ts";
import { Blocked } from "./Blocked.tsx";
import { Icon } from "./icons.tsx";
import { Invitations } from "./Invitations.tsx";
import { composing } from "./keys.ts";
import { Menu } from "./Menu.tsx";
import { current, toggle } from "./theme.ts";
import { dateGroup, initials, shortTime } from "./words.ts";

interface Props {
  app: App;
  open: boolean;
  onClose: () => void;
  onSearch: () => void;
}

export function Sidebar({ app, open, onClose, onSearch }: Props): JSX.Element {
  const box = useRef<HTMLElement>(null);
  /** Ids of the threads that were picked; null while none are being picked. */
  const [picked, setPicked] = useState<ReadonlySet<string> | null>(null);
  const [blocked, setBlocked] = useState(false);
  const me = app.me.value;
  useEffect(() => {
    if (open) box.current?.querySelector<HTMLElement>("button, a")?.focus();
  }, [open]);

  function keys(event: KeyboardEvent): void {
    if (event.key !== "Escape" || composing(event) || (!open && picked === null)) return;
    event.stopPropagation();
    if (picked !== null) setPicked(null);
    else onClose();
  }

  return (
    <>
      <nav class={open ? "side open" : "side"} ref={box} aria-label="Threads" onKeyDown={keys}>
        <p class="wordmark"><Icon name="arch" size={20} /> narthex
          <button type="button" class="ghost only-phone close-side" aria-label="Close" onClick={onClose}><Icon name="close" /></button>
        </p>
        <div class="side-actions">
          <button type="button" class="wide" onClick={() => { app.go(""); onClose(); }}><Icon name="plus" size={16} /> New thread</button>
          <button type="button" class="ghost" onClick={onSearch} aria-label="Search" title="Search (Ctrl+K)"><Icon name="search" /></button>
          <Menu label="More about your threads" icon="more" entries={[
            { text: "Select threads", run: () => setPicked(new Set()) },
            { text: "Blocked people", run: () => setBlocked(true) },
            ...(app.attention.possible
              ? [{ text: app.attention.allowed.value ? "Turn notifications off" : "Notify me when an agent is done", run: () => void app.attempt(() => app.attention.toggle()) }]
              : []),
          ]} />
        </div>
        <div class="threads">
          <Invitations app={app} onDone={onClose} />
          <Threads app={app} picked={picked} onPick={setPicked} onOpen={onClose} />
          {app.moreThreads.value && <button type="button" class="small ghost" onClick={() => void app.attempt(() => app.moreOfList())}>Older threads</button>}
          {me && app.threads.value.length === 0 && <p class="hint none">Your threads will be listed here.</p>}
        </div>
        {picked !== null && <Picked app={app} picked={picked} onDone={() => setPicked(null)} />}
        <Foot app={app} />
      </nav>
      {open && <div class="veil" onClick={onClose} />}
      {blocked && <Blocked app={app} onClose={() => setBlocked(false)} />}
    </>
  );
}

interface ThreadsProps {
  app: App;
  picked: ReadonlySet<string> | null;
  onPick: (picked: ReadonlySet<string>) => void;
  onOpen: () => void;
}

function Threads({ app, picked, onPick, onOpen }: ThreadsProps): JSX.Element {
  const groups: { name: string; threads: Thread[] }[] = [];
  for (const thread of app.threads.value) {
    const name = dateGroup(thread.updated_at * 1000);
    const last = groups.at(-1);
    if (last?.name === name) last.threads.push(thread);
    else groups.push({ name, threads: [thread] });
  }
  const pick = (id: string): void => {
    const changed = new Set(picked);
    if (!changed.delete(id)) changed.add(id);
    onPick(changed);
  };
  return (
    <>
      {groups.map(({ name, threads }) => (
        <section key={name} aria-label={name}>
          <h2 class="group">{name}</h2>
          <ul>
            {threads.map((thread) => picked === null
              ? <Entry key={thread.thread_id} app={app} thread={thread} onOpen={onOpen} />
              : <li key={thread.thread_id}><label class="check pick"><input type="checkbox" checked={picked.has(thread.thread_id)} onChange={() => pick(thread.thread_id)} /> <span class="thread-title" dir="auto">{thread.title || "Untitled"}</span></label></li>)}
          </ul>
        </section>
      ))}
    </>
  );
}

function Entry({ app, thread, onOpen }: { app: App; thread: Thread; onOpen: () => void }): JSX.Element {
  const id = thread.thread_id;
  const here = app.conversation.value?.id.value === id;
  const working = [...app.working.value.values()].includes(id);
  return (
    <li>
      <a href={`#/t/${encodeURIComponent(id)}`} aria-current={here ? "page" : undefined} onClick={onOpen}>
        <span class="thread-title" dir="auto">{thread.title || "Untitled"}</span>
        {working ? <span class="spinner" role="img" aria-label="an agent is working" />
          : app.unseen.value.has(id) ? <span class="unseen"><span class="sr">new messages</span></span>
          : <time>{shortTime(thread.updated_at * 1000)}</time>}
      </a>
    </li>
  );
}

/** What can be done with the threads that were picked. Each is asked for twice. */
function Picked({ app, picked, onDone }: { app: App; picked: ReadonlySet<string>; onDone: () => void }): JSX.Element {
  const [sure, setSure] = useState("");
  const ids = [...picked];
  const many = ids.length === 1 ? "1 thread" : `${ids.length} threads`;

  function press(what: "leave" | "delete"): void {
    if (sure !== what) return setSure(what);
    void app.attempt(() => (what === "leave" ? app.leave(ids) : app.removeMany(ids))).then(onDone);
  }

  return (
    <div class="picked" role="group" aria-label="Selected threads">
      <p class="hint" role="status">{many} selected</p>
      <div class="buttons">
        <button type="button" class="small danger" disabled={!ids.length} onClick={() => press("leave")}>{sure === "leave" ? `Really leave ${many}` : "Leave"}</button>
        <button type="button" class="small danger" disabled={!ids.length} onClick={() => press("delete")}>{sure === "delete" ? `Really delete ${many}, for everybody` : "Delete"}</button>
        <button type="button" class="small ghost" onClick={onDone}>Cancel</button>
      </div>
    </div>
  );
}

const LINK_WORDS = { idle: "Not connected", connecting: "Connecting …", connected: "Connected", refused: "Refused" } as const;

/** The session's state counts before the connection's: without a session there is nothing to connect with. */
function status(app: App): { phase: string; text: string } {
  const { phase } = app.connection.link.value;
  switch (app.state.value.name) {
    case "renewing":
      return { phase: "connecting", text: "Renewing the sign-in …" };
    case "offline":
      return { phase: "connecting", text: "Offline" };
    case "leaving":
      return { phase: "idle", text: "Signing out …" };
    default:
      return { phase, text: LINK_WORDS[phase] };
  }
}

function Foot({ app }: { app: App }): JSX.Element {
  const [theme, setTheme] = useState(current);
  const { phase, text } = status(app);
  const me = app.me.value;
  const name = me?.name || me?.user || "";
  const other = theme === "dark" ? "light" : "dark";
  return (
    <footer class="side-foot">
      {name && <span class="face" aria-hidden="true">{initials(name)}</span>}
      <span class="person">
        <strong title={me?.user}>{name}</strong>
        <span class="hint link" data-phase={phase} role="status">{text}</span>
      </span>
      <button type="button" class="ghost" aria-label={`Switch to ${other} colours`} title={`Switch to ${other} colours`} onClick={() => setTheme(toggle())}><Icon name={theme === "dark" ? "sun" : "moon"} /></button>
      {me?.class === "guest" ? (
        <button type="button" class="small" onClick={() => app.guestSignsIn()}>Sign in</button>
      ) : (
        <button type="button" class="ghost" aria-label="Sign out" title="Sign out" disabled={app.state.value.name === "leaving"} onClick={() => app.signOut()}><Icon name="leave" /></button>
      )}
    </footer>
  );
}
