/*
 * Goal:   stasis_identify() names a file's format by its first bytes, sound or not, and fails by name
 *         on what is no file or of no known format.
 * Method: small files made here; damaged and newer ones need no more than a magic number.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stasis/snapshot.h>

#include "unit.h"

static const char magic[8] = { '\x89', 'S', 'T', 'A', 'S', 'I', 'S', '\n' };

static char folder[64], path[128];

static int set_up(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/stasis-identify-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/file", folder);
    return 0;
}

static int tear_down(void **state)
{
    const uid_t real_user = getuid();

    (void)state;
    if (seteuid(real_user) < 0)
        return -1;
    unlink(path);
    return rmdir(folder);
}

static void write_file(const void *content, size_t size)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void assert_is_nothing(const char *at, enum stasis_code code, int errnum)
{
    const char *format = "untouched";
    struct stasis_error err = { 0 };

    assert_int_equal(stasis_identify(at, &format, &err), -errnum);
    assert_int_equal(err.code, code);
    assert_string_equal(format, "untouched");
    assert_non_null(strstr(err.text, at));
    assert_int_equal(stasis_identify(at, &format, NULL), -errnum);
}

static void a_native_file_is_told_by_its_magic_number_however_damaged(void **state)
{
    char large[8192] = { 0 };
    struct stasis_error err = { 0 };
    const char *format;

    (void)state;
    memcpy(large, magic, sizeof(magic));
    memset(large + sizeof(magic), 0xff, 100);
    for (size_t size = sizeof(magic); size <= sizeof(large); size += 1021) {
        format = NULL;
        write_file(large, size);
        assert_stasis_ok(stasis_identify(path, &format, &err), &err);
        assert_string_equal(format, "native");
    }
}

static void a_file_of_no_known_format_is_bad_magic(void **state)
{
    char almost[sizeof(magic)];

    (void)state;
    write_file("", 0);
    assert_is_nothing(path, STASIS_ERR_BAD_MAGIC, EBADMSG);
    write_file(magic, sizeof(magic) - 1);
    assert_is_nothing(path, STASIS_ERR_BAD_MAGIC, EBADMSG);
    for (size_t i = 0; i < sizeof(magic); i++) {
        memcpy(almost, magic, sizeof(magic));
        almost[i] = (char)(almost[i] ^ 1);
        write_file(almost, sizeof(almost));
        assert_is_nothing(path, STASIS_ERR_BAD_MAGIC, EBADMSG);
    }
}

static void what_is_no_regular_file_is_refused_without_waiting(void **state)
{
    (void)state;
    assert_is_nothing(folder, STASIS_ERR_NOT_REGULAR, EINVAL);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_is_nothing(path, STASIS_ERR_NOT_REGULAR, EINVAL);
}

static void what_is_not_there_is_not_found(void **state)
{
    (void)state;
    assert_is_nothing(path, STASIS_ERR_NOT_FOUND, ENOENT);
}

/* Root may read everything, so it becomes nobody for a moment. */
static void what_may_not_be_read_is_denied(void **state)
{
    const uid_t user = geteuid();

    (void)state;
    write_file(magic, sizeof(magic));
    assert_int_equal(chmod(folder, 0755), 0);
    assert_int_equal(chmod(path, 0), 0);
    if (user == 0)
        assert_int_equal(seteuid(65534), 0);
    assert_is_nothing(path, STASIS_ERR_PERMISSION, EACCES);
    assert_int_equal(seteuid(user), 0);
}

#define identify_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        identify_test(a_native_file_is_told_by_its_magic_number_however_damaged),
        identify_test(a_file_of_no_known_format_is_bad_magic),
        identify_test(what_is_no_regular_file_is_refused_without_waiting),
        identify_test(what_is_not_there_is_not_found),
        identify_test(what_may_not_be_read_is_denied),
    };
    return unit_run(tests);
}
