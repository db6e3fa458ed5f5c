/** Somebody's own link was opened: invite them to a thread. They become a member by accepting. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";

import type { App } from "../app.ts";
import { said } from "../conversation.ts";
import { Dialog } from "./Dialog.tsx";

export function Invite({ app, user, name, onClose }: { app: App; user: string; name: string; onClose: () => void }): JSX.Element {
  const threads = app.threads.value;
  const [thread, setThread] = useState("");
  const [problem, setProblem] = useState("");
  const who = name || user;
  const chosen = thread || threads[0]?.thread_id || "";
  const own = user === app.me.value?.user;

  async function invite(event: Event): Promise<void> {
    event.preventDefault();
    try {
      app.say((await app.invite(chosen, user)) === "invited" ? `${who} is invited.` : `${who} is a member now.`);
      onClose();
    } catch (error) {
      setProblem(said(error));
    }
  }

  return (
    <Dialog title={own ? "Your own link" : `Invite ${who}`} onClose={onClose}>
      {own ? <p class="quiet">Others who open it can invite you to their threads.</p>
        : threads.length === 0 ? <p class="quiet">Start a thread first, then open this link again.</p>
        : (
          <form class="add" onSubmit={(event) => void invite(event)}>
            <p class="quiet">The user id is <code>{user}</code>. An invited user becomes a member by accepting.</p>
            <label for="invite-thread">Thread</label>
            <select id="invite-thread" value={chosen} onChange={(event) => setThread(event.currentTarget.value)}>
              {threads.map((one) => <option key={one.thread_id} value={one.thread_id}>{one.title || "Untitled"}</option>)}
            </select>
            {problem && <p class="problem" role="alert">{problem}</p>}
            <div class="buttons"><button type="submit" class="primary">Invite</button></div>
          </form>
        )}
    </Dialog>
  );
}
