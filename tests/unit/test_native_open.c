/* Goal:   a native file that is not exactly right is refused, by the error that names what is wrong, and
 *         what a later minor version may add is read.
 * Method: one sound file; copies of it with one thing changed, and their digests made right again,
 *         so that the change itself is what is judged. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stasis/snapshot.h>

#include "format/native/disk.h"
#include "format/native/facts.h"
#include "machine/fields.h"
#include "native_craft.h"
#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct fixture_dir dir;
static struct craft sound; /* a file that opens */
static struct craft file;  /* a fresh copy of it for each case */

static const char *path(void)
{
    return fixture_path(&dir, "a.stasis");
}

static int group_setup(void **state)
{
    const struct fixture_region regions[] = { { 0, 0x23000 },
                                              { 0x100000, 0x11000 },
                                              { UINT64_C(1) << 32, 0x8000 } };
    const struct stasis_save_options options = { .label = "the label" };
    struct stasis_machine machine;
    struct stasis_memory memory;
    struct stasis_error err = { 0 };

    (void)state;
    fixture_dir_make(&dir);
    fixture_x86_machine(&machine, 2, 1);
    fixture_memory(&memory, regions, COUNT(regions), 30, 1);
    if (stasis_save(path(), &machine, &memory, &options, NULL, &err) < 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
    craft_load(&sound, path());
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    craft_release(&sound);
    fixture_dir_remove(&dir);
    return 0;
}

static int fresh_copy(void **state)
{
    (void)state;
    craft_copy(&file, &sound);
    return 0;
}

static int drop_copy(void **state)
{
    (void)state;
    craft_release(&file);
    unlink(path());
    return 0;
}

static int open_path(const char *name, struct stasis_error *err)
{
    struct stasis_snapshot *snapshot = NULL;
    const int r = stasis_open(name, &snapshot, err);

    if (r < 0)
        assert_null(snapshot);
    stasis_close(snapshot);
    return r;
}

static int open_file(struct stasis_error *err)
{
    *err = (struct stasis_error){ 0 };
    craft_store(&file, path());
    return open_path(path(), err);
}

/* Seal everything, open, and expect this. */
static void expect(enum stasis_code code)
{
    struct stasis_error err;

    craft_seal(&file);
    if (code == STASIS_OK)
        assert_stasis_ok(open_file(&err), &err);
    else
        assert_stasis_fails(open_file(&err), &err, code);
}

/* The same, and back to the sound file for the next change. */
static void expect_once(enum stasis_code code)
{
    expect(code);
    craft_release(&file);
    craft_copy(&file, &sound);
}

static void expect_text(const char *text)
{
    struct stasis_error err;

    assert_true(open_file(&err) < 0);
    if (!strstr(err.text, text))
        fail_msg("'%s' is not in '%s'", text, err.text);
}

/* --- the file itself --- */

static void a_sound_file_opens_and_so_does_its_sealed_copy(void **state)
{
    struct stasis_error err;

    (void)state;
    assert_stasis_ok(open_file(&err), &err);
    craft_seal(&file);
    /* The second writer agrees with the first to the last byte. */
    assert_memory_equal(file.data, sound.data, sound.size);
}

static void a_file_that_is_not_there_is_not_found(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    assert_int_equal(open_path(fixture_path(&dir, "nothing"), &err), -ENOENT);
    assert_stasis_fails(open_path(fixture_path(&dir, "nothing"), &err), &err, STASIS_ERR_NOT_FOUND);
}

static void a_directory_is_not_a_regular_file(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    assert_int_equal(open_path(dir.path, &err), -EINVAL);
    assert_stasis_fails(open_path(dir.path, &err), &err, STASIS_ERR_NOT_REGULAR);
}

static void a_fifo_is_refused_without_waiting_for_a_writer(void **state)
{
    const char *fifo = fixture_path(&dir, "fifo");
    struct stasis_error err = { 0 };

    (void)state;
    assert_int_equal(mkfifo(fifo, 0600), 0);
    alarm(10); /* or the test would hang instead of failing */
    assert_stasis_fails(open_path(fifo, &err), &err, STASIS_ERR_NOT_REGULAR);
    alarm(0);
    unlink(fifo);
}

static void a_file_that_may_not_be_read_is_a_matter_of_permission(void **state)
{
    struct stasis_error err;
    int r;

    (void)state;
    assert_stasis_ok(open_file(&err), &err);
    assert_int_equal(chmod(path(), 0), 0);
    if (geteuid() == 0)
        assert_int_equal(seteuid(65534), 0); /* root may read anything */
    r = open_path(path(), &err);
    if (getuid() == 0)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(r, -EACCES);
    assert_stasis_fails(r, &err, STASIS_ERR_PERMISSION);
}

static void an_empty_file_is_no_snapshot(void **state)
{
    struct stasis_error err;

    (void)state;
    file.size = 0;
    assert_stasis_fails(open_file(&err), &err, STASIS_ERR_BAD_MAGIC);
}

static void each_byte_of_the_magic_number_counts(void **state)
{
    struct stasis_error err;

    (void)state;
    for (size_t i = 0; i < NATIVE_MAGIC_SIZE; i++) {
        file.data[i] ^= 0x80;
        assert_stasis_fails(open_file(&err), &err, STASIS_ERR_BAD_MAGIC);
        file.data[i] ^= 0x80;
    }
}

static void a_text_transfer_that_changes_line_ends_is_noticed(void **state)
{
    struct stasis_error err;

    (void)state;
    /* LF -> CR LF: the magic number's eighth byte becomes a CR. */
    memmove(file.data + 8, file.data + 7, file.size - 8);
    file.data[7] = '\r';
    assert_stasis_fails(open_file(&err), &err, STASIS_ERR_BAD_MAGIC);
}

/* Cut to `size` and opened. */
static enum stasis_code code_when_cut(uint64_t size)
{
    struct stasis_error err = { 0 };

    assert_int_equal(truncate(path(), (off_t)size), 0);
    assert_true(open_path(path(), &err) < 0);
    return err.code;
}

static void expect_cut(uint64_t size)
{
    struct stasis_error err;

    if (size >= sound.size)
        return;
    craft_store(&file, path());
    assert_int_equal(code_when_cut(size),
                     size < NATIVE_MAGIC_SIZE ? STASIS_ERR_BAD_MAGIC : STASIS_ERR_TRUNCATED);
    assert_true(open_file(&err) == 0);
}

static void a_file_cut_at_any_edge_of_a_section_is_truncated(void **state)
{
    const uint64_t table_off = craft_get(&sound, CRAFT_TABLE_OFF, 8);
    const uint64_t others[] = { 1, 8, 12, 4096, table_off, sound.size };

    (void)state;
    for (size_t i = 0; i < COUNT(others); i++) {
        for (uint64_t near = 0; near < 3; near++)
            expect_cut(others[i] + near - 1);
    }
    for (uint32_t type = CRAFT_MEMORY; type <= CRAFT_INDEX; type++) {
        const uint64_t begin = craft_field(&sound, type, CRAFT_OFF, 8);
        const uint64_t end = begin + craft_field(&sound, type, CRAFT_SIZE, 8);

        for (uint64_t near = 0; near < 3; near++) {
            expect_cut(begin + near - 1);
            expect_cut(end + near - 1);
        }
    }
}

static void bytes_behind_the_recorded_end_are_refused(void **state)
{
    struct stasis_error err;

    (void)state;
    craft_store(&file, path());
    assert_int_equal(truncate(path(), (off_t)sound.size + 1), 0);
    assert_stasis_fails(open_path(path(), &err), &err, STASIS_ERR_CORRUPT);
}

static void a_damaged_snapshot_still_has_a_format(void **state)
{
    const char *format = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    file.data[100] ^= 1;
    file.size = 200;
    assert_stasis_fails(open_file(&err), &err, STASIS_ERR_TRUNCATED);
    assert_stasis_ok(stasis_identify(path(), &format, &err), &err);
    assert_string_equal(format, "native");
}

static void what_has_no_format_is_not_given_one(void **state)
{
    const char *format = "untouched";
    struct stasis_error err = { 0 };
    int r;

    (void)state;
    file.data[0] = 'x';
    craft_store(&file, path());
    r = stasis_identify(path(), &format, &err);
    assert_int_equal(r, -EBADMSG);
    assert_stasis_fails(r, &err, STASIS_ERR_BAD_MAGIC);
    r = stasis_identify(dir.path, &format, &err);
    assert_int_equal(r, -EINVAL);
    assert_stasis_fails(r, &err, STASIS_ERR_NOT_REGULAR);
    r = stasis_identify(fixture_path(&dir, "nothing"), &format, &err);
    assert_int_equal(r, -ENOENT);
    assert_stasis_fails(r, &err, STASIS_ERR_NOT_FOUND);
    assert_string_equal(format, "untouched");
}

/* --- one flipped bit --- */

/* Flip one bit of a byte in the stored file and open it. */
static enum stasis_code code_when_flipped(int fd, uint64_t at, const char *name)
{
    struct stasis_error err = { 0 };
    const uint8_t flipped = sound.data[at] ^ (uint8_t)(1u << (at % 8));

    assert_int_equal(pwrite(fd, &flipped, 1, (off_t)at), 1);
    if (open_path(path(), &err) == 0)
        fail_msg("byte %ju flipped, and the file opens", (uintmax_t)at);
    if (name && !strstr(err.text, name))
        fail_msg("byte %ju flipped: '%s' does not name the %s", (uintmax_t)at, err.text, name);
    assert_int_equal(pwrite(fd, &sound.data[at], 1, (off_t)at), 1);
    return err.code;
}

static void a_flipped_bit_in_the_superblock_is_found_and_named(void **state)
{
    int fd;

    (void)state;
    craft_store(&file, path());
    fd = open(path(), O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (uint64_t at = 0; at < NATIVE_SUPERBLOCK_SIZE; at++) {
        const enum stasis_code expected = at < 8    ? STASIS_ERR_BAD_MAGIC
                                          : at < 10 ? STASIS_ERR_VERSION
                                                    : STASIS_ERR_DIGEST_MISMATCH;

        assert_int_equal(code_when_flipped(fd, at, at < 10 ? NULL : "superblock"), expected);
    }
    close(fd);
}

static void flip_each_byte(uint64_t begin, uint64_t size, const char *name)
{
    const int fd = open(path(), O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    for (uint64_t at = begin; at < begin + size; at++)
        assert_int_equal(code_when_flipped(fd, at, name), STASIS_ERR_DIGEST_MISMATCH);
    close(fd);
}

static void a_flipped_bit_in_table_machine_layout_or_meta_is_found_and_named(void **state)
{
    static const char *const names[] = {
        [CRAFT_MACHINE] = "machine", [CRAFT_LAYOUT] = "layout", [CRAFT_META] = "meta"
    };

    (void)state;
    craft_store(&file, path());
    flip_each_byte(craft_get(&sound, CRAFT_TABLE_OFF, 8), 6 * CRAFT_ENTRY, "section table");
    for (uint32_t type = CRAFT_MACHINE; type <= CRAFT_META; type++)
        flip_each_byte(craft_field(&sound, type, CRAFT_OFF, 8),
                       craft_field(&sound, type, CRAFT_SIZE, 8), names[type]);
}

/* --- versions --- */

static void a_newer_major_version_is_refused_before_anything_else_is_judged(void **state)
{
    struct stasis_error err;

    (void)state;
    craft_put(&file, CRAFT_MAJOR, 2, 2);
    assert_stasis_fails(open_file(&err), &err, STASIS_ERR_VERSION);
    /* Not even that it has a superblock of ours. */
    memset(file.data + NATIVE_VERSION_END, 0xa5, 500);
    file.size = 512;
    assert_stasis_fails(open_file(&err), &err, STASIS_ERR_VERSION);
    assert_int_equal(open_file(&err), -EPROTONOSUPPORT);
    expect_text("2.0");
    file.size = NATIVE_VERSION_END;
    assert_stasis_fails(open_file(&err), &err, STASIS_ERR_VERSION);
}

static void major_version_0_never_was(void **state)
{
    (void)state;
    craft_put(&file, CRAFT_MAJOR, 2, 0);
    expect(STASIS_ERR_VERSION);
}

/* All that major version 1 reserves: superblock offsets, and offsets in an entry. */
static const unsigned reserved_in_superblock[] = { 36, 39, 56, 63, 96, 2000, 4063 };
static const unsigned reserved_in_entry[] = { 26, 27, 36, 63, 96, 127 };

static void a_newer_minor_version_is_read_with_what_it_put_into_reserved_bytes(void **state)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    craft_put(&file, CRAFT_MINOR, 2, 7);
    for (size_t i = 0; i < COUNT(reserved_in_superblock); i++)
        craft_put(&file, reserved_in_superblock[i], 1, 0xee);
    for (size_t i = 0; i < COUNT(reserved_in_entry); i++)
        craft_set_field(&file, CRAFT_META, reserved_in_entry[i], 1, 0xee);
    craft_set_field(&file, CRAFT_META, CRAFT_FLAGS, 2, 0x8000);
    craft_seal(&file);
    craft_store(&file, path());
    assert_stasis_ok(stasis_open(path(), &snapshot, &err), &err);
    assert_int_equal(stasis_snapshot_info(snapshot)->version_minor, 7);
    assert_stasis_ok(stasis_verify(snapshot, NULL, NULL, &err), &err);
    stasis_close(snapshot);
}

static void reserved_bytes_of_this_minor_version_must_be_zero(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(reserved_in_superblock); i++) {
        craft_put(&file, reserved_in_superblock[i], 1, 1);
        expect_once(STASIS_ERR_CORRUPT);
    }
    for (size_t i = 0; i < COUNT(reserved_in_entry); i++) {
        craft_set_field(&file, CRAFT_META, reserved_in_entry[i], 1, 1);
        expect_once(STASIS_ERR_CORRUPT);
    }
    craft_set_field(&file, CRAFT_META, CRAFT_FLAGS, 2, 2);
    expect_once(STASIS_ERR_CORRUPT);
}

/* --- the superblock's numbers --- */

static void a_diff_snapshot_is_refused_by_name(void **state)
{
    (void)state;
    craft_put(&file, CRAFT_KIND, 2, 2);
    expect(STASIS_ERR_UNSUPPORTED);
    expect_text("diff");
}

static void unknown_kinds_are_unsupported(void **state)
{
    (void)state;
    craft_put(&file, CRAFT_KIND, 2, 3);
    expect_once(STASIS_ERR_UNSUPPORTED);
    craft_put(&file, CRAFT_DIGEST_KIND, 2, 3);
    expect_once(STASIS_ERR_UNSUPPORTED);
    craft_put(&file, CRAFT_DIGEST_KIND, 2, 0);
    expect_once(STASIS_ERR_UNSUPPORTED);
}

static void what_major_version_1_fixes_cannot_be_other(void **state)
{
    static const unsigned fixed[] = { CRAFT_SUPERBLOCK_SIZE, CRAFT_PAGE_SIZE, CRAFT_BLOCK_SIZE,
                                      CRAFT_ENTRY_SIZE };

    (void)state;
    for (size_t i = 0; i < COUNT(fixed); i++) {
        craft_put(&file, fixed[i], 4, craft_get(&file, fixed[i], 4) * 2);
        expect_once(STASIS_ERR_CORRUPT);
    }
}

static void the_number_of_sections_has_limits(void **state)
{
    (void)state;
    craft_put(&file, CRAFT_SECTION_COUNT, 4, 0);
    expect_once(STASIS_ERR_LIMIT);
    craft_put(&file, CRAFT_SECTION_COUNT, 4, 65);
    expect_once(STASIS_ERR_LIMIT);
    craft_put(&file, CRAFT_SECTION_COUNT, 4, UINT32_MAX);
    expect_once(STASIS_ERR_LIMIT);
}

static void the_section_table_must_lie_within_the_file(void **state)
{
    const uint64_t bad[] = {
        0, 2048, 4097, UINT64_MAX - 4095, UINT64_C(1) << 63, sound.size + 4096
    };

    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        craft_put(&file, CRAFT_TABLE_OFF, 8, bad[i]);
        expect_once(STASIS_ERR_CORRUPT);
    }
    /* Within the file, but cut by its end. */
    craft_put(&file, CRAFT_SECTION_COUNT, 4, 7);
    expect_once(STASIS_ERR_CORRUPT);
}

