/* test_fields_support.h - structs made up at random by their tables, and the walk to each value.
 *
 * Only for tests of field tables. Everything follows from a seed, so a failure can be had again.
 * The walk here is written apart from the library's own, with paths of its own making: the tests
 * compare the two. */
#ifndef STASIS_TEST_FIELDS_SUPPORT_H
#define STASIS_TEST_FIELDS_SUPPORT_H

#include "unit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stasis/machine.h>

struct random_source {
    uint64_t state;
};

/* SplitMix64. */
static inline uint64_t random_next(struct random_source *random)
{
    uint64_t z = (random->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint64_t random_below(struct random_source *random, uint64_t limit)
{
    return random_next(random) % limit;
}

static inline bool field_is_scalar(const struct stasis_field *field)
{
    return field->kind <= STASIS_FIELD_BOOL;
}

static inline size_t field_width(const struct stasis_field *field)
{
    static const size_t widths[] = {
        [STASIS_FIELD_U8] = 1,  [STASIS_FIELD_U16] = 2, [STASIS_FIELD_U32] = 4,
        [STASIS_FIELD_U64] = 8, [STASIS_FIELD_S64] = 8, [STASIS_FIELD_BOOL] = 1,
    };

    return widths[field->kind];
}

static inline void *field_place(void *object, const struct stasis_field *field)
{
    return (uint8_t *)object + field->offset;
}

static inline void **field_pointer(void *object, const struct stasis_field *field)
{
    return (void **)field_place(object, field);
}

static inline size_t *field_length(void *object, const struct stasis_field *field)
{
    return (size_t *)((uint8_t *)object + field->length_offset);
}

static inline void *allocate(size_t size)
{
    void *memory = calloc(1, size ? size : 1);

    if (!memory)
        abort();
    return memory;
}

/* Values of all magnitudes: small ones have other encodings than large ones. */
static inline uint64_t random_scalar(struct random_source *random, const struct stasis_field *field)
{
    const uint64_t bits = 8 * field_width(field);
    uint64_t value = random_next(random) >> random_below(random, 64);

    if (field->flags & STASIS_FIELD_KEY)
        value = random_next(random); /* large, so that no two are alike by chance */
    if (field->kind == STASIS_FIELD_BOOL)
        return value & 1;
    if (bits < 64)
        value &= (UINT64_C(1) << bits) - 1;
    if (field->kind == STASIS_FIELD_S64 && random_below(random, 2))
        return value | UINT64_C(1) << 63; /* a negative one; limits are for the others */
    if (field->kind == STASIS_FIELD_S64)
        value &= INT64_MAX;
    return field->max ? value % (field->max + 1) : value;
}

static inline void put_scalar(const struct stasis_field *field, void *place, uint64_t value)
{
    memcpy(place, &value, field_width(field)); /* little-endian hosts only, as Stasis is */
}

static inline uint64_t get_scalar(const struct stasis_field *field, const void *place)
{
    uint64_t value = 0;

    memcpy(&value, place, field_width(field));
    return value;
}

static inline void random_struct(struct random_source *random, const struct stasis_table *table,
                                 void *object);

static inline void random_elements(struct random_source *random, const struct stasis_table *table,
                                   void *elements, size_t count)
{
    for (size_t i = 0; i < count; i++)
        random_struct(random, table, (uint8_t *)elements + i * table->struct_size);
}

static inline void random_bytes(struct random_source *random, uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)random_next(random);
}

static inline void random_field(struct random_source *random, const struct stasis_field *field,
                                void *object)
{
    uint8_t *place = field_place(object, field);
    size_t count;

    if (field_is_scalar(field)) {
        for (size_t i = 0; i < field->count; i++)
            put_scalar(field, place + i * field_width(field), random_scalar(random, field));
    } else if (field->kind == STASIS_FIELD_BYTES) {
        random_bytes(random, place, field->count);
    } else if (field->kind == STASIS_FIELD_TEXT) {
        count = 1 + random_below(random, field->count - 1);
        for (size_t i = 0; i < count; i++)
            place[i] = (uint8_t)('a' + random_below(random, 26));
    } else if (field->kind == STASIS_FIELD_STRUCT) {
        random_elements(random, field->table, place, field->count);
    } else if (field->kind == STASIS_FIELD_BLOB) {
        count = random_below(random, field->count < 40 ? field->count + 1 : 40);
        *field_pointer(object, field) = count ? allocate(count) : NULL;
        *field_length(object, field) = count;
        random_bytes(random, *field_pointer(object, field), count);
    } else if (field->kind == STASIS_FIELD_LIST) {
        count = random_below(random, field->count < 4 ? field->count + 1 : 4);
        *field_pointer(object, field) = count ? allocate(count * field->table->struct_size) : NULL;
        *field_length(object, field) = count;
        random_elements(random, field->table, *field_pointer(object, field), count);
    } else if (random_below(random, 8) > 0) { /* a PART */
        *field_pointer(object, field) = allocate(field->table->struct_size);
        random_struct(random, field->table, *field_pointer(object, field));
    }
}

/* `object` is zeroed; release it with stasis_fields_release(). */
static inline void random_struct(struct random_source *random, const struct stasis_table *table,
                                 void *object)
{
    for (size_t i = 0; i < table->field_count; i++)
        random_field(random, &table->fields[i], object);
}

/* One place that holds a value: a scalar, a whole BYTES, TEXT or BLOB, a LIST's length, a PART. */
struct value_site {
    const struct stasis_field *field;
    void *object; /* that the field is a member of */
    size_t index; /* within a fixed array of scalars */
    const char *path;
};

/* Return false to stop. */
typedef bool value_site_fn(void *arg, const struct value_site *site);

struct path_buffer {
    char text[1024];
};

static inline struct path_buffer path_add(const struct path_buffer *path, const char *fmt, ...)
    STASIS_PRINTF(2, 3);

static inline struct path_buffer path_add(const struct path_buffer *path, const char *fmt, ...)
{
    struct path_buffer longer = *path;
    const size_t used = strlen(longer.text);
    va_list args;

    va_start(args, fmt);
    vsnprintf(longer.text + used, sizeof(longer.text) - used, fmt, args);
    va_end(args);
    return longer;
}

static inline struct path_buffer path_member(const struct path_buffer *path,
                                             const struct stasis_field *field)
{
    return path_add(path, "%s%s", path->text[0] ? "." : "", field->name);
}

/* "[3]", or "[0x10]" and "[kind/id]" where the table has keys. */
static inline struct path_buffer path_element(const struct path_buffer *path,
                                              const struct stasis_table *table, const void *element,
                                              size_t index)
{
    struct path_buffer keyed = path_add(path, "[");
    bool any = false;

    for (size_t i = 0; i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];
        const void *place = (const uint8_t *)element + field->offset;

        if (!(field->flags & STASIS_FIELD_KEY))
            continue;
        if (field->kind == STASIS_FIELD_TEXT)
            keyed = path_add(&keyed, "%s%s", any ? "/" : "", (const char *)place);
        else if (field->show == STASIS_SHOW_HEX)
            keyed = path_add(&keyed, "%s0x%" PRIx64, any ? "/" : "", get_scalar(field, place));
        else
            keyed = path_add(&keyed, "%s%" PRIu64, any ? "/" : "", get_scalar(field, place));
        any = true;
    }
    if (!any)
        keyed = path_add(&keyed, "%zu", index);
    return path_add(&keyed, "]");
}

