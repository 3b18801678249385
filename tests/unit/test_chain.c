/* Goal:   every snapshot of a chain of diffs restores to what memory was when it was taken, its map
 *         and counts are exact, and it opens for as long as its layers are where they were.
 * Method: a guest changed page by page against a copy of it after each step; random layouts. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chain_fixture.h"
#include "native_craft.h"
#include "snapshot_fixture.h"

#define CHAIN_MAX 51

static struct fixture_dir dir;

static int group_setup(void **state)
{
    (void)state;
    fixture_dir_make(&dir);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    fixture_dir_remove(&dir);
    return 0;
}

/* A chain of `depth` diffs on a full snapshot; memory after each step. */
static void make_chain(struct chain_guest *guest, unsigned depth, unsigned percent,
                       struct stasis_memory *ret_copies)
{
    for (unsigned i = 0; i <= depth; i++) {
        char parent[FIXTURE_PATH_SIZE] = "";

        if (i > 0) {
            snprintf(parent, sizeof(parent), "%s", chain_path(&dir, i - 1));
            chain_guest_change(guest, percent);
        }
        chain_guest_save(guest, chain_path(&dir, i), i > 0 ? parent : NULL, NULL, NULL);
        chain_guest_copy(guest, &ret_copies[i]);
    }
}

static void release_copies(struct stasis_memory *copies, unsigned depth)
{
    for (unsigned i = 0; i <= depth; i++)
        stasis_memory_unmap(&copies[i]);
}

static void every_depth_of_a_chain_restores_to_what_memory_was(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        const unsigned depth = 1 + (unsigned)(seed * 7 % 50);
        struct stasis_memory copies[CHAIN_MAX];
        struct chain_guest guest;

        chain_guest_make(&guest, 5, seed % 3 == 0 ? 0x400000 : 0x40000, seed);
        make_chain(&guest, depth, seed % 4 == 0 ? 40 : 3, copies);
        for (unsigned i = 0; i <= depth; i++)
            chain_expect_memory(chain_path(&dir, i), &copies[i]);
        release_copies(copies, depth);
        chain_guest_release(&guest);
    }
}

/* --- what a file of a chain is made of --- */

static struct stasis_snapshot *open_or_fail(const char *path)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_open(path, &snapshot, &err), &err);
    return snapshot;
}

static void a_diff_holds_changed_data_pages_once_and_zero_pages_not_at_all(void **state)
{
    (void)state;
    for (uint64_t seed = 100; seed < 110; seed++) {
        struct stasis_save_report report = { 0 };
        const struct stasis_snapshot_info *info;
        struct stasis_snapshot *snapshot;
        struct chain_guest guest;
        char parent[FIXTURE_PATH_SIZE];
        uint64_t data_pages = 0, changed_pages = 0;

        chain_guest_make(&guest, 4, 0x80000, seed);
        snprintf(parent, sizeof(parent), "%s", chain_path(&dir, 0));
        chain_guest_save(&guest, parent, NULL, NULL, NULL);
        chain_guest_change(&guest, 10);
        for (uint64_t page = 0; page < guest.page_count; page++) {
            static const uint8_t zeros[STASIS_PAGE_SIZE];

            if (!stasis_page_set_test(&guest.changed, page))
                continue;
            changed_pages++;
            data_pages += memcmp(chain_guest_page(&guest, page), zeros, sizeof(zeros)) != 0;
        }
        chain_guest_save(&guest, chain_path(&dir, 1), parent, NULL, &report);
        assert_int_equal(report.data_size, data_pages * STASIS_PAGE_SIZE);
        assert_int_equal(report.zero_size, (changed_pages - data_pages) * STASIS_PAGE_SIZE);

        snapshot = open_or_fail(chain_path(&dir, 1));
        info = stasis_snapshot_info(snapshot);
        assert_int_equal(info->kind, STASIS_SNAPSHOT_DIFF);
        assert_int_equal(info->version_minor, 1);
        assert_int_equal(info->layer_count, 2);
        assert_int_equal(info->ancestor_count, 1);
        assert_int_equal(info->layers[0].page_count, data_pages);
        assert_int_equal(info->zero_pages, changed_pages - data_pages);
        assert_int_equal(info->layers[1].page_count, guest.page_count - changed_pages);
        assert_int_equal(info->layers[1].kind, STASIS_SNAPSHOT_FULL);
        assert_string_equal(info->layers[1].path, "d000.stasis");
        stasis_close(snapshot);
        chain_guest_release(&guest);
    }
}

