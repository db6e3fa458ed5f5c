/** An agent's run: what it does while it works, what it says, how it ended, and whether all of it arrived. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

import type { Part, ReasoningPart, ToolPart } from "@narthex/client";

import { answerOf, type RunItem } from "../timeline.ts";
import { Approval } from "./Approval.tsx";
import { Badge } from "./Badge.tsx";
import { CopyButton } from "./CopyButton.tsx";
import { Icon } from "./icons.tsx";
import { Markdown } from "./Markdown.tsx";
import { memo } from "./memo.ts";
import { duration, fullTime, pretty, shortTime } from "./words.ts";
import type { Conversation } from "../conversation.ts";

interface Props {
  run: RunItem;
  conversation: Conversation;
  /** The message that a retry would send again; empty when there is none. */
  question: string;
  last: boolean;
  onRetry: (text: string) => void;
}

export const Run = memo(function Run({ run, conversation, question, last, onRetry }: Props): JSX.Element {
  const { view } = run;
  const live = view.phase === "running";
  const over = !live && view.phase !== "waiting";
  return (
    <article class="run" data-run={run.id} data-parts={view.parts.map((part) => part.id).join(" ")} data-phase={view.phase} aria-busy={live} aria-label={`${run.agent || "Agent"}'s answer`}>
      <header class="who">
        <span class="mark" aria-hidden="true"><Icon name="arch" size={15} /></span>
        <span class="name">{run.agent || "Agent"}</span>
        {run.startedAt > 0 && <time title={fullTime(run.startedAt)}>{shortTime(run.startedAt)}</time>}
        {view.attempt > 1 && <span class="note">attempt {view.attempt}: the gateway began it again</span>}
      </header>
      {groups(view.parts).map((group) =>
        group.kind === "work" ? (
          <ol class="work" key={group.key} aria-label="What the agent did">
            {group.parts.map((part) => <Work key={part.kind + part.id} part={part} live={live} conversation={conversation} />)}
          </ol>
        ) : (
          <Markdown key={group.key} text={group.text} streaming={live && !group.done} />
        ),
      )}
      <Waiting run={run} />
      <Ending run={run} conversation={conversation} />
      {over && (
        <footer class="after">
          {answerOf(run) !== "" && <CopyButton text={() => answerOf(run)} label="Copy answer" words="Copy" />}
          {last && question !== "" && view.phase !== "interrupted" && (
            <button type="button" class="small ghost" onClick={() => onRetry(question)} title="Ask the same question again">
              <Icon name="again" size={15} /> <span>Ask again</span>
            </button>
          )}
          <Badge run={run} conversation={conversation} />
        </footer>
      )}
    </article>
  );
});

type Group = { kind: "work"; key: string; parts: Part[] } | { kind: "text"; key: string; text: string; done: boolean };

/** Neighbouring steps, thoughts and tools share a list; each text stands for itself. */
function groups(parts: readonly Part[]): Group[] {
  const found: Group[] = [];
  parts.forEach((part, place) => {
    if (part.kind === "text") {
      if (part.text !== "") found.push({ kind: "text", key: `t${place}`, text: part.text, done: part.done });
      return;
    }
    const open = found.at(-1);
    if (open?.kind === "work") open.parts.push(part);
    else found.push({ kind: "work", key: `w${place}`, parts: [part] });
  });
  return found;
}

function Work({ part, live, conversation }: { part: Part; live: boolean; conversation: Conversation }): JSX.Element | null {
  switch (part.kind) {
    case "reasoning":
      return <Thought part={part} live={live} />;
    case "tool":
      return <Tool part={part} live={live} />;
    case "step":
      return (
        <li class="row" data-state={part.done ? "done" : "running"}>
          <State done={part.done} live={live} /> <span>{part.name}</span>
        </li>
      );
    case "steer":
      return (
        <li class="row steer" data-state={part.done ? "done" : "running"}>
          <Icon name="steer" size={15} />{" "}
          <span><strong>{conversation.nameOf(part.by)}</strong> added: {part.text}{part.done ? "" : " (not read yet)"}</span>
        </li>
      );
    default:
      return null;
  }
}

function Thought({ part, live }: { part: ReasoningPart; live: boolean }): JSX.Element {
  const thinking = live && !part.done;
  return (
    <li class="row thought" data-state={thinking ? "running" : "done"}>
      <details open={thinking}>
        <summary><State done={!thinking} live={live} /> <span>{thinking ? "Thinking" : "Thought about it"}</span></summary>
        <p>{part.text}</p>
      </details>
    </li>
  );
}

const TOOL_WORDS = { calling: "preparing", running: "running", done: "done" } as const;

