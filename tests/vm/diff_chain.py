#!/usr/bin/python3
"""A running guest is saved as a chain of diffs, and every link of it restores the guest of its moment.

The guest changes its memory by rule: the sum of all of it after count N follows from N alone, and at
every count it reads all of it (check=full). So a page that a diff lacks is found by the restored guest
itself within one round, and its sums are compared with those of the guest that was saved.
"""

import contextlib
import os
import shutil
import subprocess

import guestvm
import tap

DEPTH = 50
DISK_SECTORS = 4096
GUEST = "period=30 mem=512K dirty=12 zero=2 check=full "
DISK = "disk-writes=2 disk-ring=4000 "  # the disk is a log: what comes later harms no earlier guest


def make_disk(path):
    with open(path, "wb") as file:
        file.truncate(DISK_SECTORS * 512)
    return path


@contextlib.contextmanager
def tiny_file_system(folder):
    """A file system with room for two pages."""
    place = os.path.join(folder, "tiny")
    os.mkdir(place)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", place], check=False,
                             stderr=subprocess.PIPE)
    tap.need(mounted.returncode == 0, "no tmpfs can be mounted: %s" % mounted.stderr.decode().strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def whole_lines(log):
    """Without the line in which the guest was saved, whose first half the saved guest has printed."""
    return log.partition(b"\n")[2]


def check_goes_on(vm, sums, least):
    """The guest, restored from a save that nobody paused it for, is the one that was saved."""
    def counted():
        return len(guestvm.counts(whole_lines(vm.log()))) >= 3
    vm.wait_for(counted, "three counts after the restore")
    log = whole_lines(vm.log())
    tap.true(b"BAD" not in log, "the restored guest found damage:\n" + log.decode(errors="replace"))
    tap.true(b"ready" not in log, "the guest was booted, not restored")
    found = guestvm.counts(log)
    numbers = [number for number, _ in found]
    tap.equal(numbers, list(range(numbers[0], numbers[0] + len(numbers))), "counts")
    tap.true(numbers[0] >= least, "goes on at count %d, was saved after %d" % (numbers[0], least))
    for number, told in found:
        tap.equal(told, sums.get(number, told), "sum of count %d" % number)
    tap.true(numbers[0] in sums, "nobody knows the sum of count %d" % numbers[0])


def restore_and_check(folder, snapshot, sums, least, *options):
    disk = os.path.join(folder, "copy.img")
    shutil.copyfile(os.path.join(folder, "disk.img"), disk)
    with guestvm.restore(folder, snapshot, "--disk", "d=" + disk, *options) as vm:
        check_goes_on(vm, sums, least)
        vm.kill()


class Chain:
    """Snapshots 0 (full) to DEPTH (diffs) of one guest, and what it has printed."""

    def __init__(self, folder):
        self.folder = folder
        self.sums = {}     # of each count
        self.counted = []  # counts that were printed when snapshot i was begun
        self.ids = []

    def path(self, number):
        return os.path.join(self.folder, "%d.stasis" % number)

    def grow(self, vm, until):
        while len(self.ids) < until:
            number = len(self.ids)
            log = vm.log()
            vm.wait_count(guestvm.last_count(log) + 1)
            self.counted.append(guestvm.last_count(vm.log()))
            told = vm.save(self.path(number), *(["--diff"] if number else []))
            tap.equal(told["kind"], "diff" if number else "full", "kind of snapshot %d" % number)
            tap.equal(told["parent"], self.ids[-1] if number else None, "parent of %d" % number)
            tap.true(told["pause_us"] > 0, "a running guest was saved without a pause")
            if number:
                tap.true(told["file_bytes"] < 8 << 20, "a diff of %d bytes" % told["file_bytes"])
            self.ids.append(told["id"])
        vm.wait_count(guestvm.last_count(vm.log()) + 4)

    def learn(self, log):
        self.sums.update(guestvm.counts(log))

    def make(self):
        disk = make_disk(os.path.join(self.folder, "disk.img"))
        with guestvm.run(self.folder, "--rng", "--track-dirty", "--disk", "id=d,path=" + disk, cpus=2,
                         cmdline=GUEST + DISK) as vm:
            self.grow(vm, DEPTH // 2)
            guestvm.check_log(vm.log())
            self.learn(vm.log())
            vm.kill()
        # The second half from another process: its first parent is what it was restored from.
        with guestvm.restore(self.folder, self.path(DEPTH // 2 - 1), "--track-dirty") as vm:
            check_goes_on(vm, self.sums, self.counted[-1])
            self.grow(vm, DEPTH + 1)
            log = whole_lines(vm.log())
            tap.true(b"BAD" not in log, "the guest found damage")
            self.learn(log)
            vm.kill()


@tap.case
def a_chain_of_fifty_diffs_restores_at_every_depth_and_flattens_to_the_same():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        chain = Chain(folder)
        chain.make()
        for depth in range(DEPTH + 1):
            restore_and_check(folder, chain.path(depth), chain.sums, chain.counted[depth])
        last, flat = chain.path(DEPTH), os.path.join(folder, "flat.stasis")
        guestvm.stasis("verify", last)
        guestvm.stasis("flatten", last, "-o", flat)
        same = guestvm.answer("compare", last, flat)
        tap.true(same["equal"], "the flattened chain differs: %r" % same)
        for depth in range(DEPTH + 1):
            os.unlink(chain.path(depth))
        restore_and_check(folder, flat, chain.sums, chain.counted[DEPTH])


def check_same_as_full(vm, folder, name):
    """A diff and a full snapshot of one moment: every page that no tracker saw is a difference."""
    diff, full = (os.path.join(folder, name + kind) for kind in (".diff", ".full"))
    vm.pause()
    vm.save(diff, "--diff")
    vm.save(full)
    same = guestvm.answer("compare", diff, full)
    # Memory only: the timers of KVM's interrupt controllers go on while vCPUs stand still.
    tap.equal(same["pages_different"], 0, "%s: pages that the diff lacks, of %r" % (name, same))
    vm.resume()
    vm.wait_count(guestvm.last_count(vm.log()) + 4)
    return full


@tap.case
def a_diff_holds_every_page_that_a_full_snapshot_of_its_moment_has():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        disk = make_disk(os.path.join(folder, "disk.img"))
        with guestvm.run(folder, "--rng", "--track-dirty", "--disk", "id=d,path=" + disk, cpus=2,
                         cmdline=GUEST + DISK + "disk-reads=4 rng-every=1") as vm:
            vm.wait_count(3)
            vm.save(os.path.join(folder, "first"))
            for number in range(4):
                last = check_same_as_full(vm, folder, "a%d" % number)
            vm.kill()
        # What the restore itself writes (the new generation) is in the first diff after it.
        with guestvm.restore(folder, last, "--track-dirty") as vm:
            vm.wait_for(lambda: len(guestvm.counts(whole_lines(vm.log()))) >= 3, "three counts")
            for number in range(4):
                check_same_as_full(vm, folder, "b%d" % number)
            vm.kill()


@tap.case
def a_save_that_fails_loses_no_page():
    guestvm.need_kvm()
    with tap.temp_dir() as folder, tiny_file_system(folder) as tiny:
        make_disk(os.path.join(folder, "disk.img"))
        first, second = (os.path.join(folder, name) for name in ("a.stasis", "b.stasis"))
        with guestvm.run(folder, "--rng", "--track-dirty", "--disk",
                         "id=d,path=" + os.path.join(folder, "disk.img"), cmdline=GUEST + DISK) as vm:
            vm.wait_count(3)
            vm.save(first)
            for _ in range(3):
                vm.wait_count(guestvm.last_count(vm.log()) + 3)
                tap.equal(vm.refused(os.path.join(tiny, "x.stasis"), "--diff"), "NoSpace", "error")
                tap.equal(os.listdir(tiny), [], "files left behind")
            # Standing still from the last failure to the save: all that is in it was given back.
            vm.pause()
            tap.equal(vm.refused(os.path.join(tiny, "x.stasis"), "--diff"), "NoSpace", "error")
            told = vm.save(second, "--diff", "--parent", first)
            tap.true(told["data_bytes"] >= 12 * 4096, "only %d bytes changed" % told["data_bytes"])
            least = guestvm.last_count(vm.log())
            vm.resume()
            vm.wait_count(least + 10)
            guestvm.check_log(vm.log())
            sums = dict(guestvm.counts(vm.log()))
            vm.kill()
        restore_and_check(folder, second, sums, least)


@tap.case
def a_diff_of_another_parent_or_without_tracking_is_refused_by_name():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        a, b, c = (os.path.join(folder, name) for name in ("a.stasis", "b.stasis", "c.stasis"))
        with guestvm.run(folder, "--track-dirty", cmdline=GUEST) as vm:
            vm.wait_count(2)
            tap.equal(vm.refused(c, "--diff"), "NotTracked", "a diff after the boot")
            vm.save(a)
            vm.save(b, "--diff")
            tap.equal(vm.refused(c, "--diff", "--parent", a), "WrongParent", "a grandparent")
            tap.equal(vm.refused(c, "--diff", "--parent", "/none"), "NotFound", "no parent")
            tap.equal(vm.save(c, "--diff", "--parent", b)["kind"], "diff", "kind")
            os.unlink(c)
            vm.kill()
        with guestvm.restore(folder, a) as vm:
            vm.wait_socket()
            tap.equal(vm.refused(c, "--diff"), "NotTracked", "a diff without tracking")
            tap.equal(vm.refused(c, "--diff", "--parent", a), "NotTracked", "and with its parent")
            vm.kill()
        tap.true(not os.path.exists(c), "a refused save left a file")


@tap.case
def after_a_reset_there_is_no_parent_until_a_full_snapshot():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        a, b, c = (os.path.join(folder, name) for name in ("a.stasis", "b.stasis", "c.stasis"))
        with guestvm.run(folder, "--track-dirty", cmdline=GUEST + "exit=8 exit-by=reset") as vm:
            vm.wait_count(2)
            vm.save(a)
            vm.wait_for(lambda: vm.log().count(b"stasis-guest ready") >= 2, "the reset")
            tap.equal(vm.refused(b, "--diff"), "NotTracked", "a diff after the reset")
            tap.equal(vm.refused(b, "--diff", "--parent", a), "NotTracked", "and with its parent")
            vm.pause()  # or the next reset comes in between
            vm.save(b)
            tap.equal(vm.save(c, "--diff")["kind"], "diff", "kind")
            vm.kill()


def huge_pages(count):
    """Whether the host's pool has so many pages free, or can be made to."""
    def free():
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("HugePages_Free"))
    return free() >= count


@contextlib.contextmanager
def pool_of_huge_pages(count):
    name = "/proc/sys/vm/nr_hugepages"
    try:
        with open(name, encoding="ascii") as file:
            before = int(file.read())
        with open(name, "w", encoding="ascii") as file:
            file.write(str(before + count))
    except OSError as error:
        tap.skip("no huge pages: %s" % error)
    try:
        tap.need(huge_pages(count), "the host gives no %d huge pages" % count)
        yield
    finally:
        with open(name, "w", encoding="ascii") as file:
            file.write(str(before))


@tap.case
def huge_pages_of_both_kinds_are_saved_restored_and_tracked():
    guestvm.need_kvm()
    with tap.temp_dir() as folder, pool_of_huge_pages(16):
        make_disk(os.path.join(folder, "disk.img"))
        first, second = (os.path.join(folder, name) for name in ("a.stasis", "b.stasis"))
        with guestvm.run(folder, "--rng", "--track-dirty", "--hugepages", "2M", "--disk",
                         "id=d,path=" + os.path.join(folder, "disk.img"), cmdline=GUEST + DISK) as vm:
            vm.wait_count(3)
            tap.true(not huge_pages(16), "the pool is not used")
            vm.save(first)
            vm.wait_count(guestvm.last_count(vm.log()) + 3)
            least = guestvm.last_count(vm.log())
            told = vm.save(second, "--diff")
            tap.true(told["data_bytes"] < 8 << 20, "a diff of %d bytes" % told["data_bytes"])
            vm.wait_count(least + 10)
            guestvm.check_log(vm.log())
            sums = dict(guestvm.counts(vm.log()))
            vm.kill()
        for kind in ("2M", "thp", "none"):
            restore_and_check(folder, second, sums, least, "--hugepages", kind)


@tap.case
def a_pool_of_huge_pages_that_is_too_small_is_said_to_be():
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        done = guestvm.stasis("run", "--kernel", tap.build("guest", "stasis-guest.bin"), "--memory", "64G",
                              "--hugepages", "2M", "--serial", "none", "--json", check=False)
        tap.equal(done.returncode, 1, "exit status")
        tap.true(b"OutOfMemory" in done.stdout and b"nr_hugepages" in done.stdout, done.stdout)
        tap.equal(os.listdir(folder), [], "files left behind")


tap.main()
