/* Goal:   memory is zero exactly when every byte of it is, for any size, alignment and CPU.
 * Method: one byte set at each place of buffers of many sizes; what lies around them is not zero. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include <stasis/memory.h>

#include "memory/zero.h"

#define SIZE_MAX_TESTED 700
#define ALIGN_MAX_TESTED 33

typedef bool zero_fn(const void *data, size_t size);

/* A zero range of `size` bytes at `align`, with ones before and behind it. */
static uint8_t *zero_range(uint8_t *buf, size_t buf_size, size_t align, size_t size)
{
    memset(buf, 0xff, buf_size);
    memset(buf + align, 0, size);
    return buf + align;
}

static void check_one_byte_anywhere(zero_fn *is_zero)
{
    static uint8_t buf[ALIGN_MAX_TESTED + SIZE_MAX_TESTED + 64];

    for (size_t size = 0; size <= SIZE_MAX_TESTED; size += 1 + size / 40) {
        for (size_t align = 0; align < ALIGN_MAX_TESTED; align += 4) {
            uint8_t *range = zero_range(buf, sizeof(buf), align, size);

            assert_true(is_zero(range, size));
            for (size_t i = 0; i < size; i++) {
                range[i] = (uint8_t)(1u << (i % 8));
                assert_false(is_zero(range, size));
                range[i] = 0;
            }
        }
    }
}

static void one_bit_anywhere_makes_a_range_not_zero(void **state)
{
    (void)state;
    check_one_byte_anywhere(zero_bytes);
}

static void every_variant_of_this_cpu_sees_the_same(void **state)
{
    (void)state;
    for (size_t i = 0; i < zero_variant_count; i++) {
        if (!zero_variants[i].available()) {
            print_message("# this CPU has no %s\n", zero_variants[i].name);
            continue;
        }
        check_one_byte_anywhere(zero_variants[i].zero);
    }
    assert_true(zero_variants[zero_variant_count - 1].available());
}

static void no_bytes_at_all_are_zero(void **state)
{
    (void)state;
    assert_true(zero_bytes("x", 0));
    for (size_t i = 0; i < zero_variant_count; i++)
        assert_true(!zero_variants[i].available() || zero_variants[i].zero("x", 0));
}

static void each_bit_of_a_page_map_is_its_own_page(void **state)
{
    uint8_t *pages = calloc(ZERO_MAP_PAGES, STASIS_PAGE_SIZE);

    (void)state;
    assert_non_null(pages);
    assert_true(zero_data_page_map(pages, ZERO_MAP_PAGES) == 0);
    for (size_t i = 0; i < ZERO_MAP_PAGES; i++) {
        const size_t at = i * STASIS_PAGE_SIZE + i * 64;

        pages[at] = 1;
        assert_true(zero_data_page_map(pages, ZERO_MAP_PAGES) == UINT64_C(1) << i);
        assert_true(zero_data_page_map(pages, i) == 0);
        pages[at] = 0;
    }
    memset(pages, 1, (size_t)ZERO_MAP_PAGES * STASIS_PAGE_SIZE);
    assert_true(zero_data_page_map(pages, ZERO_MAP_PAGES) == UINT64_MAX);
    assert_true(zero_data_page_map(pages, 3) == 7);
    free(pages);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_bit_anywhere_makes_a_range_not_zero),
        cmocka_unit_test(every_variant_of_this_cpu_sees_the_same),
        cmocka_unit_test(no_bytes_at_all_are_zero),
        cmocka_unit_test(each_bit_of_a_page_map_is_its_own_page),
    };

    return unit_run(tests);
}
