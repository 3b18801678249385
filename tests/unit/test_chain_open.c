/* Goal:   a diff finds the files it builds on wherever the folder is moved to, takes no other file for one
 *         of them, and says by name what is wrong: missing, another, cut off, damaged, laid out otherwise.
 *         Long chains and large memories cost what is in them.
 * Method: files of a chain moved, replaced, cut and flipped; the map and the list of layers rewritten with
 *         their digests made right again. */
#include "unit.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "chain_fixture.h"
#include "native_craft.h"
#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct fixture_dir dir;
static struct chain_guest guest;
static struct stasis_memory copies[4];

/* Each case has a chain of its own: a full snapshot and three diffs. */
static int chain_setup(void **state)
{
    (void)state;
    fixture_dir_make(&dir);
    chain_guest_make(&guest, 3, 0x80000, 77);
    for (unsigned i = 0; i < COUNT(copies); i++) {
        char parent[FIXTURE_PATH_SIZE] = "";

        if (i > 0) {
            snprintf(parent, sizeof(parent), "%s", chain_path(&dir, i - 1));
            chain_guest_change(&guest, 10);
        }
        chain_guest_save(&guest, chain_path(&dir, i), i > 0 ? parent : NULL, NULL, NULL);
        chain_guest_copy(&guest, &copies[i]);
    }
    return 0;
}

static int chain_teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(copies); i++)
        stasis_memory_unmap(&copies[i]);
    chain_guest_release(&guest);
    fixture_dir_remove(&dir);
    return 0;
}

static struct stasis_snapshot *open_or_fail(const char *path)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_open(path, &snapshot, &err), &err);
    return snapshot;
}

/* The last diff opens, for that needs no other file; all that needs them fails with this code. */
static void expect_chain_broken(enum stasis_code code)
{
    struct stasis_snapshot *snapshot = open_or_fail(chain_path(&dir, 3));
    struct stasis_memory memory = { 0 };
    struct stasis_error err = { 0 };

    assert_stasis_fails(stasis_restore(snapshot, NULL, &memory, &err), &err, code);
    assert_null(memory.regions);
    assert_stasis_fails(stasis_verify(snapshot, NULL, NULL, &err), &err, code);
    assert_stasis_fails(stasis_flatten(snapshot, fixture_path(&dir, "flat"), NULL, NULL, &err),
                        &err, code);
    assert_int_equal(access(fixture_path(&dir, "flat"), F_OK), -1);
    stasis_close(snapshot);
}

static void a_layer_that_is_not_there_is_missed_by_name(void **state)
{
    (void)state;
    assert_int_equal(unlink(chain_path(&dir, 0)), 0);
    expect_chain_broken(STASIS_ERR_PARENT_MISSING);
}

static void another_snapshot_in_the_place_of_a_layer_is_not_taken_for_it(void **state)
{
    (void)state;
    assert_int_equal(unlink(chain_path(&dir, 0)), 0);
    assert_int_equal(link(chain_path(&dir, 1), chain_path(&dir, 0)), 0);
    expect_chain_broken(STASIS_ERR_WRONG_PARENT);
}

static void a_file_that_is_no_snapshot_is_not_taken_for_a_layer(void **state)
{
    auto_fd fd = open(chain_path(&dir, 0), O_WRONLY | O_TRUNC);

    (void)state;
    assert_int_equal(write(fd, "hello", 5), 5);
    expect_chain_broken(STASIS_ERR_WRONG_PARENT);
}

static void a_fifo_in_the_place_of_a_layer_blocks_nobody(void **state)
{
    (void)state;
    assert_int_equal(unlink(chain_path(&dir, 0)), 0);
    assert_int_equal(mkfifo(chain_path(&dir, 0), 0600), 0);
    expect_chain_broken(STASIS_ERR_NOT_REGULAR);
}

static void a_layer_that_was_cut_off_is_not_mapped(void **state)
{
    struct stat st;

    (void)state;
    assert_int_equal(stat(chain_path(&dir, 0), &st), 0);
    assert_int_equal(truncate(chain_path(&dir, 0), st.st_size - 1), 0);
    expect_chain_broken(STASIS_ERR_TRUNCATED);
}

