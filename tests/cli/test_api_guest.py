#!/usr/bin/python3
"""The control socket with a guest behind it: a life told by Firecracker's paths, and several
clients at once.

The small guest checks itself (guest/README.md): a count line without gap or BAD line proves that it
was not harmed. Needs /dev/kvm; a slow software one will do.
"""

import json
import os
import subprocess
import threading
import time

import clihelp
import tap
from clihelp import accepted, ask, refused
from vm import guestvm

KERNEL = ("guest", "stasis-guest.bin")
REPORT_KEYS = ["id", "type", "parent", "memory_bytes", "data_bytes", "zero_bytes", "file_bytes", "file_allocated_bytes",
               "memory_us", "sync_us", "total_us", "pause_us"]


def kvm_case(function):
    def checked():
        guestvm.need_kvm()
        with tap.temp_dir() as folder:
            function(folder)
    checked.__name__ = function.__name__
    return tap.case(checked)


def empty_vm(folder):
    """A microVM process that waits to be told what it is."""
    vm = guestvm.Vm(folder, "run")
    vm.wait_socket()
    return vm


def put(vm, target, **body):
    accepted(vm.socket, "PUT", target, body)


def set_state(vm, state):
    accepted(vm.socket, "PATCH", "/vm", {"state": state})


def state(vm):
    return accepted(vm.socket, "GET", "/", status=200)["state"]


def configure(vm, boot_args="period=40", vcpus=1):
    put(vm, "/machine-config", vcpu_count=vcpus, mem_size_mib=32)
    put(vm, "/boot-source", kernel_image_path=tap.build(*KERNEL), boot_args=boot_args)


def start(vm):
    put(vm, "/actions", action_type="InstanceStart")


def make_disk(folder, name="disk"):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    return path


# --- a life ---------------------------------------------------------------------------------------


@kvm_case
def a_guest_is_configured_started_saved_and_loaded_by_the_api_alone(folder):
    snapshot = os.path.join(folder, "a.stasis")
    disk = make_disk(folder)
    with empty_vm(folder) as vm:
        configure(vm, "cpus=2 period=40", vcpus=2)
        put(vm, "/drives/data", drive_id="data", path_on_host=disk, is_root_device=False)
        put(vm, "/entropy")
        tap.equal(state(vm), "Not started", "state")
        start(vm)
        tap.equal(state(vm), "Running", "state")
        vm.wait_count(5)
        tap.true(b" disks=1 read-only=0 rng=1" in vm.log(), "devices:\n" + vm.tail())
        set_state(vm, "Paused")
        tap.equal(state(vm), "Paused", "state")
        before = vm.log()
        put(vm, "/snapshot/create", snapshot_type="Full", snapshot_path=snapshot)
        tap.equal(vm.log(), before, "console of a paused guest")
        told = accepted(vm.socket, "GET", "/snapshot", status=200)
        tap.equal(list(told), REPORT_KEYS, "keys of the report")
        tap.equal(told["pause_us"], 0, "pause of a guest that was paused before")
        tap.equal(told["id"], clihelp.answer("info", snapshot)["id"], "id")
        tap.equal(clihelp.answer("verify", snapshot)["ok"], True, "verdict")
        vm.kill()
    with empty_vm(folder) as vm:
        put(vm, "/snapshot/load", snapshot_path=snapshot, resume_vm=True)
        tap.equal(state(vm), "Running", "state")
        vm.wait_count(guestvm.last_count(before) + 5)
        guestvm.check_log(before + vm.log())
        told = accepted(vm.socket, "GET", "/machine-config", status=200)
        tap.equal((told["vcpu_count"], told["mem_size_mib"]), (2, 32), "machine of a loaded guest")


