/** Who is in the thread and who is invited: see, invite, remove, take back. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";

import type { App } from "../app.ts";
import { said, type Conversation } from "../conversation.ts";
import { CopyButton } from "./CopyButton.tsx";
import { Dialog } from "./Dialog.tsx";
import { ShareLink } from "./ShareLink.tsx";
import { initials } from "./words.ts";

export function Members({ app, conversation, onClose }: { app: App; conversation: Conversation; onClose: () => void }): JSX.Element {
  const [user, setUser] = useState("");
  const [problem, setProblem] = useState("");
  const [done, setDone] = useState("");
  const me = app.me.value?.user ?? "";
  const owner = conversation.role.value === "owner";
  const here = new Set(conversation.present.value.map((one) => one.user));
  const nameOf = (id: string): string => {
    const known = conversation.nameOf(id);
    return known === id ? app.people.known.find((one) => one.user === id)?.name ?? id : known;
  };
  const inThread = new Set([...conversation.members.value.map((member) => member.user_id), ...conversation.invited.value]);
  const others = app.people.known.filter((one) => !inThread.has(one.user));

  async function change(work: () => Promise<string>): Promise<void> {
    setProblem("");
    setDone("");
    try {
      setDone(await work());
      setUser("");
    } catch (error) {
      setProblem(said(error));
    }
  }

  async function invite(): Promise<string> {
    const typed = user.trim();
    const named = app.people.known.filter((one) => one.name.toLowerCase() === typed.toLowerCase());
    if (named.length > 1 && !named.some((one) => one.user === typed)) throw new Error(`${named.length} people have that name: choose one from the list.`);
    const wanted = named.length === 1 ? named[0]!.user : typed;
    const state = await conversation.invite(wanted);
    return state === "invited" ? `${nameOf(wanted)} is invited, and becomes a member by accepting.` : `${nameOf(wanted)} is a member now.`;
  }

  async function remove(id: string): Promise<string> {
    await conversation.removeMember(id);
    return "";
  }

  return (
    <Dialog title="People in this thread" onClose={onClose}>
      <ul class="people">
        {conversation.members.value.map((member) => (
          <Person key={member.user_id} id={member.user_id} name={nameOf(member.user_id)} here={here.has(member.user_id)}
            note={[member.role === "owner" ? "owner" : "", here.has(member.user_id) ? "here" : ""].filter(Boolean).join(" · ")}>
            {owner && member.user_id !== me && (
              <button type="button" class="small" onClick={() => void change(() => remove(member.user_id))}>Remove<span class="sr"> {nameOf(member.user_id)}</span></button>
            )}
          </Person>
        ))}
        {conversation.invited.value.map((id) => (
          <Person key={id} id={id} name={nameOf(id)} here={false} note="invited">
            {owner && <button type="button" class="small" onClick={() => void change(() => remove(id))}>Withdraw<span class="sr"> the invitation of {nameOf(id)}</span></button>}
          </Person>
        ))}
      </ul>
      <form class="add" onSubmit={(event) => { event.preventDefault(); void change(invite); }}>
        <label for="add-member">Invite a user by name or user id</label>
        <div class="buttons">
          <input id="add-member" list="known-people" required spellcheck={false} autocomplete="off" value={user} onInput={(event) => setUser(event.currentTarget.value)} />
          <button type="submit" class="primary">Invite</button>
        </div>
        <datalist id="known-people">{others.map((one) => <option key={one.user} value={one.user} label={one.name} />)}</datalist>
        {problem && <p class="problem" role="alert">{problem}</p>}
        <p class="hint" role="status">{done}</p>
        <p class="hint">People you have met in threads are found by name. Others need your link to invite you: <CopyButton text={() => app.ownLink} label="Copy your own link" words="Copy your link" /></p>
        <p class="hint">Your user id is <code>{me}</code> <CopyButton text={() => me} label="Copy your user id" /></p>
      </form>
      {owner && <ShareLink app={app} threadId={conversation.id.value} />}
    </Dialog>
  );
}

function Person({ id, name, here, note, children }: { id: string; name: string; here: boolean; note: string; children?: unknown }): JSX.Element {
  return (
    <li>
      <span class="face" aria-hidden="true" data-here={here}>{initials(name)}</span>
      <span class="person"><strong dir="auto">{name}</strong>{name !== id && <code>{id}</code>}</span>
      <span class="hint">{note}</span>
      {children as JSX.Element}
    </li>
  );
}