static void a_diff_without_any_page_is_a_snapshot(void **state)
{
    struct stasis_memory copies[2];
    struct stasis_snapshot *snapshot;
    struct chain_guest guest;
    char parent[FIXTURE_PATH_SIZE];

    (void)state;
    chain_guest_make(&guest, 3, 0x20000, 7);
    snprintf(parent, sizeof(parent), "%s", chain_path(&dir, 0));
    chain_guest_save(&guest, parent, NULL, NULL, NULL);
    chain_guest_save(&guest, chain_path(&dir, 1), parent, NULL, NULL);
    chain_guest_copy(&guest, &copies[0]);
    chain_expect_memory(chain_path(&dir, 1), &copies[0]);
    snapshot = open_or_fail(chain_path(&dir, 1));
    assert_int_equal(stasis_snapshot_info(snapshot)->layers[0].page_count, 0);
    stasis_close(snapshot);
    release_copies(copies, 0);
    chain_guest_release(&guest);
}

static void an_ancestor_that_no_page_comes_from_may_go(void **state)
{
    struct stasis_memory copies[4];
    const struct stasis_snapshot_info *info;
    struct stasis_snapshot *snapshot;
    struct chain_guest guest;
    char parent[FIXTURE_PATH_SIZE];

    (void)state;
    chain_guest_make(&guest, 1, 0x20000, 8);
    make_chain(&guest, 2, 5, copies);
    snprintf(parent, sizeof(parent), "%s", chain_path(&dir, 2));
    stasis_page_set_add(&guest.changed, 0, guest.page_count);
    chain_guest_save(&guest, chain_path(&dir, 3), parent, NULL, NULL);
    chain_guest_copy(&guest, &copies[3]);

    snapshot = open_or_fail(chain_path(&dir, 3));
    info = stasis_snapshot_info(snapshot);
    assert_int_equal(info->layer_count, 2); /* itself, and its parent, which is always named */
    assert_int_equal(info->ancestor_count, 3);
    assert_int_equal(info->layers[1].page_count, 0);
    stasis_close(snapshot);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(unlink(chain_path(&dir, i)), 0);
    chain_expect_memory(chain_path(&dir, 3), &copies[3]);
    release_copies(copies, 3);
    chain_guest_release(&guest);
}

static void thread_counts_and_writers_make_the_same_bytes_of_memory(void **state)
{
    static const unsigned threads[] = { 1, 2, 4, 7 };
    struct chain_guest guest;
    char parent[FIXTURE_PATH_SIZE];
    struct stasis_page_set changed = { 0 };
    uint8_t first[64] = { 0 };

    (void)state;
    chain_guest_make(&guest, 3, 0x400000, 9);
    snprintf(parent, sizeof(parent), "%s", chain_path(&dir, 0));
    chain_guest_save(&guest, parent, NULL, NULL, NULL);
    chain_guest_change(&guest, 20);
    assert_int_equal(stasis_page_set_init(&changed, guest.page_count, NULL), 0);
    stasis_page_set_union(&changed, &guest.changed);
    for (unsigned i = 0; i < 8; i++) {
        struct stasis_save_options options = {
            .thread_count = threads[i / 2],
            .writer = i % 2 ? STASIS_WRITER_COMPACT : STASIS_WRITER_STREAMING,
        };
        struct craft file;

        stasis_page_set_union(&guest.changed, &changed);
        chain_guest_save(&guest, chain_path(&dir, 1), parent, &options, NULL);
        craft_load(&file, chain_path(&dir, 1));
        /* The digests of memory, of the map and of the layers: of all but the time of the save. */
        if (i == 0) {
            memcpy(first, file.data + craft_entry(&file, CRAFT_MEMORY) + CRAFT_DIGEST, 32);
            memcpy(first + 32, file.data + craft_entry(&file, CRAFT_EXTENTS) + CRAFT_DIGEST, 32);
        }
        assert_memory_equal(file.data + craft_entry(&file, CRAFT_MEMORY) + CRAFT_DIGEST, first, 32);
        assert_memory_equal(file.data + craft_entry(&file, CRAFT_EXTENTS) + CRAFT_DIGEST,
                            first + 32, 32);
        craft_release(&file);
    }
    stasis_page_set_release(&changed);
    chain_guest_release(&guest);
}

