/*
 * bench_memory.c - what does guest memory cost: to look at, to save, to track and to open again?
 *
 *     bench_memory [FOLDER]      files are made in FOLDER, or in TMPDIR, or in /tmp
 *
 * 1 GiB of RAM with one page in ten holding random bytes, scattered singly; diffs of 2,621 pages (1 % of
 * 1 GiB) at random, written by a guest under /dev/kvm and learnt from KVM's dirty log. Each row stands
 * next to its bound, measured in the same run by the plainest code that does the unavoidable: reading,
 * testing, copying, writing the same pages with as many threads. Page cache is warm; files are new.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stasis/dirty.h>
#include <stasis/snapshot.h>

#include "base/pool.h"
#include "bench/dirty_guest.h"
#include "bench/measure.h"
#include "memory/zero.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)
#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define ROUNDS 7
#define DIFF_ROUNDS 15
#define DIRTY_PAGES 2621
#define CHAIN_DEPTH 1000
#define FLATTEN_DEPTH 100

static char folder[256];
static unsigned threads;

static void die(const char *what, const struct stasis_error *err)
{
    fprintf(stderr, "bench_memory: %s: %s\n", what, err ? err->text : strerror(errno));
    exit(1);
}

#define must(call, err)                                                                            \
    do {                                                                                           \
        if ((call) < 0)                                                                            \
            die(#call, err);                                                                       \
    } while (0)

static const char *path(const char *name)
{
    static char paths[4][512];
    static unsigned next;
    char *text = paths[next++ % 4];

    snprintf(text, sizeof(paths[0]), "%s/%s", folder, name);
    return text;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static void *map_memory(uint64_t size)
{
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (data == MAP_FAILED)
        die("mmap", NULL);
    return data;
}

/* --- the workload --- */

static struct stasis_region ram;
static struct stasis_memory memory = { &ram, 1 };
static struct stasis_machine machine;
static uint64_t *data_pages; /* which pages of RAM hold data */
static size_t data_count;

static void fill_page(uint64_t page, uint64_t *random)
{
    uint64_t *words = (uint64_t *)(void *)((uint8_t *)ram.hva + page * PAGE);

    for (size_t i = 0; i < PAGE / 8; i++)
        words[i] = next_random(random);
}

/* Every page is there, as in a guest that has run for a while; one in ten holds something. */
static void make_ram(void)
{
    uint64_t random = 1;

    ram = (struct stasis_region){ .size = GIB, .hva = map_memory(GIB) };
    (void)madvise(ram.hva, ram.size, MADV_NOHUGEPAGE);
    memset(ram.hva, 0xff, ram.size);
    memset(ram.hva, 0, ram.size);
    data_pages = calloc(GIB / PAGE, sizeof(*data_pages));
    if (!data_pages)
        die("calloc", NULL);
    for (uint64_t page = 0; page < GIB / PAGE; page++) {
        if (next_random(&random) % 10 != 0)
            continue;
        data_pages[data_count++] = page;
        fill_page(page, &random);
    }
}

/* --- bounds --- */

#define SLICE (4 * MIB)

static _Atomic uint64_t sink; /* keeps work from being optimised away */

/* The fastest reading there is, with nothing done but reading: as wide as the CPU has it. */
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
read_bytes(const uint8_t *bytes, size_t size)
{
    typedef uint64_t vector __attribute__((vector_size(64)));
    vector a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };

    for (size_t off = 0; off < size; off += 4 * sizeof(vector)) {
        const vector *v = (const vector *)(const void *)(bytes + off);

        a |= v[0];
        b |= v[1];
        c |= v[2];
        d |= v[3];
    }
    a |= b | c | d;
    return a[0] | a[1] | a[2] | a[3] | a[4] | a[5] | a[6] | a[7];
}

static int read_slice(void *arg, unsigned worker, uint64_t slice, struct stasis_error *err)
{
    const uint8_t *page = (const uint8_t *)arg + slice * SLICE;
    uint64_t seen = 0;

    (void)worker;
    (void)err;
    for (size_t off = 0; off < SLICE; off += PAGE) /* by pages, as the zero test goes */
        seen |= read_bytes(page + off, PAGE);
    sink += seen;
    return 0;
}

static const struct zero_variant *scan_variant; /* NULL: zero_bytes() */

