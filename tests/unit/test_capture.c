/* Goal:   a capture holds exactly the selected pages, each as what it is, and hands out their bytes;
 *         pages that were not selected are not so much as looked at.
 * Method: random layouts and sets against a page-by-page oracle, for several numbers of threads;
 *         memory that may not be read around the selected pages. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "memory/capture.h"
#include "snapshot_fixture.h"

#define MIB (UINT64_C(1) << 20)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct stasis_memory memory;
static struct stasis_page_set set;
static struct stasis_arena *arena;
static struct capture capture;
static struct progress progress;
static uint64_t page_count;

static int setup(void **state)
{
    (void)state;
    progress_init(&progress, NULL, NULL, 0);
    return stasis_arena_new(0, &arena, NULL);
}

static int teardown(void **state)
{
    (void)state;
    capture_release(&capture);
    stasis_page_set_release(&set);
    stasis_memory_unmap(&memory);
    stasis_arena_free(arena);
    progress_release(&progress);
    return 0;
}

/* A page by its number, the slow way. */
static const uint8_t *page_at(uint64_t page)
{
    for (size_t i = 0; i < memory.region_count; i++) {
        const uint64_t count = memory.regions[i].size / STASIS_PAGE_SIZE;

        if (page < count)
            return (const uint8_t *)memory.regions[i].hva + page * STASIS_PAGE_SIZE;
        page -= count;
    }
    fail_msg("no page %ju", (uintmax_t)page);
    return NULL;
}

static bool page_is_zero(uint64_t page)
{
    static const uint8_t zeros[STASIS_PAGE_SIZE];

    return memcmp(page_at(page), zeros, STASIS_PAGE_SIZE) == 0;
}

static void make_case(uint64_t seed)
{
    struct stasis_error err = { 0 };
    uint64_t random = seed;

    fixture_random_memory(&memory, 12, seed % 4 == 0 ? 3 * MIB : 0x30000, seed);
    page_count = stasis_memory_size(&memory) / STASIS_PAGE_SIZE;
    assert_stasis_ok(stasis_page_set_init(&set, page_count, &err), &err);
    for (uint64_t page = 0; page < page_count;) {
        const uint64_t run = 1 + fixture_random(&random) % (seed % 3 == 0 ? 300 : 5);

        if (fixture_random(&random) % 3 == 0)
            stasis_page_set_add(&set, page, run);
        page += run;
    }
}

static void drop_case(void)
{
    capture_release(&capture);
    stasis_page_set_release(&set);
    stasis_memory_unmap(&memory);
}

/* The extents are the selected pages, in the longest runs of one kind, with data numbered. */
static void expect_extents(const struct stasis_page_set *selected)
{
    struct capture_iter iter = { 0 };
    struct capture_extent extent = { 0 };
    bool more = capture_next_extent(&capture, &iter, &extent);
    uint64_t data_count = 0, zero_count = 0;

    for (uint64_t page = 0; page < page_count;) {
        const bool zero = page_is_zero(page);
        const uint64_t first = page;

        if (selected && !stasis_page_set_test(selected, page)) {
            page++;
            continue;
        }
        while (page < page_count && (!selected || stasis_page_set_test(selected, page)) &&
               page_is_zero(page) == zero)
            page++;
        assert_true(more);
        assert_true(extent.first_page == first && extent.page_count == page - first);
        assert_true(extent.zero == zero);
        assert_true(zero || extent.data_before == data_count);
        *(zero ? &zero_count : &data_count) += page - first;
        more = capture_next_extent(&capture, &iter, &extent);
    }
    assert_false(more);
    assert_true(capture.data_count == data_count && capture.zero_count == zero_count);
    assert_true(capture.selected_count == data_count + zero_count);
}

/* Every slab's data, end to end, are the bytes of its data pages. */
static void expect_bytes(void)
{
    uint64_t data_before = 0;

    for (size_t i = 0; i < capture.slab_count; i++) {
        const struct capture_slab *slab = &capture.slabs[i];
        struct iovec iov[CAPTURE_SLAB_PAGES];
        const unsigned count = capture_slab_iovecs(&capture, slab, iov);
        unsigned at = 0;
        size_t off = 0;

        assert_true(slab->data_before == data_before);
        for (unsigned page = 0; page < CAPTURE_SLAB_PAGES; page++) {
            if (!(slab->data.words[page / 64] >> (page % 64) & 1))
                continue;
            assert_true(at < count);
            assert_memory_equal((const uint8_t *)iov[at].iov_base + off,
                                page_at(slab->first_page + page), STASIS_PAGE_SIZE);
            off += STASIS_PAGE_SIZE;
            if (off == iov[at].iov_len) {
                at++;
                off = 0;
            }
            data_before++;
        }
        assert_int_equal(at, count);
    }
}

