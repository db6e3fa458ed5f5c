/** A link to a thread was opened: show what it is and whose, and join only when the person agrees. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

import type { LinkedThread } from "@narthex/client";

import type { App } from "../app.ts";
import { said } from "../conversation.ts";
import { Dialog } from "./Dialog.tsx";
import { count, until } from "./words.ts";

export function Join({ app, token, onClose }: { app: App; token: string; onClose: () => void }): JSX.Element {
  const [found, setFound] = useState<LinkedThread | null>(null);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);

  useEffect(() => {
    app.preview(token).then(setFound, (error: unknown) => setProblem(said(error)));
  }, []);

  async function join(): Promise<void> {
    setBusy(true);
    setProblem("");
    try {
      await app.join(token);
      onClose();
    } catch (error) {
      setProblem(said(error));
      setBusy(false);
    }
  }

  const owner = found?.creator_name || found?.created_by;
  return (
    <Dialog title={found?.role ? "You are in this thread" : found === null && problem ? "The link does not work" : "Join a thread?"} onClose={onClose}>
      {found === null && !problem && <p class="status-line" role="status"><span class="spinner" aria-hidden="true" /> Looking up the link.</p>}
      {found && (
        <>
          <p class="linked"><strong dir="auto">{found.title || "Untitled"}</strong>
            <span class="hint">owned by <bdi>{owner}</bdi>{owner !== found.created_by && <> (<code>{found.created_by}</code>)</>} · {count(found.members, "member")}</span></p>
          {!found.role && <p class="quiet">If you join, its members see your name, when you are here and what you write, and you can read the whole thread. You can leave at any time.</p>}
          {!found.role && <p class="hint">The link is open until {until(found.expires_at * 1000)}.</p>}
        </>
      )}
      {problem && <p class="problem" role="alert">{problem}</p>}
      <div class="buttons">
        {found && <button type="button" class="primary" disabled={busy} onClick={() => void join()}>{found.role ? "Open the thread" : "Join the thread"}</button>}
        <button type="button" onClick={onClose}>{found && !found.role ? "Not now" : "Close"}</button>
      </div>
    </Dialog>
  );
}