static void a_layer_that_something_was_added_to_is_corrupt(void **state)
{
    struct stat st;

    (void)state;
    assert_int_equal(stat(chain_path(&dir, 0), &st), 0);
    assert_int_equal(truncate(chain_path(&dir, 0), st.st_size + 1), 0);
    expect_chain_broken(STASIS_ERR_CORRUPT);
}

static void a_chain_may_be_moved_as_a_folder(void **state)
{
    char moved[FIXTURE_PATH_SIZE + 16], path[FIXTURE_PATH_SIZE + 64];

    (void)state;
    snprintf(moved, sizeof(moved), "%s-moved", dir.path);
    assert_int_equal(rename(dir.path, moved), 0);
    snprintf(path, sizeof(path), "%s/d003.stasis", moved);
    chain_expect_memory(path, &copies[3]);
    assert_int_equal(rename(moved, dir.path), 0);
}

static void layers_are_found_from_the_real_place_of_the_file_not_from_a_symlink(void **state)
{
    char link_dir[FIXTURE_PATH_SIZE], link_path[FIXTURE_PATH_SIZE + 32];

    (void)state;
    snprintf(link_dir, sizeof(link_dir), "%s", fixture_path(&dir, "elsewhere"));
    assert_int_equal(mkdir(link_dir, 0700), 0);
    snprintf(link_path, sizeof(link_path), "%s/link", link_dir);
    assert_int_equal(symlink("../d003.stasis", link_path), 0);
    chain_expect_memory(link_path, &copies[3]);
    assert_int_equal(unlink(link_path), 0);
    assert_int_equal(rmdir(link_dir), 0);
}

static void layers_in_other_folders_are_found_from_each_depth(void **state)
{
    static const char *const folders[] = { "x", "x/y", "xz" };
    char parent[FIXTURE_PATH_SIZE], path[FIXTURE_PATH_SIZE];

    (void)state;
    snprintf(parent, sizeof(parent), "%s", chain_path(&dir, 3));
    for (unsigned i = 0; i < COUNT(folders); i++) {
        struct stasis_memory copy;
        char name[32];

        assert_int_equal(mkdir(fixture_path(&dir, folders[i]), 0700), 0);
        snprintf(name, sizeof(name), "%s/diff", folders[i]);
        snprintf(path, sizeof(path), "%s", fixture_path(&dir, name));
        chain_guest_change(&guest, 5);
        chain_guest_save(&guest, path, parent, NULL, NULL);
        chain_guest_copy(&guest, &copy);
        chain_expect_memory(path, &copy);
        stasis_memory_unmap(&copy);
        snprintf(parent, sizeof(parent), "%s", path);
    }
    for (unsigned i = COUNT(folders); i-- > 0;) {
        char name[32];

        snprintf(name, sizeof(name), "%s/diff", folders[i]);
        assert_int_equal(unlink(fixture_path(&dir, name)), 0);
    }
    assert_int_equal(rmdir(fixture_path(&dir, "x/y")), 0);
    assert_int_equal(rmdir(fixture_path(&dir, "x")), 0);
    assert_int_equal(rmdir(fixture_path(&dir, "xz")), 0);
}

static void damage_in_a_layer_is_named_with_the_layer_and_the_guest_page(void **state)
{
    struct stasis_damage damage = { 0 };
    const struct stasis_verify_options options = { .damage = &damage, .damage_max = 1 };
    struct stasis_verify_report report = { 0 };
    struct stasis_snapshot *snapshot = open_or_fail(chain_path(&dir, 3));
    const struct stasis_snapshot_info *info = stasis_snapshot_info(snapshot);
    struct stasis_error err = { 0 };
    struct craft file;

    (void)state;
    craft_load(&file, chain_path(&dir, 0));
    file.data[craft_field(&file, CRAFT_MEMORY, CRAFT_OFF, 8) + 3 * STASIS_BLOCK_SIZE + 5] ^= 1;
    craft_store(&file, chain_path(&dir, 0));
    craft_release(&file);
    assert_stasis_fails(stasis_verify(snapshot, &options, &report, &err), &err,
                        STASIS_ERR_DIGEST_MISMATCH);
    assert_int_equal(report.blocks_bad, 1);
    assert_int_equal(damage.layer, info->layer_count - 1);
    assert_string_equal(damage.section, "memory");
    assert_int_equal(damage.block, 3);
    assert_true(damage.has_gpa);
    assert_non_null(strstr(err.text, "d000.stasis"));
    stasis_close(snapshot);
}

