#!/usr/bin/env bash
# What curl and jq can say about URL. Each line fails for one reason, and says which.
#
#   curl -f                 /ws/health answers 503 while it is unhealthy, starting or draining, so that -f means something
#   .status                 degraded (an issuer or an agent is away) is not good enough for a new revision
#   .checks.handshake       a handshake was really made by the process with itself, with and without a credential
#   .pre_connection_…       nothing is upgraded without a credential
#   .auth_bypass_active     is what this environment should have: never gate on `e2e_testing.enabled == true`, which
#                           a service that is open to the internet passes
set -euo pipefail
: "${URL:?}" "${EXPECT_BYPASS:=false}" "${EXPECT_PRE_AUTH:=true}"

if ! health=$(curl -fsS --max-time 10 --retry 3 "$URL/ws/health"); then
  echo "::error title=health::$URL/ws/health does not answer 200: it is unhealthy, starting or draining, or not there."
  exit 1
fi

expect() {
  if ! jq -e --argjson bypass "$EXPECT_BYPASS" --argjson pre "$EXPECT_PRE_AUTH" "$2" >/dev/null <<<"$health"; then
    echo "::error title=health::$1 ($2)"
    jq -c '{status, config: .config.pre_connection_auth_required, e2e: .e2e_testing, checks}' <<<"$health"
    exit 1
  fi
}

# shellcheck disable=SC2016 # $pre and $bypass are jq's
{
  expect "the gateway is not healthy" '.status == "healthy"'
  expect "its handshake with itself fails" '.checks.handshake.status == "healthy"'
  expect "the broker or the store fails" '[.checks.broker.status, .checks.store.status] | all(. == "healthy")'
  expect "who is admitted without a credential is not what is expected" '.config.pre_connection_auth_required == $pre'
  expect "test identities are not what this environment should have" '.e2e_testing.auth_bypass_active == $bypass'
}
echo "healthy: $URL $(jq -r .version <<<"$health")"
