/**
 * One connection attempt as a WebSocket class, to inject into centrifuge-js: it brings a fresh token and turns a refused
 * handshake, which browsers hide behind code 1006, into its real close code and reason. `socket.ts` reconnects with it.
 *
 * Rules: a token travels as a subprotocol, never in the URL (a ticket does: it serves once); a handshake that failed
 * for an unknown reason stays 1006, so that the SDK retries; every wait is bounded by `timeoutMs`.
 */

import { WEBSOCKET_PATHS } from "./contract.ts";
import { closeReason, refusalFromClose, refusalFromProblem, type Refusal } from "./refusal.ts";

/** Throw this from `getToken` when there is nobody signed in: the SDK then stops instead of retrying for ever. */
export class SignedOut extends Error {
  override name = "SignedOut";
}

export interface WebSocketOptions {
  /**
   * Asked before each attempt. `""` or null: offer no token (a cookie may serve, or a token in `connect`). A
   * rejection is a failed attempt that the SDK repeats; `SignedOut` is final (close code 3500).
   */
  getToken?: () => Promise<string | null> | string | null;
  /**
   * Fetch a ticket for each attempt (`POST /ws/ticket`, with the token or the page's cookie), and send no token with
   * the handshake: for proxies that strip subprotocols, and for tokens that are too long for a header. A URL: from there.
   */
  ticket?: boolean | string | URL;
  /** Default: `/ws/preflight` beside the endpoint. */
  preflightUrl?: string | URL;
  /** Told of every refusal, with the words to show. */
  onRefused?: (refusal: Refusal) => void;
  /** Default: the global one. Node before 22 has none: pass the one of package `ws`. */
  WebSocket?: WebSocketConstructor;
  /** Default: the global one. */
  fetch?: typeof fetch;
  /** Whether cookies go with the preflight. Default `include`, as browsers send them with the handshake. */
  credentials?: RequestCredentials;
  /** For the token and for the preflight, each. Default 5000, as the SDK's own connect time-out. */
  timeoutMs?: number;
}

/** The part of the standard constructor that is used. */
export type WebSocketConstructor = new (url: string, protocols?: string[]) => RawSocket;

/** The part of a standard WebSocket that is used; DOM's and `ws`'s both fit. */
export interface RawSocket {
  readonly readyState: number;
  binaryType: string;
  onopen: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  send(data: never): void;
  close(code?: number, reason?: string): void;
}

/** Members that not every socket has. */
type Facts = { protocol?: string; extensions?: string; bufferedAmount?: number };

/** What handlers get on close: code and reason, real where they could be found out. */
export interface CloseInfo {
  type: "close";
  code: number;
  reason: string;
  wasClean: boolean;
}

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

/** The subprotocols of ours; the guard or gateway selects the first on admission, the second on a refusal. */
export const JWT_AUTH = "jwt-auth";
export const EXPLAIN = "narthex.explain";

/**
 * Make the class. Use it as `new Centrifuge(url, { websocket: narthexWebSocket({ getToken }) })`.
 */
export function narthexWebSocket(options: WebSocketOptions = {}): new (url: string, protocols?: string | string[]) => NarthexSocket {
  return class extends NarthexSocket {
    constructor(url: string, protocols: string | string[] = []) {
      super(url, options, [protocols].flat()); // the SDK's protobuf build names its format here
    }
  };
}

/** One attempt. It has the members of the standard WebSocket that the SDK uses. */
export class NarthexSocket {
  static readonly CONNECTING = CONNECTING;
  static readonly OPEN = OPEN;
  static readonly CLOSING = CLOSING;
  static readonly CLOSED = CLOSED;

