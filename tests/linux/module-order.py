#!/usr/bin/python3
"""module-order.py - kernel modules and what they depend on, in the order to load them.

    module-order.py MODULES-DIR NAME...

Prints one path a line. Reads each module's own .modinfo, because modules.dep is made by the
package's installation, which we skip, and kmod may be absent. A NAME that is built into the
kernel is left out; one that is neither there nor built in is an error.
"""

import os
import re
import struct
import sys


def depends_of(path):
    """The names in a module's depends= line."""
    with open(path, "rb") as file:
        elf = file.read()
    shoff = struct.unpack_from("<Q", elf, 40)[0]
    shentsize, shnum, shstrndx = struct.unpack_from("<HHH", elf, 58)

    def section(index):
        name = struct.unpack_from("<I", elf, shoff + index * shentsize)[0]
        offset, size = struct.unpack_from("<QQ", elf, shoff + index * shentsize + 24)
        return name, elf[offset:offset + size]

    names = section(shstrndx)[1]
    for i in range(shnum):
        name, data = section(i)
        if names[name:names.index(b"\0", name)] != b".modinfo":
            continue
        for entry in data.split(b"\0"):
            if entry.startswith(b"depends="):
                return [d for d in entry[8:].decode().split(",") if d]
    return []


def canonical(name):
    return re.sub(r"\.ko$", "", os.path.basename(name)).replace("-", "_")


def load_order(modules_dir, wanted):
    found = {}
    for folder, _, files in os.walk(os.path.join(modules_dir, "kernel")):
        for file in files:
            if file.endswith(".ko"):
                found[canonical(file)] = os.path.join(folder, file)
    with open(os.path.join(modules_dir, "modules.builtin")) as file:
        builtin = {canonical(line.strip()) for line in file}

    order = []

    def visit(name, wanted_by):
        name = canonical(name)
        if name in builtin or found.get(name) in order:
            return
        if name not in found:
            raise LookupError("module %s, wanted by %s, is not in %s" %
                              (name, wanted_by, modules_dir))
        for dependency in depends_of(found[name]):
            visit(dependency, name)
        order.append(found[name])

    for name in wanted:
        visit(name, "the command line")
    return order


def main(argv):
    if len(argv) < 3:
        print("usage: module-order.py MODULES-DIR NAME...", file=sys.stderr)
        return 2
    try:
        print("\n".join(load_order(argv[1], argv[2:])))
    except (LookupError, OSError) as error:
        print("module-order: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