static void assert_same_memory(const char *a, const char *b)
{
    struct craft x, y;
    uint64_t size;

    craft_load(&x, a);
    craft_load(&y, b);
    size = craft_field(&x, CRAFT_MEMORY, CRAFT_SIZE, 8);
    assert_int_equal(craft_field(&y, CRAFT_MEMORY, CRAFT_SIZE, 8), size);
    assert_memory_equal(x.data + craft_field(&x, CRAFT_MEMORY, CRAFT_OFF, 8),
                        y.data + craft_field(&y, CRAFT_MEMORY, CRAFT_OFF, 8), size);
    craft_release(&x);
    craft_release(&y);
}

/* Flatten reads only what it needs, and of that nothing unchecked: where a layer's data are all
 * superseded, or its digests say zero, the damage does not matter and the memory is right. */
static void damage_in_any_page_that_is_needed_stops_a_flatten(void **state)
{
    struct stasis_snapshot *snapshot = open_or_fail(chain_path(&dir, 3));
    struct stasis_error err = { 0 };
    unsigned refused = 0;
    char good[4096];

    (void)state;
    snprintf(good, sizeof(good), "%s", fixture_path(&dir, "good"));
    assert_stasis_ok(stasis_flatten(snapshot, good, NULL, NULL, &err), &err);
    for (unsigned depth = 0; depth < 4; depth++) {
        struct craft file, broken;
        uint64_t off, size;
        int r;

        craft_load(&file, chain_path(&dir, depth));
        craft_copy(&broken, &file);
        off = craft_field(&file, CRAFT_MEMORY, CRAFT_OFF, 8);
        size = craft_field(&file, CRAFT_MEMORY, CRAFT_SIZE, 8);
        for (uint64_t i = 0; i < size; i += STASIS_PAGE_SIZE)
            broken.data[off + i] ^= 0x80;
        craft_store(&broken, chain_path(&dir, depth));
        stasis_close(snapshot);
        snapshot = open_or_fail(chain_path(&dir, 3));
        r = stasis_flatten(snapshot, fixture_path(&dir, "flat"), NULL, NULL, &err);
        if (r == 0) {
            assert_same_memory(fixture_path(&dir, "flat"), good);
            unlink(fixture_path(&dir, "flat"));
        } else {
            assert_int_equal(err.code, STASIS_ERR_DIGEST_MISMATCH);
            assert_int_equal(access(fixture_path(&dir, "flat"), F_OK), -1);
            refused++;
        }
        craft_store(&file, chain_path(&dir, depth));
        craft_release(&file);
        craft_release(&broken);
    }
    stasis_close(snapshot);
    assert_true(refused >= 2);
}

/* --- writing on the wrong thing --- */

static int save_on(const char *path, const char *parent_path, const struct stasis_memory *memory,
                   struct stasis_error *err)
{
    struct stasis_snapshot *parent = open_or_fail(parent_path);
    const struct stasis_save_options options = { .parent = parent, .changed = &guest.changed };
    const int r = stasis_save(path, &guest.machine, memory, &options, NULL, err);

    stasis_close(parent);
    return r;
}

static void a_diff_does_not_replace_a_file_that_it_builds_on(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        const char *path = chain_path(&dir, i);

        assert_stasis_fails(save_on(path, chain_path(&dir, 3), &guest.memory, &err), &err,
                            STASIS_ERR_INVALID_ARGUMENT);
    }
    chain_expect_memory(chain_path(&dir, 3), &copies[3]);
}

static void a_parent_that_was_replaced_meanwhile_is_missing(void **state)
{
    struct stasis_snapshot *parent = open_or_fail(chain_path(&dir, 3));
    const struct stasis_save_options options = { .parent = parent, .changed = &guest.changed };
    struct stasis_error err = { 0 };

    (void)state;
    assert_int_equal(rename(chain_path(&dir, 2), chain_path(&dir, 3)), 0);
    assert_stasis_fails(
        stasis_save(fixture_path(&dir, "new"), &guest.machine, &guest.memory, &options, NULL, &err),
        &err, STASIS_ERR_PARENT_MISSING);
    assert_int_equal(access(fixture_path(&dir, "new"), F_OK), -1);
    stasis_close(parent);
}

