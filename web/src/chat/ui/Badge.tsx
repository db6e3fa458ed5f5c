/**
 * Whether all of a run's events arrived: said only when count and digest were both computed here and both agree. It is
 * about delivery, and quiet: whether the run went well is said above it.
 */

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
        <span>{good ? "Delivery verified" : "Delivery not verified"}</span>
      </button>
      <div id={id} ref={words} class="badge-words" hidden={!open}>
        {good ? (
          <>
            <p>Everything that the agent sent has reached this page, in order and unaltered. {run.view.phase === "finished" ? "This does not mean that the answer is correct." : ENDINGS[run.view.phase] ?? ""}</p>
            <p>The gateway sealed the run with its number of events and a SHA-256 over them; this browser counted {count(proof.count, "event")} and computed the same digest from what it received.</p>
          </>
        ) : (
          <p><strong>This page cannot prove that it received the whole run:</strong> {proof.reason}. {proof.expected.count !== null && `${count(proof.count, "event")} of ${proof.expected.count} arrived.`} Reload to read it from the gateway again.</p>
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

const ENDINGS: { readonly [phase: string]: string } = {
  failed: "The run itself ended early.",
  cancelled: "The run itself was stopped.",
  interrupted: "The run ended with a question.",
};

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
      <Icon name="seal" size={15} /> <span>Verify delivery</span>
    </button>
  );
}
