#!/usr/bin/python3
"""Bad input to `stasis run` and `stasis restore`: each ends with exit 1, under its stable name, and
leaves nothing behind.

Every case runs in a folder of its own, which must hold afterwards what it held before: no socket,
no file, and the process has ended. Needs /dev/kvm, as most of this is only found out on the way to
a VM.
"""

import contextlib
import os
import shutil
import struct

import clihelp
import tap
from vm import guestvm

GUEST = ("guest", "stasis-guest.bin")
MIB = 1 << 20


def kvm_case(function):
    def checked():
        guestvm.need_kvm()
        with tap.temp_dir() as folder:
            function(folder)
    checked.__name__ = function.__name__
    return tap.case(checked)


def ends(command, words, code, folder, fmt=None):
    """A failure that leaves the folder as it was, both sockets gone. The message."""
    with clihelp.left_clean(folder):
        return clihelp.failed(code, command, *words, "--api-socket",
                              os.path.join(folder, "api.sock"),
                              "--serial", "socket:" + os.path.join(folder, "serial.sock"), fmt=fmt)


def run_ends(folder, code, *words, kernel=None, memory="32M"):
    return ends("run", ["--kernel", kernel or tap.build(*GUEST), "--memory", memory, *words], code,
                folder)


def restore_ends(folder, code, *words, fmt=None):
    return ends("restore", words, code, folder, fmt)


# --- the kernel -----------------------------------------------------------------------------------


def flat(load_gpa=0x200000, entry_gpa=0x200020, memory_size=0x10000, size=0x1000):
    return struct.pack("<8sQQQ", b"STFLAT1\0", load_gpa, entry_gpa,
                       memory_size).ljust(size, b"\xf4")


def elf(e_phoff=64, e_phnum=1, p_type=1, p_offset=0x1000, p_paddr=0x200000, p_filesz=0x1000,
        p_memsz=0x1000, machine=62, kind=2, size=0x2000):
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", kind, machine, 1, 0x200000,
                       e_phoff, 0,
                       0, 64, 56, e_phnum, 0, 0, 0)
    program = struct.pack("<IIQQQQQQ", p_type, 7, p_offset, p_paddr, p_paddr, p_filesz, p_memsz,
                          0x1000)
    return (head + program).ljust(size, b"\xf4")


def bzimage(size=0x3000, setup_sects=3, version=0x20c, xloadflags=1, header=b"HdrS", boot=0xaa55):
    image = bytearray(size)
    struct.pack_into("<B", image, 0x1f1, setup_sects)
    struct.pack_into("<H", image, 0x1fe, boot)
    struct.pack_into("<H", image, 0x200, 0x66eb)
    image[0x202:0x206] = header
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<H", image, 0x236, xloadflags)
    return bytes(image)


NO_KERNELS = {
    "an_empty_file": b"",
    "a_text_file": b"vmlinuz? no.\n" * 1000,
    "zeros": bytes(100000),
    "a_flat_guest_cut_in_its_header": flat()[:31],
    "a_flat_guest_beyond_the_end_of_ram": flat(load_gpa=1 << 32, entry_gpa=(1 << 32) + 32),
    "a_flat_guest_whose_end_wraps_around": flat(memory_size=(1 << 64) - 4096),
    "a_flat_guest_larger_than_its_memory": flat(memory_size=16),
    "a_flat_guest_with_its_entry_elsewhere": flat(entry_gpa=0x100),
    "a_bzimage_cut_in_its_header": bzimage()[:0x220],
    "a_bzimage_that_is_all_header": bzimage(setup_sects=255),
    "a_bzimage_without_a_64_bit_entry": bzimage(xloadflags=0),
    "a_bzimage_of_an_old_protocol": bzimage(version=0x205),
    "an_elf_without_a_pvh_note": elf(),
    "an_elf_cut_in_its_program_headers": elf()[:100],
    "an_elf_whose_program_headers_are_beyond_its_end": elf(e_phoff=1 << 40),
    "an_elf_with_65535_program_headers": elf(e_phnum=65535),
    "an_elf_without_program_headers": elf(e_phnum=0),
    "an_elf_of_another_machine": elf(machine=183),
    "an_elf_whose_note_is_beyond_its_end": elf(p_type=4, p_offset=(1 << 64) - 16),
}


def check_no_kernel(content):
    guestvm.need_kvm()
    with tap.temp_dir() as folder:
        kernel = clihelp.write(os.path.join(folder, "kernel"), content)
        run_ends(folder, "BadKernel", kernel=kernel)


for name, content in NO_KERNELS.items():
    tap.case_for(name + "_is_no_kernel", check_no_kernel, content)


@kvm_case
def a_kernel_that_is_not_there_is_not_found(folder):
    run_ends(folder, "NotFound", kernel=os.path.join(folder, "none"))


