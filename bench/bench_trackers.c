/*
 * bench_trackers.c - what a harvest costs: the part of a diff's pause that learns which pages
 * changed.
 *
 *     bench_trackers [RUNS]
 *
 * For 1 GiB and 16 GiB of memory, 2,621 pages at random are written between harvests: 1 % of 1
 * GiB, and the same number of 16 GiB. Median, least and most of RUNS (21) harvests after 3
 * warm-ups, in microseconds, and the ratio of the two sizes: what a pause gains by more memory
 * alone. KVM's trackers are measured with a guest that does the writing; where /dev/kvm cannot be
 * used, they are left out, aloud.
 *
 * Bounds from the same run: an ioctl that does nothing; copying the bitmap (one bit a page), which
 * a dirty log cannot go below; reading the page table (8 bytes a page), which PAGEMAP_SCAN cannot;
 * and copying the dirty pages, which the pause does after the harvest. Each harvest is checked to
 * tell what was written.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <linux/kvm.h>

#include <stasis/dirty.h>

#include "memory/residency.h"

#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define GIB (UINT64_C(1) << 30)
#define DIRTY_PAGES 2621
#define WARM_UPS 3
#define RUNS_MAX 1001
#define RING_SIZE (UINT32_C(1) << 20)

/* The guest's own: code, page tables, list. No dirty page is below. */
#define COUNT_GPA 0x500u
#define CODE_GPA 0x1000u
#define TABLES_GPA 0x10000u
#define LIST_GPA 0x80000u
#define FIRST_PAGE 512

struct bench {
    uint64_t size; /* bytes of memory */
    uint8_t *hva;
    struct stasis_region region;
    struct stasis_memory memory;
    struct stasis_page_set set;
    uint64_t pages[DIRTY_PAGES]; /* to be written next */
    uint64_t random_state;
    struct stasis_tracker *tracker;
    int kvm_fd, vm_fd, vcpu_fd; /* -1: none */
    struct kvm_run *run;
};

static unsigned run_count = 21;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_trackers: %s: %s\n", what, why);
    exit(1);
}

static void must(int result, const struct stasis_error *err)
{
    if (result < 0)
        die("stasis", err->text);
}

static int must_call(int result, const char *what)
{
    if (result < 0)
        die(what, strerror(errno));
    return result;
}

static double now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* --- a guest that writes -------------------------------------------------------------------- */

static const uint8_t guest_code[] = {
    0x48, 0xc7, 0xc6, 0x00, 0x00, 0x08, 0x00, /* 0: mov   $0x80000, %rsi */
    0x8b, 0x0c, 0x25, 0x00, 0x05, 0x00, 0x00, /*    mov   0x500, %ecx    */
    0xe3, 0x0c,                               /* 1: jrcxz 2f             */
    0x48, 0xad,                               /*    lodsq                */
    0xff, 0x80, 0x00, 0x08, 0x00, 0x00,       /*    incl  0x800(%rax)    */
    0xff, 0xc9,                               /*    dec   %ecx           */
    0xeb, 0xf2,                               /*    jmp   1b             */
    0xe6, 0x80,                               /* 2: out   %al, $0x80     */
    0xeb, 0xe0,                               /*    jmp   0b             */
};

/* Identity, by pages of 2 MiB that are accessed and dirty already: walking them writes nothing. */
static void make_page_tables(struct bench *bench)
{
    uint64_t *pml4 = (uint64_t *)(void *)(bench->hva + TABLES_GPA);
    uint64_t *pdpt = pml4 + 512;

    pml4[0] = (TABLES_GPA + PAGE) | 0x63;
    for (uint64_t gib = 0; gib < bench->size / GIB; gib++) {
        uint64_t *directory = pdpt + 512 * (gib + 1);

        pdpt[gib] = (TABLES_GPA + PAGE * (gib + 2)) | 0x63;
        for (uint64_t i = 0; i < 512; i++)
            directory[i] = (gib * GIB + i * 2 * 1024 * 1024) | 0xe3;
    }
}

