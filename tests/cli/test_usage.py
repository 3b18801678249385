#!/usr/bin/python3
"""What every subcommand promises before it does anything: help, misuse, and where text goes.

Needs no KVM and no snapshot. A misuse is exit 2 with one sentence and one usage line on stderr; an
answer that cannot be written is exit 1.
"""

import os
import re
import subprocess

import clihelp
import tap

FILE = tap.source("README.md")  # any file: misuse is found before it is looked at

# What each subcommand's help must mention, long options first. test_man.py holds the pages to the
# same.
OPTIONS = {
    "run": ["--kernel", "--initrd", "--cmdline", "--cpus", "--memory", "--disk", "--rng", "--serial",
            "--api-socket", "--id", "--quiesce-timeout", "--track-dirty", "--hugepages", "--exit-on-reset",
            "--no-seccomp", "--json"],
    "restore": ["--disk", "--paused", "--verify", "--clock-stopped", "--timings", "--serial",
                "--api-socket", "--id", "--quiesce-timeout", "--track-dirty", "--hugepages",
                "--exit-on-reset", "--no-seccomp",
                "--json"],
    "save": ["--socket", "--output", "--diff", "--parent", "--json"],
    "pause": ["--socket", "--json"],
    "resume": ["--socket", "--json"],
    "info": ["--json"],
    "verify": ["--json"],
    "compare": ["--volatile", "--json"],
    "flatten": ["--output", "--json"],
    "rebase": ["--parent", "--output", "--json"],
}

LONG_ID = "x" * 64  # one more than an id may have

MISUSES = {
    "no_command_at_all": [],
    "an_unknown_command": ["frobnicate"],
    "an_unknown_option_before_the_command": ["--frobnicate", "info", FILE],
    "version_with_an_operand": ["--version", "now"],
    "overview_with_an_operand": ["--help", "run"],
    "help_on_an_unknown_command": ["help", "frobnicate"],
    "help_on_two_commands": ["help", "run", "save"],
    "run_without_kernel_and_without_socket": ["run"],
    "run_with_an_operand": ["run", "--kernel", FILE, "more"],
    "run_initrd_without_kernel": ["run", "--api-socket", "x", "--initrd", FILE],
    "run_cmdline_without_kernel": ["run", "--api-socket", "x", "--cmdline", "quiet"],
    "run_no_vcpus": ["run", "--kernel", FILE, "--cpus", "0"],
    "run_33_vcpus": ["run", "--kernel", FILE, "--cpus", "33"],
    "run_vcpus_that_are_no_number": ["run", "--kernel", FILE, "--cpus", "two"],
    "run_vcpus_beyond_64_bits": ["run", "--kernel", FILE, "--cpus", "18446744073709551617"],
    "run_negative_vcpus": ["run", "--kernel", FILE, "--cpus", "-1"],
    "run_vcpus_with_something_behind": ["run", "--kernel", FILE, "--cpus", "1x"],
    "run_empty_vcpus": ["run", "--kernel", FILE, "--cpus", ""],
    "run_memory_that_is_no_size": ["run", "--kernel", FILE, "--memory", "lots"],
    "run_memory_in_an_unknown_unit": ["run", "--kernel", FILE, "--memory", "1X"],
    "run_memory_beyond_64_bits": ["run", "--kernel", FILE, "--memory", "16777216T"],
    "run_empty_memory": ["run", "--kernel", FILE, "--memory", ""],
    "run_memory_that_is_a_unit_only": ["run", "--kernel", FILE, "--memory", "M"],
    "run_memory_of_many_digits": ["run", "--kernel", FILE, "--memory", "0" * 40],
    "run_disk_without_id": ["run", "--kernel", FILE, "--disk", "path=x"],
    "run_disk_without_path": ["run", "--kernel", FILE, "--disk", "id=a"],
    "run_disk_with_an_empty_id": ["run", "--kernel", FILE, "--disk", "id=,path=x"],
    "run_disk_with_an_unknown_word": ["run", "--kernel", FILE, "--disk", "id=a,path=x,rw"],
    "run_disk_with_two_paths": ["run", "--kernel", FILE, "--disk", "id=a,path=x,path=y"],
    "run_one_disk_id_twice": ["run", "--kernel", FILE, "--disk", "id=a,path=x", "--disk",
                              "id=a,path=y"],
    "run_eight_disks": ["run", "--kernel", FILE] + [word for i in range(8) for word in
                                                    ("--disk", "id=d%d,path=x" % i)],
    "run_quiesce_timeout_of_zero": ["run", "--kernel", FILE, "--quiesce-timeout", "0"],
    "run_quiesce_timeout_of_over_an_hour": ["run", "--kernel", FILE, "--quiesce-timeout",
                                            "3600001"],
    "run_pages_of_no_kind": ["run", "--kernel", FILE, "--hugepages", "1G"],
    "restore_pages_of_no_kind": ["restore", "--hugepages", "", FILE],
    "restore_without_a_file": ["restore"],
    "restore_of_two_files": ["restore", FILE, FILE],
    "restore_paused_without_a_socket": ["restore", "--paused", FILE],
    "restore_disk_without_a_path": ["restore", "--disk", "a=", FILE],
    "restore_disk_without_an_id": ["restore", "--disk", "=x", FILE],
    "restore_disk_without_either": ["restore", "--disk", "a", FILE],
    "restore_one_disk_id_twice": ["restore", "--disk", "a=x", "--disk", "a=y", FILE],
    "restore_eight_disks": ["restore", FILE] + [word for i in range(8) for word in
                                                ("--disk", "d%d=x" % i)],
    "save_without_a_socket": ["save", "--output", "x"],
    "save_with_a_parent_but_no_diff": ["save", "-s", "x", "-o", "y", "--parent", "z"],
    "save_without_an_output": ["save", "--socket", "x"],
    "save_with_an_operand": ["save", "-s", "x", "-o", "y", "more"],
    "pause_without_a_socket": ["pause"],
    "pause_with_an_operand": ["pause", "-s", "x", "more"],
    "resume_without_a_socket": ["resume", "--json"],
    "info_without_a_file": ["info"],
    "info_of_two_files": ["info", FILE, FILE],
    "verify_without_a_file": ["verify", "--json"],
    "verify_of_two_files": ["verify", FILE, FILE],
    "compare_of_one_file": ["compare", FILE],
    "flatten_without_a_file": ["flatten", "-o", "x"],
    "flatten_without_an_output": ["flatten", FILE],
    "rebase_without_a_parent": ["rebase", "-o", "x", FILE],
    "rebase_without_a_file": ["rebase", "-p", FILE],
}


