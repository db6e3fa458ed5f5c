/**
 * A drop-in for `WebSocket` that reconnects, for pages that use the plain class against an endpoint behind a guard.
 *
 * Not here: one attempt (`websocket.ts`: token or ticket, the reason of a refusal). Rules: each attempt brings a fresh
 * credential; every attempt ends in one `close` event; the wait before the next one is random (full jitter), so that
 * the clients of a restarted server do not come back at once; nothing is attempted while the device is offline; a
 * refusal that another attempt cannot change ends it. No message is sent twice, and none is kept unless `buffer` allows it.
 */

import { reconnects, refusalFromClose, type Refusal } from "./refusal.ts";
import { EXPLAIN, JWT_AUTH, NarthexSocket, type CloseInfo, type WebSocketOptions } from "./websocket.ts";

export interface SocketOptions extends Omit<WebSocketOptions, "getToken"> {
  /**
   * Asked before each attempt; otherwise as for `narthexWebSocket`. `expired`: the last token was refused because it
   * had expired, or the device has slept: do not answer with one from a cache.
   */
  getToken?: (request: { expired: boolean }) => Promise<string | null> | string | null;
  /** Longest wait before the first attempt again, in ms. Default 1000. It doubles with each failed attempt. */
  minDelayMs?: number;
  /** Longest wait before any attempt, in ms. Default 30000. */
  maxDelayMs?: number;
  /** An attempt that is not open after this time is given up, in ms. Default 20000. */
  connectTimeoutMs?: number;
  /** A pause of the page's timers that counts as sleep, in ms. Default 75000: browsers slow hidden pages to one a minute. */
  sleepMs?: number;
  /** How many messages `send` may keep while there is no connection. Default 0: `send` throws then, as the plain class does. */
  buffer?: number;
  /** Decides whether to connect again, for close codes of the application's own. Undefined: the default rule. */
  reconnect?: (close: { code: number; reason: string; refusal: Refusal | null }) => boolean | undefined;
}

/** The `close` event. */
export interface SocketCloseEvent extends CloseEvent {
  /** Why the server refused or ended it, null where it did not say. */
  readonly refusal: Refusal | null;
  /** Whether another attempt follows; `readyState` is CONNECTING then. */
  readonly willReconnect: boolean;
}

/** What `narthexSocket` returns: the plain class, and `reconnect`. */
export interface SocketConstructor {
  new (url: string | URL, protocols?: string | string[]): ReconnectingSocket;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;
}

/** Make the class. Use it as `const Socket = narthexSocket({ getToken }); const socket = new Socket(url);`. */
export function narthexSocket(options: SocketOptions = {}): SocketConstructor {
  return class extends ReconnectingSocket {
    constructor(url: string | URL, protocols: string | string[] = []) {
      super(url, protocols, options);
    }
  };
}

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;
const ABNORMAL = 1006;

/** Close codes below 3000 after which the same client would fare no better: done, unsupported data, policy violation. */
const FINAL = new Set([1000, 1003, 1007, 1008, 1010]);
/** Refusals of a credential that aged between its issue and its use: another one is worth one attempt at once. */
const AGED = new Set(["token_expired", "ticket_invalid"]);
/** A connection that lived this long was a success: the waits begin anew. */
const STABLE_MS = 5_000;
/** After sleep, a connection whose server lives has this long to show it by a message or a close. */
const WAKE_MS = 3_000;
const TICK_MS = 5_000;

const TOKEN_LIFE_ENDED = 3005;
const LOOPBACK = /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/;
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

type Closed = Pick<CloseInfo, "code" | "reason" | "wasClean">;
type Data = Parameters<WebSocket["send"]>[0];
type Handlers = { [K in keyof WebSocketEventMap]?: { handler: unknown; listener: EventListener } };

/** See the module. */
export class ReconnectingSocket extends EventTarget implements WebSocket {
  static readonly CONNECTING = CONNECTING;
  static readonly OPEN = OPEN;
  static readonly CLOSING = CLOSING;
  static readonly CLOSED = CLOSED;
  readonly CONNECTING = CONNECTING;
  readonly OPEN = OPEN;
  readonly CLOSING = CLOSING;
  readonly CLOSED = CLOSED;

