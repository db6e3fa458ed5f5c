/** Threads, search, who one is, and how the connection is doing. On a phone it slides over the thread. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import type { App } from "../app.ts";
import { Icon } from "./icons.tsx";
import { current, toggle } from "./theme.ts";
import { initials, shortTime } from "./words.ts";

interface Props {
  app: App;
  open: boolean;
  onClose: () => void;
  onSearch: () => void;
}

export function Sidebar({ app, open, onClose, onSearch }: Props): JSX.Element {
  const box = useRef<HTMLElement>(null);
  const here = app.conversation.value?.id.value ?? "";
  const unseen = app.unseen.value;
  const me = app.me.value;
  const working = new Set(app.working.value.values());
  useEffect(() => {
    if (open) box.current?.querySelector<HTMLElement>("button, a")?.focus();
  }, [open]);
  return (
    <>
      <nav class={open ? "side open" : "side"} ref={box} aria-label="Threads" onKeyDown={(event) => { if (event.key === "Escape" && open) { event.stopPropagation(); onClose(); } }}>
        <p class="wordmark"><Icon name="arch" size={20} /> narthex
          <button type="button" class="ghost only-phone close-side" aria-label="Close" onClick={onClose}><Icon name="close" /></button>
        </p>
        <div class="side-actions">
          <button type="button" class="wide" onClick={() => { app.go(""); onClose(); }}><Icon name="plus" size={16} /> New thread</button>
          <button type="button" class="ghost" onClick={onSearch} aria-label="Search" title="Search (Ctrl+K)"><Icon name="search" /></button>
        </div>
        <ul class="threads">
          {app.threads.value.map((thread) => {
            const id = thread.thread_id;
            return (
              <li key={id}>
                <a href={`#/t/${encodeURIComponent(id)}`} aria-current={id === here ? "page" : undefined} onClick={onClose}>
                  <span class="thread-title">{thread.title || "Untitled"}</span>
                  {working.has(id) ? <span class="spinner" role="img" aria-label="an agent is at work" /> : unseen.has(id) ? <span class="unseen"><span class="sr">something new</span></span> : <time>{shortTime(thread.updated_at * 1000)}</time>}
                </a>
              </li>
            );
          })}
          {app.moreThreads.value && <li><button type="button" class="small ghost" onClick={() => void app.attempt(() => app.moreOfList())}>Older threads</button></li>}
          {me && app.threads.value.length === 0 && <li class="hint none">What you talk about will be listed here.</li>}
        </ul>
        <Foot app={app} />
      </nav>
      {open && <div class="veil" onClick={onClose} />}
    </>
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
