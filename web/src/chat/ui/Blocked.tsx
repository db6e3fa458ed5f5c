/** Whom one has blocked: they cannot invite one to their threads. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

import type { App } from "../app.ts";
import { said } from "../conversation.ts";
import { Dialog } from "./Dialog.tsx";

export function Blocked({ app, onClose }: { app: App; onClose: () => void }): JSX.Element {
  const [users, setUsers] = useState<string[] | null>(null);
  const [problem, setProblem] = useState("");
  const read = (): void => void app.blocked().then(setUsers, (error: unknown) => setProblem(said(error)));
  useEffect(read, []);
  return (
    <Dialog title="Blocked people" onClose={onClose}>
      <p class="quiet">They cannot invite you to threads and are not notified. Threads that you share stay as they are.</p>
      {problem && <p class="problem" role="alert">{problem}</p>}
      {users?.length === 0 && <p class="hint">You have not blocked any users.</p>}
      <ul class="people">
        {users?.map((user) => (
          <li key={user}>
            <span class="person"><code>{user}</code></span>
            <button type="button" class="small" onClick={() => void app.attempt(() => app.unblock(user)).then(read)}>Unblock<span class="sr"> {user}</span></button>
          </li>
        ))}
      </ul>
    </Dialog>
  );
}
