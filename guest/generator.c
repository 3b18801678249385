/*
 * generator.c - memory that changes by rule, and the sums that prove it did.
 *
 * A page is 512 words of 8 bytes. All its possible contents:
 *
 *     zero        never filled, or cleared since
 *     filled      the first fill_words words hold fill_word(page), the others 0
 *     written     either of these, with words 0, 64, 128 .. 448 replaced by w, w + 1 .. w + 7,
 *                 where w = cell_word(page, version)
 *
 * One table entry per page tells which: PAGE_FILLED, and a version counting the writes.
 * The sum of a page is the sum of (2 i + 1) * word i; the sum of the region is the sum of
 * (2 page + 1) * page sum. All weights are odd, so that any one changed bit changes the sum. As the
 * first n odd numbers add up to n * n, the sum a page must have needs no loop.
 */
#include "generator.h"

#include "cpu.h"
#include "print.h"
#include "ram.h"

#define WORDS 512u
#define CELLS 8u
#define CELL_STRIDE (WORDS / CELLS)
#define PAGE_FILLED 0x80000000u
#define PAGE_VERSION 0x7fffffffu

/* Sums over k = 0..7 of the weights 128 k + 1 of the cells, and of those times k. */
#define CELL_WEIGHT_SUM 3592u
#define CELL_WEIGHT_K_SUM 17948u

struct slice {
    uint64_t first_page, page_count;
    uint32_t dirty_pages, zero_pages, check_pages; /* per count */
    uint64_t random;                               /* state of the generator that places writes */
    uint64_t random_before; /* the same at the start of the last count's writes */
    uint64_t linear_next, linear_before;
    uint64_t check_next; /* relative to first_page */
    uint64_t sum;        /* that the slice's pages must have */
} __attribute__((aligned(64)));

static struct ram region; /* extents of the region, in page order */
static uint64_t region_pages;
static uint32_t *table; /* one entry per page of the region */
static uint64_t fill_pages;
static uint64_t fill_weights;      /* of all the filled words */
static uint64_t fill_base_weights; /* the same without those that are cells */
static struct options config;
static struct slice slices[CPU_MAX];

static uint64_t *page_words(uint64_t page)
{
    const struct ram_extent *extent = region.extents;

    while (page >= extent->page_count) {
        page -= extent->page_count;
        extent++;
    }
    return (uint64_t *)(extent->gpa + page * PAGE_SIZE);
}

/* How many pages from `page` on lie next to each other in memory. */
static uint64_t extent_pages_left(uint64_t page)
{
    const struct ram_extent *extent = region.extents;

    while (page >= extent->page_count) {
        page -= extent->page_count;
        extent++;
    }
    return extent->page_count - page;
}

static uint64_t fill_word(uint64_t page)
{
    return (config.seed + page + 1) * MIX64_STEP;
}

static uint64_t cell_word(uint64_t page, uint32_t version)
{
    return mix64(config.seed + page * MIX64_STEP + version);
}

static uint64_t expected_page_sum(uint64_t page)
{
    const uint32_t entry = table[page];
    const uint32_t version = entry & PAGE_VERSION;
    const uint64_t base = entry & PAGE_FILLED ? fill_word(page) : 0;

    if (version == 0)
        return base * fill_weights;
    return base * fill_base_weights + cell_word(page, version) * CELL_WEIGHT_SUM +
           CELL_WEIGHT_K_SUM;
}

/* From the last word to the first: `sums` then holds the sum of (i + 1) * word i. */
static uint64_t memory_page_sum(uint64_t page)
{
    const volatile uint64_t *words = page_words(page);
    uint64_t sum = 0, sums = 0;

    for (unsigned i = WORDS; i; i -= 8) {
        sums += sum += words[i - 1];
        sums += sum += words[i - 2];
        sums += sum += words[i - 3];
        sums += sum += words[i - 4];
        sums += sum += words[i - 5];
        sums += sum += words[i - 6];
        sums += sum += words[i - 7];
        sums += sum += words[i - 8];
    }
    return 2 * sums - sum;
}

static void store_words(uint64_t *words, uint64_t value, uint64_t count)
{
    __asm__ volatile("rep stosq" : "+D"(words), "+c"(count) : "a"(value) : "memory");
}

static uint32_t share(uint32_t total, uint32_t index)
{
    return total / config.cpus + (index < total % config.cpus);
}

