/*
 * residency.c - which pages can hold anything but zeros?
 *
 * Most of a guest's memory was never written. Reading it to find zeros costs a fault for each page
 * and fills the page tables; the kernel knows without. What it knows depends on what is mapped,
 * which /proc/self/maps tells:
 *
 *     mapping            candidates
 *     anonymous          pages that are there or swapped out, the shared zero page excepted
 *     shared file        the file's data, not its holes (SEEK_DATA); a page that is not mapped
 *     proves nothing private file       the file's data, and pages of our own (copied on write)
 *     anything unclear   all of it
 *
 * A page wrongly left out is saved as zeros: guest memory lost. So every doubt and every failing
 * call makes candidates, never less.
 */
#include "memory/residency.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "memory/pagemap.h"
#include "memory/region_map.h"

#define PAGEMAP_ENTRIES 1024 /* of 8 bytes, read at a time */
#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_FILE (UINT64_C(1) << 61) /* of a file, or shared */

struct mapping {         /* a line of /proc/self/maps */
    uint64_t start, end; /* addresses */
    uint64_t file_off;   /* of start */
    uint64_t inode;      /* 0: anonymous */
    bool is_shared;
};

struct residency {
    int pagemap; /* -1: none */
    enum residency_method method;
    struct stasis_page_set *candidates;
    uint64_t region_start; /* address of the region at hand */
    uint64_t first_page;   /* and its first page */
};

static void add_addresses(void *arg, uint64_t start, uint64_t end)
{
    const struct residency *job = arg;
    const uint64_t first = (start - job->region_start) / STASIS_PAGE_SIZE;
    const uint64_t last = (end - job->region_start + STASIS_PAGE_SIZE - 1) / STASIS_PAGE_SIZE;

    stasis_page_set_add(job->candidates, job->first_page + first, last - first);
}

/* --- pages of this process ------------------------------------------------------------------ */

/* False when the kernel has no PAGEMAP_SCAN. */
static bool scan_pages(struct residency *job, uint64_t start, uint64_t end, uint64_t excluded)
{
    const struct pagemap_query query = { .must = excluded,
                                         .inverted = excluded,
                                         .any = PAGEMAP_IS_PRESENT | PAGEMAP_IS_SWAPPED };

    return pagemap_scan(job->pagemap, start, end, &query, add_addresses, job) == 0;
}

static bool is_candidate(uint64_t entry, bool file_pages_too)
{
    if ((entry & (ENTRY_PRESENT | ENTRY_SWAPPED)) == 0)
        return false;
    return file_pages_too || (entry & ENTRY_FILE) == 0 || (entry & ENTRY_SWAPPED) != 0;
}

static bool read_entries(struct residency *job, uint64_t start, uint64_t end, bool file_pages_too)
{
    const uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t entries[PAGEMAP_ENTRIES];

    for (uint64_t at = start; at < end;) {
        const uint64_t left = (end - at + page_size - 1) / page_size;
        const uint64_t want = left < PAGEMAP_ENTRIES ? left : PAGEMAP_ENTRIES;
        const ssize_t got = pread(job->pagemap, entries, want * sizeof(*entries),
                                  (off_t)(at / page_size * sizeof(*entries)));

        if (got <= 0)
            return false;
        for (size_t i = 0; i < (size_t)got / sizeof(*entries); i++, at += page_size) {
            if (is_candidate(entries[i], file_pages_too))
                add_addresses(job, at, at + page_size);
        }
        if ((size_t)got < sizeof(*entries))
            return false;
    }
    return true;
}

/* Pages that are there, without those that are a file's own when `only_ours`. */
static void add_present(struct residency *job, uint64_t start, uint64_t end, bool only_ours)
{
    const uint64_t excluded = PAGEMAP_IS_PFNZERO | (only_ours ? PAGEMAP_IS_FILE : 0);

    if (job->pagemap >= 0 && job->method == RESIDENCY_SCAN && scan_pages(job, start, end, excluded))
        return;
    if (job->pagemap >= 0 && job->method <= RESIDENCY_PAGEMAP &&
        read_entries(job, start, end, !only_ours))
        return;
    add_addresses(job, start, end);
}

/* --- data of a file ------------------------------------------------------------------------- */

/* The mapped file itself, whatever its name is by now. -1: not allowed, or not the same. */
static int open_mapped(const struct mapping *mapping)
{
    char path[64];
    struct stat st;
    auto_fd fd = -1;

    snprintf(path, sizeof(path), "/proc/self/map_files/%" PRIx64 "-%" PRIx64, mapping->start,
             mapping->end);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_ino != mapping->inode)
        return -1;
    return fd_steal(&fd);
}

/* The file's data in [start, end). False when the file cannot say; then some may be added. */
static bool add_file_data(struct residency *job, const struct mapping *mapping, uint64_t start,
                          uint64_t end)
{
    const uint64_t off_end = mapping->file_off + (end - mapping->start);
    uint64_t off = mapping->file_off + (start - mapping->start);
    auto_fd fd = open_mapped(mapping);

    if (fd < 0)
        return false;
    while (off < off_end) {
        const off_t data = lseek(fd, (off_t)off, SEEK_DATA);
        off_t hole;

        if (data < 0)
            return errno == ENXIO; /* none up to the end of the file */
        if ((uint64_t)data >= off_end)
            return true;
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole <= data)
            return false;
        off = (uint64_t)hole < off_end ? (uint64_t)hole : off_end;
        add_addresses(job,
                      mapping->start + ((uint64_t)data - mapping->file_off) / STASIS_PAGE_SIZE *
                                           STASIS_PAGE_SIZE,
                      mapping->start + (off - mapping->file_off));
    }
    return true;
}