static void set_cpuid(const struct bench *bench)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(struct kvm_cpuid_entry2));

    if (!cpuid)
        die("cpuid", "out of memory");
    cpuid->nent = 256;
    must_call(ioctl(bench->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
    must_call(ioctl(bench->vcpu_fd, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
    free(cpuid);
}

static void set_registers(const struct bench *bench)
{
    struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 0x2 };
    struct kvm_segment flat = { .limit = 0xffffffff, .present = 1, .s = 1, .g = 1 };
    struct kvm_sregs sregs;

    must_call(ioctl(bench->vcpu_fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    flat.selector = 0x8, flat.type = 0xb, flat.l = 1;
    sregs.cs = flat;
    flat.selector = 0x10, flat.type = 0x3, flat.l = 0, flat.db = 1;
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = flat;
    sregs.cr3 = TABLES_GPA;
    sregs.cr4 |= 1u << 5;            /* PAE */
    sregs.efer |= 1u << 8 | 1 << 10; /* LME, LMA */
    sregs.cr0 |= 1u << 31 | 1;       /* PG, PE */
    must_call(ioctl(bench->vcpu_fd, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    must_call(ioctl(bench->vcpu_fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static struct stasis_kvm_slot slot_of(const struct bench *bench)
{
    return (struct stasis_kvm_slot){ .size = bench->size, .hva = (uintptr_t)bench->hva };
}

static void make_guest(struct bench *bench, bool rings)
{
    struct kvm_userspace_memory_region slot = { .memory_size = bench->size,
                                                .userspace_addr = (uintptr_t)bench->hva };
    struct stasis_error err = { 0 };
    int run_size;

    run_size = must_call(ioctl(bench->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    bench->vm_fd = must_call(ioctl(bench->kvm_fd, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    if (rings)
        must(stasis_kvm_enable_dirty_ring(bench->vm_fd, RING_SIZE, &err), &err);
    must_call(ioctl(bench->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot), "memory slot");
    bench->vcpu_fd = must_call(ioctl(bench->vm_fd, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    bench->run =
        mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, bench->vcpu_fd, 0);
    if (bench->run == MAP_FAILED)
        die("map vCPU", strerror(errno));
    set_cpuid(bench);
    make_page_tables(bench);
    memcpy(bench->hva + CODE_GPA, guest_code, sizeof(guest_code));
    set_registers(bench);
}

static void write_by_guest(struct bench *bench)
{
    const uint32_t count = DIRTY_PAGES;

    memcpy(bench->hva + COUNT_GPA, &count, sizeof(count));
    for (size_t i = 0; i < DIRTY_PAGES; i++) {
        const uint64_t gpa = bench->pages[i] * PAGE;

        memcpy(bench->hva + LIST_GPA + 8 * i, &gpa, sizeof(gpa));
    }
    must_call(ioctl(bench->vcpu_fd, KVM_RUN, 0), "KVM_RUN");
    if (bench->run->exit_reason != KVM_EXIT_IO) {
        fprintf(stderr, "bench_trackers: exit reason %u\n", bench->run->exit_reason);
        exit(1);
    }
}

static void write_by_hand(struct bench *bench)
{
    for (size_t i = 0; i < DIRTY_PAGES; i++)
        bench->hva[bench->pages[i] * PAGE + 0x800]++;
}

static void write_and_mark(struct bench *bench)
{
    write_by_hand(bench);
    for (size_t i = 0; i < DIRTY_PAGES; i++)
        (void)stasis_tracker_mark(bench->tracker, bench->pages[i] * PAGE, PAGE);
}

/* --- memory and trackers -------------------------------------------------------------------- */

static void open_bench(struct bench *bench, uint64_t size)
{
    struct stasis_error err = { 0 };

    memset(bench, 0, sizeof(*bench));
    bench->vm_fd = bench->vcpu_fd = -1;
    bench->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    bench->size = size;
    bench->random_state = 88172645463325252u;
    bench->hva = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bench->hva == MAP_FAILED)
        die("map memory", strerror(errno));
    bench->region = (struct stasis_region){ .size = size, .hva = bench->hva };
    bench->memory = (struct stasis_memory){ .regions = &bench->region, .region_count = 1 };
    must(stasis_page_set_init(&bench->set, size / PAGE, &err), &err);
}

static void close_bench(struct bench *bench)
{
    stasis_tracker_close(bench->tracker);
    if (bench->vcpu_fd >= 0)
        close(bench->vcpu_fd);
    if (bench->vm_fd >= 0)
        close(bench->vm_fd);
    if (bench->kvm_fd >= 0)
        close(bench->kvm_fd);
    stasis_page_set_release(&bench->set);
    munmap(bench->hva, bench->size);
}

static void pick_pages(struct bench *bench)
{
    for (size_t i = 0; i < DIRTY_PAGES; i++) {
        uint64_t *state = &bench->random_state;

        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        bench->pages[i] = FIRST_PAGE + *state % (bench->size / PAGE - FIRST_PAGE);
    }
}

static void check_told(const struct bench *bench, const char *name)
{
    for (size_t i = 0; i < DIRTY_PAGES; i++) {
        if (!stasis_page_set_test(&bench->set, bench->pages[i]))
            die(name, "a written page was not told");
    }
}

static int read_zeros(void *arg, uint64_t first_page, uint64_t page_count, void *buf,
                      struct stasis_error *err)
{
    (void)arg;
    (void)first_page;
    (void)err;
    memset(buf, 0, page_count * PAGE);
    return 0;
}

enum kind { KIND_LOG, KIND_RING, KIND_UFFD, KIND_BITMAP, KIND_UNION, KIND_COMPARE, KIND_COUNT };

static const char *const kind_names[KIND_COUNT] = {
    "KVM dirty log", "KVM dirty ring", "userfaultfd", "bitmap", "log and bitmap", "comparison",
};

static void open_log(struct bench *bench, struct stasis_tracker **ret_tracker)
{
    const struct stasis_kvm_slot slot = slot_of(bench);
    struct stasis_error err = { 0 };

    make_guest(bench, false);
    must(stasis_tracker_open_kvm_log(bench->vm_fd, &slot, 1, &bench->memory, ret_tracker, &err),
         &err);
}

static void open_tracker(struct bench *bench, enum kind kind)
{
    const struct stasis_kvm_slot slot = slot_of(bench);
    struct stasis_tracker *parts[2];
    struct stasis_error err = { 0 };
    int r = 0;

    switch (kind) {
    case KIND_LOG: open_log(bench, &bench->tracker); break;
    case KIND_RING:
        make_guest(bench, true);
        r = stasis_tracker_open_kvm_ring(bench->vm_fd, &bench->vcpu_fd, 1, RING_SIZE, &slot, 1,
                                         &bench->memory, &bench->tracker, &err);
        break;
    case KIND_UFFD: r = stasis_tracker_open_uffd(&bench->memory, &bench->tracker, &err); break;
    case KIND_BITMAP:
        r = stasis_tracker_open_bitmap(&bench->memory, NULL, &bench->tracker, &err);
        break;
    case KIND_UNION:
        open_log(bench, &parts[0]);
        must(stasis_tracker_open_bitmap(&bench->memory, NULL, &parts[1], &err), &err);
        r = stasis_tracker_open_union(parts, 2, &bench->tracker, &err);
        break;
    case KIND_COMPARE:
        r = stasis_tracker_open_compare(&bench->memory, read_zeros, NULL, 0, &bench->tracker, &err);
        break;
    case KIND_COUNT: break;
    }
    must(r, &err);
}

static void write_pages(struct bench *bench, enum kind kind)
{
    if (kind == KIND_LOG || kind == KIND_RING || kind == KIND_UNION)
        write_by_guest(bench);
    else if (kind == KIND_BITMAP)
        write_and_mark(bench);
    else
        write_by_hand(bench);
}

/* --- measuring ------------------------------------------------------------------------------ */

struct sample {
    double median, least, most;
};

static int order(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;

    return (a > b) - (a < b);
}

static struct sample summarize(double *times, unsigned count)
{
    qsort(times, count, sizeof(*times), order);
    return (struct sample){ times[count / 2], times[0], times[count - 1] };
}

static struct sample measure_harvest(enum kind kind, uint64_t size, double *ret_arm_us)
{
    static double times[RUNS_MAX];
    const unsigned runs = kind == KIND_COMPARE ? 3 : run_count; /* reads all of memory */
    struct stasis_error err = { 0 };
    struct bench bench;
    double begin;

    open_bench(&bench, size);
    open_tracker(&bench, kind);
    begin = now_us();
    must(stasis_tracker_arm(bench.tracker, &err), &err);
    *ret_arm_us = now_us() - begin;
    for (unsigned i = 0; i < WARM_UPS + runs; i++) {
        pick_pages(&bench);
        write_pages(&bench, kind);
        stasis_page_set_clear(&bench.set);
        begin = now_us();
        must(stasis_tracker_harvest(bench.tracker, &bench.set, &err), &err);
        if (i >= WARM_UPS)
            times[i - WARM_UPS] = now_us() - begin;
        check_told(&bench, kind_names[kind]);
    }
    close_bench(&bench);
    return summarize(times, runs);
}

static struct sample measure_candidates(uint64_t size)
{
    static double times[RUNS_MAX];
    struct stasis_error err = { 0 };
    struct bench bench;

    open_bench(&bench, size);
    pick_pages(&bench);
    write_by_hand(&bench);
    for (unsigned i = 0; i < WARM_UPS + run_count; i++) {
        double begin;

        stasis_page_set_clear(&bench.set);
        begin = now_us();
        must(residency_candidates(&bench.memory, &bench.set, &err), &err);
        if (i >= WARM_UPS)
            times[i - WARM_UPS] = now_us() - begin;
        check_told(&bench, "candidates");
    }
    close_bench(&bench);
    return summarize(times, run_count);
}

enum bound { BOUND_IOCTL, BOUND_BITMAP, BOUND_TABLE, BOUND_PAGES, BOUND_COUNT };

static const char *const bound_names[BOUND_COUNT] = {
    "an ioctl that does nothing",
    "copying the bitmap",
    "reading the page table's size",
    "copying the dirty pages",
};

static uint64_t read_all(const uint64_t *words, size_t size)
{
    uint64_t seen = 0;

    for (size_t i = 0; i < size / sizeof(*words); i++)
        seen |= words[i];
    return seen;
}

static void do_bound(enum bound bound, const struct bench *bench, uint8_t *from, uint8_t *to)
{
    static volatile uint64_t sink;
    const size_t bitmap_size = bench->size / PAGE / 8;

    switch (bound) {
    case BOUND_IOCTL: (void)ioctl(bench->kvm_fd, KVM_GET_API_VERSION, 0); break;
    case BOUND_BITMAP: memcpy(to, from, bitmap_size); break;
    case BOUND_TABLE:
        sink = read_all((const uint64_t *)(const void *)from, bitmap_size * 64);
        break;
    case BOUND_PAGES:
        for (size_t i = 0; i < DIRTY_PAGES; i++)
            memcpy(to + i * PAGE, bench->hva + bench->pages[i] * PAGE, PAGE);
        break;
    case BOUND_COUNT: break;
    }
    (void)sink;
}

static struct sample measure_bound(enum bound bound, uint64_t size)
{
    static double times[RUNS_MAX];
    const size_t room = size / PAGE * 8 + DIRTY_PAGES * PAGE;
    uint8_t *from = malloc(room), *to = malloc(room);
    struct bench bench;

    if (!from || !to)
        die("bounds", "out of memory");
    memset(from, 1, room);
    memset(to, 1, room);
    open_bench(&bench, size);
    for (unsigned i = 0; i < WARM_UPS + run_count; i++) {
        double begin;

        pick_pages(&bench);
        write_by_hand(&bench);
        begin = now_us();
        do_bound(bound, &bench, from, to);
        if (i >= WARM_UPS)
            times[i - WARM_UPS] = now_us() - begin;
    }
    close_bench(&bench);
    free(from);
    free(to);
    return summarize(times, run_count);
}

static void print_line(const char *name, const struct sample *small, const struct sample *large)
{
    printf("%-30s %9.1f (%.1f-%.1f) %12.1f (%.1f-%.1f) %8.2f\n", name, small->median, small->least,
           small->most, large->median, large->least, large->most, large->median / small->median);
    fflush(stdout);
}

static bool kvm_is_usable(void)
{
    const int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        printf("/dev/kvm: %s: KVM's trackers are left out\n", strerror(errno));
        return false;
    }
    close(fd);
    return true;
}

int main(int argc, char **argv)
{
    struct sample small, large;
    struct utsname host;
    double arm_small, arm_large;
    bool kvm;

    if (argc > 1)
        run_count = (unsigned)strtoul(argv[1], NULL, 10);
    if (run_count == 0 || run_count > RUNS_MAX) {
        fprintf(stderr, "usage: bench_trackers [RUNS]\n");
        return 2;
    }
    uname(&host);
    kvm = kvm_is_usable();
    printf(
        "Linux %s, %ld CPUs; %d pages written at random between harvests; median (least-most) of "
        "%u, us\n\n",
        host.release, sysconf(_SC_NPROCESSORS_ONLN), DIRTY_PAGES, run_count);
    printf("%-30s %27s %27s %8s\n", "harvest", "1 GiB", "16 GiB", "ratio");
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        if (!kvm && (kind == KIND_LOG || kind == KIND_RING || kind == KIND_UNION))
            continue;
        small = measure_harvest((enum kind)kind, GIB, &arm_small);
        large = measure_harvest((enum kind)kind, 16 * GIB, &arm_large);
        print_line(kind_names[kind], &small, &large);
        printf("%-30s %9.1f %25.1f\n", "  arming it, once", arm_small, arm_large);
    }
    small = measure_candidates(GIB);
    large = measure_candidates(16 * GIB);
    print_line("candidates for data", &small, &large);
    printf("\nbounds\n");
    for (int bound = 0; bound < BOUND_COUNT; bound++) {
        small = measure_bound((enum bound)bound, GIB);
        large = measure_bound((enum bound)bound, 16 * GIB);
        print_line(bound_names[bound], &small, &large);
    }
    return 0;
}
