#!/usr/bin/python3
"""make demo, and that it can fail.

Goal:   the demo succeeds with a real guest, and only when the guest's counter goes on without a gap.
Method: scripts/demo-steps.sh with a made-up `stasis` that restores wrongly in several ways; then the
        whole demo with the small guest.
"""

import os
import re
import subprocess

import tap

# Counts until it is paused; what "restore" continues with is its variable RESTORE.
FAKE_STASIS = """#!/bin/sh
here=$(dirname "$0")
count() { n=$1; while [ ! -e "$here/paused" ]; do echo "count $n ok"; n=$((n + 1)); sleep 0.02; done; }
case $1 in
run) count 1; echo $n >"$here/next"; sleep 1000 ;;
pause) touch "$here/paused"; while [ ! -s "$here/next" ]; do sleep 0.02; done ;;
save) [ -z "$SAVE_FAILS" ] ;;
restore) rm -f "$here/paused"; next=$(cat "$here/next"); %s ;;
*) echo "made-up answer to $1" ;;
esac
"""

RESTORES = [  # what the made-up restore does, and whether the demo may be content
    ("goes_on_where_it_was", "count $next", True),
    ("leaves_a_count_out", "count $((next + 1))", False),
    ("repeats_a_count", "count $((next - 1))", False),
    ("begins_again", "count 1", False),
    ("finds_damage", "echo 'BAD mem page 7'; count $next", False),
    ("breaks_a_line", "echo 'count'; count $((next + 1))", False),
    ("ends_at_once", "echo gone", False),
]


def run_steps(folder, restore, **variables):
    program = os.path.join(folder, "stasis")
    with open(program, "w", encoding="utf-8") as file:
        file.write(FAKE_STASIS % restore)
    os.chmod(program, 0o755)
    work = os.path.join(folder, "work")
    os.mkdir(work)
    environment = dict(os.environ, STASIS=program, FOLDER=work, CMDLINE="", LIMIT="60",
                       RUN_OPTIONS="--kernel made-up", **variables)
    return subprocess.run(["sh", tap.source("scripts", "demo-steps.sh")], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                          universal_newlines=True, env=environment, check=False)


def judged(restore, good):
    with tap.temp_dir() as folder:
        result = run_steps(folder, restore)
        tap.equal(result.returncode, 0 if good else 1, "exit status of\n%s\n" % result.stdout)
        tap.equal("without a gap" in result.stdout, good, "claim of success in\n" + result.stdout)


for case_name, case_restore, case_good in RESTORES:
    tap.case_for("a_restored_guest_that_%s_is_%s" % (case_name, "well" if case_good else "a_failure"),
                 judged, case_restore, case_good)


@tap.case
def a_save_that_fails_is_a_failure():
    with tap.temp_dir() as folder:
        result = run_steps(folder, "count $next", SAVE_FAILS="yes")
        tap.equal(result.returncode, 1, "exit status")
        tap.true("save failed" in result.stdout, result.stdout)


def kvm_kind():
    return subprocess.run([tap.build("tests", "vm", "kvm_kind")], stdout=subprocess.PIPE,
                          universal_newlines=True, check=True).stdout


@tap.case
def kvm_kind_names_one_of_three_kinds_and_why():
    tap.true(re.fullmatch(r"(hardware|software|absent): .+\n", kvm_kind()), kvm_kind())


@tap.case
def the_demo_succeeds_with_the_small_guest():
    kind = kvm_kind()
    tap.need(not kind.startswith("absent"), "/dev/kvm is " + kind.strip())
    result = subprocess.run([tap.source("scripts", "demo.sh"), tap.build()],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            stdin=subprocess.DEVNULL, universal_newlines=True,
                            env=dict(os.environ, DEMO_KVM="software"), check=False)
    tap.equal(result.returncode, 0, "exit status of\n%s\n" % result.stdout)
    tap.true("without a gap" in result.stdout, result.stdout)


tap.main()
