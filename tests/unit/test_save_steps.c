/* Goal:   a save in two steps is the moment of the first, whatever the guest does after it; every
 *         writer writes the same file; and a save that does not end leaves nothing but dirty pages.
 * Method: files compared byte for byte; guests changed between the steps; saves cancelled at each of
 *         their callbacks; trackers asked afterwards what they still know. */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <stasis/dirty.h>
#include <stasis/snapshot.h>

#include "native_craft.h"
#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MIB (UINT64_C(1) << 20)

static struct fixture_dir dir;
static struct stasis_machine machine;
static struct stasis_memory memory;
static struct stasis_tracker *tracker;
static struct stasis_arena *arena;

static const char *path(void)
{
    return fixture_path(&dir, "a.stasis");
}

static int setup(void **state)
{
    const struct fixture_region regions[] = { { 0, 0x1423000 }, { 0x10000000, 0x311000 } };
    struct stasis_error err = { 0 };

    (void)state;
    fixture_dir_make(&dir);
    fixture_x86_machine(&machine, 2, 1);
    fixture_memory(&memory, regions, COUNT(regions), 60, 1);
    if (stasis_tracker_open_bitmap(&memory, NULL, &tracker, &err) < 0 ||
        stasis_tracker_arm(tracker, &err) < 0 || stasis_arena_new(0, &arena, &err) < 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    stasis_tracker_close(tracker);
    stasis_arena_free(arena);
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
    fixture_dir_remove(&dir);
    return 0;
}

/* The guest writes to a page, and its VMM notices. */
static void touch(uint64_t gpa, uint8_t value)
{
    for (size_t i = 0; i < memory.region_count; i++) {
        const struct stasis_region *region = &memory.regions[i];

        if (gpa >= region->gpa && gpa < region->gpa + region->size)
            memset((uint8_t *)region->hva + (gpa - region->gpa), value, STASIS_PAGE_SIZE);
    }
    assert_int_equal(stasis_tracker_mark(tracker, gpa, STASIS_PAGE_SIZE), 0);
}

static uint64_t dirty_count(void)
{
    struct stasis_page_set set = { 0 };
    struct stasis_error err = { 0 };
    uint64_t count;

    assert_stasis_ok(stasis_page_set_init(&set, stasis_tracker_page_count(tracker), &err), &err);
    assert_stasis_ok(stasis_tracker_harvest(tracker, &set, &err), &err);
    count = stasis_page_set_count(&set);
    assert_stasis_ok(stasis_tracker_give_back(tracker, &set, &err), &err);
    stasis_page_set_release(&set);
    return count;
}

static void copy_memory(struct stasis_memory *copy)
{
    copy->region_count = memory.region_count;
    copy->regions = calloc(memory.region_count, sizeof(*copy->regions));
    assert_non_null(copy->regions);
    for (size_t i = 0; i < memory.region_count; i++) {
        copy->regions[i] = memory.regions[i];
        copy->regions[i].hva = mmap(NULL, memory.regions[i].size, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(copy->regions[i].hva, MAP_FAILED);
        memcpy(copy->regions[i].hva, memory.regions[i].hva, memory.regions[i].size);
    }
}

static void expect_file_is(const char *file, const struct stasis_memory *expected)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_memory restored = { 0 };
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_open(file, &snapshot, &err), &err);
    assert_stasis_ok(stasis_verify(snapshot, NULL, NULL, &err), &err);
    assert_stasis_ok(stasis_restore(snapshot, NULL, &restored, &err), &err);
    assert_true(fixture_memory_equal(&restored, expected));
    stasis_memory_unmap(&restored);
    stasis_close(snapshot);
}

/* --- two steps, and what they write --- */

static void scribble(void)
{
    for (size_t i = 0; i < memory.region_count; i++)
        memset(memory.regions[i].hva, 0xa5, memory.regions[i].size);
}

