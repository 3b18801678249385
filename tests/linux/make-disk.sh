#!/bin/bash
# make-disk.sh - a small ext4 disk with files that only a sound disk path can hash right.
#
#   make-disk.sh OUT [HASHCOUNT]
#
# The files come from a seeded generator, so two runs make the same contents; their sizes sit on
# both sides of sector, page and request edges. MANIFEST holds a line "HASH SIZE NAME" for each.
# HASHCOUNT is the built program (hashcount.c); it is compiled when not given. OUT is 16 MiB,
# appears by one rename, and needs no root to make.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: make-disk.sh OUT [HASHCOUNT]" >&2; exit 2; }
out=$1

work=$(mktemp -d)
trap 'rm -rf "$work"; rm -f "$out.new.$$"' EXIT

hashcount=${2:-$work/hashcount}
[ $# -eq 2 ] || ${CC:-cc} -static -O2 -o "$hashcount" "$here/hashcount.c"

mkdir "$work/root"
/usr/bin/python3 - "$work/root" <<'PYTHON'
import random
import sys

sizes = [1, 511, 512, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 200003, 262144, 300000,
         524288, 700001, 1048576, 1048577, 2097152]
generator = random.Random(20240229)
for index, size in enumerate(sizes):
    with open("%s/file-%02d" % (sys.argv[1], index), "wb") as file:
        file.write(generator.randbytes(size))
PYTHON
(cd "$work/root" && LC_ALL=C ls file-* | "$hashcount" manifest .) > "$work/MANIFEST"
mv "$work/MANIFEST" "$work/root/MANIFEST"

# Fixed time, id and hash seed: the image itself is then the same each time. No journal: the guest
# mounts it read-only, and several guests may hold it at once.
find "$work/root" -exec touch -d @1700000000 {} +
truncate -s 16M "$out.new.$$"
PATH=$PATH:/usr/sbin:/sbin E2FSPROGS_FAKE_TIME=1700000000 \
    mke2fs -q -F -t ext4 -b 4096 -m 0 -O '^has_journal' -L hashcount \
    -U 5ab1ed15-c0de-4d15-a5ba-5ca1ab1e0001 -E hash_seed=5ab1ed15-c0de-4d15-a5ba-5ca1ab1e0002,root_owner=0:0 \
    -d "$work/root" "$out.new.$$"
mv "$out.new.$$" "$out"
