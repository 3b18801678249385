"""guestvm.py - the small guest under `stasis`, as tests start, save, kill and restore it.

A Vm is one `stasis run` or `stasis restore` process with its console in a file and its control
socket beside it. Vm.log() is what the guest has printed; counts() reads the guest's contract
(guest/README.md) from it.
"""

import json
import os
import re
import signal
import subprocess
import time

import tap

COUNT = re.compile(rb"^count (\d+) sum ([0-9a-f]{16}) ")
HANG_SECONDS = 120  # a limit against hangs, not a measure

_number = 0


def need_kvm():
    """Skip the case, aloud, where no VM can be made."""
    tap.need(os.path.exists("/dev/kvm"), "there is no /dev/kvm")
    tap.need(os.access("/dev/kvm", os.R_OK | os.W_OK), "no access to /dev/kvm")


def stasis(*arguments, check=True, timeout=HANG_SECONDS):
    """Run one command to its end."""
    done = subprocess.run([os.environ["STASIS"], *map(str, arguments)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                          check=False)
    if check and done.returncode != 0:
        raise AssertionError("stasis %s: exit %d: %s%s" % (
            " ".join(map(str, arguments)), done.returncode, done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace")))
    return done


def answer(*arguments, **options):
    """Run one command with --json and return its answer."""
    return json.loads(stasis(*arguments, "--json", **options).stdout)


class Vm:
    """One microVM process."""

    def __init__(self, folder, *arguments, console=None):
        global _number
        _number += 1
        self.name = "vm%d" % _number
        self.folder = folder
        self.console = console or os.path.join(folder, self.name + ".log")
        self.socket = os.path.join(folder, self.name + ".sock")
        self.errors = os.path.join(folder, self.name + ".err")
        command = [os.environ["STASIS"], *map(str, arguments), "--serial", "file:" + self.console,
                   "--api-socket", self.socket]
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                            stdout=errors, stderr=errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def log(self):
        """What the guest has printed so far."""
        try:
            with open(self.console, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def said(self):
        """What the process itself has said."""
        with open(self.errors, "rb") as file:
            return file.read().decode(errors="replace")

    def alive(self):
        return self.process.poll() is None

    def wait_for(self, condition, what):
        def check():
            value = condition()
            if not value and not self.alive():
                value = condition()  # it may have come with its last breath
                tap.true(value, "%s: the microVM ended (%s) before: %s\n%s" % (
                    self.name, self.process.returncode, what, self.said() + self.tail()))
            return value
        return tap.wait_until(check, HANG_SECONDS, "%s: %s\n%s" % (self.name, what, self.said()))

    def tail(self):
        return self.log()[-2000:].decode(errors="replace")

    def wait_count(self, number):
        """Wait until the guest has printed this count."""
        self.wait_for(lambda: last_count(self.log()) >= number, "count %d" % number)

    def wait_socket(self):
        self.wait_for(lambda: os.path.exists(self.socket), "control socket")

    def pause(self):
        self.wait_socket()
        stasis("pause", "--socket", self.socket)

    def resume(self):
        stasis("resume", "--socket", self.socket)

    def save(self, path, *options):
        self.wait_socket()
        return answer("save", "--socket", self.socket, "-o", path, *options)

    def refused(self, path, *options):
        """A save that must fail: the stable name of the error."""
        self.wait_socket()
        done = stasis("save", "--socket", self.socket, "-o", path, "--json", *options, check=False)
        tap.equal(done.returncode, 1, "exit status of a save that must fail")
        return json.loads(done.stdout)["error"]

    def kill(self):
        """SIGKILL: no chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait_end(self):
        """Wait for an orderly end and return the exit status."""
        try:
            return self.process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s did not end\n%s" % (self.name, self.tail())) from None


def run(folder, *arguments, cmdline="", cpus=1, memory="32M"):
    """Boot the small guest."""
    return Vm(folder, "run", "--kernel", tap.build("guest", "stasis-guest.bin"), "--cpus", cpus,
              "--memory", memory, "--cmdline", "cpus=%d %s" % (cpus, cmdline), *arguments)


def restore(folder, snapshot, *arguments):
    return Vm(folder, "restore", snapshot, *arguments)


def counts(log):
    """(number, sum) of each count line that is complete."""
    return [(int(m.group(1)), m.group(2)) for m in
            (COUNT.match(line) for line in log.split(b"\n")[:-1]) if m]


def last_count(log):
    found = counts(log)
    return found[-1][0] if found else 0


def check_log(log, what="console"):
    """Counts without gap or repeat from 1 on, nothing BAD."""
    text = log.decode(errors="replace")
    bad = [line for line in text.split("\n") if "BAD" in line]
    tap.true(not bad, "%s: the guest found damage:\n%s" % (what, "\n".join(bad[:10])))
    numbers = [number for number, _ in counts(log)]
    tap.equal(numbers, list(range(1, len(numbers) + 1)), "%s: counts" % what)
    stray = [line for line in text.split("\n")[:-1]
             if not re.match(r"(count \d+ sum [0-9a-f]{16} ok |stasis-guest |echo: )", line)]
    tap.true(not stray, "%s: lines torn or strange: %r" % (what, stray[:5]))


def settle():
    """Long enough for a guest that should stand still to show that it does not."""
    time.sleep(0.5)
