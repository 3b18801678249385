#!/usr/bin/python3
"""Save jobs are killed, or their system calls fail, at every step (design D4).

    test_crash.py CRASHRUN JOB

Goal:   the name always holds the whole old file or the whole new one; a failure is reported,
        leaves the old file and nothing else; data is on disk before the rename, the rename before
        success is reported.
Method: crashrun (see crashrun.c) counts the file-changing system calls of one clean run; then the job
        runs again for each call and each way to strike at it. JOB says "save PATH LABEL" and
        "check PATH", as durable_job.c tells.
"""

import errno
import os
import re
import subprocess
import sys

import tap

CRASHRUN, JOB = sys.argv[1:3]
del sys.argv[1:3]
NAME = "snapshot"
TMP_NAME = re.compile(r"\.snapshot\.[a-z2-7]{12}\.tmp$")
WRITES = ("write", "pwrite", "writev", "pwritev", "pwritev2", "ftruncate", "fallocate",
          "copy_file_range", "sendfile", "truncate")
SYNCS = ("fdatasync", "fsync")
HINTS = ("fallocate", "sync_file_range")  # a job may do without them
ERROR_NAMES = {errno.EIO: "Io", errno.ENOSPC: "NoSpace", errno.EDQUOT: "NoSpace"}
# LeakSanitizer cannot work in a traced process.
ENVIRONMENT = dict(os.environ, ASAN_OPTIONS="detect_leaks=0", LSAN_OPTIONS="detect_leaks=0")
EXIT_NO_TRACE = 125
EXIT_KILLED = 128 + 9


class Scene:
    """A private folder, with an old snapshot in it or without."""

    def __init__(self, folder, has_old):
        self.folder = os.path.join(folder, "d")
        self.path = os.path.join(self.folder, NAME)
        self.log = os.path.join(folder, "log")
        self.has_old = has_old
        os.mkdir(self.folder)
        if has_old:
            subprocess.run([JOB, "save", self.path, "old"], check=True, env=ENVIRONMENT)

    def save(self, strike=None):
        """Returns (exit status, stderr, calls); a call is a list of words, its name first."""
        at = ["--at", strike] if strike else []
        result = subprocess.run([CRASHRUN] + at + [self.folder, self.log, JOB, "save", self.path,
                                                   "new"],
                                stderr=subprocess.PIPE, universal_newlines=True, env=ENVIRONMENT,
                                check=False)
        with open(self.log, encoding="utf-8") as file:
            calls = [line.split()[1:] for line in file]
        return result.returncode, result.stderr, calls

    def label(self):
        """What stands under the name: "old", "new", or None. Anything not whole is a failure."""
        if not os.path.exists(self.path):
            return None
        result = subprocess.run([JOB, "check", self.path], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, universal_newlines=True, check=False,
                                env=ENVIRONMENT)
        tap.equal(result.returncode, 0, "check of what stands under the name: " + result.stderr)
        return {"o": "old", "n": "new"}[result.stdout.strip()[0]]

    def old_label(self):
        return "old" if self.has_old else None

    def strays(self):
        return [name for name in os.listdir(self.folder) if name != NAME]


def scene_case(function, has_old, *arguments):
    with tap.temp_dir() as folder:
        function(Scene(folder, has_old), *arguments)


def position(calls, name):
    for index, call in enumerate(calls):
        if call[0] == name:
            return index
    raise AssertionError("no %s among %s" % (name, calls))


def data_is_synced_before_the_rename_and_the_directory_after(scene):
    status, stderr, calls = scene.save()
    tap.equal(status, 0, "exit status (%s)" % stderr)
    rename = position(calls, "rename")
    tmp, name = calls[rename][1:3]
    tap.equal(name, NAME, "destination of the rename")
    tap.true(TMP_NAME.match(tmp), "temporary name: " + tmp)
    tap.equal(calls[position(calls, "open")], ["open", tmp], "first file made")
    last_write = max(i for i, call in enumerate(calls) if call[0] in WRITES and call[1] == tmp)
    syncs = [i for i, call in enumerate(calls) if call[0] in SYNCS and call[1] == tmp]
    tap.true(any(last_write < i < rename for i in syncs),
             "no sync of the file between its last write and the rename: %s" % calls)
    tap.equal(calls[rename + 1:], [["fsync", "."]], "calls after the rename")
    tap.equal([call for call in calls if call[1] == NAME], [], "calls on the old file")
    tap.equal((scene.label(), scene.strays()), ("new", []), "label and strays")


def killed(scene, index, when, expected):
    status, _, calls = scene.save("%d:%s" % (index, when))
    tap.equal(status, EXIT_KILLED, "exit status of crashrun")
    tap.equal(len(calls), index + 1, "calls seen")
    tap.equal(scene.label(), expected or scene.old_label(), "what stands under the name")
    tap.true(all(TMP_NAME.match(name) for name in scene.strays()) and len(scene.strays()) <= 1,
             "left behind: %s" % scene.strays())
    tap.equal(scene.save()[0], 0, "exit status of the next save")
    tap.equal(scene.label(), "new", "what the next save leaves")


def failed(scene, index, errnum, call, renamed):
    status, stderr, _ = scene.save("%d:%d" % (index, errnum))
    tap.equal(scene.strays(), [], "left behind")
    if call[0] in HINTS and status == 0:
        tap.equal(scene.label(), "new", "what stands under the name")
        return
    tap.equal(status, 1, "exit status (%s)" % stderr)
    tap.equal(stderr.split(":")[0], ERROR_NAMES[errnum], "error's name in: " + stderr)
    # Once renamed, the new file is whole and stays; only its durability was not confirmed.
    tap.equal(scene.label(), "new" if renamed else scene.old_label(), "under the name")


def interrupted(scene, index):
    status, stderr, _ = scene.save("%d:%d" % (index, errno.EINTR))
    tap.equal(status, 0, "exit status (%s)" % stderr)
    tap.equal((scene.label(), scene.strays()), ("new", []), "label and strays")


def register(has_old, calls):
    old = "over_an_old_file" if has_old else "to_a_new_name"
    rename = position(calls, "rename")

    def add(name, function, *arguments):
        tap.case_for(name + "_" + old, scene_case, function, has_old, *arguments)

    for index, call in enumerate(calls):
        step = "call_%d_%s" % (index, call[0])
        add("killed_before_" + step, killed, index, "before", "new" if index > rename else None)
        add("killed_after_" + step, killed, index, "after", "new" if index >= rename else None)
        for errnum in sorted(ERROR_NAMES):
            add("%s_at_%s_is_reported" % (errno.errorcode[errnum], step), failed, index, errnum, call,
                index > rename)
        if call[0] in SYNCS or call[0] in ("write", "pwrite"):
            add("EINTR_at_%s_is_no_failure" % step, interrupted, index)
    add("data_is_synced_before_the_rename_and_the_directory_after",
        data_is_synced_before_the_rename_and_the_directory_after)


def main():
    for has_old in (False, True):
        with tap.temp_dir() as folder:
            status, stderr, calls = Scene(folder, has_old).save()
            if status == EXIT_NO_TRACE:
                print("1..0 # SKIP tracing of processes (ptrace) is not allowed here")
                return
            if status != 0:
                sys.exit("the clean run failed: exit status %d, %s" % (status, stderr))
            register(has_old, calls)
    tap.main()


main()