  declare addEventListener: WebSocket["addEventListener"] &
    ((type: "close", listener: (this: WebSocket, event: SocketCloseEvent) => unknown, options?: boolean | AddEventListenerOptions) => void);
  declare removeEventListener: WebSocket["removeEventListener"];

  readonly url: string;

  readonly #options: SocketOptions;
  readonly #protocols: string[];
  readonly #handlers: Handlers = {};
  readonly #kept: Data[] = [];
  #state: 0 | 1 | 2 | 3 = CONNECTING;
  #attempt: NarthexSocket | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined; // of the attempt, of the wait before it, or after sleep
  #ticker: ReturnType<typeof setInterval> | undefined;
  #tickedAt = 0;
  #binaryType: BinaryType = "blob";
  #failures = 0;
  #openedAt = 0;
  #heard = 0;
  #aged = false; // the next credential must be a new one
  #renewed = false; // the attempt under way is the one with it
  #unsent = 0; // bytes

  constructor(url: string | URL, protocols: string | string[], options: SocketOptions) {
    super();
    this.url = webSocketUrl(url);
    this.#protocols = checked(typeof protocols === "string" ? [protocols] : [...protocols]);
    this.#options = options;
    this.#watch();
    this.#begin();
  }

  get readyState(): 0 | 1 | 2 | 3 {
    return this.#state;
  }

  /** The application's own subprotocol that the server selected. */
  get protocol(): string {
    const selected = this.#attempt?.protocol ?? "";
    return selected === JWT_AUTH || selected === EXPLAIN ? "" : selected;
  }

  get extensions(): string {
    return this.#attempt?.extensions ?? "";
  }

  get bufferedAmount(): number {
    return this.#unsent + (this.#attempt?.bufferedAmount ?? 0);
  }

  get binaryType(): BinaryType {
    return this.#binaryType;
  }

