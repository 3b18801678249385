/* Goal:   doc/format/native.md is enough to read a native file: a decoder written from it alone, in
 *         Python, finds in every file what the library finds, refuses what the library refuses and by
 *         the same name; and files that past versions wrote open and say what they always said.
 * Method: random files, the golden files, and random damage whose digests are made right again. */
#include "unit.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chain_fixture.h"
#include "native_craft.h"
#include "native_json.h"
#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct fixture_dir dir;

static int group_setup(void **state)
{
    (void)state;
    fixture_dir_make(&dir);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    fixture_dir_remove(&dir);
    return 0;
}

#define need_decoder()                                                                             \
    do {                                                                                           \
        const char *why_;                                                                          \
        if (!native_json_available(&why_))                                                         \
            unit_skip("%s", why_);                                                                 \
    } while (0)

/* Both readers say the same of a file; the JSON is the caller's to put. */
static struct json_object *expect_agreement(const char *path)
{
    struct json_object *json = native_json_decode(path);
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_memory memory = { 0 };
    struct stasis_error err = { 0 };

    assert_non_null(json);
    assert_stasis_ok(stasis_open(path, &snapshot, &err), &err);
    assert_stasis_ok(stasis_verify(snapshot, NULL, NULL, &err), &err);
    assert_stasis_ok(stasis_restore(snapshot, NULL, &memory, &err), &err);
    native_json_expect_snapshot(json, snapshot, &memory);
    stasis_memory_unmap(&memory);
    stasis_close(snapshot);
    return json;
}

static void save_random(const char *path, uint64_t seed)
{
    const struct stasis_save_options options = {
        .digest = seed % 2 ? STASIS_DIGEST_SHA256 : STASIS_DIGEST_XXH3_128,
        .label = seed % 3 ? "ein Name, größer" : NULL,
    };
    struct stasis_machine machine;
    struct stasis_memory memory;
    struct stasis_error err = { 0 };

    if (seed % 4 == 3)
        fixture_arm64_machine(&machine, 2, seed);
    else
        fixture_x86_machine(&machine, seed % 2 ? 1 : 3, seed);
    fixture_random_memory(&memory, 9, 0x40000, seed);
    assert_stasis_ok(stasis_save(path, &machine, &memory, &options, NULL, &err), &err);
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
}

static void both_readers_find_the_same_in_any_file(void **state)
{
    const char *path = fixture_path(&dir, "a.stasis");

    (void)state;
    need_decoder();
    for (uint64_t seed = 1; seed <= 12; seed++) {
        save_random(path, seed);
        json_object_put(expect_agreement(path));
    }
}

static void both_readers_find_the_same_at_every_depth_of_a_chain(void **state)
{
    (void)state;
    need_decoder();
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct stasis_save_options options = { .digest = seed % 2 ? STASIS_DIGEST_SHA256
                                                                  : STASIS_DIGEST_XXH3_128 };
        struct chain_guest guest;
        char parent[FIXTURE_PATH_SIZE] = "";

        chain_guest_make(&guest, 4, 0x80000, seed);
        for (unsigned depth = 0; depth < 5; depth++) {
            if (depth > 0)
                chain_guest_change(&guest, 8);
            chain_guest_save(&guest, chain_path(&dir, depth), depth > 0 ? parent : NULL, &options,
                             NULL);
            snprintf(parent, sizeof(parent), "%s", chain_path(&dir, depth));
            json_object_put(expect_agreement(parent));
        }
        chain_guest_release(&guest);
    }
}

/* What the library says of a file: "" when it opens and verifies, else the error's stable name. */
static const char *library_verdict(const char *path)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_error err = { 0 };
    int r = stasis_open(path, &snapshot, &err);

    if (r == 0)
        r = stasis_verify(snapshot, NULL, NULL, &err);
    stasis_close(snapshot);
    return r == 0 ? "" : stasis_code_name(err.code);
}

/* The same of the decoder. */
static const char *decoder_verdict(struct json_object *json)
{
    struct json_object *error = NULL;

    if (json_object_object_get_ex(json, "error", &error))
        return json_object_get_string(error);
    return json_object_array_length(json_object_object_get(json, "damage")) ? "DigestMismatch" : "";
}

