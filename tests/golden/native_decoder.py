#!/usr/bin/python3
"""A second reader of native snapshots, written from doc/format/native.md and nothing else.

    native_decoder.py FILE     everything in FILE as JSON, all digests checked, in a diff of all layers

Where it refuses a file, the JSON is {"error": NAME, "message": TEXT} and the exit status 1. The names
are those in brackets on the page, so that two readers can be held against each other.
"""
import ctypes
import hashlib
import json
import os
import struct
import sys

import cbor2

KIB, MIB = 1 << 10, 1 << 20
PAGE, BLOCK = 4 * KIB, 64 * KIB
MAGIC = bytes.fromhex("895354415349530a")
DIGEST_KINDS = {1: ("xxh3-128", 16), 2: ("sha-256", 32)}
WHOLE, CHUNKED = 1, 2
CRITICAL = 1

# type: name, required, method, chunk size, alignment of the file offset, size at most
SECTIONS = {
    1: ("memory", True, CHUNKED, BLOCK, 2 * MIB, 1 << 46),
    2: ("machine", True, WHOLE, 0, 4 * KIB, 256 * MIB),
    3: ("layout", True, WHOLE, 0, 4 * KIB, MIB),
    4: ("meta", False, WHOLE, 0, 4 * KIB, MIB),
    5: ("digests", False, CHUNKED, 4 * KIB, 4 * KIB, None),
    6: ("digest index", False, WHOLE, 0, 4 * KIB, None),
}
DIFF_SECTIONS = dict(SECTIONS)
DIFF_SECTIONS.update({
    1: ("memory", True, CHUNKED, PAGE, 4 * KIB, 1 << 46),
    7: ("extents", True, WHOLE, 0, 4 * KIB, 1 << 30),
    8: ("layers", True, WHOLE, 0, 4 * KIB, 64 * MIB),
})
FULL, DIFF = 1, 2
DATA, ZERO = 1, 2


class Refused(Exception):
    def __init__(self, error, message):
        super().__init__(message)
        self.error = error


def check(condition, error, message):
    if not condition:
        raise Refused(error, message)


def load_xxh3_128():
    """Python's xxhash where it is installed, else the C library, which the tests need anyway."""
    try:
        import xxhash
        return lambda data: xxhash.xxh3_128_digest(data)
    except ImportError:
        pass

    class Hash128(ctypes.Structure):
        _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]

    function = ctypes.CDLL("libxxhash.so.0").XXH3_128bits
    function.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    function.restype = Hash128

    def digest(data):
        value = function(data, len(data))
        return struct.pack(">QQ", value.high, value.low)
    return digest


xxh3_128 = load_xxh3_128()


def sha256(data):
    return hashlib.sha256(data).digest()


def is_zero(data):
    return data.count(0) == len(data)


