/*
 * error.c - codes, their names and errnos, and the sentence that grows outside-in.
 *
 * The text lives in the caller's struct and nothing allocates, so reporting a failure cannot fail.
 */
#define STASIS_BASE_ERROR_C /* the functions are defined here, under their own names */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct code_facts {
    enum stasis_code code;
    const char *name;
    int errnum;
} code_table[] = {
#define CODE_FACTS(id, number, name, errnum) { STASIS_ERR_##id, name, errnum },
    STASIS_CODES(CODE_FACTS)
#undef CODE_FACTS
};

static const struct code_facts *code_find(enum stasis_code code)
{
    for (size_t i = 0; i < sizeof(code_table) / sizeof(code_table[0]); i++) {
        if (code_table[i].code == code)
            return &code_table[i];
    }
    return NULL;
}

const char *stasis_code_name(enum stasis_code code)
{
    const struct code_facts *facts = code_find(code);

    if (code == STASIS_OK)
        return "Ok";
    return facts ? facts->name : "Unknown";
}

int stasis_code_errno(enum stasis_code code)
{
    const struct code_facts *facts = code_find(code);

    if (code == STASIS_OK)
        return 0;
    return facts ? facts->errnum : EIO;
}

enum stasis_code stasis_code_from_name(const char *name)
{
    for (size_t i = 0; i < sizeof(code_table) / sizeof(code_table[0]); i++) {
        if (strcmp(code_table[i].name, name) == 0)
            return code_table[i].code;
    }
    return STASIS_OK;
}

enum stasis_code stasis_code_from_errno(int errnum)
{
    switch (errnum) {
    case 0: return STASIS_OK;
    case ENOMEM: return STASIS_ERR_OUT_OF_MEMORY;
    case ENOENT:
    case ENOTDIR: return STASIS_ERR_NOT_FOUND;
    case EACCES:
    case EPERM: return STASIS_ERR_PERMISSION;
    case EEXIST: return STASIS_ERR_EXISTS;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return STASIS_ERR_NO_SPACE;
    case EROFS: return STASIS_ERR_READ_ONLY;
    case EISDIR: return STASIS_ERR_NOT_REGULAR;
    case EINVAL:
    case ENAMETOOLONG:
    case ELOOP: return STASIS_ERR_INVALID_ARGUMENT;
    case ECANCELED: return STASIS_ERR_CANCELLED;
    case ETIMEDOUT: return STASIS_ERR_TIMEOUT;
    default: return STASIS_ERR_IO;
    }
}

/* Cut text says so: "..." takes the place of its last bytes, never half a format. */
static void mark_cut(char *text, size_t size)
{
    memcpy(text + size - 4, "...", 4);
}

STASIS_PRINTF(2, 0)
static void set_text(struct stasis_error *err, const char *fmt, va_list args)
{
    const int wanted = vsnprintf(err->text, sizeof(err->text), fmt, args);

    if (wanted < 0)
        err->text[0] = '\0';
    else if ((size_t)wanted >= sizeof(err->text))
        mark_cut(err->text, sizeof(err->text));
}

static void append_text(struct stasis_error *err, const char *separator, const char *text)
{
    const size_t used = strlen(err->text);
    const int wanted =
        snprintf(err->text + used, sizeof(err->text) - used, "%s%s", separator, text);

    if (wanted > 0 && (size_t)wanted >= sizeof(err->text) - used)
        mark_cut(err->text, sizeof(err->text));
}

int stasis_fail(struct stasis_error *err, enum stasis_code code, const char *fmt, ...)
{
    if (err) {
        va_list args;

        va_start(args, fmt);
        set_text(err, fmt, args);
        va_end(args);
        err->code = code;
        err->errnum = 0;
    }
    return -stasis_code_errno(code);
}

STASIS_PRINTF(3, 0)
static void set_system_text(struct stasis_error *err, int errnum, const char *fmt, va_list args)
{
    char reason[128];

    set_text(err, fmt, args);
    append_text(err, ": ", strerror_r(errnum, reason, sizeof(reason)));
    err->errnum = errnum;
}

int stasis_fail_errno(struct stasis_error *err, const char *fmt, ...)
{
    const int errnum = errno ? errno : EIO;

    if (err) {
        va_list args;

        va_start(args, fmt);
        set_system_text(err, errnum, fmt, args);
        va_end(args);
        err->code = stasis_code_from_errno(errnum);
    }
    errno = errnum;
    return -errnum;
}

int stasis_fail_errno_as(struct stasis_error *err, enum stasis_code code, const char *fmt, ...)
{
    const int errnum = errno ? errno : EIO;

    if (err) {
        va_list args;

        va_start(args, fmt);
        set_system_text(err, errnum, fmt, args);
        va_end(args);
        err->code = code;
    }
    errno = errnum;
    return -stasis_code_errno(code);
}

int stasis_wrap(struct stasis_error *err, int result, const char *fmt, ...)
{
    char inner[STASIS_ERROR_TEXT_SIZE];
    va_list args;

    if (!err)
        return result;
    memcpy(inner, err->text, sizeof(inner));
    va_start(args, fmt);
    set_text(err, fmt, args);
    va_end(args);
    append_text(err, ": ", inner);
    return result;
}

int stasis_fail_memory(struct stasis_error *err, const char *what)
{
    return stasis_fail(err, STASIS_ERR_OUT_OF_MEMORY, "no memory for %s", what);
}
