// The unmodified centrifuge npm SDK, driven by JSON lines: see driving.py for the lines in both directions.
// usage: node driver.mjs json|protobuf        (run from web/, where node_modules is)
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
const require = createRequire(pathToFileURL(process.cwd() + "/package.json"));
const format = process.argv[2];
const { Centrifuge } = require(format === "protobuf" ? "centrifuge/build/protobuf" : "centrifuge");
const WebSocket = require("ws");

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const decoded = (data) => {
  if (format === "json" || data === undefined || data === null) return data;
  return data.length ? JSON.parse(new TextDecoder().decode(data)) : null;
};
const encoded = (data) => (format === "json" ? data : new TextEncoder().encode(JSON.stringify(data)));
const tokens = [];
const askers = [];
let client;
const subscriptions = new Map();

const failed = (n, fault) =>
  say({ n, error: { code: fault.code ?? 0, message: String(fault.message ?? fault), temporary: fault.temporary ?? false } });

function connect(line) {
  const options = { minReconnectDelay: 50, maxReconnectDelay: 300, timeout: 10000 };
  if (line.token) options.token = line.token;
  if (line.emulated_headers) options.headers = line.emulated_headers;
  const headers = line.headers ?? {};
  options.websocket = class extends WebSocket {
    constructor(address, protocols) { super(address, protocols, { headers }); }
  };
  if (line.get_token) {
    options.getToken = () => {
      say({ event: "token_wanted" });
      return new Promise((resolve) => (tokens.length ? resolve(tokens.shift()) : askers.push(resolve)));
    };
  }
  client = new Centrifuge(line.url, options);
  client.on("connecting", (e) => say({ event: "connecting", code: e.code, reason: e.reason }));
  client.on("connected", (e) => say({ event: "connected", client: e.client }));
  client.on("disconnected", (e) => say({ event: "disconnected", code: e.code, reason: e.reason }));
  client.on("subscribed", (e) => say({ event: "server_subscribed", channel: e.channel, recovered: e.recovered }));
  client.on("unsubscribed", (e) => say({ event: "server_unsubscribed", channel: e.channel }));
  client.on("publication", (e) =>
    say({ event: "server_publication", channel: e.channel, offset: Number(e.offset ?? 0), data: decoded(e.data) }));
  client.connect();
  return {};
}

function subscribe(line) {
  const channel = line.channel;
  let found = subscriptions.get(channel);
  if (!found) {
    const options = { minResubscribeDelay: 50, maxResubscribeDelay: 300 };
    if (line.delta) options.delta = line.delta;
    if (line.since) options.since = line.since;
    found = client.newSubscription(channel, options);
    subscriptions.set(channel, found);
    found.on("subscribed", (e) => say({
      event: "subscribed", channel, recovered: e.recovered, was_recovering: e.wasRecovering,
      position: e.streamPosition ? { offset: Number(e.streamPosition.offset), epoch: e.streamPosition.epoch } : {},
    }));
    found.on("unsubscribed", (e) => say({ event: "unsubscribed", channel, code: e.code, reason: e.reason }));
    found.on("error", (e) => say({ event: "subscription_error", channel, code: e.error.code }));
    found.on("publication", (e) => say({
      event: "publication", channel, offset: Number(e.offset ?? 0), data: decoded(e.data), user: e.info?.user ?? null,
    }));
    found.on("join", (e) => say({ event: "join", channel, user: e.info.user }));
    found.on("leave", (e) => say({ event: "leave", channel, user: e.info.user }));
  }
  found.subscribe();
  return {};
}

const operations = {
  connect,
  subscribe,
  unsubscribe: (line) => { subscriptions.get(line.channel).unsubscribe(); return {}; },
  rpc: async (line) => decoded((await client.rpc(line.method, encoded(line.data))).data),
  publish: async (line) => { await client.publish(line.channel, encoded(line.data)); return {}; },
  presence: async (line) =>
    Object.fromEntries(Object.entries((await client.presence(line.channel)).clients).map(([id, info]) => [id, info.user])),
  presence_stats: async (line) => {
    const found = await client.presenceStats(line.channel);
    return { clients: found.numClients, users: found.numUsers };
  },
  history: async (line) => {
    const found = await client.history(line.channel, { limit: line.limit });
    return {
      offsets: found.publications.map((publication) => Number(publication.offset)),
      offset: Number(found.offset), epoch: found.epoch,
    };
  },
  delta_stats: (line) => {
    const found = subscriptions.get(line.channel);
    return found.deltaStats ? found.deltaStats() : null;
  },
  disconnect: () => { client.disconnect(); return {}; },
};

say({ event: "ready" });
const lines = createInterface({ input: process.stdin });
lines.on("line", async (text) => {
  const line = JSON.parse(text);
  if (line.op === "token") {
    if (askers.length) askers.shift()(line.token);
    else tokens.push(line.token);
    return;
  }
  try {
    say({ n: line.n, ok: await operations[line.op](line) });
  } catch (fault) {
    failed(line.n, fault);
  }
});
lines.on("close", () => process.exit(0));
