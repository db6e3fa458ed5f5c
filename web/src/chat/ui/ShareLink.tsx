/** The thread's link, for its owners: make, copy, replace, revoke. The gateway shows its token once. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

import type { App } from "../app.ts";
import { said } from "../conversation.ts";
import { CopyButton } from "./CopyButton.tsx";
import { until } from "./words.ts";

interface Open {
  /** Empty: it was made before, and cannot be shown again. */
  url: string;
  expiresAt: number;
}

export function ShareLink({ app, threadId }: { app: App; threadId: string }): JSX.Element {
  const [open, setOpen] = useState<Open | null>(null);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(true);

  async function change(work: () => Promise<Open | null>): Promise<void> {
    setProblem("");
    setBusy(true);
    try {
      setOpen(await work());
    } catch (error) {
      setProblem(said(error));
    } finally {
      setBusy(false);
    }
  }

  async function read(): Promise<Open | null> {
    const expiresAt = await app.linkOf(threadId);
    return expiresAt === null ? null : { url: "", expiresAt };
  }

  async function revoke(): Promise<null> {
    await app.revokeLink(threadId);
    return null;
  }

  useEffect(() => void change(read), []);
  return (
    <section class="add share" aria-labelledby="share-link">
      <h3 id="share-link">Share by link</h3>
      {open?.url && (
        <div class="buttons">
          <input readOnly aria-label="Link to this thread" value={open.url} onFocus={(event) => event.currentTarget.select()} />
          <CopyButton text={() => open.url} label="Copy the link to this thread" words="Copy link" />
        </div>
      )}
      <p class="hint" role="status">
        {open === null ? "Users of this gateway who have the link can join, up to the members that your plan allows. It is open for 7 days."
          : open.url ? `Users who have it can join until ${until(open.expiresAt)}. It is shown only now.`
          : `A link is open until ${until(open.expiresAt)}. It was shown only when it was created; a new link replaces it.`}
      </p>
      {problem && <p class="problem" role="alert">{problem}</p>}
      <div class="buttons">
        <button type="button" disabled={busy} onClick={() => void change(() => app.makeLink(threadId))}>{open === null ? "Create a link" : "Create a new link"}</button>
        {open !== null && <button type="button" class="danger" disabled={busy} onClick={() => void change(revoke)}>Revoke the link</button>}
      </div>
    </section>
  );
}
