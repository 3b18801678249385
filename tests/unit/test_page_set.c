/* Goal:   a page set holds exactly what was put into it, whatever the sizes, edges and order of
 * calls. Method: random calls on random sizes, each beside a slow oracle of one bool for each
 * page. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include <stasis/dirty.h>

#include "memory/page_set.h"

#define PAGES_MAX 9000

static struct stasis_page_set set, other;
static bool *oracle, *other_oracle;
static uint64_t random_state;

static uint64_t random_below(uint64_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % limit;
}

static int setup(void **state)
{
    (void)state;
    random_state = UINT64_C(0x9e3779b97f4a7c15);
    oracle = calloc(PAGES_MAX, sizeof(*oracle));
    other_oracle = calloc(PAGES_MAX, sizeof(*other_oracle));
    return oracle && other_oracle ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    stasis_page_set_release(&set);
    stasis_page_set_release(&other);
    free(oracle);
    free(other_oracle);
    return 0;
}

static void make(struct stasis_page_set *ret_set, bool *its_oracle, uint64_t page_count)
{
    struct stasis_error err = { 0 };

    stasis_page_set_release(ret_set);
    assert_stasis_ok(stasis_page_set_init(ret_set, page_count, &err), &err);
    memset(its_oracle, 0, PAGES_MAX * sizeof(*its_oracle));
}

static void check_runs(const struct stasis_page_set *checked, const bool *expected)
{
    uint64_t first = 0, count = 0, page = 0;

    for (uint64_t at = 0; stasis_page_set_next_run(checked, at, &first, &count);
         at = first + count) {
        assert_true(count > 0);
        for (; page < first; page++)
            assert_false(expected[page]);
        for (; page < first + count; page++)
            assert_true(expected[page]);
        assert_true(page == checked->page_count || !expected[page]);
    }
    for (; page < checked->page_count; page++)
        assert_false(expected[page]);
}

static void check(const struct stasis_page_set *checked, const bool *expected)
{
    uint64_t count = 0;

    for (uint64_t page = 0; page < checked->page_count; page++) {
        assert_int_equal(stasis_page_set_test(checked, page), expected[page]);
        count += expected[page];
    }
    assert_false(stasis_page_set_test(checked, checked->page_count));
    assert_true(stasis_page_set_count(checked) == count);
    check_runs(checked, expected);
    /* Nothing past the end, where it would be written to a file. */
    if (checked->page_count % 64 != 0)
        assert_true(checked->words[checked->page_count / 64] >> checked->page_count % 64 == 0);
}

static void fill(bool *expected, uint64_t page_count, uint64_t first, uint64_t count, bool value)
{
    for (uint64_t page = first; page < page_count && page - first < count; page++)
        expected[page] = value;
}

static uint64_t random_length(uint64_t page_count)
{
    return random_below(3) != 0 ? random_below(70) : random_below(page_count + 3);
}

static void one_random_call(uint64_t page_count)
{
    const uint64_t first = random_below(page_count + 2);
    const uint64_t count = random_length(page_count);

    switch (random_below(8)) {
    case 0:
    case 1:
        stasis_page_set_remove(&set, first, count);
        fill(oracle, page_count, first, count, false);
        break;
    case 2:
        stasis_page_set_union(&set, &other);
        for (uint64_t page = 0; page < page_count && page < other.page_count; page++)
            oracle[page] = oracle[page] || other_oracle[page];
        break;
    case 3:
        stasis_page_set_add(&other, first, count);
        fill(other_oracle, other.page_count, first, count, true);
        break;
    case 4:
        if (random_below(8) == 0) {
            stasis_page_set_clear(&set);
            memset(oracle, 0, PAGES_MAX * sizeof(*oracle));
        }
        break;
    default:
        stasis_page_set_add(&set, first, count);
        fill(oracle, page_count, first, count, true);
        break;
    }
}

static void random_calls_agree_with_one_bool_for_each_page(void **state)
{
    static const uint64_t sizes[] = { 1, 2, 63, 64, 65, 127, 4095, 4096, 4097, 8192, 8999 };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        make(&set, oracle, sizes[i]);
        make(&other, other_oracle, random_below(PAGES_MAX - 1) + 1);
        for (int call = 0; call < 300; call++) {
            one_random_call(sizes[i]);
            if (call % 10 == 0)
                check(&set, oracle);
        }
        check(&set, oracle);
        check(&other, other_oracle);
    }
}

