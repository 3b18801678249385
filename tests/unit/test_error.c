/* test_error.c - codes, names, errnos and the sentence.
 *
 * Goal:   every failure has a stable name, the errno its header promises, and a text that is whole
 *         or says that it was cut.
 * Method: the table against itself and against a copy of its numbers; texts around the size limit. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static const struct {
    enum stasis_code code;
    const char *name;
} stable_names[] = {
    { 1, "Io" },
    { 2, "OutOfMemory" },
    { 3, "NotFound" },
    { 4, "PermissionDenied" },
    { 5, "Exists" },
    { 6, "NoSpace" },
    { 7, "ReadOnly" },
    { 8, "NotRegularFile" },
    { 20, "InvalidArgument" },
    { 21, "WrongState" },
    { 22, "Busy" },
    { 23, "Cancelled" },
    { 24, "LimitExceeded" },
    { 25, "Unsupported" },
    { 40, "BadMagic" },
    { 41, "UnsupportedVersion" },
    { 42, "UnknownCriticalSection" },
    { 43, "Truncated" },
    { 44, "Corrupt" },
    { 45, "DigestMismatch" },
    { 46, "InvalidMachineState" },
    { 47, "InvalidMemoryLayout" },
    { 60, "KvmError" },
    { 61, "KvmUnavailable" },
    { 62, "HostIncompatible" },
    { 63, "TooManyVcpus" },
    { 80, "QuiesceTimeout" },
    { 81, "BadKernel" },
    { 82, "DiskMismatch" },
    { 83, "GuestCrashed" },
    { 100, "ProtocolError" },
    { 101, "Refused" },
    { 102, "Timeout" },
};

/* Numbers and names that were ever released stay: scripts compare them. */
static void names_and_numbers_are_the_released_ones(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(stable_names) / sizeof(stable_names[0]); i++)
        assert_string_equal(stasis_code_name(stable_names[i].code), stable_names[i].name);
    assert_string_equal(stasis_code_name(STASIS_OK), "Ok");
    assert_string_equal(stasis_code_name((enum stasis_code)9999), "Unknown");
}

static void no_number_and_no_name_is_used_twice(void **state)
{
    static const struct {
        int number;
        const char *name;
    } all[] = {
#define ONE(id, number, name, errnum) { number, name },
        STASIS_CODES(ONE)
#undef ONE
    };
    const size_t count = sizeof(all) / sizeof(all[0]);

    (void)state;
    assert_in_range(count, sizeof(stable_names) / sizeof(stable_names[0]), 1000);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = i + 1; k < count; k++) {
            assert_int_not_equal(all[i].number, all[k].number);
            assert_string_not_equal(all[i].name, all[k].name);
        }
    }
}

