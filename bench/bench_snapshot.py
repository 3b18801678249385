#!/usr/bin/python3
"""How long do save and restore take, and does it grow with RAM?

    bench_snapshot.py [--json FILE] [SIZE...]        sizes such as 128M 1G 8G (the default)

Small guests (guest/) with a tenth of their RAM in use, one vCPU, /dev/kvm. For each size, all in
this run on this machine:

    save      pause and total of `stasis save`, file bytes; bound: the same bytes written and synced
    restore   process start to the first KVM_RUN; within the process from stasis_open() on; bound: a
              bare KVM restore of the same file (bench/kvm_bound.c), and the start of a process

Medians of SAVES and RESTORES runs after warm-ups, with minimum and maximum. STASIS_BUILD says what to
measure; the files lie in TMPDIR.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

BUILD = os.environ.get("STASIS_BUILD", "build")
STASIS = os.path.join(BUILD, "src", "cli", "stasis")
GUEST = os.path.join(BUILD, "guest", "stasis-guest.bin")
BOUND = os.path.join(BUILD, "bench", "kvm_bound")

SAVES = 7
RESTORES = 21
WARM_UPS = 3
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_of(text):
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


def spread(values):
    """Median, minimum, maximum."""
    return statistics.median(values), min(values), max(values)


def show(values, scale=1.0, unit="ms"):
    middle, low, high = spread(values)
    return "%.2f %s (%.2f-%.2f)" % (middle * scale, unit, low * scale, high * scale)


class Guest:
    """A small guest that runs, with a tenth of its RAM filled, in runs of 16 pages."""

    def __init__(self, folder, size):
        self.log = os.path.join(folder, "console")
        self.socket = os.path.join(folder, "socket")
        cmdline = "mem=all fill=%d fill-step=10 fill-run=16 fill-words=1 period=200" % (size // 10)
        self.process = subprocess.Popen(
            [STASIS, "run", "--kernel", GUEST, "--memory", str(size), "--cmdline", cmdline,
             "--serial", "file:" + self.log, "--api-socket", self.socket],
            stdin=subprocess.DEVNULL)
        while b"\ncount 2 " not in self.read():
            if self.process.poll() is not None:
                raise SystemExit("the guest ended: exit %d" % self.process.returncode)
            time.sleep(0.05)

    def read(self):
        try:
            with open(self.log, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def end(self):
        self.process.kill()
        self.process.wait()


def save_once(guest, path):
    begin = time.monotonic()
    done = subprocess.run([STASIS, "save", "--socket", guest.socket, "-o", path, "--json"],
                          stdout=subprocess.PIPE, check=True)
    report = json.loads(done.stdout)
    report["wall_us"] = (time.monotonic() - begin) * 1e6
    return report


def write_bound(path, size):
    """The same number of bytes, all data, written and synced: no save can be faster."""
    block = os.urandom(1 << 20)
    begin = time.monotonic()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    left = size
    while left > 0:
        left -= os.write(fd, block[:min(left, len(block))])
    os.fdatasync(fd)
    os.close(fd)
    elapsed = time.monotonic() - begin
    os.unlink(path)
    return elapsed * 1e6


def restore_once(snapshot):
    """Start a process, read its timings, end it."""
    read_end, write_end = os.pipe()
    begin = time.monotonic_ns()
    pid = os.posix_spawn(STASIS, [STASIS, "restore", snapshot, "--serial", "none", "--timings"],
                         os.environ, file_actions=[
                             (os.POSIX_SPAWN_DUP2, write_end, 2),
                             (os.POSIX_SPAWN_CLOSE, read_end)])
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        line = pipe.readline()
        os.kill(pid, signal.SIGTERM)
        pipe.read()
    os.waitpid(pid, 0)
    timings = json.loads(line)
    timings["process_us"] = (timings["first_run_ns"] - begin) / 1e3
    return timings


def process_bound():
    """Start of a process that loads the same libraries and does nothing."""
    begin = time.monotonic_ns()
    pid = os.posix_spawn(STASIS, [STASIS, "--version"], os.environ,
                         file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
    os.waitpid(pid, 0)
    return (time.monotonic_ns() - begin) / 1e3


def kvm_bounds(snapshot, size):
    done = subprocess.run([BOUND, snapshot, str(min(size, 3 << 30)), str(RESTORES + WARM_UPS)],
                          stdout=subprocess.PIPE, check=True)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    return [run["exited_us"] for run in runs[WARM_UPS:]]


def measure(size):
    with tempfile.TemporaryDirectory(prefix="stasis-bench-") as folder:
        snapshot = os.path.join(folder, "a.stasis")
        guest = Guest(folder, size)
        try:
            saves = [save_once(guest, snapshot) for _ in range(SAVES + 1)][1:]
        finally:
            guest.end()
        allocated = os.stat(snapshot).st_blocks * 512
        writes = [write_bound(os.path.join(folder, "bound"), allocated) for _ in range(3)]
        restores = [restore_once(snapshot) for _ in range(RESTORES + WARM_UPS)][WARM_UPS:]
        bounds = kvm_bounds(snapshot, size)
        starts = [process_bound() for _ in range(RESTORES + WARM_UPS)][WARM_UPS:]
    return {
        "memory_bytes": size,
        "data_bytes": saves[-1]["data_bytes"],
        "file_bytes": saves[-1]["file_bytes"],
        "allocated_bytes": allocated,
        "pause_us": [run["pause_us"] for run in saves],
        "save_us": [run["wall_us"] for run in saves],
        "memory_us": [run["memory_us"] for run in saves],
        "sync_us": [run["sync_us"] for run in saves],
        "write_bound_us": writes,
        "process_to_first_run_us": [run["process_us"] for run in restores],
        "open_to_first_run_us": [run["first_run_us"] for run in restores],
        "opened_us": [run["opened_us"] for run in restores],
        "created_us": [run["created_us"] for run in restores],
        "restored_us": [run["restored_us"] for run in restores],
        "kvm_bound_us": bounds,
        "process_bound_us": starts,
    }


def mib(size):
    return "%.1f MiB" % (size / (1 << 20))


def print_tables(results):
    print("| RAM | data | on disk | pause | save, total | of it memory | of it sync | bound: write + sync |")
    print("|---|---|---|---|---|---|---|---|")
    for run in results:
        print("| %s | %s | %s | %s | %s | %s | %s | %s |" % (
            mib(run["memory_bytes"]), mib(run["data_bytes"]), mib(run["allocated_bytes"]),
            show(run["pause_us"], 1e-3), show(run["save_us"], 1e-3), show(run["memory_us"], 1e-3),
            show(run["sync_us"], 1e-3), show(run["write_bound_us"], 1e-3)))
    print()
    print("| RAM | process start to first KVM_RUN | bound: process start | "
          "stasis_open to first KVM_RUN | opened | VM made | state in place | bound: bare KVM |")
    print("|---|---|---|---|---|---|---|---|")
    for run in results:
        print("| %s | %s | %s | %s | %s | %s | %s | %s |" % (
            mib(run["memory_bytes"]), show(run["process_to_first_run_us"], 1e-3),
            show(run["process_bound_us"], 1e-3), show(run["open_to_first_run_us"], 1e-3),
            show(run["opened_us"], 1e-3), show(run["created_us"], 1e-3),
            show(run["restored_us"], 1e-3), show(run["kvm_bound_us"], 1e-3)))


def machine():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        model = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    uname = os.uname()
    kind = subprocess.run([os.path.join(BUILD, "tests", "vm", "kvm_kind")],
                          stdout=subprocess.PIPE, check=False)
    return "%s, %d CPUs, Linux %s, KVM: %s" % (
        model[0] if model else uname.machine, os.cpu_count(), uname.release,
        kind.stdout.decode(errors="replace").strip().replace("\n", " "))


def main():
    arguments = sys.argv[1:]
    target = None
    if arguments[:1] == ["--json"]:
        target = arguments[1]
        arguments = arguments[2:]
    print("machine: " + machine())
    print("medians of %d saves and %d restores, (minimum-maximum), page cache warm\n" %
          (SAVES, RESTORES), flush=True)
    results = [measure(size_of(text)) for text in arguments or ["128M", "1G", "8G"]]
    print_tables(results)
    if target:
        with open(target, "w", encoding="ascii") as file:
            json.dump({"machine": machine(), "results": results}, file, indent=1)


main()
