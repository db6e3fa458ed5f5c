/**
 * A page with assistant-ui, unmodified, in StrictMode: its primitives over `useAgUiRuntime` with a `NarthexAgent`. The
 * address has the agent's `url`, a `token` and the `chat`.
 */
/** @jsxImportSource react */

import {
  AssistantRuntimeProvider,
  AuiIf,
  ComposerPrimitive,
  ErrorPrimitive,
  ExportedMessageRepository,
  makeAssistantTool,
  makeAssistantToolUI,
  MessagePrimitive,
  ThreadPrimitive,
} from "@assistant-ui/react";
import { fromAgUiMessages, toAgUiMessages, useAgUiInterrupts, useAgUiRuntime, useAgUiState, useAgUiSubmitInterruptResponses } from "@assistant-ui/react-ag-ui";
import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

import { NarthexAgent, type RunProof } from "@narthex/client/ag-ui";
import { followThread, narthexHistory } from "@narthex/client/assistant-ui";

const wishes = new URLSearchParams(location.search);
const convert = (messages: readonly unknown[]) => ExportedMessageRepository.fromArray(fromAgUiMessages(messages));

declare global {
  interface Window {
    messages: readonly { id: string; role: string; content?: unknown; toolCalls?: unknown[] }[];
    running: boolean;
    state: unknown;
    painted: unknown[];
    proofs: RunProof[];
  }
}
window.painted = [];
window.proofs = [];

const agent = new NarthexAgent({
  url: wishes.get("url") ?? "",
  threadId: wishes.get("chat") ?? "",
  getToken: () => wishes.get("token"),
  onProof: (proof) => void window.proofs.push(proof),
});
const history = narthexHistory(agent, convert);

const PaintTool = makeAssistantTool({
  toolName: "paint",
  type: "frontend",
  description: "Paint the page.",
  parameters: { type: "object", properties: { colour: { type: "string" } }, required: ["colour"] },
  execute: async (colour: Record<string, unknown>) => {
    window.painted.push(colour);
    return "done";
  },
  render: ({ args, status }) => (
    <section data-tool="paint" data-status={status.type}>
      {String(args["colour"])}
    </section>
  ),
});

const ConfirmTool = makeAssistantTool({
  toolName: "confirm",
  type: "human",
  description: "Ask the user.",
  parameters: { type: "object", properties: { file: { type: "string" } }, required: ["file"] },
  render: ({ args, result, addResult }) => (
    <section data-tool="confirm">
      Publish {String(args["file"])}? {String(result ?? "")}
      {result === undefined && <button onClick={() => addResult("published")}>Publish</button>}
    </section>
  ),
});

const WeatherTool = makeAssistantToolUI<{ city: string }, { degrees: number }>({
  toolName: "weather",
  render: ({ args, result, status }) => (
    <section data-tool="weather" data-status={status.type}>
      {args.city}: {JSON.stringify(result)}
    </section>
  ),
});

function Questions() {
  const questions = useAgUiInterrupts();
  const submit = useAgUiSubmitInterruptResponses();
  return questions.map(({ id, message }) => {
    const answer = (approved: boolean): void => void submit([{ interruptId: id, status: "resolved", payload: { approved } }]);
    return (
      <fieldset key={id}>
        <legend>{message}</legend>
        <button onClick={() => answer(true)}>Yes</button>
        <button onClick={() => answer(false)}>No</button>
      </fieldset>
    );
  });
}

function UserMessage() {
  return (
    <MessagePrimitive.Root className="user">
      <MessagePrimitive.Parts />
    </MessagePrimitive.Root>
  );
}

function AssistantMessage() {
  return (
    <MessagePrimitive.Root className="assistant">
      <MessagePrimitive.Parts components={{ Reasoning: ({ text }) => <em>{text}</em> }} />
      <MessagePrimitive.Error>
        <ErrorPrimitive.Root role="alert">
          <ErrorPrimitive.Message />
        </ErrorPrimitive.Root>
      </MessagePrimitive.Error>
    </MessagePrimitive.Root>
  );
}

function Thread() {
  window.state = useAgUiState();
  return (
    <ThreadPrimitive.Root>
      <ThreadPrimitive.Viewport>
        <ThreadPrimitive.Messages components={{ UserMessage, AssistantMessage }} />
        <Questions />
        <ComposerPrimitive.Root>
          <ComposerPrimitive.Input aria-label="Message" />
          <AuiIf condition={(s) => !s.thread.isRunning && !s.thread.isLoading}>
            <ComposerPrimitive.Send>Send</ComposerPrimitive.Send>
          </AuiIf>
          <AuiIf condition={(s) => s.thread.isRunning}>
            <ComposerPrimitive.Cancel>Stop</ComposerPrimitive.Cancel>
          </AuiIf>
        </ComposerPrimitive.Root>
      </ThreadPrimitive.Viewport>
    </ThreadPrimitive.Root>
  );
}

function Page() {
  const [error, setError] = useState("");
  const runtime = useAgUiRuntime({ agent, adapters: { history }, onError: (fault) => setError(fault.message) });
  useEffect(() => followThread(runtime, agent, convert, console.error), [runtime]); // runs that others begin
  useEffect(() => {
    const show = (): void => {
      const { messages, isRunning } = runtime.thread.getState();
      window.messages = toAgUiMessages(messages) as typeof window.messages;
      window.running = isRunning;
    };
    show();
    return runtime.thread.subscribe(show);
  }, [runtime]);
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      {error !== "" && <p className="error">{error}</p>}
      <PaintTool />
      <ConfirmTool />
      <WeatherTool />
      <Thread />
    </AssistantRuntimeProvider>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);
