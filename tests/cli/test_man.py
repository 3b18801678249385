#!/usr/bin/python3
"""The manual pages say what the commands do: the same options with the same arguments as --help,
every subcommand, every error name, every key of an answer; and their EXAMPLES work, as they are
printed.

An example is typed line by line, as a person would with two terminals: a line that runs a guest is
left running until the example's end, where a signal has to end it in order; any other line has to
succeed. Files that examples speak of are there. Those that run guests need /dev/kvm.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess

import clihelp
import tap
from vm import guestvm

FOLDER = tap.source("doc", "man")
PAGES = ["stasis"] + ["stasis-" + name for name in clihelp.COMMANDS]
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
RUNS = re.compile(r"stasis (run|restore) ")


def page(name):
    with open(os.path.join(FOLDER, name + ".1.scd"), encoding="utf-8") as file:
        return file.read()


def section(text, title):
    """The lines of one section."""
    found = re.search(r"^# %s\n(.*?)(?=^# |\Z)" % title, text, re.M | re.S)
    tap.true(found, "there is no section " + title)
    return found.group(1)


def plain(text):
    """scdoc's text without its marks."""
    return re.sub(r"\\(.)|[*_](?![a-z])|(?<![A-Za-z])[*_]", lambda m: m.group(1) or "", text)


# --- what is said ---------------------------------------------------------------------------------


def check_page(name):
    text = page(name)
    tap.true(text.startswith("%s(1) " % name), "first line")
    titles = re.findall(r"^# (.*)$", text, re.M)
    for title in SECTIONS:
        tap.true(title in titles, "there is no section " + title)
    status = re.findall(r"^\*(\d+)\*$", section(text, "EXIT STATUS"), re.M)
    tap.equal(status, ["0", "1", "2"], "exit statuses")
    for other in re.findall(r"\*(stasis[a-z-]*)\*\(1\)", text):
        tap.true(other in PAGES, "page %s does not exist" % other)


for name in PAGES:
    tap.case_for("the_page_of_%s_has_every_section" % name.replace("-", "_"), check_page, name)


def options_of_help(command):
    """{"--cpus": "N"} as --help tells them, None where there is no argument; with their letters."""
    shown = clihelp.done(command, "--help").out.partition("\nOptions:\n")[2]
    return {option: (argument or None, letter or None) for letter, option, argument in
            re.findall(r"^  (?:   |(-.),) (--[a-z-]+)(?: ([^ \n]+))?", shown, re.M)}


def options_of_page(command):
    found = {}
    for line in re.findall(r"^\*-.*$", section(page("stasis-" + command), "OPTIONS"), re.M):
        words = plain(line).replace(", ", " ").split(" ")
        letter = words.pop(0) if not words[0].startswith("--") else None
        found[words[0]] = (words[1] if len(words) > 1 else None, letter)
    return found


def check_options(command):
    tap.equal(options_of_page(command), options_of_help(command),
              "options of the page and of --help")


for name in clihelp.COMMANDS:
    tap.case_for("the_page_of_%s_has_exactly_the_options_of_its_help" % name, check_options, name)


@tap.case
def the_synopsis_is_that_of_the_usage_line():
    for command in clihelp.COMMANDS:
        usage = clihelp.done(command, "--help").out.splitlines()[0].replace("usage: ", "")
        tap.equal(plain(section(page("stasis-" + command), "SYNOPSIS")).strip(), usage, command)


@tap.case
def the_main_page_lists_every_command_and_every_error_name():
    text = page("stasis")
    tap.equal(re.findall(r"^\*([a-z]+)\*$", section(text, "COMMANDS"), re.M),
              list(clihelp.COMMANDS), "commands")
    with open(tap.source("include", "stasis", "error.h"), encoding="utf-8") as file:
        names = re.findall(r'^ *X\([A-Z_0-9]+, \d+, "([A-Za-z]+)"', file.read(), re.M)
    listed = re.findall(r"\b[A-Z][a-zA-Z]+\b", re.sub(r"_The [^_]*_:|_A peer_:", "",
                                                     section(text, "ERRORS")))
    tap.equal(sorted(listed), sorted(names), "error names")


@tap.case
def the_pages_tell_every_key_of_an_answer():
    told = clihelp.answer("info", clihelp.golden("v1.0-x86_64-xxh3.stasis"))
    keys = set(told) | set(told["memory"]) | set(told["host"]) | set(told["memory"]["regions"][0])
    for name, wanted in (("stasis-info", keys), ("stasis-verify", clihelp.FAILURE_KEYS),
                         ("stasis", clihelp.FAILURE_KEYS), ("stasis-pause", ["ok", "state"]),
                         ("stasis-resume", ["ok", "state"]), ("stasis-run", ["ok", "exit"])):
        for key in wanted:
            tap.true("*%s*" % key in page(name), "%s does not tell of %s" % (name, key))


