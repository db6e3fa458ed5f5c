/** The newest refusals, as they come: why, what helps, with what, from what kind of address, and the trace id to look for. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";

import { connectionsOf, type Console } from "../console.ts";
import { clock } from "../format.ts";

export function Refusals({ app, most }: { app: Console; most: number }): JSX.Element {
  const [code, setCode] = useState("");
  const [held, setHeld] = useState<typeof all | null>(null);
  void app.version.value;
  const all = app.fleet.refusals;
  const codes = [...new Set(all.map((one) => one.code))].sort();
  const shown = (held ?? all).filter((one) => !code || one.code === code).slice(0, most);
  return (
    <section class="panel" aria-labelledby="refusals-title">
      <div class="panel-head">
        <h3 id="refusals-title">Newest refusals</h3>
        <div class="controls">
          <label class="inline">Reason{" "}
            <select value={code} onChange={(event) => setCode(event.currentTarget.value)}>
              <option value="">all</option>
              {codes.map((one) => <option key={one}>{one}</option>)}
            </select>
          </label>
          <button type="button" class="small" aria-pressed={held !== null} onClick={() => setHeld(held ? null : [...all])}>{held ? "Continue" : "Pause"}</button>
        </div>
      </div>
      {shown.length === 0 ? <p class="no-data">No handshake was refused lately.</p> : (
        <div class="scroll" tabIndex={0} role="region" aria-labelledby="refusals-title">
          <table class="list refusals">
            <thead><tr><th scope="col">Time</th><th scope="col">Reason</th><th scope="col">User</th><th scope="col">Credential</th><th scope="col">From</th><th scope="col">Node</th><th scope="col">Trace id</th></tr></thead>
            <tbody>
              {shown.map((one) => (
                <tr key={`${one.at}${one.trace_id}`}>
                  <td class="num">{clock(one.at)}</td>
                  <td><strong class="code">{one.code}</strong> {one.detail}{one.remedy && <span class="remedy">{one.remedy}</span>}</td>
                  <td>{one.user ? <a href={connectionsOf({ user: one.user, tenant: one.tenant ?? "" })} aria-label={`${one.user}: show the connections`}>{one.user}</a> : "not proven"}</td>
                  <td>{one.carriers?.join(", ") || "none"}</td>
                  <td>{one.address ?? "unknown"}{one.traffic ? `, ${one.traffic}` : ""}</td>
                  <td class="code">{one.node && <a href={connectionsOf({ node: one.node })} aria-label={`${one.node}: show the connections`}>{one.node}</a>}</td>
                  <td class="code trace">{one.trace_id}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {app.fleet.omitted > 0 && <p class="hint">{app.fleet.omitted} more in the last second are not listed.</p>}
    </section>
  );
}
