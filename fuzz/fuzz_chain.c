/*
 * fuzz_chain.c - what a changed map, or list of layers, can do to the reader of a diff.
 *
 * The input is a list of edits to a sound diff; its digests are made right again afterwards, so that
 * what the edits say is judged and not that they were made.
 *
 *     input   edit | edit | ...
 *     edit    where (1) | offset (2) | count (1) | that many bytes
 *
 * What must hold, beside not crashing: what opens has a map that covers all of memory once; when it can
 * be restored, each page is the one that a slow walk over the bytes of the map finds in the files.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stasis/dirty.h>
#include <stasis/snapshot.h>

#include "native_craft.h"
#include "snapshot_fixture.h"

#define EXTENT_SIZE 24
#define LAYER_FIXED_SIZE 72
#define HEAD_SIZE 8

static struct fixture_dir dir;
static struct craft base, sound, file;
static int file_fd;

static void expect(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "property broken: %s\n", what);
        abort();
    }
}

static void remove_dir(void)
{
    fixture_dir_remove(&dir);
}

/* Some pages of each kind: new data, zeros, and the base's. */
static void change(struct stasis_memory *memory, struct stasis_page_set *changed)
{
    const uint64_t pages = memory->regions[0].size / STASIS_PAGE_SIZE;

    for (uint64_t page = 0; page < pages; page++) {
        uint8_t *bytes = (uint8_t *)memory->regions[0].hva + page * STASIS_PAGE_SIZE;

        if (page % 5 > 1)
            continue;
        memset(bytes, page % 5 ? 0 : (int)page + 1, STASIS_PAGE_SIZE);
        stasis_page_set_add(changed, page, 1);
    }
}

static void make_sound(void)
{
    const struct fixture_region regions[] = { { 0, 0x23000 }, { 0x100000, 0x8000 } };
    struct stasis_save_options options = { 0 };
    struct stasis_page_set changed = { 0 };
    struct stasis_snapshot *parent = NULL;
    struct stasis_machine machine;
    struct stasis_memory memory;

    fixture_dir_make(&dir);
    atexit(remove_dir);
    fixture_x86_machine(&machine, 1, 1);
    fixture_memory(&memory, regions, 2, 40, 1);
    expect(stasis_save(fixture_path(&dir, "base"), &machine, &memory, NULL, NULL, NULL) == 0 &&
               stasis_open(fixture_path(&dir, "base"), &parent, NULL) == 0 &&
               stasis_page_set_init(&changed, stasis_memory_size(&memory) / STASIS_PAGE_SIZE,
                                    NULL) == 0,
           "a base is saved");
    change(&memory, &changed);
    options.parent = parent;
    options.changed = &changed;
    expect(stasis_save(fixture_path(&dir, "diff"), &machine, &memory, &options, NULL, NULL) == 0,
           "a diff is saved");
    craft_load(&base, fixture_path(&dir, "base"));
    craft_load(&sound, fixture_path(&dir, "diff"));
    craft_load(&file, fixture_path(&dir, "diff"));
    stasis_close(parent);
    stasis_page_set_release(&changed);
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    make_sound();
    file_fd = memfd_create("fuzz_chain", MFD_CLOEXEC);
    expect(file_fd >= 0, "memfd_create");
    return 0;
}

static void apply_edits(const uint8_t *data, size_t size)
{
    static const uint32_t places[] = { CRAFT_EXTENTS, CRAFT_LAYERS, CRAFT_LAYOUT, CRAFT_EXTENTS };

    while (size >= 4) {
        const uint32_t type = places[data[0] % 4];
        const uint64_t begin = craft_field(&sound, type, CRAFT_OFF, 8);
        const uint64_t room = craft_field(&sound, type, CRAFT_SIZE, 8);
        const uint64_t off = (uint64_t)(data[1] | data[2] << 8) % room;
        size_t count = data[3];

        data += 4;
        size -= 4;
        if (count > size)
            count = size;
        if (count <= room - off)
            memcpy(file.data + begin + off, data, count);
        data += count;
        size -= count;
    }
}

static void write_file(void)
{
    expect(ftruncate(file_fd, (off_t)file.size) == 0 &&
               pwrite(file_fd, file.data, file.size, 0) == (ssize_t)file.size,
           "the file is written");
}

