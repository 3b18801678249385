/* Goal:   one damaged byte anywhere in a section is found, and reported at its place and nowhere else.
 * Method: a snapshot is opened, then its file is changed under it; reports are compared with what was
 *         changed. Memory has several regions, whose edges do not fall on blocks. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <stasis/snapshot.h>

#include "native_craft.h"
#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BLOCK ((uint64_t)STASIS_BLOCK_SIZE)
#define DAMAGE_MAX 100

/* 24 MiB, so that the digests are more than one chunk; the second region begins within a block. */
static const struct fixture_region regions[] = { { 0, 0x23000 },
                                                 { 0x100000, 0x1700000 },
                                                 { UINT64_C(1) << 32, 0x9000 } };

struct context {
    struct fixture_dir dir;
    struct stasis_machine machine;
    struct stasis_memory memory;
    struct craft file;
    struct stasis_snapshot *snapshot; /* open, while its file is changed */
    int fd;
    struct stasis_damage damage[DAMAGE_MAX];
    struct stasis_verify_report report;
    struct stasis_error err;
};

static enum stasis_digest_kind digest_kind;

static int setup(void **state)
{
    const struct stasis_save_options options = { .digest = digest_kind };
    struct context *c = calloc(1, sizeof(*c));
    const char *path;

    if (!c)
        return -1;
    *state = c;
    fixture_dir_make(&c->dir);
    path = fixture_path(&c->dir, "a.stasis");
    fixture_x86_machine(&c->machine, 1, 1);
    fixture_memory(&c->memory, regions, COUNT(regions), 50, 3);
    if (stasis_save(path, &c->machine, &c->memory, &options, NULL, &c->err) < 0 ||
        stasis_open(path, &c->snapshot, &c->err) < 0) {
        print_error("%s\n", c->err.text);
        return -1;
    }
    craft_load(&c->file, path);
    c->fd = open(path, O_RDWR | O_CLOEXEC);
    return c->fd < 0 ? -1 : 0;
}

static int setup_xxh3(void **state)
{
    digest_kind = STASIS_DIGEST_XXH3_128;
    return setup(state);
}

static int setup_sha256(void **state)
{
    digest_kind = STASIS_DIGEST_SHA256;
    return setup(state);
}

static int teardown(void **state)
{
    struct context *c = *state;

    stasis_close(c->snapshot);
    close(c->fd);
    craft_release(&c->file);
    stasis_machine_release(&c->machine);
    stasis_memory_unmap(&c->memory);
    fixture_dir_remove(&c->dir);
    free(c);
    return 0;
}

static int verify_with(struct context *c, unsigned thread_count, size_t damage_max)
{
    const struct stasis_verify_options options = { .thread_count = thread_count,
                                                   .damage_max = damage_max,
                                                   .damage = c->damage };

    memset(c->damage, 0xee, sizeof(c->damage)); /* what is not filled in must be cleared */
    c->err = (struct stasis_error){ 0 };
    return stasis_verify(c->snapshot, &options, &c->report, &c->err);
}

static void flip(struct context *c, uint64_t at)
{
    uint8_t byte;

    assert_int_equal(pread(c->fd, &byte, 1, (off_t)at), 1);
    byte ^= (uint8_t)(1u << (at % 8));
    assert_int_equal(pwrite(c->fd, &byte, 1, (off_t)at), 1);
}

static uint64_t section_off(const struct context *c, uint32_t type)
{
    return craft_field(&c->file, type, CRAFT_OFF, 8);
}

static uint64_t section_size(const struct context *c, uint32_t type)
{
    return craft_field(&c->file, type, CRAFT_SIZE, 8);
}

static void expect_one_damage(struct context *c, const char *section, uint64_t block, uint64_t off,
                              uint64_t size)
{
    assert_stasis_fails(verify_with(c, 2, DAMAGE_MAX), &c->err, STASIS_ERR_DIGEST_MISMATCH);
    assert_string_equal(c->damage[0].section, section);
    assert_true(c->damage[0].block == block);
    assert_true(c->damage[0].file_off == off);
    assert_true(c->damage[0].size == size);
    assert_string_equal(c->damage[1].section, "");
    assert_true(c->report.blocks_bad == 1);
    assert_non_null(strstr(c->err.text, section));
}

