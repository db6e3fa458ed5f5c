// A Node server as it stands behind a guard: `ws` with permessage-deflate, and plain HTTP beside it.
// Prints its port. A connection gets its request's URL and headers first, then an echo of every message.
// GET /closes: the code and reason of every connection that has ended. POST /count: the length of the body.
// GET /events: a stream that never ends. GET /refuse as a WebSocket: a refusal of its own.
import { createRequire } from "node:module";
import http from "node:http";

const { WebSocketServer } = createRequire(process.argv[2])("ws");
const closes = [];
const server = http.createServer((request, response) => {
  if (request.url === "/closes") return response.end(JSON.stringify(closes));
  if (request.url === "/events") {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write("data: first\n\n");
    request.on("close", () => closes.push(["events", ""]));
    return undefined;
  }
  if (request.url === "/broken") {
    response.writeHead(200, { "content-length": 1000 });
    response.write("begun");
    return setTimeout(() => response.destroy(), 50);
  }
  let count = 0;
  request.on("data", (data) => (count += data.length));
  return request.on("end", () => {
    response.writeHead(201, [["Set-Cookie", "a=1"], ["Set-Cookie", "b=2"], ["X-Own", "yes"]].flat());
    response.end(JSON.stringify({ method: request.method, url: request.url, headers: request.headers, count }));
  });
});
const wss = new WebSocketServer({ noServer: true, perMessageDeflate: { threshold: 0 } });
server.on("upgrade", (request, socket, head) => {
  if (request.url === "/refuse") {
    socket.end("HTTP/1.1 409 Conflict\r\nX-Own: yes\r\nContent-Length: 4\r\n\r\nbusy");
    return;
  }
  wss.handleUpgrade(request, socket, head, (client) => {
    client.on("close", (code, reason) => closes.push([code, String(reason)]));
    client.on("message", (data, binary) => client.send(data, { binary }));
    client.send(JSON.stringify({ url: request.url, headers: request.headers, extensions: client.extensions }));
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
