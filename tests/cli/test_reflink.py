#!/usr/bin/python3
"""Chains on a file system with reflinks: a full file made from its parent clones it there, and copies
it elsewhere; the unit tests of chains must pass on both. XFS over a loop mount, in a mount namespace of its own.
"""

import os
import shutil
import subprocess

import tap

IMAGE_SIZE = 600 << 20  # bytes; sparse

SCRIPT = """
set -e
mkfs.xfs -q "$1/image"
mkdir "$1/mounted"
mount -o loop "$1/image" "$1/mounted" || exit 77
TMPDIR=$1/mounted "$2" || status=1
umount "$1/mounted"
exit ${status:-0}
"""


@tap.case
def chains_are_the_same_on_a_file_system_with_reflinks():
    tap.need(os.geteuid() == 0, "only root may mount")
    for program in ("mkfs.xfs", "unshare", "mount"):
        tap.need(shutil.which(program), program + " is not installed")
    with tap.temp_dir() as folder:
        with open(os.path.join(folder, "image"), "wb") as file:
            file.truncate(IMAGE_SIZE)
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", SCRIPT, "sh", folder, tap.build("tests", "unit", "test_chain")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
            check=False)
        said = done.stdout.decode(errors="replace")
        tap.need(done.returncode != 77, "cannot mount: " + said.strip())
        tap.equal(done.returncode, 0, "exit status\n" + said)
        tap.true("ok 8 - a_full_file_from_its_parent" in said, said)


tap.main()