class Section:
    def __init__(self, entry, types):
        (self.type, self.version, self.flags, self.file_off, self.size, self.method, reserved_1,
         self.chunk_size, self.digest_section, reserved_2, self.digest,
         reserved_3) = struct.unpack("<IHHQQHHII28s32s32s", entry)
        self.clean = (reserved_1 == 0 and is_zero(reserved_2) and is_zero(reserved_3)
                      and self.flags & ~CRITICAL == 0)
        self.known = self.type in types and self.version == 1 and self.method in (WHOLE, CHUNKED)
        self.name = types[self.type][0] if self.type in types else "section %#x" % self.type

    def chunk_count(self):
        return -(-self.size // self.chunk_size)


class File:
    """One file: its superblock, table and digests."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, "rb")
        self.file.seek(0, 2)
        self.length = self.file.tell()
        self.read_superblock()
        self.read_table()

    def read(self, file_off, size):
        self.file.seek(file_off)
        data = self.file.read(size)
        check(len(data) == size, "Truncated", "the file ends within %d at %d" % (size, file_off))
        return data

    # --- superblock ---

    def read_superblock(self):
        head = self.read(0, min(self.length, 4096))
        check(head[:8] == MAGIC, "BadMagic", "wrong magic number")
        check(len(head) >= 12, "Truncated", "no version")
        self.major, self.minor = struct.unpack_from("<HH", head, 8)
        check(self.major == 1, "UnsupportedVersion", "version %d.%d" % (self.major, self.minor))
        check(len(head) == 4096, "Truncated", "the superblock is cut short")
        check(sha256(head[:4064]) == head[4064:], "DigestMismatch", "superblock: digest mismatch")
        self.superblock = head
        self.read_superblock_fields(head)

    def read_superblock_fields(self, head):
        (superblock_size, page, block, self.kind, digest_kind, self.section_count, entry_size,
         reserved_1, self.table_off, self.file_size, reserved_2,
         self.root) = struct.unpack_from("<IIIHHIIIQQQ32s", head, 12)
        check((superblock_size, page, block, entry_size) == (4096, PAGE, BLOCK, 128), "Corrupt",
              "a size that version 1 fixes is another")
        check(self.kind == FULL or self.kind == DIFF and self.minor >= 1, "Unsupported",
              "kind %d" % self.kind)
        self.types = DIFF_SECTIONS if self.kind == DIFF else SECTIONS
        check(digest_kind in DIGEST_KINDS, "Unsupported", "digest kind %d" % digest_kind)
        self.digest_name, self.digest_size = DIGEST_KINDS[digest_kind]
        check(1 <= self.section_count <= 64, "LimitExceeded", "%d sections" % self.section_count)
        self.check_range(self.table_off, 128 * self.section_count, "section table")
        if self.minor <= 1:
            check(reserved_1 == 0 and reserved_2 == 0 and is_zero(head[96:4064]), "Corrupt",
                  "reserved bytes of the superblock")
        check(self.length >= self.file_size, "Truncated", "shorter than it says")
        check(self.length <= self.file_size, "Corrupt", "longer than it says")

    def check_range(self, file_off, size, name):
        check(file_off >= 4096 and file_off % 4096 == 0 and file_off + size <= self.file_size,
              "Corrupt", "%s: %d bytes at %d" % (name, size, file_off))

    # --- section table ---

    def read_table(self):
        table = self.read(self.table_off, 128 * self.section_count)
        bound = b"stasis-root-v1\0\0" + self.superblock[8:64] + table
        check(sha256(bound) == self.root, "DigestMismatch", "section table: digest mismatch")
        self.sections = [Section(table[i:i + 128], self.types) for i in range(0, len(table), 128)]
        for index, section in enumerate(self.sections):
            check(section.clean or self.minor > 1, "Corrupt", "reserved bits of an entry")
        for index, section in enumerate(self.sections):
            self.check_section(index, section)
        for number, (name, required, *_) in self.types.items():
            check(not required or self.find(number), "Corrupt", "no %s section" % name)

    def find(self, number):
        return next((s for s in self.sections if s.type == number and s.known), None)

    def check_section(self, index, section):
        if not section.known:
            check(not section.flags & CRITICAL, "UnknownCriticalSection", section.name)
        else:
            _, _, method, chunk_size, align, limit = self.types[section.type]
            check(limit is None or section.size <= limit, "LimitExceeded", section.name)
            check((section.method, section.chunk_size) == (method, chunk_size)
                  and section.file_off % align == 0, "Corrupt", section.name)
            check(self.find(section.type) is section, "Corrupt", "two of type " + section.name)
        check(section.type != 0, "Corrupt", "type 0")
        self.check_range(section.file_off, section.size, section.name)
        others = self.sections[:index]
        taken = [(s.file_off, s.size) for s in others] + [(self.table_off, 128 * self.section_count)]
        for file_off, size in taken:
            check(section.size == 0 or size == 0 or section.file_off >= file_off + size
                  or file_off >= section.file_off + section.size, "Corrupt",
                  section.name + " overlaps")
        if section.method == CHUNKED:
            self.check_chunked(index, section)
        elif section.method == WHOLE:
            check(section.chunk_size == 0 and section.digest_section == 0, "Corrupt", section.name)

    def check_chunked(self, index, section):
        size = section.chunk_size
        check(4096 <= size <= MIB and size & (size - 1) == 0, "Corrupt", "chunk size %d" % size)
        check(index < section.digest_section < self.section_count, "Corrupt", "digest section")
        digests = self.sections[section.digest_section]
        check(digests.size == section.chunk_count() * self.digest_size
              and digests.digest == section.digest, "Corrupt", section.name + ": its digests")

    def read_whole(self, number):
        section = self.find(number)
        if section is None:
            return None
        data = self.read(section.file_off, section.size)
        check(sha256(data) == section.digest, "DigestMismatch", section.name + ": digest mismatch")
        return data

    # --- digests ---

    def chunk_digest(self, data):
        if is_zero(data):
            return bytes(self.digest_size)
        return sha256(data) if self.digest_name == "sha-256" else xxh3_128(data)

    def check_all_digests(self):
        damage = []
        for section in self.sections:
            if section.method == WHOLE:
                if sha256(self.read(section.file_off, section.size)) != section.digest:
                    damage.append([section.name, 0])
            elif section.method == CHUNKED:
                damage += [[section.name, chunk] for chunk in self.bad_chunks(section)]
        return damage

    def bad_chunks(self, section):
        digests = self.sections[section.digest_section]
        expected = self.read(digests.file_off, digests.size)
        for chunk in range(section.chunk_count()):
            done = chunk * section.chunk_size
            data = self.read(section.file_off + done, min(section.chunk_size, section.size - done))
            at = chunk * self.digest_size
            if self.chunk_digest(data) != expected[at:at + self.digest_size]:
                yield chunk

class Layer:
    """An entry of section layers."""

    def __init__(self, data, at):
        check(at + 72 <= len(data), "Corrupt", "the section ends within a layer")
        (self.root, self.kind, path_size, reserved_1, self.file_size, self.memory_off,
         self.memory_size, reserved_2) = struct.unpack_from("<32sHHIQQQQ", data, at)
        self.end = at + 72 + path_size
        check(self.end <= len(data), "Corrupt", "the section ends within a path")
        self.path = data[at + 72:self.end]
        check(reserved_1 == 0 and reserved_2 == 0, "Corrupt", "reserved bytes of a layer")
        check(1 <= path_size <= 4095 and self.path[:1] != b"/" and b"\0" not in self.path, "Corrupt",
              "a layer's path")
        check(self.kind in (FULL, DIFF), "Corrupt", "kind of a layer")
        check(self.memory_off >= 4096 and self.memory_size % PAGE == 0
              and self.memory_off % (2 * MIB if self.kind == FULL else 4 * KIB) == 0
              and self.memory_size <= 1 << 46
              and self.memory_off + self.memory_size <= self.file_size, "Corrupt",
              "memory of a layer")


class Snapshot(File):
    def __init__(self, path):
        super().__init__(path)
        self.machine = self.read_map(2)
        self.layout = self.read_layout()
        self.meta = self.read_map(4)
        self.layers, self.depth, self.extents = [], 0, [(0, 0, 0, DATA)]
        if self.kind == DIFF:
            self.read_layers()
            self.read_extents()
        self.damage = self.check_all_digests()
        self.files = [self] + [None] * len(self.layers)
        for number in sorted({layer for _, _, layer, _ in self.extents} - {0}):
            self.files[number] = self.open_layer(self.layers[number - 1])
            self.damage += [[name, chunk, number]
                            for name, chunk in self.files[number].check_all_digests()]

    # --- the small sections ---

    def read_map(self, number):
        data = self.read_whole(number)
        if data is None:
            return None
        section = self.find(number)
        try:
            value = cbor2.loads(data)
        except Exception as error:
            raise Refused("Corrupt", "%s: %s" % (section.name, error))
        check(isinstance(value, dict), "Corrupt", section.name + " is not a map")
        return value

    def read_layout(self):
        layout = self.read_map(3)
        check("data_size" in layout and "regions" in layout, "Corrupt", "layout: a missing key")
        end = total = 0
        check(len(layout["regions"]) >= 1, "InvalidMemoryLayout", "no regions")
        check(len(layout["regions"]) <= 1024, "LimitExceeded", "too many regions")
        for region in layout["regions"]:
            gpa, size = region["gpa"], region["size"]
            check(size > 0 and gpa % PAGE == 0 and size % PAGE == 0, "InvalidMemoryLayout",
                  "a region is not of whole pages")
            check(size <= 1 << 46, "LimitExceeded", "a region is too large")
            check(end <= gpa and gpa + size < 1 << 64, "InvalidMemoryLayout", "regions overlap")
            end = gpa + size
            total += size
        check(total <= 1 << 46, "LimitExceeded", "too much memory")
        check(layout["data_size"] <= total and (self.kind == DIFF or total == self.find(1).size),
              "InvalidMemoryLayout", "the regions are %d bytes" % total)
        check(self.find(1).size % PAGE == 0, "Corrupt", "memory is not of whole pages")
        self.page_count = total // PAGE
        return layout

    # --- the chain ---

    def read_layers(self):
        data = self.read_whole(8)
        check(len(data) >= 8, "Corrupt", "layers")
        count, self.depth = struct.unpack_from("<II", data)
        check(1 <= count <= (len(data) - 8) // 72, "Corrupt", "%d layers" % count)
        check(count <= 65536, "LimitExceeded", "%d layers" % count)
        check(count <= self.depth < 1 << 31, "Corrupt", "depth %d" % self.depth)
        at = 8
        for _ in range(count):
            self.layers.append(Layer(data, at))
            at = self.layers[-1].end
        check(at == len(data), "Corrupt", "something behind the last layer")

    def read_extents(self):
        data = self.read_whole(7)
        check(data and len(data) % 24 == 0, "Corrupt", "extents")
        self.extents = [struct.unpack_from("<QQII", data, at) for at in range(0, len(data), 24)]
        check(self.extents[0][0] == 0, "Corrupt", "the first extent")
        packed = 0
        for index, (first, offset, layer, kind) in enumerate(self.extents):
            end = self.extent_end(index)
            check(first < end, "Corrupt", "extents do not ascend")
            check(kind in (DATA, ZERO), "Corrupt", "kind of an extent")
            if index > 0:
                self.check_apart(self.extents[index - 1], self.extents[index])
            if kind == ZERO:
                check(offset == 0 and layer == 0, "Corrupt", "zeros from somewhere")
                continue
            if layer == 0:
                check(offset == packed, "Corrupt", "the order of packed pages")
                packed += end - first
                continue
            check(layer <= len(self.layers), "Corrupt", "layer %d" % layer)
            found = self.layers[layer - 1]
            check(offset + end - first <= found.memory_size // PAGE, "Corrupt", "beyond its layer")
            check(found.kind == DIFF or offset == first, "Corrupt", "not at its own place")
        check(packed == self.find(1).size // PAGE, "Corrupt", "packed pages are in no extent")

    def extent_end(self, index):
        return self.extents[index + 1][0] if index + 1 < len(self.extents) else self.page_count

    @staticmethod
    def check_apart(one, other):
        goes_on = one[2:] == other[2:] and (one[3] == ZERO or other[1] - one[1] == other[0] - one[0])
        check(not goes_on, "Corrupt", "an extent goes on with the one before it")

    def open_layer(self, layer):
        path = os.path.join(os.path.dirname(os.path.realpath(self.path)).encode(), layer.path)
        check(os.path.exists(path), "ParentMissing", "no file %r" % path)
        with open(path, "rb") as file:
            head = file.read(96)
        check(head[:8] == MAGIC and head[64:96] == layer.root, "WrongParent", "%r" % path)
        size = os.path.getsize(path)
        check(size >= layer.file_size, "Truncated", "%r" % path)
        check(size <= layer.file_size, "Corrupt", "%r" % path)
        file = File(path)
        memory = file.find(1)
        check((file.kind, memory.file_off, memory.size)
              == (layer.kind, layer.memory_off, layer.memory_size), "Corrupt", "%r" % path)
        return file

    def pages(self):
        """All of memory, page by page."""
        for index, (first, offset, layer, kind) in enumerate(self.extents):
            for page in range(self.extent_end(index) - first):
                if kind == ZERO:
                    yield bytes(PAGE)
                else:
                    file = self.files[layer]
                    yield file.read(file.find(1).file_off + (offset + page) * PAGE, PAGE)

    # --- everything, for people and tests ---

    def memory_facts(self):
        pages = self.pages()
        regions, data_size = [], 0
        for region in self.layout["regions"]:
            digest = hashlib.sha256()
            for _ in range(region["size"] // PAGE):
                page = next(pages)
                digest.update(page)
                data_size += 0 if is_zero(page) else PAGE
            regions.append({"gpa": region["gpa"], "size": region["size"],
                            "sha256": digest.hexdigest()})
        return {"size": self.page_count * PAGE, "data_size": data_size, "regions": regions}

    def chain_facts(self):
        return {
            "depth": self.depth,
            "layers": [{"id": layer.root.hex(), "kind": layer.kind, "path": layer.path.decode(),
                        "file_size": layer.file_size} for layer in self.layers],
            "extents": [list(extent) for extent in self.extents],
        }

    def facts(self):
        facts = self.file_facts()
        if self.kind == DIFF:
            facts["chain"] = self.chain_facts()
        return facts

    def file_facts(self):
        return {
            "format": "native",
            "version": [self.major, self.minor],
            "id": self.root.hex(),
            "digest": self.digest_name,
            "file_size": self.file_size,
            "sections": [{"type": s.type, "name": s.name, "version": s.version, "flags": s.flags,
                          "file_off": s.file_off, "size": s.size, "digest": s.digest.hex()}
                         for s in self.sections],
            "layout": self.layout,
            "meta": self.meta,
            "machine": self.machine,
            "memory": self.memory_facts(),
            "damage": self.damage,
        }


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: native_decoder.py FILE")
    try:
        facts = Snapshot(sys.argv[1]).facts()
    except Refused as refused:
        facts = {"error": refused.error, "message": str(refused)}
    json.dump(facts, sys.stdout, indent=1, sort_keys=True, default=bytes.hex)
    print()
    return 1 if "error" in facts or facts["damage"] else 0


if __name__ == "__main__":
    sys.exit(main())