static bool take_region(void)
{
    const uint64_t available = ram_free_pages();
    const uint64_t table_pages = (available * sizeof(uint32_t) + PAGE_SIZE - 1) / PAGE_SIZE;
    uint64_t left;

    region_pages = config.mem_size / PAGE_SIZE;
    if (config.mem_size == UINT64_MAX && available > table_pages)
        region_pages = available - table_pages;
    if (region_pages < config.cpus || region_pages + table_pages > available) {
        print_bad("mem %lu pages of %lu available", region_pages, available - table_pages);
        return false;
    }
    table = ram_alloc(region_pages * sizeof(uint32_t));

    left = region_pages;
    for (unsigned i = 0; left; i++) {
        const struct ram_extent *extent = &ram.extents[i];
        const uint64_t pages = extent->page_count < left ? extent->page_count : left;

        region.extents[i].gpa = extent->gpa;
        region.extents[i].page_count = pages;
        left -= pages;
    }
    return true;
}

bool generator_init(const struct options *options)
{
    uint64_t covered_cells;

    config = *options;
    if (!take_region())
        return false;

    fill_pages = config.fill_size == UINT64_MAX ? region_pages : config.fill_size / PAGE_SIZE;
    covered_cells = (config.fill_words + CELL_STRIDE - 1) / CELL_STRIDE;
    fill_weights = (uint64_t)config.fill_words * config.fill_words;
    fill_base_weights =
        fill_weights - CELL_STRIDE * covered_cells * (covered_cells - 1) - covered_cells;

    for (uint32_t i = 0; i < config.cpus; i++) {
        struct slice *slice = &slices[i];

        slice->first_page = region_pages * i / config.cpus;
        slice->page_count = region_pages * (i + 1) / config.cpus - slice->first_page;
        slice->dirty_pages = share(config.dirty_pages, i);
        slice->zero_pages = share(config.zero_pages, i);
        slice->check_pages = share(config.check_pages, i);
        slice->random = mix64(config.seed + i);
    }
    return true;
}

/* Fills `count` pages that lie in one extent. Made for speed: some machines emulate every
 * instruction, and the fill is the bulk of the boot there. */
static void fill_pages_at(struct slice *slice, uint64_t page, uint64_t count)
{
    uint64_t *words = page_words(page);
    uint64_t word = fill_word(page);
    uint64_t weight = fill_weights * (2 * page + 1);
    uint64_t sum = slice->sum;

    for (uint32_t *entry = &table[page]; count; count--, entry++) {
        *entry = PAGE_FILLED;
        store_words(words, word, config.fill_words);
        sum += word * weight;
        words += WORDS;
        word += MIX64_STEP;
        weight += 2 * fill_weights;
    }
    slice->sum = sum;
}

/* Fills what lies in `slice` of the run of pages that `page` is in: runs are fill_run pages, and
 * one in every fill_step is filled. False when the fill is used up. */
static bool fill_run_of(struct slice *slice, uint64_t page)
{
    const uint64_t run = page / config.fill_run;
    const uint64_t filled_before = run / config.fill_step * config.fill_run;
    uint64_t end = (run + 1) * config.fill_run;

    if (filled_before >= fill_pages)
        return false;
    if (end > run * config.fill_run + (fill_pages - filled_before))
        end = run * config.fill_run + (fill_pages - filled_before);
    if (end > slice->first_page + slice->page_count)
        end = slice->first_page + slice->page_count;
    while (page < end) {
        const uint64_t left = extent_pages_left(page);
        const uint64_t count = end - page < left ? end - page : left;

        fill_pages_at(slice, page, count);
        page += count;
    }
    return true;
}

void generator_fill(void)
{
    struct slice *slice = &slices[cpu_this()->index];
    const uint64_t end = slice->first_page + slice->page_count;
    const uint64_t period = (uint64_t)config.fill_run * config.fill_step;

    for (uint64_t page = slice->first_page; page < end; page = (page / period + 1) * period) {
        if (page % period < config.fill_run && !fill_run_of(slice, page))
            break;
    }
}

