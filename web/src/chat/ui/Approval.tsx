/** A question of the agent's: the form that its JSON Schema asks for, or just two buttons when it is a yes or no. */

import type { JSX } from "preact";
import { useId, useState } from "preact/hooks";

import type { Interrupt, Json } from "@narthex/client";

import { said, type Conversation } from "../conversation.ts";
import { blank, decision, fieldsOf, gather, gatherForNo, type Decision, type Field, type Values } from "../schema.ts";
import type { RunItem } from "../timeline.ts";
import { Icon } from "./icons.tsx";
import { Markdown } from "./Markdown.tsx";
import { fullTime } from "./words.ts";

interface Props {
  run: RunItem;
  question: Interrupt;
  conversation: Conversation;
  answered: boolean;
  /** Name; empty where it is not known. */
  answeredBy: string;
}

export function Approval({ run, question, conversation, answered, answeredBy }: Props): JSX.Element {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const ends = endOf(question);
  const over = run.expired.includes(question.id) || (run.source === "live" && ends > 0 && ends < Date.now());
  const who = conversation.answerers(run, question);

  async function send(payload: Json): Promise<void> {
    setBusy(true);
    setProblem("");
    try {
      await conversation.answer(run, question.id, payload);
    } catch (error) {
      setProblem(said(error));
    } finally {
      setBusy(false);
    }
  }

  const title = (
    <div class="ask-title">
      <Icon name={answered ? "check" : "warn"} size={16} />
      <Markdown text={question.message || "The agent asks for your approval."} streaming={false} />
    </div>
  );
  if (answered) return <section class="ask answered" aria-label="Answered question">{title}<p class="hint">{answeredBy ? `Answered by ${answeredBy === "You" ? "you" : answeredBy}.` : "Answered."}</p></section>;
  if (over) return <section class="ask answered" aria-label="Expired question">{title}<p class="hint">No user answered in time; the agent was informed.</p></section>;
  const choice = decision(question.responseSchema);
  return (
    <section class="ask" aria-label="The agent asks you" data-interrupt={question.id}>
      {title}
      {!who.me ? null : choice ? (
        <DecisionForm schema={question.responseSchema} choice={choice} busy={busy} onSend={send} onProblem={setProblem} />
      ) : (
        <SchemaForm schema={question.responseSchema} busy={busy} onSend={send} onProblem={setProblem} />
      )}
      {problem && <p class="problem" role="alert">{problem}</p>}
      <p class="hint">{who.words}{ends > 0 ? `, until ${fullTime(ends)}` : ""}.</p>
    </section>
  );
}

function endOf({ expiresAt }: Interrupt): number {
  if (typeof expiresAt === "number") return expiresAt * 1000;
  return expiresAt ? Date.parse(expiresAt) || 0 : 0;
}

interface FormProps {
  schema: Json | undefined;
  busy: boolean;
  onSend: (payload: Json) => Promise<void>;
  onProblem: (problem: string) => void;
}

function DecisionForm({ schema, choice, busy, onSend, onProblem }: FormProps & { choice: Decision }): JSX.Element {
  const [values, setValues] = useState<Values>(() => blank(choice.fields));
  function decide(yes: boolean): void {
    if (!yes) return void onSend(choice.payload(false, gatherForNo(choice.fields, values)));
    const added = gather(schema, choice.fields, values);
    if ("problem" in added) onProblem(added.problem);
    else void onSend(choice.payload(true, added.payload));
  }
  return (
    <form onSubmit={(event) => { event.preventDefault(); decide(true); }}>
      {choice.fields.map((field) => (
        <Input key={field.key} field={field} value={values[field.key] ?? ""} onChange={(value) => setValues((before) => ({ ...before, [field.key]: value }))} />
      ))}
      <div class="buttons">
        <button type="submit" class="primary" disabled={busy}>{choice.yes}</button>
        <button type="button" disabled={busy} onClick={() => decide(false)}>{choice.no}</button>
      </div>
    </form>
  );
}

function SchemaForm({ schema, busy, onSend, onProblem }: FormProps): JSX.Element {
  const fields = fieldsOf(schema);
  const [values, setValues] = useState<Values>(() => blank(fields));
  function submit(event: Event): void {
    event.preventDefault();
    const gathered = gather(schema, fields, values);
    if ("problem" in gathered) onProblem(gathered.problem);
    else void onSend(gathered.payload);
  }
  return (
    <form onSubmit={submit}>
      {fields.map((field) => (
        <Input key={field.key} field={field} value={values[field.key] ?? ""} onChange={(value) => setValues((before) => ({ ...before, [field.key]: value }))} />
      ))}
      <div class="buttons"><button type="submit" class="primary" disabled={busy}>Send answer</button></div>
    </form>
  );
}

function Input({ field, value, onChange }: { field: Field; value: string; onChange: (value: string) => void }): JSX.Element {
  const id = useId();
  const common = { id, required: field.required, "aria-describedby": field.description ? `${id}-d` : undefined };
  const note = field.description && <p class="hint" id={`${id}-d`}>{field.description}</p>;
  if (field.input === "boolean") {
    return (
      <div class="field">
        <label class="check"><input {...common} required={false} type="checkbox" checked={value === "true"} onChange={(event) => onChange(String(event.currentTarget.checked))} /> {field.label}</label>
        {note}
      </div>
    );
  }
  return (
    <div class="field">
      <label for={id}>{field.label}{field.required ? "" : " (optional)"}</label>
      {field.input === "choice" ? (
        <select {...common} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
          {!field.required && <option value="" />}
          {field.choices.map((choice, place) => <option key={place} value={JSON.stringify(choice)}>{String(choice)}</option>)}
        </select>
      ) : field.input === "number" ? (
        <input {...common} type="number" step={field.integer ? 1 : "any"} min={field.minimum} max={field.maximum} value={value} onInput={(event) => onChange(event.currentTarget.value)} />
      ) : field.input === "json" || field.long ? (
        <textarea {...common} rows={field.input === "json" ? 4 : 2} spellcheck={field.input !== "json"} value={value} onInput={(event) => onChange(event.currentTarget.value)} />
      ) : (
        <input {...common} type="text" maxLength={field.maxLength} value={value} onInput={(event) => onChange(event.currentTarget.value)} />
      )}
      {note}
    </div>
  );
}
