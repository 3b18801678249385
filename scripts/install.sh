#!/bin/bash
# install.sh - install a build folder: DESTDIR and PREFIX come from the environment.
#
# The prefix is part of what is built (stasis.pc names it), so a new one is configured first.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: [DESTDIR=DIR] [PREFIX=DIR] install.sh BUILD" >&2; exit 2; }
build=$1
cd "$(dirname "$0")/.."

if [ -n "${PREFIX:-}" ]; then
    meson configure "$build" -Dprefix="$PREFIX"
    ninja -C "$build"
fi
if [ -n "${DESTDIR:-}" ]; then
    DESTDIR=$(realpath -m "$DESTDIR") # Meson would take a relative one from the build folder
    export DESTDIR
else
    unset DESTDIR
fi
meson install -C "$build" --no-rebuild

# So that other programs find the library at once; not needed by stasis itself.
if [ -z "${DESTDIR:-}" ] && [ "$(id -u)" -eq 0 ]; then
    ldconfig
fi
