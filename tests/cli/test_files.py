#!/usr/bin/python3
"""`stasis info` and `stasis verify` on snapshots that are sound, damaged, or none at all.

Golden files stand for sound ones, so no KVM is needed; damage is done to copies, at places that the
file's own section table names (doc/format/native.md). Every refusal has its stable name.
"""

import json
import os
import pty
import re
import shutil
import struct
import subprocess

import clihelp
import tap

GOLDEN = "v1.0-x86_64-xxh3.stasis"
SECTIONS = {1: "memory", 2: "machine", 3: "layout", 4: "meta", 5: "digests", 6: "digest index"}
VERIFY_KEYS = ["ok", "format", "error", "message"]
INFO_KEYS = ["ok", "format", "version", "id", "arch", "vcpus", "memory", "devices", "host", "created",
             "writer", "label", "digest", "file_bytes", "kind", "ancestors", "chain"]
MEMORY_KEYS = ["bytes", "data_bytes", "zero_bytes", "regions"]
HOST_KEYS = ["hypervisor", "kernel", "cpu_vendor", "cpu_model", "cpu_signature", "tsc_khz"]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def sections(content):
    """name -> (file offset, size), from the section table."""
    count, table = struct.unpack_from("<I", content, 28)[0], struct.unpack_from("<Q", content,
                                                                                40)[0]
    found = {}
    for at in range(table, table + 128 * count, 128):
        kind, = struct.unpack_from("<I", content, at)
        found[SECTIONS[kind]] = struct.unpack_from("<QQ", content, at + 8)
    return found


def both(code, path, fmt=None):
    """Both commands refuse the file, and under the same name. verify's message."""
    clihelp.failed(code, "info", path, fmt=fmt)
    return clihelp.failed(code, "verify", path, fmt=fmt)


# --- sound files ----------------------------------------------------------------------------------


def check_golden(name, arch, vcpus, digest, label):
    path = clihelp.golden(name)
    told = clihelp.answer("info", path)
    tap.equal(list(told), INFO_KEYS, "keys")
    tap.equal(list(told["memory"]), MEMORY_KEYS, "keys of memory")
    tap.equal(list(told["host"]), HOST_KEYS, "keys of host")
    for region in told["memory"]["regions"]:
        tap.equal(list(region), ["gpa", "size"], "keys of a region")
    for device in told["devices"]:
        tap.equal(list(device), ["kind", "id", "version"], "keys of a device")
    tap.equal([told[key]
               for key in ("ok", "format", "version", "arch", "vcpus", "digest", "label")],
              [True, "native", "1.0", arch, vcpus, digest, label], "what it is")
    tap.equal(told["id"], read(path)[64:96].hex(), "id: the root in the superblock")
    tap.equal(told["file_bytes"], os.path.getsize(path), "file size")
    memory = told["memory"]
    tap.equal(memory["data_bytes"] + memory["zero_bytes"], memory["bytes"], "data and zero")
    tap.equal(sum(region["size"] for region in memory["regions"]), memory["bytes"], "regions")
    tap.true(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["created"]), "created")

    shown = clihelp.done("info", path).out
    for word in (told["id"], arch, digest, told["created"], "native 1.0", label,
                 "%d bytes" % memory["bytes"]):
        tap.true(word in shown, "%r is not in:\n%s" % (word, shown))

    tap.equal(clihelp.answer("verify", path),
              {"ok": True, "format": "native", "error": None, "message": None}, "verdict")
    tap.true(re.fullmatch(re.escape(path) + r": good, \d+ blocks and \d+ bytes checked\n",
                          clihelp.done("verify", path).out), "verdict as text")


for name, arch, vcpus, digest, label in (
        ("v1.0-x86_64-xxh3", "x86_64", 2, "xxh3-128", "golden"),
        ("v1.0-x86_64-sha256", "x86_64", 1, "sha256", ""),
        ("v1.0-arm64-xxh3", "arm64", 2, "xxh3-128", "größe")):
    tap.case_for("info_and_verify_tell_all_of_" + name, check_golden, name + ".stasis", arch, vcpus,
                 digest, label)


@tap.case
def a_snapshot_is_found_by_content_and_not_by_name():
    with tap.temp_dir() as folder:
        path = os.path.join(folder, "holiday.jpeg")
        shutil.copyfile(clihelp.golden(GOLDEN), path)
        tap.equal(clihelp.answer("verify", path)["format"], "native", "format")


@tap.case
def a_name_of_any_bytes_is_taken_and_shown_safely():
    with tap.temp_dir() as folder:
        path = os.path.join(folder.encode(), b"snap\x1b[31m\xff")
        shutil.copyfile(clihelp.golden(GOLDEN), path)
        ended = clihelp.done("verify", path)
        tap.true("/snap?[31m?: good" in ended.out, ended.out)


# --- damaged files --------------------------------------------------------------------------------