@tap.case
def scdoc_takes_every_page():
    tap.need(shutil.which("scdoc"), "scdoc is not installed")
    for name in PAGES:
        done = subprocess.run(["scdoc"], input=page(name).encode(), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
        tap.equal((done.returncode, done.stderr), (0, b""), name)
        tap.true(b"\n.SH OPTIONS\n" in done.stdout, "%s has lost its sections" % name)


@tap.case
def every_page_is_built():
    tap.need(shutil.which("scdoc"), "scdoc is not installed")
    for name in PAGES:
        with open(tap.build("doc", "man", name + ".1"), encoding="utf-8") as file:
            tap.true(".TH" in file.read(), name)


# --- examples -------------------------------------------------------------------------------------


def examples(name):
    """Each a list of lines."""
    return [block.strip("\n").split("\n") for block in
            re.findall(r"^```\n(.*?)^```$", section(page(name), "EXAMPLES"), re.M | re.S)]


class Typist:
    """Types the lines of one example in a folder of its own."""

    def __init__(self, folder, stack):
        self.folder = folder
        self.stack = stack
        self.guests = []
        os.mkdir(os.path.join(folder, "bin"))
        os.symlink(os.environ["STASIS"], os.path.join(folder, "bin", "stasis"))
        self.options = {"cwd": folder, "stdin": subprocess.DEVNULL,
                        "env": dict(os.environ, PATH=os.path.join(folder, "bin") + ":" +
                                    os.environ["PATH"])}

    def type(self, line):
        if RUNS.match(line):
            self.start_guest(line.rstrip("& "))
            return
        done = subprocess.run(["bash", "-ec", line], stdout=subprocess.PIPE, check=False,
                              stderr=subprocess.STDOUT, timeout=clihelp.HANG_SECONDS,
                              **self.options)
        said = done.stdout.decode(errors="replace")
        tap.equal(done.returncode, 0, "exit status of: %s\n%s" % (line, said))
        # curl is content with any answer.
        tap.true("fault_message" not in said, "%s\n%s" % (line, said))

    def start_guest(self, line):
        """A line that runs a guest, until it is seen to be there."""
        log = re.search(r"--serial file:(\S+)", line)
        path = os.path.join(self.folder, log.group(1) if log else "out%d" % len(self.guests))
        with open(os.path.join(self.folder, "out%d" % len(self.guests)), "wb") as out:
            process = subprocess.Popen(["bash", "-c", "exec " + line], stdout=out,
                                       stderr=subprocess.STDOUT, **self.options)
        self.guests.append(process)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        socket = re.search(r"--api-socket (\S+)", line)

        def is_there():
            tap.equal(process.poll(), None, "exit status of: " + line)
            if socket and not os.path.exists(os.path.join(self.folder, socket.group(1))):
                return False
            if "--kernel" not in line and "restore" not in line or "--paused" in line:
                return True  # waits to be told
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                return b"count " in file.read()
            return False

        tap.wait_until(is_there, clihelp.HANG_SECONDS, line)

    def end_guests(self):
        for process in self.guests:
            process.terminate()
            tap.equal(process.wait(clihelp.HANG_SECONDS), 0, "exit status of a guest")


def make_files(folder):
    """What examples speak of: kernels, disks, and a snapshot of a guest that has a disk."""
    shutil.copyfile(tap.build("guest", "stasis-guest.bin"), os.path.join(folder, "bzImage"))
    clihelp.write(os.path.join(folder, "initrd.img"), bytes(4096))
    disk = clihelp.write(os.path.join(folder, "disk.img"), bytes(1 << 20))
    snapshot = os.path.join(folder, "web1.stasis")
    with guestvm.run(folder, "--disk", "id=root,path=" + disk, "--exit-on-reset") as vm:
        vm.wait_count(2)
        vm.save(snapshot)


def check_example(lines):
    with tap.temp_dir() as folder, contextlib.ExitStack() as stack:
        if any(RUNS.match(line) for line in lines):
            guestvm.need_kvm()
            make_files(folder)
        else:
            for name in ("web1.stasis", "backup.stasis"):
                shutil.copyfile(clihelp.golden("v1.0-x86_64-xxh3.stasis"),
                                os.path.join(folder, name))
        typist = Typist(folder, stack)
        for line in lines:
            if line.startswith("curl"):
                tap.need(shutil.which("curl"), "curl is not installed")
            typist.type(line)
        typist.end_guests()


for name in PAGES:
    for number, example in enumerate(examples(name), 1):
        tap.case_for("example_%d_of_%s_works" % (number, name.replace("-", "_")), check_example,
                     example)


@tap.case
def every_page_has_an_example_that_uses_its_command():
    for command in clihelp.COMMANDS:
        text = "\n".join("\n".join(lines) for lines in examples("stasis-" + command))
        tap.true("stasis %s " % command in text, command)


tap.main()
