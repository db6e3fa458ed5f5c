// The unmodified centrifuge npm SDK as a person: connects, chats, prints what it is shown as JSON lines.
// usage: node chat.mjs WS_URL TOKEN TEXT        (run from web/, where node_modules is)
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
const require = createRequire(pathToFileURL(process.cwd() + "/package.json"));
const { Centrifuge } = require("centrifuge");
const WebSocket = require("ws");

const [url, token, text] = process.argv.slice(2);
const say = (kind, value) => process.stdout.write(JSON.stringify({ kind, ...value }) + "\n");

class Authorized extends WebSocket {
  constructor(address) {
    super(address, { headers: { Authorization: `Bearer ${token}` } });
  }
}

const client = new Centrifuge(url, { websocket: Authorized, minReconnectDelay: 50, maxReconnectDelay: 300 });
client.on("connected", (context) => say("connected", { client: context.client }));
client.on("connecting", (context) => say("connecting", { code: context.code }));
client.on("disconnected", (context) => say("disconnected", { code: context.code, reason: context.reason }));
client.on("publication", (context) => say("notice", { channel: context.channel, data: context.data }));
client.connect();
await client.ready(15000);

const created = await client.rpc("thread.create", { title: "from node" });
const threadId = created.data.thread_id;
const subscription = client.newSubscription(`thread:${threadId}`, { since: { offset: 0, epoch: "" } });
subscription.on("subscribed", (context) =>
  say("subscribed", { wasRecovering: context.wasRecovering, recovered: context.recovered }));
subscription.on("publication", (context) => say("event", { offset: context.offset, data: context.data }));
subscription.subscribe();
await subscription.ready(15000);
const started = await client.rpc("run.start", { thread_id: threadId, text, client_message_id: "node-1" });
say("started", started.data);
process.stdin.on("end", () => { client.disconnect(); setTimeout(() => process.exit(0), 200); });
process.stdin.resume();
