/**
 * A page with the AI SDK's `useChat`, unmodified, in StrictMode: what its documentation shows, with narthex's transport.
 * The address has the agent's `url`, a `token` and the `chat`.
 */
/** @jsxImportSource react */

import { Chat, useChat } from "@ai-sdk/react";
import {
  isToolUIPart,
  lastAssistantMessageIsCompleteWithApprovalResponses,
  lastAssistantMessageIsCompleteWithToolCalls,
  type UIMessage,
} from "ai";
import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

import { NarthexChatTransport, type AskedInterrupt, type RunMetadata } from "@narthex/client/ai-sdk";

type Message = UIMessage<{ narthex?: RunMetadata }, { interrupt: AskedInterrupt; state: unknown }>;

const wishes = new URLSearchParams(location.search);
const parameters = { type: "object", properties: { colour: { type: "string" } } };
const transport = new NarthexChatTransport<Message>({
  url: wishes.get("url") ?? "",
  getToken: () => wishes.get("token"),
  tools: [{ name: "paint", description: "Paint the page.", parameters }],
});

declare global {
  interface Window {
    chat: Chat<Message>;
    painted: unknown[];
    states: unknown[];
    finished: unknown[];
  }
}
window.painted = [];
window.states = [];
window.finished = [];

const id = wishes.get("chat") ?? "";
const chat: Chat<Message> = new Chat<Message>({
  id,
  messages: await transport.loadMessages(id),
  transport,
  sendAutomaticallyWhen: (options) =>
    lastAssistantMessageIsCompleteWithToolCalls(options) || lastAssistantMessageIsCompleteWithApprovalResponses(options),
  onToolCall: ({ toolCall }) => {
    window.painted.push(toolCall.input);
    void chat.addToolOutput({ tool: "paint" as never, toolCallId: toolCall.toolCallId, output: "done" as never });
  },
  onData: (part) => {
    if (part.type === "data-state") window.states.push(part.data);
  },
  onFinish: ({ isAbort, isError, finishReason }) => window.finished.push({ isAbort, isError, finishReason }),
});
window.chat = chat;

function Page() {
  const { messages, sendMessage, addToolApprovalResponse, stop, status, error } = useChat({ chat, resume: true });
  const [text, setText] = useState("");
  useEffect(() => transport.follow(chat, console.error), []);
  const answer = (interruptId: string, approved: boolean): void => {
    void sendMessage(undefined, { body: { resume: [{ interruptId, payload: { approved } }] } });
  };
  return (
    <main data-status={status}>
      {messages.map((message) => (
        <article key={message.id} data-role={message.role} data-state={message.metadata?.narthex?.state}>
          {message.parts.map((part, at) => {
            if (part.type === "text") return <p key={at}>{part.text}</p>;
            if (part.type === "reasoning") return <em key={at}>{part.text}</em>;
            if (part.type === "data-interrupt" && part.data.toolCallId === undefined) {
              const open = part.data.answeredBy === "";
              return (
                <fieldset key={at} disabled={!open}>
                  <legend>{part.data.message}</legend>
                  <button onClick={() => answer(part.data.id, true)}>Yes</button>
                  <button onClick={() => answer(part.data.id, false)}>No</button>
                </fieldset>
              );
            }
            if (!isToolUIPart(part)) return null;
            return (
              <section key={at} data-tool={part.type} data-state={part.state}>
                {JSON.stringify({ input: part.input, output: part.output })}
                {part.state === "approval-requested" && (
                  <button onClick={() => void addToolApprovalResponse({ id: part.approval.id, approved: true })}>Approve</button>
                )}
              </section>
            );
          })}
        </article>
      ))}
      {error !== undefined && <p role="alert">{error.message}</p>}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void sendMessage({ text });
          setText("");
        }}
      >
        <input aria-label="Message" value={text} onChange={(event) => setText(event.target.value)} />
        <button>Send</button>
        <button type="button" onClick={() => void stop()}>
          Stop
        </button>
      </form>
    </main>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);