static void a_scan_finds_what_a_page_by_page_oracle_finds(void **state)
{
    static const unsigned thread_counts[] = { 1, 2, 4, 7 };

    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct stasis_error err = { 0 };

        make_case(seed);
        assert_stasis_ok(capture_select(&capture, &memory, &set, arena, &err), &err);
        assert_true(capture.selected_count == stasis_page_set_count(&set));
        assert_stasis_ok(
            capture_scan(&capture, thread_counts[seed % COUNT(thread_counts)], &progress, &err),
            &err);
        assert_null(capture.copy);
        expect_extents(&set);
        expect_bytes();
        drop_case();
    }
}

static void a_copy_has_the_same_pages_and_bytes(void **state)
{
    static const unsigned thread_counts[] = { 1, 2, 4, 7 };

    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct stasis_error err = { 0 };
        bool fits = false;

        make_case(seed);
        assert_stasis_ok(capture_select(&capture, &memory, &set, arena, &err), &err);
        assert_stasis_ok(capture_copy(&capture, arena, UINT64_MAX,
                                      thread_counts[seed % COUNT(thread_counts)], &progress, &fits,
                                      &err),
                         &err);
        assert_true(fits);
        assert_non_null(capture.copy);
        expect_extents(&set);
        expect_bytes();
        drop_case();
    }
}

static void without_a_set_all_pages_are_selected(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    for (uint64_t seed = 50; seed < 60; seed++) {
        make_case(seed);
        assert_stasis_ok(capture_select(&capture, &memory, NULL, arena, &err), &err);
        assert_stasis_ok(capture_scan(&capture, 2, &progress, &err), &err);
        expect_extents(NULL);
        drop_case();
    }
}

static void an_empty_set_is_an_empty_capture(void **state)
{
    struct capture_iter iter = { 0 };
    struct capture_extent extent;
    struct stasis_error err = { 0 };
    bool fits = false;

    (void)state;
    make_case(3);
    stasis_page_set_clear(&set);
    assert_stasis_ok(capture_select(&capture, &memory, &set, arena, &err), &err);
    assert_stasis_ok(capture_copy(&capture, arena, 0, 2, &progress, &fits, &err), &err);
    assert_true(fits);
    assert_true(capture.data_count == 0 && capture.zero_count == 0);
    assert_false(capture_next_extent(&capture, &iter, &extent));
}

static void a_copy_over_its_ceiling_says_so_and_one_at_it_fits(void **state)
{
    const struct fixture_region region = { 0, 5 * MIB };
    struct stasis_error err = { 0 };
    uint64_t size;
    bool fits = true;

    (void)state;
    fixture_memory(&memory, &region, 1, 50, 9);
    page_count = region.size / STASIS_PAGE_SIZE;
    size = fixture_data_pages(&memory) * STASIS_PAGE_SIZE;
    assert_stasis_ok(capture_select(&capture, &memory, NULL, arena, &err), &err);
    for (unsigned thread_count = 1; thread_count <= 4; thread_count++) {
        assert_stasis_ok(capture_copy(&capture, arena, size - STASIS_PAGE_SIZE, thread_count,
                                      &progress, &fits, &err),
                         &err);
        assert_false(fits);
        assert_null(capture.copy);
        assert_stasis_ok(capture_copy(&capture, arena, 0, thread_count, &progress, &fits, &err),
                         &err);
        assert_false(fits);
    }
    assert_stasis_ok(capture_copy(&capture, arena, size, 3, &progress, &fits, &err), &err);
    assert_true(fits);
    expect_extents(NULL);
    expect_bytes();
}

static void pages_that_were_not_selected_are_not_looked_at(void **state)
{
    const struct fixture_region region = { 0, 2 * MIB };
    static const uint64_t chosen[] = { 0, 17, 18, 255, 256, 300, 511 };
    struct stasis_error err = { 0 };
    bool fits = false;

    (void)state;
    fixture_memory(&memory, &region, 1, 0, 4);
    assert_stasis_ok(stasis_page_set_init(&set, 512, &err), &err);
    for (size_t i = 0; i < COUNT(chosen); i++)
        stasis_page_set_add(&set, chosen[i], 1);
    for (uint64_t page = 0; page < 512; page++) {
        /* A look at such a page ends the test by a signal. */
        if (!stasis_page_set_test(&set, page))
            assert_int_equal(mprotect((uint8_t *)memory.regions[0].hva + page * STASIS_PAGE_SIZE,
                                      STASIS_PAGE_SIZE, PROT_NONE),
                             0);
    }
    assert_stasis_ok(capture_select(&capture, &memory, &set, arena, &err), &err);
    assert_stasis_ok(capture_copy(&capture, arena, UINT64_MAX, 2, &progress, &fits, &err), &err);
    assert_true(fits && capture.data_count == COUNT(chosen));
    expect_bytes();
}

