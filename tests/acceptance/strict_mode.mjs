// The unmodified centrifuge npm SDK in a page whose components mount twice, as React's StrictMode does it:
// subscribe, unsubscribe, subscribe in one tick. Prints one JSON line a mount with what it ended as.
// usage: node strict_mode.mjs WS_URL TOKEN MOUNTS        (run from web/, where node_modules is)
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
const require = createRequire(pathToFileURL(process.cwd() + "/package.json"));
const { Centrifuge } = require("centrifuge");
const WebSocket = require("ws");

const [url, token, mounts] = process.argv.slice(2);
const say = (kind, value) => process.stdout.write(JSON.stringify({ kind, ...value }) + "\n");

class Authorized extends WebSocket {
  constructor(address) {
    super(address, { headers: { Authorization: `Bearer ${token}` } });
  }
}

const client = new Centrifuge(url, { websocket: Authorized });
client.connect();
await client.ready(15000);

// One subscription object that is used again, and one that a cleanup removes: components do either.
const mountTwice = (channel, anew) => {
  let subscription = client.newSubscription(channel);
  subscription.subscribe();
  subscription.unsubscribe();
  if (anew) {
    client.removeSubscription(subscription);
    subscription = client.newSubscription(channel);
  }
  subscription.on("unsubscribed", (context) => say("unsubscribed", { code: context.code, reason: context.reason }));
  subscription.on("error", (context) => say("error", { code: context.error.code }));
  subscription.subscribe();
  return subscription;
};

for (let mount = 0; mount < Number(mounts); mount++) {
  const { data } = await client.rpc("thread.create", { title: `mount ${mount}` });
  const subscription = mountTwice(`thread:${data.thread_id}`, mount % 2 === 1);
  await subscription.ready(5000).catch(() => {});
  const seen = new Promise((resolve) => subscription.on("publication", resolve));
  const started = client.rpc("run.start", { thread_id: data.thread_id, text: "echo hi", client_message_id: `m${mount}` });
  const shown = await Promise.race([seen.then(() => true), started.then(() => new Promise((resolve) => setTimeout(resolve, 5000, false)))]);
  const clients = subscription.state === "subscribed" ? Object.keys((await subscription.presence()).clients).length : 0;
  say("mounted", { state: subscription.state, shown, clients });
  subscription.removeAllListeners();
  subscription.unsubscribe();
  client.removeSubscription(subscription);
}
process.stdin.on("end", () => { client.disconnect(); setTimeout(() => process.exit(0), 200); });
process.stdin.resume();