static void every_code_has_an_errno(void **state)
{
    (void)state;
#define HAS_ERRNO(id, number, name, errnum)                                                        \
    assert_int_equal(stasis_code_errno(STASIS_ERR_##id), errnum);                                  \
    assert_in_range(errnum, 1, 200);
    STASIS_CODES(HAS_ERRNO)
#undef HAS_ERRNO
    assert_int_equal(stasis_code_errno(STASIS_OK), 0);
    assert_int_equal(stasis_code_errno((enum stasis_code)9999), EIO);
}

static void system_errors_map_to_codes(void **state)
{
    (void)state;
    assert_int_equal(stasis_code_from_errno(0), STASIS_OK);
    assert_int_equal(stasis_code_from_errno(ENOMEM), STASIS_ERR_OUT_OF_MEMORY);
    assert_int_equal(stasis_code_from_errno(ENOENT), STASIS_ERR_NOT_FOUND);
    assert_int_equal(stasis_code_from_errno(ENOTDIR), STASIS_ERR_NOT_FOUND);
    assert_int_equal(stasis_code_from_errno(EACCES), STASIS_ERR_PERMISSION);
    assert_int_equal(stasis_code_from_errno(EPERM), STASIS_ERR_PERMISSION);
    assert_int_equal(stasis_code_from_errno(EEXIST), STASIS_ERR_EXISTS);
    assert_int_equal(stasis_code_from_errno(ENOSPC), STASIS_ERR_NO_SPACE);
    assert_int_equal(stasis_code_from_errno(EDQUOT), STASIS_ERR_NO_SPACE);
    assert_int_equal(stasis_code_from_errno(EFBIG), STASIS_ERR_NO_SPACE);
    assert_int_equal(stasis_code_from_errno(EROFS), STASIS_ERR_READ_ONLY);
    assert_int_equal(stasis_code_from_errno(EISDIR), STASIS_ERR_NOT_REGULAR);
    assert_int_equal(stasis_code_from_errno(EINVAL), STASIS_ERR_INVALID_ARGUMENT);
    assert_int_equal(stasis_code_from_errno(ENAMETOOLONG), STASIS_ERR_INVALID_ARGUMENT);
    assert_int_equal(stasis_code_from_errno(ELOOP), STASIS_ERR_INVALID_ARGUMENT);
    assert_int_equal(stasis_code_from_errno(ECANCELED), STASIS_ERR_CANCELLED);
    assert_int_equal(stasis_code_from_errno(ETIMEDOUT), STASIS_ERR_TIMEOUT);
    assert_int_equal(stasis_code_from_errno(EIO), STASIS_ERR_IO);
    assert_int_equal(stasis_code_from_errno(ENOTTY), STASIS_ERR_IO);
}

static void our_verdict_has_code_and_sentence(void **state)
{
    struct stasis_error err = { .errnum = 5 };

    (void)state;
    assert_int_equal(stasis_fail(&err, STASIS_ERR_CORRUPT, "block %d of '%s'", 7, "memory"),
                     -EBADMSG);
    assert_int_equal(err.code, STASIS_ERR_CORRUPT);
    assert_int_equal(err.errnum, 0);
    assert_string_equal(err.text, "block 7 of 'memory'");
}

static void a_failed_call_says_what_the_system_said(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    errno = ENOENT;
    assert_int_equal(stasis_fail_errno(&err, "open '%s'", "x"), -ENOENT);
    assert_int_equal(err.code, STASIS_ERR_NOT_FOUND);
    assert_int_equal(err.errnum, ENOENT);
    assert_string_equal(err.text, "open 'x': No such file or directory");
    assert_int_equal(errno, ENOENT);
}

static void a_failed_call_without_errno_is_still_a_failure(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    errno = 0;
    assert_int_equal(stasis_fail_errno(&err, "read"), -EIO);
    assert_int_equal(err.code, STASIS_ERR_IO);
}

static void a_failed_call_can_go_under_a_code_of_ours(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    errno = EINVAL;
    assert_int_equal(stasis_fail_errno_as(&err, STASIS_ERR_KVM, "KVM_SET_MSRS, vCPU %d", 3), -EIO);
    assert_int_equal(err.code, STASIS_ERR_KVM);
    assert_int_equal(err.errnum, EINVAL);
    assert_string_equal(err.text, "KVM_SET_MSRS, vCPU 3: Invalid argument");
}

static void context_goes_in_front(void **state)
{
    struct stasis_error err = { 0 };
    const int result = stasis_fail(&err, STASIS_ERR_DIGEST_MISMATCH, "block 3");

    (void)state;
    assert_int_equal(stasis_wrap(&err, result, "restore '%s'", "web1"), result);
    assert_string_equal(err.text, "restore 'web1': block 3");
    assert_int_equal(err.code, STASIS_ERR_DIGEST_MISMATCH);
}

static void a_text_that_fits_exactly_is_not_cut(void **state)
{
    char long_text[STASIS_ERROR_TEXT_SIZE];
    struct stasis_error err = { 0 };

    (void)state;
    memset(long_text, 'x', sizeof(long_text));
    long_text[sizeof(long_text) - 1] = '\0';
    stasis_fail(&err, STASIS_ERR_IO, "%s", long_text);
    assert_string_equal(err.text, long_text);
}

static void a_longer_text_ends_in_dots(void **state)
{
    char long_text[STASIS_ERROR_TEXT_SIZE + 1];
    struct stasis_error err = { 0 };

    (void)state;
    memset(long_text, 'x', sizeof(long_text));
    long_text[sizeof(long_text) - 1] = '\0';
    stasis_fail(&err, STASIS_ERR_IO, "%s", long_text);
    assert_int_equal(strlen(err.text), STASIS_ERROR_TEXT_SIZE - 1);
    assert_string_equal(err.text + STASIS_ERROR_TEXT_SIZE - 5, "x...");
}

static void context_that_does_not_fit_cuts_the_inner_end(void **state)
{
    char long_text[STASIS_ERROR_TEXT_SIZE];
    struct stasis_error err = { 0 };

    (void)state;
    memset(long_text, 'x', sizeof(long_text));
    long_text[sizeof(long_text) - 1] = '\0';
    stasis_fail(&err, STASIS_ERR_IO, "%s", long_text);
    stasis_wrap(&err, -EIO, "outside");
    assert_memory_equal(err.text, "outside: xxx", 12);
    assert_string_equal(err.text + STASIS_ERROR_TEXT_SIZE - 5, "x...");
    errno = EIO;
    stasis_fail_errno(&err, "%s", long_text);
    assert_string_equal(err.text + STASIS_ERROR_TEXT_SIZE - 5, "x...");
}

static void nobody_needs_to_listen(void **state)
{
    (void)state;
    assert_int_equal(stasis_fail(NULL, STASIS_ERR_BUSY, "x"), -EBUSY);
    errno = ENOSPC;
    assert_int_equal(stasis_fail_errno(NULL, "x"), -ENOSPC);
    assert_int_equal(stasis_fail_errno_as(NULL, STASIS_ERR_KVM, "x"), -EIO);
    assert_int_equal(stasis_wrap(NULL, -EBUSY, "x"), -EBUSY);
    assert_int_equal(stasis_fail_memory(NULL, "x"), -ENOMEM);
}

static void exhausted_memory_says_for_what(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(stasis_fail_memory(&err, "the page map"), &err, STASIS_ERR_OUT_OF_MEMORY);
    assert_string_equal(err.text, "no memory for the page map");
}

static void version_is_that_of_the_headers(void **state)
{
    char text[32];

    (void)state;
    snprintf(text, sizeof(text), "%d.%d.%d", STASIS_VERSION_MAJOR, STASIS_VERSION_MINOR,
             STASIS_VERSION_PATCH);
    assert_string_equal(stasis_version(), text);
    assert_string_equal(STASIS_VERSION_STRING, text);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_numbers_are_the_released_ones),
        cmocka_unit_test(no_number_and_no_name_is_used_twice),
        cmocka_unit_test(every_code_has_an_errno),
        cmocka_unit_test(system_errors_map_to_codes),
        cmocka_unit_test(our_verdict_has_code_and_sentence),
        cmocka_unit_test(a_failed_call_says_what_the_system_said),
        cmocka_unit_test(a_failed_call_without_errno_is_still_a_failure),
        cmocka_unit_test(a_failed_call_can_go_under_a_code_of_ours),
        cmocka_unit_test(context_goes_in_front),
        cmocka_unit_test(a_text_that_fits_exactly_is_not_cut),
        cmocka_unit_test(a_longer_text_ends_in_dots),
        cmocka_unit_test(context_that_does_not_fit_cuts_the_inner_end),
        cmocka_unit_test(nobody_needs_to_listen),
        cmocka_unit_test(exhausted_memory_says_for_what),
        cmocka_unit_test(version_is_that_of_the_headers),
    };
    return unit_run(tests);
}
