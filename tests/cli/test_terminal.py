#!/usr/bin/python3
"""A guest's console on a terminal: what is typed reaches it, Ctrl-A x ends the run, and the
terminal is given back as it was, however the run ends.

The terminal is a pty whose slave stays open here, so that its settings can be looked at, and which
is the controlling terminal of the command, as a shell's is. Needs /dev/kvm.
"""

import fcntl
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
LFLAG = 3  # of tcgetattr()'s list


class Terminal:
    """One `stasis` process on a terminal of its own."""

    def __init__(self, *arguments, stderr=None):
        self.master, self.slave = pty.openpty()
        self.settings = termios.tcgetattr(self.slave)
        os.set_blocking(self.master, False)
        self.shown = b""
        self.process = subprocess.Popen(clihelp.command(*arguments), stdin=self.slave,
                                        stdout=self.slave, stderr=stderr or self.slave,
                                        start_new_session=True, preexec_fn=self._take)

    def _take(self):
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

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
            terminal.wait_for(b"echo: %s\r\n" % line)
        tap.true(b"BAD" not in terminal.read(), "the guest found damage")


@tap.case
def ctrl_a_x_ends_the_run_and_the_terminal_is_as_before():
    with run() as terminal:
        terminal.wait_for(b"count 1 ")
        terminal.type(b"\x01x")
        tap.equal(terminal.wait_end(), 0, "exit status")
        check_restored(terminal)


@tap.case
def ctrl_a_twice_sends_it_once():
    with run() as terminal:
        terminal.wait_for(b"count 1 ")
        terminal.type(b"a\x01\x01b\r")
        terminal.wait_for(b"echo: a\x01b\r\n")
        terminal.type(b"x\r")  # an x without Ctrl-A is an x
        terminal.wait_for(b"echo: x\r\n")


@tap.case
def the_terminal_is_raw_while_the_guest_has_it_and_ctrl_c_is_the_guests():
    with run() as terminal:
        terminal.wait_for(b"count 1 ")
        tap.equal(terminal.now()[LFLAG] & (termios.ICANON | termios.ECHO | termios.ISIG), 0,
                  "line editing, echo, signals")
        terminal.type(b"\x03\r")
        terminal.wait_for(b"echo: \x03\r\n")
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
    reader, writer = os.pipe()
    with run("--exit-on-reset", cmdline="exit=2 exit-by=triple", stderr=writer) as terminal:
        os.close(writer)
        terminal.wait_for(b"count 1 ")
        tap.true(terminal.now() != terminal.settings, "the terminal was never taken")
        said = os.read(reader, 4096)
        check_restored(terminal)
        os.close(reader)
        tap.true(b"triple fault" in said, "the message is %r" % said)
        tap.equal(terminal.wait_end(), 1, "exit status")


@tap.case
def the_terminal_is_given_back_when_the_start_fails():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        kernel = clihelp.write(os.path.join(folder, "kernel"), b"no kernel")
        with Terminal("run", "--kernel", kernel) as terminal:
            tap.equal(terminal.wait_end(), 1, "exit status")
            check_restored(terminal)


@tap.case
def the_answer_comes_on_a_line_of_its_own_after_the_console():
    with run("--json", cmdline="exit=2") as terminal:
        tap.equal(terminal.wait_end(), 0, "exit status")
        tap.equal(json.loads(terminal.shown.split(b"\r\n")[-2]), {"ok": True, "exit": "power-off"},
                  "the last line")


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
            terminal.wait_for(b"echo: hello\r\n")
            terminal.type(b"\x01x")
            tap.equal(terminal.wait_end(), 0, "exit status")
            check_restored(terminal)


@tap.case
def input_that_is_no_terminal_reaches_the_guest_and_its_end_does_not_end_the_run():
    guestvm.need_kvm()
    with subprocess.Popen(clihelp.command("run", "--kernel", tap.build(*KERNEL), "--memory", "32M",
                                          "--cmdline", "period=40 exit=20"),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        out = process.stdout.readline()  # what comes before its driver is lost, as on any machine
        more, _ = process.communicate(b"hello\nworld\n", timeout=clihelp.HANG_SECONDS)
        tap.equal(process.returncode, 0, "exit status")
    out += more
    for line in (b"\necho: hello\n", b"\necho: world\n", b"stasis-guest exit count 20 bad 0"):
        tap.true(line in out, "%r is not in %r" % (line, out))


@tap.case
def a_closed_standard_output_does_not_become_the_guests_disk():
    # What is opened next would take its number, and the console would be written over the disk.
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        content = b"sector 0, never written".ljust(1 << 20)
        disk = clihelp.write(os.path.join(folder, "disk"), content)
        for closed in (">&-", "<&-", "<&- >&- 2>&-"):
            ended = subprocess.run(
                ["sh", "-c", 'exec "$@" ' + closed, "sh", *clihelp.command(
                    "run", "--kernel", tap.build(*KERNEL), "--memory", "32M", "--disk",
                    "id=d,path=" + disk, "--cmdline", "period=20 exit=3 disk-writes=0")],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                timeout=clihelp.HANG_SECONDS, check=False)
            tap.equal(ended.returncode, 0, "exit status with " + closed)
            with open(disk, "rb") as file:
                tap.true(file.read() == content, "the disk was written to, with " + closed)


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
