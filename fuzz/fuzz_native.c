/*
 * fuzz_native.c - what a changed native file can do to its reader.
 *
 * The input is a list of edits to a sound snapshot, not a file: a file's digests would stop any change
 * at the door. The first byte says whether they are made right again afterwards.
 *
 *     input   flags | edit | edit | ...
 *     flags   0x01 the root is made right   0x02 every digest is   0x04 the file is cut
 *     edit    where (1) | offset (2) | count (1) | that many bytes
 *
 * What must hold, beside not crashing:
 *   - with digests left as they are, a change of any byte that means something is refused by open
 *     or found by verify, and a change of none is neither;
 *   - what opens can be restored, to the bytes that are in the file;
 *   - a machine that opens encodes to bytes that decode to the same machine.
 *
 * A map and layers, which only diffs have, are fuzz_chain.c's.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stasis/snapshot.h>

#include "machine/fields.h"
#include "native_craft.h"
#include "snapshot_fixture.h"

#define FLAG_SEAL_ROOT 0x01
#define FLAG_SEAL_ALL 0x02
#define FLAG_CUT 0x04

#define WHERE_COUNT 8 /* superblock, the six sections, table */
#define SUPERBLOCK_SIZE 4096

struct range {
    uint64_t off, size;
};

static struct craft sound;
static struct craft file;
static int file_fd; /* holds what `file` holds, under a name in /proc */
static char file_path[64];

static void expect(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "property broken: %s\n", what);
        abort();
    }
}

/* The sound file's places that mean something. */
static struct range place(unsigned where)
{
    if (where == 0)
        return (struct range){ 0, SUPERBLOCK_SIZE };
    if (where <= CRAFT_INDEX)
        return (struct range){ craft_field(&sound, where, CRAFT_OFF, 8),
                               craft_field(&sound, where, CRAFT_SIZE, 8) };
    return (struct range){ craft_get(&sound, CRAFT_TABLE_OFF, 8),
                           craft_get(&sound, CRAFT_SECTION_COUNT, 4) * CRAFT_ENTRY };
}

static void make_sound(void)
{
    const struct fixture_region regions[] = { { 0, 0x13000 }, { 0x100000, 0x8000 } };
    struct stasis_machine machine;
    struct stasis_memory memory;
    struct fixture_dir dir;
    const char *path;

    fixture_dir_make(&dir);
    path = fixture_path(&dir, "sound.stasis");
    fixture_x86_machine(&machine, 1, 1);
    fixture_memory(&memory, regions, 2, 40, 1);
    expect(stasis_save(path, &machine, &memory, NULL, NULL, NULL) == 0, "a snapshot is saved");
    craft_load(&sound, path);
    craft_load(&file, path);
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
    fixture_dir_remove(&dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    make_sound();
    file_fd = memfd_create("fuzz_native", MFD_CLOEXEC);
    expect(file_fd >= 0, "memfd_create");
    snprintf(file_path, sizeof(file_path), "/proc/self/fd/%d", file_fd);
    return 0;
}

static void apply_edits(const uint8_t *data, size_t size)
{
    while (size >= 4) {
        const struct range range = place(data[0] % WHERE_COUNT);
        const uint64_t off = (uint64_t)(data[1] | data[2] << 8) % (range.size ? range.size : 1);
        size_t count = data[3];

        data += 4;
        size -= 4;
        if (count > size)
            count = size;
        /* An edit may run over its place's end, into what is behind it. */
        if (range.off + off + count <= file.size)
            memcpy(file.data + range.off + off, data, count);
        data += count;
        size -= count;
    }
}

static bool changed_where_it_means_something(void)
{
    if (file.size != sound.size)
        return true;
    for (unsigned where = 0; where < WHERE_COUNT; where++) {
        const struct range range = place(where);

        if (memcmp(file.data + range.off, sound.data + range.off, range.size) != 0)
            return true;
    }
    return false;
}

static void write_file(void)
{
    expect(ftruncate(file_fd, 0) == 0 && ftruncate(file_fd, (off_t)file.size) == 0, "ftruncate");
    for (size_t off = 0; off < file.size; off += 4096) { /* with holes, so that they are walked */
        const size_t part = file.size - off < 4096 ? file.size - off : 4096;
        static const uint8_t zeros[4096];

        if (memcmp(file.data + off, zeros, part) != 0)
            expect(pwrite(file_fd, file.data + off, part, (off_t)off) == (ssize_t)part, "pwrite");
    }
}

static void check_restore(const struct stasis_snapshot *snapshot)
{
    const struct stasis_snapshot_info *info = stasis_snapshot_info(snapshot);
    uint64_t off = craft_field(&file, CRAFT_MEMORY, CRAFT_OFF, 8);
    struct stasis_memory memory = { 0 };

    if (stasis_restore(snapshot, NULL, &memory, NULL) < 0)
        return; /* an address space too small for it is no fault of the reader */
    expect(stasis_memory_size(&memory) == info->memory_size, "all memory is restored");
    for (size_t i = 0; i < memory.region_count; i++) {
        expect(off + memory.regions[i].size <= file.size, "memory is within the file");
        expect(memcmp(memory.regions[i].hva, file.data + off, memory.regions[i].size) == 0,
               "memory is what the file has");
        off += memory.regions[i].size;
    }
    stasis_memory_unmap(&memory);
}

static void check_machine(const struct stasis_machine *machine)
{
    struct stasis_machine again = { 0 };
    struct byte_buffer encoded;

    byte_buffer_init(&encoded, SIZE_MAX);
    expect(fields_encode(&stasis_machine_table, machine, &encoded, NULL) == 0,
           "a machine that opens can be saved");
    expect(fields_decode(&stasis_machine_table, encoded.data, encoded.size, &again, NULL) == 0,
           "what is encoded can be decoded");
    expect(fixture_machine_equal(machine, &again), "and is the same");
    byte_buffer_release(&encoded);
    stasis_machine_release(&again);
}

/* 0 when the file opens and verifies. */
static int open_and_verify(void)
{
    struct stasis_damage damage[4];
    const struct stasis_verify_options options = { .thread_count = 1,
                                                   .damage = damage,
                                                   .damage_max = 4 };
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_verify_report report = { 0 };
    struct stasis_error err = { 0 };
    int r = stasis_open(file_path, &snapshot, &err);

    if (r < 0) {
        expect(err.code != STASIS_OK && err.text[0] != '\0', "a refusal is told");
        return r;
    }
    r = stasis_verify(snapshot, &options, &report, &err);
    expect(r == 0 || (err.code == STASIS_ERR_DIGEST_MISMATCH && report.blocks_bad > 0 &&
                      damage[0].section[0] != '\0'),
           "damage is told with its place");
    check_restore(snapshot);
    check_machine(stasis_snapshot_machine(snapshot));
    stasis_close(snapshot);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int r;

    if (size < 1)
        return 0;
    memcpy(file.data, sound.data, sound.size);
    file.size = sound.size;
    apply_edits(data + 1, size - 1);
    if ((data[0] & FLAG_CUT) && size >= 4)
        file.size =
            ((size_t)data[1] | (size_t)data[2] << 8 | (size_t)data[3] << 16) % (sound.size + 1);
    if (data[0] & FLAG_SEAL_ALL)
        craft_seal(&file);
    else if (data[0] & FLAG_SEAL_ROOT)
        craft_seal_root(&file);
    write_file();
    r = open_and_verify();
    if (!(data[0] & (FLAG_SEAL_ALL | FLAG_SEAL_ROOT)))
        expect((r < 0) == changed_where_it_means_something(), "a change is found, and only then");
    return 0;
}
