/**
 * A page with centrifuge-js in its protobuf format and with deltas, over the helper's WebSocket. The address has the `ws`
 * address and a `token`.
 */

import { Centrifuge } from "centrifuge/build/protobuf";

import { isEvent, narthexWebSocket, RunAssembler } from "@narthex/client";

const wishes = new URLSearchParams(location.search);
const getToken = (): string => wishes.get("token") ?? "";
const decode = (data: unknown): unknown => JSON.parse(new TextDecoder().decode(data as Uint8Array));
const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));

const client = new Centrifuge(wishes.get("ws") ?? "", { maxReconnectDelay: 500, websocket: narthexWebSocket({ getToken }) });

declare global {
  interface Window {
    page: {
      states: string[];
      /** The recoveries of the thread's subscription. */
      recovered: boolean[];
      /** Of each run: the text so far, and whether count and digest are right. */
      runs: Record<string, { text: string; complete: boolean | null }>;
      deltas(): unknown;
      follow(channel: string): void;
      rpc(method: string, data: unknown): Promise<unknown>;
      publish(channel: string, data: unknown): Promise<void>;
      published: unknown[];
    };
  }
}
const assemblers = new Map<string, RunAssembler>();
let subscription: ReturnType<Centrifuge["newSubscription"]>;

window.page = {
  states: [],
  recovered: [],
  runs: {},
  published: [],
  deltas: () => subscription.deltaStats(),
  rpc: async (method, data) => decode((await client.rpc(method, encode(data))).data),
  publish: async (channel, data) => void (await client.publish(channel, encode(data))),
  follow: (channel) => {
    subscription = client.newSubscription(channel, { since: { offset: 0, epoch: "" }, delta: "fossil" });
    subscription.on("subscribed", ({ wasRecovering, recovered }) => void (wasRecovering && window.page.recovered.push(recovered)));
    subscription.on("publication", ({ data }) => {
      const event = decode(data);
      if (!isEvent(event)) return void window.page.published.push(event);
      if (event.runId === undefined) return;
      const runId = event.runId;
      const assembler = assemblers.get(runId) ?? new RunAssembler(runId);
      assemblers.set(runId, assembler);
      assembler.push(event);
      const run = (window.page.runs[runId] ??= { text: "", complete: null });
      if (event.type === "TEXT_MESSAGE_CONTENT") run.text += event.delta;
      if (assembler.terminal !== null) void assembler.verify().then(({ complete }) => (run.complete = complete));
    });
    subscription.subscribe();
  },
};
client.on("connected", ({ transport }) => void window.page.states.push(`connected ${transport}`));
client.on("connecting", ({ code }) => void window.page.states.push(`connecting ${code}`));
client.connect();

document.getElementById("root")!.innerHTML = '<label>Message <input></label>'; // what the test waits for
