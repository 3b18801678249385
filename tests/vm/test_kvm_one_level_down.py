#!/usr/bin/python3
"""The C tests of KVM state on a complete KVM, one level down.

Some of them find nothing to do on a software KVM, which has no nested guests, no SMM, and TSCs that
cannot be set. QEMU emulates a machine whose KVM has all of it; the same programs run in there, and
what they report is passed on. Cases that only a software KVM can show are left out.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LINUX = os.path.join(TESTS, "linux")
HEADER = "/usr/include/linux/kvm.h"
LIMIT_SECONDS = 600  # against hangs; it takes about ten

PROGRAMS = ["test_kvm_coverage", "test_kvm_errors", "test_kvm_guest", "test_kvm_roundtrip"]
NEEDED = ["qemu-system-x86_64", "busybox", "dpkg-deb"]

# Debian 12's KVM lets every TSC be set, and hands out no register by KVM_GET_ONE_REG.
NOT_HERE = {
    "a_tsc_that_cannot_be_carried_over_is_refused",
    "the_shadow_stack_pointer_is_the_only_register_by_one_reg",
}

SCRIPT = """#!/bin/busybox sh
status=0
for program in %s; do
    CMOCKA_MESSAGE_OUTPUT=TAP /bin/$program 2>&1 || status=1
done
exit $status
"""


def say(text):
    for line in text.splitlines():
        print("# " + line.lstrip("# "), flush=True)


def fetch_kernels(build):
    kernels = os.environ.get("STASIS_KERNELS", os.path.join(build, "linux-kernels"))
    missing = [name for name in NEEDED if not shutil.which(name)]
    reason = "not installed: " + ", ".join(missing)
    if not missing:
        done = subprocess.run([os.path.join(LINUX, "fetch-kernels.sh"), kernels],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        if done.returncode == 0:
            return kernels
        say(done.stdout.decode(errors="replace"))
        reason = "Debian's kernel packages cannot be fetched"
    print("1..0 # SKIP " + reason, flush=True)
    sys.exit(0)


def nested_command(build, kernels, work):
    script = os.path.join(work, "script")
    with open(script, "w", encoding="ascii") as file:
        file.write(SCRIPT % " ".join(PROGRAMS))
    command = [os.path.join(LINUX, "nested.py"), "--kernels", kernels, "--script", script,
               "--timeout", str(LIMIT_SECONDS), "--mem", "1G",
               "--log", os.path.join(work, "nested.log")]
    for name in PROGRAMS:
        command += ["--bin", os.path.join(build, "tests", "vm", name)]
    if os.path.exists(HEADER):
        command += ["--add", HEADER + ":" + HEADER]
    return command


class Tap:
    """Renumbers the cases of several programs, one after the other."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def result(self, good, name, directive=""):
        self.count += 1
        self.failed += not good
        print("%sok %d - %s%s" % ("" if good else "not ", self.count, name, directive), flush=True)

    def line(self, line, reason):
        """One line of cmocka's; `reason` is what a skipped case said before."""
        skipped = re.match(r"not ok \d+ # SKIP (\S+)", line)
        found = re.match(r"(not )?ok \d+ - (\S+)", line)
        if skipped and skipped.group(1) in NOT_HERE:
            return
        if skipped:
            self.result(True, skipped.group(1), " # SKIP " + reason)
        elif found:
            self.result(not found.group(1), found.group(2))
        elif not re.match(r"1\.\.\d+$", line):
            say(line)


def main():
    build = os.environ["STASIS_BUILD"]
    tap = Tap()
    kernels = fetch_kernels(build)
    with tempfile.TemporaryDirectory(prefix="stasis-kvm-") as work:
        program = subprocess.Popen(nested_command(build, kernels, work), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        reason = ""
        for raw in program.stdout:
            line = raw.decode(errors="replace").rstrip()
            tap.line(line, reason)
            reason = line[len("# skip: "):] if line.startswith("# skip: ") else ""
        status = program.wait()
    tap.result(status == 0 and tap.count >= 50, "the_programs_ended_well_one_level_down")
    print("1..%d" % tap.count, flush=True)
    sys.exit(1 if tap.failed else 0)


main()