/* --- made of chains --- */

static void a_flattened_chain_is_the_same_memory_in_a_file_that_stands_alone(void **state)
{
    (void)state;
    for (uint64_t seed = 20; seed < 26; seed++) {
        const unsigned depth = (unsigned)(seed - 20) * 4;
        struct stasis_memory copies[CHAIN_MAX];
        struct stasis_save_report report = { 0 };
        struct stasis_compare_report compared = { .pages_different = 1 };
        struct stasis_copy_options options = { .thread_count = 1 + (unsigned)seed % 4 };
        struct stasis_snapshot *chain, *flat;
        struct stasis_error err = { 0 };
        struct chain_guest guest;

        chain_guest_make(&guest, 5, 0x200000, seed);
        make_chain(&guest, depth, 4, copies);
        chain = open_or_fail(chain_path(&dir, depth));
        assert_stasis_ok(
            stasis_flatten(chain, fixture_path(&dir, "flat.stasis"), &options, &report, &err),
            &err);
        assert_int_equal(report.data_size, fixture_data_pages(&copies[depth]) * STASIS_PAGE_SIZE);
        flat = open_or_fail(fixture_path(&dir, "flat.stasis"));
        assert_int_equal(stasis_snapshot_info(flat)->kind, STASIS_SNAPSHOT_FULL);
        assert_memory_equal(stasis_snapshot_info(flat)->id, report.id, STASIS_ID_SIZE);
        assert_true(
            fixture_machine_equal(stasis_snapshot_machine(flat), stasis_snapshot_machine(chain)));
        assert_stasis_ok(stasis_compare(chain, flat, NULL, &compared, &err), &err);
        assert_int_equal(compared.pages_different, 0);
        assert_int_equal(compared.fields_different, 0);
        stasis_close(flat);
        stasis_close(chain);
        for (unsigned i = 0; i <= depth; i++)
            unlink(chain_path(&dir, i));
        chain_expect_memory(fixture_path(&dir, "flat.stasis"), &copies[depth]);
        release_copies(copies, depth);
        chain_guest_release(&guest);
    }
}

static void flat_files_are_the_same_bytes_however_they_were_made(void **state)
{
    struct stasis_memory copies[4];
    struct stasis_snapshot *chain;
    struct stasis_error err = { 0 };
    struct chain_guest guest;
    struct craft saved, flattened;

    (void)state;
    chain_guest_make(&guest, 4, 0x200000, 30);
    make_chain(&guest, 3, 6, copies);
    chain_guest_save(&guest, fixture_path(&dir, "saved.stasis"), NULL, NULL, NULL);
    chain = open_or_fail(chain_path(&dir, 3));
    assert_stasis_ok(stasis_flatten(chain, fixture_path(&dir, "flat.stasis"), NULL, NULL, &err),
                     &err);
    craft_load(&saved, fixture_path(&dir, "saved.stasis"));
    craft_load(&flattened, fixture_path(&dir, "flat.stasis"));
    assert_int_equal(craft_field(&saved, CRAFT_MEMORY, CRAFT_OFF, 8),
                     craft_field(&flattened, CRAFT_MEMORY, CRAFT_OFF, 8));
    assert_memory_equal(saved.data + craft_entry(&saved, CRAFT_MEMORY),
                        flattened.data + craft_entry(&flattened, CRAFT_MEMORY), CRAFT_ENTRY);
    assert_memory_equal(saved.data + craft_entry(&saved, CRAFT_LAYOUT) + CRAFT_DIGEST,
                        flattened.data + craft_entry(&flattened, CRAFT_LAYOUT) + CRAFT_DIGEST, 32);
    craft_release(&saved);
    craft_release(&flattened);
    stasis_close(chain);
    release_copies(copies, 3);
    chain_guest_release(&guest);
}