static void what_the_guest_does_after_the_first_step_is_not_in_the_snapshot(void **state)
{
    static const enum stasis_writer writers[] = { STASIS_WRITER_AUTO, STASIS_WRITER_STREAMING,
                                                  STASIS_WRITER_COMPACT };
    struct stasis_memory before = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    for (size_t i = 0; i < COUNT(writers); i++) {
        const struct stasis_save_options options = { .writer = writers[i], .thread_count = 3 };
        struct stasis_save_report report = { 0 };
        struct stasis_save_job *job = NULL;

        copy_memory(&before);
        assert_stasis_ok(stasis_save_begin(path(), &machine, &memory, &options, &job, &err), &err);
        assert_int_equal(access(path(), F_OK), i == 0 ? -1 : 0); /* not there before its commit */
        scribble();
        assert_stasis_ok(stasis_save_finish(job, &report, &err), &err);
        assert_int_equal(report.writer, writers[i] == STASIS_WRITER_STREAMING
                                            ? STASIS_WRITER_STREAMING
                                            : STASIS_WRITER_COMPACT);
        assert_true(report.total_us >= report.begin_us && report.begin_us > 0);
        expect_file_is(path(), &before);
        assert_int_equal(fixture_dir_count(&dir), 1);
        for (size_t r = 0; r < memory.region_count; r++)
            memcpy(memory.regions[r].hva, before.regions[r].hva, memory.regions[r].size);
        stasis_memory_unmap(&before);
    }
}

static void machine_and_options_may_be_gone_before_the_second_step(void **state)
{
    struct stasis_machine *lost = malloc(sizeof(*lost));
    struct stasis_save_options *options = calloc(1, sizeof(*options));
    struct stasis_memory *layout = malloc(sizeof(*layout));
    char *label = strdup("gone");
    struct stasis_save_job *job = NULL;
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    fixture_x86_machine(lost, 2, 1);
    *layout = memory;
    layout->regions = calloc(memory.region_count, sizeof(*layout->regions));
    memcpy(layout->regions, memory.regions, memory.region_count * sizeof(*layout->regions));
    options->label = label;
    assert_stasis_ok(stasis_save_begin(path(), lost, layout, options, &job, &err), &err);
    stasis_machine_release(lost);
    free(lost);
    free(layout->regions);
    free(layout);
    free(label);
    free(options);
    assert_stasis_ok(stasis_save_finish(job, NULL, &err), &err);
    assert_stasis_ok(stasis_open(path(), &snapshot, &err), &err);
    assert_string_equal(stasis_snapshot_info(snapshot)->label, "gone");
    assert_true(fixture_machine_equal(stasis_snapshot_machine(snapshot), &machine));
    stasis_close(snapshot);
}

/* Bytes that differ from run to run: when it was made, and so the digests above that. */
static void load_without_time(struct craft *file)
{
    craft_load(file, path());
    memset(file->data + craft_field(file, CRAFT_META, CRAFT_OFF, 8), 0,
           craft_field(file, CRAFT_META, CRAFT_SIZE, 8));
    craft_seal(file);
}

static void every_writer_and_number_of_threads_writes_the_same_file(void **state)
{
    static const unsigned thread_counts[] = { 1, 2, 4, 7 };
    static const enum stasis_writer writers[] = { STASIS_WRITER_STREAMING, STASIS_WRITER_COMPACT };
    struct craft first = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    for (size_t i = 0; i < 2 * COUNT(thread_counts); i++) {
        const struct stasis_save_options options = { .writer = writers[i % 2],
                                                     .thread_count = thread_counts[i / 2],
                                                     .arena = i < 4 ? NULL : arena };
        struct stasis_save_report report = { 0 };
        struct craft file;

        assert_stasis_ok(stasis_save(path(), &machine, &memory, &options, &report, &err), &err);
        assert_true(report.data_size == fixture_data_pages(&memory) * STASIS_PAGE_SIZE);
        assert_true(report.data_size + report.zero_size == report.memory_size);
        load_without_time(&file);
        if (!first.data) {
            first = file;
            continue;
        }
        assert_int_equal(file.size, first.size);
        assert_memory_equal(file.data, first.data, first.size);
        craft_release(&file);
    }
    craft_release(&first);
}

