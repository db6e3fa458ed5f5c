/** Who is connected where: a filter, a page of the list, and what can be done from there. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

import type { Console } from "../console.ts";
import { age, count, moment } from "../format.ts";
import { LiveTrace } from "./LiveTrace.tsx";

interface Entry {
  client: string;
  node: string;
  since: number;
  user?: string;
  tenant?: string;
  name?: string;
  plan?: string;
  traffic?: string;
  transport?: string;
  library?: string;
  address?: string;
  slow?: boolean;
  pending_bytes?: number;
  subscriptions?: string[];
  subscription_count?: number;
}

interface Page {
  connections: Entry[];
  next: string;
  missing: string[];
}

export interface Subject {
  tenant: string;
  user: string;
  client: string;
}

const FIELDS = [["user", "User"], ["tenant", "Tenant"], ["node", "Node"]] as const;

export function ConnectionList({ app }: { app: Console }): JSX.Element {
  const [filter, setFilter] = useState<Record<string, string>>({ ...app.wanted.value });
  const [pages, setPages] = useState<Page[]>([]);
  const [busy, setBusy] = useState(false);
  const [traced, setTraced] = useState<Subject | null>(null);

  async function read(before = ""): Promise<void> {
    setBusy(true);
    const query = new URLSearchParams({ limit: "50", ...(before ? { before } : {}) });
    for (const [name, value] of Object.entries(filter)) if (value) query.set(name, value);
    await app.attempt(async () => {
      const page = await app.get<Page>(`/api/v1/operator/connections?${query}`);
      setPages((known) => (before ? [...known, page] : [page]));
    });
    setBusy(false);
  }

  useEffect(() => void read(), []);

  async function act(what: string, path: string, body: object): Promise<void> {
    if (!confirm(`${what}?`)) return;
    if (await app.attempt(() => app.post(path, body))) {
      app.say("Done. It is in the audit records.");
      setTimeout(() => void read(), 500);
    }
  }

  const entries = pages.flatMap((page) => page.connections);
  const missing = pages.at(-1)?.missing ?? [];
  const next = pages.at(-1)?.next ?? "";
  const now = Date.now() / 1000;
  return (
    <section class="panel" aria-labelledby="connections-title">
      <div class="panel-head">
        <h3 id="connections-title">Who is connected</h3>
        <form class="controls" onSubmit={(event) => { event.preventDefault(); void read(); }}>
          {FIELDS.map(([name, label]) => (
            <label key={name} class="inline">{label}{" "}
              <input value={filter[name] ?? ""} size={12} onInput={(event) => setFilter({ ...filter, [name]: event.currentTarget.value.trim() })} />
            </label>
          ))}
          <label class="inline">Class{" "}
            <select value={filter["class"] ?? ""} onChange={(event) => setFilter({ ...filter, class: event.currentTarget.value })}>
              <option value="">all</option><option>user</option><option>guest</option><option>e2e</option>
            </select>
          </label>
          <label class="inline"><input type="checkbox" checked={filter["slow"] === "1"} onChange={(event) => setFilter({ ...filter, slow: event.currentTarget.checked ? "1" : "" })} />Slow only</label>
          <button type="submit" class="small" disabled={busy}>{busy ? "Reading …" : "Show"}</button>
        </form>
      </div>
      {missing.length > 0 && <p class="problem">No answer from {missing.join(", ")}: their connections are not listed.</p>}
      {entries.length === 0 ? <p class="no-data">{busy ? "Reading …" : "No connection fits."}</p> : (
        <div class="scroll" tabIndex={0} role="region" aria-labelledby="connections-title">
          <table class="list connections">
            <thead>
              <tr><th scope="col">User</th><th scope="col">Plan</th><th scope="col">Connected for</th><th scope="col">Client</th><th scope="col">Node</th><th scope="col">Subscriptions</th><th scope="col">Lag</th><th scope="col">Actions</th></tr>
            </thead>
            <tbody>
              {entries.map((one) => {
                const subject = { tenant: one.tenant ?? "default", user: one.user ?? "", client: one.client };
                const who = one.user ? `${one.user} (${one.tenant})` : "a connection without proof";
                return (
                  <tr key={one.client} data-slow={String(Boolean(one.slow))}>
                    <th scope="row"><strong>{one.user || "not proven"}</strong> <span class="kind">{one.tenant}</span><span class="code id">{one.client}</span></th>
                    <td>{one.plan || "–"}{one.traffic && one.traffic !== "user" ? `, ${one.traffic}` : ""}</td>
                    <td title={moment(one.since)}>{age(now - one.since)}</td>
                    <td>{one.library || "unknown"}<span class="remedy">{one.transport}, {one.address}</span></td>
                    <td class="code"><a href="#/instances" aria-label={`${one.node}: show the instances, to drain one`}>{one.node}</a></td>
                    <td>{count(one.subscription_count ?? 0)}{one.subscriptions?.length ? <span class="code remedy">{one.subscriptions.slice(0, 3).join(" ")}</span> : null}</td>
                    <td>{one.slow ? `slow, ${count(one.pending_bytes ?? 0)} bytes` : "none"}</td>
                    <td>
                      {one.user && (
                        <span class="buttons">
                          <button type="button" class="small" aria-label={`Trace ${who}`} onClick={() => setTraced(subject)}>Trace</button>
                          <button type="button" class="small" aria-label={`Disconnect ${who}`} onClick={() => void act(`Disconnect ${who}`, "/api/v1/disconnect", subject)}>Disconnect</button>
                          <button type="button" class="small danger" aria-label={`Revoke all tokens of ${who}`} onClick={() => void act(`Revoke all tokens of ${who}`, "/api/v1/revoke", { kind: "subject", value: subject.user, tenant: subject.tenant, reason: "from the dashboard" })}>Revoke</button>
                        </span>
                      )}
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
      {next && <button type="button" class="small" disabled={busy} onClick={() => void read(next)}>Show more</button>}
      {traced && <LiveTrace key={traced.client} app={app} subject={traced} onClose={() => setTraced(null)} />}
    </section>
  );
}
