#!/bin/sh
# Build the C yardstick and measure narthex beside it: server CPU per handshake, message and delivery, as ratios.
# Usage: benchmarks/compare.sh [SCENARIO …] [option of `narthex bench` …]      needs gcc and OpenSSL's headers
set -eu
here=$(cd "$(dirname "$0")" && pwd)
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
gcc -O2 -march=native -o "$built/csrv" "$here/csrv.c" -lcrypto
ulimit -n 20000
narthex bench "$@" --beside "csrv=$built/csrv {port}" --beside "csrv-joined=env COAL=1 $built/csrv {port}"