/* Entry `number` of the list of layers, as an offset in the file. */
static uint64_t layer_entry(uint32_t number)
{
    uint64_t at = craft_field(&file, CRAFT_LAYERS, CRAFT_OFF, 8) + HEAD_SIZE;

    while (number-- > 1)
        at += LAYER_FIXED_SIZE + craft_get(&file, at + 34, 2);
    return at;
}

/* A page by the bytes of the map. All files that a layer can be are the base. */
static const uint8_t *slow_page(uint64_t extent, uint64_t page)
{
    static const uint8_t zeros[STASIS_PAGE_SIZE];
    const uint64_t at = craft_field(&file, CRAFT_EXTENTS, CRAFT_OFF, 8) + extent * EXTENT_SIZE;
    const uint64_t offset = craft_get(&file, at + 8, 8) + page - craft_get(&file, at, 8);
    const uint32_t layer = (uint32_t)craft_get(&file, at + 16, 4);

    if (craft_get(&file, at + 20, 4) == 2)
        return zeros;
    if (layer == 0)
        return file.data + craft_field(&file, CRAFT_MEMORY, CRAFT_OFF, 8) +
               offset * STASIS_PAGE_SIZE;
    return base.data + craft_get(&file, layer_entry(layer) + 48, 8) + offset * STASIS_PAGE_SIZE;
}

static void check_pages(const struct stasis_memory *memory)
{
    const uint64_t map = craft_field(&file, CRAFT_EXTENTS, CRAFT_OFF, 8);
    const uint64_t count = craft_field(&file, CRAFT_EXTENTS, CRAFT_SIZE, 8) / EXTENT_SIZE;
    uint64_t extent = 0, page = 0;

    for (size_t i = 0; i < memory->region_count; i++) {
        const uint8_t *bytes = memory->regions[i].hva;

        for (uint64_t off = 0; off < memory->regions[i].size; off += STASIS_PAGE_SIZE, page++) {
            while (extent + 1 < count &&
                   craft_get(&file, map + (extent + 1) * EXTENT_SIZE, 8) <= page)
                extent++;
            expect(memcmp(bytes + off, slow_page(extent, page), STASIS_PAGE_SIZE) == 0,
                   "a page is the one that the map names");
        }
    }
}

/* A reader checks more than a mapping can; where it gives pages, they are the same. */
static void check_reader(const struct stasis_snapshot *snapshot, const struct stasis_memory *memory)
{
    struct stasis_reader *reader;
    uint8_t page_bytes[STASIS_PAGE_SIZE];
    uint64_t page = 0;

    expect(stasis_reader_open(snapshot, &reader, NULL) == 0, "a reader opens");
    for (size_t i = 0; i < memory->region_count; i++) {
        const uint8_t *bytes = memory->regions[i].hva;

        for (uint64_t off = 0; off < memory->regions[i].size; off += STASIS_PAGE_SIZE, page++) {
            if (stasis_reader_read(reader, page, 1, page_bytes, NULL) == 0)
                expect(memcmp(page_bytes, bytes + off, STASIS_PAGE_SIZE) == 0,
                       "a page is read as it is mapped");
        }
    }
    stasis_reader_close(reader);
}

static void check_counts(const struct stasis_snapshot_info *info)
{
    uint64_t pages = info->zero_pages;

    for (size_t i = 0; i < info->layer_count; i++)
        pages += info->layers[i].page_count;
    expect(pages == info->memory_size / STASIS_PAGE_SIZE, "the map covers memory once");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_memory memory = { 0 };
    struct stasis_error err = { 0 };

    memcpy(file.data, sound.data, sound.size);
    file.size = sound.size;
    apply_edits(data, size);
    craft_seal(&file);
    write_file();
    if (stasis_open_fd(file_fd, dir.path, &snapshot, &err) < 0) {
        expect(err.code != STASIS_OK && err.text[0] != '\0', "a refusal is told");
        return 0;
    }
    check_counts(stasis_snapshot_info(snapshot));
    if (stasis_restore(snapshot, NULL, &memory, NULL) == 0) {
        check_pages(&memory);
        check_reader(snapshot, &memory);
        stasis_memory_unmap(&memory);
    }
    stasis_close(snapshot);
    return 0;
}