  set binaryType(type: BinaryType) {
    if (type !== "blob" && type !== "arraybuffer") return; // as the plain class: an unknown value is ignored
    this.#binaryType = type;
    if (this.#attempt) this.#attempt.binaryType = type;
  }

  get onopen(): WebSocket["onopen"] {
    return this.#handler("open") as WebSocket["onopen"];
  }
  set onopen(handler: WebSocket["onopen"]) {
    this.#handle("open", handler);
  }
  get onmessage(): WebSocket["onmessage"] {
    return this.#handler("message") as WebSocket["onmessage"];
  }
  set onmessage(handler: WebSocket["onmessage"]) {
    this.#handle("message", handler);
  }
  get onerror(): WebSocket["onerror"] {
    return this.#handler("error") as WebSocket["onerror"];
  }
  set onerror(handler: WebSocket["onerror"]) {
    this.#handle("error", handler);
  }
  get onclose(): WebSocket["onclose"] {
    return this.#handler("close") as WebSocket["onclose"];
  }
  set onclose(handler: ((this: WebSocket, event: SocketCloseEvent) => unknown) | null) {
    this.#handle("close", handler);
  }

  /** Send now, or keep the message where `buffer` allows it. Throws InvalidStateError while there is no connection. */
  send(data: Data): void {
    if (this.#state === OPEN) {
      this.#attempt!.send(data);
    } else if (this.#state >= CLOSING) {
      this.#unsent += bytes(data); // the plain class discards it, too
    } else if (this.#kept.length < (this.#options.buffer ?? 0)) {
      this.#kept.push(data);
      this.#unsent += bytes(data);
    } else {
      throw new DOMException("There is no connection now: wait for `open`, or set the option `buffer`.", "InvalidStateError");
    }
  }

  /** End it for good. */
  close(code?: number, reason?: string): void {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException(`The close code must be 1000 or 3000 to 4999, not ${code}.`, "InvalidAccessError");
    }
    if (reason !== undefined && new TextEncoder().encode(reason).length > 123) {
      throw new DOMException("The close reason is longer than 123 bytes.", "SyntaxError");
    }
    if (this.#state >= CLOSING) return;
    const open = this.#state === OPEN;
    this.#state = CLOSING;
    clearTimeout(this.#timer);
    if (open) {
      this.#attempt!.close(code, reason);
    } else {
      this.#abandon();
      setTimeout(() => this.#end({ code: ABNORMAL, reason: "", wasClean: false }, null)); // handlers may be set after this call
    }
  }

  /** Connect anew at once, with a fresh credential: after the user has changed, or after a final close. */
  reconnect(): void {
    if (this.#state === CLOSED) this.#watch();
    this.#replace("reconnect: The page asked for a new connection.");
  }

  // -- attempts ---------------------------------------------------------------------------------------------

  #begin(): void {
    clearTimeout(this.#timer);
    if (this.#offline()) return; // `online` begins
    const expired = (this.#renewed = this.#aged);
    this.#aged = false;
    const { getToken, ...options } = this.#options;
    const attempt = new NarthexSocket(this.url, { ...options, getToken: () => getToken?.({ expired }) ?? "" }, this.#protocols);
    this.#attempt = attempt;
    attempt.binaryType = this.#binaryType;
    attempt.onopen = () => this.#opened(attempt);
    attempt.onmessage = ({ data }) => {
      this.#heard += 1;
      this.dispatchEvent(new MessageEvent("message", { data, origin: new URL(this.url).origin }));
    };
    attempt.onerror = () => this.dispatchEvent(new Event("error"));
    attempt.onclose = (event) => this.#closed(event, attempt.refusal ?? refusalFromClose(event.code, event.reason));
    this.#timer = setTimeout(() => {
      this.#abandon();
      this.dispatchEvent(new Event("error"));
      this.#closed({ code: ABNORMAL, reason: "", wasClean: false }, null);
    }, this.#options.connectTimeoutMs ?? 20_000);
  }

  #opened(attempt: NarthexSocket): void {
    clearTimeout(this.#timer);
    this.#state = OPEN;
    this.#openedAt = Date.now();
    this.dispatchEvent(new Event("open"));
    // After the page's own first messages; a handler may have closed the connection.
    while (this.#kept.length > 0 && this.#state === OPEN && this.#attempt === attempt) {
      const data = this.#kept.shift()!;
      this.#unsent -= bytes(data);
      attempt.send(data);
    }
  }

  #closed(event: Closed, refusal: Refusal | null): void {
    clearTimeout(this.#timer);
    this.#attempt = null;
    if (this.#state === CLOSING) return this.#end(event, refusal);
    const { code, reason } = event;
    const aged = refusal !== null && AGED.has(refusal.code) && !this.#renewed;
    const again = aged || (this.#options.reconnect?.({ code, reason, refusal }) ?? (reconnects(code) && !FINAL.has(code)));
    if (!again) return this.#end(event, refusal);
    if (this.#state === OPEN && Date.now() - this.#openedAt >= STABLE_MS) this.#failures = 0;
    this.#state = CONNECTING;
    this.#aged ||= aged || code === TOKEN_LIFE_ENDED;
    this.#wait(aged ? 0 : (refusal?.retryAfter ?? 0) * 1000 + this.#jitter());
    this.#failures += 1;
    this.#dispatchClose(event, refusal, true);
  }

  #wait(delayMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#begin(), delayMs);
  }

  /** Full jitter: anything from nothing to the doubled limit. */
  #jitter(): number {
    const { minDelayMs = 1_000, maxDelayMs = 30_000 } = this.#options;
    return Math.random() * Math.min(maxDelayMs, minDelayMs * 2 ** this.#failures);
  }

  /** Give up the attempt or connection under way, without an event. */
  #abandon(): void {
    clearTimeout(this.#timer);
    const attempt = this.#attempt;
    this.#attempt = null;
    if (!attempt) return;
    attempt.onopen = attempt.onmessage = attempt.onerror = attempt.onclose = null;
    attempt.close();
  }

  #replace(reason: string): void {
    const open = this.#state === OPEN;
    this.#abandon();
    this.#state = CONNECTING;
    this.#aged = true;
    this.#failures = 0;
    this.#wait(0);
    if (open) this.#dispatchClose({ code: ABNORMAL, reason, wasClean: false }, null, true);
  }

  #end(event: Closed, refusal: Refusal | null): void {
    if (this.#state === CLOSED) return;
    this.#state = CLOSED;
    this.#attempt = null;
    this.#kept.length = 0;
    clearInterval(this.#ticker);
    globalThis.removeEventListener?.("online", this.#online);
    this.#dispatchClose(event, refusal, false);
  }

  // -- the device -------------------------------------------------------------------------------------------

  #watch(): void {
    globalThis.addEventListener?.("online", this.#online);
    this.#tickedAt = Date.now();
    this.#ticker = setInterval(() => this.#tick(), Math.min(TICK_MS, this.#sleepMs / 3));
    (this.#ticker as { unref?: () => void }).unref?.();
  }

  /** `navigator.onLine` knows no loopback interface: a developer without a network reaches it. */
  #offline(): boolean {
    return globalThis.navigator?.onLine === false && !LOOPBACK.test(new URL(this.url).hostname);
  }

  readonly #online = (): void => {
    if (this.#state !== CONNECTING || this.#attempt !== null) return;
    this.#failures = 0;
    this.#wait(this.#jitter()); // a whole office comes back with its router
  };

  get #sleepMs(): number {
    return this.#options.sleepMs ?? 75_000;
  }

  #tick(): void {
    const pause = Date.now() - this.#tickedAt;
    this.#tickedAt = Date.now();
    if (pause < this.#sleepMs) return;
    // The server has given the connection up meanwhile, and its farewell may never come. A credential that was
    // fetched before the sleep is stale.
    if (this.#state === CONNECTING) {
      this.#replace("");
    } else if (this.#state === OPEN) {
      const heard = this.#heard;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => {
        if (this.#heard === heard) this.#replace("slept: The device slept; the connection is replaced.");
      }, WAKE_MS);
    }
  }

  // -- events -----------------------------------------------------------------------------------------------

  #dispatchClose({ code, reason, wasClean }: Closed, refusal: Refusal | null, willReconnect: boolean): void {
    const facts = { code, reason, wasClean };
    // Node before 23 has no CloseEvent.
    const event = globalThis.CloseEvent ? new CloseEvent("close", facts) : Object.assign(new Event("close"), facts);
    this.dispatchEvent(Object.assign(event, { refusal, willReconnect }));
  }

  #handler(type: keyof WebSocketEventMap): unknown {
    return this.#handlers[type]?.handler ?? null;
  }

  #handle(type: keyof WebSocketEventMap, handler: unknown): void {
    const before = this.#handlers[type];
    if (before) this.removeEventListener(type, before.listener);
    delete this.#handlers[type];
    if (typeof handler !== "function") return;
    const listener: EventListener = (event) => handler.call(this, event); // its own: the page may have added `handler` as a listener, too
    this.#handlers[type] = { handler, listener };
    this.addEventListener(type, listener);
  }
}

/** An absolute WebSocket URL, by the rules of the standard constructor. */
function webSocketUrl(given: string | URL): string {
  let url: URL | null = null;
  try {
    url = new URL(given, globalThis.location?.href);
  } catch {
    // Refused below.
  }
  if (url?.protocol === "http:") url.protocol = "ws:";
  if (url?.protocol === "https:") url.protocol = "wss:";
  if (!url || !/^wss?:$/.test(url.protocol) || url.hash) {
    throw new DOMException(`${String(given)} is no URL of a WebSocket.`, "SyntaxError");
  }
  return url.href;
}

/** The application's subprotocols: here and not in the attempt, which would be repeated. */
function checked(protocols: string[]): string[] {
  if (new Set(protocols).size < protocols.length || !protocols.every((name) => TOKEN.test(name))) {
    throw new DOMException("Each subprotocol must be a token (RFC 6455), offered once.", "SyntaxError");
  }
  return protocols;
}

function bytes(data: Data): number {
  if (typeof data === "string") return new TextEncoder().encode(data).length;
  return data instanceof Blob ? data.size : data.byteLength;
}
