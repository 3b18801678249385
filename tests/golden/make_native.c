/*
 * make_native.c - writes the golden files of the native format, once per version of it.
 *
 *     make_native DIRECTORY     one NAME.stasis for each kind of file there is
 *
 * The result goes into tests/golden/native/, with what native_decoder.py says of it as NAME.json, and
 * is never written again: golden files stand for what past versions wrote. A new minor version adds
 * files under its own number.
 */
#include <stdio.h>
#include <stdlib.h>

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

static int make(const char *folder, const struct golden *golden, uint64_t seed)
{
    const struct stasis_save_options options = { .digest = golden->digest, .label = golden->label };
    struct stasis_machine machine;
    struct stasis_memory memory;
    struct stasis_error err = { 0 };
    char path[1024];
    int r;

    if (golden->arch == STASIS_ARCH_ARM64)
        fixture_arm64_machine(&machine, golden->vcpu_count, seed);
    else
        fixture_x86_machine(&machine, golden->vcpu_count, seed);
    fixture_memory(&memory, regions, sizeof(regions) / sizeof(regions[0]), 60, seed);
    snprintf(path, sizeof(path), "%s/%s.stasis", folder, golden->name);
    r = stasis_save(path, &machine, &memory, &options, NULL, &err);
    if (r < 0)
        fprintf(stderr, "%s\n", err.text);
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
    return r;
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
    return 0;
}
