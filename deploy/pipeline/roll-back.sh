#!/usr/bin/env bash
# Gives all traffic back to the revision PREVIOUS, and makes sure that it has it. Sockets of the other revision drain:
# their clients reconnect and resume.
set -euo pipefail
: "${SERVICE:?}" "${REGION:?}" "${PREVIOUS:?}"

gcloud run services update-traffic "$SERVICE" --region="$REGION" --to-revisions="$PREVIOUS=100" --quiet
gcloud run services describe "$SERVICE" --region="$REGION" --format=json |
  jq -e --arg revision "$PREVIOUS" \
    '[.status.traffic[] | select(.revisionName == $revision) | .percent // 0] | add == 100' >/dev/null
echo "rolled back to $PREVIOUS"