static void the_recorded_size_must_be_the_files_own(void **state)
{
    (void)state;
    craft_put(&file, CRAFT_FILE_SIZE, 8, sound.size + 1);
    expect_once(STASIS_ERR_TRUNCATED);
    craft_put(&file, CRAFT_FILE_SIZE, 8, UINT64_MAX);
    expect_once(STASIS_ERR_TRUNCATED);
    craft_put(&file, CRAFT_FILE_SIZE, 8, sound.size - 1);
    expect_once(STASIS_ERR_CORRUPT);
}

/* --- the section table --- */

/* An entry of a type nobody knows, that holds nothing. */
static void append_unknown(uint16_t flags, uint16_t method)
{
    const uint8_t entry[CRAFT_ENTRY] = { 0 };

    craft_append_entry(&file, entry);
    craft_put(&file, file.size - CRAFT_ENTRY + CRAFT_TYPE, 4, 0x1234);
    craft_set_field(&file, 0x1234, CRAFT_VERSION, 2, 1);
    craft_set_field(&file, 0x1234, CRAFT_FLAGS, 2, flags);
    craft_set_field(&file, 0x1234, CRAFT_OFF, 8, 4096);
    craft_set_field(&file, 0x1234, CRAFT_METHOD, 2, method);
}

static void an_unknown_section_is_skipped_unless_it_is_critical(void **state)
{
    (void)state;
    append_unknown(0, 1);
    expect_once(STASIS_OK);
    append_unknown(NATIVE_FLAG_CRITICAL, 1);
    expect(STASIS_ERR_CRITICAL_SECTION);
    expect_text("0x1234");
}

