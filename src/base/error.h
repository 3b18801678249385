/* error.h - how the code of this project reports failure; the struct is in <stasis/error.h>.
 *
 * The story is told outside-in: the innermost function says what went wrong, callers put their
 * own view in front.
 *
 *     return stasis_fail(err, STASIS_ERR_DIGEST_MISMATCH, "block %zu", n);  our own verdict
 *     return stasis_fail_errno(err, "open '%s'", path);           adds ": No such file or directory"
 *     return stasis_wrap(err, r, "restore '%s'", name);           in front of what is there
 *
 * All three return the negative errno to return. Text that does not fit ends in "...". */
#ifndef STASIS_BASE_ERROR_H
#define STASIS_BASE_ERROR_H

#include <errno.h>

#include <stasis/error.h>

/* Our own verdict: code and sentence. Returns -(the code's errno); `err` may be NULL. */
int stasis_fail(struct stasis_error *err, enum stasis_code code, const char *fmt, ...)
    STASIS_PRINTF(3, 4);

/* A failed system call: code taken from errno, ": strerror" appended. Returns -errno. */
int stasis_fail_errno(struct stasis_error *err, const char *fmt, ...) STASIS_PRINTF(2, 3);

/* The same, but under a code of our choosing (STASIS_ERR_KVM for ioctls on KVM descriptors). */
int stasis_fail_errno_as(struct stasis_error *err, enum stasis_code code, const char *fmt, ...)
    STASIS_PRINTF(3, 4);

/* Put context in front of a failure that `err` holds already. Returns `result`. */
int stasis_wrap(struct stasis_error *err, int result, const char *fmt, ...) STASIS_PRINTF(3, 4);

/* Out of memory for `what`. Returns -ENOMEM. */
int stasis_fail_memory(struct stasis_error *err, const char *what);

/* The code that stands for an errno of the operating system. */
enum stasis_code stasis_code_from_errno(int errnum);

/* The code of a stable name; STASIS_OK when there is no such name. */
enum stasis_code stasis_code_from_name(const char *name);

/* The positive errno that belongs to a code; 0 for STASIS_OK, EIO for a number of no code. */
int stasis_code_errno(enum stasis_code code);

/* The static analyzer does not look into error.c; told that failures are negative, it does not take
 * them for success. Nothing of this is in a build. */
#if defined(__clang_analyzer__) && !defined(STASIS_BASE_ERROR_C)
static inline int stasis_is_negative(int result)
{
    if (result >= 0)
        __builtin_unreachable();
    return result;
}
#define stasis_fail(...) stasis_is_negative(stasis_fail(__VA_ARGS__))
#define stasis_fail_errno(...) stasis_is_negative(stasis_fail_errno(__VA_ARGS__))
#define stasis_fail_errno_as(...) stasis_is_negative(stasis_fail_errno_as(__VA_ARGS__))
#define stasis_fail_memory(...) stasis_is_negative(stasis_fail_memory(__VA_ARGS__))
#define stasis_wrap(...) stasis_is_negative(stasis_wrap(__VA_ARGS__))
#endif

#endif
