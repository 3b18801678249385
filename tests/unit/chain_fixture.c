/*
 * chain_fixture.c - a guest that changes, for tests of diffs and chains.
 *
 * Kinds of change are drawn page by page so that all transitions come up: zero to data, data to zero, data
 * to other data, zero to zero, and pages that are only said to have changed.
 */
#include "chain_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "memory/layout.h"
#include "unit.h"

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "chain fixture: %s\n", what);
        abort();
    }
}

void chain_guest_make(struct chain_guest *guest, size_t region_max, uint64_t size_max,
                      uint64_t seed)
{
    *guest = (struct chain_guest){ .random = seed };
    fixture_x86_machine(&guest->machine, 1, seed);
    fixture_random_memory(&guest->memory, region_max, size_max, seed);
    guest->page_count = stasis_memory_size(&guest->memory) / STASIS_PAGE_SIZE;
    must(stasis_page_set_init(&guest->changed, guest->page_count, NULL) == 0, "a page set");
}

void chain_guest_release(struct chain_guest *guest)
{
    stasis_machine_release(&guest->machine);
    stasis_memory_unmap(&guest->memory);
    stasis_page_set_release(&guest->changed);
}

uint8_t *chain_guest_page(const struct chain_guest *guest, uint64_t page)
{
    const struct layout_place place = layout_locate(&guest->memory, page * STASIS_PAGE_SIZE);

    return layout_hva(&guest->memory, &place);
}

static void change_page(struct chain_guest *guest, uint64_t page)
{
    uint8_t *bytes = chain_guest_page(guest, page);
    const uint64_t word = fixture_random(&guest->random) % (STASIS_PAGE_SIZE / 8);
    const uint64_t value = fixture_random(&guest->random) | 1;

    switch (fixture_random(&guest->random) % 4) {
    case 0: memset(bytes, 0, STASIS_PAGE_SIZE); break;
    case 1:
        memset(bytes, 0, STASIS_PAGE_SIZE);
        memcpy(bytes + word * 8, &value, sizeof(value));
        break;
    case 2: memcpy(bytes + word * 8, &value, sizeof(value)); break;
    default: break; /* said to have changed */
    }
}

void chain_guest_change(struct chain_guest *guest, unsigned percent)
{
    const uint64_t wanted = guest->page_count * percent / 100 + 1;

    for (uint64_t done = 0; done < wanted;) {
        const uint64_t first = fixture_random(&guest->random) % guest->page_count;
        const uint64_t run_max = fixture_random(&guest->random) % 8 == 0 ? 60 : 3;
        uint64_t run = 1 + fixture_random(&guest->random) % run_max;

        if (run > guest->page_count - first)
            run = guest->page_count - first;
        stasis_page_set_add(&guest->changed, first, run);
        for (uint64_t i = 0; i < run; i++)
            change_page(guest, first + i);
        done += run;
    }
}

void chain_guest_copy(const struct chain_guest *guest, struct stasis_memory *ret_copy)
{
    const size_t count = guest->memory.region_count;

    *ret_copy = (struct stasis_memory){ .regions = calloc(count, sizeof(struct stasis_region)),
                                        .region_count = count };
    must(ret_copy->regions != NULL, "a copy");
    for (size_t i = 0; i < count; i++) {
        ret_copy->regions[i] = guest->memory.regions[i];
        ret_copy->regions[i].hva = mmap(NULL, guest->memory.regions[i].size, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(ret_copy->regions[i].hva != MAP_FAILED, "a copy");
        memcpy(ret_copy->regions[i].hva, guest->memory.regions[i].hva,
               guest->memory.regions[i].size);
    }
}

void chain_guest_save(struct chain_guest *guest, const char *path, const char *parent_path,
                      struct stasis_save_options *options, struct stasis_save_report *ret_report)
{
    struct stasis_save_options complete = { 0 };
    struct stasis_snapshot *parent = NULL;
    struct stasis_error err = { 0 };

    if (options)
        complete = *options;
    if (parent_path && stasis_open(parent_path, &parent, &err) < 0)
        must(false, err.text);
    complete.parent = parent;
    complete.changed = parent ? &guest->changed : NULL;
    if (stasis_save(path, &guest->machine, &guest->memory, &complete, ret_report, &err) < 0)
        must(false, err.text);
    stasis_close(parent);
    stasis_page_set_clear(&guest->changed);
}

const char *chain_path(const struct fixture_dir *dir, unsigned depth)
{
    char name[32];

    snprintf(name, sizeof(name), "d%03u.stasis", depth);
    return fixture_path(dir, name);
}

void chain_expect_memory(const char *path, const struct stasis_memory *expected)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_memory memory = { 0 };
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_open(path, &snapshot, &err), &err);
    assert_stasis_ok(stasis_verify(snapshot, NULL, NULL, &err), &err);
    assert_stasis_ok(stasis_restore(snapshot, NULL, &memory, &err), &err);
    assert_true(fixture_memory_equal(&memory, expected));
    assert_int_equal(stasis_snapshot_info(snapshot)->data_size,
                     fixture_data_pages(expected) * STASIS_PAGE_SIZE);
    stasis_memory_unmap(&memory);
    stasis_close(snapshot);
}