static void an_unknown_hash_method_is_skipped_unless_it_is_critical(void **state)
{
    (void)state;
    append_unknown(0, 9);
    expect_once(STASIS_OK);
    append_unknown(NATIVE_FLAG_CRITICAL, 9);
    expect_once(STASIS_ERR_CRITICAL_SECTION);
    craft_set_field(&file, CRAFT_META, CRAFT_METHOD, 2, 9);
    expect_once(STASIS_OK);
}

static void a_newer_section_version_is_skipped_unless_it_is_critical(void **state)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    craft_set_field(&file, CRAFT_MACHINE, CRAFT_VERSION, 2, 2);
    expect_once(STASIS_ERR_CRITICAL_SECTION);
    craft_set_field(&file, CRAFT_META, CRAFT_VERSION, 2, 2);
    craft_seal(&file);
    craft_store(&file, path());
    assert_stasis_ok(stasis_open(path(), &snapshot, &err), &err);
    assert_string_equal(stasis_snapshot_info(snapshot)->label, "");
    assert_string_equal(stasis_snapshot_info(snapshot)->writer, "");
    stasis_close(snapshot);
}

static void an_entry_without_a_type_is_refused(void **state)
{
    (void)state;
    craft_set_field(&file, CRAFT_META, CRAFT_TYPE, 4, 0);
    expect(STASIS_ERR_CORRUPT);
}

