/** An empty thread: a word of welcome, and what the chosen agent suggests to ask. */

import type { JSX } from "preact";

import type { App } from "../app.ts";
import type { Conversation } from "../conversation.ts";
import { agentOf } from "./AgentPicker.tsx";

export function Welcome({ app, conversation, onAsk }: { app: App; conversation: Conversation; onAsk: (text: string) => void }): JSX.Element {
  const agent = agentOf(app, conversation);
  const name = app.me.value?.name.split(" ")[0] ?? "";
  return (
    <section class="welcome">
      <h2>{greeting()}{name ? `, ${name}` : ""}.</h2>
      <p class="quiet">{agent?.description || "Ask anything. You will see what the agent does while it works."}</p>
      {agent && agent.suggestions.length > 0 && (
        <ul class="ideas" aria-label="Suggestions">
          {agent.suggestions.map((text) => <li key={text}><button type="button" dir="auto" onClick={() => onAsk(text)}>{text}</button></li>)}
        </ul>
      )}
    </section>
  );
}

function greeting(): string {
  const hour = new Date().getHours();
  return hour < 5 || hour >= 18 ? "Good evening" : hour < 12 ? "Good morning" : "Good afternoon";
}