@kvm_case
def a_kernel_that_is_no_regular_file_is_refused_at_once(folder):
    fifo = os.path.join(folder, "fifo")
    os.mkfifo(fifo)
    for kernel in (folder, fifo, "/dev/zero"):
        run_ends(folder, "NotRegularFile", kernel=kernel)


@kvm_case
def an_empty_kernel_path_is_an_invalid_argument(folder):
    with clihelp.left_clean(folder):
        clihelp.failed("InvalidArgument", "run", "--serial", "none", "--kernel", "")


@kvm_case
def a_kernel_larger_than_ram_is_bad(folder):
    run_ends(folder, "BadKernel", memory="2M")


@kvm_case
def a_bad_initrd_is_named(folder):
    # A flat guest may have one like any other kernel.
    tap.true("initrd" in run_ends(folder, "NotFound", "--initrd", os.path.join(folder, "none")),
             "name")
    run_ends(folder, "NotRegularFile", "--initrd", folder)
    large = os.path.join(folder, "large")
    with open(large, "wb") as file:
        file.truncate(64 * MIB)
    tap.true("initrd" in run_ends(folder, "BadKernel", "--initrd", large), "name")


@kvm_case
def a_command_line_that_is_too_long_is_an_invalid_argument(folder):
    run_ends(folder, "InvalidArgument", "--cmdline", "x" * 2048)


# --- the machine ----------------------------------------------------------------------------------


@kvm_case
def memory_out_of_range_is_an_invalid_argument(folder):
    for memory in ("0", "4096", "1023K", "1048577", "65537M", "65G", "16777215T",
                   "18446744073709551615"):
        run_ends(folder, "InvalidArgument", memory=memory)


@kvm_case
def an_instance_id_out_of_range_is_an_invalid_argument(folder):
    for name in ("", "a b", "a/b", "x" * 64, "\xe9"):
        run_ends(folder, "InvalidArgument", "--id", name)


@kvm_case
def a_serial_target_that_is_none_is_refused(folder):
    for target, code in (("", "InvalidArgument"), ("tty", "InvalidArgument"),
                         ("file:", "InvalidArgument"), ("file:/none/log", "NotFound"),
                         ("file:" + folder, "NotRegularFile"),
                         ("socket:" + "x" * 108, "InvalidArgument"),
                         ("socket:" + tap.build(*GUEST), "Exists")):
        with clihelp.left_clean(folder):
            clihelp.failed(code, "run", "--kernel", tap.build(*GUEST), "--serial", target)


# --- disks ----------------------------------------------------------------------------------------


def make_disk(folder, name, size=MIB):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.truncate(size)
    return path


@kvm_case
def a_disk_that_is_none_is_refused_by_its_id(folder):
    fifo = os.path.join(folder, "fifo")
    os.mkfifo(fifo)
    for path, code in ((os.path.join(folder, "none"), "DiskMismatch"), (folder, "NotRegularFile"),
                       (fifo, "NotRegularFile"), ("/dev/zero", "NotRegularFile"),
                       (make_disk(folder, "empty", 0), "DiskMismatch"),
                       (make_disk(folder, "tiny", 511), "DiskMismatch")):
        message = run_ends(folder, code, "--disk", "id=data,path=" + path)
        tap.true("'data'" in message, message)
    run_ends(folder, "InvalidArgument", "--disk", "id=a.b,path=" + make_disk(folder, "disk"))


@kvm_case
def a_disk_that_another_machine_writes_is_busy(folder):
    disk = make_disk(folder, "disk")
    with guestvm.run(folder, "--disk", "id=a,path=" + disk, cmdline="period=40") as vm:
        vm.wait_count(1)
        for mode in ("", ",readonly"):
            ended = clihelp.run("run", "--kernel", tap.build(*GUEST), "--serial", "none", "--disk",
                                "id=b,path=%s%s" % (disk, mode), "--json")
            tap.true('"error":"Busy"' in ended.out and "'b'" in ended.out, ended)
        vm.wait_count(guestvm.last_count(vm.log()) + 2)
        guestvm.check_log(vm.log())
    # One machine that has it twice is no better off.
    run_ends(folder, "Busy", "--disk", "id=a,path=" + disk, "--disk", "id=b,path=" + disk)


@kvm_case
def a_read_only_disk_is_shared(folder):
    disk = "path=%s,readonly" % make_disk(folder, "disk")
    with guestvm.run(folder, "--disk", "id=a," + disk, "--disk", "id=b," + disk) as first, \
            guestvm.run(folder, "--disk", "id=a," + disk) as second:
        for vm in (first, second):
            vm.wait_count(2)
            guestvm.check_log(vm.log())


# --- snapshots ------------------------------------------------------------------------------------


