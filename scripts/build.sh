#!/bin/bash
# build.sh - configure a build folder if it is not, then build.
#
#   build.sh DIR [meson setup options]
#   build.sh --remove DIR
#
# Build folders hold absolute paths. One that belongs to another place (the sources were moved or
# copied with it), or whose set-up was interrupted, is made anew. Options count for new folders only.
set -euo pipefail

usage()
{
    echo "usage: build.sh DIR [meson setup options]" >&2
    echo "       build.sh --remove DIR" >&2
    exit 2
}

remove_only=
[ "${1:-}" != --remove ] || { remove_only=yes; shift; }
[ $# -ge 1 ] || usage
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

# Meson hands its own paths to the linker as -Wl,-rpath-link,PATH, which is cut at a comma. So below a
# folder with one in its name, the build folder is a link to a place without.
make_folder()
{
    local real

    case $(realpath -m "$dir") in
    *,*)
        real=$(mktemp -d /var/tmp/stasis-build-XXXXXX)
        ln -s "$real" "$dir"
        ;;
    esac
}

# What a link points to goes only when it was made above, for these sources.
remove_folder()
{
    case $(realpath -m "$dir") in
    /var/tmp/stasis-build-*)
        [ "$(source_of "$dir")" != "$(pwd -P)" ] || rm -rf "$(realpath -m "$dir")"
        ;;
    esac
    rm -rf "$dir"
}

if [ -n "$remove_only" ]; then
    remove_folder
    exit
fi
if [ ! -f "$dir/build.ninja" ] || [ "$(source_of "$dir")" != "$(pwd -P)" ]; then
    remove_folder
    make_folder
    meson setup "$dir" "$@"
fi
ninja -C "$dir"