static void pages_past_the_end_are_ignored(void **state)
{
    (void)state;
    make(&set, oracle, 100);
    stasis_page_set_add(&set, 100, 5);
    stasis_page_set_add(&set, UINT64_MAX, UINT64_MAX);
    stasis_page_set_remove(&set, 1000, 5);
    assert_true(stasis_page_set_count(&set) == 0);
    stasis_page_set_add(&set, 98, UINT64_MAX);
    assert_true(stasis_page_set_count(&set) == 2);
    assert_false(stasis_page_set_test(&set, UINT64_MAX));
}

static void outputs_stay_untouched_when_there_is_no_run(void **state)
{
    uint64_t first = 77, count = 88;

    (void)state;
    make(&set, oracle, 1000);
    stasis_page_set_add(&set, 5, 1);
    assert_false(stasis_page_set_next_run(&set, 6, &first, &count));
    assert_false(stasis_page_set_next_run(&set, UINT64_MAX, &first, &count));
    assert_int_equal(first, 77);
    assert_int_equal(count, 88);
}

static void a_run_may_begin_in_its_middle(void **state)
{
    uint64_t first, count;

    (void)state;
    make(&set, oracle, 1000);
    stasis_page_set_add(&set, 60, 300);
    assert_true(stasis_page_set_next_run(&set, 200, &first, &count));
    assert_int_equal(first, 200);
    assert_int_equal(count, 160);
}

static void bits_of_any_alignment_land_on_their_pages(void **state)
{
    uint64_t bits[80];

    (void)state;
    for (int round = 0; round < 2000; round++) {
        const uint64_t page_count = 1 + random_below(4000);
        const uint64_t count = random_below(page_count < 4000 ? page_count + 1 : 4000);
        const uint64_t first_bit = random_below(4096 + 64 - count);
        const uint64_t first_page = random_below(page_count + 1);

        make(&set, oracle, page_count);
        for (size_t i = 0; i < 80; i++)
            bits[i] = random_below(4) == 0 ? random_below(UINT64_MAX) : 0;
        if (first_page + count > page_count)
            continue;
        page_set_add_bits(&set, first_page, bits, first_bit, count);
        for (uint64_t i = 0; i < count; i++)
            oracle[first_page + i] = bits[(first_bit + i) / 64] >> (first_bit + i) % 64 & 1;
        if (round % 16 == 0)
            check(&set, oracle);
        else
            check_runs(&set, oracle);
    }
}

static void bits_are_not_read_past_their_end(void **state)
{
    uint64_t *exact = malloc(2 * sizeof(*exact)); /* a sanitizer sees a step too far */

    (void)state;
    assert_non_null(exact);
    exact[0] = UINT64_MAX;
    exact[1] = UINT64_MAX;
    make(&set, oracle, 500);
    page_set_add_bits(&set, 3, exact, 0, 128);
    page_set_add_bits(&set, 200, exact, 70, 58);
    assert_true(stasis_page_set_count(&set) == 128 + 58);
    free(exact);
}

static void clearing_a_sparse_set_leaves_nothing_behind(void **state)
{
    (void)state;
    make(&set, oracle, UINT64_C(1) << 24);
    for (int i = 0; i < 3000; i++)
        stasis_page_set_add(&set, random_below(set.page_count), 1);
    assert_true(stasis_page_set_count(&set) > 2900);
    stasis_page_set_clear(&set);
    for (uint64_t i = 0; i < set.page_count / 64; i++)
        assert_true(set.words[i] == 0);
    assert_true(stasis_page_set_count(&set) == 0);
}

static void sets_of_no_pages_and_of_too_many_are_refused(void **state)
{
    struct stasis_page_set untouched = { .page_count = 42 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(stasis_page_set_init(&untouched, 0, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_page_set_init(&untouched, PAGE_SET_PAGES_MAX + 1, &err), &err,
                        STASIS_ERR_LIMIT);
    assert_stasis_fails(stasis_page_set_init(&untouched, UINT64_MAX, &err), &err, STASIS_ERR_LIMIT);
    assert_int_equal(untouched.page_count, 42);
}

static void nothing_can_be_released(void **state)
{
    struct stasis_page_set nothing = { 0 };

    (void)state;
    stasis_page_set_release(NULL);
    stasis_page_set_release(&nothing);
    assert_null(nothing.words);
}

#define page_set_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        page_set_test(random_calls_agree_with_one_bool_for_each_page),
        page_set_test(pages_past_the_end_are_ignored),
        page_set_test(outputs_stay_untouched_when_there_is_no_run),
        page_set_test(a_run_may_begin_in_its_middle),
        page_set_test(bits_of_any_alignment_land_on_their_pages),
        page_set_test(bits_are_not_read_past_their_end),
        page_set_test(clearing_a_sparse_set_leaves_nothing_behind),
        page_set_test(sets_of_no_pages_and_of_too_many_are_refused),
        page_set_test(nothing_can_be_released),
    };

    return unit_run(tests);
}
