/**
 * Why a gateway would not let somebody in, in words. The codes are the gateway's (docs/protocol.md); a refusal comes
 * as problem+json (RFC 9457) from `/ws/preflight`, or as a close code with the reason `code: text`.
 */

import { CLOSES_BY_CODE, CLOSES_BY_STATUS, MAX_CLOSE_REASON_BYTES } from "./contract.ts";

/** A refusal as a person or a program can act on it. */
export interface Refusal {
  /** Such as `token_expired`; `unreachable` and `handshake_blocked` are the helper's own. */
  code: string;
  title: string;
  detail: string;
  remedy: string;
  /** HTTP status of the preflight, 0 when there was no answer. */
  status: number;
  /** WebSocket close code that the SDK was given. */
  close: number;
  traceId: string;
  /** Seconds after which coming back makes sense, where the gateway said so. */
  retryAfter: number | null;
  /** Whether the SDK will come back by itself. */
  retries: boolean;
}

/** Whether SDKs come back after this close code (Centrifuge client protocol: 3500-3999 and 4500-4999 are final). */
export function reconnects(close: number): boolean {
  return !((close >= 3500 && close < 4000) || (close >= 4500 && close < 5000));
}

/** The close code of a refused preflight; 0 when its status says nothing about admission. */
export function closeCodeFor(code: string, status: number): number {
  // `code` comes from outside: `constructor` is no row of the table.
  return (Object.hasOwn(CLOSES_BY_CODE, code) ? CLOSES_BY_CODE[code] : CLOSES_BY_STATUS[status]) ?? 0;
}

/** Read a problem+json answer. Null when it is no refusal of ours (a proxy's page, a bug). */
export function refusalFromProblem(status: number, body: unknown, retryAfter: string | null): Refusal | null {
  if (typeof body !== "object" || body === null) return null;
  const problem = body as Record<string, unknown>;
  const text = (name: string): string => (typeof problem[name] === "string" ? (problem[name] as string) : "");
  const code = text("code");
  const close = closeCodeFor(code, status);
  if (code === "" || close === 0) return null;
  const wait = retryAfter === null ? Number.NaN : Number.parseInt(retryAfter, 10);
  return {
    code,
    title: text("title"),
    detail: text("detail"),
    remedy: text("remedy"),
    status,
    close,
    traceId: text("trace_id"),
    retryAfter: Number.isFinite(wait) ? wait : null,
    retries: reconnects(close),
  };
}

/** Read a close that carries `code: text` (RFC 6455 leaves 123 bytes for it). Null when it carries no such reason. */
export function refusalFromClose(close: number, reason: string): Refusal | null {
  const match = /^([a-z][a-z0-9_]{1,40}): (.*)$/s.exec(reason);
  if (close < 3000 || !match) return null;
  return {
    code: match[1]!,
    title: match[2]!,
    detail: match[2]!,
    remedy: "",
    status: 0,
    close,
    traceId: "",
    retryAfter: null,
    retries: reconnects(close),
  };
}

/** `code: text`, cut to the bytes of a close reason at a character boundary. */
export function closeReason(refusal: Refusal): string {
  const encoder = new TextEncoder();
  let text = `${refusal.code}: ${refusal.detail || refusal.title}`;
  while (encoder.encode(text).length > MAX_CLOSE_REASON_BYTES) text = Array.from(text).slice(0, -1).join("");
  return text;
}
