/* test_boot_support.h - what the tests of the loaders share: RAM between forbidden pages, kernels
 * in files. */
#ifndef STASIS_TEST_BOOT_SUPPORT_H
#define STASIS_TEST_BOOT_SUPPORT_H

#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "microvm/boot.h"
#include "microvm/layout.h"

#define MIB (UINT64_C(1) << 20)
#define GUARD 4096u

struct boot_fixture {
    char folder[64];
    char kernel[96], initrd[96];
    uint8_t *ram; /* low RAM, a forbidden page on each side */
    uint64_t ram_size;
    struct stasis_region region;
    struct guest_memory memory;
    struct stasis_error err;
    struct boot_entry entry;
};

static inline void fixture_map_ram(struct boot_fixture *fixture, uint64_t size)
{
    uint8_t *all =
        mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_true(all != MAP_FAILED);
    assert_int_equal(mprotect(all + GUARD, size, PROT_READ | PROT_WRITE), 0);
    fixture->ram = all + GUARD;
    fixture->ram_size = size;
    fixture->region = (struct stasis_region){ .gpa = 0, .size = size, .hva = fixture->ram };
    fixture->memory.ram = (struct stasis_memory){ .regions = &fixture->region, .region_count = 1 };
}

static inline void fixture_unmap_ram(struct boot_fixture *fixture)
{
    if (fixture->ram)
        munmap(fixture->ram - GUARD, fixture->ram_size + 2 * GUARD);
    fixture->ram = NULL;
}

static inline void fixture_resize_ram(struct boot_fixture *fixture, uint64_t size)
{
    fixture_unmap_ram(fixture);
    fixture_map_ram(fixture, size);
}

static inline int fixture_setup(void **state)
{
    struct boot_fixture *fixture = calloc(1, sizeof(*fixture));

    if (!fixture)
        return -1;
    strcpy(fixture->folder, "/tmp/stasis-boot-XXXXXX");
    if (!mkdtemp(fixture->folder))
        return -1;
    snprintf(fixture->kernel, sizeof(fixture->kernel), "%s/kernel", fixture->folder);
    snprintf(fixture->initrd, sizeof(fixture->initrd), "%s/initrd", fixture->folder);
    fixture_map_ram(fixture, 8 * MIB);
    *state = fixture;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct boot_fixture *fixture = *state;

    unlink(fixture->kernel);
    rmdir(fixture->kernel);
    unlink(fixture->initrd);
    rmdir(fixture->folder);
    fixture_unmap_ram(fixture);
    free(fixture);
    return 0;
}

static inline void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static inline int boot_kernel(struct boot_fixture *fixture, const char *initrd, const char *cmdline)
{
    const struct boot_source source = { .kernel_path = fixture->kernel,
                                        .initrd_path = initrd,
                                        .cmdline = cmdline };

    memset(&fixture->err, 0, sizeof(fixture->err));
    return boot_load(&fixture->memory, &source, &fixture->entry, &fixture->err);
}

/* The kernel in the file is refused as a bad one, and the sentence says this. */
static inline void assert_bad_kernel(struct boot_fixture *fixture, const char *text)
{
    assert_stasis_fails(boot_kernel(fixture, NULL, NULL), &fixture->err, STASIS_ERR_BAD_KERNEL);
    if (!strstr(fixture->err.text, text))
        fail_msg("\"%s\" is not in: %s", text, fixture->err.text);
}

static inline uint64_t ram_number(const struct boot_fixture *fixture, uint64_t gpa, size_t size)
{
    uint64_t value = 0;

    memcpy(&value, fixture->ram + gpa, size);
    return value;
}

static inline void put_number(uint8_t *bytes, size_t offset, uint64_t value, size_t size)
{
    memcpy(bytes + offset, &value, size);
}

/* xorshift: the same kernels in every run. */
static inline uint64_t roll(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Nothing lies between the boot data and the ACPI area, whatever a kernel file says. */
static inline void assert_first_mib_is_ours(const struct boot_fixture *fixture)
{
    for (uint64_t gpa = 0x30000; gpa < MIB; gpa += 8)
        assert_int_equal(ram_number(fixture, gpa, 8), 0);
}

/* Flip bits of a good kernel: it is loaded or refused with a sentence, and never touches what is
 * not its own. The forbidden pages around RAM kill a test that does. */
static inline void assert_survives_bit_flips(struct boot_fixture *fixture, const uint8_t *good,
                                             size_t size, size_t head_size, unsigned rounds)
{
    uint64_t seed = 88172645463325252u;
    uint8_t *bad = malloc(size);

    assert_non_null(bad);
    for (unsigned i = 0; i < rounds; i++) {
        memcpy(bad, good, size);
        for (uint64_t flips = 1 + roll(&seed) % 8; flips > 0; flips--)
            bad[roll(&seed) % head_size] ^= (uint8_t)(1u << (roll(&seed) % 8));
        write_file(fixture->kernel, bad, size);
        if (boot_kernel(fixture, NULL, NULL) < 0)
            assert_int_equal(fixture->err.code, STASIS_ERR_BAD_KERNEL);
        assert_first_mib_is_ours(fixture);
    }
    free(bad);
}

/* Cut a good kernel at every length that `step` finds: refused, each of them. */
static inline void assert_refuses_cuts(struct boot_fixture *fixture, const uint8_t *good,
                                       size_t size, size_t step)
{
    for (size_t cut = 0; cut < size; cut += step) {
        write_file(fixture->kernel, good, cut);
        assert_stasis_fails(boot_kernel(fixture, NULL, NULL), &fixture->err, STASIS_ERR_BAD_KERNEL);
    }
}

#define boot_test(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

#endif
