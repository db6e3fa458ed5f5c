/** The whole page: signing in, or the threads. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

import type { App } from "../app.ts";
import { Invite } from "./Invite.tsx";
import { Join } from "./Join.tsx";
import { RefusalCard } from "./RefusalCard.tsx";
import { Search } from "./Search.tsx";
import { Sidebar } from "./Sidebar.tsx";
import { SignIn, Unreachable } from "./SignIn.tsx";
import { Thread } from "./Thread.tsx";
import { composing } from "./keys.ts";

export function Root({ app }: { app: App }): JSX.Element | null {
  switch (app.stage.value) {
    case "blank":
      return null;
    case "sign-in":
      return <SignIn app={app} />;
    case "unreachable":
      return <Unreachable app={app} />;
    case "inside":
      return <Inside app={app} />;
  }
}

function Inside({ app }: { app: App }): JSX.Element {
  const [side, setSide] = useState(false);
  const [searching, setSearching] = useState(false);
  const conversation = app.conversation.value;
  const id = conversation?.id.value ?? "";

  useEffect(() => {
    if (conversation && id && !location.hash.startsWith(`#/t/${encodeURIComponent(id)}`)) app.settled(id);
  }, [conversation, id]);

  useEffect(() => {
    const title = conversation?.title.value;
    const count = app.attention.count.value;
    document.title = `${count ? `(${count}) ` : ""}${title ? `${title} · narthex` : "narthex"}`;
  }, [conversation?.title.value, app.attention.count.value]);

  useEffect(() => {
    const keys = (event: KeyboardEvent): void => {
      if (composing(event)) return;
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        setSearching(true);
      } else if (event.key === "Escape" && !event.defaultPrevented) {
        const open = app.conversation.value;
        if (open?.active) void open.stop(open.active);
      }
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);

  return (
    <div class="inside">
      <a class="skip" href="#composer" onClick={(event) => { event.preventDefault(); document.getElementById("composer")?.focus(); }}>Skip to the message field</a>
      <Sidebar app={app} open={side} onClose={() => setSide(false)} onSearch={() => { setSide(false); setSearching(true); }} />
      {conversation ? <Thread key={conversation.serial} app={app} conversation={conversation} onMenu={() => setSide(true)} /> : <Arriving app={app} />}
      {searching && <Search app={app} onClose={() => setSearching(false)} />}
      {app.inviting.value && app.me.value && <Invite app={app} {...app.inviting.value} onClose={() => (app.inviting.value = null)} />}
      {app.joining.value && app.me.value && <Join key={app.joining.value} app={app} token={app.joining.value} onClose={() => (app.joining.value = "")} />}
      {app.toast.value && <p class="toast" role="status">{app.toast.value}</p>}
    </div>
  );
}

/** Signed in, not connected yet. */
function Arriving({ app }: { app: App }): JSX.Element {
  const link = app.connection.link.value;
  const state = app.state.value;
  const slow = link.phase === "connecting" && (link.attempt > 0 || link.refusal !== null);
  const waiting = state.name === "offline" || state.name === "refused";
  const refusal = waiting ? state.refusal : link.phase === "connecting" ? link.refusal : null;
  return (
    <main class="thread arriving">
      <div class="column">
        {refusal && <RefusalCard refusal={refusal} />}
        {slow && !refusal && <p class="status-line" role="status">No connection yet. Trying again.</p>}
        {(slow || waiting) && (
          <div class="buttons">
            <button type="button" onClick={() => app.retry()}>Try now</button>
            <button type="button" class="ghost" onClick={() => app.signOut()}>Sign out</button>
          </div>
        )}
      </div>
    </main>
  );
}
