#!/usr/bin/python3
"""A few seconds of one fuzz target, from nothing: it builds, starts, and finds nothing at once."""

import os
import subprocess
import sys

import tap

TARGET = sys.argv[1]
SECONDS = 5


def smoke():
    with tap.temp_dir() as folder:
        ended = subprocess.run([TARGET, "-max_total_time=%d" % SECONDS, "-max_len=512", "-seed=1",
                                "-artifact_prefix=" + folder + "/"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        last = ended.stdout.decode(errors="replace")[-3000:]
        tap.equal(ended.returncode, 0, "exit status; it said:\n" + last)
        tap.true("Done " in last, "it did not run:\n" + last)


tap.case_for(os.path.basename(TARGET) + "_finds_nothing_in_a_few_seconds", smoke)
sys.argv = sys.argv[:1]
tap.main()
