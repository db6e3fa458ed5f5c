import { textOf } from "@narthex/client";
import { usePresence, useRun, useThread } from "@narthex/client/react";
import type { Centrifuge } from "centrifuge";
import { useState, type FormEvent } from "react";
import { ownUserId, useClient } from "./gateway";

export function App() {
  const [email, setEmail] = useState(sessionStorage.getItem("email"));
  if (email) return <Chat />;
  const signIn = (text: string) => {
    sessionStorage.setItem("email", text);
    setEmail(text);
  };
  return <Line label="Your e-mail" button="Sign in" type="email" onText={signIn} />;
}

function Chat() {
  const { client, status } = useClient();
  const [threadId, setThreadId] = useState(location.hash.slice(1) || null);
  const thread = useThread(client, threadId); // null: none yet; `send` makes one
  const { users, typing } = usePresence(client, threadId);
  const typists = typing.filter(({ userId }) => userId !== ownUserId());
  const send = async (text: string) => {
    const sent = await thread.send(text);
    location.hash = sent.threadId; // a reload shows the same thread
    setThreadId(sent.threadId);
  };
  return (
    <main>
      <small role="status">{thread.error?.message ?? status}</small>
      <ol>
        {thread.items.map((item) =>
          item.kind === "message" ? (
            <li key={item.id} className="message">{item.text}</li>
          ) : (
            <li key={item.id} className="run">
              <Run client={client} threadId={threadId!} runId={item.id} />
            </li>
          ),
        )}
      </ol>
      <small>{users.map((user) => (typists.includes(user) ? `${user.name} is typing` : user.name)).join(", ")}</small>
      <Line label="Message" button="Send" type="text" onText={send} onTyping={thread.typing} />
    </main>
  );
}

/** An agent's answer, as far as it has come, with what the user can do about it. It renders when this run changes. */
function Run({ client, threadId, runId }: { client: Centrifuge; threadId: string; runId: string }) {
  const { view, answered, cancel, answer } = useRun(client, threadId, runId);
  if (!view) return null;
  return (
    <>
      {view.parts.map((part) => part.kind === "tool" && <div key={part.id}><small>{part.name}: {part.state}</small></div>)}
      {textOf(view)}
      {view.error && <em> {view.error.message}</em>}
      {view.phase === "running" && <button onClick={() => void cancel()}>Stop</button>}
      {view.interrupts.map((question) => (
        <div key={question.id}>
          {question.message}{" "}
          {answered ? <small>answered</small> : <Approval onAnswer={(approved) => answer(question.id, { approved })} />}
        </div>
      ))}
    </>
  );
}

function Approval({ onAnswer }: { onAnswer: (approved: boolean) => Promise<unknown> }) {
  const [problem, setProblem] = useState(""); // such as: another user was faster
  const answer = (approved: boolean) => onAnswer(approved).catch((fault) => setProblem(fault.message));
  return (
    <>
      <button onClick={() => answer(true)}>Approve</button> <button onClick={() => answer(false)}>Decline</button> {problem}
    </>
  );
}

function Line({ label, button, type, onText, onTyping }: {
  label: string;
  button: string;
  type: string;
  onText: (text: string) => void | Promise<void>;
  onTyping?: () => void;
}) {
  const [problem, setProblem] = useState("");
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    try {
      await onText(String(new FormData(form).get("text")));
      form.reset();
      setProblem("");
    } catch (fault) {
      setProblem((fault as Error).message); // the gateway's own words: `rate_limited: …`
    }
  };
  return (
    <form onSubmit={submit}>
      <input name="text" type={type} aria-label={label} placeholder={label} autoComplete="off" required onChange={onTyping} />
      <button>{button}</button>
      {problem && <em role="alert">{problem}</em>}
    </form>
  );
}