static void compare_and_rebase_refuse_another_layout(void **state)
{
    struct stasis_compare_report report;
    struct stasis_snapshot *a, *b;
    struct stasis_error err = { 0 };
    struct chain_guest other;

    (void)state;
    chain_guest_make(&other, 6, 0x40000, 78);
    chain_guest_save(&other, fixture_path(&dir, "other"), NULL, NULL, NULL);
    chain_guest_release(&other);
    a = open_or_fail(chain_path(&dir, 3));
    b = open_or_fail(fixture_path(&dir, "other"));
    assert_stasis_fails(stasis_compare(a, b, NULL, &report, &err), &err,
                        STASIS_ERR_LAYOUT_MISMATCH);
    assert_stasis_fails(stasis_rebase(a, b, fixture_path(&dir, "new"), NULL, NULL, &err), &err,
                        STASIS_ERR_LAYOUT_MISMATCH);
    stasis_close(a);
    stasis_close(b);
}

static void a_full_file_from_a_damaged_parent_does_not_hide_the_damage(void **state)
{
    struct stasis_snapshot *parent;
    struct stasis_save_options options = { .full_from_parent = true, .changed = &guest.changed };
    struct stasis_error err = { 0 };
    struct craft file;

    (void)state;
    craft_load(&file, chain_path(&dir, 0));
    file.data[craft_field(&file, CRAFT_MEMORY, CRAFT_OFF, 8) + STASIS_PAGE_SIZE] ^= 1;
    craft_store(&file, chain_path(&dir, 0));
    craft_release(&file);
    stasis_page_set_add(&guest.changed, 0, 1); /* of the same block, but another page */
    parent = open_or_fail(chain_path(&dir, 0));
    options.parent = parent;
    assert_stasis_fails(
        stasis_save(fixture_path(&dir, "new"), &guest.machine, &guest.memory, &options, NULL, &err),
        &err, STASIS_ERR_DIGEST_MISMATCH);
    stasis_close(parent);
}

/* --- reading --- */

static void a_reader_gives_the_pages_of_every_depth_and_none_beyond(void **state)
{
    uint8_t *buf = malloc(guest.page_count * STASIS_PAGE_SIZE);

    (void)state;
    assert_non_null(buf);
    for (unsigned depth = 0; depth < 4; depth++) {
        struct stasis_snapshot *snapshot = open_or_fail(chain_path(&dir, depth));
        struct stasis_reader *reader = NULL;
        struct stasis_error err = { 0 };
        uint64_t random = depth;
        const uint8_t *at = buf;

        assert_stasis_ok(stasis_reader_open(snapshot, &reader, &err), &err);
        for (uint64_t page = 0; page < guest.page_count;) {
            uint64_t count = 1 + fixture_random(&random) % 40;

            if (count > guest.page_count - page)
                count = guest.page_count - page;
            assert_stasis_ok(
                stasis_reader_read(reader, page, count, buf + page * STASIS_PAGE_SIZE, &err), &err);
            page += count;
        }
        for (size_t i = 0; i < copies[depth].region_count; i++) {
            assert_memory_equal(at, copies[depth].regions[i].hva, copies[depth].regions[i].size);
            at += copies[depth].regions[i].size;
        }
        assert_stasis_fails(stasis_reader_read(reader, guest.page_count, 1, buf, &err), &err,
                            STASIS_ERR_INVALID_ARGUMENT);
        assert_stasis_fails(stasis_reader_read(reader, UINT64_MAX, 2, buf, &err), &err,
                            STASIS_ERR_INVALID_ARGUMENT);
        stasis_reader_close(reader);
        stasis_close(snapshot);
    }
    free(buf);
}

static void expect_same_as_file(struct stasis_snapshot *snapshot, unsigned depth)
{
    struct stasis_memory memory = { 0 };
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_verify(snapshot, NULL, NULL, &err), &err);
    assert_stasis_ok(stasis_restore(snapshot, NULL, &memory, &err), &err);
    stasis_close(snapshot);
    assert_true(fixture_memory_equal(&memory, &copies[depth]));
    stasis_memory_unmap(&memory);
}

