#!/usr/bin/python3
"""Linux guests, one level down: booted, saved, killed and restored under a full KVM.

QEMU emulates a machine with Debian's cloud kernel, whose KVM is complete wherever the tests run; in it
`stasis` boots Debian's generic kernel. round-trip.sh is what happens inside; its TAP lines are passed
on here, with the variant in front.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT_SECONDS = 600  # against hangs; a variant takes about a minute

VARIANTS = [
    # name, variables of round-trip.sh
    ("bzImage, 2 vCPUs", []),
    ("PVH vmlinux, 1 vCPU", ["KERNEL=/guest/vmlinux", "CPUS=1"]),
]

NEEDED = ["qemu-system-x86_64", "busybox", "cpio", "mke2fs", "dpkg-deb"]


def skip_all(reason):
    print("1..0 # SKIP " + reason, flush=True)
    sys.exit(0)


def say(text):
    for line in text.splitlines():
        print("# " + line, flush=True)


def call(*command):
    """Run a step of the preparation; its output is shown when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        say(done.stdout.decode(errors="replace"))
    return done.returncode == 0


def prepare(build, work):
    """The kernels (kept in the build folder), the guest's initramfs and its disk."""
    kernels = os.environ.get("STASIS_KERNELS", os.path.join(build, "linux-kernels"))
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing:
        skip_all("not installed: " + ", ".join(missing))
    if not call(os.path.join(HERE, "fetch-kernels.sh"), kernels):
        skip_all("Debian's kernel packages cannot be fetched")
    for script, arguments in (("make-guest-initramfs.sh", ["initrd", kernels + "/guest"]),
                              ("make-disk.sh", ["disk.img"])):
        arguments[0] = os.path.join(work, arguments[0])
        if not call(os.path.join(HERE, script), *arguments):
            print("1..1\nnot ok 1 - " + script, flush=True)
            sys.exit(1)
    return kernels


def nested_command(kernels, work, variables):
    guest = os.path.join(kernels, "guest")
    command = [os.path.join(HERE, "nested.py"), "--kernels", kernels,
               "--script", os.path.join(HERE, "round-trip.sh"),
               "--bin", os.environ["STASIS"], "--timeout", str(LIMIT_SECONDS),
               "--log", os.path.join(work, "nested.log")]
    for name, source in (("vmlinuz", guest + "/vmlinuz"), ("vmlinux", guest + "/vmlinux"),
                         ("initrd", work + "/initrd"), ("disk.img", work + "/disk.img")):
        command += ["--add", "%s:/guest/%s" % (source, name)]
    for variable in variables:
        command += ["--env", variable]
    return command


class Tap:
    """Renumbers what several programs report."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def result(self, good, name):
        self.count += 1
        self.failed += not good
        print("%sok %d - %s" % ("" if good else "not ", self.count, name), flush=True)


def run_variant(tap, kernels, work, name, variables):
    program = subprocess.Popen(nested_command(kernels, work, variables), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    before = tap.count
    for raw in program.stdout:
        line = raw.decode(errors="replace").rstrip()
        found = re.match(r"(not )?ok \d+ - (.*)", line)
        if found:
            tap.result(not found.group(1), "%s: %s" % (name, found.group(2)))
        elif not re.match(r"1\.\.\d+$", line):
            say(line)
    status = program.wait()
    tap.result(status == 0 and tap.count > before, "%s: the machine around it ends with status 0" % name)


def main():
    tap = Tap()
    with tempfile.TemporaryDirectory(prefix="stasis-linux-") as work:
        kernels = prepare(os.environ["STASIS_BUILD"], work)
        for name, variables in VARIANTS:
            run_variant(tap, kernels, work, name, variables)
    print("1..%d" % tap.count, flush=True)
    sys.exit(1 if tap.failed else 0)


main()
