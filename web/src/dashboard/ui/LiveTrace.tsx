/** What one user, or one connection, sends and receives, as it happens. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import type { Console } from "../console.ts";
import { clock, count } from "../format.ts";
import type { Subject } from "./ConnectionList.tsx";

interface TraceEntry {
  at: number;
  node: string;
  client?: string;
  direction: "in" | "out" | "note";
  kind?: string;
  size?: number;
  body?: string;
}

const KEPT = 500;

/** All entries, each once, in the order of their moments. */
function merged(known: readonly TraceEntry[], more: readonly TraceEntry[]): TraceEntry[] {
  const found = new Map([...known, ...more].map((one) => [JSON.stringify(one), one]));
  return [...found.values()].sort((a, b) => a.at - b.at).slice(-KEPT);
}

export function LiveTrace({ app, subject, onClose }: { app: Console; subject: Subject; onClose: () => void }): JSX.Element {
  const [whole, setWhole] = useState(false);
  const [seconds, setSeconds] = useState(120);
  const [payloads, setPayloads] = useState(false);
  const [id, setId] = useState("");
  const [ended, setEnded] = useState(false);
  const [entries, setEntries] = useState<TraceEntry[]>([]);
  const heading = useRef<HTMLHeadingElement>(null);

  useEffect(() => heading.current?.focus(), []);
  useEffect(() => {
    if (!id) return;
    const channel = `operator:trace-${id}`;
    const subscription = app.connection.live(channel);
    subscription.on("publication", ({ data }) => {
      const event = data as { entries: TraceEntry[]; ended: boolean };
      setEntries((known) => merged(known, event.entries));
      if (event.ended) setEnded(true);
    });
    // What was shown before the subscription, or while it was interrupted.
    subscription.on("subscribed", () => void app.attempt(async () => {
      const { entries: before, running } = await app.get<{ entries: TraceEntry[]; running: boolean }>(`/api/v1/operator/traces/${id}`);
      setEntries((known) => merged(known, before));
      if (!running) setEnded(true);
    }));
    subscription.subscribe();
    return () => app.connection.drop(channel);
  }, [id]);

  async function begin(event: Event): Promise<void> {
    event.preventDefault();
    await app.attempt(async () => {
      const body = { user: subject.user, tenant: subject.tenant, client: whole ? "" : subject.client, seconds, payloads };
      const trace = await app.post<{ trace_id: string }>("/api/v1/operator/traces", body);
      setEntries([]);
      setEnded(false);
      setId(trace.trace_id);
    });
  }

  const end = (): void => void app.attempt(() => app.post("/api/v1/operator/traces/end", { trace_id: id }));
  return (
    <div class="trace-box">
      <div class="panel-head">
        <h3 ref={heading} tabIndex={-1}>Live trace of {subject.user}</h3>
        <button type="button" class="small ghost" onClick={() => { if (id && !ended) end(); onClose(); }}>Close</button>
      </div>
      {!id || ended ? (
        <form class="controls" onSubmit={(event) => void begin(event)}>
          <label class="inline">Of{" "}
            <select value={whole ? "user" : "client"} onChange={(event) => setWhole(event.currentTarget.value === "user")}>
              <option value="client">this connection</option><option value="user">all connections of the user</option>
            </select>
          </label>
          <label class="inline">For{" "}
            <select value={String(seconds)} onChange={(event) => setSeconds(Number(event.currentTarget.value))}>
              <option value="60">1 minute</option><option value="120">2 minutes</option><option value="600">10 minutes</option>
            </select>
          </label>
          <label class="inline"><input type="checkbox" checked={payloads} onChange={(event) => setPayloads(event.currentTarget.checked)} />Show payloads</label>
          <button type="submit" class="small primary">Start</button>
        </form>
      ) : <p class="controls"><span class="live" data-live="true"><span class="dot" aria-hidden="true" /> Tracing</span> <button type="button" class="small" onClick={end}>End</button></p>}
      <p class="hint">Start and end are audit records. Texts are masked{payloads ? " unless the gateway's setting allows payloads" : ""}; credentials are never shown.</p>
      {id && (
        <div class="scroll" tabIndex={0} role="log" aria-label={`Messages of ${subject.user}`}>
          <table class="list trace-list">
            <thead class="sr"><tr><th scope="col">Time</th><th scope="col">Direction</th><th scope="col">Message</th><th scope="col">Size</th></tr></thead>
            <tbody>
              {entries.map((one, at) => (
                <tr key={at} data-direction={one.direction}>
                  <td class="num">{clock(one.at)}</td>
                  <td>{one.direction === "in" ? "→ in" : one.direction === "out" ? "← out" : ""}</td>
                  <td>{one.direction === "note" ? <em>{one.body}</em> : <><strong>{one.kind}</strong> <code class="code">{one.body}</code></>}</td>
                  <td class="num">{one.size ? `${count(one.size)} B` : ""}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </div>
  );
}
