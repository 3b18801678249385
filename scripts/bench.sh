#!/bin/bash
# bench.sh - run every benchmark in bench/, one at a time. `make bench` calls this.
#
#   bench.sh BUILD
#
# Files are written to TMPDIR: let it be on the kind of file system the question is about.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: bench.sh BUILD" >&2; exit 2; }
STASIS_BUILD=$(realpath "$1")
STASIS_SOURCE=$(cd "$(dirname "$0")/.." && pwd)
export STASIS_BUILD STASIS_SOURCE

cd "$STASIS_SOURCE"
for bench in bench/bench_*.py; do
    echo "=== $bench"
    "$bench"
done