static void snapshots_in_buffers_and_descriptors_are_those_in_files(void **state)
{
    (void)state;
    for (unsigned depth = 0; depth < 4; depth += 3) {
        struct stasis_snapshot *snapshot = NULL;
        struct stasis_error err = { 0 };
        struct craft file;
        int fd = open(chain_path(&dir, depth), O_RDONLY);

        craft_load(&file, chain_path(&dir, depth));
        assert_stasis_ok(stasis_open_buffer(file.data, file.size, dir.path, &snapshot, &err), &err);
        memset(file.data, 0xee, file.size);
        craft_release(&file);
        expect_same_as_file(snapshot, depth);
        assert_stasis_ok(stasis_open_fd(fd, dir.path, &snapshot, &err), &err);
        close(fd);
        expect_same_as_file(snapshot, depth);
    }
}

static void a_diff_without_a_directory_has_no_parent(void **state)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_memory memory = { 0 };
    struct stasis_error err = { 0 };
    auto_fd fd = open(chain_path(&dir, 2), O_RDONLY);
    auto_fd pipe_end = open(dir.path, O_RDONLY);

    (void)state;
    assert_stasis_ok(stasis_open_fd(fd, NULL, &snapshot, &err), &err);
    assert_stasis_fails(stasis_restore(snapshot, NULL, &memory, &err), &err,
                        STASIS_ERR_PARENT_MISSING);
    stasis_close(snapshot);
    assert_stasis_fails(stasis_open_fd(fd, "/nonexistent", &snapshot, &err), &err,
                        STASIS_ERR_NOT_FOUND);
    assert_stasis_fails(stasis_open_fd(pipe_end, NULL, &snapshot, &err), &err,
                        STASIS_ERR_NOT_REGULAR);
    assert_stasis_fails(stasis_open_buffer("hello", 5, NULL, &snapshot, &err), &err,
                        STASIS_ERR_BAD_MAGIC);
}

/* --- maps and lists that no writer writes --- */

static void expect_refused(const struct craft *file, enum stasis_code code)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_error err = { 0 };

    craft_store(file, fixture_path(&dir, "bad"));
    assert_stasis_fails(stasis_open(fixture_path(&dir, "bad"), &snapshot, &err), &err, code);
    assert_null(snapshot);
}

/* One number of a section changed, and the file sealed again. */
static void refuse_change(const struct craft *sound, uint32_t type, uint64_t off, unsigned size,
                          uint64_t value, enum stasis_code code)
{
    struct craft file;

    craft_copy(&file, sound);
    craft_put(&file, craft_field(&file, type, CRAFT_OFF, 8) + off, size, value);
    craft_seal(&file);
    expect_refused(&file, code);
    craft_release(&file);
}

static void a_map_that_breaks_a_rule_is_refused(void **state)
{
    struct craft sound;
    uint64_t count;

    (void)state;
    craft_load(&sound, chain_path(&dir, 3));
    count = craft_field(&sound, CRAFT_EXTENTS, CRAFT_SIZE, 8) / 24;
    assert_in_range(count, 4, 100000);
    refuse_change(&sound, CRAFT_EXTENTS, 0, 8, 1, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_EXTENTS, 24, 8, 0, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_EXTENTS, 24, 8, UINT64_MAX, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_EXTENTS, (count - 1) * 24, 8, guest.page_count, STASIS_ERR_CORRUPT);
    for (uint64_t i = 0; i < count; i++) {
        refuse_change(&sound, CRAFT_EXTENTS, i * 24 + 8, 8, UINT64_C(1) << 60, STASIS_ERR_CORRUPT);
        refuse_change(&sound, CRAFT_EXTENTS, i * 24 + 8, 8, UINT64_MAX, STASIS_ERR_CORRUPT);
        refuse_change(&sound, CRAFT_EXTENTS, i * 24 + 16, 4, 77, STASIS_ERR_CORRUPT);
        refuse_change(&sound, CRAFT_EXTENTS, i * 24 + 20, 4, 3, STASIS_ERR_CORRUPT);
        refuse_change(&sound, CRAFT_EXTENTS, i * 24 + 20, 4, 0, STASIS_ERR_CORRUPT);
    }
    craft_release(&sound);
}

static void a_list_of_layers_that_breaks_a_rule_is_refused(void **state)
{
    struct craft sound;

    (void)state;
    craft_load(&sound, chain_path(&dir, 3));
    refuse_change(&sound, CRAFT_LAYERS, 0, 4, 0, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 0, 4, 1, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 0, 4, UINT32_MAX, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 4, 4, 1, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 4, 4, UINT32_MAX, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 32, 2, 3, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 34, 2, 0, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 34, 2, 0xffff, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 36, 4, 1, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 40, 8, 0, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 48, 8, 4097, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 48, 8, 0, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 48, 8, UINT64_MAX - 4095, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 56, 8, UINT64_C(1) << 50, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 56, 8, 1, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 64, 8, 1, STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 72, 1, '/', STASIS_ERR_CORRUPT);
    refuse_change(&sound, CRAFT_LAYERS, 8 + 72, 1, 0, STASIS_ERR_CORRUPT);
    craft_release(&sound);
}

