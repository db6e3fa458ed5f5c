#!/usr/bin/env bash
# The success rate of the staging suite over HOURS, from the results that the gateway at URL keeps. Exits 1 when it is
# below THRESHOLD per cent, or when no run was reported: a suite that has stopped is not a green one.
set -euo pipefail
: "${URL:?}" "${NARTHEX_ADMIN_KEY:?}" "${HOURS:=24}" "${THRESHOLD:=99}"

results=$(printf 'Authorization: Bearer %s\n' "$NARTHEX_ADMIN_KEY" |
  curl -fsS --max-time 20 --retry 3 -H @- "$URL/api/v1/e2e/results")
summary=$(jq -c --argjson since "$(($(date +%s) - HOURS * 3600))" '
  [.results[] | select(.at >= $since)]
  | {runs: length, passed: (map(.passed) | add // 0), failed: (map(.failed) | add // 0)}
  | .rate = (if .passed + .failed > 0 then 100 * .passed / (.passed + .failed) else null end)' <<<"$results")
echo "$summary"
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
  jq -r --arg hours "$HOURS" '"Staging suite, last \($hours) h: \(.rate // "no") % of \(.passed + .failed) in \(.runs) runs"' \
    <<<"$summary" >>"$GITHUB_STEP_SUMMARY"
fi
if ! jq -e --argjson least "$THRESHOLD" '.rate != null and .rate >= $least' >/dev/null <<<"$summary"; then
  echo "::error title=staging suite::$(jq -r --arg hours "$HOURS" \
    'if .rate == null then "no result in \($hours) h" else "\(.rate) % passed in \($hours) h" end' <<<"$summary")"
  exit 1
fi