static void flip_and_expect(struct context *c, uint64_t at, const char *section, uint64_t block,
                            uint64_t off, uint64_t size)
{
    flip(c, at);
    expect_one_damage(c, section, block, off, size);
    flip(c, at);
}

static void a_sound_snapshot_has_no_damage(void **state)
{
    struct context *c = *state;
    const uint64_t memory_size = stasis_memory_size(&c->memory);
    uint64_t bytes = 4096 + 6 * (uint64_t)CRAFT_ENTRY;

    for (uint32_t type = CRAFT_MEMORY; type <= CRAFT_INDEX; type++)
        bytes += section_size(c, type);
    assert_stasis_ok(verify_with(c, 0, DAMAGE_MAX), &c->err);
    assert_true(c->report.blocks_bad == 0);
    assert_true(c->report.bytes_checked == bytes);
    assert_true(c->report.blocks_checked > memory_size / BLOCK);
    assert_string_equal(c->damage[0].section, "");
    assert_string_equal(c->damage[DAMAGE_MAX - 1].section, "");
    assert_stasis_ok(stasis_verify(c->snapshot, NULL, NULL, NULL), &c->err);
}

static void damage_in_superblock_and_table_is_reported_as_such(void **state)
{
    struct context *c = *state;
    const uint64_t table_off = craft_get(&c->file, CRAFT_TABLE_OFF, 8);

    for (uint64_t at = 0; at < 4096; at += 131)
        flip_and_expect(c, at, "superblock", 0, 0, 4096);
    for (uint64_t at = 0; at < 6 * CRAFT_ENTRY; at += 29)
        flip_and_expect(c, table_off + at, "section table", 0, table_off, 6 * CRAFT_ENTRY);
}

static void damage_in_each_section_hashed_whole_is_reported_as_its_own(void **state)
{
    static const char *const names[] = { [CRAFT_MACHINE] = "machine",
                                         [CRAFT_LAYOUT] = "layout",
                                         [CRAFT_META] = "meta",
                                         [CRAFT_INDEX] = "digest index" };
    struct context *c = *state;

    for (uint32_t type = CRAFT_MACHINE; type <= CRAFT_INDEX; type++) {
        if (type == CRAFT_DIGESTS)
            continue;
        for (uint64_t at = 0; at < section_size(c, type); at += 1 + section_size(c, type) / 20)
            flip_and_expect(c, section_off(c, type) + at, names[type], 0, section_off(c, type),
                            section_size(c, type));
    }
}

/* And not as that of the memory blocks whose digests they are. */
static void a_damaged_digest_is_the_damage_of_the_digests(void **state)
{
    struct context *c = *state;
    const uint64_t off = section_off(c, CRAFT_DIGESTS), size = section_size(c, CRAFT_DIGESTS);

    assert_true(size > 4096);
    for (uint64_t at = 0; at < size; at += 397) {
        const uint64_t chunk = at / 4096;
        const uint64_t left = size - chunk * 4096;

        flip_and_expect(c, off + at, "digests", chunk, off + chunk * 4096,
                        left < 4096 ? left : 4096);
    }
}

static uint64_t gpa_of(const struct context *c, uint64_t linear)
{
    for (size_t i = 0; i < c->memory.region_count; i++) {
        if (linear < c->memory.regions[i].size)
            return c->memory.regions[i].gpa + linear;
        linear -= c->memory.regions[i].size;
    }
    fail_msg("beyond memory");
    return 0;
}

static void damage_in_memory_says_which_block_and_where_in_the_guest(void **state)
{
    struct context *c = *state;
    const uint64_t off = section_off(c, CRAFT_MEMORY), size = section_size(c, CRAFT_MEMORY);

    for (uint64_t at = 5; at < size; at += 11 * BLOCK + 12347) {
        const uint64_t block = at / BLOCK;
        const uint64_t left = size - block * BLOCK;

        flip_and_expect(c, off + at, "memory", block, off + block * BLOCK,
                        left < BLOCK ? left : BLOCK);
        assert_true(c->damage[0].has_gpa);
        assert_true(c->damage[0].gpa == gpa_of(c, block * BLOCK));
    }
    flip_and_expect(c, off + size - 1, "memory", (size - 1) / BLOCK,
                    off + (size - 1) / BLOCK * BLOCK, (size - 1) % BLOCK + 1);
}

