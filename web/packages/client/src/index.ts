/** @narthex/client: what a page needs besides centrifuge-js to chat through a narthex gateway. */

export * from "./events.ts";
export { canonicalJson, sha256, sha256Hex } from "./canonical.ts";
export { RunAssembler, normalForm, runDigest, type Proof, type Pushed } from "./assembler.ts";
export { closeCodeFor, reconnects, refusalFromClose, refusalFromProblem, type Refusal } from "./refusal.ts";
export { EMPTY_VIEW, fold, textOf, viewOf } from "./view.ts";
export type { Part, ReasoningPart, RunPhase, RunView, SteerPart, StepPart, TextPart, ToolPart } from "./view.ts";
export { Threads, type Invitation, type LinkedThread, type Many, type OpenLink, type RpcClient, type ThreadLink } from "./threads.ts";
export { narthexSocket, ReconnectingSocket } from "./socket.ts";
export type { SocketCloseEvent, SocketConstructor, SocketOptions } from "./socket.ts";
export { NarthexSocket, SignedOut, narthexWebSocket } from "./websocket.ts";
export type { CloseInfo, RawSocket, WebSocketConstructor, WebSocketOptions } from "./websocket.ts";
export { watchThread, type BegunRun, type WatchedAgent, type WatchOptions } from "./watching.ts";
