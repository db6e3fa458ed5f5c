/** A small real gateway for tests: upgrades, refusals, preflight, tickets; what it does is the test's choice. */

import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";

import { WebSocketServer, type WebSocket } from "ws";

/** How the gateway answers an upgrade, given the n-th attempt and the offered subprotocols. */
export type Answer =
  | { refuse: number; problem?: object; headers?: Record<string, string>; preflight?: number }
  | { explain: number; reason: string; problem: object; status: number }
  | "silence"
  | "admit";

export interface Gateway {
  url: string;
  offers: string[][];
  upgrades: IncomingMessage[];
  preflights: IncomingMessage[];
  tickets: IncomingMessage[];
  sockets: WebSocket[];
  stop(): Promise<void>;
}

export interface Behaviour {
  /** Of an admitted socket. */
  admitted?: (socket: WebSocket, attempt: number) => void;
  /** Status and body of the n-th `POST /ws/ticket`. */
  ticket?: (attempt: number) => [number, object];
}

export async function gateway(answer: (attempt: number, offers: string[]) => Answer, behaviour: Behaviour = {}): Promise<Gateway> {
  const offers: string[][] = [];
  const upgrades: IncomingMessage[] = [];
  const preflights: IncomingMessage[] = [];
  const tickets: IncomingMessage[] = [];
  let last: Answer = "admit";
  const sockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (offered) => {
      if (last === "admit" && offered.has("chat.v1")) return "chat.v1";
      return last === "admit" && offered.has("jwt-auth") ? "jwt-auth" : offered.has("narthex.explain") ? "narthex.explain" : false;
    },
  });
  const server: Server = createServer((request, response) => {
    if (request.url === "/ws/ticket") {
      tickets.push(request);
      const [status, body] = behaviour.ticket?.(tickets.length) ?? [404, {}];
      response.writeHead(status).end(JSON.stringify(body));
      return;
    }
    preflights.push(request);
    if (last === "admit" || last === "silence") response.writeHead(200).end("{}");
    else if ("explain" in last) response.writeHead(last.status).end(JSON.stringify(last.problem));
    else response.writeHead(last.preflight ?? last.refuse, last.headers).end(JSON.stringify(last.problem ?? {}));
  });
  const open: WebSocket[] = [];
  const silent: Duplex[] = [];
  server.on("upgrade", (request, socket, head) => {
    const offered = (request.headers["sec-websocket-protocol"] ?? "").split(/,\s*/).filter(Boolean);
    offers.push(offered);
    upgrades.push(request);
    const attempt = offers.length;
    const reply = (last = answer(attempt, offered));
    if (reply === "silence") return void silent.push(socket);
    if (reply !== "admit" && "refuse" in reply) {
      socket.end(`HTTP/1.1 ${reply.refuse} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
      return;
    }
    sockets.handleUpgrade(request, socket, head, (ws) => {
      if (reply !== "admit") return ws.close(reply.explain, reply.reason);
      open.push(ws);
      behaviour.admitted?.(ws, attempt);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `ws://127.0.0.1:${port}/ws`,
    offers,
    upgrades,
    preflights,
    tickets,
    sockets: open,
    stop: async () => {
      sockets.clients.forEach((client) => client.terminate());
      silent.forEach((socket) => socket.destroy());
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** The body of a refusal. */
export const problem = (code: string, status: number): object => ({
  type: `https://narthex.example/problems/${code}`,
  title: "The token has expired",
  status,
  code,
  detail: "It expired 5 minutes ago.",
  remedy: "Refresh the token and connect again.",
  trace_id: "0af7651916cd43dd",
});