@kvm_case
def a_root_device_is_named_on_the_kernels_command_line_once(folder):
    snapshot = os.path.join(folder, "a.stasis")
    with empty_vm(folder) as vm:
        configure(vm)
        put(vm, "/drives/data", drive_id="data", path_on_host=make_disk(folder, "a"),
            is_root_device=False)
        put(vm, "/drives/root", drive_id="root", path_on_host=make_disk(folder, "b"),
            is_root_device=True, is_read_only=True)
        refused(vm.socket, "PUT", "/drives/data",
                {"drive_id": "data", "path_on_host": "/x", "is_root_device": True},
                code="InvalidArgument")
        start(vm)
        vm.wait_count(2)
        set_state(vm, "Paused")
        put(vm, "/snapshot/create", snapshot_path=snapshot)
        vm.kill()
    with open(snapshot, "rb") as file:
        file.seek((2 << 20) + 0x20000)  # memory is flat at 2 MiB; src/microvm/layout.h
        tap.equal(file.read(64).split(b"\0")[0], b"period=40 root=/dev/vdb ro", "command line")


@kvm_case
def a_guest_loaded_without_resume_waits_until_it_is_resumed(folder):
    snapshot = os.path.join(folder, "a.stasis")
    with guestvm.run(folder, cmdline="period=40") as vm:
        vm.wait_count(3)
        vm.pause()
        before = vm.log()
        vm.save(snapshot)
        vm.kill()
    with empty_vm(folder) as vm:
        put(vm, "/snapshot/load", snapshot_path=snapshot)
        tap.equal(state(vm), "Paused", "state")
        guestvm.settle()
        tap.equal(vm.log(), b"", "console of a guest that waits")
        set_state(vm, "Resumed")
        vm.wait_count(guestvm.last_count(before) + 3)
        guestvm.check_log(before + vm.log())


@kvm_case
def a_disk_is_overridden_at_load(folder):
    snapshot = os.path.join(folder, "a.stasis")
    with guestvm.run(folder, "--disk", "id=d,path=" + make_disk(folder), cmdline="period=40") as vm:
        vm.wait_count(3)
        vm.pause()
        before = vm.log()
        vm.save(snapshot)
        vm.kill()
    os.rename(os.path.join(folder, "disk"), os.path.join(folder, "moved"))
    with empty_vm(folder) as vm:
        refused(vm.socket, "PUT", "/snapshot/load", {"snapshot_path": snapshot},
                code="DiskMismatch")
        tap.equal(state(vm), "Not started", "state after a load that failed")
        put(vm, "/snapshot/load", snapshot_path=snapshot, resume_vm=True,
            drives=[{"drive_id": "d", "path_on_host": os.path.join(folder, "moved")}])
        vm.wait_count(guestvm.last_count(before) + 3)
        guestvm.check_log(before + vm.log())


@kvm_case
def a_start_that_failed_may_be_tried_again(folder):
    with empty_vm(folder) as vm:
        message = refused(vm.socket, "PUT", "/actions", {"action_type": "InstanceStart"})
        tap.true("kernel" in message, message)
        put(vm, "/boot-source", kernel_image_path=os.path.join(folder, "none"))
        refused(vm.socket, "PUT", "/actions", {"action_type": "InstanceStart"}, code="NotFound")
        text = clihelp.write(os.path.join(folder, "text"), b"no kernel\n" * 100)
        put(vm, "/boot-source", kernel_image_path=text)
        refused(vm.socket, "PUT", "/actions", {"action_type": "InstanceStart"}, code="BadKernel")
        tap.equal(state(vm), "Not started", "state")
        configure(vm)
        start(vm)
        vm.wait_count(3)
        guestvm.check_log(vm.log())


@kvm_case
def what_cannot_be_done_to_a_started_guest_is_a_wrong_state(folder):
    snapshot = os.path.join(folder, "a.stasis")
    with guestvm.run(folder, cmdline="period=40") as vm:
        vm.wait_count(2)
        for wanted in ("Running", "Paused"):
            for target, body in (
                    ("/machine-config", {"vcpu_count": 1, "mem_size_mib": 64}),
                    ("/boot-source", {"kernel_image_path": tap.build(*KERNEL)}),
                    ("/drives/a", {"drive_id": "a", "path_on_host": "/x", "is_root_device": False}),
                    ("/entropy", {}),
                    ("/actions", {"action_type": "InstanceStart"}),
                    ("/snapshot/load", {"snapshot_path": "/none"})):
                tap.equal(state(vm), wanted, "state")
                refused(vm.socket, "PUT", target, body, code="WrongState")
            if wanted == "Running":
                # As with Firecracker, nothing stands still unasked.
                message = refused(vm.socket, "PUT", "/snapshot/create", {"snapshot_path": snapshot},
                                  code="WrongState")
                tap.true("paused" in message, message)
                tap.true(not os.path.exists(snapshot), "a snapshot was made")
                vm.pause()
        vm.resume()
        count = guestvm.last_count(vm.log())
        vm.wait_count(count + 3)
        guestvm.check_log(vm.log())


