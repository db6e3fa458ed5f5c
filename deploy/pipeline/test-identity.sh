#!/usr/bin/env bash
# Prints a token of a confined test identity of 15 minutes, which staging at URL gives for CI's own token.
set -euo pipefail
: "${URL:?}" "${AUDIENCE:?}"

"$(dirname "$0")/ci-token.sh" | sed 's/^/Authorization: Bearer /' |
  curl -fsS --max-time 20 --retry 3 -X POST -H @- -H 'Content-Type: application/json' \
    --data '{"name": "pipeline"}' "$URL/auth/e2e/test-auth" |
  jq -er .access_token
