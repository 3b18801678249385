#!/usr/bin/python3
"""Saves to file systems that are full or read-only, and a guest whose disk's file system is frozen.

The program moves into a mount namespace of its own: what it mounts is nobody else's, and is gone
when it ends. Frozen file systems are how a system call of ours hangs: a pause then has to give up
in time and let the guest go on, and a save that hangs must not take the control socket with it.
Needs /dev/kvm, and the right to mount.
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import threading
import time

import clihelp
import tap
from clihelp import accepted, ask, refused
from vm import guestvm

CLONE_NEWNS = 0x20000
PRIVATE = (1 << 18) | (1 << 14)  # MS_PRIVATE | MS_REC
_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts():
    """Move into a mount namespace of our own; the reason why not, or None."""
    if _libc.unshare(CLONE_NEWNS) != 0:
        return "no mount namespace: %s" % os.strerror(ctypes.get_errno())
    if _libc.mount(b"none", b"/", None, PRIVATE, None) != 0:
        return "mounts cannot be made private: %s" % os.strerror(ctypes.get_errno())
    return None


REASON = own_mounts()


def need(*programs):
    guestvm.need_kvm()
    tap.need(REASON is None, REASON)
    for program in programs:
        tap.need(shutil.which(program), program + " is not installed")


def command(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          timeout=clihelp.HANG_SECONDS)


@contextlib.contextmanager
def mounted(folder, *words):
    """`mount WORDS`, at a folder that is yielded."""
    place = os.path.join(folder, "mounted")
    os.makedirs(place, exist_ok=True)
    made = command("mount", *words, place)
    tap.need(made.returncode == 0, "cannot mount %s: %s" % (
        " ".join(words), made.stdout.decode(errors="replace").strip()))
    try:
        yield place
    finally:
        command("umount", place)


@contextlib.contextmanager
def loop_mounted(folder, kind):
    """A new file system of this kind in a file."""
    image = os.path.join(folder, "image")
    with open(image, "wb") as file:
        file.truncate(320 << 20)
    made = command("mkfs." + kind, "-q", image)
    tap.need(made.returncode == 0, "mkfs.%s: %s" % (kind, made.stdout.decode(errors="replace")))
    with mounted(folder, "-o", "loop", image) as place:
        yield place


class Frozen:
    """A file system on which every write waits, until thaw()."""

    def __init__(self, place):
        self.place = place
        self.frozen = False

    def __enter__(self):
        done = command("fsfreeze", "-f", self.place)
        tap.need(done.returncode == 0, "cannot freeze: %s" % done.stdout.decode(errors="replace"))
        self.frozen = True
        return self

    def __exit__(self, *_):
        self.thaw()

    def thaw(self):
        if self.frozen:
            command("fsfreeze", "-u", self.place)
        self.frozen = False


def goes_on(vm, counts=5):
    vm.wait_count(guestvm.last_count(vm.log()) + counts)
    guestvm.check_log(vm.log())


def state(vm):
    return accepted(vm.socket, "GET", "/", status=200)["state"]


def make_disk(place):
    path = os.path.join(place, "disk")
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    return path


# --- where a snapshot cannot go -------------------------------------------------------------------


def check_refused_save(vm, code, place, old):
    """The save fails under this name; what was there is untouched and nothing is left."""
    path = os.path.join(place, "a.stasis")
    clihelp.failed(code, "save", "--socket", vm.socket, "--output", path)
    tap.equal(os.listdir(place), ["a.stasis"] if old is not None else [], "what is in the folder")
    if old is not None:
        with open(path, "rb") as file:
            tap.equal(file.read(), old, "the file that was there")
    tap.equal(state(vm), "Running", "state")
    goes_on(vm)


@tap.case
def a_full_file_system_is_no_space_and_left_as_it_was():
    need("mount")
    with tap.temp_dir() as folder, guestvm.run(folder, cmdline="period=40 mem=4M") as vm:
        vm.wait_count(2)
        with mounted(folder, "-t", "tmpfs", "-o", "size=1M", "tmpfs") as place:
            check_refused_save(vm, "NoSpace", place, None)
            clihelp.write(os.path.join(place, "a.stasis"), b"old")
            check_refused_save(vm, "NoSpace", place, b"old")
            free = os.statvfs(place)
            tap.true(free.f_bavail > free.f_blocks - 10, "space is still taken")


@contextlib.contextmanager
def filled(place, leave):
    """Nearly all of a file system taken, by a file without a name."""
    file = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        size = 0
        step = 64 << 20
        while step >= 4096:
            try:
                os.posix_fallocate(file, size, step)
                size += step
            except OSError:
                step //= 2
        os.ftruncate(file, size - leave)
        yield
    finally:
        os.close(file)


@tap.case
def a_full_disk_is_no_space_and_left_as_it_was():
    need("mount", "mkfs.ext4", "mkfs.xfs")
    for kind in ("ext4", "xfs"):
        with tap.temp_dir() as folder, guestvm.run(folder, cmdline="period=40") as vm:
            vm.wait_count(2)
            with loop_mounted(folder, kind) as place:
                for name in os.listdir(place):
                    os.rmdir(os.path.join(place, name))
                with filled(place, 256 << 10):
                    check_refused_save(vm, "NoSpace", place, None)
                    clihelp.write(os.path.join(place, "a.stasis"), b"old")
                    check_refused_save(vm, "NoSpace", place, b"old")
                os.unlink(os.path.join(place, "a.stasis"))
                vm.save(os.path.join(place, "a.stasis"))  # and with room it works


@tap.case
def a_file_system_that_fills_up_only_at_the_end_is_no_space_too():
    need("mount")
    with tap.temp_dir() as folder, guestvm.run(folder, cmdline="period=40") as vm:
        vm.wait_count(2)
        vm.pause()  # so that each save is as large as the one before
        with mounted(folder, "-t", "tmpfs", "tmpfs") as place:
            needed = vm.save(os.path.join(place, "a.stasis"))["file_allocated_bytes"]
        for short in (4096, 16384, 65536):
            with mounted(folder, "-t", "tmpfs", "-o", "size=%d" % (needed - short),
                         "tmpfs") as place:
                clihelp.failed("NoSpace", "save", "-s", vm.socket, "-o",
                               os.path.join(place, "a.stasis"))
                tap.equal(os.listdir(place), [], "what is in the folder")
        tap.equal(state(vm), "Paused", "state")
        vm.resume()
        goes_on(vm)


@tap.case
def a_read_only_file_system_is_read_only():
    need("mount")
    with tap.temp_dir() as folder, guestvm.run(folder, cmdline="period=40") as vm:
        vm.wait_count(2)
        with mounted(folder, "-t", "tmpfs", "tmpfs") as place:
            clihelp.write(os.path.join(place, "a.stasis"), b"old")
            tap.equal(command("mount", "-o", "remount,ro", place).returncode, 0, "remount")
            check_refused_save(vm, "ReadOnly", place, b"old")


@tap.case
def a_control_socket_on_a_read_only_file_system_is_read_only():
    need("mount")
    with tap.temp_dir() as folder:
        with mounted(folder, "-t", "tmpfs", "-o", "ro", "tmpfs") as place:
            clihelp.failed("ReadOnly", "run", "--serial", "none", "--api-socket",
                           os.path.join(place, "sock"))


# --- a disk that does not answer ------------------------------------------------------------------


def check_quiesce_timeout(kind):
    need("mount", "fsfreeze", "mkfs." + kind)
    with tap.temp_dir() as folder, loop_mounted(folder, kind) as place:
        with guestvm.run(folder, "--disk", "id=d,path=" + make_disk(place), "--quiesce-timeout",
                         "300",
                         cmdline="period=40 disk-writes=4 lost=3600000") as vm:
            vm.wait_count(5)
            with Frozen(place) as frozen:
                hang(vm)
                begun = time.monotonic()
                clihelp.failed("QuiesceTimeout", "pause", "--socket", vm.socket)
                tap.true(time.monotonic() - begun < 20, "gave up too late")
                tap.equal(state(vm), "Running", "state")
                clihelp.failed("QuiesceTimeout", "save", "--socket", vm.socket, "--output",
                               os.path.join(folder, "a.stasis"))
                tap.true(not os.path.exists(os.path.join(folder, "a.stasis")),
                         "a snapshot was made")
                goes_on(vm)  # its timers and memory, that is: the disk hangs
                frozen.thaw()
            goes_on(vm, 10)
            vm.pause()
            vm.resume()
            goes_on(vm)
            vm.process.terminate()
            tap.equal(vm.wait_end(), 0, "exit status")


def hang(vm):
    """Until the guest's requests hang: with 8 in flight it posts no more."""
    def requests():
        lines = [line for line in vm.log().split(b"\n")[:-1] if b" disk " in line]
        return lines and lines[-1].split(b" disk ")[1].split()[0]

    def hangs():
        before = requests(), guestvm.last_count(vm.log())
        time.sleep(0.3)
        return requests() == before[0] and guestvm.last_count(vm.log()) > before[1] + 1

    tap.wait_until(hangs, clihelp.HANG_SECONDS, "requests hang")


