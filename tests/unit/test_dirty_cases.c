/* Goal:   the pages of a diff are exactly those that were said to be dirty, in whatever unit they were: the
 *         cases of the squib format's own tests hold for native diffs as well.
 * Method: tests/golden/squib/memory_cases.json; each case is a diff of a zero base in which the dirty blocks
 *         have the case's pattern. Sizes that are not whole 4 KiB pages are rounded up: native memory is. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <json-c/json.h>

#include "chain_fixture.h"
#include "snapshot_fixture.h"

static struct fixture_dir dir;
static struct json_object *cases;

static int group_setup(void **state)
{
    const char *source = getenv("STASIS_SOURCE");
    char path[1024];

    (void)state;
    fixture_dir_make(&dir);
    snprintf(path, sizeof(path), "%s/tests/golden/squib/memory_cases.json", source ? source : ".");
    cases = json_object_from_file(path);
    return cases ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    json_object_put(cases);
    fixture_dir_remove(&dir);
    return 0;
}

static uint64_t number(struct json_object *object, const char *key)
{
    struct json_object *value = NULL;

    if (!json_object_object_get_ex(object, key, &value))
        fail_msg("a case has no '%s'", key);
    return json_object_get_uint64(value);
}

/* A guest with one region, all zero, and a saved base of it. */
static void make_base(struct chain_guest *guest, uint64_t ram_size)
{
    const uint64_t size = (ram_size + STASIS_PAGE_SIZE - 1) / STASIS_PAGE_SIZE * STASIS_PAGE_SIZE;
    const struct fixture_region region = { 0x80000000, size };

    *guest = (struct chain_guest){ .page_count = size / STASIS_PAGE_SIZE };
    fixture_x86_machine(&guest->machine, 1, 1);
    fixture_memory(&guest->memory, &region, 1, 100, 1);
    assert_int_equal(stasis_page_set_init(&guest->changed, guest->page_count, NULL), 0);
    chain_guest_save(guest, fixture_path(&dir, "base"), NULL, NULL, NULL);
}

/* One dirty block: its bytes get the pattern, its pages into the set. */
static void dirty_block(struct chain_guest *guest, uint64_t ram_size, uint64_t block,
                        uint64_t block_size, int pattern)
{
    const uint64_t begin = block * block_size;
    const uint64_t end = ram_size - begin < block_size ? ram_size : begin + block_size;

    memset((uint8_t *)guest->memory.regions[0].hva + begin, pattern, end - begin);
    stasis_page_set_add(&guest->changed, begin / STASIS_PAGE_SIZE,
                        (end - begin + STASIS_PAGE_SIZE - 1) / STASIS_PAGE_SIZE);
}

/* The diff holds exactly the pages of the dirty blocks, and restores to the guest's memory. */
static void check_diff(struct chain_guest *guest)
{
    const uint64_t expected = stasis_page_set_count(&guest->changed);
    struct stasis_save_report report = { 0 };
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_error err = { 0 };

    chain_guest_save(guest, fixture_path(&dir, "diff"), fixture_path(&dir, "base"), NULL, &report);
    assert_int_equal(report.data_size, expected * STASIS_PAGE_SIZE);
    assert_int_equal(report.zero_size, 0);
    assert_stasis_ok(stasis_open(fixture_path(&dir, "diff"), &snapshot, &err), &err);
    assert_int_equal(stasis_snapshot_info(snapshot)->layers[0].page_count, expected);
    stasis_close(snapshot);
    chain_expect_memory(fixture_path(&dir, "diff"), &guest->memory);
}

/* Dirty pages of `unit` bytes, which make `written` pages of `page_size`. */
static void check_case(struct json_object *json, const char *list_key, uint64_t unit,
                       uint64_t page_size, uint64_t written, int pattern)
{
    const uint64_t ram_size = number(json, "ram_size");
    struct json_object *dirty = json_object_object_get(json, list_key);
    struct chain_guest guest;
    uint64_t bytes = 0;

    assert_non_null(dirty);
    make_base(&guest, ram_size);
    for (size_t i = 0; i < json_object_array_length(dirty); i++) {
        const uint64_t block = json_object_get_uint64(json_object_array_get_idx(dirty, i));

        dirty_block(&guest, ram_size, block, unit, pattern);
        bytes += ram_size - block * unit < unit ? ram_size - block * unit : unit;
    }
    /* The case's own count, in its own pages, is of the same bytes. */
    assert_int_equal((bytes + page_size - 1) / page_size, written);
    assert_int_equal(stasis_page_set_count(&guest.changed),
                     (bytes + STASIS_PAGE_SIZE - 1) / STASIS_PAGE_SIZE);
    check_diff(&guest);
    chain_guest_release(&guest);
}

static void the_36_cases_of_the_sweep_select_their_pages(void **state)
{
    struct json_object *sweep = json_object_object_get(cases, "lcg_sweep");

    (void)state;
    assert_int_equal(json_object_array_length(sweep), 36);
    for (size_t i = 0; i < 36; i++) {
        struct json_object *json = json_object_array_get_idx(sweep, i);
        const uint64_t page_size = number(json, "page_size");

        check_case(json, "dirty_pages", page_size, page_size,
                   number(json, "expected_pages_written"), (int)number(json, "pattern"));
    }
}

static void coarse_bitmaps_and_odd_sizes_select_every_page_they_cover(void **state)
{
    struct json_object *diffs = json_object_object_get(cases, "diff");

    (void)state;
    assert_in_range(json_object_array_length(diffs), 3, 100);
    for (size_t i = 0; i < json_object_array_length(diffs); i++) {
        struct json_object *json = json_object_array_get_idx(diffs, i);

        check_case(json, "dirty", number(json, "bitmap_page_size"),
                   number(json, "memory_page_size"), number(json, "expect_pages_written"), 0x5a);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_36_cases_of_the_sweep_select_their_pages),
        cmocka_unit_test(coarse_bitmaps_and_odd_sizes_select_every_page_they_cover),
    };
    return unit_run_with(tests, group_setup, group_teardown);
}
