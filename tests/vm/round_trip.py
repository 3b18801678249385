#!/usr/bin/python3
"""A guest is saved, killed with SIGKILL, and restored in a new process: it goes on exactly there.

The guest checks itself (memory sums, SSE, x87, debug and model-specific registers, timers, disk
requests) and prints a numbered line at every count. Here the console of the saved and of the
restored process are put together: the result must read as if nothing had happened.
"""

import json
import os
import resource
import shutil

import guestvm
import tap

DISK_SECTORS = 4096
FAST = "period=40 "


def make_disk(path, sectors=DISK_SECTORS):
    with open(path, "wb") as file:
        file.truncate(sectors * 512)
    return path


def disk_log(path):
    """The sequence numbers that the guest's log on the disk holds, in sector order."""
    found = []
    with open(path, "rb") as file:
        file.seek(512)
        while True:
            sector = file.read(512)
            if len(sector) < 512 or sector[:8] != b"STTFLOG1":
                return found
            found.append(int.from_bytes(sector[8:16], "little"))


def save_and_kill(vm, snapshot):
    """Pause, so that the console stands still, save, kill. The console up to the save."""
    vm.pause()
    log = vm.log()
    vm.save(snapshot)
    tap.equal(vm.log(), log, "console of a paused guest")
    vm.kill()
    return log


def round_trip(cpus):
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        snapshot = os.path.join(folder, "a.stasis")
        with guestvm.run(folder, "--rng", cpus=cpus, cmdline=FAST) as vm:
            vm.wait_count(10)
            before = save_and_kill(vm, snapshot)
        guestvm.stasis("verify", snapshot)
        with guestvm.restore(folder, snapshot) as vm:
            first = guestvm.last_count(before) + 1
            vm.wait_count(first + 10)
            guestvm.check_log(before + vm.log())
            tap.equal(guestvm.counts(before + vm.log())[first - 1][0], first, "first count after")
            tap.equal(vm.log().count(b"ready"), 0, "boots after the restore")


for number in (1, 2, 4):
    tap.case_for("a guest of %d vCPUs goes on where it was saved" % number, round_trip, number)


@tap.case
def deadline_timers_go_on_after_a_restore():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        snapshot = os.path.join(folder, "a.stasis")
        with guestvm.run(folder, cpus=2, cmdline=FAST + "timer=deadline") as vm:
            vm.wait_count(8)
            before = save_and_kill(vm, snapshot)
        with guestvm.restore(folder, snapshot) as vm:
            vm.wait_count(guestvm.last_count(before) + 20)
            guestvm.check_log(before + vm.log())


@tap.case
def saving_leaves_the_running_guest_unharmed():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        disk = make_disk(os.path.join(folder, "disk"))
        with guestvm.run(folder, "--rng", "--disk", "id=d,path=" + disk, cpus=4,
                         cmdline=FAST + "disk-writes=4") as vm:
            for i in range(5):
                vm.wait_count(5 * (i + 1))
                vm.save(os.path.join(folder, "%d.stasis" % i))
            vm.wait_count(guestvm.last_count(vm.log()) + 10)
            guestvm.check_log(vm.log())


@tap.case
def twenty_saves_and_restores_in_a_row():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        snapshot = os.path.join(folder, "a.stasis")
        disk = make_disk(os.path.join(folder, "disk"))
        whole = b""
        vm = guestvm.run(folder, "--rng", "--disk", "id=d,path=" + disk, cpus=4,
                         cmdline=FAST + "disk-writes=2 disk-ring=4000")
        for _ in range(20):
            with vm:
                vm.wait_count(guestvm.last_count(whole) + 3)
                whole += save_and_kill(vm, snapshot)
            vm = guestvm.restore(folder, snapshot)
        with vm:
            vm.wait_count(guestvm.last_count(whole) + 3)
            guestvm.check_log(whole + vm.log())


@tap.case
def disk_requests_in_flight_are_neither_lost_nor_doubled():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        snapshot = os.path.join(folder, "a.stasis")
        disk = make_disk(os.path.join(folder, "disk"))
        whole = b""
        vm = guestvm.run(folder, "--disk", "id=d,path=" + disk,
                         cmdline="period=0 exit=120 disk-writes=8 disk-reads=8 disk-ring=4000")
        for stop_at in (10, 30, 50, 70):
            with vm:
                vm.wait_count(stop_at)
                whole += save_and_kill(vm, snapshot)
            vm = guestvm.restore(folder, snapshot)
        with vm:
            tap.equal(vm.wait_end(), 0, "exit status after power-off")
            whole += vm.log()
        guestvm.check_log(whole)
        tap.true(b"stasis-guest exit count 120 bad 0 by poweroff" in whole, "exit line is missing")
        written = disk_log(disk)
        tap.equal(written, list(range(1, len(written) + 1)), "writes on the disk")
        tap.true(len(written) > 120, "only %d writes in 120 counts" % len(written))


