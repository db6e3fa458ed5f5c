#!/usr/bin/env bash
# Prints CI's own OpenID token for AUDIENCE: GitHub's, or that of the Cloud Build service account. No secret is stored.
set -euo pipefail
: "${AUDIENCE:?the value of NARTHEX_E2E_OIDC_AUDIENCE at the gateway}"

if [ -n "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ]; then
  # The header goes through stdin: a command line can be read by every process of the machine.
  printf 'Authorization: bearer %s\n' "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" |
    curl -fsS --max-time 20 --retry 3 -G -H @- --data-urlencode "audience=$AUDIENCE" "$ACTIONS_ID_TOKEN_REQUEST_URL" |
    jq -er .value
else
  curl -fsS --max-time 20 --retry 3 -G -H 'Metadata-Flavor: Google' --data-urlencode "audience=$AUDIENCE" \
    "http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/service-accounts/default/identity"
fi
