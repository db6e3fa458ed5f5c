/** Who is in the thread: see, add, remove. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";

import type { App } from "../app.ts";
import { said, type Conversation } from "../conversation.ts";
import { CopyButton } from "./CopyButton.tsx";
import { Dialog } from "./Dialog.tsx";
import { initials } from "./words.ts";

export function Members({ app, conversation, onClose }: { app: App; conversation: Conversation; onClose: () => void }): JSX.Element {
  const [user, setUser] = useState("");
  const [problem, setProblem] = useState("");
  const me = app.me.value?.user ?? "";
  const owner = conversation.role.value === "owner";
  const here = new Set(conversation.present.value.map((one) => one.user));

  async function change(work: () => Promise<void>): Promise<void> {
    setProblem("");
    try {
      await work();
      setUser("");
    } catch (error) {
      setProblem(said(error));
    }
  }

  return (
    <Dialog title="People in this thread" onClose={onClose}>
      <ul class="people">
        {conversation.members.value.map((member) => (
          <li key={member.user_id}>
            <span class="face" aria-hidden="true" data-here={here.has(member.user_id)}>{initials(conversation.nameOf(member.user_id))}</span>
            <span class="person"><strong>{conversation.nameOf(member.user_id)}</strong>{conversation.nameOf(member.user_id) !== member.user_id && <code>{member.user_id}</code>}</span>
            <span class="hint">{member.role === "owner" ? "owner" : ""}{here.has(member.user_id) ? " · here" : ""}</span>
            {owner && member.user_id !== me && (
              <button type="button" class="small" onClick={() => void change(() => conversation.removeMember(member.user_id))}>Remove<span class="sr"> {conversation.nameOf(member.user_id)}</span></button>
            )}
          </li>
        ))}
      </ul>
      <form class="add" onSubmit={(event) => { event.preventDefault(); void change(() => conversation.addMember(user.trim())); }}>
        <label for="add-member">Add somebody by their user id</label>
        <div class="buttons">
          <input id="add-member" required spellcheck={false} autocomplete="off" value={user} onInput={(event) => setUser(event.currentTarget.value)} />
          <button type="submit" class="primary">Add</button>
        </div>
        {problem && <p class="problem" role="alert">{problem}</p>}
        <p class="hint">Yours is <code>{me}</code> <CopyButton text={() => me} label="Copy your user id" /></p>
      </form>
    </Dialog>
  );
}
