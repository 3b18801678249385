/* field.h - one description of each state struct: its field table.
 *
 * A table lists a struct's fields by name, kind and place. Encoding (CBOR in the native format),
 * JSON output, comparison, range checks and releasing memory all walk the same table, so adding a
 * register is one line. VMMs describe the state of their own devices the same way, see
 * stasis_machine_add_device(). Tables are constant and may be used by any thread. */
#ifndef STASIS_FIELD_H
#define STASIS_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/api.h>

#ifdef __cplusplus
extern "C" {
#endif

enum stasis_field_kind {
    /* Scalars; `count` > 1 makes a fixed array T member[count]. */
    STASIS_FIELD_U8 = 1,
    STASIS_FIELD_U16,
    STASIS_FIELD_U32,
    STASIS_FIELD_U64,
    STASIS_FIELD_S64,
    STASIS_FIELD_BOOL, /* bool */
    /* Fixed storage inside the struct. */
    STASIS_FIELD_BYTES,  /* uint8_t member[count]: always `count` bytes */
    STASIS_FIELD_TEXT,   /* char member[count]: UTF-8, NUL-terminated, so at most count - 1 bytes */
    STASIS_FIELD_STRUCT, /* nested struct (or array of `count` of them) described by `table` */
    /* Storage of its own: `offset` is that of a pointer, `length_offset` that of a size_t. */
    STASIS_FIELD_BLOB, /* uint8_t *member, length in bytes, at most `count` */
    STASIS_FIELD_LIST, /* struct *member, length in elements of `table`, at most `count` */
    STASIS_FIELD_PART, /* struct *member: NULL when absent, no length */
};

/* How people read a value; encoding does not depend on it. */
enum stasis_field_show {
    STASIS_SHOW_DECIMAL = 0,
    STASIS_SHOW_HEX,
};

/* May be missing from an encoding: then it is zero, empty or NULL. */
#define STASIS_FIELD_OPTIONAL 0x1u
/* Differs between two captures of one stopped machine (clocks): compared only when asked for. */
#define STASIS_FIELD_VOLATILE 0x2u
/* Names an element within its LIST (scalar or TEXT): elements with equal keys are compared with each
 * other wherever they stand. */
#define STASIS_FIELD_KEY 0x4u

struct stasis_table;

struct stasis_field {
    const char *name; /* key in CBOR and JSON; snake_case, stable for ever */
    enum stasis_field_kind kind;
    size_t offset;                    /* of the member in its struct, bytes */
    size_t count;                     /* elements, bytes or limit: see each kind */
    size_t length_offset;             /* BLOB and LIST only */
    const struct stasis_table *table; /* STRUCT, LIST and PART only */
    uint64_t max;     /* largest valid value of a scalar; 0: whatever the kind holds */
    const char *unit; /* "bytes", "kHz", "ns", "us"; NULL where there is none */
    enum stasis_field_show show;
    unsigned flags; /* STASIS_FIELD_* flags */
};

struct stasis_table {
    const char *name;   /* of the struct, for messages */
    size_t struct_size; /* sizeof, bytes */
    const struct stasis_field *fields;
    size_t field_count;
};

/* clang-format off */
/* Shorthand for tables: STASIS_F(struct foo, bar, U32, .show = STASIS_SHOW_HEX). */
#define STASIS_F(type, member, kind_, ...)                                                         \
    { .name = #member, .kind = STASIS_FIELD_##kind_, .offset = offsetof(type, member),             \
      .count = 1, __VA_ARGS__ }
/* A fixed array, BYTES or TEXT member: count taken from its declaration. */
#define STASIS_F_ARRAY(type, member, kind_, ...)                                                   \
    { .name = #member, .kind = STASIS_FIELD_##kind_, .offset = offsetof(type, member),             \
      .count = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]), __VA_ARGS__ }
/* A pointer member with its length in member_count (LIST) or member_size (BLOB). */
#define STASIS_F_BLOB(type, member, limit, ...)                                                    \
    { .name = #member, .kind = STASIS_FIELD_BLOB, .offset = offsetof(type, member),                \
      .count = (limit), .length_offset = offsetof(type, member##_size), __VA_ARGS__ }
#define STASIS_F_LIST(type, member, limit, table_, ...)                                            \
    { .name = #member, .kind = STASIS_FIELD_LIST, .offset = offsetof(type, member),                \
      .count = (limit), .length_offset = offsetof(type, member##_count), .table = (table_),        \
      __VA_ARGS__ }
#define STASIS_TABLE(type, fields_)                                                                \
    { .name = #type, .struct_size = sizeof(type), .fields = (fields_),                             \
      .field_count = sizeof(fields_) / sizeof((fields_)[0]) }

/* clang-format on */

#ifdef __cplusplus
}
#endif
#endif