static void bytes_in_place_are_the_block_with_zeros_or_nothing(void **state)
{
    struct stasis_error err = { 0 };
    unsigned in_place = 0;
    bool fits;

    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        make_case(seed);
        assert_stasis_ok(capture_select(&capture, &memory, seed % 3 ? NULL : &set, arena, &err),
                         &err);
        if (seed % 2)
            assert_stasis_ok(capture_scan(&capture, 1, &progress, &err), &err);
        else
            assert_stasis_ok(capture_copy(&capture, arena, UINT64_MAX, 1, &progress, &fits, &err),
                             &err);
        for (size_t i = 0; i < capture.slab_count; i++) {
            const struct capture_slab *slab = &capture.slabs[i];

            for (unsigned begin = 0; begin < CAPTURE_SLAB_PAGES; begin += 16) {
                struct capture_run run = { begin, begin + 16 };
                const uint8_t *bytes;

                if (slab->first_page + run.end > page_count)
                    break;
                bytes = capture_bytes_in_place(&capture, slab, &run);
                for (unsigned page = begin; bytes && page < run.end; page++)
                    assert_memory_equal(bytes + (size_t)(page - begin) * STASIS_PAGE_SIZE,
                                        page_at(slab->first_page + page), STASIS_PAGE_SIZE);
                in_place += bytes != NULL;
            }
        }
        drop_case();
    }
    assert_true(in_place > 20); /* it is not always nothing */
}

static void a_grown_arena_keeps_serving(void **state)
{
    struct stasis_error err = { 0 };
    bool fits = false;

    (void)state;
    for (uint64_t size = 1; size <= 32; size *= 2) {
        const struct fixture_region region = { 0, size * MIB };

        fixture_memory(&memory, &region, 1, 10, size);
        page_count = region.size / STASIS_PAGE_SIZE;
        assert_stasis_ok(capture_select(&capture, &memory, NULL, arena, &err), &err);
        assert_stasis_ok(capture_copy(&capture, arena, UINT64_MAX, 2, &progress, &fits, &err),
                         &err);
        assert_true(fits);
        expect_bytes();
        drop_case();
    }
}

static int stop(void *arg, uint64_t done, uint64_t total)
{
    (void)arg;
    (void)done;
    (void)total;
    return 1;
}

static void a_capture_can_be_cancelled(void **state)
{
    const struct fixture_region region = { 0, 32 * MIB };
    struct progress stopping;
    struct stasis_error err = { 0 };
    bool fits = true;
    int scanned, copied;

    (void)state;
    fixture_memory(&memory, &region, 1, 95, 2);
    assert_stasis_ok(capture_select(&capture, &memory, NULL, arena, &err), &err);
    progress_init(&stopping, stop, NULL, region.size);
    scanned = capture_scan(&capture, 2, &stopping, &err);
    copied = capture_copy(&capture, arena, UINT64_MAX, 2, &stopping, &fits, &err);
    progress_release(&stopping);
    assert_stasis_fails(scanned, &err, STASIS_ERR_CANCELLED);
    assert_stasis_fails(copied, &err, STASIS_ERR_CANCELLED);
    assert_false(fits);
}

static void an_arena_no_host_can_hold_is_out_of_memory(void **state)
{
    struct stasis_arena *none = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(stasis_arena_new(UINT64_MAX, &none, &err), &err, STASIS_ERR_OUT_OF_MEMORY);
    assert_stasis_fails(stasis_arena_new(UINT64_C(1) << 62, &none, &err), &err,
                        STASIS_ERR_OUT_OF_MEMORY);
    assert_null(none);
    stasis_arena_free(NULL);
}

#define case_(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        case_(a_scan_finds_what_a_page_by_page_oracle_finds),
        case_(a_copy_has_the_same_pages_and_bytes),
        case_(without_a_set_all_pages_are_selected),
        case_(an_empty_set_is_an_empty_capture),
        case_(a_copy_over_its_ceiling_says_so_and_one_at_it_fits),
        case_(pages_that_were_not_selected_are_not_looked_at),
        case_(bytes_in_place_are_the_block_with_zeros_or_nothing),
        case_(a_grown_arena_keeps_serving),
        case_(a_capture_can_be_cancelled),
        case_(an_arena_no_host_can_hold_is_out_of_memory),
    };

    return unit_run(tests);
}
