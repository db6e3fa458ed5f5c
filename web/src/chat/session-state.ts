/**
 * The session of the page as a state machine: which states there are, and what leads from one to the next. Pure: it
 * makes no request, reads no clock and knows no DOM; `app.ts` carries out what a state asks for.
 *
 * Rules: every edge stands in the table `EDGES`, and an input that has no edge from the current state changes nothing.
 * A credential that has expired is renewed before anybody is asked to sign in; "I cannot tell right now" never ends a
 * session; a sign-out counts only once the gateway has confirmed it.
 */

import type { Refusal } from "@narthex/client";

export type SessionState =
  /** The page asks the gateway whether somebody is signed in. */
  | { name: "starting"; tries: number }
  /** Nobody is signed in; `refusal` says why, where that is news. */
  | { name: "signed_out"; refusal: Refusal | null }
  /** The credential at hand is accepted, as far as is known. `renewedAt`: when it was last renewed; 0: never. */
  | { name: "signed_in"; renewedAt: number }
  /** The credential was refused because it has ended; a new one is being fetched. */
  | { name: "renewing"; refusal: Refusal; tries: number }
  /**
   * The gateway cannot be reached or cannot tell. The page tries again after a while: the renewal that `renewing`
   * describes, or, where that is null, the whole start.
   */
  | { name: "offline"; refusal: Refusal; tries: number; renewing: Refusal | null }
  /** The gateway knows the person, or needs not to, and does not let the page in. Signing in again changes nothing. */
  | { name: "refused"; refusal: Refusal }
  /** The person signs out; the gateway has not confirmed it yet. */
  | { name: "leaving"; renewedAt: number };

export type SessionInput =
  /** A credential was accepted: by preflight, by a sign-in, or because the socket is connected. */
  | { type: "admitted" }
  /** The credential is not accepted, and there is a session that may be renewed. */
  | { type: "expired"; refusal: Refusal }
  /** The credential is not accepted, and there is nothing to renew. */
  | { type: "rejected"; refusal: Refusal }
  /** A final refusal that is not about the credential's life (origin, permission, tenant …). */
  | { type: "denied"; refusal: Refusal }
  /** No answer, or "not now". */
  | { type: "unavailable"; refusal: Refusal }
  /** The renewal gave a new credential. */
  | { type: "renewed" }
  /** The renewal was refused: the session is over. */
  | { type: "ended"; refusal: Refusal }
  | { type: "retry" }
  | { type: "sign_out" }
  /** The gateway confirmed the sign-out. */
  | { type: "left" }
  /** The sign-out did not reach the gateway, or failed there. */
  | { type: "leave_failed" };

export type StateName = SessionState["name"];
export type InputName = SessionInput["type"];

/** A credential that was renewed a moment ago and is refused again will not get better by renewing it once more. */
export const RENEW_AGAIN_MS = 60_000;

export const START: SessionState = { name: "starting", tries: 0 };

/** Every edge there is. Two of them may end elsewhere (see `next`): `retry` while offline, and `expired` soon after a renewal. */
export const EDGES: { readonly [state in StateName]: { readonly [input in InputName]?: StateName } } = {
  starting: { admitted: "signed_in", expired: "renewing", rejected: "signed_out", denied: "refused", unavailable: "offline" },
  signed_out: { admitted: "signed_in", rejected: "signed_out", denied: "signed_out", unavailable: "offline" },
  // While signed in, "not now" is the connection's business: the SDK comes back by itself.
  signed_in: { expired: "renewing", rejected: "signed_out", denied: "refused", ended: "signed_out", sign_out: "leaving" },
  // The refusal that led here may be reported twice (the close first, its full words later): only the renewal counts.
  renewing: { renewed: "signed_in", ended: "signed_out", unavailable: "offline", sign_out: "leaving" },
  offline: { admitted: "signed_in", retry: "starting", ended: "signed_out", unavailable: "offline", sign_out: "leaving" },
  refused: { admitted: "signed_in", retry: "starting", rejected: "signed_out", expired: "renewing", denied: "refused", sign_out: "leaving" },
  leaving: { left: "signed_out", leave_failed: "signed_in" },
};

/**
 * The state after an input; `state` itself where nothing changes.
 *
 * @param now milliseconds; compared with `renewedAt` only.
 */
export function next(state: SessionState, input: SessionInput, now: number): SessionState {
  const name = EDGES[state.name][input.type];
  if (name === undefined) return state;
  const refusal = "refusal" in input ? input.refusal : null;
  const renewedAt = "renewedAt" in state ? state.renewedAt : 0;
  const tries = "tries" in state ? state.tries : 0;
  switch (name) {
    case "starting":
      if (state.name === "offline" && state.renewing) return { name: "renewing", refusal: state.renewing, tries };
      return { name, tries };
    case "signed_in":
      return { name, renewedAt: input.type === "renewed" ? now : renewedAt };
    case "renewing":
      if (renewedAt > 0 && now - renewedAt < RENEW_AGAIN_MS) return { name: "signed_out", refusal };
      return { name, refusal: refusal!, tries: 0 };
    case "offline": {
      const renewing = state.name === "renewing" ? state.refusal : state.name === "offline" ? state.renewing : null;
      return { name, refusal: refusal!, tries: tries + 1, renewing };
    }
    case "refused":
      return { name, refusal: refusal! };
    case "leaving":
      return { name, renewedAt };
    case "signed_out":
      return { name, refusal };
  }
}

/** What a refusal means for the session. `renewable`: whether there is a session that may be renewed. */
export function inputOf(refusal: Refusal, renewable: boolean): SessionInput {
  if (isAboutCredential(refusal)) {
    return { type: renewable && refusal.code !== "token_revoked" ? "expired" : "rejected", refusal };
  }
  const final = refusal.close >= 3500 || (refusal.status >= 400 && refusal.status < 500);
  return { type: final && !refusal.retries ? "denied" : "unavailable", refusal };
}

/** Whether another credential would change the answer: HTTP 401, and 400 where two credentials contradict each other. */
function isAboutCredential({ status, close }: Refusal): boolean {
  return status === 401 || status === 400 || close === 3500;
}

/** How long to wait before trying again while offline: what the gateway asks for, else 1, 2, 4 … 30 s. */
export function pauseMs({ tries, refusal }: SessionState & { name: "offline" }): number {
  const asked = (refusal.retryAfter ?? 0) * 1000;
  return Math.min(30_000, Math.max(asked, 1000 * 2 ** Math.min(tries - 1, 5)));
}
