/** Whether the whole run arrived: green only when count and digest were both computed here and both agree. */

import type { JSX } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";

import { said, type Conversation } from "../conversation.ts";
import type { RunItem } from "../timeline.ts";
import { Icon } from "./icons.tsx";
import { count } from "./words.ts";

export function Badge({ run, conversation }: { run: RunItem; conversation: Conversation }): JSX.Element {
  const [open, setOpen] = useState(false);
  const id = useId();
  const words = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (open) words.current?.scrollIntoView({ block: "nearest" });
  }, [open]);
  const { proof } = run;
  if (proof === null && run.source === "stored") return <Check run={run} conversation={conversation} />;
  if (proof === null) return <span class="badge">Checking …</span>;
  const good = proof.complete;
  return (
    <span class="badge-holder">
      <button type="button" class={good ? "badge good" : "badge doubtful"} aria-expanded={open} aria-controls={id} onClick={() => setOpen(!open)}
        onKeyDown={(event) => { if (event.key === "Escape" && open) { event.stopPropagation(); setOpen(false); } }}>
        <Icon name={good ? "seal" : "warn"} size={15} />
        <span>{good ? "Nothing missing" : "Not proven"}</span>
      </button>
      <div id={id} ref={words} class="badge-words" hidden={!open}>
        {good ? (
          <>
            <p>The gateway sealed this run with its number of events and a SHA-256 over them. This browser counted {count(proof.count, "event")} and computed the same digest from what it received.</p>
            <p>So every event arrived once, in order and unaltered, whatever the connection did. It does not say that the answer is right.</p>
          </>
        ) : (
          <p><strong>This run could not be proven complete:</strong> {proof.reason}. {proof.expected.count !== null && `${count(proof.count, "event")} of ${proof.expected.count} arrived.`} Reload to read it from the gateway again.</p>
        )}
        <dl>
          <dt>Events</dt><dd>{proof.count}{proof.expected.count !== null ? ` of ${proof.expected.count}` : ""}</dd>
          <dt>Digest</dt><dd><code>{proof.digest || "not computed"}</code></dd>
          <dt>Run</dt><dd><code>{run.id}</code></dd>
        </dl>
      </div>
    </span>
  );
}

/** A run from the thread's history: its text is there, its events can be read again and checked on demand. */
function Check({ run, conversation }: { run: RunItem; conversation: Conversation }): JSX.Element {
  const [state, setState] = useState("");
  async function check(): Promise<void> {
    setState("Checking …");
    try {
      await conversation.check(run);
    } catch (error) {
      setState(said(error));
    }
  }
  if (state) return <span class="badge" role="status">{state}</span>;
  return (
    <button type="button" class="small ghost" onClick={() => void check()} title="Read the run's events again and check that none is missing">
      <Icon name="seal" size={15} /> <span>Check</span>
    </button>
  );
}
