#!/usr/bin/python3
"""scripts/run-tests itself.

Goal:   nothing that goes wrong in a test program is counted as well.
Method: made-up registries of shell one-liners; last line and exit status of the runner.
"""

import json
import os
import re
import subprocess
import sys
import time

import tap


class Outcome:
    def __init__(self, status, output):
        self.status = status
        self.output = output
        self.last_line = output.splitlines()[-1] if output else ""


def entry(name, command, **changes):
    return dict({"name": name, "cmd": ["/bin/sh", "-c", command], "env": {}, "workdir": None,
                 "timeout": 60, "suite": ["stasis:" + changes.pop("suite", "unit")],
                 "is_parallel": True, "protocol": "tap"}, **changes)


def run(folder, *entries, arguments=(), environment=None):
    os.makedirs(os.path.join(folder, "meson-info"), exist_ok=True)
    with open(os.path.join(folder, "meson-info", "intro-tests.json"), "w", encoding="utf-8") as file:
        json.dump(entries, file)
    variables = dict(os.environ, **(environment or {}))
    variables.pop("STASIS_TEST_SUMMARY", None)
    if environment is None:
        variables.pop("STASIS_REQUIRE_LINUX", None)
    result = subprocess.run([sys.executable, tap.source("scripts", "run-tests"), "--build", folder] +
                            list(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            universal_newlines=True, env=variables, check=False)
    return Outcome(result.returncode, result.stdout)


def expect(outcome, status, last_line):
    tap.equal((outcome.status, outcome.last_line), (status, last_line),
              "status and last line of\n%s\n" % outcome.output)


def says(outcome, pattern):
    tap.true(re.search(pattern, outcome.output), "no %r in\n%s" % (pattern, outcome.output))


GOOD = entry("good", "echo 1..2; echo ok 1 - a; echo ok 2 - b")
TROUBLES = [  # name of the case, program, what is said
    ("a_failed_case", "echo 1..1; echo not ok 1 - a; exit 1", "not ok: a"),
    ("a_program_without_a_plan", "true", "no plan"),
    ("a_program_with_two_plans", "echo 1..1; echo ok 1; echo 1..1", "a second plan"),
    ("a_program_that_leaves_cases_out", "echo 1..3; echo ok 1 - a", "1 of 3 planned"),
    ("a_program_that_does_more_than_planned", "echo 1..1; echo ok 1; echo ok 2", "2 of 1 planned"),
    ("a_program_that_is_killed", "echo 1..1; echo ok 1 - a; kill -SEGV $$", "SIGSEGV"),
    ("a_program_that_fails_though_no_case_did", "echo 1..1; echo ok 1 - a; exit 3",
     "exit status 3"),
    ("a_program_that_bails_out", "echo 1..1; echo ok 1; echo 'Bail out! disk gone'", "disk gone"),
    ("cases_out_of_order", "echo 1..2; echo ok 2 - b; echo ok 1 - a", "out of order"),
    ("a_case_marked_todo", "echo 1..1; echo 'not ok 1 - a # TODO later'; exit 1", "not ok: a"),
    ("a_program_that_is_not_there", None, "No such file"),
]


def counts_as_a_failure(program, said):
    with tap.temp_dir() as folder:
        bad = entry("bad", program or "")
        if program is None:
            bad["cmd"] = ["/nonexistent/program"]
        outcome = run(folder, GOOD, bad)
        tap.equal(outcome.status, 1, "exit status of\n%s\n" % outcome.output)
        tap.true(re.fullmatch(r"\d passed, 1 failed, 0 skipped", outcome.last_line),
                 outcome.output)
        says(outcome, said)
        says(outcome, r"FAIL  unit/bad")


for case_name, case_program, case_said in TROUBLES:
    tap.case_for(case_name + "_counts_as_a_failure", counts_as_a_failure, case_program, case_said)


@tap.case
def cases_are_counted_over_all_programs():
    with tap.temp_dir() as folder:
        outcome = run(folder, GOOD, entry("more", "echo 1..1; echo ok 1 - c"),
                      entry("plain", "exit 0", protocol="exitcode"))
        expect(outcome, 0, "4 passed, 0 failed, 0 skipped")


@tap.case
def skipped_cases_are_listed_with_their_reasons():
    with tap.temp_dir() as folder:
        outcome = run(folder, GOOD, entry("some", "echo 1..1; echo 'ok 1 - a # SKIP no moon'"),
                      entry("all", "echo '1..0 # SKIP no sun'"),
                      entry("cmocka", "echo 1..1; echo '# skip: no stars'; echo 'not ok 1 # SKIP b'"),
                      entry("plain", "exit 77", protocol="exitcode"))
        expect(outcome, 0, "2 passed, 0 failed, 4 skipped")
        says(outcome, r"unit/some: a: no moon")
        says(outcome, r"unit/all: .*no sun")
        says(outcome, r"unit/cmocka: b: no stars")


@tap.case
def a_hanging_program_is_killed_and_fails():
    with tap.temp_dir() as folder:
        begin = time.monotonic()
        outcome = run(folder, entry("hang", "echo 1..1; sleep 1000 & sleep 1000", timeout=1))
        expect(outcome, 1, "0 passed, 1 failed, 0 skipped")
        says(outcome, r"did not end within 1 s")
        tap.true(time.monotonic() - begin < 100, "the runner hung along")


@tap.case
def what_a_program_leaves_running_is_killed():
    with tap.temp_dir() as folder:
        pid_file = os.path.join(folder, "pid")
        expect(run(folder, entry("left", "sleep 1000 & echo $! > '%s'; echo 1..1; echo ok 1" % pid_file)),
               0, "1 passed, 0 failed, 0 skipped")
        with open(pid_file, encoding="utf-8") as file:
            pid = file.read().strip()

        def gone():
            try:
                with open("/proc/%s/stat" % pid, encoding="utf-8") as file:
                    return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
            except OSError:
                return True
        tap.wait_until(gone, 30, "end of the process left behind")


@tap.case
def nothing_executed_is_a_failure():
    with tap.temp_dir() as folder:
        expect(run(folder), 1, "0 passed, 0 failed, 0 skipped")
        expect(run(folder, entry("all", "echo '1..0 # SKIP none'")), 1,
               "0 passed, 0 failed, 1 skipped")


@tap.case
def a_required_suite_must_not_skip():
    with tap.temp_dir() as folder:
        tests = [GOOD, entry("nested", "echo '1..0 # SKIP no qemu'", suite="linux")]
        expect(run(folder, *tests), 0, "2 passed, 0 failed, 1 skipped")
        outcome = run(folder, *tests, environment={"STASIS_REQUIRE_LINUX": "1"})
        expect(outcome, 1, "2 passed, 1 failed, 0 skipped")
        says(outcome, "must not skip here: no qemu")
        expect(run(folder, *tests, arguments=["--no-skip", "linux"]), 1,
               "2 passed, 1 failed, 0 skipped")


@tap.case
def suites_and_tests_can_be_chosen():
    with tap.temp_dir() as folder:
        tests = [GOOD, entry("one", "echo 1..1; echo ok 1", suite="vm")]
        expect(run(folder, *tests, arguments=["--suite", "vm"]), 0, "1 passed, 0 failed, 0 skipped")
        expect(run(folder, *tests, arguments=["good"]), 0, "2 passed, 0 failed, 0 skipped")
        tap.equal(run(folder, *tests, arguments=["--suite", "vn"]).status, 2, "unknown suite")
        tap.equal(run(folder, *tests, arguments=["goof"]).status, 2, "unknown test")
        tap.equal(run(folder, *tests, arguments=["--list"]).output, "unit/good\nvm/one\n", "list")


@tap.case
def serial_tests_have_the_machine_to_themselves():
    with tap.temp_dir() as folder:
        busy = os.path.join(folder, "busy")
        alone = ("echo 1..1; mkdir '%s' || exit 1; sleep 0.2; rmdir '%s'; echo ok 1" %
                 (busy, busy))
        expect(run(folder, *[entry("alone%d" % i, alone, is_parallel=False) for i in range(3)],
                   arguments=["--jobs", "3"]), 0, "3 passed, 0 failed, 0 skipped")


@tap.case
def every_test_file_is_registered():
    with open(tap.build("meson-info", "intro-tests.json"), encoding="utf-8") as file:
        registered = {test["name"] for test in json.load(file)}
    there = {name.rsplit(".", 1)[0] for _, _, names in os.walk(tap.source("tests"))
             for name in names if re.fullmatch(r"test_\w+\.(c|py)", name)}
    drivers = {"test_crash"}  # registered once for each job, under its name
    tap.equal(sorted(there - registered - drivers), [], "test files that never run")


@tap.case
def the_summary_file_has_the_counts():
    with tap.temp_dir() as folder:
        path = os.path.join(folder, "summary")
        run(folder, GOOD, entry("bad", "echo 1..1; echo not ok 1; exit 1"),
            arguments=["--summary", path])
        with open(path, encoding="utf-8") as file:
            tap.equal(json.load(file), {"passed": 2, "failed": 1, "skipped": 0}, "summary")


tap.main()