static void expect_same_verdict(const char *path, uint64_t seed)
{
    struct json_object *json = native_json_decode(path);
    const char *verdict;

    if (!json)
        fail_msg("case %ju: the decoder broke down", (uintmax_t)seed);
    verdict = decoder_verdict(json);
    if (strcmp(verdict, library_verdict(path)) != 0)
        fail_msg("case %ju: decoder '%s', library '%s'", (uintmax_t)seed, verdict,
                 library_verdict(path));
    json_object_put(json);
}

/* Small, a power of two, a multiple of a page and not quite one, all ones. */
static uint64_t odd_value(uint64_t *seed)
{
    const uint64_t number = fixture_random(seed);

    switch (fixture_random(seed) % 5) {
    case 0: return number % 8;
    case 1: return UINT64_C(1) << (number % 64);
    case 2: return number % 1024 * STASIS_PAGE_SIZE;
    case 3: return number % 1024 * STASIS_PAGE_SIZE + 1;
    default: return UINT64_MAX;
    }
}

/* In a field that a version 1 reader judges. */
static void damage_at_random(struct craft *file, uint64_t seed)
{
    static const struct {
        unsigned off, size;
    } superblock_fields[] = { { 8, 2 },  { 10, 2 }, { 12, 4 }, { 16, 4 }, { 24, 2 }, { 26, 2 },
                              { 28, 4 }, { 32, 4 }, { 36, 4 }, { 40, 8 }, { 48, 8 }, { 56, 8 } },
      entry_fields[] = { { 0, 4 },  { 4, 2 },  { 6, 2 },  { 8, 8 },  { 16, 8 },
                         { 24, 2 }, { 26, 2 }, { 28, 4 }, { 32, 4 }, { 40, 4 } };
    const uint64_t value = odd_value(&seed);

    if (fixture_random(&seed) % 3 == 0) {
        const size_t i = fixture_random(&seed) % COUNT(superblock_fields);

        craft_put(file, superblock_fields[i].off, superblock_fields[i].size, value);
    } else {
        const size_t i = fixture_random(&seed) % COUNT(entry_fields);
        const uint64_t entry = craft_entry_at(file, fixture_random(&seed) % 6);

        craft_put(file, entry + entry_fields[i].off, entry_fields[i].size, value);
    }
    if (fixture_random(&seed) % 8 == 0)
        file->data[fixture_random(&seed) % file->size] ^= 0x10;
    if (fixture_random(&seed) % 8 != 0)
        craft_seal_root(file);
}

static void both_readers_refuse_the_same_files_by_the_same_names(void **state)
{
    const char *path = fixture_path(&dir, "a.stasis");
    struct craft sound;

    (void)state;
    need_decoder();
    save_random(path, 2);
    craft_load(&sound, path);
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct craft file;

        craft_copy(&file, &sound);
        damage_at_random(&file, seed);
        craft_store(&file, path);
        craft_release(&file);
        expect_same_verdict(path, seed);
    }
    craft_release(&sound);
}

/* A number of a diff's map or list of layers becomes another; all digests are right. */
static void damage_map(struct craft *file, uint64_t seed)
{
    const uint32_t type = fixture_random(&seed) % 2 ? CRAFT_EXTENTS : CRAFT_LAYERS;
    const uint64_t off = craft_field(file, type, CRAFT_OFF, 8);
    const uint64_t size = craft_field(file, type, CRAFT_SIZE, 8);
    const unsigned width = 1u << fixture_random(&seed) % 4;
    const uint64_t at = fixture_random(&seed) % (size / width) * width;

    craft_put(file, off + at, width, odd_value(&seed));
    craft_seal(file);
}