/* --- mappings ------------------------------------------------------------------------------- */

static void add_mapped(struct residency *job, const struct mapping *mapping, uint64_t start,
                       uint64_t end)
{
    if (mapping->inode == 0 && !mapping->is_shared) {
        add_present(job, start, end, false);
        return;
    }
    if (job->method == RESIDENCY_NONE || !add_file_data(job, mapping, start, end)) {
        add_addresses(job, start, end);
        return;
    }
    if (!mapping->is_shared)
        add_present(job, start, end, true);
}

/* A number in `base` that ends in `end`, which is stepped over. */
static bool parse_number(const char **text, int base, char end, uint64_t *ret_number)
{
    char *after;

    errno = 0;
    *ret_number = strtoull(*text, &after, base);
    if (errno != 0 || after == *text || *after != end)
        return false;
    *text = after + 1;
    return true;
}

/* 7f12a000-7f13a000 rw-p 00000000 00:01 1234    /memfd:guest (deleted) */
static bool parse_mapping(const char *line, struct mapping *ret_mapping)
{
    uint64_t device_part;

    if (!parse_number(&line, 16, '-', &ret_mapping->start) ||
        !parse_number(&line, 16, ' ', &ret_mapping->end) || strlen(line) < 5)
        return false;
    ret_mapping->is_shared = line[3] == 's';
    line += 5;
    return parse_number(&line, 16, ' ', &ret_mapping->file_off) &&
           parse_number(&line, 16, ':', &device_part) &&
           parse_number(&line, 16, ' ', &device_part) &&
           (parse_number(&line, 10, ' ', &ret_mapping->inode) ||
            parse_number(&line, 10, '\n', &ret_mapping->inode)) &&
           ret_mapping->start < ret_mapping->end;
}

/* Mappings in ascending order; NULL when they cannot be read. */
static struct mapping *read_mappings(size_t *ret_count)
{
    auto_file maps = fopen("/proc/self/maps", "re");
    auto_free struct mapping *mappings = NULL;
    auto_free char *line = NULL;
    size_t line_size = 0, count = 0, room = 0;

    if (!maps)
        return NULL;
    while (getline(&line, &line_size, maps) > 0) {
        if (count == room) {
            struct mapping *larger =
                reallocarray(mappings, room ? 2 * room : 64, sizeof(*mappings));

            if (!larger)
                return NULL;
            mappings = larger;
            room = room ? 2 * room : 64;
        }
        if (!parse_mapping(line, &mappings[count]))
            return NULL;
        count++;
    }
    *ret_count = count;
    return take_ptr(mappings);
}

/* One region, mapping by mapping; what no mapping explains is a candidate. */
static void add_region(struct residency *job, const struct mapping *mappings, size_t mapping_count,
                       uint64_t start, uint64_t end)
{
    uint64_t at = start;

    for (size_t i = 0; i < mapping_count && at < end; i++) {
        const struct mapping *mapping = &mappings[i];
        const uint64_t to = mapping->end < end ? mapping->end : end;

        if (mapping->end <= at)
            continue;
        if (mapping->start > at)
            break;
        add_mapped(job, mapping, at, to);
        at = to;
    }
    if (at < end)
        add_addresses(job, at, end);
}

int residency_candidates_by(enum residency_method method, const struct stasis_memory *memory,
                            struct stasis_page_set *candidates, struct stasis_error *err)
{
    auto_fd pagemap = -1;
    struct residency job = { .method = method, .candidates = candidates };
    auto_free struct mapping *mappings = NULL;
    size_t mapping_count = 0;
    struct region_map map;
    int r = region_map_init(&map, memory, err);

    if (r < 0)
        return r;
    r = region_map_need_hva(&map, err);
    if (r == 0 && candidates->page_count != map.page_count)
        r = stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                        "the set is for %ju pages, the memory has %ju",
                        (uintmax_t)candidates->page_count, (uintmax_t)map.page_count);
    if (r < 0) {
        region_map_release(&map);
        return r;
    }
    pagemap = pagemap_open();
    job.pagemap = pagemap;
    mappings = read_mappings(&mapping_count);
    for (size_t i = 0; i < map.region_count; i++) {
        job.region_start = (uint64_t)(uintptr_t)map.regions[i].hva;
        job.first_page = map.first_pages[i];
        add_region(&job, mappings, mapping_count, job.region_start,
                   job.region_start + map.regions[i].size);
    }
    region_map_release(&map);
    return 0;
}

int residency_candidates(const struct stasis_memory *memory, struct stasis_page_set *candidates,
                         struct stasis_error *err)
{
    return residency_candidates_by(RESIDENCY_SCAN, memory, candidates, err);
}