static int scan_slice(void *arg, unsigned worker, uint64_t slice, struct stasis_error *err)
{
    const uint8_t *page = (const uint8_t *)arg + slice * SLICE;
    uint64_t count = 0;

    (void)worker;
    (void)err;
    for (size_t off = 0; off < SLICE; off += PAGE)
        count += scan_variant ? scan_variant->zero(page + off, PAGE) : zero_bytes(page + off, PAGE);
    sink += count;
    return 0;
}

static double time_slices(pool_work_fn *work, void *data, unsigned thread_count)
{
    const double begin = measure_now_ms();

    must(pool_run(thread_count, GIB / SLICE, work, data, NULL), NULL);
    return measure_now_ms() - begin;
}

struct page_job {
    int fd;       /* to write to, or -1 */
    uint8_t *out; /* to copy to, or NULL */
};

#define PAGES_AT_ONCE 64

static int move_pages(void *arg, unsigned worker, uint64_t part, struct stasis_error *err)
{
    const struct page_job *job = arg;
    const size_t begin = (size_t)part * PAGES_AT_ONCE;

    (void)worker;
    (void)err;
    for (size_t i = begin; i < begin + PAGES_AT_ONCE && i < data_count; i++) {
        const uint8_t *bytes = (const uint8_t *)ram.hva + data_pages[i] * PAGE;

        if (job->out)
            memcpy(job->out + i * PAGE, bytes, PAGE);
        else if (pwrite(job->fd, bytes, PAGE, (off_t)(data_pages[i] * PAGE)) != (ssize_t)PAGE)
            return -1;
    }
    return 0;
}

static double time_pages(struct page_job *job)
{
    const double begin = measure_now_ms();

    must(pool_run(threads, (data_count + PAGES_AT_ONCE - 1) / PAGES_AT_ONCE, move_pages, job, NULL),
         NULL);
    return measure_now_ms() - begin;
}

/* The same pages at the same places of an empty file of the same length. */
static double time_write(void)
{
    struct page_job job = { .fd = open(path("bound"), O_RDWR | O_CREAT | O_TRUNC, 0600) };
    double ms;

    if (job.fd < 0 || ftruncate(job.fd, (off_t)GIB) < 0)
        die("the bound's file", NULL);
    ms = time_pages(&job);
    close(job.fd);
    unlink(path("bound"));
    return ms;
}

/* --- zero test --- */

static void bench_zero(void)
{
    uint8_t *zeros = map_memory(GIB);

    (void)madvise(zeros, GIB, MADV_NOHUGEPAGE);
    memset(zeros, 0xff, GIB);
    memset(zeros, 0, GIB);
    for (unsigned n = 1; n <= threads; n += threads > 1 ? threads - 1 : 1) {
        for (size_t v = 0; v < zero_variant_count; v++) {
            struct measure read = { 0 }, scan = { 0 };
            char job[128];

            scan_variant = &zero_variants[v];
            if (!scan_variant->available())
                continue;
            for (unsigned i = 0; i <= 2 * ROUNDS; i++) {
                const double read_ms = time_slices(read_slice, zeros, n);
                const double scan_ms = time_slices(scan_slice, zeros, n);

                if (i == 0)
                    continue; /* warm-up */
                measure_add(&read, (double)GIB / 1e6 / read_ms);
                measure_add(&scan, (double)GIB / 1e6 / scan_ms);
            }
            snprintf(job, sizeof(job), "zero test of 1 GiB, %s, %u thread%s", scan_variant->name, n,
                     n == 1 ? "" : "s");
            row(job, measure_text(&scan, "GB/s"), measure_text(&read, "GB/s read"),
                measure_median(&scan) / measure_median(&read), v == 0 ? ">= 0.9" : NULL,
                measure_median(&scan) >= 0.9 * measure_median(&read));
        }
    }
    scan_variant = NULL;
    munmap(zeros, GIB);
}

/* --- full save --- */

/* A file with all of RAM's bytes in it and no hole, in the page cache. */
static void make_cp_source(void)
{
    const int fd = open(path("ram"), O_RDWR | O_CREAT | O_TRUNC, 0600);

    for (uint64_t off = 0; fd >= 0 && off < GIB; off += SLICE) {
        if (pwrite(fd, (uint8_t *)ram.hva + off, SLICE, (off_t)off) != (ssize_t)SLICE)
            die("the source of cp", NULL);
    }
    if (fd < 0 || fdatasync(fd) < 0)
        die("the source of cp", NULL);
    close(fd);
}