static void a_section_must_lie_within_the_file(void **state)
{
    const uint64_t bad[] = { 0, 4095, sound.size - 1, UINT64_C(1) << 63, UINT64_MAX - 4095 };

    (void)state;
    for (uint32_t type = CRAFT_MEMORY; type <= CRAFT_INDEX; type++) {
        for (size_t i = 0; i < COUNT(bad); i++) {
            struct stasis_error err;

            craft_set_field(&file, type, CRAFT_OFF, 8, bad[i]);
            craft_seal_root(&file); /* digests would be put at the bad place */
            assert_stasis_fails(open_file(&err), &err, STASIS_ERR_CORRUPT);
            craft_release(&file);
            craft_copy(&file, &sound);
        }
    }
}

static void sections_may_not_overlap_each_other_or_the_table(void **state)
{
    const uint64_t machine_off = craft_field(&sound, CRAFT_MACHINE, CRAFT_OFF, 8);

    (void)state;
    craft_set_field(&file, CRAFT_META, CRAFT_OFF, 8, machine_off);
    expect(STASIS_ERR_CORRUPT);
    expect_text("meta overlaps machine");
    craft_set_field(&file, CRAFT_META, CRAFT_OFF, 8, craft_get(&sound, CRAFT_TABLE_OFF, 8));
    expect(STASIS_ERR_CORRUPT);
    expect_text("overlaps the section table");
}