@kvm_case
def pausing_what_is_paused_and_resuming_what_runs_does_nothing(folder):
    with guestvm.run(folder, cmdline="period=40") as vm:
        vm.wait_count(2)
        for _ in range(2):
            set_state(vm, "Resumed")
            tap.equal(state(vm), "Running", "state")
        for _ in range(2):
            set_state(vm, "Paused")
            tap.equal(state(vm), "Paused", "state")
        vm.resume()
        vm.wait_count(guestvm.last_count(vm.log()) + 3)
        guestvm.check_log(vm.log())


@kvm_case
def the_power_button_is_pressed_and_the_guest_goes_on(folder):
    # The small guest does not listen to ACPI; that Linux does is proven elsewhere.
    with guestvm.run(folder, cmdline="period=40") as vm:
        vm.wait_count(2)
        put(vm, "/actions", action_type="SendCtrlAltDel")
        vm.wait_count(guestvm.last_count(vm.log()) + 3)
        guestvm.check_log(vm.log())


# --- how it ends ----------------------------------------------------------------------------------


def run_to_end(folder, *arguments, cmdline):
    """`stasis run --json` to its end: exit status and answer."""
    ended = clihelp.run("run", "--kernel", tap.build(*KERNEL), "--memory", "32M", "--json",
                        "--serial",
                        "file:" + os.path.join(folder, "log"), "--api-socket",
                        os.path.join(folder, "sock"), "--cmdline", "period=20 " + cmdline,
                        *arguments)
    tap.equal(os.listdir(folder), ["log"], "what is left in the folder")
    tap.equal(ended.err, "", "stderr")
    return ended.status, json.loads(ended.out)


@kvm_case
def power_off_ends_the_run_with_0(folder):
    tap.equal(run_to_end(folder, cmdline="exit=2"), (0, {"ok": True, "exit": "power-off"}), "end")


@kvm_case
def a_reset_ends_the_run_where_that_was_asked_for(folder):
    tap.equal(run_to_end(folder, "--exit-on-reset", cmdline="exit=2 exit-by=reset"),
              (0, {"ok": True, "exit": "reset"}), "end")


@kvm_case
def a_triple_fault_is_a_crash_where_resets_end_the_run(folder):
    status, told = run_to_end(folder, "--exit-on-reset", cmdline="exit=2 exit-by=triple")
    tap.equal((status, list(told)), (1, clihelp.FAILURE_KEYS), "exit status and keys")
    tap.equal((told["ok"], told["format"], told["error"]), (False, None, "GuestCrashed"), "end")
    tap.true("triple fault" in told["message"], told["message"])


