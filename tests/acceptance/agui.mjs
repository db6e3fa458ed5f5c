// Stock AG-UI client (@ag-ui/client, unmodified): each line of stdin is one run, each line of stdout what came of it.
// {"text": …} says something, {"resume": […]} answers; {"break": n} breaks off after n events, as a lost line would.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.cwd(), "package.json"));
const { HttpAgent } = await import(pathToFileURL(require.resolve("@ag-ui/client")));
const [url, token, threadId] = process.argv.slice(2);
const agent = new HttpAgent({ url, threadId, headers: { Authorization: `Bearer ${token}` } });
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const events = [];
  if (asked.text) agent.addMessage({ id: asked.id, role: "user", content: asked.text });
  try {
    await agent.runAgent(
      { resume: asked.resume },
      {
        onEvent: ({ event }) => {
          events.push(event);
          if (events.length === asked.break) agent.abortRun();
        },
      },
    );
    say({ events, messages: agent.messages, interrupts: agent.pendingInterrupts });
  } catch (error) {
    say({ events, messages: agent.messages, error: String(error) });
  }
}