for name in ("ext4", "xfs"):
    tap.case_for("a_disk_on_a_frozen_%s_is_a_quiesce_timeout_and_the_guest_goes_on" % name,
                 check_quiesce_timeout, name)


# --- a save that hangs ----------------------------------------------------------------------------


def wait_for_save(vm):
    """Nothing is asked meanwhile: a pause or resume at the wrong moment would make the save Busy."""
    time.sleep(1)
    refused(vm.socket, "PATCH", "/vm", {"state": "Resumed"}, code="Busy")


@contextlib.contextmanager
def hanging_save(folder):
    """(vm, path, answers, frozen): a save of a running guest to a file system that is frozen,
    under way; its answer is appended to the list."""
    need("mount", "fsfreeze", "mkfs.ext4")
    with loop_mounted(folder, "ext4") as place:
        # KVM's PIT makes up for the ticks of a pause and the local APIC's timer does not, so that
        # after many seconds the guest would take the latter for broken (stop=, by default 5 s).
        with guestvm.run(folder, cmdline="period=40 stop=600000") as vm:
            vm.wait_count(3)
            path = os.path.join(place, "a.stasis")
            answers = []
            saver = threading.Thread(target=lambda: answers.append(ask(
                vm.socket, "PUT", "/snapshot/create", {"snapshot_path": path, "pause_vm": True})))
            with Frozen(place) as frozen:
                saver.start()
                wait_for_save(vm)
                yield vm, path, answers, frozen
                frozen.thaw()
            saver.join(clihelp.HANG_SECONDS)
            tap.true(not saver.is_alive(), "the save did not end")


