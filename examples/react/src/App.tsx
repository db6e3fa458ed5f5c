import { textOf, type RunView } from "@narthex/client";
import { useState, type FormEvent } from "react";
import { useChat, type Chat } from "./useChat";

export function App() {
  const [email, setEmail] = useState(sessionStorage.getItem("email"));
  if (email) return <Thread />;
  const signIn = (text: string) => {
    sessionStorage.setItem("email", text);
    setEmail(text);
  };
  return <Line label="Your e-mail" button="Sign in" type="email" onText={signIn} />;
}

function Thread() {
  const [threadId, setThreadId] = useState(location.hash.slice(1) || null);
  const chat = useChat(threadId, (made) => {
    location.hash = made; // a reload shows the same thread
    setThreadId(made);
  });
  return (
    <main>
      <small role="status">{chat.status}</small>
      <ol>
        {chat.items.map((item) =>
          item.kind === "message" ? (
            <li key={item.id} className="message">{item.text}</li>
          ) : (
            <li key={item.id} className="run"><Run {...item} chat={chat} /></li>
          ),
        )}
      </ol>
      <Line label="Message" button="Send" type="text" onText={chat.send} />
    </main>
  );
}

/** An agent's answer, as far as it has come, with what the user can do about it. */
function Run({ id, view, answered, chat }: { id: string; view: RunView; answered: boolean; chat: Chat }) {
  return (
    <>
      {view.parts.map((part) => part.kind === "tool" && <div key={part.id}><small>{part.name}: {part.state}</small></div>)}
      {textOf(view)}
      {view.error && <em> {view.error.message}</em>}
      {view.phase === "running" && <button onClick={() => chat.cancel(id)}>Stop</button>}
      {view.interrupts.map((question) => (
        <div key={question.id}>
          {question.message}{" "}
          {answered ? (
            <small>answered</small>
          ) : (
            <Approval onAnswer={(approved) => chat.answer(id, question.id, { approved })} />
          )}
        </div>
      ))}
    </>
  );
}

function Approval({ onAnswer }: { onAnswer: (approved: boolean) => Promise<void> }) {
  const [problem, setProblem] = useState(""); // such as: another user was faster
  const answer = (approved: boolean) => onAnswer(approved).catch((fault) => setProblem(fault.message));
  return (
    <>
      <button onClick={() => answer(true)}>Approve</button> <button onClick={() => answer(false)}>Decline</button> {problem}
    </>
  );
}

function Line({ label, button, type, onText }: {
  label: string;
  button: string;
  type: string;
  onText: (text: string) => void | Promise<void>;
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
      <input name="text" type={type} aria-label={label} placeholder={label} autoComplete="off" required />
      <button>{button}</button>
      {problem && <em role="alert">{problem}</em>}
    </form>
  );
}