static void a_full_file_from_its_parent_is_what_a_full_save_writes(void **state)
{
    (void)state;
    for (unsigned depth = 0; depth < 3; depth++) {
        struct stasis_save_options options = { .full_from_parent = true };
        struct stasis_save_report report = { 0 };
        struct stasis_memory copies[4];
        struct chain_guest guest;
        struct craft full, cloned;
        char parent[FIXTURE_PATH_SIZE];

        chain_guest_make(&guest, 4, 0x300000, 40 + depth);
        make_chain(&guest, depth, 6, copies);
        snprintf(parent, sizeof(parent), "%s", chain_path(&dir, depth));
        chain_guest_change(&guest, 8);
        chain_guest_save(&guest, fixture_path(&dir, "cloned.stasis"), parent, &options, &report);
        chain_guest_save(&guest, fixture_path(&dir, "full.stasis"), NULL, NULL, NULL);
        chain_guest_copy(&guest, &copies[depth + 1]);
        chain_expect_memory(fixture_path(&dir, "cloned.stasis"), &copies[depth + 1]);
        craft_load(&full, fixture_path(&dir, "full.stasis"));
        craft_load(&cloned, fixture_path(&dir, "cloned.stasis"));
        assert_memory_equal(full.data + craft_entry(&full, CRAFT_MEMORY),
                            cloned.data + craft_entry(&cloned, CRAFT_MEMORY), CRAFT_ENTRY);
        assert_memory_equal(full.data + craft_entry(&full, CRAFT_LAYOUT) + CRAFT_DIGEST,
                            cloned.data + craft_entry(&cloned, CRAFT_LAYOUT) + CRAFT_DIGEST, 32);
        craft_release(&full);
        craft_release(&cloned);
        release_copies(copies, depth + 1);
        chain_guest_release(&guest);
    }
}

static void a_rebased_diff_is_the_same_memory_on_another_parent(void **state)
{
    struct stasis_memory copies[6];
    struct stasis_save_report report = { 0 };
    struct stasis_snapshot *diff, *parent, *rebased;
    struct stasis_error err = { 0 };
    struct chain_guest guest;

    (void)state;
    chain_guest_make(&guest, 4, 0x100000, 50);
    make_chain(&guest, 5, 4, copies);
    diff = open_or_fail(chain_path(&dir, 5));
    for (unsigned on = 0; on < 5; on++) {
        parent = open_or_fail(chain_path(&dir, on));
        assert_stasis_ok(
            stasis_rebase(diff, parent, fixture_path(&dir, "rebased.stasis"), NULL, &report, &err),
            &err);
        rebased = open_or_fail(fixture_path(&dir, "rebased.stasis"));
        assert_memory_equal(stasis_snapshot_info(rebased)->layers[1].id,
                            stasis_snapshot_info(parent)->id, STASIS_ID_SIZE);
        assert_int_equal(stasis_snapshot_info(rebased)->ancestor_count, on + 1);
        assert_true(
            fixture_machine_equal(stasis_snapshot_machine(rebased), stasis_snapshot_machine(diff)));
        stasis_close(rebased);
        stasis_close(parent);
        chain_expect_memory(fixture_path(&dir, "rebased.stasis"), &copies[5]);
    }
    stasis_close(diff);
    release_copies(copies, 5);
    chain_guest_release(&guest);
}