def check_flip(name, place):
    """One bit flipped in a section: verify fails and names the section."""
    content = bytearray(read(clihelp.golden(GOLDEN)))
    file_off, size = sections(content)[name]
    at = file_off + {"first": 0, "middle": size // 2, "last": size - 1}[place]
    content[at] ^= 0x10
    with tap.temp_dir() as folder:
        path = clihelp.write(os.path.join(folder, "damaged.stasis"), content)
        ended = clihelp.run("verify", "--json", path)
        told = json.loads(ended.out)
        tap.equal(ended.status, 1, "exit status")
        tap.equal(list(told), VERIFY_KEYS, "keys")
        tap.equal((told["ok"], told["format"], told["error"]), (False, "native", "DigestMismatch"),
                  "verdict")
        tap.true(name in told["message"], "section %s is not named: %r" % (name, told["message"]))
        ended = clihelp.run("verify", path)
        tap.equal(ended.status, 1, "exit status")
        tap.equal(ended.err.count("\n"), 1, "lines on stderr")
        if name == "memory":
            block = (at - file_off) // 65536
            tap.true(re.search("^bad: memory block %d, file offset 0x%x, [0-9]+ bytes, guest 0x"
                               % (block, file_off + block * 65536), ended.out, re.M), ended.out)


for name in SECTIONS.values():
    for place in ("first", "middle", "last"):
        tap.case_for("a_bit_flipped_at_the_%s_byte_of_%s_is_found_and_named"
                     % (place, name.replace(" ", "_")), check_flip, name, place)


@tap.case
def every_bad_block_is_listed_up_to_a_limit_and_the_rest_counted():
    content = bytearray(read(clihelp.golden(GOLDEN)))
    file_off, size = sections(content)["memory"]
    blocks = (size + 65535) // 65536
    bad = [n for n in range(blocks) if n % 2 == 0]
    for block in bad:
        content[file_off + block * 65536] ^= 1
    with tap.temp_dir() as folder:
        path = clihelp.write(os.path.join(folder, "damaged.stasis"), content)
        shown = clihelp.run("verify", path).out
    listed = [int(n) for n in re.findall(r"^bad: memory block (\d+), ", shown, re.M)]
    tap.equal(listed, bad[:16], "blocks listed")
    tap.equal("bad: %d more" % (len(bad) - 16) in shown, len(bad) > 16, "the rest")


@tap.case
def info_does_not_read_memory_and_verify_does():
    content = bytearray(read(clihelp.golden(GOLDEN)))
    content[sections(content)["memory"][0]] ^= 1
    with tap.temp_dir() as folder:
        path = clihelp.write(os.path.join(folder, "damaged.stasis"), content)
        tap.equal(clihelp.answer("info", path)["ok"], True, "info of bad memory")
        clihelp.failed("DigestMismatch", "verify", path, fmt="native")


@tap.case
def a_newer_major_version_is_refused_by_name():
    content = bytearray(read(clihelp.golden(GOLDEN)))
    struct.pack_into("<H", content, 8, 2)
    with tap.temp_dir() as folder:
        message = both("UnsupportedVersion", clihelp.write(os.path.join(folder, "a"), content),
                       fmt="native")
        tap.true("2" in message, message)


@tap.case
def a_file_cut_anywhere_is_truncated():
    content = read(clihelp.golden(GOLDEN))
    edges = {8, 4095, 4096, len(content) - 1}
    for file_off, size in sections(content).values():
        edges |= {file_off, file_off + size}
    edges.discard(len(content))
    with tap.temp_dir() as folder:
        for size in sorted(edges):
            path = clihelp.write(os.path.join(folder, "cut"), content[:size])
            both("Truncated", path, fmt="native")


# --- files that are none --------------------------------------------------------------------------


@tap.case
def a_file_that_is_not_there_is_not_found():
    tap.true("/nowhere/a.stasis" in both("NotFound", "/nowhere/a.stasis"), "the path is not named")


@tap.case
def an_empty_name_is_not_found():
    both("NotFound", "")


@tap.case
def a_folder_a_fifo_a_socket_and_a_device_are_not_regular_files():
    with tap.temp_dir() as folder:
        fifo = os.path.join(folder, "fifo")
        os.mkfifo(fifo)
        os.symlink(fifo, os.path.join(folder, "link"))
        for path in (folder, fifo, os.path.join(folder, "link"), "/dev/zero"):
            both("NotRegularFile", path)


@tap.case
def an_empty_and_a_foreign_file_are_bad_magic():
    with tap.temp_dir() as folder:
        for content in (b"", b"\x89STASIS", b"#!/bin/sh\n", bytes(10000), os.urandom(10000)):
            both("BadMagic", clihelp.write(os.path.join(folder, "file"), content))


@tap.case
def a_file_without_permission_is_denied():
    with tap.temp_dir() as folder:
        path = clihelp.write(os.path.join(folder, "file"), b"secret")
        os.chmod(path, 0)
        os.chmod(folder, 0o755)
        if os.geteuid() != 0:
            both("PermissionDenied", path)
            return
        tap.need(shutil.which("setpriv"), "setpriv is not installed")
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
        tap.need(subprocess.run([*words, *clihelp.command("--version")], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, check=False).returncode == 0,
                 "another user cannot run the command under test")
        ended = subprocess.run([*words, *clihelp.command("info", "--json", path)], check=False,
                               stdout=subprocess.PIPE, timeout=clihelp.HANG_SECONDS)
        tap.equal(ended.returncode, 1, "exit status")
        tap.equal(json.loads(ended.stdout)["error"], "PermissionDenied", "error")


# --- the progress line ----------------------------------------------------------------------------


def verify_on_terminal(path):
    """What `stasis verify` writes to a terminal on stderr, and its exit status."""
    master, slave = pty.openpty()
    with subprocess.Popen(clihelp.command("verify", path), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=slave) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:  # the last one at the other end has gone
                break
            shown += data
        os.close(master)
        return shown, process.wait(clihelp.HANG_SECONDS)


@tap.case
def short_work_shows_no_progress_line():
    tap.equal(verify_on_terminal(clihelp.golden(GOLDEN)), (b"", 0), "terminal and exit status")


tap.main()