  readonly url: string;
  onopen: ((event: unknown) => void) | null = null;
  onerror: ((event: unknown) => void) | null = null;
  onclose: ((event: CloseInfo) => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  /** Why it was refused, with the words to show; null where the server has not told it over HTTP. */
  refusal: Refusal | null = null;

  readonly #options: WebSocketOptions;
  readonly #protocols: string[];
  readonly #abort = new AbortController();
  #socket: RawSocket | null = null;
  #state = CONNECTING;
  #binaryType = "blob";
  /** Whether the server said anything: a close before that is a refusal. */
  #heard = false;

  /** `protocols`: of the application's own. */
  constructor(url: string, options: WebSocketOptions, protocols: string[] = []) {
    this.url = url;
    this.#options = options;
    this.#protocols = protocols;
    void this.#open();
  }

  get readyState(): number {
    return this.#state;
  }

  get protocol(): string {
    return (this.#socket as Facts | null)?.protocol ?? "";
  }

  get extensions(): string {
    return (this.#socket as Facts | null)?.extensions ?? "";
  }

  get bufferedAmount(): number {
    return (this.#socket as Facts | null)?.bufferedAmount ?? 0;
  }

  get binaryType(): string {
    return this.#binaryType;
  }

  set binaryType(type: string) {
    this.#binaryType = type;
    if (this.#socket) this.#socket.binaryType = type;
  }

  send(data: unknown): void {
    if (this.#socket === null || this.#state !== OPEN) throw new Error("the socket is not open");
    this.#socket.send(data as never);
  }

  close(code?: number, reason?: string): void {
    if (this.#state >= CLOSING) return;
    this.#state = CLOSING;
    this.#abort.abort();
    if (this.#socket) this.#socket.close(code, reason);
    else this.#finish(1006, "", false);
  }

  async #open(): Promise<void> {
    let token: string;
    try {
      token = (await this.#bounded(async () => this.#options.getToken?.() ?? "")) ?? "";
    } catch (error) {
      // Not within the constructor's own task: the SDK sets its handlers after it.
      if (error instanceof Error && error.name === "SignedOut") {
        this.#refuse(signedOut(error.message));
      } else {
        this.onerror?.({ type: "error", error });
        this.#finish(1006, "", false);
      }
      return;
    }
    if (this.#state !== CONNECTING) return;
    let url = this.url;
    if (this.#options.ticket) {
      const ticket = await this.#fetchTicket(token);
      if (this.#state !== CONNECTING) return;
      if (typeof ticket !== "string") {
        if (ticket) return this.#refuse(ticket);
        this.#options.onRefused?.(unreachable());
        return this.#finish(1006, "", false);
      }
      const ticketed = new URL(url);
      ticketed.searchParams.set("ticket", ticket);
      url = ticketed.href;
    }
    // `jwt-auth` also without a token: a server that selects it has admitted, one that selects EXPLAIN refuses.
    const offered = [...this.#protocols, JWT_AUTH, ...(token && !this.#options.ticket ? [`jwt.${token}`] : []), EXPLAIN];
    const Socket = this.#options.WebSocket ?? (globalThis.WebSocket as unknown as WebSocketConstructor);
    try {
      this.#attach(new Socket(url, offered), token);
    } catch (error) {
      this.onerror?.({ type: "error", error });
      this.#finish(1006, "", false);
    }
  }

  #attach(socket: RawSocket, token: string): void {
    this.#socket = socket;
    socket.binaryType = this.binaryType;
    socket.onopen = (event) => {
      // An upgrade that only carries a refusal: its close frame follows.
      if (this.#state !== CONNECTING || this.protocol === EXPLAIN) return;
      this.#state = OPEN;
      this.onopen?.(event);
    };
    socket.onmessage = (event) => {
      this.#heard = true;
      this.onmessage?.(event as { data: unknown });
    };
    socket.onerror = (event) => this.onerror?.(event);
    socket.onclose = (event) => void this.#closed(event as CloseInfo, token);
  }

  async #closed(event: CloseInfo, token: string): Promise<void> {
    const opened = this.#state === OPEN;
    const ours = this.#state === CLOSING;
    if (ours || (opened && this.#heard) || (event.code >= 3000 && !this.#options.onRefused)) {
      this.#finish(event.code, event.reason, event.wasClean);
      return;
    }
    if (event.code >= 3000) {
      // The gateway upgraded in order to explain. The SDK gets that at once; the remedy is worth one request more.
      this.#finish(event.code, event.reason, event.wasClean);
      const said = refusalFromClose(event.code, event.reason);
      if (said === null) return;
      const full = await this.#preflight(token);
      this.#options.onRefused?.(full instanceof Object && full.code === said.code ? { ...full, close: event.code } : said);
      return;
    }
    if (opened) {
      this.#finish(event.code, event.reason, event.wasClean);
      return;
    }
    const verdict = await this.#preflight(token);
    if (verdict === "admitted") {
      this.#options.onRefused?.(blocked());
      this.#finish(event.code, event.reason, event.wasClean);
    } else if (verdict === "unknown") {
      this.#options.onRefused?.(unreachable());
      this.#finish(event.code, event.reason, event.wasClean);
    } else {
      this.#refuse(verdict);
    }
  }

  /** What the gateway would say to the same credentials over plain HTTP, on the same code path as the handshake. */
  async #preflight(token: string): Promise<Refusal | "admitted" | "unknown"> {
    const request = this.#options.fetch ?? globalThis.fetch;
    try {
      const response = await request(this.#preflightUrl(), {
        headers: token ? { Authorization: `Bearer ${token}` } : {},
        credentials: this.#options.credentials ?? "include",
        cache: "no-store",
        signal: AbortSignal.timeout(this.#options.timeoutMs ?? 5000),
      });
      if (response.ok) return "admitted";
      const body: unknown = await response.json().catch(() => null);
      return refusalFromProblem(response.status, body, response.headers.get("Retry-After")) ?? "unknown";
    } catch {
      return "unknown";
    }
  }

  /** A ticket; the refusal of it; null: there was no answer to understand. */
  async #fetchTicket(token: string): Promise<string | Refusal | null> {
    const request = this.#options.fetch ?? globalThis.fetch;
    const { ticket } = this.#options;
    try {
      const response = await request(ticket === true ? this.#beside("ticket") : String(ticket), {
        method: "POST",
        headers: token ? { Authorization: `Bearer ${token}` } : {},
        credentials: this.#options.credentials ?? "include",
        cache: "no-store",
        signal: AbortSignal.timeout(this.#options.timeoutMs ?? 5000),
      });
      const body: unknown = await response.json().catch(() => null);
      if (!response.ok) return refusalFromProblem(response.status, body, response.headers.get("Retry-After"));
      const found = (body as { ticket?: unknown } | null)?.ticket;
      return typeof found === "string" ? found : null;
    } catch {
      return null;
    }
  }

  #preflightUrl(): string {
    if (this.#options.preflightUrl !== undefined) return String(this.#options.preflightUrl);
    return this.#beside("preflight");
  }

  /** The server's route `/ws/<name>` beside the endpoint. */
  #beside(name: string): string {
    const url = new URL(this.url);
    url.protocol = url.protocol === "wss:" ? "https:" : "http:";
    const path = url.pathname.replace(/\/$/, "");
    const endpoint = WEBSOCKET_PATHS.find((known) => path.endsWith(known)) ?? path; // a guard's may have any path
    url.pathname = path.slice(0, path.length - endpoint.length) + `/ws/${name}`;
    url.search = "";
    return url.href;
  }

  #refuse(refusal: Refusal): void {
    this.refusal = refusal;
    this.#options.onRefused?.(refusal);
    this.#finish(refusal.close, closeReason(refusal), true);
  }

  #finish(code: number, reason: string, wasClean: boolean): void {
    if (this.#state === CLOSED) return;
    this.#state = CLOSED;
    this.onclose?.({ type: "close", code, reason, wasClean });
  }

  /** Run `work`, but no longer than `timeoutMs`, nor longer than this socket is wanted. */
  #bounded<T>(work: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("getToken took too long")), this.#options.timeoutMs ?? 5000);
      this.#abort.signal.addEventListener("abort", () => reject(new Error("closed")), { once: true });
      work().then(resolve, reject).finally(() => clearTimeout(timer));
    });
  }
}

function own(code: string, title: string, remedy: string, close: number): Refusal {
  const retries = close < 3500;
  return { code, title, detail: title + ".", remedy, status: 0, close, traceId: "", retryAfter: null, retries };
}

function signedOut(message: string): Refusal {
  return { ...own("auth_required", "No user is signed in", "Sign in, then connect again.", 3500), detail: message || "No user is signed in." };
}

function unreachable(): Refusal {
  return own("unreachable", "The gateway cannot be reached", "Check the network; the client retries automatically.", 1006);
}

function blocked(): Refusal {
  const remedy = "Configure the proxy to forward `Upgrade` and `Connection`; `narthex doctor URL` names the proxy.";
  return own("handshake_blocked", "The gateway would accept this credential, but the WebSocket upgrade does not reach it", remedy, 1006);
}