static double time_cp(void)
{
    char *const argv[] = { "cp", "--sparse=always", (char *)(uintptr_t)path("ram"),
                           (char *)(uintptr_t)path("copy"), NULL };
    const double begin = measure_now_ms();
    const pid_t pid = fork();
    int status;

    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        die("cp --sparse=always", NULL);
    unlink(path("copy"));
    return measure_now_ms() - begin;
}

static void bench_full(void)
{
    struct measure scan = { 0 }, write_bound = { 0 }, save = { 0 }, cp = { 0 }, size = { 0 };
    const struct stasis_save_options options = { .thread_count = threads };
    char bound[256];
    double both;

    make_cp_source();
    for (unsigned i = 0; i <= ROUNDS; i++) {
        struct stasis_save_report report;
        struct stasis_error err;

        measure_add(&scan, time_slices(scan_slice, ram.hva, threads));
        measure_add(&write_bound, time_write());
        must(stasis_save(path("full"), &machine, &memory, &options, &report, &err), &err);
        unlink(path("full"));
        sync(); /* nobody else's dirty pages in the next one */
        measure_add(&save, (double)(report.total_us - report.sync_us) / 1e3);
        measure_add(&size, (double)report.file_allocated / (double)report.data_size);
        measure_add(&cp, time_cp());
        sync();
        if (i == 0)
            scan.count = write_bound.count = save.count = size.count = cp.count = 0;
    }
    unlink(path("ram"));
    both = measure_median(&scan) + measure_median(&write_bound);
    snprintf(bound, sizeof(bound), "scan %s + write %s", measure_text(&scan, "ms"),
             measure_text(&write_bound, "ms"));
    row("full save, 1 GiB, 10 % data scattered singly, page cache", measure_text(&save, "ms"),
        bound, measure_median(&save) / both, "<= 1.3", measure_median(&save) <= 1.3 * both);
    row("the same against `cp --sparse=always`", measure_text(&save, "ms"), measure_text(&cp, "ms"),
        measure_median(&save) / measure_median(&cp), "<= 2",
        measure_median(&save) <= 2 * measure_median(&cp));
    row("the same, bytes on disk against data", measure_text(&size, "x"), "1",
        measure_median(&size), "<= 1.02", measure_median(&size) <= 1.02);
}

static void bench_compact_pause(void)
{
    struct measure scan = { 0 }, copy = { 0 }, pause = { 0 }, total = { 0 };
    struct stasis_arena *arena = NULL;
    struct page_job job = { .fd = -1, .out = map_memory(GIB / 8) };
    struct stasis_error err;
    char bound[256];
    double both;

    memset(job.out, 1, GIB / 8);
    must(stasis_arena_new(GIB / 8, &arena, &err), &err);
    for (unsigned i = 0; i <= 2 * ROUNDS; i++) {
        const struct stasis_save_options options = { .thread_count = threads,
                                                     .writer = STASIS_WRITER_COMPACT,
                                                     .arena = arena };
        struct stasis_save_job *save = NULL;
        struct stasis_save_report report;

        measure_add(&scan, time_slices(scan_slice, ram.hva, threads));
        measure_add(&copy, time_pages(&job));
        must(stasis_save_begin(path("full"), &machine, &memory, &options, &save, &err), &err);
        must(stasis_save_finish(save, &report, &err), &err);
        unlink(path("full"));
        measure_add(&pause, (double)report.begin_us / 1e3);
        measure_add(&total, (double)(report.total_us - report.sync_us) / 1e3);
        if (i == 0)
            scan.count = copy.count = pause.count = total.count = 0;
    }
    stasis_arena_free(arena);
    munmap(job.out, GIB / 8);
    both = measure_median(&scan) + measure_median(&copy);
    snprintf(bound, sizeof(bound), "scan %s + copy %s", measure_text(&scan, "ms"),
             measure_text(&copy, "ms"));
    row("the same, pause only, compact", measure_text(&pause, "ms"), bound,
        measure_median(&pause) / both, "<= 1.2", measure_median(&pause) <= 1.2 * both);
    row("the same, all of it but the sync", measure_text(&total, "ms"), "", 0, NULL, false);
}

/* --- peak memory --- */

