/* Goal:   stasis_memory_check() lets through exactly the layouts that can be indexed and mapped without
 *         another look, and a linear offset lies where the regions, back to back, put it.
 * Method: one layout per rule, each wrong in that rule only; a page-by-page oracle for places. */
#include "unit.h"

#include <string.h>

#include <stasis/memory.h>

#include "memory/layout.h"
#include "snapshot_fixture.h"

#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int check(struct stasis_region *regions, size_t count, struct stasis_error *err)
{
    const struct stasis_memory memory = { .regions = regions, .region_count = count };

    return stasis_memory_check(&memory, err);
}

static void regions_that_adjoin_or_leave_holes_are_fine(void **state)
{
    struct stasis_region regions[] = { { .gpa = 0, .size = PAGE },
                                       { .gpa = PAGE, .size = 2 * PAGE },
                                       { .gpa = 9 * PAGE, .size = PAGE } };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(check(regions, COUNT(regions), &err), &err);
}

static void the_last_page_of_the_address_space_is_out_of_reach(void **state)
{
    struct stasis_region last = { .gpa = UINT64_MAX - PAGE + 1, .size = PAGE };
    struct stasis_region before = { .gpa = UINT64_MAX - 2 * PAGE + 1, .size = PAGE };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(check(&last, 1, &err), &err, STASIS_ERR_INVALID_MEMORY);
    assert_stasis_ok(check(&before, 1, &err), &err);
}

static void no_regions_are_refused(void **state)
{
    struct stasis_region region = { .size = PAGE };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(check(&region, 0, &err), &err, STASIS_ERR_INVALID_MEMORY);
    assert_stasis_fails(check(NULL, 1, &err), &err, STASIS_ERR_INVALID_MEMORY);
}

static void an_empty_region_is_refused(void **state)
{
    struct stasis_region regions[] = { { .gpa = 0, .size = PAGE }, { .gpa = PAGE, .size = 0 } };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(check(regions, 2, &err), &err, STASIS_ERR_INVALID_MEMORY);
}

static void parts_of_pages_are_refused(void **state)
{
    struct stasis_region size = { .gpa = 0, .size = PAGE + 1 };
    struct stasis_region gpa = { .gpa = 512, .size = PAGE };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(check(&size, 1, &err), &err, STASIS_ERR_INVALID_MEMORY);
    assert_stasis_fails(check(&gpa, 1, &err), &err, STASIS_ERR_INVALID_MEMORY);
}

static void overlap_is_refused_and_says_which_region(void **state)
{
    struct stasis_region regions[] = { { .gpa = 0, .size = 2 * PAGE },
                                       { .gpa = PAGE, .size = PAGE } };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(check(regions, 2, &err), &err, STASIS_ERR_INVALID_MEMORY);
    assert_non_null(strstr(err.text, "region 1"));
}

static void regions_out_of_order_are_refused(void **state)
{
    struct stasis_region regions[] = { { .gpa = 4 * PAGE, .size = PAGE },
                                       { .gpa = 0, .size = PAGE } };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(check(regions, 2, &err), &err, STASIS_ERR_INVALID_MEMORY);
}

static void wrap_around_is_refused(void **state)
{
    struct stasis_region region = { .gpa = UINT64_MAX - PAGE + 1, .size = 2 * PAGE };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(check(&region, 1, &err), &err, STASIS_ERR_INVALID_MEMORY);
}

static void more_memory_than_the_limit_is_refused(void **state)
{
    struct stasis_region half[] = {
        { .gpa = 0, .size = STASIS_MEMORY_SIZE_MAX / 2 },
        { .gpa = STASIS_MEMORY_SIZE_MAX, .size = STASIS_MEMORY_SIZE_MAX / 2 },
        { .gpa = 4 * STASIS_MEMORY_SIZE_MAX, .size = PAGE },
    };
    struct stasis_region huge = { .gpa = 0, .size = UINT64_C(1) << 63 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(check(half, 2, &err), &err);
    assert_stasis_fails(check(half, 3, &err), &err, STASIS_ERR_LIMIT);
    assert_stasis_fails(check(&huge, 1, &err), &err, STASIS_ERR_LIMIT);
}

static void more_regions_than_the_limit_are_refused(void **state)
{
    static struct stasis_region regions[STASIS_REGION_MAX + 1];
    struct stasis_error err = { 0 };

    (void)state;
    for (size_t i = 0; i < COUNT(regions); i++)
        regions[i] = (struct stasis_region){ .gpa = i * PAGE, .size = PAGE };
    assert_stasis_ok(check(regions, STASIS_REGION_MAX, &err), &err);
    assert_stasis_fails(check(regions, STASIS_REGION_MAX + 1, &err), &err, STASIS_ERR_LIMIT);
}

/* Walks all pages of all regions in order and asks for each. */
static void check_places(const struct stasis_memory *memory)
{
    uint64_t linear = 0;

    for (size_t i = 0; i < memory->region_count; i++) {
        const struct stasis_region *region = &memory->regions[i];

        for (uint64_t off = 0; off < region->size; off += PAGE, linear += PAGE) {
            const struct layout_place place = layout_locate(memory, linear + 7);

            assert_int_equal(place.region_index, i);
            assert_true(place.region_off == off + 7);
            assert_true(place.size_left == region->size - off - 7);
            assert_true(place.gpa == region->gpa + off + 7);
            assert_ptr_equal(layout_hva(memory, &place), (uint8_t *)region->hva + off + 7);
        }
    }
    assert_true(stasis_memory_size(memory) == linear);
}

static void a_linear_offset_lies_where_regions_back_to_back_put_it(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct stasis_memory memory;
        struct stasis_error err = { 0 };

        fixture_random_memory(&memory, 12, 9 * PAGE, seed);
        assert_stasis_ok(stasis_memory_check(&memory, &err), &err);
        check_places(&memory);
        stasis_memory_unmap(&memory);
        assert_null(memory.regions);
        assert_int_equal(memory.region_count, 0);
    }
}

static void nothing_can_be_unmapped(void **state)
{
    struct stasis_memory memory = { 0 };

    (void)state;
    stasis_memory_unmap(NULL);
    stasis_memory_unmap(&memory);
    assert_int_equal(memory.region_count, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(regions_that_adjoin_or_leave_holes_are_fine),
        cmocka_unit_test(the_last_page_of_the_address_space_is_out_of_reach),
        cmocka_unit_test(no_regions_are_refused),
        cmocka_unit_test(an_empty_region_is_refused),
        cmocka_unit_test(parts_of_pages_are_refused),
        cmocka_unit_test(overlap_is_refused_and_says_which_region),
        cmocka_unit_test(regions_out_of_order_are_refused),
        cmocka_unit_test(wrap_around_is_refused),
        cmocka_unit_test(more_memory_than_the_limit_is_refused),
        cmocka_unit_test(more_regions_than_the_limit_are_refused),
        cmocka_unit_test(a_linear_offset_lies_where_regions_back_to_back_put_it),
        cmocka_unit_test(nothing_can_be_unmapped),
    };

    return unit_run(tests);
}