function Tool({ part, live }: { part: ToolPart; live: boolean }): JSX.Element {
  const broken = !live && part.state !== "done";
  const words = broken ? "did not finish" : TOOL_WORDS[part.state];
  return (
    <li class="row tool" data-tool={part.name} data-state={broken ? "broken" : part.state}>
      <details>
        <summary>
          <State done={part.state === "done"} live={live} />
          <span><code>{part.name}</code> <span class="brief">{brief(part)}</span></span>
          <span class={part.state === "done" ? "sr" : "state"}>{words}</span>
        </summary>
        {part.args.trim() !== "" && <Json label="Arguments" text={part.args} />}
        {part.state === "done" && <Json label="Result" text={part.result} />}
      </details>
    </li>
  );
}

function Json({ label, text }: { label: string; text: string }): JSX.Element {
  return (
    <div class="json">
      <p>{label}</p>
      <pre tabIndex={0} aria-label={label}>{pretty(text)}</pre>
    </div>
  );
}

/** The arguments in a few words, beside the tool's name. */
function brief(part: ToolPart): string {
  try {
    const args = JSON.parse(part.args) as Record<string, unknown>;
    const shown = Object.entries(args).map(([name, value]) => `${name}: ${typeof value === "object" ? "…" : String(value)}`);
    return shown.join(", ").slice(0, 80);
  } catch {
    return "";
  }
}

function State({ done, live }: { done: boolean; live: boolean }): JSX.Element {
  if (done) return <Icon name="check" size={15} />;
  return live ? <span class="spinner" aria-hidden="true" /> : <Icon name="close" size={15} />;
}

/** What there is to say while nothing is to be seen yet, or for a while. */
function Waiting({ run }: { run: RunItem }): JSX.Element | null {
  const { view, silentFor, position } = run;
  if (view.phase === "waiting") {
    const place = position ? `${position} ahead` : "next in line";
    return <p class="status-line"><span class="dots" aria-hidden="true" /> Queued{position !== null ? `: ${place}` : ""}</p>;
  }
  if (view.phase !== "running") return null;
  if (silentFor >= 5) {
    const text = `Still working; no output for ${duration(silentFor * 1000)}. The connection is fine.`;
    return <p class="status-line"><span class="dots" aria-hidden="true" /> {text}</p>;
  }
  const busy = view.parts.some((part) => (part.kind === "tool" ? part.state !== "done" : !part.done));
  return busy ? null : <p class="status-line"><span class="dots" aria-hidden="true" /> <Elapsed since={run.startedAt} /></p>;
}

/** `Working`, and after a few seconds for how long. */
function Elapsed({ since }: { since: number }): JSX.Element {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  const ms = now - since;
  return <span>Working{since > 0 && ms > 3000 ? ` for ${duration(ms)}` : ""}</span>;
}

function Ending({ run, conversation }: { run: RunItem; conversation: Conversation }): JSX.Element | null {
  const { view, stop } = run;
  if (view.phase === "running" && stop) return <p class="status-line">{stopWords(run)}</p>;
  if (view.phase === "failed" && view.error) {
    return (
      <div class="ending bad">
        <p><strong>The run ended early.</strong> {view.error.message}</p>
        <p class="facts">{[view.error.code, took(run) > 50 ? `after ${duration(took(run))}` : ""].filter(Boolean).join(" · ")}</p>
      </div>
    );
  }
  if (view.phase === "cancelled") {
    const after = stop?.state === "acknowledged" ? ` The gateway acknowledged it in ${stop.ms} ms.` : "";
    const by = run.stoppedBy ? conversation.nameOf(run.stoppedBy) : stop ? "You" : "";
    const when = run.startedAt === 0 ? " before it began" : took(run) > 50 ? ` after ${duration(took(run))}` : "";
    return <p class="ending">Stopped{by ? ` by ${by === "You" ? "you" : by}` : ""}{when}.{after}</p>;
  }
  if (view.phase === "finished" && view.parts.length === 0) return <p class="ending">The agent ended without an answer.</p>;
  if (view.phase === "interrupted") {
    return (
      <>
        {view.interrupts.map((question) => (
          <Approval key={question.id} run={run} question={question} conversation={conversation} answered={run.answered.includes(question.id)} answeredBy={run.answeredBy ? conversation.nameOf(run.answeredBy) : ""} />
        ))}
      </>
    );
  }
  return null;
}

/** Milliseconds from a run's beginning to its end; 0 where one of them is not known. */
function took({ startedAt, endedAt }: RunItem): number {
  return startedAt > 0 && endedAt > startedAt ? endedAt - startedAt : 0;
}

function stopWords({ stop }: RunItem): string {
  if (stop?.state === "asked") return "Stopping …";
  if (stop?.state === "acknowledged") return `Stop acknowledged in ${stop.ms} ms; waiting for the agent to stop.`;
  return stop?.state === "failed" ? `It could not be stopped: ${stop.problem}` : "";
}
