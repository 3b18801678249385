/* walk.h - what all walkers of field tables share: members by offset, and the path to where one is.
 *
 * A path is a chain of nodes on the callers' stacks, each pointing to the one outside it; text is
 * made of it only when there is something to say. Private to this room; callers use fields.h. */
#ifndef STASIS_MACHINE_WALK_H
#define STASIS_MACHINE_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <stasis/error.h>
#include <stasis/field.h>

#define WALK_DEPTH_MAX 32         /* structs inside each other: tables may refer to themselves */
#define WALK_TABLE_FIELDS_MAX 512 /* fields of one table */
#define WALK_PATH_SIZE 256        /* bytes of a path as text; longer ones end in "..." */

/* A text that grows to the end of its buffer and is cut there, always NUL-terminated. */
struct walk_text {
    char *data;
    size_t size; /* of the buffer, at least 4 */
    size_t used; /* bytes before the NUL */
    bool cut;
};

void walk_text_init(struct walk_text *text, char *buf, size_t size);
void walk_text_add(struct walk_text *text, const char *fmt, ...) STASIS_PRINTF(2, 3);
/* Outside bytes: control characters and stray bytes of no UTF-8 become \xNN. */
void walk_text_add_outside(struct walk_text *text, const void *bytes, size_t size);
/* The same in double quotes. */
void walk_text_add_string(struct walk_text *text, const void *bytes, size_t size);

struct walk_path {
    const struct walk_path *parent;   /* NULL: outermost */
    const char *name;                 /* a member; NULL: an element */
    size_t name_size;                 /* bytes; SIZE_MAX: up to its NUL */
    size_t index;                     /* of the element, unless its keys name it: */
    const struct stasis_table *table; /* has STASIS_FIELD_KEY fields, or NULL */
    const void *element;
    unsigned depth; /* structs around this */
};

/* A name from outside, `name_size` bytes. */
static inline struct walk_path walk_member_sized(const struct walk_path *parent, const char *name,
                                                 size_t name_size)
{
    return (struct walk_path){ .parent = parent,
                               .name = name,
                               .name_size = name_size,
                               .depth = (parent ? parent->depth : 0) + 1 };
}

static inline struct walk_path walk_member(const struct walk_path *parent, const char *name)
{
    return walk_member_sized(parent, name, SIZE_MAX);
}

static inline struct walk_path walk_element(const struct walk_path *parent, size_t index)
{
    return (
        struct walk_path){ .parent = parent, .index = index, .depth = parent ? parent->depth : 0 };
}

static inline struct walk_path walk_keyed(const struct walk_path *parent,
                                          const struct stasis_table *table, const void *element)
{
    struct walk_path path = walk_element(parent, 0);

    path.table = table;
    path.element = element;
    return path;
}

/* "vcpus[1].msrs[0xc0000080].data"; "" for NULL. */
void walk_path_text(const struct walk_path *path, char *buf, size_t size);

/* Fail with the path in front, or with the table's name where the path is empty. */
int walk_fail(struct stasis_error *err, enum stasis_code code, const struct stasis_table *table,
              const struct walk_path *path, const char *fmt, ...) STASIS_PRINTF(5, 6);

bool walk_is_scalar(enum stasis_field_kind kind);
size_t walk_scalar_size(enum stasis_field_kind kind);
/* Largest value that the field takes; for S64 too, where every negative value is fine. */
uint64_t walk_scalar_max(const struct stasis_field *field);
/* S64 in two's complement. */
uint64_t walk_load(enum stasis_field_kind kind, const void *place);
void walk_store(enum stasis_field_kind kind, void *place, uint64_t value);
/* A scalar as people read it. */
void walk_scalar_text(const struct stasis_field *field, uint64_t value, struct walk_text *text);

/* Bytes before the NUL of a TEXT member, or SIZE_MAX when there is none within `size`. */
size_t walk_text_length(const char *text, size_t size);
bool walk_is_utf8(const void *bytes, size_t size);
/* UTF-8 without control characters: may be part of a sentence on a terminal. */
bool walk_is_label(const char *bytes, size_t size);

static inline const uint8_t *walk_place(const void *object, size_t offset)
{
    return (const uint8_t *)object + offset;
}

/* The pointer member of a BLOB, LIST or PART. */
static inline void *walk_pointer(const void *object, const struct stasis_field *field)
{
    void *pointer;

    memcpy(&pointer, walk_place(object, field->offset), sizeof(pointer));
    return pointer;
}

/* The length member of a BLOB (bytes) or LIST (elements). */
static inline size_t walk_length(const void *object, const struct stasis_field *field)
{
    size_t length;

    memcpy(&length, walk_place(object, field->length_offset), sizeof(length));
    return length;
}

static inline void walk_set_pointer(void *object, const struct stasis_field *field, void *pointer)
{
    memcpy((uint8_t *)object + field->offset, &pointer, sizeof(pointer));
}

static inline void walk_set_length(void *object, const struct stasis_field *field, size_t length)
{
    memcpy((uint8_t *)object + field->length_offset, &length, sizeof(length));
}

#endif