def misuse(words):
    clihelp.misused(*words)


for name, words in MISUSES.items():
    tap.case_for(name + "_is_misuse", misuse, words)


@tap.case
def each_command_refuses_unknown_options_by_name():
    for command in clihelp.COMMANDS:
        for word in ("--frobnicate", "--frobnicate=3"):
            tap.true("'%s'" % word in clihelp.misused(command, word), "%s %s" % (command, word))
        tap.true("'-z'" in clihelp.misused(command, "-z"), command)
        # A cluster: getopt has not moved on to the next word, the one before is blameless.
        tap.true("'-z'" in clihelp.misused(command, "--json", "-zq"), command)


@tap.case
def an_option_that_lacks_its_argument_or_has_one_too_many_is_named():
    for command, options in OPTIONS.items():
        takes = [option for option in options if takes_argument(command, option)]
        for option in options:
            if option in takes:
                tap.true("'%s' needs" % option in clihelp.misused(command, option), option)
            else:
                said = clihelp.misused(command, option + "=x")
                tap.true("'%s' takes no" % option in said, said)
    tap.true("'-s' needs" in clihelp.misused("save", "-s"), "short option")


def takes_argument(command, option):
    return re.search(r"^ .* %s [A-Za-z]" % option, clihelp.done(command, "--help").out, re.M)


def check_help(command):
    shown = clihelp.done(command, "--help").out
    tap.equal(clihelp.done(command, "-h").out, shown, "-h")
    tap.equal(clihelp.done("help", command).out, shown, "stasis help")
    tap.true(shown.startswith("usage: stasis %s" % command), shown.splitlines()[0])
    listed = re.findall(r"^  (?:   |-.,) (--[a-z-]+)", shown, re.M)
    tap.equal(listed, OPTIONS[command] + ["--help"], "options listed")
    tap.true("Exit status: 0 done, 1 failed, 2 misused." in shown, "exit status")
    for line in shown.splitlines():
        tap.true(len(line) <= 100, "over 100 columns: %r" % line)
        tap.equal(line, line.rstrip(), "blanks at the end")
    check_columns(shown)


