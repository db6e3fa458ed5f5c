/**
 * A page with CopilotKit, unmodified, in StrictMode: `CopilotChat` and its hooks with narthex as the runtime. The address
 * has the agent's `url`, a `token` and the `chat`.
 */
/** @jsxImportSource react */

import {
  CopilotChat,
  CopilotKitProvider,
  useAgent,
  useCopilotKit,
  useFrontendTool,
  useHumanInTheLoop,
  useInterrupt,
  useRenderTool,
} from "@copilotkit/react-core/v2";
import "@copilotkit/react-core/v2/styles.css";
import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { z } from "zod";

import { watchThread } from "@narthex/client";

const wishes = new URLSearchParams(location.search);
const url = wishes.get("url") ?? "";
const chat = wishes.get("chat") ?? "";
const runtimeUrl = url.replace(/\/[^/]*$/, "");
const headers = { Authorization: `Bearer ${wishes.get("token") ?? ""}` };

declare global {
  interface Window {
    messages: unknown[];
    running: boolean;
    painted: unknown[];
  }
}
window.painted = [];

const colour = z.object({ colour: z.string() });
const city = z.object({ city: z.string() });
const file = z.object({ file: z.string() });

function Chat() {
  const { copilotkit } = useCopilotKit();
  const { agent } = useAgent({ agentId: "model" });
  window.messages = agent.messages;
  window.running = agent.isRunning;
  useEffect(
    () => watchThread({ url, threadId: chat, headers, agent, onError: console.error }, () => copilotkit.connectAgent({ agent })),
    [agent, copilotkit],
  ); // runs that other tabs, other devices or the server begin

  useRenderTool({
    name: "weather",
    parameters: city,
    render: ({ parameters, result, status }) => (
      <section data-tool="weather" data-status={status}>
        {parameters.city}: {result}
      </section>
    ),
  });
  useFrontendTool({
    name: "paint",
    description: "Paint the page.",
    parameters: colour,
    handler: async (painted) => {
      window.painted.push(painted);
      return "done";
    },
    render: ({ args, status }) => (
      <section data-tool="paint" data-status={status}>
        {args.colour}
      </section>
    ),
  });
  useHumanInTheLoop({
    name: "confirm",
    description: "Ask the user.",
    parameters: file,
    render: ({ args, respond, result }) => (
      <section data-tool="confirm">
        Publish {args.file}? {result}
        {respond !== undefined && <button onClick={() => void respond("published")}>Publish</button>}
      </section>
    ),
  });
  useInterrupt({
    render: ({ interrupt, resolve }) => (
      <fieldset>
        <legend>{interrupt?.message}</legend>
        <button onClick={() => void resolve({ approved: true })}>Yes</button>
        <button onClick={() => void resolve({ approved: false })}>No</button>
      </fieldset>
    ),
  });
  return <CopilotChat threadId={chat} />;
}

function Page() {
  const [error, setError] = useState("");
  return (
    <>
      {error !== "" && <p role="alert">{error}</p>}
      <CopilotKitProvider runtimeUrl={runtimeUrl} headers={headers} agentId="model" enableInspector={false} onError={(event) => setError(event.error.message)}>
        <Chat />
      </CopilotKitProvider>
    </>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);