@contextlib.contextmanager
def saved(folder):
    """A snapshot of a guest with two disks, and where the disks are."""
    disks = [make_disk(folder, name) for name in ("disk-a", "disk-b")]
    snapshot = os.path.join(folder, "a.stasis")
    with guestvm.run(folder, "--disk", "id=a,path=" + disks[0], "--disk",
                     "id=b,path=%s,readonly" % disks[1], cmdline="period=40") as vm:
        vm.wait_count(2)
        vm.save(snapshot)
        vm.kill()
    os.unlink(vm.socket)
    yield snapshot, disks


@kvm_case
def what_is_no_snapshot_is_refused_by_name(folder):
    fifo = os.path.join(folder, "fifo")
    os.mkfifo(fifo)
    for path, code in ((os.path.join(folder, "none"), "NotFound"), (folder, "NotRegularFile"),
                       (fifo, "NotRegularFile"), ("/dev/zero", "NotRegularFile"),
                       (clihelp.write(os.path.join(folder, "empty")), "BadMagic"),
                       (tap.build(*GUEST), "BadMagic")):
        restore_ends(folder, code, path)


@kvm_case
def a_snapshot_of_another_machine_is_unsupported(folder):
    for name in ("v1.0-x86_64-xxh3.stasis", "v1.0-arm64-xxh3.stasis"):
        restore_ends(folder, "Unsupported", clihelp.golden(name), fmt="native")


@kvm_case
def a_damaged_snapshot_is_refused_under_its_format(folder):
    with saved(folder) as (snapshot, _):
        size = os.path.getsize(snapshot)
        for at, code in ((8, "UnsupportedVersion"), (70, "DigestMismatch"),
                         (size - 100, "DigestMismatch")):
            path = os.path.join(folder, "damaged")
            shutil.copyfile(snapshot, path)
            flip(path, at)
            restore_ends(folder, code, path, fmt="native")
        for cut in (4095, 2 * MIB, size - 1):
            shutil.copyfile(snapshot, path)
            os.truncate(path, cut)
            restore_ends(folder, "Truncated", path, fmt="native")


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte, = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0xff]))


@kvm_case
def damaged_memory_is_found_where_that_was_asked_for(folder):
    with saved(folder) as (snapshot, _):
        with open(snapshot, "r+b") as file:
            at = os.lseek(file.fileno(), 2 * MIB, os.SEEK_DATA)
        flip(snapshot, at)
        message = restore_ends(folder, "DigestMismatch", "--verify", snapshot, fmt="native")
        tap.true("memory" in message, message)


@kvm_case
def a_disk_that_is_missing_or_another_is_named_with_its_id(folder):
    with saved(folder) as (snapshot, disks):
        os.rename(disks[1], disks[1] + ".moved")
        tap.true("'b'" in restore_ends(folder, "DiskMismatch", snapshot, fmt="native"), "missing")
        os.truncate(disks[0], 2 * MIB)
        message = restore_ends(folder, "DiskMismatch", snapshot, "--disk", "b=%s.moved" % disks[1],
                               fmt="native")
        for word in ("'a'", str(MIB), str(2 * MIB)):
            tap.true(word in message, message)
        os.truncate(disks[0], MIB)
        message = restore_ends(folder, "DiskMismatch", snapshot, "--disk", "c=%s" % disks[0],
                               "--disk",
                               "b=%s.moved" % disks[1], fmt="native")
        tap.true("'c'" in message, message)
        restore_ends(folder, "NotRegularFile", snapshot, "--disk", "b=" + folder, fmt="native")
        with guestvm.restore(folder, snapshot, "--disk", "b=%s.moved" % disks[1]) as vm:
            vm.wait_count(5)  # and with all its disks it does go on


@kvm_case
def a_restored_guest_whose_disk_is_in_use_is_busy(folder):
    with saved(folder) as (snapshot, _):
        with guestvm.restore(folder, snapshot) as vm:
            vm.wait_count(4)
            ended = clihelp.run("restore", snapshot, "--serial", "none", "--json")
            tap.true(ended.status == 1 and '"error":"Busy"' in ended.out, ended)
            vm.wait_count(guestvm.last_count(vm.log()) + 2)


@kvm_case
def a_restore_that_cannot_be_controlled_never_runs(folder):
    with saved(folder) as (snapshot, disks):
        with open(disks[0], "rb") as file:
            before = file.read()
        log = os.path.join(folder, "log")
        clihelp.failed("InvalidArgument", "restore", snapshot, "--serial", "file:" + log,
                       "--api-socket", "x" * 200, fmt="native")
        tap.true(not os.path.exists(log) or not os.path.getsize(log),
                 "the guest has said something")
        with open(disks[0], "rb") as file:
            tap.true(file.read() == before, "the guest has written to its disk")


tap.main()