static void the_text_names_block_and_places(void **state)
{
    struct context *c = *state;

    flip(c, section_off(c, CRAFT_MEMORY) + 17 * BLOCK);
    assert_true(verify_with(c, 1, 0) < 0);
    assert_string_equal(c->err.text, "memory block 17 (file offset 0x310000, guest 0x1ed000): "
                                     "digest mismatch");
}

/* A hole must have the zero digest, and only a zero block may have it. */
static void data_lost_to_a_hole_is_damage_and_so_is_data_in_one(void **state)
{
    struct context *c = *state;
    const uint64_t off = section_off(c, CRAFT_MEMORY);
    const uint64_t block_count = section_size(c, CRAFT_MEMORY) / BLOCK;
    unsigned hole_count = 0, data_count = 0;

    for (uint64_t block = 0; block < block_count; block += 5) {
        static uint8_t zeros[STASIS_BLOCK_SIZE];
        const uint8_t *bytes = c->file.data + off + block * BLOCK;
        const bool is_hole = memcmp(bytes, zeros, BLOCK) == 0;

        if (is_hole)
            flip(c, off + block * BLOCK + 77);
        else
            assert_int_equal(fallocate(c->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                       (off_t)(off + block * BLOCK), STASIS_BLOCK_SIZE),
                             0);
        expect_one_damage(c, "memory", block, off + block * BLOCK, BLOCK);
        assert_int_equal(pwrite(c->fd, bytes, BLOCK, (off_t)(off + block * BLOCK)), BLOCK);
        hole_count += is_hole;
        data_count += !is_hole;
    }
    assert_true(hole_count > 0 && data_count > 0);
    assert_stasis_ok(verify_with(c, 1, 0), &c->err);
}

static void zeros_written_out_are_as_good_as_a_hole(void **state)
{
    static uint8_t zeros[STASIS_BLOCK_SIZE];
    struct context *c = *state;
    const uint64_t off = section_off(c, CRAFT_MEMORY);

    for (uint64_t block = 0; block < section_size(c, CRAFT_MEMORY) / BLOCK; block++) {
        if (memcmp(c->file.data + off + block * BLOCK, zeros, BLOCK) == 0)
            assert_int_equal(pwrite(c->fd, zeros, BLOCK, (off_t)(off + block * BLOCK)), BLOCK);
    }
    assert_stasis_ok(verify_with(c, 2, 0), &c->err);
}

static void every_bad_block_is_reported_sorted_by_place(void **state)
{
    struct context *c = *state;
    const uint64_t off = section_off(c, CRAFT_MEMORY);
    const unsigned bad_count = 37;

    for (unsigned i = 0; i < bad_count; i++)
        flip(c, off + i * 9 * BLOCK);
    for (unsigned thread_count = 1; thread_count <= 5; thread_count += 2) {
        assert_true(verify_with(c, thread_count, DAMAGE_MAX) < 0);
        assert_true(c->report.blocks_bad == bad_count);
        for (unsigned i = 0; i < bad_count; i++)
            assert_true(c->damage[i].block == i * 9);
        assert_string_equal(c->damage[bad_count].section, "");
        assert_non_null(strstr(c->err.text, "memory block 0 "));
        assert_non_null(strstr(c->err.text, "37 blocks are bad"));

        /* Fewer entries than damage: the lowest are kept, and all are counted. */
        assert_true(verify_with(c, thread_count, 3) < 0);
        assert_true(c->report.blocks_bad == bad_count);
        for (unsigned i = 0; i < 3; i++)
            assert_true(c->damage[i].block == i * 9);
        assert_int_equal(c->damage[3].section[0], (char)0xee); /* not ours to touch */
    }
}

static void damage_on_several_levels_is_all_reported(void **state)
{
    struct context *c = *state;

    flip(c, 100);
    flip(c, section_off(c, CRAFT_MEMORY) + section_size(c, CRAFT_MEMORY) - 1);
    flip(c, section_off(c, CRAFT_MACHINE));
    flip(c, section_off(c, CRAFT_DIGESTS));
    assert_true(verify_with(c, 2, DAMAGE_MAX) < 0);
    assert_string_equal(c->damage[0].section, "superblock");
    assert_string_equal(c->damage[1].section, "memory");
    assert_string_equal(c->damage[2].section, "machine");
    assert_string_equal(c->damage[3].section, "digests");
    assert_true(c->report.blocks_bad == 4);
}

