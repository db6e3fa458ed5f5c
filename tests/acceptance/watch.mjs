// The unmodified centrifuge npm SDK as a person who only listens: prints what the server subscribes it to.
// usage: node watch.mjs WS_URL TOKEN        (run from web/, where node_modules is)
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
const require = createRequire(pathToFileURL(process.cwd() + "/package.json"));
const { Centrifuge } = require("centrifuge");
const WebSocket = require("ws");

const [url, token] = process.argv.slice(2);
const say = (kind, value) => process.stdout.write(JSON.stringify({ kind, ...value }) + "\n");

class Authorized extends WebSocket {
  constructor(address) {
    super(address, { headers: { Authorization: `Bearer ${token}` } });
  }
}

const client = new Centrifuge(url, { websocket: Authorized, minReconnectDelay: 300, maxReconnectDelay: 600 });
client.on("connected", (context) => say("connected", { client: context.client }));
client.on("connecting", (context) => say("connecting", { code: context.code }));
client.on("subscribed", (context) => say("subscribed", { channel: context.channel, recovered: context.recovered }));
client.on("unsubscribed", (context) => say("unsubscribed", { channel: context.channel }));
client.on("publication", (context) =>
  say("publication", { channel: context.channel, offset: context.offset, data: context.data }));
client.connect();
process.stdin.on("end", () => { client.disconnect(); setTimeout(() => process.exit(0), 200); });
process.stdin.resume();
