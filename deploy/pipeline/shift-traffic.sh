#!/usr/bin/env bash
# Gives the tag `candidate` the traffic in STEPS (per cent), and probes URL after each. Rolls back when a probe fails,
# when a command fails, and when the pipeline is cancelled.
set -euo pipefail
: "${SERVICE:?}" "${REGION:?}" "${URL:?}" "${PREVIOUS:?}" "${STEPS:=10 50 100}" "${PROBES:=6}" "${EVERY:=10s}"

here=$(dirname "$0")
finished=
undo() {
  [ -n "$finished" ] || "$here/roll-back.sh"
}
trap undo EXIT
trap 'exit 143' TERM INT

for percent in $STEPS; do
  gcloud run services update-traffic "$SERVICE" --region="$REGION" --to-tags="candidate=$percent" --quiet
  echo "candidate has $percent %; probing $URL"
  # DNS, TCP, health, handshake, connect, echo, an event, a drop and resume; it starts no run.
  narthex probe "$URL" --count "$PROBES" --every "$EVERY"
done
finished=yes
echo "candidate has all the traffic"