static void a_file_that_has_shrunk_is_truncated(void **state)
{
    struct context *c = *state;
    int r;

    assert_int_equal(ftruncate(c->fd, (off_t)c->file.size - 1), 0);
    r = verify_with(c, 1, 0);
    assert_int_equal(r, -EBADMSG);
    assert_stasis_fails(r, &c->err, STASIS_ERR_TRUNCATED);
}

static int cancel_at_once(void *arg, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    ++*(unsigned *)arg;
    return 1;
}

static int never_cancel(void *arg, uint64_t done, uint64_t total)
{
    uint64_t *seen = arg;

    seen[0] = done;
    seen[1] = total;
    return 0;
}

static void a_verification_can_be_cancelled(void **state)
{
    struct context *c = *state;
    unsigned call_count = 0;
    const struct stasis_verify_options options = { .thread_count = 3,
                                                   .progress = cancel_at_once,
                                                   .progress_arg = &call_count };
    struct stasis_verify_report report = { .blocks_bad = 77 };

    assert_int_equal(stasis_verify(c->snapshot, &options, &report, &c->err), -ECANCELED);
    assert_int_equal(c->err.code, STASIS_ERR_CANCELLED);
    assert_int_equal(call_count, 1);
    assert_true(report.blocks_bad == 77);
}

static void progress_ends_at_the_total(void **state)
{
    struct context *c = *state;
    uint64_t seen[2] = { 0 };
    const struct stasis_verify_options options = { .progress = never_cancel, .progress_arg = seen };

    assert_stasis_ok(stasis_verify(c->snapshot, &options, &c->report, &c->err), &c->err);
    assert_true(seen[0] == seen[1]);
    assert_true(seen[0] == c->report.bytes_checked);
}

/* A section of a type that this version does not know is checked all the same. */
static void damage_in_an_unknown_section_is_found(void **state)
{
    struct context *c = *state;
    const char *path = fixture_path(&c->dir, "unknown.stasis");
    const uint64_t off = section_off(c, CRAFT_META);

    craft_set_field(&c->file, CRAFT_META, CRAFT_TYPE, 4, 0x80000001);
    craft_seal(&c->file);
    craft_store(&c->file, path);
    stasis_close(c->snapshot);
    c->snapshot = NULL;
    close(c->fd);
    c->fd = open(path, O_RDWR | O_CLOEXEC);
    assert_stasis_ok(stasis_open(path, &c->snapshot, &c->err), &c->err);
    assert_stasis_ok(verify_with(c, 1, DAMAGE_MAX), &c->err);
    flip(c, off);
    expect_one_damage(c, "section 0x80000001", 0, off, section_size(c, 0x80000001));
}

#define xxh3(name) cmocka_unit_test_setup_teardown(name, setup_xxh3, teardown)
#define sha256(name)                                                                               \
    {                                                                                              \
#name "_by_sha256", name, setup_sha256, teardown, NULL                                     \
    }

int main(void)
{
    static const struct CMUnitTest tests[] = {
        xxh3(a_sound_snapshot_has_no_damage),
        xxh3(damage_in_superblock_and_table_is_reported_as_such),
        xxh3(damage_in_each_section_hashed_whole_is_reported_as_its_own),
        xxh3(a_damaged_digest_is_the_damage_of_the_digests),
        xxh3(damage_in_memory_says_which_block_and_where_in_the_guest),
        xxh3(the_text_names_block_and_places),
        xxh3(data_lost_to_a_hole_is_damage_and_so_is_data_in_one),
        xxh3(zeros_written_out_are_as_good_as_a_hole),
        xxh3(every_bad_block_is_reported_sorted_by_place),
        xxh3(damage_on_several_levels_is_all_reported),
        xxh3(a_file_that_has_shrunk_is_truncated),
        xxh3(a_verification_can_be_cancelled),
        xxh3(progress_ends_at_the_total),
        xxh3(damage_in_an_unknown_section_is_found),
        sha256(a_sound_snapshot_has_no_damage),
        sha256(a_damaged_digest_is_the_damage_of_the_digests),
        sha256(damage_in_memory_says_which_block_and_where_in_the_guest),
    };

    return unit_run(tests);
}