static inline bool visit_struct(const struct stasis_table *table, void *object,
                                const struct path_buffer *path, value_site_fn *visit, void *arg);

static inline bool visit_elements(const struct stasis_table *table, void *elements, size_t count,
                                  bool fixed, const struct path_buffer *path, value_site_fn *visit,
                                  void *arg)
{
    for (size_t i = 0; i < count; i++) {
        void *element = (uint8_t *)elements + i * table->struct_size;
        struct path_buffer longer = path_element(path, table, element, i);

        if (fixed)
            longer = path_add(path, "[%zu]", i);
        if (!visit_struct(table, element, &longer, visit, arg))
            return false;
    }
    return true;
}

static inline bool visit_scalars(const struct stasis_field *field, void *object,
                                 const struct path_buffer *path, value_site_fn *visit, void *arg)
{
    for (size_t i = 0; i < field->count; i++) {
        struct path_buffer longer = *path;

        if (field->count > 1)
            longer = path_add(path, "[%zu]", i);
        if (!visit(arg, &(struct value_site){ field, object, i, longer.text }))
            return false;
    }
    return true;
}

static inline bool visit_field(const struct stasis_field *field, void *object,
                               const struct path_buffer *path, value_site_fn *visit, void *arg)
{
    if (field_is_scalar(field))
        return visit_scalars(field, object, path, visit, arg);
    if (field->kind == STASIS_FIELD_STRUCT && field->count == 1)
        return visit_struct(field->table, field_place(object, field), path, visit, arg);
    if (field->kind == STASIS_FIELD_STRUCT)
        return visit_elements(field->table, field_place(object, field), field->count, true, path,
                              visit, arg);
    if (!visit(arg, &(struct value_site){ field, object, 0, path->text }))
        return false;
    if (field->kind == STASIS_FIELD_LIST)
        return visit_elements(field->table, *field_pointer(object, field),
                              *field_length(object, field), false, path, visit, arg);
    if (field->kind == STASIS_FIELD_PART && *field_pointer(object, field))
        return visit_struct(field->table, *field_pointer(object, field), path, visit, arg);
    return true;
}

/* Every value in a struct, outer ones first; false when `visit` stopped the walk. */
static inline bool visit_struct(const struct stasis_table *table, void *object,
                                const struct path_buffer *path, value_site_fn *visit, void *arg)
{
    for (size_t i = 0; i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];
        const struct path_buffer longer = path_member(path, field);

        if (!visit_field(field, object, &longer, visit, arg))
            return false;
    }
    return true;
}

#endif