static void a_diff_needs_its_map_and_its_layers(void **state)
{
    struct craft file;

    (void)state;
    for (uint32_t type = CRAFT_EXTENTS; type <= CRAFT_LAYERS; type++) {
        craft_load(&file, chain_path(&dir, 3));
        craft_set_field(&file, type, CRAFT_FLAGS, 2, 0);
        craft_set_field(&file, type, CRAFT_VERSION, 2, 9);
        craft_seal(&file);
        expect_refused(&file, STASIS_ERR_CORRUPT);
        craft_release(&file);
    }
}

static void a_full_snapshot_has_no_map(void **state)
{
    struct craft file;
    uint8_t entry[CRAFT_ENTRY];

    (void)state;
    craft_load(&file, chain_path(&dir, 0));
    memcpy(entry, file.data + craft_entry(&file, CRAFT_META), sizeof(entry));
    entry[CRAFT_TYPE] = CRAFT_EXTENTS;
    entry[CRAFT_FLAGS] = 1;
    memset(entry + CRAFT_SIZE, 0, 8);
    craft_append_entry(&file, entry);
    craft_seal(&file);
    expect_refused(&file, STASIS_ERR_CRITICAL_SECTION);
    craft_release(&file);
}

static void a_bit_flipped_in_any_section_of_a_diff_is_found(void **state)
{
    struct craft file;

    (void)state;
    for (uint32_t type = CRAFT_MEMORY; type <= CRAFT_LAYERS; type++) {
        struct stasis_snapshot *snapshot = NULL;
        struct stasis_error err = { 0 };
        int r;

        craft_load(&file, chain_path(&dir, 3));
        file.data[craft_field(&file, type, CRAFT_OFF, 8) +
                  craft_field(&file, type, CRAFT_SIZE, 8) / 2] ^= 8;
        craft_store(&file, fixture_path(&dir, "bad"));
        r = stasis_open(fixture_path(&dir, "bad"), &snapshot, &err);
        if (r == 0)
            r = stasis_verify(snapshot, NULL, NULL, &err);
        assert_int_equal(r, -EBADMSG);
        assert_int_equal(err.code, STASIS_ERR_DIGEST_MISMATCH);
        stasis_close(snapshot);
        craft_release(&file);
    }
}

/* --- size --- */

static void a_chain_of_a_thousand_layers_opens_and_restores(void **state)
{
    const unsigned depth = 1000;
    struct stasis_memory copy;
    struct stasis_snapshot *snapshot;
    struct chain_guest long_guest;
    char parent[FIXTURE_PATH_SIZE];

    (void)state;
    chain_guest_make(&long_guest, 1, 0x800000, 5);
    while (long_guest.page_count < depth + 1) {
        const uint64_t seed = long_guest.random;

        chain_guest_release(&long_guest);
        chain_guest_make(&long_guest, 3, 0x800000, seed);
    }
    chain_guest_save(&long_guest, fixture_path(&dir, "l0"), NULL, NULL, NULL);
    snprintf(parent, sizeof(parent), "%s", fixture_path(&dir, "l0"));
    for (unsigned i = 1; i <= depth; i++) {
        char name[32];

        snprintf(name, sizeof(name), "l%u", i);
        memset(chain_guest_page(&long_guest, i), (int)(i % 255 + 1), 64);
        stasis_page_set_add(&long_guest.changed, i, 1);
        chain_guest_save(&long_guest, fixture_path(&dir, name), parent, NULL, NULL);
        snprintf(parent, sizeof(parent), "%s", fixture_path(&dir, name));
    }
    chain_guest_copy(&long_guest, &copy);
    snapshot = open_or_fail(parent);
    assert_int_equal(stasis_snapshot_info(snapshot)->layer_count, depth + 1);
    assert_int_equal(stasis_snapshot_info(snapshot)->ancestor_count, depth);
    stasis_close(snapshot);
    chain_expect_memory(parent, &copy);
    stasis_memory_unmap(&copy);
    chain_guest_release(&long_guest);
}

