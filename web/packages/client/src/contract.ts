// Generated from narthex.domain.refusals and narthex.domain.endpoints by `./check --write-docs`.

/** Outcome of a refused handshake → close code. */
export const CLOSES_BY_CODE: Record<string, number> = {
  auth_required: 3500,
  token_malformed: 3500,
  token_invalid: 3500,
  token_expired: 3500,
  token_not_yet_valid: 3500,
  wrong_issuer: 3500,
  wrong_audience: 3500,
  algorithm_not_allowed: 3500,
  unknown_key: 3500,
  token_revoked: 3500,
  ticket_invalid: 3500,
  e2e_key_wrong: 3500,
  credential_in_url: 3501,
  credential_conflict: 3501,
  bad_request: 3501,
  origin_not_allowed: 3507,
  permission_denied: 3507,
  tenant_mismatch: 3507,
  e2e_not_allowed_here: 3507,
  connection_limit: 4004,
  rate_limited: 3013,
  starting: 4001,
  auth_unavailable: 4002,
  overloaded: 4003,
  draining: 3001,
  upstream_refused: 4005,
  upstream_invalid: 4005,
  upstream_gone: 4006,
  upstream_timeout: 4007,
  no_route: 3508,
  upgrade_required: 3508,
  head_too_large: 3501,
};

/** The same for an outcome of a newer gateway. */
export const CLOSES_BY_STATUS: Record<string, number> = {
  400: 3501,
  401: 3500,
  403: 3507,
  429: 3013,
  503: 4003,
};

/** Paths of a gateway's WebSocket, the longest first. */
export const WEBSOCKET_PATHS = [
  "/connection/websocket",
  "/websocket",
  "/ws",
];

/** RFC 6455 section 5.5. */
export const MAX_CLOSE_REASON_BYTES = 123;
