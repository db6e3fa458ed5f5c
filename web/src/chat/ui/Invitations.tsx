/** Open invitations, above the threads: become a member, decline, or hear no more of who invites. */

import type { JSX } from "preact";

import type { App } from "../app.ts";
import type { Invitation } from "../wire.ts";
import { Menu } from "./Menu.tsx";

export function Invitations({ app, onDone }: { app: App; onDone: () => void }): JSX.Element | null {
  const invitations = app.invitations.value;
  if (invitations.length === 0) return null;
  return (
    <section class="invitations" aria-label="Invitations">
      <h2 class="group">{invitations.length === 1 ? "An invitation" : `${invitations.length} invitations`}</h2>
      <ul>
        {invitations.map((invitation) => <One key={invitation.thread_id} app={app} invitation={invitation} onDone={onDone} />)}
      </ul>
    </section>
  );
}

function One({ app, invitation, onDone }: { app: App; invitation: Invitation; onDone: () => void }): JSX.Element {
  const name = invitation.inviter_name || invitation.invited_by;
  const title = invitation.title || "Untitled";
  return (
    <li class="invitation">
      <p><strong dir="auto">{title}</strong><span class="hint">from <bdi>{name}</bdi></span></p>
      <div class="buttons">
        <button type="button" class="small primary" onClick={() => void app.attempt(() => app.accept(invitation)).then((done) => done && onDone())}>Accept<span class="sr"> the invitation to {title}</span></button>
        <button type="button" class="small" onClick={() => void app.attempt(() => app.decline(invitation))}>Decline<span class="sr"> the invitation to {title}</span></button>
        <Menu label={`More about the invitation to ${title}`} icon="more" entries={[
          { text: `Block ${name}`, danger: true, confirm: "Really block: no more invitations", run: () => void app.attempt(() => app.block(invitation)) },
        ]} />
      </div>
    </li>
  );
}