static void any_layout_comes_back_from_a_compact_save(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        const struct stasis_save_options options = { .writer = STASIS_WRITER_COMPACT,
                                                     .arena = seed % 2 ? arena : NULL,
                                                     .thread_count = 1 + (unsigned)(seed % 4) };
        struct stasis_memory random = { 0 };
        struct stasis_error err = { 0 };

        fixture_random_memory(&random, 30, seed % 5 == 0 ? 2 * MIB : 0x24000, seed);
        assert_stasis_ok(stasis_save(path(), &machine, &random, &options, NULL, &err), &err);
        expect_file_is(path(), &random);
        stasis_memory_unmap(&random);
    }
}

static void a_copy_over_the_ceiling_becomes_a_streaming_save(void **state)
{
    const uint64_t data_size = fixture_data_pages(&memory) * STASIS_PAGE_SIZE;
    const struct {
        enum stasis_writer writer;
        uint64_t compact_max;
        enum stasis_writer expected;
    } cases[] = {
        { STASIS_WRITER_COMPACT, data_size, STASIS_WRITER_COMPACT },
        { STASIS_WRITER_COMPACT, data_size - 1, STASIS_WRITER_STREAMING },
        { STASIS_WRITER_COMPACT, 1, STASIS_WRITER_STREAMING },
        { STASIS_WRITER_COMPACT, 0, STASIS_WRITER_COMPACT },
        { STASIS_WRITER_AUTO, data_size - 1, STASIS_WRITER_STREAMING },
        { STASIS_WRITER_AUTO, 0, STASIS_WRITER_COMPACT },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct stasis_save_options options = { .writer = cases[i].writer,
                                                     .compact_max = cases[i].compact_max,
                                                     .thread_count = 2 };
        struct stasis_save_report report = { 0 };
        struct stasis_save_job *job = NULL;
        struct stasis_error err = { 0 };

        assert_stasis_ok(stasis_save_begin(path(), &machine, &memory, &options, &job, &err), &err);
        assert_stasis_ok(stasis_save_finish(job, &report, &err), &err);
        assert_int_equal(report.writer, cases[i].expected);
        assert_true(report.data_size == data_size);
        expect_file_is(path(), &memory);
    }
}

static void an_abandoned_save_leaves_nothing(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    for (enum stasis_writer writer = STASIS_WRITER_AUTO; writer <= STASIS_WRITER_COMPACT;
         writer++) {
        const struct stasis_save_options options = { .writer = writer };
        struct stasis_save_job *job = NULL;

        assert_stasis_ok(stasis_save_begin(path(), &machine, &memory, &options, &job, &err), &err);
        stasis_save_abandon(job);
        assert_int_equal(fixture_dir_count(&dir), 0);
    }
    stasis_save_abandon(NULL);
}

/* --- memory that nobody touched --- */

