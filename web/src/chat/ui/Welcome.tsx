/** An empty thread: a word of welcome and things to ask. */

import type { JSX } from "preact";

import type { App } from "../app.ts";

const IDEAS = [
  { title: "How are you?", text: "How healthy is this gateway right now?" },
  { title: "Turned away", text: "Why would I be refused with 401?" },
  { title: "Something longer", text: "Watch the gateway for 10 seconds and tell me how it goes." },
  { title: "Ask me first", text: "Check every part of the gateway, with my approval." },
];

export function Welcome({ app, onAsk }: { app: App; onAsk: (text: string) => void }): JSX.Element {
  const name = app.me.value?.name.split(" ")[0] ?? "";
  return (
    <section class="welcome">
      <h2>{greeting()}{name ? `, ${name}` : ""}.</h2>
      <p class="quiet">Ask anything. You will see what the agent does while it works, and whether all of it arrived.</p>
      <ul class="ideas">
        {IDEAS.map((idea) => (
          <li key={idea.title}>
            <button type="button" onClick={() => onAsk(idea.text)}><strong>{idea.title}</strong><span>{idea.text}</span></button>
          </li>
        ))}
      </ul>
    </section>
  );
}

function greeting(): string {
  const hour = new Date().getHours();
  return hour < 5 || hour >= 18 ? "Good evening" : hour < 12 ? "Good morning" : "Good afternoon";
}