static void a_type_comes_once(void **state)
{
    uint8_t entry[CRAFT_ENTRY];

    (void)state;
    memcpy(entry, sound.data + craft_entry(&sound, CRAFT_META), CRAFT_ENTRY);
    craft_append_entry(&file, entry);
    craft_put(&file, file.size - CRAFT_ENTRY + CRAFT_SIZE, 8, 0);
    expect(STASIS_ERR_CORRUPT);
    expect_text("two sections of type meta");
}

static void memory_machine_and_layout_must_be_there(void **state)
{
    (void)state;
    for (uint32_t type = CRAFT_MEMORY; type <= CRAFT_LAYOUT; type++) {
        craft_set_field(&file, type, CRAFT_FLAGS, 2, 0);
        craft_set_field(&file, type, CRAFT_TYPE, 4, 0x1234);
        expect_once(STASIS_ERR_CORRUPT);
    }
    craft_set_field(&file, CRAFT_META, CRAFT_TYPE, 4, 0x1234);
    expect_once(STASIS_OK);
}

static void sizes_have_limits_that_come_before_any_allocation(void **state)
{
    (void)state;
    craft_set_field(&file, CRAFT_MEMORY, CRAFT_SIZE, 8, UINT64_C(1) << 63);
    expect_once(STASIS_ERR_LIMIT);
    craft_set_field(&file, CRAFT_MEMORY, CRAFT_SIZE, 8, STASIS_MEMORY_SIZE_MAX + 4096);
    expect_once(STASIS_ERR_LIMIT);
    craft_set_field(&file, CRAFT_MEMORY, CRAFT_SIZE, 8, STASIS_MEMORY_SIZE_MAX);
    expect_once(STASIS_ERR_CORRUPT); /* a size we accept, but not of this file */
    craft_set_field(&file, CRAFT_MACHINE, CRAFT_SIZE, 8, (256u << 20) + 1);
    expect_once(STASIS_ERR_LIMIT);
    craft_set_field(&file, CRAFT_LAYOUT, CRAFT_SIZE, 8, (1u << 20) + 1);
    expect_once(STASIS_ERR_LIMIT);
    craft_set_field(&file, CRAFT_META, CRAFT_SIZE, 8, (1u << 20) + 1);
    expect_once(STASIS_ERR_LIMIT);
}

