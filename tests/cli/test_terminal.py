#!/usr/bin/python3
"""A guest's console on a terminal: what is typed reaches it, Ctrl-A x ends the run, and the terminal is
given back as it was, however the run ends.

The terminal is a pty whose slave stays open here, so that its settings can be looked at. Needs /dev/kvm.
"""

import json
import os
import pty
import subprocess
import termios
import time

import clihelp
import tap
from vm import guestvm

KERNEL = ("guest", "stasis-guest.bin")
LFLAG, OFLAG = 3, 1  # of tcgetattr()'s list


class Terminal:
    """One `stasis` process on a terminal of its own."""

    def __init__(self, *arguments, stderr=None):
        self.master, self.slave = pty.openpty()
        self.settings = termios.tcgetattr(self.slave)
        os.set_blocking(self.master, False)
        self.shown = b""
        self.process = subprocess.Popen(clihelp.command(*arguments), stdin=self.slave,
                                        stdout=self.slave, stderr=stderr or self.slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def read(self):
        try:
            while True:
                self.shown += os.read(self.master, 65536)
        except BlockingIOError:
            return self.shown

    def wait_for(self, text, start=0):
        """Where the text ends, after `start`."""
        def found():
            shown = self.read()
            return shown.find(text, start) + 1
        at = tap.wait_until(found, clihelp.HANG_SECONDS, "%r on the terminal, which shows %r" % (
            text, self.shown[-500:]))
        return at - 1 + len(text)

    def type(self, data):
        os.write(self.master, data)

    def now(self):
        return termios.tcgetattr(self.slave)

    def wait_end(self):
        deadline = time.monotonic() + clihelp.HANG_SECONDS
        while self.process.poll() is None:
            self.read()  # a full terminal would hold it up
            tap.true(time.monotonic() < deadline, "did not end")
            time.sleep(0.01)
        self.read()
        return self.process.returncode


def run(*arguments, cmdline="", **options):
    guestvm.need_kvm()
    return Terminal("run", "--kernel", tap.build(*KERNEL), "--memory", "32M", "--cmdline",
                    "period=40 " + cmdline, *arguments, **options)


def check_restored(terminal):
    tap.equal(terminal.now(), terminal.settings, "terminal settings afterwards")


@tap.case
def a_typed_line_reaches_the_guest_and_comes_back():
    with run() as terminal:
        terminal.wait_for(b"count 1 ")
        for line in (b"hello", b"once more"):
            terminal.type(line + b"\r")
            terminal.wait_for(b"echo: %s\n" % line)
        tap.true(b"BAD" not in terminal.read(), "the guest found damage")


@tap.case
def ctrl_a_x_ends_the_run_and_the_terminal_is_as_before():
    with run() as terminal:
        terminal.wait_for(b"count 1 ")
        terminal.type(b"\x01x")
        tap.equal(terminal.wait_end(), 0, "exit status")
        check_restored(terminal)


@tap.case
def ctrl_a_twice_sends_it_once_and_with_another_key_both_reach_the_guest_or_neither():
    with run() as terminal:
        terminal.wait_for(b"count 1 ")
        terminal.type(b"a\x01\x01b\r")
        terminal.wait_for(b"echo: a\x01b\n")
        terminal.type(b"x\r")  # an x without Ctrl-A is an x
        terminal.wait_for(b"echo: x\n")


@tap.case
def the_terminal_is_raw_while_the_guest_has_it_and_ctrl_c_is_the_guests():
    with run() as terminal:
        terminal.wait_for(b"count 1 ")
        tap.equal(terminal.now()[LFLAG] & (termios.ICANON | termios.ECHO | termios.ISIG), 0,
                  "line editing, echo, signals")
        terminal.type(b"\x03\r")
        terminal.wait_for(b"echo: \x03\n")
        tap.equal(terminal.process.poll(), None, "exit status")


@tap.case
def the_terminal_is_given_back_when_the_guest_ends():
    with run(cmdline="exit=2") as terminal:
        tap.equal(terminal.wait_end(), 0, "exit status")
        check_restored(terminal)


@tap.case
def the_terminal_is_given_back_at_a_signal():
    for signal in ("TERM", "INT", "HUP"):
        with run() as terminal:
            terminal.wait_for(b"count 1 ")
            subprocess.run(["kill", "-" + signal, str(terminal.process.pid)], check=True)
            tap.equal(terminal.wait_end(), 0, "exit status")
            check_restored(terminal)


@tap.case
def the_terminal_is_given_back_before_a_crash_is_told():
    with run("--exit-on-reset", cmdline="exit=2 exit-by=triple") as terminal:
        tap.equal(terminal.wait_end(), 1, "exit status")
        check_restored(terminal)
        # A newline moves to the first column only where the terminal is itself again.
        last = terminal.shown.rpartition(b"stasis run: ")[2]
        tap.true(b"triple fault" in last and last.endswith(b"\r\n"), "the message is %r" % last)


@tap.case
def the_terminal_is_given_back_when_the_start_fails():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        kernel = clihelp.write(os.path.join(folder, "kernel"), b"no kernel")
        with Terminal("run", "--kernel", kernel) as terminal:
            tap.equal(terminal.wait_end(), 1, "exit status")
            check_restored(terminal)
            tap.true(terminal.shown.endswith(b"\r\n"), "the message is %r" % terminal.shown)


@tap.case
def the_answer_comes_on_a_line_of_its_own_after_the_console():
    with run("--json", cmdline="exit=2") as terminal:
        tap.equal(terminal.wait_end(), 0, "exit status")
        last = terminal.shown.split(b"\r\n")[-2]
        tap.equal(json.loads(last.split(b"\n")[-1]), {"ok": True, "exit": "power-off"}, "answer")


@tap.case
def a_restored_guest_has_the_terminal_like_any_other():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        snapshot = os.path.join(folder, "a.stasis")
        with guestvm.run(folder, cmdline="period=40") as vm:
            vm.wait_count(2)
            vm.save(snapshot)
            vm.kill()
        with Terminal("restore", snapshot) as terminal:
            terminal.wait_for(b"count ")
            terminal.type(b"hello\r")
            terminal.wait_for(b"echo: hello\n")
            terminal.type(b"\x01x")
            tap.equal(terminal.wait_end(), 0, "exit status")
            check_restored(terminal)


@tap.case
def input_that_is_no_terminal_reaches_the_guest_and_its_end_does_not_end_the_run():
    guestvm.need_kvm()
    ended = subprocess.run(clihelp.command("run", "--kernel", tap.build(*KERNEL), "--memory", "32M",
                                           "--cmdline", "period=40 exit=5"),
                           input=b"hello\nworld\n", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           timeout=clihelp.HANG_SECONDS, check=False)
    tap.equal((ended.returncode, ended.stderr), (0, b""), "exit status and stderr")
    for line in (b"echo: hello\n", b"echo: world\n", b"stasis-guest exit count 5 bad 0"):
        tap.true(line in ended.stdout, "%r is not in %r" % (line, ended.stdout))


@tap.case
def the_console_is_whole_when_its_reader_is_slow():
    guestvm.need_kvm()
    with subprocess.Popen(clihelp.command("run", "--kernel", tap.build(*KERNEL), "--memory", "32M",
                                          "--cmdline", "period=0 exit=300"),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        out = b""
        while True:
            data = os.read(process.stdout.fileno(), 512)
            if not data:
                break
            out += data
            time.sleep(0.001)
        tap.equal(process.wait(clihelp.HANG_SECONDS), 0, "exit status")
    guestvm.check_log(out)
    tap.true(b"stasis-guest exit count 300 bad 0" in out, "the last line is missing")


tap.main()
