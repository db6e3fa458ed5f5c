/** The newest audit records: who did what to whom. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

import type { Console } from "../console.ts";
import { moment } from "../format.ts";

interface AuditRecord {
  at: number;
  kind: string;
  tenant: string;
  subject: string;
  /** JSON text. */
  detail: string;
}

export function Audits({ app }: { app: Console }): JSX.Element {
  const [records, setRecords] = useState<AuditRecord[]>([]);
  useEffect(() => void app.attempt(async () => setRecords((await app.get<{ audits: AuditRecord[] }>("/api/v1/operator/audits?limit=100")).audits)), []);
  return (
    <section class="panel" aria-labelledby="audits-title">
      <div class="panel-head"><h3 id="audits-title">Audit records</h3></div>
      {records.length === 0 ? <p class="no-data">There is none yet.</p> : (
        <div class="scroll" tabIndex={0} role="region" aria-labelledby="audits-title">
          <table class="list">
            <thead><tr><th scope="col">When</th><th scope="col">What</th><th scope="col">Tenant</th><th scope="col">Subject</th><th scope="col">Detail</th></tr></thead>
            <tbody>
              {records.map((one, at) => (
                <tr key={at}><td>{moment(one.at)}</td><th scope="row">{one.kind}</th><td>{one.tenant}</td><td class="code">{one.subject}</td><td class="code">{one.detail}</td></tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}
