/* Goal:   what is not a candidate is zero, whatever is mapped and by whatever method; and where
 * the kernel
 *         can know, what was never written is not a candidate. No page is touched to find out.
 * Method: mappings of each kind with some pages written, read, or thrown away; every page that is
 *         left out is looked at afterwards. mincore() tells what was touched. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/pagemap.h"
#include "memory/residency.h"
#include "memory/zero.h"

#define PAGE ((size_t)STASIS_PAGE_SIZE)
#define PAGES 600

static uint8_t *memory_hva;
static struct stasis_page_set candidates;
static struct stasis_error err;
static int fd = -1;

static int setup(void **state)
{
    (void)state;
    memset(&err, 0, sizeof(err));
    return stasis_page_set_init(&candidates, PAGES, &err);
}

static int teardown(void **state)
{
    (void)state;
    if (memory_hva)
        munmap(memory_hva, PAGES * PAGE);
    memory_hva = NULL;
    if (fd >= 0)
        close(fd);
    fd = -1;
    stasis_page_set_release(&candidates);
    return 0;
}

static void map(int flags)
{
    memory_hva = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    assert_ptr_not_equal(memory_hva, MAP_FAILED);
    (void)madvise(memory_hva, PAGES * PAGE, MADV_NOHUGEPAGE);
}

/* Data at pages 10..19 and 400, holes elsewhere, and a hole at the end. */
static void make_file(void)
{
    static const uint8_t data[10 * STASIS_PAGE_SIZE] = { [0] = 1, [5 * STASIS_PAGE_SIZE] = 2 };

    fd = memfd_create("residency", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
    assert_int_equal(pwrite(fd, data, sizeof(data), 10 * PAGE), sizeof(data));
    assert_int_equal(pwrite(fd, data, PAGE, 400 * PAGE), PAGE);
}

static void look_by(enum residency_method method)
{
    struct stasis_region region = { .gpa = 0, .size = PAGES * PAGE, .hva = memory_hva };
    const struct stasis_memory memory = { .regions = &region, .region_count = 1 };

    stasis_page_set_clear(&candidates);
    assert_stasis_ok(residency_candidates_by(method, &memory, &candidates, &err), &err);
}

static void check_left_out_is_zero(void)
{
    for (uint64_t page = 0; page < PAGES; page++) {
        if (!stasis_page_set_test(&candidates, page))
            assert_true(zero_bytes(memory_hva + page * PAGE, PAGE));
    }
}

static bool has_scan(void)
{
    const struct pagemap_query any = { .any = PAGEMAP_IS_PRESENT };
    const int pagemap = pagemap_open();
    const uint64_t here = (uint64_t)(uintptr_t)memory_hva;
    bool has;

    stasis_page_set_clear(&candidates);
    has = pagemap >= 0 && pagemap_scan(pagemap, here, here, &any, NULL, NULL) == 0;
    if (pagemap >= 0)
        close(pagemap);
    return has;
}

static void write_pages(void)
{
    memory_hva[3 * PAGE + 5] = 1;
    memory_hva[100 * PAGE] = 1;
    memory_hva[599 * PAGE + PAGE - 1] = 1;
}

static void read_pages(void)
{
    static volatile uint8_t sink;

    sink =
        memory_hva[12 *
                   PAGE]; /* the file's data, where there is a file: reading its holes fills them */
    (void)sink;
}

static void anonymous_memory_never_written_is_left_out(void **state)
{
    (void)state;
    map(MAP_PRIVATE | MAP_ANONYMOUS);
    write_pages();
    look_by(RESIDENCY_SCAN);
    assert_true(stasis_page_set_count(&candidates) == 3);
    check_left_out_is_zero();
    look_by(RESIDENCY_PAGEMAP);
    assert_true(stasis_page_set_test(&candidates, 3) && stasis_page_set_test(&candidates, 100) &&
                stasis_page_set_test(&candidates, 599));
    check_left_out_is_zero();
    look_by(RESIDENCY_NONE);
    assert_true(stasis_page_set_count(&candidates) == PAGES);
}

static void pages_that_were_only_read_are_left_out_by_scan(void **state)
{
    (void)state;
    map(MAP_PRIVATE | MAP_ANONYMOUS);
    if (!has_scan())
        unit_skip("the kernel has no PAGEMAP_SCAN");
    write_pages();
    read_pages();
    look_by(RESIDENCY_SCAN);
    assert_true(stasis_page_set_count(&candidates) == 3);
}

static void reading_the_page_map_leaves_out_what_is_not_there(void **state)
{
    (void)state;
    map(MAP_PRIVATE | MAP_ANONYMOUS);
    write_pages();
    look_by(RESIDENCY_PAGEMAP);
    assert_true(stasis_page_set_count(&candidates) == 3);
}

static void pages_thrown_away_are_left_out(void **state)
{
    (void)state;
    map(MAP_PRIVATE | MAP_ANONYMOUS);
    write_pages();
    assert_int_equal(madvise(memory_hva + 100 * PAGE, PAGE, MADV_DONTNEED), 0);
    look_by(RESIDENCY_SCAN);
    assert_true(stasis_page_set_count(&candidates) == 2);
    check_left_out_is_zero();
}

/* Another process's mapping of the file may have written where this one has no page. */
static void shared_memory_is_judged_by_the_file_and_not_by_what_is_mapped(void **state)
{
    static const uint8_t one = 1;

    (void)state;
    make_file();
    map(MAP_SHARED);
    assert_int_equal(pwrite(fd, &one, 1, 555 * PAGE), 1);
    memory_hva[300 * PAGE] = 1;
    for (int method = RESIDENCY_SCAN; method <= RESIDENCY_PAGEMAP; method++) {
        look_by((enum residency_method)method);
        assert_true(stasis_page_set_test(&candidates, 555));
        assert_true(stasis_page_set_test(&candidates, 300));
        check_left_out_is_zero();
    }
}

static void holes_of_a_file_are_left_out(void **state)
{
    (void)state;
    make_file();
    map(MAP_SHARED);
    look_by(RESIDENCY_SCAN);
    if (stasis_page_set_count(&candidates) == PAGES && geteuid() != 0)
        unit_skip("/proc/self/map_files is for root");
    assert_true(stasis_page_set_count(&candidates) == 11);
    assert_true(stasis_page_set_test(&candidates, 10) && stasis_page_set_test(&candidates, 19) &&
                stasis_page_set_test(&candidates, 400));
    check_left_out_is_zero();
}

static void a_private_file_mapping_has_the_files_data_and_our_own_pages(void **state)
{
    (void)state;
    make_file();
    map(MAP_PRIVATE);
    write_pages();
    read_pages();
    look_by(RESIDENCY_SCAN);
    if (stasis_page_set_count(&candidates) == PAGES && geteuid() != 0)
        unit_skip("/proc/self/map_files is for root");
    assert_true(stasis_page_set_count(&candidates) == 11 + 3);
    look_by(RESIDENCY_PAGEMAP);
    assert_true(stasis_page_set_count(&candidates) == 11 + 3);
    check_left_out_is_zero();
}

static void mappings_side_by_side_are_judged_each_for_itself(void **state)
{
    (void)state;
    make_file();
    map(MAP_PRIVATE | MAP_ANONYMOUS);
    assert_ptr_not_equal(mmap(memory_hva + 100 * PAGE, 50 * PAGE, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_FIXED, fd, 5 * PAGE),
                         MAP_FAILED);
    memory_hva[2 * PAGE] = 1;
    memory_hva[149 * PAGE] = 1;
    memory_hva[150 * PAGE] = 1;
    look_by(RESIDENCY_SCAN);
    if (stasis_page_set_count(&candidates) > 40 && geteuid() != 0)
        unit_skip("/proc/self/map_files is for root");
    assert_true(stasis_page_set_count(&candidates) == 3 + 10);
    assert_true(stasis_page_set_test(&candidates, 105));
    check_left_out_is_zero();
}

static void what_is_not_mapped_is_a_candidate(void **state)
{
    (void)state;
    map(MAP_PRIVATE | MAP_ANONYMOUS);
    assert_int_equal(munmap(memory_hva + 500 * PAGE, 100 * PAGE), 0);
    look_by(RESIDENCY_SCAN);
    assert_true(stasis_page_set_count(&candidates) == 100);
}

static void nothing_is_faulted_in(void **state)
{
    uint8_t there_now[PAGES];

    (void)state;
    map(MAP_PRIVATE | MAP_ANONYMOUS);
    write_pages();
    look_by(RESIDENCY_SCAN);
    look_by(RESIDENCY_PAGEMAP);
    assert_int_equal(mincore(memory_hva, PAGES * PAGE, there_now), 0);
    for (size_t page = 0; page < PAGES; page++)
        assert_int_equal(there_now[page] & 1, page == 3 || page == 100 || page == 599);
}

static void wrong_arguments_are_refused(void **state)
{
    struct stasis_region region = { .gpa = 0, .size = PAGES * PAGE };
    struct stasis_memory memory = { .regions = &region, .region_count = 1 };

    (void)state;
    assert_stasis_fails(residency_candidates(&memory, &candidates, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    map(MAP_PRIVATE | MAP_ANONYMOUS);
    region.hva = memory_hva;
    region.size -= PAGE;
    assert_stasis_fails(residency_candidates(&memory, &candidates, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    region.size = 0;
    assert_stasis_fails(residency_candidates(&memory, &candidates, &err), &err,
                        STASIS_ERR_INVALID_MEMORY);
}

#define residency_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        residency_test(anonymous_memory_never_written_is_left_out),
        residency_test(pages_that_were_only_read_are_left_out_by_scan),
        residency_test(reading_the_page_map_leaves_out_what_is_not_there),
        residency_test(pages_thrown_away_are_left_out),
        residency_test(shared_memory_is_judged_by_the_file_and_not_by_what_is_mapped),
        residency_test(holes_of_a_file_are_left_out),
        residency_test(a_private_file_mapping_has_the_files_data_and_our_own_pages),
        residency_test(mappings_side_by_side_are_judged_each_for_itself),
        residency_test(what_is_not_mapped_is_a_candidate),
        residency_test(nothing_is_faulted_in),
        residency_test(wrong_arguments_are_refused),
    };

    return unit_run(tests);
}
