#!/usr/bin/python3
"""The installed library is one that others can build with.

Goal:   after `make install` into a DESTDIR, the README's library example compiles with the flags of
        pkg-config, links, and runs; all that belongs there is there, and nothing else.
Method: a real installation into a private folder; the example is cut out of README.md.
"""

import os
import re
import shutil
import subprocess

import tap

PREFIX_NAMES = ("bin", "include", "lib", "share")


class Installation:
    """Made once, by the first case that asks."""
    folder = None
    prefix = None


def run(command, **options):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            universal_newlines=True, check=False, **options)
    tap.equal(result.returncode, 0, "exit status of %s: %s\n" % (command, result.stdout))
    return result.stdout


def installed_files():
    """Relative to the prefix."""
    if Installation.folder is None:
        Installation.folder = os.path.join(SCRATCH, "a root with spaces")
        run(["meson", "install", "-C", tap.build(), "--no-rebuild",
             "--destdir", Installation.folder])
        (pc_file,) = [os.path.join(folder, "stasis.pc")
                      for folder, _, names in os.walk(Installation.folder) if "stasis.pc" in names]
        with open(pc_file, encoding="utf-8") as file:
            prefix = re.search(r"^prefix=(.*)$", file.read(), re.MULTILINE).group(1)
        Installation.prefix = Installation.folder + prefix
    found = []
    for folder, _, names in os.walk(Installation.prefix):
        found += [os.path.relpath(os.path.join(folder, name), Installation.prefix)
                  for name in names]
    return sorted(found)


def folder_of(name):
    installed_files()
    for folder, _, names in os.walk(Installation.prefix):
        if name in names:
            return folder
    raise AssertionError("%s is not installed" % name)


def pkg_config(*arguments):
    environment = dict(os.environ, PKG_CONFIG_PATH=folder_of("stasis.pc"))
    # The flags come quoted for a shell.
    return run(["pkg-config", "--define-variable=prefix=" + shell_safe(Installation.prefix)] +
               list(arguments) + ["stasis"], env=environment)


def shell_safe(path):
    """pkg-config mangles blanks in a variable; what links it finds goes by a name without any."""
    link = os.path.join(SCRATCH, "prefix")
    if not os.path.islink(link):
        os.symlink(path, link)
    return link


def example():
    with open(tap.source("README.md"), encoding="utf-8") as file:
        blocks = re.findall(r"^```c\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
    tap.equal(len(blocks), 1, "number of C examples in README.md")
    return blocks[0]


@tap.case
def all_parts_are_installed():
    files = installed_files()
    for pattern in (r"bin/stasis$", r"lib/.*libstasis\.so$", r"lib/.*libstasis\.so\.0$",
                    r"lib/.*libstasis\.so\.0\.\d+\.\d+$", r"include/stasis/stasis\.h$",
                    r"lib/.*pkgconfig/stasis\.pc$", r"share/man/man1/stasis\.1$",
                    r"share/man/man1/stasis-restore\.1$"):
        tap.equal(len([name for name in files if re.match(pattern, name)]), 1,
                  "number of installed files like " + pattern)


@tap.case
def nothing_private_is_installed():
    for name in installed_files():
        tap.true(re.match(r"bin/stasis$|include/stasis/\w+\.h$|lib/.*libstasis\.so|"
                          r"lib/.*pkgconfig/stasis\.pc$|share/man/man\d/stasis[\w.-]*$|"
                          r"share/(doc/)?stasis/", name), "installed: " + name)


@tap.case
def pkg_config_knows_the_version():
    with open(tap.source("include", "stasis", "api.h"), encoding="utf-8") as file:
        version = re.search(r'STASIS_VERSION_STRING "(.*)"', file.read()).group(1)
    tap.equal(pkg_config("--modversion").strip(), version, "version")


@tap.case
def the_readme_example_compiles_and_runs():
    source = os.path.join(SCRATCH, "example.c")
    with open(source, "w", encoding="utf-8") as file:
        file.write(example())
    flags = pkg_config("--cflags", "--libs").split()
    run(["cc", "-std=c17", "-Wall", "-Wextra", "-Werror", source, "-o",
         os.path.join(SCRATCH, "example")] + flags)
    output = run(["./example"], cwd=SCRATCH,
                 env=dict(os.environ, LD_LIBRARY_PATH=folder_of("libstasis.so.0")))
    lines = output.splitlines()
    tap.equal(len(lines), 2, "lines of output")
    tap.true(re.fullmatch(r"[0-9a-f]{64}", lines[0]), "the id: " + lines[0])
    tap.equal(lines[1], "what the guest wrote", "memory after the restore")


@tap.case
def the_installed_command_finds_its_library():
    installed_files()
    output = run([os.path.join(Installation.prefix, "bin", "stasis"), "--help"])
    for name in ("run", "save", "restore", "pause", "resume", "info", "verify"):
        tap.true(re.search(r"\b%s\b" % name, output), name + " is missing in: " + output)


@tap.case
def the_readme_names_every_command():
    with open(tap.source("README.md"), encoding="utf-8") as file:
        table = re.findall(r"^\| `stasis (\w+)` \|", file.read(), re.MULTILINE)
    shown = run([os.environ["STASIS"], "--help"])
    tap.equal(sorted(table), sorted(set(re.findall(r"^\s+(\w+)\s{2,}\S", shown, re.MULTILINE))),
              "commands of the README and of --help")


with tap.temp_dir() as SCRATCH:
    tap.true(shutil.which("pkg-config"), "pkg-config is not installed")
    tap.main()