@tap.case
def one_snapshot_restored_twice_side_by_side():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        snapshot = os.path.join(folder, "a.stasis")
        disk = make_disk(os.path.join(folder, "disk"))
        copies = [os.path.join(folder, "disk%d" % i) for i in range(2)]
        with guestvm.run(folder, "--disk", "id=d,path=" + disk, cpus=2, cmdline=FAST) as vm:
            vm.wait_count(10)
            before = save_and_kill(vm, snapshot)
        with open(snapshot, "rb") as file:
            content = file.read()
        for copy in copies:
            shutil.copyfile(disk, copy)
        with guestvm.restore(folder, snapshot, "--disk", "d=" + copies[0]) as a, \
                guestvm.restore(folder, snapshot, "--disk", "d=" + copies[1]) as b:
            for vm in (a, b):
                vm.wait_count(guestvm.last_count(before) + 15)
                guestvm.check_log(before + vm.log(), vm.name)
        with open(snapshot, "rb") as file:
            tap.true(file.read() == content, "the snapshot changed under its restored guests")


@tap.case
def a_restored_guest_can_be_saved_paused_and_resumed():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        snapshot = os.path.join(folder, "a.stasis")
        with guestvm.run(folder, cmdline=FAST) as vm:
            vm.wait_count(5)
            before = save_and_kill(vm, snapshot)
        with guestvm.restore(folder, snapshot, "--paused") as vm:
            vm.wait_socket()
            guestvm.settle()
            tap.equal(vm.log(), b"", "console of a guest restored paused")
            vm.resume()
            vm.wait_count(guestvm.last_count(before) + 5)
            vm.pause()
            still = vm.log()
            guestvm.settle()
            tap.equal(vm.log(), still, "console of a paused guest")
            vm.resume()
            vm.wait_count(guestvm.last_count(before + still) + 5)
            guestvm.check_log(before + vm.log())


@tap.case
def clock_stopped_and_verify_restore_the_same_guest():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        snapshot = os.path.join(folder, "a.stasis")
        with guestvm.run(folder, cpus=2, cmdline=FAST) as vm:
            vm.wait_count(5)
            before = save_and_kill(vm, snapshot)
        with guestvm.restore(folder, snapshot, "--clock-stopped", "--verify") as vm:
            vm.wait_count(guestvm.last_count(before) + 10)
            guestvm.check_log(before + vm.log())


@tap.case
def a_guest_across_the_hole_goes_on():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        snapshot = os.path.join(folder, "a.stasis")
        # 4 GiB: RAM on both sides of the hole; a region as large as RAM, thinly filled.
        with guestvm.run(folder, memory="4G", cpus=2,
                         cmdline=FAST + "mem=all fill=8M fill-step=500 fill-words=8") as vm:
            vm.wait_count(5)
            before = save_and_kill(vm, snapshot)
        info = guestvm.answer("info", snapshot)
        tap.equal([r["gpa"] for r in info["memory"]["regions"]], [0, 1 << 32], "regions")
        tap.true(info["memory"]["data_bytes"] < 64 << 20, "zero pages were stored")
        with guestvm.restore(folder, snapshot) as vm:
            vm.wait_count(guestvm.last_count(before) + 10)
            guestvm.check_log(before + vm.log())


def save_refused(vm, path, code):
    """A save that fails by this name; the guest goes on."""
    done = guestvm.stasis("save", "--socket", vm.socket, "-o", path, "--json", check=False)
    tap.equal(done.returncode, 1, "exit status")
    tap.equal(json.loads(done.stdout)["error"], code, "error")
    vm.wait_count(guestvm.last_count(vm.log()) + 5)
    guestvm.check_log(vm.log())


@tap.case
def a_save_over_a_file_of_the_microvms_own_is_refused():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        disk = make_disk(os.path.join(folder, "disk"))
        link = os.path.join(folder, "link")
        os.link(disk, link)
        with guestvm.run(folder, "--disk", "id=d,path=" + disk, cmdline=FAST) as vm:
            vm.wait_count(3)
            for path in (disk, link, vm.console):
                before = os.stat(path).st_ino
                save_refused(vm, path, "InvalidArgument")
                tap.equal(os.stat(path).st_ino, before, "inode of " + path)


@tap.case
def a_file_size_limit_fails_the_save_and_not_the_guest():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        with guestvm.run(folder, cmdline=FAST) as vm:
            vm.wait_count(3)
            files = sorted(os.listdir(folder))
            resource.prlimit(vm.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            save_refused(vm, os.path.join(folder, "a.stasis"), "NoSpace")
            tap.equal(sorted(os.listdir(folder)), files, "files")


tap.main()
