/*
 * make_native.c - writes the golden files of the native format, once per version of it.
 *
 *     make_native DIRECTORY     one NAME.stasis for each kind of file there is, and is not there yet
 *
 * The result goes into tests/golden/native/, with what native_decoder.py says of it as NAME.json, and
 * is never written again: golden files stand for what past versions wrote. A new minor version adds
 * files under its own number.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <stasis/dirty.h>
#include <stasis/snapshot.h>

#include "snapshot_fixture.h"

static const struct golden {
    const char *name;
    enum stasis_arch arch;
    unsigned vcpu_count;
    enum stasis_digest_kind digest;
    const char *label;
} golden_files[] = {
    { "v1.0-x86_64-xxh3", STASIS_ARCH_X86_64, 2, STASIS_DIGEST_XXH3_128, "golden" },
    { "v1.0-x86_64-sha256", STASIS_ARCH_X86_64, 1, STASIS_DIGEST_SHA256, "" },
    { "v1.0-arm64-xxh3", STASIS_ARCH_ARM64, 2, STASIS_DIGEST_XXH3_128, "größe" },
};

/* Three regions: two adjoin, and their edges fall within blocks; the last is behind a hole. */
static const struct fixture_region regions[] = { { 0, 0x9f000 },
                                                 { 0x9f000, 0x11000 },
                                                 { UINT64_C(1) << 32, 0x23000 } };

static int report(int result, const struct stasis_error *err)
{
    if (result < 0)
        fprintf(stderr, "%s\n", err->text);
    return result;
}

static int make(const char *folder, const struct golden *golden, uint64_t seed)
{
    const struct stasis_save_options options = { .digest = golden->digest, .label = golden->label };
    struct stasis_machine machine;
    struct stasis_memory memory;
    struct stasis_error err = { 0 };
    char path[1024];
    int r;

    snprintf(path, sizeof(path), "%s/%s.stasis", folder, golden->name);
    if (access(path, F_OK) == 0)
        return 0;
    if (golden->arch == STASIS_ARCH_ARM64)
        fixture_arm64_machine(&machine, golden->vcpu_count, seed);
    else
        fixture_x86_machine(&machine, golden->vcpu_count, seed);
    fixture_memory(&memory, regions, sizeof(regions) / sizeof(regions[0]), 60, seed);
    r = report(stasis_save(path, &machine, &memory, &options, NULL, &err), &err);
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
    return r;
}

/* A diff on one of the above, or on another diff: some pages are new, some zero, most as they were. */
static const struct golden_diff {
    const char *name, *parent;
    enum stasis_digest_kind digest;
} golden_diffs[] = {
    { "v1.1-x86_64-diff", "v1.0-x86_64-xxh3", STASIS_DIGEST_XXH3_128 },
    { "v1.1-x86_64-diff-sha256", "v1.1-x86_64-diff", STASIS_DIGEST_SHA256 },
};

static void change(struct stasis_memory *memory, struct stasis_page_set *changed, uint64_t seed)
{
    uint64_t page = 0;

    for (size_t i = 0; i < memory->region_count; i++) {
        for (uint64_t off = 0; off < memory->regions[i].size; off += STASIS_PAGE_SIZE, page++) {
            uint64_t *words = (uint64_t *)((uint8_t *)memory->regions[i].hva + off);

            if ((page + seed) % 9 > 1)
                continue;
            memset(words, 0, STASIS_PAGE_SIZE);
            if ((page + seed) % 9 == 0)
                words[page % 512] = fixture_random(&seed);
            stasis_page_set_add(changed, page, 1);
        }
    }
}

static int make_diff(const char *folder, const struct golden_diff *golden, uint64_t seed)
{
    struct stasis_save_options options = { .digest = golden->digest, .label = "golden diff" };
    struct stasis_page_set changed = { 0 };
    struct stasis_snapshot *parent = NULL;
    struct stasis_memory memory = { 0 };
    struct stasis_error err = { 0 };
    char path[1024];
    int r;

    snprintf(path, sizeof(path), "%s/%s.stasis", folder, golden->name);
    if (access(path, F_OK) == 0)
        return 0;
    snprintf(path, sizeof(path), "%s/%s.stasis", folder, golden->parent);
    if ((r = stasis_open(path, &parent, &err)) == 0 &&
        (r = stasis_restore(parent, NULL, &memory, &err)) == 0 &&
        (r = stasis_page_set_init(&changed, stasis_memory_size(&memory) / STASIS_PAGE_SIZE,
                                  &err)) == 0) {
        change(&memory, &changed, seed);
        options.parent = parent;
        options.changed = &changed;
        snprintf(path, sizeof(path), "%s/%s.stasis", folder, golden->name);
        r = stasis_save(path, stasis_snapshot_machine(parent), &memory, &options, NULL, &err);
    }
    stasis_page_set_release(&changed);
    stasis_memory_unmap(&memory);
    stasis_close(parent);
    return report(r, &err);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_native DIRECTORY\n");
        return 2;
    }
    for (uint64_t i = 0; i < sizeof(golden_files) / sizeof(golden_files[0]); i++) {
        if (make(argv[1], &golden_files[i], 2024 + i) < 0)
            return 1;
    }
    for (size_t i = 0; i < sizeof(golden_diffs) / sizeof(golden_diffs[0]); i++) {
        if (make_diff(argv[1], &golden_diffs[i], i + 1) < 0)
            return 1;
    }
    return 0;
}
