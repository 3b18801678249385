#!/usr/bin/python3
"""nested.py - run a script where /dev/kvm is a full KVM, on any host.

QEMU emulates (TCG, no /dev/kvm needed) an AMD machine with SVM; Debian's cloud kernel boots there
with an initramfs made here; its kvm-amd gives a /dev/kvm that runs unmodified Linux guests.

    nested.py --kernels DIR --script round-trip.sh --bin build/stasis --add k/vmlinuz:/guest/vmlinuz

The script runs under busybox sh in a fresh /tmp (tmpfs) with the arguments after "--". What it
prints on stdout and stderr goes to our stdout and to --log as it comes; the kernel's console goes
to LOG.console. nested.py exits with the script's own status; 124 when the time is up, 125 when
the machine did not come up or died. DIR is what fetch-kernels.sh made.
"""

import argparse
import os
import re
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
EXIT_TIMEOUT = 124
EXIT_NO_MACHINE = 125
EXIT_MARKER = re.compile(rb"^NESTED-EXIT (\d+)\r?$", re.MULTILINE)

# ttyS0 is the kernel's, ttyS1 the script's: a kernel message never lands inside a script's line.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /tmp /run
mount -t devpts devpts /dev/pts
mount -t tmpfs -o size=75% tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
export PATH=/bin:/usr/bin HOME=/tmp LD_LIBRARY_PATH=@LIBRARY_PATH@ @ENVIRONMENT@
ip link set lo up
for module in /lib/modules/*.ko; do insmod "$module"; done
[ -c /dev/kvm ] || echo "nested: /dev/kvm is missing" > /dev/ttyS1
cd /tmp
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 -opost
setsid /bin/busybox sh /script @ARGUMENTS@
echo "NESTED-EXIT $?"
sync
poweroff -f
"""


def shell_quote(text):
    return "'" + text.replace("'", "'\\''") + "'"


class Initramfs:
    """A cpio archive (newc) written straight to a file: no staging folder, no root needed."""

    def __init__(self, file):
        self.file = file
        self.seen = set()
        self.inode = 0

    def _entry(self, name, mode, size):
        self.inode += 1
        encoded = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(encoded), 0)
        self.file.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self._pad()

    def _pad(self):
        self.file.write(b"\0" * (-self.file.tell() % 4))

    def folder(self, name):
        name = name.strip("/")
        if name == "" or name in self.seen:
            return
        self.folder(os.path.dirname(name))
        self.seen.add(name)
        self._entry(name, stat.S_IFDIR | 0o755, 0)

    def _new_name(self, name):
        name = name.strip("/")
        if name in self.seen:
            return None
        self.folder(os.path.dirname(name))
        self.seen.add(name)
        return name

    def data(self, name, content, mode=0o755):
        name = self._new_name(name)
        if name is not None:
            self._entry(name, stat.S_IFREG | mode, len(content))
            self.file.write(content)
            self._pad()

    def copy(self, source, name):
        """A file, or a folder with all that is in it. Symbolic links are followed."""
        if os.path.isdir(source):
            self.folder(name)
            for child in sorted(os.listdir(source)):
                self.copy(os.path.join(source, child), name + "/" + child)
            return
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        with open(source, "rb") as file:
            self.data(name, file.read(), mode)

    def end(self):
        self._entry("TRAILER!!!", 0, 0)


def libraries_of(path):
    """The shared libraries a program needs, dynamic loader included; none for a static one."""
    result = subprocess.run(["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            universal_newlines=True, check=False)
    if result.returncode != 0:
        return []
    missing = re.findall(r"(\S+) => not found", result.stdout)
    if missing:
        raise LookupError("%s needs %s, which ldd does not find" % (path, ", ".join(missing)))
    # "\tNAME => PATH (0x...)" or "\tPATH (0x...)"; paths may hold blanks.
    return re.findall(r"^\t(?:\S+ => )?(/.+) \(0x[0-9a-f]+\)$", result.stdout, re.MULTILINE)


def build_initramfs(options, file):
    archive = Initramfs(file)
    for name in ("dev", "proc", "sys", "tmp", "run", "etc", "mnt", "root", "usr/bin"):
        archive.folder(name)
    archive.copy(options.busybox, "bin/busybox")
    archive.data("etc/passwd", b"root:x:0:0:root:/tmp:/bin/sh\n", 0o644)
    archive.data("etc/group", b"root:x:0:\n", 0o644)

    modules = subprocess.run(
        ["/usr/bin/python3", os.path.join(HERE, "module-order.py"),
         os.path.join(options.kernels, "outer/modules"), "kvm-amd"] + options.module,
        stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout.splitlines()
    for number, module in enumerate(modules, 10):
        archive.copy(module, "lib/modules/%d-%s" % (number, os.path.basename(module)))

    # The system's libraries keep their paths, so the loader's built-in search finds most. Those of a
    # build folder may lie anywhere (under /tmp, say, which is mounted over): they get a new home.
    library_folders = []
    for binary in options.bin:
        archive.copy(binary, "bin/" + os.path.basename(binary))
        for library in libraries_of(binary):
            own = not library.startswith(("/lib", "/usr/"))
            place = "/lib/own/" + os.path.basename(library) if own else library
            archive.copy(library, place)
            folder = os.path.dirname(place)
            if folder not in library_folders:
                library_folders.append(folder)
    for pair in options.add:
        source, _, destination = pair.rpartition(":")
        if not source or not destination.startswith("/"):
            raise ValueError("--add %s: expected SOURCE:/DESTINATION" % pair)
        archive.copy(source, destination)
    archive.copy(options.script, "script")

    init = INIT.replace("@LIBRARY_PATH@", ":".join(library_folders))
    init = init.replace("@ARGUMENTS@", " ".join(shell_quote(a) for a in options.arguments))
    init = init.replace("@ENVIRONMENT@", " ".join(
        name + "=" + shell_quote(value)
        for name, _, value in (pair.partition("=") for pair in options.env)))
    archive.data("init", init.encode())
    archive.end()
    file.flush()


def qemu_command(options, initramfs, console):
    return [
        options.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "q35,hpet=off", "-accel", "tcg,thread=multi,tb-size=%d" % options.tb_size,
        "-cpu", options.cpu, "-smp", str(options.smp), "-m", options.mem,
        "-kernel", os.path.join(options.kernels, "outer/vmlinuz"), "-initrd", initramfs,
        "-append", options.cmdline,
        "-chardev", "file,id=console,path=" + console, "-serial", "chardev:console",
        "-serial", "stdio",
    ]


class Relay:
    """The script's output on its way to our stdout and the log; watches for the exit marker."""

    def __init__(self, log):
        self.log = log
        self.pending = b""
        self.status = None

    def feed(self, data):
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            marker = EXIT_MARKER.match(line)
            if marker:
                self.status = int(marker.group(1))
            else:
                self.write(line.rstrip(b"\r") + b"\n")

    def write(self, data):
        os.write(1, data)
        if self.log is not None:
            self.log.write(data)
            self.log.flush()

    def end(self):
        if self.pending:
            self.write(self.pending + b"\n")
            self.pending = b""


def stop(qemu):
    qemu.terminate()
    try:
        qemu.wait(timeout=5)
    except subprocess.TimeoutExpired:
        qemu.kill()
        qemu.wait()


def run(options, initramfs, console, log):
    """Boots the machine and returns (exit status, sentence or None)."""
    deadline = time.monotonic() + options.timeout
    qemu = subprocess.Popen(qemu_command(options, initramfs, console),
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    relay = Relay(log)
    try:
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                relay.end()
                return EXIT_TIMEOUT, "no end after %d s" % options.timeout
            if not select.select([qemu.stdout], [], [], min(remaining, 1))[0]:
                continue
            data = os.read(qemu.stdout.fileno(), 65536)
            if not data:
                break
            relay.feed(data)
        relay.end()
        if relay.status is None:
            return EXIT_NO_MACHINE, "the machine ended before the script did"
        return relay.status, None
    finally:
        stop(qemu)


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="nested.py", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__.split("\n", 2)[2], usage="nested.py --kernels DIR --script FILE [options] [-- ARG...]")
    option = parser.add_argument
    option("--kernels", required=True, metavar="DIR", help="what fetch-kernels.sh made")
    option("--script", required=True, metavar="FILE", help="busybox sh script to run inside")
    option("--bin", action="append", default=[], metavar="PATH",
           help="a program, put into /bin with its shared libraries")
    option("--add", action="append", default=[], metavar="SRC:DEST", help="a file or folder")
    option("--module", action="append", default=[], metavar="NAME",
           help="one more kernel module to load (loop, xfs, ...)")
    option("--env", action="append", default=[], metavar="NAME=VALUE")
    option("--timeout", type=int, default=600, metavar="SECONDS", help="for all of it (600)")
    option("--mem", default="3G", help="memory of the machine (3G)")
    # With two, QEMU 7.2 loses interrupts of nested guests now and then, or delivers one while the
    # global interrupt flag is clear: the guest stands still, or the outer kernel dies.
    option("--smp", type=int, default=1, help="its CPUs (1; more are not reliable, see source)")
    option("--log", metavar="FILE", help="also write the output here, the console to FILE.console")
    option("--verbose", action="store_true", help="say on stderr how long the parts took")
    option("--qemu", default="qemu-system-x86_64")
    option("--busybox", default="/bin/busybox")
    option("--cpu", default="max,+svm,-la57")
    option("--tb-size", type=int, default=512, metavar="MIB", help="translation cache (512)")
    option("--cmdline", default="console=ttyS0 panic=-1 mitigations=off nokaslr tsc=reliable "
           "no5lvl audit=0 random.trust_cpu=on")
    option("arguments", nargs="*", metavar="ARG")
    return parser.parse_args(argv)


def main(argv):
    options = parse(argv)
    start = time.monotonic()
    # Killed from outside, we still take QEMU along and remove the private folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_NO_MACHINE))
    with tempfile.TemporaryDirectory(prefix="nested-") as work:
        initramfs = os.path.join(work, "initramfs")
        console = options.log + ".console" if options.log else os.path.join(work, "console")
        try:
            with open(initramfs, "wb") as file:
                build_initramfs(options, file)
        except (OSError, LookupError, ValueError, subprocess.SubprocessError) as error:
            print("nested: %s" % error, file=sys.stderr)
            return EXIT_NO_MACHINE
        built = time.monotonic()
        log = open(options.log, "wb") if options.log else None
        status, trouble = run(options, initramfs, console, log)
        if trouble:
            print("nested: %s; the console's end:" % trouble, file=sys.stderr)
            with open(console, "rb") as file:
                tail = file.read()[-3000:].decode(errors="replace").replace("\r", "")
            print("\n".join("nested: | " + line for line in tail.split("\n")), file=sys.stderr)
        if options.verbose:
            print("nested: initramfs %.1f s, machine %.1f s, status %d" %
                  (built - start, time.monotonic() - built, status), file=sys.stderr)
        return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
