#!/bin/bash
# build.sh - configure a build folder if it is not, then build.
#
#   build.sh DIR [meson setup options]
#
# Build folders hold absolute paths. One that belongs to another place (the sources were moved or
# copied with it), or whose set-up was interrupted, is made anew. Options count for new folders only.
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: build.sh DIR [meson setup options]" >&2; exit 2; }
dir=$1
shift

cd "$(dirname "$0")/.."

# The source folder that a build folder was made for; nothing when there is none.
source_of()
{
    /usr/bin/python3 - "$1" 2>/dev/null <<'PYTHON' || true
import json
import os
import sys

folder = os.path.abspath(sys.argv[1])
with open(os.path.join(folder, "meson-info", "meson-info.json"), encoding="utf-8") as file:
    directories = json.load(file)["directories"]
if os.path.realpath(directories["build"]) == os.path.realpath(folder):
    print(os.path.realpath(directories["source"]))
PYTHON
}

if [ ! -f "$dir/build.ninja" ] || [ "$(source_of "$dir")" != "$(pwd -P)" ]; then
    rm -rf "$dir"
    meson setup "$dir" "$@"
fi
ninja -C "$dir"