/* Mappings of this process, as /proc lists them. */
static size_t count_mappings(void)
{
    auto_file maps = fopen("/proc/self/maps", "re");
    size_t count = 0;
    int c;

    assert_non_null(maps);
    while ((c = getc(maps)) != EOF)
        count += c == '\n';
    return count;
}

static void a_gigabyte_with_crumbs_everywhere_restores_with_few_mappings(void **state)
{
    const struct fixture_region regions[] = { { 0, UINT64_C(1) << 30 } };
    struct stasis_memory memory = { 0 };
    struct stasis_snapshot *snapshot;
    struct stasis_error err = { 0 };
    struct chain_guest big = { .random = 1 };
    size_t before;

    (void)state;
    fixture_x86_machine(&big.machine, 1, 1);
    fixture_memory(&big.memory, regions, 1, 100, 1);
    big.page_count = regions[0].size / STASIS_PAGE_SIZE;
    assert_int_equal(stasis_page_set_init(&big.changed, big.page_count, NULL), 0);
    for (uint64_t page = 0; page < big.page_count; page += 1000)
        *chain_guest_page(&big, page) = 1;
    chain_guest_save(&big, fixture_path(&dir, "big0"), NULL, NULL, NULL);
    for (uint64_t page = 7; page < big.page_count; page += 100) {
        *chain_guest_page(&big, page) = 2;
        stasis_page_set_add(&big.changed, page, 1);
    }
    chain_guest_save(&big, fixture_path(&dir, "big1"), fixture_path(&dir, "big0"), NULL, NULL);

    snapshot = open_or_fail(fixture_path(&dir, "big1"));
    before = count_mappings();
    assert_stasis_ok(stasis_restore(snapshot, NULL, &memory, &err), &err);
    assert_in_range(count_mappings(), before, before + 8);
    for (uint64_t page = 0; page < big.page_count; page++) {
        const uint8_t *bytes = (const uint8_t *)memory.regions[0].hva + page * STASIS_PAGE_SIZE;

        assert_int_equal(*bytes, page % 100 == 7 ? 2 : page % 1000 == 0 ? 1 : 0);
    }
    stasis_memory_unmap(&memory);
    stasis_close(snapshot);
    chain_guest_release(&big);
}

int main(void)
{
#define case_(name) cmocka_unit_test_setup_teardown(name, chain_setup, chain_teardown)
    static const struct CMUnitTest tests[] = {
        case_(a_layer_that_is_not_there_is_missed_by_name),
        case_(another_snapshot_in_the_place_of_a_layer_is_not_taken_for_it),
        case_(a_file_that_is_no_snapshot_is_not_taken_for_a_layer),
        case_(a_fifo_in_the_place_of_a_layer_blocks_nobody),
        case_(a_layer_that_was_cut_off_is_not_mapped),
        case_(a_layer_that_something_was_added_to_is_corrupt),
        case_(a_chain_may_be_moved_as_a_folder),
        case_(layers_are_found_from_the_real_place_of_the_file_not_from_a_symlink),
        case_(layers_in_other_folders_are_found_from_each_depth),
        case_(damage_in_a_layer_is_named_with_the_layer_and_the_guest_page),
        case_(damage_in_any_page_that_is_needed_stops_a_flatten),
        case_(a_diff_does_not_replace_a_file_that_it_builds_on),
        case_(a_parent_that_was_replaced_meanwhile_is_missing),
        case_(compare_and_rebase_refuse_another_layout),
        case_(a_full_file_from_a_damaged_parent_does_not_hide_the_damage),
        case_(a_reader_gives_the_pages_of_every_depth_and_none_beyond),
        case_(snapshots_in_buffers_and_descriptors_are_those_in_files),
        case_(a_diff_without_a_directory_has_no_parent),
        case_(a_map_that_breaks_a_rule_is_refused),
        case_(a_list_of_layers_that_breaks_a_rule_is_refused),
        case_(a_diff_needs_its_map_and_its_layers),
        case_(a_full_snapshot_has_no_map),
        case_(a_bit_flipped_in_any_section_of_a_diff_is_found),
        case_(a_chain_of_a_thousand_layers_opens_and_restores),
        case_(a_gigabyte_with_crumbs_everywhere_restores_with_few_mappings),
    };
    return unit_run(tests);
}