static void each_type_has_its_own_hash_method(void **state)
{
    (void)state;
    craft_set_field(&file, CRAFT_MEMORY, CRAFT_METHOD, 2, 1);
    expect_once(STASIS_ERR_CORRUPT);
    craft_set_field(&file, CRAFT_MEMORY, CRAFT_CHUNK_SIZE, 4, 32768);
    expect_once(STASIS_ERR_CORRUPT);
    craft_set_field(&file, CRAFT_MACHINE, CRAFT_METHOD, 2, 2);
    expect_once(STASIS_ERR_CORRUPT);
    craft_set_field(&file, CRAFT_MACHINE, CRAFT_CHUNK_SIZE, 4, 4096);
    expect_once(STASIS_ERR_CORRUPT);
    craft_set_field(&file, CRAFT_MACHINE, CRAFT_DIGEST_SECTION, 4, 5);
    expect_once(STASIS_ERR_CORRUPT);
    craft_set_field(&file, CRAFT_MEMORY, CRAFT_OFF, 8, 4096); /* free, but not at 2 MiB */
    expect_once(STASIS_ERR_CORRUPT);
}

static void chunks_of_unknown_sections_have_limits_too(void **state)
{
    static const uint32_t bad[] = { 0, 1, 2048, 4097, 12288, 2u << 20, UINT32_MAX };

    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        append_unknown(0, 2);
        craft_set_field(&file, 0x1234, CRAFT_CHUNK_SIZE, 4, bad[i]);
        expect_once(STASIS_ERR_CORRUPT);
    }
    append_unknown(0, 2);
    craft_set_field(&file, 0x1234, CRAFT_CHUNK_SIZE, 4, 4096);
    expect_once(STASIS_ERR_CORRUPT); /* it is the last, so nothing can hold its digests */
}