/* Differing pages, told as runs by guest address, marked one by one. */
struct told {
    const struct stasis_memory *layout;
    struct stasis_page_set pages;
    uint64_t last_gpa;
};

static int mark_pages(void *arg, const struct stasis_memory_difference *difference)
{
    struct told *told = arg;
    uint64_t linear = 0;

    assert_true(told->last_gpa == UINT64_MAX || difference->gpa > told->last_gpa);
    told->last_gpa = difference->gpa;
    for (size_t i = 0; i < told->layout->region_count; i++) {
        const struct stasis_region *region = &told->layout->regions[i];

        if (difference->gpa >= region->gpa && difference->gpa < region->gpa + region->size) {
            assert_true(difference->size <= region->gpa + region->size - difference->gpa);
            stasis_page_set_add(&told->pages,
                                (linear + difference->gpa - region->gpa) / STASIS_PAGE_SIZE,
                                difference->size / STASIS_PAGE_SIZE);
        }
        linear += region->size;
    }
    return 0;
}

static void compare_tells_each_page_that_differs_and_no_other(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct stasis_memory copies[5];
        struct stasis_compare_report report = { 0 };
        struct stasis_snapshot *a, *b;
        struct stasis_error err = { 0 };
        struct chain_guest guest;
        struct told told = { .last_gpa = UINT64_MAX };
        const struct stasis_compare_options options = { .on_memory = mark_pages, .arg = &told };
        uint64_t pages = 0, bytes = 0, page = 0;

        chain_guest_make(&guest, 6, 0x100000, 60 + i);
        make_chain(&guest, 4, 7, copies);
        told.layout = &copies[0];
        assert_int_equal(stasis_page_set_init(&told.pages, guest.page_count, NULL), 0);
        a = open_or_fail(chain_path(&dir, i));
        b = open_or_fail(chain_path(&dir, 4));
        assert_stasis_ok(stasis_compare(a, b, &options, &report, &err), &err);
        for (size_t n = 0; n < copies[i].region_count; n++) {
            const uint8_t *x = copies[i].regions[n].hva, *y = copies[4].regions[n].hva;

            for (uint64_t off = 0; off < copies[i].regions[n].size; page++) {
                uint64_t differ = 0;

                for (const uint64_t end = off + STASIS_PAGE_SIZE; off < end; off++)
                    differ += x[off] != y[off];
                pages += differ > 0;
                bytes += differ;
                assert_true(stasis_page_set_test(&told.pages, page) == (differ > 0));
            }
        }
        assert_int_equal(report.pages_different, pages);
        assert_int_equal(report.bytes_different, bytes);
        assert_int_equal(report.pages_compared, guest.page_count);
        stasis_close(a);
        stasis_close(b);
        stasis_page_set_release(&told.pages);
        release_copies(copies, 4);
        chain_guest_release(&guest);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_depth_of_a_chain_restores_to_what_memory_was),
        cmocka_unit_test(a_diff_holds_changed_data_pages_once_and_zero_pages_not_at_all),
        cmocka_unit_test(a_diff_without_any_page_is_a_snapshot),
        cmocka_unit_test(an_ancestor_that_no_page_comes_from_may_go),
        cmocka_unit_test(thread_counts_and_writers_make_the_same_bytes_of_memory),
        cmocka_unit_test(a_flattened_chain_is_the_same_memory_in_a_file_that_stands_alone),
        cmocka_unit_test(flat_files_are_the_same_bytes_however_they_were_made),
        cmocka_unit_test(a_full_file_from_its_parent_is_what_a_full_save_writes),
        cmocka_unit_test(a_rebased_diff_is_the_same_memory_on_another_parent),
        cmocka_unit_test(compare_tells_each_page_that_differs_and_no_other),
    };
    return unit_run_with(tests, group_setup, group_teardown);
}