static uint64_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long size, resident;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lu %lu", &size, &resident), 2);
    fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void sixty_four_gib_that_nobody_touched_cost_next_to_nothing(void **state)
{
    struct stasis_region region = { .size = UINT64_C(64) << 30 };
    const struct stasis_memory huge = { .regions = &region, .region_count = 1 };
    struct stasis_save_report report = { 0 };
    struct stasis_error err = { 0 };
    uint64_t resident, begin_ms;

    (void)state;
    region.hva = mmap(NULL, region.size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(region.hva, MAP_FAILED);
    *((uint8_t *)region.hva + region.size / 2) = 1;
    assert_stasis_ok(stasis_save(path(), &machine, &memory, NULL, NULL, &err), &err); /* warm up */
    resident = resident_bytes();
    begin_ms = now_ms();
    assert_stasis_ok(stasis_save(path(), &machine, &huge, NULL, &report, &err), &err);
    assert_true(now_ms() - begin_ms < 5000); /* reading it would take a minute */
    assert_true(resident_bytes() < resident + 4 * MIB);
    assert_true(report.data_size == STASIS_PAGE_SIZE);
    assert_true(report.file_allocated < MIB);
    munmap(region.hva, region.size);
}

static void told_to_read_all_a_save_finds_the_same(void **state)
{
    const struct stasis_save_options options = { .read_all = true };
    struct stasis_save_report report = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(stasis_save(path(), &machine, &memory, &options, &report, &err), &err);
    assert_true(report.data_size == fixture_data_pages(&memory) * STASIS_PAGE_SIZE);
    expect_file_is(path(), &memory);
}

/* --- progress, cancelling, rate --- */

struct watch {
    uint64_t last, total;
    unsigned calls, stop_at; /* stop_at 0: never */
    bool bad;
};

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct watch *watch = arg;

    watch->bad |= done < watch->last || done > total || (watch->calls && total != watch->total);
    watch->last = done;
    watch->total = total;
    return ++watch->calls == watch->stop_at;
}

static void progress_goes_forward_over_both_steps(void **state)
{
    const uint64_t data_size = fixture_data_pages(&memory) * STASIS_PAGE_SIZE;
    const uint64_t ceilings[] = { 0, data_size - 1, data_size / 2 };

    (void)state;
    for (size_t i = 0; i < COUNT(ceilings); i++) {
        struct watch watch = { 0 };
        const struct stasis_save_options options = { .writer = STASIS_WRITER_COMPACT,
                                                     .compact_max = ceilings[i],
                                                     .thread_count = 3,
                                                     .progress = on_progress,
                                                     .progress_arg = &watch };
        struct stasis_save_job *job = NULL;
        struct stasis_error err = { 0 };

        assert_stasis_ok(stasis_save_begin(path(), &machine, &memory, &options, &job, &err), &err);
        assert_true(i > 0 || watch.last <= watch.total / 2);
        assert_stasis_ok(stasis_save_finish(job, NULL, &err), &err);
        assert_false(watch.bad);
        assert_true(watch.last == stasis_memory_size(&memory) && watch.total == watch.last);
    }
}

static int save_in_two_steps(const struct stasis_save_options *options, struct stasis_error *err)
{
    struct stasis_save_job *job = NULL;
    int r = stasis_save_begin(path(), &machine, &memory, options, &job, err);

    return r < 0 ? r : stasis_save_finish(job, NULL, err);
}

static void a_save_cancelled_at_any_call_leaves_nothing_but_dirty_pages(void **state)
{
    unsigned cancelled = 0;

    (void)state;
    for (enum stasis_writer writer = STASIS_WRITER_STREAMING; writer <= STASIS_WRITER_COMPACT;
         writer++) {
        for (unsigned stop_at = 1;; stop_at++) {
            struct watch watch = { .stop_at = stop_at };
            const struct stasis_save_options options = { .writer = writer,
                                                         .tracker = tracker,
                                                         .thread_count = 2,
                                                         .progress = on_progress,
                                                         .progress_arg = &watch };
            struct stasis_error err = { 0 };
            int r;

            assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
            touch(0x3000, 1);
            touch(0x10000000, 2);
            r = save_in_two_steps(&options, &err);
            if (r == 0) {
                assert_true(watch.calls < stop_at); /* it ended before it could be cancelled */
                assert_true(dirty_count() == 0);
                assert_int_equal(unlink(path()), 0);
                break;
            }
            assert_stasis_fails(r, &err, STASIS_ERR_CANCELLED);
            assert_int_equal(fixture_dir_count(&dir), 0);
            assert_true(dirty_count() == 2);
            assert_null(stasis_tracker_base(tracker));
            cancelled++;
        }
    }
    assert_true(cancelled >= 4);
}