static void digests_of_chunks_are_further_down_the_table_and_of_the_right_size(void **state)
{
    static const uint32_t bad[] = { 0, 1, 2, 3, 5, 6, UINT32_MAX };

    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        craft_set_field(&file, CRAFT_MEMORY, CRAFT_DIGEST_SECTION, 4, bad[i]);
        expect_once(STASIS_ERR_CORRUPT);
    }
    craft_set_field(&file, CRAFT_DIGESTS, CRAFT_DIGEST_SECTION, 4, 4); /* itself */
    expect_once(STASIS_ERR_CORRUPT);
    craft_set_field(&file, CRAFT_DIGESTS, CRAFT_SIZE, 8,
                    craft_field(&sound, CRAFT_DIGESTS, CRAFT_SIZE, 8) - 1);
    expect_once(STASIS_ERR_CORRUPT);
}

static void a_chunked_sections_digest_is_that_of_its_digests(void **state)
{
    struct stasis_error err;

    (void)state;
    craft_set_field(&file, CRAFT_MEMORY, CRAFT_DIGEST, 1, 1);
    craft_set_field(&file, CRAFT_MEMORY, CRAFT_DIGEST + 1, 1, 2);
    craft_seal_root(&file);
    assert_stasis_fails(open_file(&err), &err, STASIS_ERR_CORRUPT);
}

/* --- layout, machine, meta --- */

static void put_layout(const struct native_region *regions, size_t count, uint64_t data_size)
{
    const struct native_layout layout = { .data_size = data_size,
                                          .regions = (struct native_region *)regions,
                                          .regions_count = count };
    struct byte_buffer encoded;

    byte_buffer_init(&encoded, 4096);
    assert_int_equal(fields_encode(&native_layout_table, &layout, &encoded, NULL), 0);
    craft_replace(&file, CRAFT_LAYOUT, encoded.data, encoded.size);
    byte_buffer_release(&encoded);
}

static void one_region(uint64_t gpa, uint64_t size, uint64_t data_size, enum stasis_code code)
{
    const struct native_region region = { .gpa = gpa, .size = size };

    put_layout(&region, 1, data_size);
    expect_once(code);
}

static void a_layout_is_checked_like_a_strangers_argument(void **state)
{
    const uint64_t size = craft_field(&sound, CRAFT_MEMORY, CRAFT_SIZE, 8);
    const struct native_region overlap[] = { { 0, size / 2 / 4096 * 4096 + 4096 }, { 4096, 4096 } };

    (void)state;
    one_region(0, size, size, STASIS_OK);
    one_region(0, UINT64_C(1) << 63, 0, STASIS_ERR_LIMIT);
    one_region(0, size + 4096, 0, STASIS_ERR_INVALID_MEMORY);
    one_region(0, size - 4096, 0, STASIS_ERR_INVALID_MEMORY);
    one_region(1, size, 0, STASIS_ERR_INVALID_MEMORY);
    one_region(0, 0, 0, STASIS_ERR_INVALID_MEMORY);
    one_region(UINT64_MAX - 4095, size, 0, STASIS_ERR_INVALID_MEMORY);
    one_region(0, size, size + 1, STASIS_ERR_INVALID_MEMORY);
    put_layout(NULL, 0, 0);
    expect_once(STASIS_ERR_INVALID_MEMORY);
    put_layout(overlap, 2, 0);
    expect(STASIS_ERR_INVALID_MEMORY);
    expect_text("overlap");
}

