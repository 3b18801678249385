#!/usr/bin/python3
"""The system call filter is on, in every thread, as soon as a guest runs, unless it was told to
stay off; and with it on everything still works.

The kernel says so itself: "Seccomp: 2" in /proc/PID/task/*/status. A forbidden call kills the
process, so that a microVM which lives through all verbs has needed none. Needs /dev/kvm.
"""

import os

import clihelp
import tap
from clihelp import Control, accepted, ask
from vm import guestvm

OFF, FILTERED = "0", "2"


def kvm_case(function):
    def checked():
        guestvm.need_kvm()
        with tap.temp_dir() as folder:
            function(folder)
    checked.__name__ = function.__name__
    return tap.case(checked)


def modes(vm):
    """The Seccomp line of every thread that stayed to be asked."""
    found = {}
    folder = "/proc/%d/task" % vm.process.pid
    for thread in os.listdir(folder):
        try:
            with open(os.path.join(folder, thread, "status"), encoding="utf-8") as file:
                found[thread] = [line.split()[1] for line in file if line.startswith("Seccomp:")][0]
        except FileNotFoundError:
            pass
    tap.true(len(found) > 3, "only %d threads" % len(found))
    return set(found.values())


def make_disk(folder):
    path = os.path.join(folder, "disk")
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    return path


def live(vm, folder):
    """All that a microVM is asked for in its life, with threads of every kind made on the way."""
    snapshot = os.path.join(folder, "live.stasis")
    for _ in range(2):
        with Control(vm.socket) as kept:
            vm.save(snapshot)
            vm.pause()
            vm.save(snapshot)
            vm.resume()
            tap.equal(kept.request("GET", "/snapshot").status, 200, "status")
        ask(vm.socket, "PUT", "/snapshot/create", {"snapshot_path": "/none/a", "pause_vm": True})
        accepted(vm.socket, "PUT", "/actions", {"action_type": "SendCtrlAltDel"})
        clients = [Control(vm.socket) for _ in range(32)]
        for client in clients:
            tap.equal(client.request("GET", "/").status, 200, "status")
            client.socket.close()
    vm.wait_count(guestvm.last_count(vm.log()) + 3)


@kvm_case
def the_filter_is_on_in_every_thread_of_a_running_guest_for_all_its_life(folder):
    with guestvm.run(folder, "--rng", "--disk", "id=d,path=" + make_disk(folder), cpus=2,
                     cmdline="period=40") as vm:
        vm.wait_count(2)
        vm.wait_socket()
        clihelp.still_serves(vm.socket)
        tap.equal(modes(vm), {FILTERED}, "modes")
        live(vm, folder)
        tap.equal(modes(vm), {FILTERED}, "modes")
        guestvm.check_log(vm.log())
        vm.process.terminate()
        tap.equal(vm.wait_end(), 0, "exit status")


@kvm_case
def the_filter_is_on_after_a_restore_too(folder):
    snapshot = os.path.join(folder, "a.stasis")
    disk = make_disk(folder)
    with guestvm.run(folder, "--rng", "--disk", "id=d,path=" + disk, cpus=2,
                     cmdline="period=40") as vm:
        vm.wait_count(2)
        vm.pause()
        before = vm.log()
        vm.save(snapshot)
        vm.kill()
    for words in ([], ["--paused"], ["--verify", "--clock-stopped"]):
        with guestvm.restore(folder, snapshot, *words) as vm:
            vm.wait_socket()
            clihelp.still_serves(vm.socket)
            if "--paused" in words:
                vm.resume()
            vm.wait_count(guestvm.last_count(before) + 2)
            tap.equal(modes(vm), {FILTERED}, "modes")
            live(vm, folder)
            tap.equal(modes(vm), {FILTERED}, "modes")
            guestvm.check_log(before + vm.log())
            vm.process.terminate()
            tap.equal(vm.wait_end(), 0, "exit status")


@kvm_case
def a_reset_boots_again_behind_the_filter(folder):
    with guestvm.run(folder, "--rng", "--disk", "id=d,path=" + make_disk(folder), cpus=2,
                     cmdline="period=40 exit=3 exit-by=reset") as vm:
        vm.wait_for(lambda: vm.log().count(b"stasis-guest ready") >= 3, "three boots")
        tap.equal(modes(vm), {FILTERED}, "modes")
        vm.process.terminate()
        tap.equal(vm.wait_end(), 0, "exit status")


@kvm_case
def the_filter_comes_with_the_guest_and_not_before(folder):
    with guestvm.Vm(folder, "run") as vm:
        vm.wait_socket()
        clihelp.still_serves(vm.socket)
        tap.equal(modes(vm), {OFF}, "modes before the start")
        accepted(vm.socket, "PUT", "/boot-source",
                 {"kernel_image_path": tap.build("guest", "stasis-guest.bin"),
                  "boot_args": "period=40"})
        accepted(vm.socket, "PUT", "/actions", {"action_type": "InstanceStart"})
        vm.wait_count(2)
        tap.equal(modes(vm), {FILTERED}, "modes of a running guest")


@kvm_case
def no_seccomp_leaves_it_off(folder):
    snapshot = os.path.join(folder, "a.stasis")
    with guestvm.run(folder, "--no-seccomp", cmdline="period=40") as vm:
        vm.wait_count(2)
        tap.equal(modes(vm), {OFF}, "modes")
        vm.save(snapshot)
    with guestvm.restore(folder, snapshot, "--no-seccomp") as vm:
        vm.wait_count(4)
        tap.equal(modes(vm), {OFF}, "modes after a restore")


tap.main()
