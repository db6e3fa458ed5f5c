/**
 * The page's one connection: centrifuge-js with our helper, its state as a signal, and typed RPC.
 *
 * Rules: a state is only what was observed; a refusal is shown in the gateway's own words; RPC errors carry them too.
 */

import { signal, type Signal } from "@preact/signals";
import { Centrifuge, State, UnauthorizedError, type Subscription } from "centrifuge";

import { SignedOut, isEvent, narthexWebSocket, type Custom, type Refusal } from "@narthex/client";

import { root } from "./root.ts";
import type { Session } from "./session.ts";
import type { Methods } from "./wire.ts";

export type Link =
  | { phase: "idle" }
  | { phase: "connecting"; attempt: number; since: number; refusal: Refusal | null }
  | { phase: "connected" }
  | { phase: "refused"; refusal: Refusal };

/** An RPC that was answered with an error, or not at all. */
export class RpcError extends Error {
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.name = "RpcError";
    this.code = code;
  }
}

/** The SDK's own codes for "not now": 1 time-out, 11 connection closed, 12 and below its states. */
const NOT_NOW = new Set([1, 2, 3, 10, 11, 12]);

/** "Invalid token": the close code after which only signing in helps. */
export const ENDED = 3500;

export class Connection {
  readonly link: Signal<Link> = signal({ phase: "idle" });
  /** Notices of the user's own channel. */
  onNotice: (notice: Custom) => void = () => undefined;
  /** Notices were missed, or may have been: what was learned from them counts no longer. */
  onNoticesLost: () => void = () => undefined;
  /** Called after each connect, the first included. */
  onConnected: () => void = () => undefined;

  readonly #client: Centrifuge;
  #attempt = 0;
  #since = 0;
  #refusal: Refusal | null = null;

  constructor(session: Session, name = "narthex-chat") {
    const url = new URL(`${root}/ws`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.#client = new Centrifuge(url.href, {
      name,
      websocket: narthexWebSocket({ getToken: session.handshakeToken, onRefused: (refusal) => this.#refused(refusal) }),
      getToken: () => this.#token(session),
      minReconnectDelay: 300,
      maxReconnectDelay: 5_000,
    });
    this.#client.on("connecting", () => {
      if (this.#attempt === 0) this.#since = Date.now();
      this.#show();
    });
    this.#client.on("error", () => {
      // An error beside a connection that is up (a token that could not be renewed just now) is no attempt to connect.
      if (this.#client.state !== State.Connecting) return;
      this.#attempt += 1;
      this.#show();
    });
    this.#client.on("connected", () => {
      this.#attempt = 0;
      this.#refusal = null;
      this.link.value = { phase: "connected" };
      this.onConnected();
    });
    this.#client.on("disconnected", ({ code, reason }) => {
      if (code === 0) return; // our own doing
      const ended = this.#refusal?.code === "session_ended" ? this.#refusal : null;
      this.link.value = { phase: "refused", refusal: ended ?? this.#refusalOf(code, reason) };
    });
    this.#client.on("subscribed", ({ recovered }) => {
      if (!recovered) this.onNoticesLost();
    });
    this.#client.on("publication", ({ data }) => {
      if (isEvent(data) && data.type === "CUSTOM") this.onNotice(data);
    });
  }

  open(): void {
    this.#attempt = 0;
    this.#refusal = null;
    this.#client.connect();
  }

  /** Do not wait for the next attempt. Subscriptions keep their positions. */
  retry(): void {
    this.#client.disconnect();
    this.#client.connect();
  }

  close(): void {
    this.#client.disconnect();
    this.link.value = { phase: "idle" };
  }

  /** Call a method. Waits for a connection that is coming up, as long as the SDK's own time-out (5 s). */
  async rpc<M extends keyof Methods>(method: M, params: Methods[M][0]): Promise<Methods[M][1]> {
    try {
      const { data } = await this.#client.rpc(method, params);
      return data as Methods[M][1];
    } catch (error) {
      const { code = 0, message = "" } = (error ?? {}) as { code?: number; message?: string };
      throw new RpcError(code, NOT_NOW.has(code) ? "The gateway is not connected right now." : message || "The request failed.");
    }
  }

  /** A subscription that continues from a position; the caller sets its handlers, then subscribes. */
  subscription(channel: string, since: { offset: number; epoch: string }): Subscription {
    this.drop(channel);
    return this.#client.newSubscription(channel, { since, recoverable: true, positioned: true, joinLeave: true });
  }

  /** A subscription to a channel without a history; the caller sets its handlers, then subscribes. */
  live(channel: string): Subscription {
    this.drop(channel);
    return this.#client.newSubscription(channel);
  }

  /** Leave a channel. */
  drop(channel: string): void {
    const there = this.#client.getSubscription(channel);
    if (there) {
      there.removeAllListeners();
      this.#client.removeSubscription(there);
    }
  }

  /** The SDK asks when it connects, where the cookie or the handshake's token serves, and before the token ends. */
  async #token(session: Session): Promise<string> {
    if (this.#client.state !== State.Connected) return session.connectToken();
    try {
      return await session.refresh();
    } catch (error) {
      if (!(error instanceof SignedOut)) throw error; // not now: the SDK asks again
      const title = "Your session has ended";
      this.#refusal = { code: "session_ended", title, detail: "", remedy: "Sign in again.", status: 401, close: ENDED, traceId: "", retryAfter: null, retries: false };
      throw new UnauthorizedError(title);
    }
  }

  #refused(refusal: Refusal): void {
    this.#refusal = refusal;
    // A final close may have come before its words: put them where the code stands.
    const { value } = this.link;
    if (value.phase === "refused" && value.refusal.close === refusal.close) this.link.value = { phase: "refused", refusal };
    else if (value.phase === "connecting") this.#show();
  }

  #show(): void {
    this.link.value = { phase: "connecting", attempt: this.#attempt, since: this.#since, refusal: this.#refusal };
  }

  #refusalOf(close: number, reason: string): Refusal {
    if (this.#refusal?.close === close) return this.#refusal;
    const [, code = "", text = ""] = /^([a-z0-9_]+): (.*)$/s.exec(reason) ?? [];
    const title = text || reason || "The connection was closed.";
    return { code: code || `close_${close}`, title, detail: title, remedy: "", status: 0, close, traceId: "", retryAfter: null, retries: false };
  }
}
