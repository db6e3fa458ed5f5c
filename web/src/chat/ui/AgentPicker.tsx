/** Whom one asks: a list where there are several agents, and completion after `@` in the message. */

import type { JSX } from "preact";
import { useId } from "preact/hooks";

import type { App } from "../app.ts";
import type { Conversation } from "../conversation.ts";
import type { AgentInfo } from "../wire.ts";

/** The agent that the next message goes to; null while none is known. */
export function agentOf(app: App, conversation: Conversation): AgentInfo | null {
  const agents = app.agents.value;
  return agents.find((agent) => agent.name === conversation.agent.value) ?? agents[0] ?? null;
}

export function AgentPicker({ app, conversation }: { app: App; conversation: Conversation }): JSX.Element | null {
  const agents = app.agents.value;
  const id = useId();
  if (agents.length < 2) return null;
  const chosen = agentOf(app, conversation);
  return (
    <>
      <label class="sr" for={id}>Agent</label>
      <select id={id} class="agent-picker" title={chosen?.description} value={chosen?.name} onChange={(event) => { conversation.agent.value = event.currentTarget.value; }}>
        {agents.map((agent) => <option key={agent.name} value={agent.name}>{agent.name}</option>)}
      </select>
    </>
  );
}

/** Agents whose name goes on with what follows an `@` at the beginning of the text; none where there is no such `@`. */
export function completions(text: string, agents: readonly AgentInfo[]): readonly AgentInfo[] {
  const typed = /^@([^\s]*)$/.exec(text)?.[1]?.toLowerCase();
  if (typed === undefined) return [];
  return agents.filter(({ name }) => name.toLowerCase().startsWith(typed) && name.toLowerCase() !== typed);
}

interface CompletionsProps {
  id: string;
  found: readonly AgentInfo[];
  at: number;
  onChoose: (agent: AgentInfo) => void;
}

/** The list over the message field; the field keeps the focus and names the active entry. */
export function Completions({ id, found, at, onChoose }: CompletionsProps): JSX.Element {
  return (
    <ul class="completions" id={id} role="listbox" aria-label="Agents">
      {found.map((agent, place) => (
        <li key={agent.name} id={`${id}-${place}`} role="option" aria-selected={place === at}
          onPointerDown={(event) => { event.preventDefault(); onChoose(agent); }}>
          <strong>@{agent.name}</strong> <span class="hint">{agent.description}</span>
        </li>
      ))}
    </ul>
  );
}