static void a_rate_limit_is_kept(void **state)
{
    const uint64_t data_size = fixture_data_pages(&memory) * STASIS_PAGE_SIZE;
    const struct stasis_save_options options = { .rate_max = data_size * 4, .thread_count = 2 };
    struct stasis_error err = { 0 };
    const uint64_t begin_ms = now_ms();
    uint64_t took_ms;

    (void)state;
    assert_stasis_ok(stasis_save(path(), &machine, &memory, &options, NULL, &err), &err);
    took_ms = now_ms() - begin_ms;
    assert_true(took_ms >= 240); /* a quarter of a second, by a clock that ticks in ms */
    expect_file_is(path(), &memory);
}

static void a_save_that_waits_can_be_cancelled_at_once(void **state)
{
    struct watch watch = { .stop_at = 5 };
    const struct stasis_save_options options = { .rate_max = 4096, /* hours */
                                                 .thread_count = 2,
                                                 .progress = on_progress,
                                                 .progress_arg = &watch };
    struct stasis_error err = { 0 };
    const uint64_t begin_ms = now_ms();
    int r;

    (void)state;
    r = stasis_save(path(), &machine, &memory, &options, NULL, &err);
    assert_stasis_fails(r, &err, STASIS_ERR_CANCELLED);
    assert_true(now_ms() - begin_ms < 10000);
    assert_int_equal(fixture_dir_count(&dir), 0);
}

/* --- trackers --- */

static void a_trackers_base_becomes_the_snapshot_when_it_is_on_disk(void **state)
{
    const struct stasis_save_options options = { .tracker = tracker };
    struct stasis_save_report report = { 0 };
    struct stasis_save_job *job = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    touch(0x5000, 1);
    assert_stasis_ok(stasis_save_begin(path(), &machine, &memory, &options, &job, &err), &err);
    assert_null(stasis_tracker_base(tracker));
    touch(0x6000, 1); /* after the moment of the snapshot */
    assert_stasis_ok(stasis_save_finish(job, &report, &err), &err);
    assert_memory_equal(stasis_tracker_base(tracker), report.id, STASIS_ID_SIZE);
    assert_true(dirty_count() == 1);
}

static void an_abandoned_save_gives_its_pages_back(void **state)
{
    struct stasis_save_options options = { .tracker = tracker, .arena = arena };
    struct stasis_save_report report = { 0 };
    struct stasis_save_job *job = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(stasis_save(path(), &machine, &memory, &options, &report, &err), &err);
    touch(0x5000, 1);
    assert_stasis_ok(stasis_save_begin(path(), &machine, &memory, &options, &job, &err), &err);
    touch(0x6000, 1);
    stasis_save_abandon(job);
    assert_true(dirty_count() == 2);
    assert_memory_equal(stasis_tracker_base(tracker), report.id, STASIS_ID_SIZE);
}

static void a_diff_holds_what_the_tracker_saw(void **state)
{
    struct stasis_save_options options = { .tracker = tracker, .arena = arena, .thread_count = 2 };
    struct stasis_snapshot *parent = NULL;
    struct stasis_save_report report = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(stasis_save(path(), &machine, &memory, &options, &report, &err), &err);
    for (unsigned i = 0; i < 6; i++) {
        const char *const name = i % 2 ? "odd.stasis" : "even.stasis";
        char parent_path[FIXTURE_PATH_SIZE];
        struct stasis_memory before = { 0 };
        struct stasis_save_job *job = NULL;

        snprintf(parent_path, sizeof(parent_path), "%s", path());
        assert_stasis_ok(stasis_open(parent_path, &parent, &err), &err);
        touch(0x5000, (uint8_t)(i + 1));
        touch(0x10000000 + i * STASIS_PAGE_SIZE, 0);
        options.parent = parent;
        options.writer = i % 3 == 0 ? STASIS_WRITER_STREAMING : STASIS_WRITER_COMPACT;
        copy_memory(&before);
        assert_stasis_ok(
            stasis_save_begin(fixture_path(&dir, name), &machine, &memory, &options, &job, &err),
            &err);
        touch(0x8000, 9);
        assert_stasis_ok(stasis_save_finish(job, &report, &err), &err);
        assert_true(report.zero_size == STASIS_PAGE_SIZE);
        assert_true(report.data_size == STASIS_PAGE_SIZE);
        expect_file_is(fixture_path(&dir, name), &before);
        stasis_memory_unmap(&before);
        stasis_close(parent);
        /* What came after the first step is in here; chains are for other tests. */
        options.parent = NULL;
        assert_stasis_ok(stasis_save(path(), &machine, &memory, &options, &report, &err), &err);
    }
}