static uint64_t status_kib(const char *key)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    uint64_t value = 0;

    while (file && fgets(line, sizeof(line), file)) {
        if (strncmp(line, key, strlen(key)) == 0)
            value = strtoull(line + strlen(key), NULL, 10);
    }
    if (file)
        fclose(file);
    return value;
}

static void bench_peak(void)
{
    const struct stasis_save_options options = { .thread_count = 8 };
    struct measure peak = { 0 };
    struct stasis_error err;

    for (unsigned i = 0; i < 3; i++) {
        const int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
        uint64_t before;

        if (fd < 0 || write(fd, "5", 1) != 1) /* the high-water mark is now what it is */
            die("/proc/self/clear_refs", NULL);
        close(fd);
        before = status_kib("VmRSS:");
        must(stasis_save(path("full"), &machine, &memory, &options, NULL, &err), &err);
        unlink(path("full"));
        measure_add(&peak, (double)(status_kib("VmHWM:") - before) / 1024);
    }
    row("peak extra memory, streaming, 8 threads", measure_text(&peak, "MiB"), "64 MiB",
        measure_median(&peak) / 64, "<= 1", measure_median(&peak) <= 64);
}

/* --- diffs of a guest under KVM --- */

struct diff_figures {
    struct measure pause, total, bytes, bound;
    enum stasis_writer writer;
};

static void pick_pages(uint64_t ram_size, uint64_t *pages, uint64_t *random)
{
    const uint64_t count = ram_size / PAGE - DIRTY_GUEST_FIRST_PAGE;

    for (size_t i = 0; i < DIRTY_PAGES; i++)
        pages[i] = DIRTY_GUEST_FIRST_PAGE + next_random(random) % count;
}

/* As many bytes, written in one go and synced: what no snapshot can do without. */
static double time_write_and_sync(size_t size)
{
    const double begin = measure_now_ms();
    const int fd = open(path("bound"), O_RDWR | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || write(fd, ram.hva, size) != (ssize_t)size || fdatasync(fd) < 0)
        die("the bound's file", NULL);
    close(fd);
    unlink(path("bound"));
    return measure_now_ms() - begin;
}

static void one_diff(struct dirty_guest *guest, const struct stasis_save_options *options,
                     uint64_t dirty_count, struct diff_figures *figures)
{
    struct stasis_machine state = { 0 };
    struct stasis_save_report report;
    struct stasis_save_job *job = NULL;
    struct stasis_error err;
    const double begin = measure_now_ms();
    double pause;

    must(stasis_kvm_capture(guest->host, &guest->view, &state, &err), &err);
    must(stasis_save_begin(path("diff"), &state, &guest->memory, options, &job, &err), &err);
    pause = measure_now_ms() - begin;
    stasis_machine_release(&state);
    must(stasis_save_finish(job, &report, &err), &err);
    measure_add(&figures->pause, pause);
    measure_add(&figures->total, measure_now_ms() - begin);
    measure_add(&figures->bytes, (double)report.file_allocated / (double)(dirty_count * PAGE));
    figures->writer = report.writer;
}

/* Distinct pages of the list; the guest dirties a few of its own besides. */
static uint64_t count_distinct(const uint64_t *pages, uint64_t page_count)
{
    struct stasis_page_set set = { 0 };
    uint64_t count;

    must(stasis_page_set_init(&set, page_count, NULL), NULL);
    for (size_t i = 0; i < DIRTY_PAGES; i++)
        stasis_page_set_add(&set, pages[i], 1);
    count = stasis_page_set_count(&set);
    stasis_page_set_release(&set);
    return count;
}

