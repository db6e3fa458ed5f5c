/**
 * A page with the hooks for React, in StrictMode, over one connection. The address has the `ws` address, a `token` and the
 * name of an agent. `mounts` mounts the hooks again and again, as StrictMode does it: subscribe, unsubscribe, subscribe.
 */
/** @jsxImportSource react */

import { Centrifuge } from "centrifuge";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

import { narthexWebSocket } from "@narthex/client";
import { usePresence, useRun, useThread, type Thread } from "@narthex/client/react";

const wishes = new URLSearchParams(location.search);
const getToken = (): string => wishes.get("token") ?? "";
const client = new Centrifuge(wishes.get("ws") ?? "", { websocket: narthexWebSocket({ getToken, onRefused: (refusal) => console.error(refusal.title) }) });
client.on("error", ({ error }) => console.error(error.message));
client.connect();

declare global {
  interface Window {
    client: Centrifuge;
    mounts(count: number): Promise<{ shown: number; subscriptions: number }>;
    renders: number;
  }
}
window.client = client;
window.renders = 0;

function Answer({ threadId, runId }: { threadId: string; runId: string }) {
  const { view, complete, cancel, answer } = useRun(client, threadId, runId);
  window.renders += 1;
  return (
    <article data-phase={view?.phase} data-complete={String(complete)}>
      {view?.parts.map((part) => (part.kind === "text" ? <p key={part.id}>{part.text}</p> : <em key={part.id}>{part.kind}</em>))}
      {view?.error && <p role="alert">{view.error.message}</p>}
      {view?.interrupts.map((question) => (
        <fieldset key={question.id}>
          <legend>{question.message}</legend>
          <button onClick={() => void answer(question.id, { approved: true })}>Yes</button>
        </fieldset>
      ))}
      {view?.phase === "running" && <button onClick={() => void cancel()}>Stop</button>}
    </article>
  );
}

function Page() {
  const [threadId, setThreadId] = useState(wishes.get("thread"));
  const [text, setText] = useState("");
  const thread = useThread(client, threadId);
  const { users, typing } = usePresence(client, threadId);
  const submit = async (): Promise<void> => {
    setText("");
    setThreadId((await thread.send(text)).threadId);
  };
  return (
    <main data-status={thread.status} data-thread={threadId}>
      {thread.error && <p role="alert">{thread.error.message}</p>}
      {thread.items.map((item) =>
        item.kind === "message" ? <blockquote key={item.id}>{item.text}</blockquote> : <Answer key={item.id} threadId={threadId!} runId={item.id} />,
      )}
      <p id="users">{users.map((user) => user.name).join(", ")}</p>
      <p id="typing">{typing.map((user) => user.name).join(", ")}</p>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <input
          aria-label="Message"
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            thread.typing();
          }}
        />
        <button>Send</button>
      </form>
    </main>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);

function Shown({ threadId, told }: { threadId: string; told: (thread: Thread) => void }) {
  told(useThread(client, threadId));
  usePresence(client, threadId);
  useRun(client, threadId);
  return null;
}

const PACE_MS = 200; // a client that sends more commands a second than its plan allows is slowed down, then disconnected

/** A new thread, asked for again where the gateway is busy. */
async function create(title: string): Promise<{ thread_id: string }> {
  for (;;) {
    try {
      return (await client.rpc("thread.create", { title })).data as { thread_id: string };
    } catch (error) {
      if (!(error as { temporary?: boolean }).temporary) throw new Error(`${title}: ${JSON.stringify(error)}`);
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}

/**
 * How many of `count` mounts on new threads ended subscribed, or, every twentieth, showed a run that began after it; and
 * the subscriptions that are left then.
 */
window.mounts = async (count) => {
  let shown = 0;
  for (let number = 0; number < count; number += 1) {
    const speaks = number % 20 === 0;
    await new Promise((resolve) => setTimeout(resolve, PACE_MS));
    const data = await create(`mount ${number}`);
    const root = createRoot(document.createElement("div"));
    let sent = false;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, 10_000);
      let over = false; // a component may render again
      const done = (): void => {
        if (!over) shown += 1;
        over = true;
        clearTimeout(timer);
        resolve();
      };
      const told = (thread: Thread): void => {
        if (thread.status === "ready" && !sent) {
          sent = true;
          if (speaks) void thread.send(`hello ${number}`);
          else void client.getSubscription(`thread:${data.thread_id}`)?.ready(10_000).then(done);
        }
        if (thread.items.some((item) => item.kind === "run" && item.complete === true)) done();
      };
      root.render(
        <StrictMode>
          <Shown threadId={data.thread_id as string} told={told} />
        </StrictMode>,
      );
    });
    root.unmount();
  }
  await new Promise((resolve) => setTimeout(resolve, 1_000)); // a store waits half a second for its listeners to come back
  return { shown, subscriptions: Object.keys(client.subscriptions()).length };
};
