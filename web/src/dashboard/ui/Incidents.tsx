/** Incidents and maintenance of the status page: what is announced, and announcing it. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

import type { Console } from "../console.ts";
import { Problem } from "../../chat/session.ts";

interface Incident {
  id: string;
  kind: string;
  title: string;
  state: string;
  open: boolean;
  impact: string;
  components: string[];
  starts_at: string;
  ends_at: string | null;
  updates: { at: string; state: string; text: string }[];
}

interface Answer {
  components: { id: string; name: string }[];
  incidents: Incident[];
  maintenance: Incident[];
}

const STATES = ["investigating", "identified", "monitoring", "resolved"];

export function Incidents({ app }: { app: Console }): JSX.Element {
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [elsewhere, setElsewhere] = useState("");
  const [planned, setPlanned] = useState(false);

  async function read(): Promise<void> {
    try {
      setAnswer(await app.get<Answer>("/api/v1/incidents"));
    } catch (error) {
      setElsewhere(error instanceof Problem ? error.message : "The status service cannot be read.");
    }
  }
  useEffect(() => void read(), []);

  async function send(event: SubmitEvent, path: string, body: (form: FormData) => object, done: string): Promise<void> {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    if (await app.attempt(() => app.post(path, body(new FormData(form))))) {
      form.reset();
      app.say(done);
      await read();
    }
  }

  const text = (form: FormData, name: string): string => String(form.get(name) ?? "").trim();
  const all = [...(answer?.incidents ?? []), ...(answer?.maintenance ?? [])];
  return (
    <>
      <section class="panel" aria-labelledby="announce-title">
        <div class="panel-head">
          <h3 id="announce-title">Announce on the status page</h3>
          <label class="inline"><input type="checkbox" checked={planned} onChange={(event) => setPlanned(event.currentTarget.checked)} />Planned maintenance</label>
        </div>
        {elsewhere ? <p class="no-data">{elsewhere}</p> : (
          <form class="announce" onSubmit={(event) => void send(event, planned ? "/api/v1/maintenance" : "/api/v1/incidents", (form) => ({
            title: text(form, "title"), text: text(form, "text"), components: form.getAll("component"),
            ...(planned ? { starts_at: moment(text(form, "starts")), ends_at: moment(text(form, "ends")) } : { impact: text(form, "impact") }),
          }), planned ? "The maintenance is announced." : "The incident is open.")}>
            <label for="incident-title">Title</label>
            <input id="incident-title" name="title" required maxLength={120} />
            <label for="incident-text">What customers should know</label>
            <textarea id="incident-text" name="text" required rows={3} maxLength={4000} />
            {planned ? (
              <p class="controls">
                <label class="inline">From <input name="starts" type="datetime-local" required /></label>
                <label class="inline">to <input name="ends" type="datetime-local" required /></label>
              </p>
            ) : (
              <p class="controls">
                <label class="inline">Impact{" "}
                  <select name="impact"><option>degraded</option><option>outage</option><option>none</option></select>
                </label>
              </p>
            )}
            <fieldset class="controls">
              <legend class="hint">Concerns (none chosen: everything)</legend>
              {answer?.components.map((one) => <label key={one.id} class="inline"><input type="checkbox" name="component" value={one.id} />{one.name}</label>)}
            </fieldset>
            <p><button type="submit" class="small primary">{planned ? "Announce" : "Open incident"}</button></p>
          </form>
        )}
      </section>
      {all.map((one) => (
        <section key={one.id} class="panel" aria-labelledby={`incident-${one.id}`}>
          <div class="panel-head">
            <h3 id={`incident-${one.id}`}>{one.title}</h3>
            <p class="hint">{one.kind}, {one.state}, impact {one.impact}, since {when(one.starts_at)}{one.ends_at ? ` until ${when(one.ends_at)}` : ""}</p>
          </div>
          <ol class="updates">
            {one.updates.map((update) => <li key={update.at}><span class="hint">{when(update.at)}, {update.state}</span><p>{update.text}</p></li>)}
          </ol>
          {one.open && (
            <form class="controls" onSubmit={(event) => void send(event, `/api/v1/incidents/${one.id}/updates`, (form) => ({ text: text(form, "text"), state: text(form, "state") }), "The update is published.")}>
              <label class="inline wide-field">Update <input name="text" required maxLength={4000} /></label>
              <label class="inline">State{" "}
                <select name="state">{(one.kind === "incident" ? STATES : ["", "resolved"]).map((state) => <option key={state} value={state} selected={state === one.state}>{state || "unchanged"}</option>)}</select>
              </label>
              <button type="submit" class="small">Publish</button>
            </form>
          )}
        </section>
      ))}
      {answer && all.length === 0 && <p class="no-data">No incident and no maintenance in the last 90 days.</p>}
    </>
  );
}

/** Seconds since the epoch of a local date and time. */
function moment(local: string): number {
  return new Date(local).getTime() / 1000;
}

function when(text: string): string {
  return new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}
