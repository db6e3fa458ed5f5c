#!/usr/bin/env bash
# Deploys IMAGE as a new revision with the tag `candidate` and without traffic. Writes `previous`, `candidate` and `url`
# to the step's outputs (GITHUB_OUTPUT, or OUTPUTS: a file that the next steps source).
#
# The service exists already: gcloud refuses --no-traffic for the first deploy (deploy/cloud-run, deploy/terraform).
set -euo pipefail
: "${SERVICE:?}" "${REGION:?}" "${IMAGE:?}"

describe() {
  gcloud run services describe "$SERVICE" --region="$REGION" --format=json
}

previous=$(describe | jq -er '[.status.traffic[] | select((.percent // 0) > 0)] | max_by(.percent).revisionName')

gcloud run deploy "$SERVICE" \
  --region="$REGION" \
  --image="$IMAGE" \
  --no-traffic \
  --tag=candidate \
  --quiet

described=$(describe)
candidate=$(jq -er '.status.traffic[] | select(.tag == "candidate") | .revisionName' <<<"$described")
url=$(jq -er '.status.traffic[] | select(.tag == "candidate") | .url' <<<"$described")
{
  echo "previous=$previous"
  echo "candidate=$candidate"
  echo "url=${GATE_URL:-$url}"
} | tee -a "${GITHUB_OUTPUT:-${OUTPUTS:-/dev/null}}"

# Whatever the flags above say: a revision that nobody has checked must not have users.
share=$(jq --arg revision "$candidate" \
  '[.status.traffic[] | select(.revisionName == $revision) | .percent // 0] | add' <<<"$described")
if [ "$share" != 0 ]; then
  echo "error: $candidate has $share % of the traffic before its gate; rolling back." >&2
  PREVIOUS=$previous "$(dirname "$0")/roll-back.sh"
  exit 1
fi
