"""tap.py - cases of a Python test program, reported as TAP.

    #!/usr/bin/python3
    "what this file proves"
    import tap

    @tap.case
    def verify_names_the_damaged_block():
        with tap.temp_dir() as folder:
            ...
            tap.equal(status, 1, "exit status")

    @tap.case
    def needs_kvm():
        tap.need(os.access("/dev/kvm", os.R_OK | os.W_OK), "no access to /dev/kvm")

    tap.main()

The function's name is the sentence it proves. AssertionError (or any other exception) fails the
case, tap.skip() and tap.need() skip it aloud. Arguments on the command line choose cases by name.
tests/ is on PYTHONPATH when the runner starts a program.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import time
import traceback

_cases = []


class Skip(Exception):
    """Raised by skip() and need()."""


def case(function):
    """Register a case; cases run in the order of the file."""
    _cases.append((function.__name__, function))
    return function


def case_for(name, function, *arguments):
    """Register `function(*arguments)` as a case of this name: for tables of cases."""
    _cases.append((name, lambda: function(*arguments)))


def skip(reason):
    raise Skip(reason)


def need(condition, reason):
    """Skip the case, aloud, unless the condition holds."""
    if not condition:
        raise Skip(reason)


def equal(actual, expected, what="value"):
    if actual != expected:
        raise AssertionError("%s is %r, expected %r" % (what, actual, expected))


def true(condition, message):
    if not condition:
        raise AssertionError(message)


def comment(text):
    """A line for people; the runner shows it when the case fails."""
    for line in str(text).splitlines() or [""]:
        print("# " + line, flush=True)


@contextlib.contextmanager
def temp_dir():
    """A private folder that is gone afterwards."""
    folder = tempfile.mkdtemp(prefix="stasis-test-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition, seconds, what):
    """Poll until condition() is true and return its value; fail after a hang limit."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("%s: not within %g s" % (what, seconds))
        time.sleep(0.02)


def source(*parts):
    return os.path.join(os.environ["STASIS_SOURCE"], *parts)


def build(*parts):
    return os.path.join(os.environ["STASIS_BUILD"], *parts)


def _run(number, name, function):
    try:
        function()
    except Skip as reason:
        print("ok %d - %s # SKIP %s" % (number, name, reason), flush=True)
        return True
    except Exception:  # pylint: disable=broad-except
        comment(traceback.format_exc())
        print("not ok %d - %s" % (number, name), flush=True)
        return False
    print("ok %d - %s" % (number, name), flush=True)
    return True


def main():
    """Run the cases and exit: 0 all well, 1 something failed."""
    names = sys.argv[1:]
    chosen = [entry for entry in _cases if not names or entry[0] in names]
    print("1..%d" % len(chosen), flush=True)
    results = [_run(i, name, function) for i, (name, function) in enumerate(chosen, 1)]
    sys.exit(0 if all(results) else 1)