static void a_diff_against_the_wrong_snapshot_is_refused_and_loses_nothing(void **state)
{
    struct stasis_save_options options = { .tracker = tracker };
    struct stasis_snapshot *parent = NULL;
    struct stasis_save_job *job = NULL;
    struct stasis_error err = { 0 };
    int r;

    (void)state;
    assert_stasis_ok(stasis_save(path(), &machine, &memory, &options, NULL, &err), &err);
    assert_stasis_ok(stasis_open(path(), &parent, &err), &err);
    touch(0x5000, 77);
    assert_stasis_ok(
        stasis_save(fixture_path(&dir, "b.stasis"), &machine, &memory, &options, NULL, &err), &err);
    touch(0x6000, 1);
    options.parent = parent;
    r = stasis_save_begin(fixture_path(&dir, "d.stasis"), &machine, &memory, &options, &job, &err);
    stasis_close(parent);
    assert_stasis_fails(r, &err, STASIS_ERR_WRONG_PARENT);
    assert_null(job);
    assert_true(dirty_count() == 1);
    assert_int_equal(fixture_dir_count(&dir), 2);
}

static void a_diff_without_anything_that_tells_the_changes_is_refused(void **state)
{
    struct stasis_save_options options = { 0 };
    struct stasis_snapshot *parent = NULL;
    struct stasis_error err = { 0 };
    int without, unarmed, no_base;

    (void)state;
    assert_stasis_ok(stasis_save(path(), &machine, &memory, NULL, NULL, &err), &err);
    assert_stasis_ok(stasis_open(path(), &parent, &err), &err);
    options.parent = parent;
    without = stasis_save(fixture_path(&dir, "d"), &machine, &memory, &options, NULL, &err);
    assert_stasis_fails(without, &err, STASIS_ERR_NOT_TRACKED);
    options.tracker = tracker; /* armed, but nobody said since which snapshot */
    no_base = stasis_save(fixture_path(&dir, "d"), &machine, &memory, &options, NULL, &err);
    assert_stasis_fails(no_base, &err, STASIS_ERR_NOT_TRACKED);
    options.parent = NULL;
    stasis_tracker_close(tracker);
    assert_stasis_ok(stasis_tracker_open_bitmap(&memory, NULL, &tracker, &err), &err);
    options.tracker = tracker;
    unarmed = stasis_save(fixture_path(&dir, "d"), &machine, &memory, &options, NULL, &err);
    assert_stasis_fails(unarmed, &err, STASIS_ERR_WRONG_STATE);
    stasis_close(parent);
    assert_int_equal(fixture_dir_count(&dir), 1);
}