static void a_section_that_is_not_its_cbor_map_is_corrupt(void **state)
{
    static const uint8_t not_cbor[] = { 0xff, 0xff, 0xff };
    static const uint8_t empty_map[] = { 0xa0 };

    (void)state;
    for (uint32_t type = CRAFT_MACHINE; type <= CRAFT_META; type++) {
        craft_replace(&file, type, not_cbor, sizeof(not_cbor));
        expect_once(STASIS_ERR_CORRUPT);
        craft_replace(&file, type, empty_map, sizeof(empty_map));
        expect_once(STASIS_ERR_CORRUPT);
        craft_replace(&file, type, "", 0);
        expect_once(STASIS_ERR_CORRUPT);
    }
}

static void a_machine_that_could_not_run_is_invalid(void **state)
{
    struct stasis_machine machine;
    struct byte_buffer encoded;

    (void)state;
    fixture_x86_machine(&machine, 1, 1);
    machine.arch = 9;
    byte_buffer_init(&encoded, 65536);
    assert_int_equal(fields_encode(&stasis_machine_table, &machine, &encoded, NULL), 0);
    craft_replace(&file, CRAFT_MACHINE, encoded.data, encoded.size);
    byte_buffer_release(&encoded);
    stasis_machine_release(&machine);
    expect(STASIS_ERR_INVALID_MACHINE);
    expect_text("machine");
}

#define case_(name) cmocka_unit_test_setup_teardown(name, fresh_copy, drop_copy)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        case_(a_sound_file_opens_and_so_does_its_sealed_copy),
        case_(a_file_that_is_not_there_is_not_found),
        case_(a_directory_is_not_a_regular_file),
        case_(a_fifo_is_refused_without_waiting_for_a_writer),
        case_(a_file_that_may_not_be_read_is_a_matter_of_permission),
        case_(an_empty_file_is_no_snapshot),
        case_(each_byte_of_the_magic_number_counts),
        case_(a_text_transfer_that_changes_line_ends_is_noticed),
        case_(a_file_cut_at_any_edge_of_a_section_is_truncated),
        case_(bytes_behind_the_recorded_end_are_refused),
        case_(a_damaged_snapshot_still_has_a_format),
        case_(what_has_no_format_is_not_given_one),
        case_(a_flipped_bit_in_the_superblock_is_found_and_named),
        case_(a_flipped_bit_in_table_machine_layout_or_meta_is_found_and_named),
        case_(a_newer_major_version_is_refused_before_anything_else_is_judged),
        case_(major_version_0_never_was),
        case_(a_newer_minor_version_is_read_with_what_it_put_into_reserved_bytes),
        case_(reserved_bytes_of_this_minor_version_must_be_zero),
        case_(a_diff_snapshot_is_refused_by_name),
        case_(unknown_kinds_are_unsupported),
        case_(what_major_version_1_fixes_cannot_be_other),
        case_(the_number_of_sections_has_limits),
        case_(the_section_table_must_lie_within_the_file),
        case_(the_recorded_size_must_be_the_files_own),
        case_(an_unknown_section_is_skipped_unless_it_is_critical),
        case_(an_unknown_hash_method_is_skipped_unless_it_is_critical),
        case_(a_newer_section_version_is_skipped_unless_it_is_critical),
        case_(an_entry_without_a_type_is_refused),
        case_(a_section_must_lie_within_the_file),
        case_(sections_may_not_overlap_each_other_or_the_table),
        case_(a_type_comes_once),
        case_(memory_machine_and_layout_must_be_there),
        case_(sizes_have_limits_that_come_before_any_allocation),
        case_(each_type_has_its_own_hash_method),
        case_(chunks_of_unknown_sections_have_limits_too),
        case_(digests_of_chunks_are_further_down_the_table_and_of_the_right_size),
        case_(a_chunked_sections_digest_is_that_of_its_digests),
        case_(a_layout_is_checked_like_a_strangers_argument),
        case_(a_section_that_is_not_its_cbor_map_is_corrupt),
        case_(a_machine_that_could_not_run_is_invalid),
    };

    return unit_run_with(tests, group_setup, group_teardown);
}