static bool bench_guest(uint64_t ram_size, struct diff_figures *figures)
{
    static uint64_t pages[DIRTY_PAGES];
    struct dirty_guest guest;
    struct stasis_kvm_slot slot = { .size = ram_size };
    struct stasis_save_options options = { .thread_count = threads };
    struct stasis_machine state = { 0 };
    struct stasis_snapshot *parent = NULL;
    struct stasis_save_report report;
    struct stasis_error err;
    uint64_t random = 7;
    const char *why;

    if (!dirty_guest_make(&guest, ram_size, &why)) {
        printf("\nNo figures for diffs of a guest: %s.\n", why);
        return false;
    }
    slot.hva = (uint64_t)(uintptr_t)guest.region.hva;
    must(stasis_tracker_open_kvm_log(guest.vm_fd, &slot, 1, &guest.memory, &options.tracker, &err),
         &err);
    must(stasis_tracker_arm(options.tracker, &err), &err);
    must(stasis_arena_new(32 * MIB, &options.arena, &err), &err);
    must(stasis_kvm_capture(guest.host, &guest.view, &state, &err), &err);
    must(stasis_save(path("base"), &state, &guest.memory, &options, &report, &err), &err);
    stasis_machine_release(&state);
    must(stasis_open(path("base"), &parent, &err), &err);
    options.parent = parent;
    for (unsigned i = 0; i <= DIFF_ROUNDS; i++) {
        pick_pages(ram_size, pages, &random);
        if (!dirty_guest_write(&guest, pages, DIRTY_PAGES, i + 1))
            die("the guest", NULL);
        measure_add(&figures->bound, time_write_and_sync(DIRTY_PAGES * PAGE));
        one_diff(&guest, &options, count_distinct(pages, ram_size / PAGE), figures);
        /* Each diff is against the base again: its pages are this round's only. */
        stasis_tracker_set_base(options.tracker, report.id);
        if (i == 0)
            figures->pause.count = figures->total.count = figures->bytes.count =
                figures->bound.count = 0;
    }
    stasis_close(parent);
    stasis_tracker_close(options.tracker);
    stasis_arena_free(options.arena);
    dirty_guest_release(&guest);
    unlink(path("diff"));
    unlink(path("base"));
    return true;
}

static void bench_diffs(void)
{
    static struct diff_figures small, large;

    if (!bench_guest(GIB, &small) || !bench_guest(16 * GIB, &large))
        return;
    row("diff, 1 GiB, 2,621 pages dirty at random, KVM log: pause with state capture",
        measure_text(&small.pause, "ms"), "3 ms", measure_median(&small.pause) / 3, "<= 1",
        measure_median(&small.pause) <= 3);
    row("the same, total with fsync", measure_text(&small.total, "ms"),
        measure_text(&small.bound, "ms write + fsync of as many bytes"),
        measure_median(&small.total) / measure_median(&small.bound), "<= 40 ms",
        measure_median(&small.total) <= 40);
    row("the same, bytes on disk against dirty", measure_text(&small.bytes, "x"), "1",
        measure_median(&small.bytes), "<= 1.03", measure_median(&small.bytes) <= 1.03);
    row("diff pause, 16 GiB, 2,621 pages", measure_text(&large.pause, "ms"),
        measure_text(&small.pause, "ms at 1 GiB"),
        measure_median(&large.pause) / measure_median(&small.pause), "<= 2",
        measure_median(&large.pause) <= 2 * measure_median(&small.pause));
}

/* --- chains --- */

static const char *link_path(unsigned depth)
{
    char name[32];

    snprintf(name, sizeof(name), "chain%u", depth);
    return path(name);
}

/* A chain of `depth` diffs of 64 pages each, the same ones or others each time. */
static void make_chain(unsigned depth, bool same_pages)
{
    struct stasis_save_options options = { .thread_count = 1 };
    struct stasis_page_set changed = { 0 };
    struct stasis_error err;
    uint64_t random = 3;

    must(stasis_page_set_init(&changed, ram.size / PAGE, &err), &err);
    must(stasis_save(link_path(0), &machine, &memory, &options, NULL, &err), &err);
    for (unsigned i = 1; i <= depth; i++) {
        struct stasis_snapshot *parent = NULL;

        if (same_pages)
            random = 3;
        stasis_page_set_clear(&changed);
        for (unsigned j = 0; j < 64; j++) {
            const uint64_t page = next_random(&random) % changed.page_count;

            *(uint64_t *)(void *)((uint8_t *)ram.hva + page * PAGE) = i;
            stasis_page_set_add(&changed, page, 1);
        }
        must(stasis_open(link_path(i - 1), &parent, &err), &err);
        options.parent = parent;
        options.changed = &changed;
        must(stasis_save(link_path(i), &machine, &memory, &options, NULL, &err), &err);
        stasis_close(parent);
    }
    stasis_page_set_release(&changed);
}

static void remove_chain(unsigned depth)
{
    for (unsigned i = 0; i <= depth; i++)
        unlink(link_path(i));
}

static double time_open_and_map(const char *file)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_memory mapped = { 0 };
    struct stasis_error err;
    const double begin = measure_now_ms();
    double ms;

    must(stasis_open(file, &snapshot, &err), &err);
    must(stasis_restore(snapshot, NULL, &mapped, &err), &err);
    ms = measure_now_ms() - begin;
    stasis_memory_unmap(&mapped);
    stasis_close(snapshot);
    return ms;
}