static void both_readers_refuse_the_same_maps_by_the_same_names(void **state)
{
    char path[FIXTURE_PATH_SIZE], base[FIXTURE_PATH_SIZE];
    struct chain_guest guest;
    struct craft sound;

    (void)state;
    need_decoder();
    chain_guest_make(&guest, 2, 0x40000, 11);
    snprintf(base, sizeof(base), "%s", chain_path(&dir, 0));
    snprintf(path, sizeof(path), "%s", chain_path(&dir, 1));
    chain_guest_save(&guest, base, NULL, NULL, NULL);
    chain_guest_change(&guest, 30);
    chain_guest_save(&guest, path, base, NULL, NULL);
    craft_load(&sound, path);
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct craft file;

        craft_copy(&file, &sound);
        damage_map(&file, seed);
        craft_store(&file, path);
        craft_release(&file);
        expect_same_verdict(path, seed);
    }
    craft_release(&sound);
    chain_guest_release(&guest);
}

static void both_readers_name_the_same_damaged_block(void **state)
{
    const char *path = fixture_path(&dir, "a.stasis");
    struct stasis_damage damage = { 0 };
    const struct stasis_verify_options options = { .damage = &damage, .damage_max = 1 };
    struct stasis_snapshot *snapshot = NULL;
    struct json_object *json, *list, *first;
    struct stasis_error err = { 0 };
    struct craft file;

    (void)state;
    need_decoder();
    save_random(path, 5);
    craft_load(&file, path);
    file.data[craft_field(&file, CRAFT_MEMORY, CRAFT_OFF, 8) + 2 * STASIS_BLOCK_SIZE + 9] ^= 4;
    craft_store(&file, path);
    craft_release(&file);

    assert_stasis_ok(stasis_open(path, &snapshot, &err), &err);
    assert_true(stasis_verify(snapshot, &options, NULL, &err) < 0);
    stasis_close(snapshot);
    json = native_json_decode(path);
    assert_non_null(json);
    list = json_object_object_get(json, "damage");
    assert_int_equal(json_object_array_length(list), 1);
    first = json_object_array_get_idx(list, 0);
    assert_string_equal(json_object_get_string(json_object_array_get_idx(first, 0)),
                        damage.section);
    assert_true(json_object_get_uint64(json_object_array_get_idx(first, 1)) == damage.block);
    json_object_put(json);
}

/* --- golden files --- */

static struct json_object *load_json(const char *path)
{
    struct json_object *json = json_object_from_file(path);

    if (!json)
        fail_msg("%s is not there, or is no JSON", path);
    return json;
}

static void check_golden(const char *folder, const char *name)
{
    char path[1024], json_path[1024];
    struct json_object *now, *then;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    snprintf(json_path, sizeof(json_path), "%s/%.*s.json", folder, (int)(strlen(name) - 7), name);
    now = expect_agreement(path);
    then = load_json(json_path);
    if (!json_object_equal(now, then))
        fail_msg("%s does not say any more what it said when it was written", path);
    json_object_put(now);
    json_object_put(then);
}

static void golden_files_of_every_past_version_say_what_they_always_said(void **state)
{
    const char *source = getenv("STASIS_SOURCE");
    const struct dirent *entry;
    unsigned count = 0;
    char folder[512];
    DIR *stream;

    (void)state;
    need_decoder();
    snprintf(folder, sizeof(folder), "%s/tests/golden/native", source);
    stream = opendir(folder);
    assert_non_null(stream);
    while ((entry = readdir(stream))) {
        const size_t length = strlen(entry->d_name);

        if (length < 7 || strcmp(entry->d_name + length - 7, ".stasis") != 0)
            continue;
        check_golden(folder, entry->d_name);
        count++;
    }
    closedir(stream);
    assert_in_range(count, 5, 1000);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_readers_find_the_same_in_any_file),
        cmocka_unit_test(both_readers_find_the_same_at_every_depth_of_a_chain),
        cmocka_unit_test(both_readers_refuse_the_same_files_by_the_same_names),
        cmocka_unit_test(both_readers_refuse_the_same_maps_by_the_same_names),
        cmocka_unit_test(both_readers_name_the_same_damaged_block),
        cmocka_unit_test(golden_files_of_every_past_version_say_what_they_always_said),
    };

    return unit_run_with(tests, group_setup, group_teardown);
}