def check_columns(shown):
    """What options do begins in one column, on the option's line or, if it is long, on the next."""
    for line in shown.partition("\nOptions:\n")[2].partition("\n\n")[0].splitlines():
        tap.true(re.match(r"  (   |-.,) --\S+( [^ ]+)?$", line) or
                 (len(line) > 34 and line[32:34] == "  " and line[34] != " "), "column: %r" % line)


for name in clihelp.COMMANDS:
    tap.case_for("help_of_%s_tells_every_option" % name, check_help, name)


@tap.case
def the_overview_lists_every_command():
    shown = clihelp.done("--help").out
    tap.equal(clihelp.done("help").out, shown, "stasis help")
    tap.equal(sorted(re.findall(r"^  ([a-z]+) ", shown, re.M)), sorted(clihelp.COMMANDS),
              "commands")


@tap.case
def the_version_is_one_line():
    tap.true(re.fullmatch(r"stasis \d+\.\d+\.\d+\n", clihelp.done("--version").out), "version")


@tap.case
def help_wins_over_what_comes_after_it():
    tap.equal(clihelp.run("run", "--help", "--frobnicate").status, 0, "exit status")


@tap.case
def long_options_may_follow_the_operand():
    path = clihelp.golden("v1.0-x86_64-xxh3.stasis")
    tap.equal(clihelp.done("info", path, "--json").out, clihelp.done("info", "--json", path).out,
              "answer")


@tap.case
def two_dashes_end_the_options():
    message = clihelp.run("info", "--", "--json")
    tap.equal(message.status, 1, "exit status")
    tap.true("'--json'" in message.err and "No such file" in message.err, message.err)


def unwritable_answers():
    path = clihelp.golden("v1.0-x86_64-xxh3.stasis")
    return [["--help"], ["--version"], ["help", "run"], ["info", path], ["info", "--json", path],
            ["verify", path], ["verify", "--json", path]] + \
           [[command, "--help"] for command in clihelp.COMMANDS]


@tap.case
def a_full_standard_output_is_a_failure():
    for words in unwritable_answers():
        with open("/dev/full", "wb") as full:
            ended = clihelp.run(*words, stdout=full)
        tap.true(ended.status == 1, "%s: %s" % (words, ended))
        tap.true("standard output: No space left" in ended.err, "%s: %r" % (words, ended.err))


@tap.case
def a_closed_standard_output_is_a_failure():
    for words in unwritable_answers():
        ended = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *clihelp.command(*words)],
                               stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False,
                               timeout=clihelp.HANG_SECONDS)
        tap.equal(ended.returncode, 1, "exit status of %s" % words)
        tap.true(b"standard output: Bad file descriptor" in ended.stderr, ended.stderr)


@tap.case
def a_reader_that_went_away_is_a_failure_and_no_death():
    path = clihelp.golden("v1.0-x86_64-xxh3.stasis")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ended = clihelp.run("info", path, stdout=closed)
    tap.equal(ended.status, 1, "exit status")
    tap.true("standard output: Broken pipe" in ended.err, ended.err)


@tap.case
def closed_standard_descriptors_are_not_given_to_what_is_opened_later():
    # A disk, a socket or a KVM descriptor would get the console and every message written into it.
    with tap.temp_dir() as folder:
        path = os.path.join(folder, "sock")
        with subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh",
                               *clihelp.command("run", "--api-socket", path)]) as run:
            try:
                tap.wait_until(lambda: os.path.exists(path), clihelp.HANG_SECONDS, "socket")
                for number in range(3):
                    tap.equal(os.readlink("/proc/%d/fd/%d" % (run.pid, number)), "/dev/null",
                              "descriptor %d" % number)
            finally:
                run.terminate()
            tap.equal(run.wait(clihelp.HANG_SECONDS), 0, "exit status")


@tap.case
def messages_hold_no_terminal_commands_and_json_is_utf8():
    name = b"no\x1b[2Jsuch\xff\xc2\x9bfile\n"
    ended = clihelp.run("info", name)
    tap.equal(ended.status, 1, "exit status")
    tap.true("no?[2Jsuch???file?" in ended.err, "stderr is %r" % ended.err)
    with tap.temp_dir() as folder:
        told = subprocess.run(clihelp.command("info", "--json", name), stdout=subprocess.PIPE,
                              cwd=folder, check=False, timeout=clihelp.HANG_SECONDS).stdout
    told.decode("utf-8")  # strictly


tap.main()
