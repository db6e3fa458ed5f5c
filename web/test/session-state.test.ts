import assert from "node:assert/strict";
import { test } from "node:test";

import { reconnects, type Refusal } from "@narthex/client";

import { EDGES, RENEW_AGAIN_MS, START, inputOf, next, pauseMs } from "../src/chat/session-state.ts";
import type { InputName, SessionInput, SessionState, StateName } from "../src/chat/session-state.ts";

const NOW = 1_000_000;

function refusal(code: string, status: number, close: number, retries = close === 0 || reconnects(close)): Refusal {
  return { code, title: code, detail: "", remedy: "", status, close, traceId: "", retryAfter: null, retries };
}

const EXPIRED = refusal("token_expired", 401, 3500);
const AWAY = refusal("unreachable", 0, 0);
const DENIED = refusal("origin_not_allowed", 403, 3507);

const STATES: { [name in StateName]: SessionState } = {
  starting: START,
  signed_out: { name: "signed_out", refusal: null },
  signed_in: { name: "signed_in", renewedAt: 0 },
  renewing: { name: "renewing", refusal: EXPIRED, tries: 0 },
  offline: { name: "offline", refusal: AWAY, tries: 1, renewing: null },
  refused: { name: "refused", refusal: DENIED },
  leaving: { name: "leaving", renewedAt: 0 },
};

const INPUTS: { [name in InputName]: SessionInput } = {
  admitted: { type: "admitted" },
  expired: { type: "expired", refusal: EXPIRED },
  rejected: { type: "rejected", refusal: EXPIRED },
  denied: { type: "denied", refusal: DENIED },
  unavailable: { type: "unavailable", refusal: AWAY },
  renewed: { type: "renewed" },
  ended: { type: "ended", refusal: EXPIRED },
  retry: { type: "retry" },
  sign_out: { type: "sign_out" },
  left: { type: "left" },
  leave_failed: { type: "leave_failed" },
};

/** Written out here, apart from the table in the code: an edge that is added or lost there fails. */
const EXPECTED: { [state in StateName]: { [input in InputName]?: StateName } } = {
  starting: { admitted: "signed_in", expired: "renewing", rejected: "signed_out", denied: "refused", unavailable: "offline" },
  signed_out: { admitted: "signed_in", rejected: "signed_out", denied: "signed_out", unavailable: "offline" },
  signed_in: { expired: "renewing", rejected: "signed_out", denied: "refused", ended: "signed_out", sign_out: "leaving" },
  renewing: { renewed: "signed_in", ended: "signed_out", unavailable: "offline", sign_out: "leaving" },
  offline: { admitted: "signed_in", retry: "starting", ended: "signed_out", unavailable: "offline", sign_out: "leaving" },
  refused: { admitted: "signed_in", retry: "starting", rejected: "signed_out", expired: "renewing", denied: "refused", sign_out: "leaving" },
  leaving: { left: "signed_out", leave_failed: "signed_in" },
};

for (const from of Object.keys(STATES) as StateName[]) {
  for (const input of Object.keys(INPUTS) as InputName[]) {
    const to = EXPECTED[from][input];
    test(`${from} --${input}--> ${to ?? "(nothing changes)"}`, () => {
      const before = STATES[from];
      const after = next(before, INPUTS[input], NOW);
      if (to === undefined) assert.equal(after, before);
      else assert.equal(after.name, to);
    });
  }
}

test("the table in the code has no other edges", () => {
  assert.deepEqual(EDGES, EXPECTED);
});

test("a refusal that is reported twice leads to one renewal and does not sign out", () => {
  const once = next(STATES.signed_in, INPUTS.expired, NOW);
  const twice = next(next(once, INPUTS.expired, NOW), INPUTS.rejected, NOW);
  assert.equal(twice, once);
  assert.deepEqual(next(twice, INPUTS.renewed, NOW), { name: "signed_in", renewedAt: NOW });
});

test("a credential that was just renewed and is refused again signs out; later it is renewed again", () => {
  const renewed = next(STATES.renewing, INPUTS.renewed, NOW);
  assert.equal(next(renewed, INPUTS.expired, NOW + RENEW_AGAIN_MS - 1).name, "signed_out");
  assert.equal(next(renewed, INPUTS.expired, NOW + RENEW_AGAIN_MS).name, "renewing");
});

test("a renewal that the gateway cannot answer now is tried again as a renewal, with longer and longer pauses", () => {
  let state: SessionState = STATES.renewing;
  const pauses: number[] = [];
  for (let round = 0; round < 7; round++) {
    state = next(state, INPUTS.unavailable, NOW);
    assert.ok(state.name === "offline");
    pauses.push(pauseMs(state));
    state = next(state, INPUTS.retry, NOW);
    assert.equal(state.name, "renewing");
  }
  assert.deepEqual(pauses, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
});

test("Retry-After is honoured, up to half a minute", () => {
  const asked = (seconds: number): number => pauseMs({ name: "offline", tries: 1, renewing: null, refusal: { ...AWAY, retryAfter: seconds } });
  assert.equal(asked(7), 7000);
  assert.equal(asked(3600), 30_000);
});

test("a sign-out that failed leaves the person signed in", () => {
  const leaving = next({ name: "signed_in", renewedAt: 5 }, INPUTS.sign_out, NOW);
  assert.deepEqual(next(leaving, INPUTS.leave_failed, NOW), { name: "signed_in", renewedAt: 5 });
  assert.deepEqual(next(leaving, INPUTS.left, NOW), { name: "signed_out", refusal: null });
});

test("what a refusal means", () => {
  const type = (one: Refusal, renewable: boolean): string => inputOf(one, renewable).type;
  assert.equal(type(EXPIRED, true), "expired");
  assert.equal(type(EXPIRED, false), "rejected");
  assert.equal(type(refusal("token_revoked", 401, 3500), true), "rejected");
  assert.equal(type(refusal("credential_conflict", 400, 3501), false), "rejected");
  assert.equal(type(DENIED, true), "denied");
  assert.equal(type(AWAY, true), "unavailable");
  assert.equal(type(refusal("http_502", 502, 0), true), "unavailable");
  assert.equal(type(refusal("auth_unavailable", 503, 4002), true), "unavailable");
  assert.equal(type(refusal("token_expired", 0, 3500), true), "expired");
  assert.equal(type(refusal("close_3507", 0, 3507), true), "denied");
});
