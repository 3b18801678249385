#!/bin/bash
# bench.sh - run the benchmarks and print their tables. `make bench` calls this.
#
#   bench.sh BUILD
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: bench.sh BUILD" >&2; exit 2; }
STASIS_BUILD=$(realpath "$1")
export STASIS_BUILD
cd "$(dirname "$0")/.."

[ -w /dev/kvm ] || { echo "bench: no access to /dev/kvm, nothing can be measured" >&2; exit 1; }
exec bench/bench_snapshot.py