static void bench_chain(bool same_pages)
{
    struct measure deep = { 0 }, shallow = { 0 };

    make_chain(CHAIN_DEPTH, same_pages);
    for (unsigned i = 0; i <= DIFF_ROUNDS; i++) {
        measure_add(&deep, time_open_and_map(link_path(CHAIN_DEPTH)));
        measure_add(&shallow, time_open_and_map(link_path(1)));
        if (i == 0)
            deep.count = shallow.count = 0;
    }
    remove_chain(CHAIN_DEPTH);
    row(same_pages ? "open and map a chain of 1,000 diffs, the same extents at each depth"
                   : "open and map a chain of 1,000 diffs, 64 more extents with each",
        measure_text(&deep, "ms"), measure_text(&shallow, "ms at depth 1"),
        measure_median(&deep) / measure_median(&shallow), same_pages ? "<= 1.2" : NULL,
        measure_median(&deep) <= 1.2 * measure_median(&shallow));
}

static void bench_flatten(void)
{
    struct measure flatten = { 0 }, once = { 0 };
    struct stasis_snapshot *top = NULL;
    const struct stasis_save_options options = { .thread_count = threads };
    const struct stasis_copy_options copy = { .thread_count = threads };
    struct stasis_error err;

    make_chain(FLATTEN_DEPTH, false);
    must(stasis_open(link_path(FLATTEN_DEPTH), &top, &err), &err);
    for (unsigned i = 0; i <= ROUNDS; i++) {
        double begin = measure_now_ms();

        must(stasis_flatten(top, path("flat"), &copy, NULL, &err), &err);
        measure_add(&flatten, measure_now_ms() - begin);
        unlink(path("flat"));
        begin = measure_now_ms();
        must(stasis_save(path("flat"), &machine, &memory, &options, NULL, &err), &err);
        measure_add(&once, measure_now_ms() - begin);
        unlink(path("flat"));
        if (i == 0)
            flatten.count = once.count = 0;
    }
    stasis_close(top);
    remove_chain(FLATTEN_DEPTH);
    row("flatten 100 diffs, 1 GiB, 10 % data", measure_text(&flatten, "ms"),
        measure_text(&once, "ms writing the result once"),
        measure_median(&flatten) / measure_median(&once), "<= 1.5",
        measure_median(&flatten) <= 1.5 * measure_median(&once));
}

/* A machine that a snapshot accepts, for rows in which none runs. */
static void make_machine(void)
{
    machine.arch = STASIS_ARCH_X86_64;
    machine.x86_64 = calloc(1, sizeof(*machine.x86_64));
    if (!machine.x86_64)
        die("calloc", NULL);
    machine.x86_64->vcpus = calloc(1, sizeof(*machine.x86_64->vcpus));
    if (!machine.x86_64->vcpus)
        die("calloc", NULL);
    machine.x86_64->vcpus_count = 1;
    machine.x86_64->vcpus[0].xsave_size = 4096;
    machine.x86_64->vcpus[0].xsave = calloc(1, 4096);
    if (!machine.x86_64->vcpus[0].xsave)
        die("calloc", NULL);
}

int main(int argc, char **argv)
{
    const char *const in = argc > 1 ? argv[1] : getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    const char *const chain_in = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : in;
    char disk[256];

    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(disk, sizeof(disk), "%.200s/stasis-bench.XXXXXX", in);
    if (!mkdtemp(disk))
        die(disk, NULL);
    memcpy(folder, disk, sizeof(folder));
    threads = pool_default_threads(8);
    make_ram();
    make_machine();
    printf("%u threads; files in %s; chains in %s\n\n", threads, in, chain_in);
    row_head();
    bench_zero();
    bench_full();
    bench_compact_pause();
    bench_peak();
    bench_diffs();
    bench_flatten();

    /* A thousand commits to a disk would take longer than all else, and are not what is asked. */
    snprintf(folder, sizeof(folder), "%.200s/stasis-bench.XXXXXX", chain_in);
    if (!mkdtemp(folder))
        die(folder, NULL);
    bench_chain(true);
    bench_chain(false);
    rmdir(folder);
    rmdir(disk);
    stasis_machine_release(&machine);
    return 0;
}