/* The next page to change: the same sequence again when `*random` and `*linear` are set back. */
static uint64_t next_page(const struct slice *slice, uint64_t *random, uint64_t *linear)
{
    if (config.place_linear) {
        const uint64_t at = *linear;

        *linear = at + 1 == slice->page_count ? 0 : at + 1;
        return slice->first_page + at;
    }
    *random += MIX64_STEP;
    return slice->first_page +
           (uint64_t)(((unsigned __int128)mix64(*random) * slice->page_count) >> 64);
}

static void change_page(struct slice *slice, uint64_t page, bool clear)
{
    uint64_t *words = page_words(page);
    const uint64_t old_sum = expected_page_sum(page);

    if (clear) {
        table[page] = 0;
        store_words(words, 0, WORDS);
    } else {
        uint64_t word;

        table[page] = (table[page] & PAGE_FILLED) | ((table[page] + 1) & PAGE_VERSION);
        word = cell_word(page, table[page] & PAGE_VERSION);
        for (unsigned i = 0; i < WORDS; i += CELL_STRIDE)
            words[i] = word++;
    }
    slice->sum += (expected_page_sum(page) - old_sum) * (2 * page + 1);
}

static void change_pages(struct slice *slice)
{
    slice->random_before = slice->random;
    slice->linear_before = slice->linear_next;
    for (uint32_t i = 0; i < slice->zero_pages + slice->dirty_pages; i++)
        change_page(slice, next_page(slice, &slice->random, &slice->linear_next),
                    i < slice->zero_pages);
}

static bool cells_ok(uint64_t page)
{
    const uint32_t entry = table[page];
    const volatile uint64_t *words = page_words(page);
    uint64_t word, step = 1;

    if (entry & PAGE_VERSION) {
        word = cell_word(page, entry & PAGE_VERSION);
    } else {
        word = 0; /* a cleared page: only changed pages come here */
        step = 0;
    }
    for (unsigned i = 0; i < WORDS; i += CELL_STRIDE, word += step) {
        if (words[i] == word)
            continue;
        print_bad("mem page %lu gpa %lx word %u is %016lx want %016lx", page, (uint64_t)words, i,
                  words[i], word);
        return false;
    }
    return true;
}

/* What the last count wrote must still be there: the writes a snapshot is likeliest to lose. */
static bool recheck_changes(const struct slice *slice)
{
    uint64_t random = slice->random_before, linear = slice->linear_before;
    bool ok = true;

    for (uint32_t i = 0; i < slice->zero_pages + slice->dirty_pages; i++)
        ok &= cells_ok(next_page(slice, &random, &linear));
    return ok;
}

static bool check_page(uint64_t page, uint64_t *ret_sum)
{
    const uint64_t want = expected_page_sum(page);
    const uint64_t sum = memory_page_sum(page);

    *ret_sum = sum * (2 * page + 1);
    if (sum == want)
        return true;
    print_bad("mem page %lu gpa %lx sum %016lx want %016lx", page, (uint64_t)page_words(page), sum,
              want);
    return false;
}

static bool check_slice(struct slice *slice)
{
    const uint64_t count = config.check_full || slice->check_pages > slice->page_count
                               ? slice->page_count
                               : slice->check_pages;
    uint64_t sum = 0, page_sum;
    bool ok = true;

    for (uint64_t i = 0; i < count; i++) {
        ok &= check_page(slice->first_page + slice->check_next, &page_sum);
        sum += page_sum;
        if (++slice->check_next == slice->page_count)
            slice->check_next = 0;
    }
    if (count == slice->page_count && sum != slice->sum) {
        print_bad("mem slice sum %016lx want %016lx", sum, slice->sum);
        ok = false;
    }
    return ok;
}

bool generator_count(uint64_t count)
{
    struct slice *slice = &slices[cpu_this()->index];
    bool ok = true;

    if (count > 1)
        ok &= recheck_changes(slice);
    change_pages(slice);
    ok &= check_slice(slice);
    return ok;
}

uint64_t generator_sum(void)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < config.cpus; i++)
        sum += slices[i].sum;
    return sum;
}

uint64_t generator_mem_size(void)
{
    return region_pages * PAGE_SIZE;
}

uint64_t generator_fill_size(void)
{
    const uint64_t period = (uint64_t)config.fill_run * config.fill_step;
    const uint64_t tail = region_pages % period;
    uint64_t pages =
        region_pages / period * config.fill_run + (tail < config.fill_run ? tail : config.fill_run);

    if (pages > fill_pages)
        pages = fill_pages;
    return pages * config.fill_words * 8;
}