static void options_that_make_no_sense_are_refused(void **state)
{
    struct stasis_page_set changed = { 0 }, short_set = { 0 };
    struct stasis_snapshot *parent = NULL;
    struct stasis_memory shifted = memory;
    struct stasis_region regions[2];
    struct stasis_error err = { 0 };
    struct stasis_save_options options = { .writer = 9 };

    (void)state;
    assert_stasis_ok(stasis_save(path(), &machine, &memory, NULL, NULL, &err), &err);
    assert_stasis_ok(stasis_open(path(), &parent, &err), &err);
    assert_stasis_ok(stasis_page_set_init(&changed, stasis_tracker_page_count(tracker), &err),
                     &err);
    assert_stasis_ok(stasis_page_set_init(&short_set, 7, &err), &err);
    assert_stasis_fails(save_in_two_steps(&options, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
    options = (struct stasis_save_options){ .changed = &changed };
    assert_stasis_fails(save_in_two_steps(&options, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
    options = (struct stasis_save_options){ .full_from_parent = true };
    assert_stasis_fails(save_in_two_steps(&options, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
    options = (struct stasis_save_options){ .parent = parent, .changed = &short_set };
    assert_stasis_fails(save_in_two_steps(&options, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
    options =
        (struct stasis_save_options){ .parent = parent, .changed = &changed, .tracker = tracker };
    assert_stasis_fails(save_in_two_steps(&options, &err), &err, STASIS_ERR_INVALID_ARGUMENT);

    memcpy(regions, memory.regions, sizeof(regions));
    regions[1].gpa += STASIS_PAGE_SIZE;
    shifted.regions = regions;
    options = (struct stasis_save_options){ .parent = parent, .changed = &changed };
    assert_stasis_fails(
        stasis_save(fixture_path(&dir, "d"), &machine, &shifted, &options, NULL, &err), &err,
        STASIS_ERR_LAYOUT_MISMATCH);
    shifted.region_count = 1;
    options = (struct stasis_save_options){ .tracker = tracker };
    assert_stasis_fails(
        stasis_save(fixture_path(&dir, "d"), &machine, &shifted, &options, NULL, &err), &err,
        STASIS_ERR_INVALID_ARGUMENT);
    options = (struct stasis_save_options){ .parent = parent, .tracker = NULL };
    assert_stasis_fails(
        stasis_save(fixture_path(&dir, "d"), &machine, &shifted, &options, NULL, &err), &err,
        STASIS_ERR_LAYOUT_MISMATCH);
    stasis_page_set_release(&changed);
    stasis_page_set_release(&short_set);
    stasis_close(parent);
    assert_int_equal(fixture_dir_count(&dir), 1);
}

static void an_arena_serves_one_save_at_a_time(void **state)
{
    const struct stasis_save_options options = { .arena = arena };
    struct stasis_save_job *job = NULL, *second = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(stasis_save_begin(path(), &machine, &memory, &options, &job, &err), &err);
    assert_stasis_fails(stasis_save_begin(path(), &machine, &memory, &options, &second, &err), &err,
                        STASIS_ERR_BUSY);
    assert_stasis_ok(stasis_save_finish(job, NULL, &err), &err);
    assert_stasis_ok(stasis_save_begin(path(), &machine, &memory, &options, &second, &err), &err);
    stasis_save_abandon(second);
    assert_stasis_ok(save_in_two_steps(&options, &err), &err);
}

#define case_(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        case_(what_the_guest_does_after_the_first_step_is_not_in_the_snapshot),
        case_(machine_and_options_may_be_gone_before_the_second_step),
        case_(every_writer_and_number_of_threads_writes_the_same_file),
        case_(any_layout_comes_back_from_a_compact_save),
        case_(a_copy_over_the_ceiling_becomes_a_streaming_save),
        case_(an_abandoned_save_leaves_nothing),
        case_(sixty_four_gib_that_nobody_touched_cost_next_to_nothing),
        case_(told_to_read_all_a_save_finds_the_same),
        case_(progress_goes_forward_over_both_steps),
        case_(a_save_cancelled_at_any_call_leaves_nothing_but_dirty_pages),
        case_(a_rate_limit_is_kept),
        case_(a_save_that_waits_can_be_cancelled_at_once),
        case_(a_trackers_base_becomes_the_snapshot_when_it_is_on_disk),
        case_(an_abandoned_save_gives_its_pages_back),
        case_(a_diff_holds_what_the_tracker_saw),
        case_(a_diff_against_the_wrong_snapshot_is_refused_and_loses_nothing),
        case_(a_diff_without_anything_that_tells_the_changes_is_refused),
        case_(options_that_make_no_sense_are_refused),
        case_(an_arena_serves_one_save_at_a_time),
    };

    return unit_run(tests);
}
