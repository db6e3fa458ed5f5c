/** The page: signing in, or the sections. */

import type { JSX } from "preact";

import { root } from "../../chat/root.ts";
import { Icon } from "../../chat/ui/icons.tsx";
import { RefusalCard } from "../../chat/ui/RefusalCard.tsx";
import { SignIn } from "../../chat/ui/SignIn.tsx";
import { toggle } from "../../chat/ui/theme.ts";
import type { Console } from "../console.ts";
import { RANGES } from "../history.ts";
import { Connections } from "./Connections.tsx";
import { Handshakes } from "./Handshakes.tsx";
import { Operations } from "./Operations.tsx";
import { Overview } from "./Overview.tsx";
import { Incidents } from "./Incidents.tsx";
import { Runs } from "./Runs.tsx";
import { Tests } from "./Tests.tsx";

const SECTIONS = [
  ["overview", "Overview", Overview],
  ["handshakes", "Handshakes", Handshakes],
  ["connections", "Connections", Connections],
  ["runs", "Runs", Runs],
  ["instances", "Instances", Operations],
  ["tests", "Tests", Tests],
  ["incidents", "Incidents", Incidents],
] as const;

export function Root({ app }: { app: Console }): JSX.Element | null {
  switch (app.stage.value) {
    case "blank":
      return null;
    case "sign-in":
      return <SignIn app={app} purpose="Sign in to watch and operate this gateway." next="/dashboard" command="narthex token --permission operator" />;
    case "unreachable":
    case "forbidden":
      return <Closed app={app} />;
    case "inside":
      return <Inside app={app} />;
  }
}

function Inside({ app }: { app: Console }): JSX.Element {
  const [, title, Section] = SECTIONS.find(([name]) => name === app.section.value) ?? SECTIONS[0];
  const environment = app.config.value.environment ?? "";
  return (
    <div class="console">
      <a class="skip" href="#content" onClick={(event) => { event.preventDefault(); document.getElementById("content")?.focus(); }}>Skip to the figures</a>
      <header>
        <p class="wordmark"><Icon name="arch" size={20} /> narthex</p>
        {environment && <p class="environment" data-environment={environment}>{environment}</p>}
        <p class="live" data-live={String(app.live.value)} role="status"><span class="dot" aria-hidden="true" /> {app.live.value ? "Live" : "Not connected"}</p>
        <div class="spacer" />
        <label class="inline range">Range{" "}
          <select value={app.range.value} onChange={(event) => app.choose(event.currentTarget.value as (typeof RANGES)[number])}>
            {RANGES.map((one) => <option key={one}>{one}</option>)}
          </select>
        </label>
        <button type="button" class="ghost small" aria-label="Change between light and dark" onClick={() => toggle()}><Icon name="sun" /></button>
        <button type="button" class="ghost small" aria-label="Sign out" onClick={() => app.signOut()}><Icon name="leave" /></button>
      </header>
      <nav aria-label="Sections">
        <ul>
          {SECTIONS.map(([name, label]) => (
            <li key={name}><a href={`#/${name}`} aria-current={label === title ? "page" : undefined}>{label}</a></li>
          ))}
          <li><a href={`${root}/status`}>Status page</a></li>
        </ul>
      </nav>
      <main id="content" tabIndex={-1}>
        <h1 class="sr">Dashboard: {title}</h1>
        <h2 class="section-title">{title}</h2>
        {app.historyProblem.value && <p class="problem" role="alert">The history cannot be read: {app.historyProblem.value}.</p>}
        <Section app={app} />
      </main>
      {app.toast.value && <p class="toast" role="status">{app.toast.value}</p>}
    </div>
  );
}

/** The gateway cannot be reached, or does not let this user see the dashboard. */
function Closed({ app }: { app: Console }): JSX.Element {
  const forbidden = app.stage.value === "forbidden";
  const state = app.state.value;
  const refusal = app.refusal.value ?? ("refusal" in state ? state.refusal : null);
  return (
    <main class="door">
      <div class="door-card">
        <p class="wordmark"><Icon name="arch" size={22} /> narthex</p>
        <h1>{forbidden ? "This page is for operators." : "Not right now."}</h1>
        {refusal && <RefusalCard refusal={refusal} />}
        {!forbidden && <button class="primary wide" type="button" onClick={() => app.retry()}>Try now</button>}
        <button class="wide" type="button" onClick={() => app.signOut()}>Sign in as another user</button>
      </div>
    </main>
  );
}
