#!/usr/bin/python3
"""extract-vmlinux.py - the ELF kernel inside a bzImage.

    extract-vmlinux.py BZIMAGE OUT

A bzImage is a setup part, a decompressor and a compressed ELF file. The setup header says where
the last one lies (Documentation/x86/boot.rst: payload_offset and payload_length, protocol 2.08).
The kernel's build appends the unpacked size, 4 bytes little-endian, to what the compressor made;
gzip carries the same number in its own trailer. OUT appears by one rename, and only when the ELF
file has a PVH entry note (Xen note 18), which is what it is wanted for.
"""

import lzma
import os
import struct
import subprocess
import sys
import tempfile
import zlib

NT_XEN_PHYS32_ENTRY = 18


class BadImage(Exception):
    pass


def payload_of(image):
    """The compressed bytes of a bzImage, by its setup header."""
    if len(image) < 0x268 or image[0x202:0x206] != b"HdrS":
        raise BadImage("not a bzImage: no HdrS at 0x202")
    version = struct.unpack_from("<H", image, 0x206)[0]
    if version < 0x208:
        raise BadImage("boot protocol %#x tells no payload (0x208 does)" % version)
    setup_sects = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sects + 1) * 512 + offset  # relative to the protected-mode code
    if length < 8 or start + length > len(image):
        raise BadImage("payload %d+%d lies outside the file" % (start, length))
    return image[start:start + length]


def by_command(command, data):
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def unpack(payload):
    size = struct.unpack("<I", payload[-4:])[0]
    body = payload[:-4]
    if payload.startswith(b"\x1f\x8b"):
        data = zlib.decompress(payload, 31)
    elif payload.startswith(b"\xfd7zXZ\0"):
        data = lzma.decompress(body, lzma.FORMAT_XZ)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        data = by_command(["zstd", "-dcq"], body)
    elif payload.startswith(b"\x02\x21\x4c\x18"):
        data = by_command(["lz4", "-dcq"], body)
    else:
        raise BadImage("unknown compression, magic %s" % payload[:6].hex())
    if len(data) != size:
        raise BadImage("unpacked %d bytes, the image promises %d" % (len(data), size))
    return data


def pvh_entry(elf):
    """The physical 32-bit entry point that the PVH note gives; None without the note."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise BadImage("the payload is not a little-endian ELF64 file")
    phoff = struct.unpack_from("<Q", elf, 32)[0]
    phentsize, phnum = struct.unpack_from("<HH", elf, 54)
    for i in range(phnum):
        header = phoff + i * phentsize
        p_type = struct.unpack_from("<I", elf, header)[0]
        offset = struct.unpack_from("<Q", elf, header + 8)[0]
        size = struct.unpack_from("<Q", elf, header + 32)[0]
        if p_type != 4:  # PT_NOTE
            continue
        pos = offset
        while pos + 12 <= offset + size:
            name_size, desc_size, note_type = struct.unpack_from("<III", elf, pos)
            name = elf[pos + 12:pos + 12 + name_size]
            desc = pos + 12 + (name_size + 3 & ~3)
            if name == b"Xen\0" and note_type == NT_XEN_PHYS32_ENTRY:
                return int.from_bytes(elf[desc:desc + desc_size], "little")
            pos = desc + (desc_size + 3 & ~3)
    return None


def main(argv):
    if len(argv) != 3:
        print("usage: extract-vmlinux.py BZIMAGE OUT", file=sys.stderr)
        return 2
    try:
        with open(argv[1], "rb") as file:
            elf = unpack(payload_of(file.read()))
        entry = pvh_entry(elf)
        if entry is None:
            raise BadImage("the kernel has no PVH note (CONFIG_PVH)")
    except (BadImage, OSError, lzma.LZMAError, zlib.error, subprocess.SubprocessError) as error:
        print("extract-vmlinux: %s: %s" % (argv[1], error), file=sys.stderr)
        return 1

    out = os.path.abspath(argv[2])
    fd, private = tempfile.mkstemp(prefix=".vmlinux.", dir=os.path.dirname(out))
    with os.fdopen(fd, "wb") as file:
        file.write(elf)
    os.chmod(private, 0o644)
    os.rename(private, out)
    print("extract-vmlinux: %d bytes, PVH entry %#x" % (len(elf), entry), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