@tap.case
def while_one_save_runs_a_second_is_busy_and_the_first_unharmed():
    with tap.temp_dir() as folder:
        other = os.path.join(folder, "b.stasis")
        with hanging_save(folder) as (vm, path, answers, frozen):
            clihelp.still_serves(vm.socket)
            for words in (["save", "-s", vm.socket, "-o", other], ["pause", "-s", vm.socket],
                          ["resume", "-s", vm.socket]):
                clihelp.failed("Busy", *words)
            refused(vm.socket, "PUT", "/snapshot/load", {"snapshot_path": "/none"}, code="Busy")
            refused(vm.socket, "PUT", "/actions", {"action_type": "InstanceStart"}, code="Busy")
            tap.equal(answers, [], "answers before the thaw")
            tap.true(not os.path.exists(other), "the second save made a file")
            frozen.thaw()
            tap.wait_until(lambda: answers, clihelp.HANG_SECONDS, "the answer")
            tap.equal(answers[0].status, 200, "status of %s" % answers[0])
            tap.equal(clihelp.answer("info", path)["id"], answers[0].json()["id"], "id")
            tap.equal(clihelp.answer("verify", path)["ok"], True, "verdict")
            tap.equal(state(vm), "Running", "state")
            goes_on(vm)


@tap.case
def the_patience_with_clients_does_not_end_a_save_of_many_seconds():
    with tap.temp_dir() as folder:
        with hanging_save(folder) as (vm, _, answers, frozen):
            time.sleep(7)  # longer than a client may keep the server waiting
            tap.equal(answers, [], "answers before the thaw")
            frozen.thaw()
            tap.wait_until(lambda: answers, clihelp.HANG_SECONDS, "the answer")
            tap.equal(answers[0].status, 200, "status of %s" % answers[0])
            goes_on(vm)


@tap.case
def a_client_killed_while_its_save_hangs_leaves_the_guest_running():
    need("mount", "fsfreeze", "mkfs.ext4")
    with tap.temp_dir() as folder, loop_mounted(folder, "ext4") as place:
        with guestvm.run(folder, cmdline="period=40") as vm:
            vm.wait_count(3)
            path = os.path.join(place, "a.stasis")
            with Frozen(place) as frozen:
                with subprocess.Popen(clihelp.command("save", "-s", vm.socket, "-o", path),
                                      stdout=subprocess.DEVNULL) as client:
                    wait_for_save(vm)
                    client.kill()
                still = vm.log()
                guestvm.settle()
                tap.equal(vm.log(), still, "console while the save goes on")
                frozen.thaw()
            goes_on(vm)
            tap.wait_until(lambda: os.path.exists(path), clihelp.HANG_SECONDS, "the snapshot")
            tap.equal(clihelp.answer("verify", path)["ok"], True, "verdict")
            tap.equal(os.listdir(place).count("a.stasis"), 1, "snapshot")


@tap.case
def a_signal_during_a_save_cancels_it_and_its_client_is_told():
    with tap.temp_dir() as folder:
        with hanging_save(folder) as (vm, path, answers, frozen):
            vm.process.terminate()
            time.sleep(0.5)
            tap.true(vm.alive(), "ended in the middle of a system call")
            frozen.thaw()
            tap.equal(vm.wait_end(), 0, "exit status")
            tap.wait_until(lambda: answers, clihelp.HANG_SECONDS, "the answer")
            tap.true(answers[0], "the connection ended without an answer")
            tap.equal(answers[0].headers.get("stasis-error"), "Cancelled", "%s" % answers[0])
            tap.true(not os.path.exists(vm.socket), "the socket is left behind")
            tap.equal(os.listdir(os.path.dirname(path)), ["lost+found"], "what is left")


tap.main()
