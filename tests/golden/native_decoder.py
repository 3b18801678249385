#!/usr/bin/python3
"""A second reader of native snapshots, written from doc/format/native.md and nothing else.

    native_decoder.py FILE     everything in FILE as JSON, all digests checked

Where it refuses a file, the JSON is {"error": NAME, "message": TEXT} and the exit status 1. The names
are those in brackets on the page, so that two readers can be held against each other.
"""
import ctypes
import hashlib
import json
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
    def __init__(self, entry):
        (self.type, self.version, self.flags, self.file_off, self.size, self.method, reserved_1,
         self.chunk_size, self.digest_section, reserved_2, self.digest,
         reserved_3) = struct.unpack("<IHHQQHHII28s32s32s", entry)
        self.clean = (reserved_1 == 0 and is_zero(reserved_2) and is_zero(reserved_3)
                      and self.flags & ~CRITICAL == 0)
        self.known = self.type in SECTIONS and self.version == 1 and self.method in (WHOLE, CHUNKED)
        self.name = SECTIONS[self.type][0] if self.type in SECTIONS else "section %#x" % self.type

    def chunk_count(self):
        return -(-self.size // self.chunk_size)


class Snapshot:
    def __init__(self, path):
        self.file = open(path, "rb")
        self.file.seek(0, 2)
        self.length = self.file.tell()
        self.read_superblock()
        self.read_table()
        self.machine = self.read_map(2)
        self.layout = self.read_layout()
        self.meta = self.read_map(4)
        self.damage = self.check_all_digests()

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
        check(self.kind == 1, "Unsupported", "kind %d" % self.kind)
        check(digest_kind in DIGEST_KINDS, "Unsupported", "digest kind %d" % digest_kind)
        self.digest_name, self.digest_size = DIGEST_KINDS[digest_kind]
        check(1 <= self.section_count <= 64, "LimitExceeded", "%d sections" % self.section_count)
        self.check_range(self.table_off, 128 * self.section_count, "section table")
        if self.minor == 0:
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
        self.sections = [Section(table[i:i + 128]) for i in range(0, len(table), 128)]
        for index, section in enumerate(self.sections):
            check(section.clean or self.minor > 0, "Corrupt", "reserved bits of an entry")
        for index, section in enumerate(self.sections):
            self.check_section(index, section)
        for number, (name, required, *_) in SECTIONS.items():
            check(not required or self.find(number), "Corrupt", "no %s section" % name)

    def find(self, number):
        return next((s for s in self.sections if s.type == number and s.known), None)

    def check_section(self, index, section):
        if not section.known:
            check(not section.flags & CRITICAL, "UnknownCriticalSection", section.name)
        else:
            _, _, method, chunk_size, align, limit = SECTIONS[section.type]
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

    # --- the small sections ---

    def read_map(self, number):
        section = self.find(number)
        if section is None:
            return None
        data = self.read(section.file_off, section.size)
        check(sha256(data) == section.digest, "DigestMismatch", section.name + ": digest mismatch")
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
        check(layout["data_size"] <= total and total == self.find(1).size, "InvalidMemoryLayout",
              "the regions are %d bytes" % total)
        return layout

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

    # --- everything, for people and tests ---

    def memory_facts(self):
        file_off = self.find(1).file_off
        regions, data_size = [], 0
        for region in self.layout["regions"]:
            digest = hashlib.sha256()
            for done in range(0, region["size"], PAGE):
                page = self.read(file_off + done, PAGE)
                digest.update(page)
                data_size += 0 if is_zero(page) else PAGE
            file_off += region["size"]
            regions.append({"gpa": region["gpa"], "size": region["size"],
                            "sha256": digest.hexdigest()})
        return {"size": self.find(1).size, "data_size": data_size, "regions": regions}

    def facts(self):
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