@kvm_case
def a_signal_ends_the_run_with_0_and_leaves_nothing(folder):
    for signal in ("TERM", "INT", "HUP"):
        with subprocess.Popen(
                clihelp.command("run", "--kernel", tap.build(*KERNEL), "--memory", "32M", "--json",
                                "--serial", "none", "--api-socket", os.path.join(folder, "sock")),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            tap.wait_until(lambda: os.path.exists(os.path.join(folder, "sock")),
                           clihelp.HANG_SECONDS, "socket")
            subprocess.run(["kill", "-" + signal, str(process.pid)], check=True)
            out, _ = process.communicate(timeout=clihelp.HANG_SECONDS)
        tap.equal((process.returncode, json.loads(out)), (0, {"ok": True, "exit": "stopped"}),
                  signal)
        tap.equal(os.listdir(folder), [], "what is left after " + signal)


@kvm_case
def the_end_of_the_guest_ends_the_answers_too(folder):
    with guestvm.run(folder, cmdline="period=20 exit=5") as vm:
        tap.equal(vm.wait_end(), 0, "exit status")
        tap.true(not os.path.exists(vm.socket), "the socket is left behind")


# --- saves ----------------------------------------------------------------------------------------


@kvm_case
def save_pauses_a_running_guest_and_leaves_a_paused_one_paused(folder):
    snapshot = os.path.join(folder, "a.stasis")
    with guestvm.run(folder, cmdline="period=40") as vm:
        vm.wait_count(2)
        tap.true(vm.save(snapshot)["pause_us"] > 0, "a running guest was saved without a pause")
        tap.equal(state(vm), "Running", "state")
        vm.pause()
        tap.equal(vm.save(snapshot)["pause_us"], 0, "pause of a guest that was paused before")
        tap.equal(state(vm), "Paused", "state")
        vm.resume()
        vm.wait_count(guestvm.last_count(vm.log()) + 3)
        guestvm.check_log(vm.log())


@kvm_case
def saves_at_the_same_time_are_busy_or_good_and_harm_nobody(folder):
    results = []

    def client(number):
        path = os.path.join(folder, "%d.stasis" % number)
        for _ in range(5):
            told = ask(vm.socket, "PUT", "/snapshot/create",
                       {"snapshot_path": path, "pause_vm": True})
            results.append((told.status, told.headers.get("stasis-error"), path))

    with guestvm.run(folder, cmdline="period=40 cpus=2", cpus=2) as vm:
        vm.wait_count(2)
        threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tap.equal(len(results), 30, "answers")
        tap.equal({result[:2] for result in results} - {(200, None), (400, "Busy")}, set(),
                  "answers")
        good = {path for status, _, path in results if status == 200}
        tap.true(good, "no save succeeded")
        tap.equal(sorted(os.path.join(folder, name) for name in os.listdir(folder)
                         if "stasis" in name), sorted(good), "files")
        for path in good:
            tap.equal(clihelp.answer("verify", path)["ok"], True, path)
        tap.equal(state(vm), "Running", "state")
        vm.wait_count(guestvm.last_count(vm.log()) + 3)
        guestvm.check_log(vm.log())


@kvm_case
def a_failed_save_leaves_the_guest_running_and_the_last_report(folder):
    snapshot = os.path.join(folder, "a.stasis")
    with guestvm.run(folder, cmdline="period=40") as vm:
        vm.wait_count(2)
        vm.save(snapshot)
        report = accepted(vm.socket, "GET", "/snapshot", status=200)
        for output, code in ((folder, "NotRegularFile"), ("/none/a.stasis", "NotFound"),
                             (os.path.join(snapshot, "x"), "NotFound")):
            ended = clihelp.run("save", "-s", vm.socket, "-o", output, "--json")
            tap.equal((ended.status, json.loads(ended.out)["error"]), (1, code), output)
            tap.equal(state(vm), "Running", "state")
        tap.equal(accepted(vm.socket, "GET", "/snapshot", status=200), report, "report")
        tap.equal(clihelp.answer("verify", snapshot)["ok"], True, "the snapshot before")
        vm.wait_count(guestvm.last_count(vm.log()) + 3)
        guestvm.check_log(vm.log())


@kvm_case
def a_client_that_is_killed_during_its_save_leaves_the_guest_running(folder):
    snapshot = os.path.join(folder, "a.stasis")
    with guestvm.run(folder, cmdline="period=40") as vm:
        vm.wait_count(2)
        for _ in range(20):
            with subprocess.Popen(clihelp.command("save", "-s", vm.socket, "-o", snapshot),
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
                time.sleep(0.01)
                client.kill()
        tap.wait_until(lambda: state(vm) == "Running", clihelp.HANG_SECONDS, "guest runs")
        vm.wait_count(guestvm.last_count(vm.log()) + 3)
        guestvm.check_log(vm.log())
        vm.save(snapshot)
        names = sorted(name for name in os.listdir(folder) if "stasis" in name)
        tap.equal(names, ["a.stasis"], "files")


tap.main()
