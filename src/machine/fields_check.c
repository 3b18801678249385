/*
 * fields_check.c - is every value of a struct one that its field table allows?
 *
 * Run before encoding and on machines that a caller hands in, so that what is written can be read
 * back by the rules of fields_decode.c. It only reads. A value let through here is a snapshot that
 * saves without complaint and is refused on restore.
 */
#include "machine/fields.h"

#include <inttypes.h>

#include "base/error.h"
#include "machine/walk.h"

static int check_struct(const struct stasis_table *table, const void *object,
                        const struct walk_path *path, struct stasis_error *err);

static int check_scalar(const struct stasis_table *table, const struct stasis_field *field,
                        const void *place, const struct walk_path *path, struct stasis_error *err)
{
    const uint64_t value = walk_load(field->kind, place);
    const uint64_t max = walk_scalar_max(field);

    if (field->kind == STASIS_FIELD_S64 && (int64_t)value < 0)
        return 0;
    if (value > max)
        return walk_fail(err, STASIS_ERR_INVALID_MACHINE, table, path,
                         "%" PRIu64 " is out of range, at most %" PRIu64 " is valid", value, max);
    return 0;
}

static int check_scalars(const struct stasis_table *table, const struct stasis_field *field,
                         const void *object, const struct walk_path *path, struct stasis_error *err)
{
    const size_t size = walk_scalar_size(field->kind);

    for (size_t i = 0; i < field->count; i++) {
        const struct walk_path element = walk_element(path, i);
        const void *place = walk_place(object, field->offset + i * size);
        const int r = check_scalar(table, field, place, field->count > 1 ? &element : path, err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int check_text(const struct stasis_table *table, const struct stasis_field *field,
                      const void *object, const struct walk_path *path, struct stasis_error *err)
{
    const char *text = (const char *)walk_place(object, field->offset);
    const size_t length = walk_text_length(text, field->count);

    if (length == SIZE_MAX)
        return walk_fail(err, STASIS_ERR_INVALID_MACHINE, table, path,
                         "the text does not end within its %zu bytes", field->count);
    if (!walk_is_utf8(text, length))
        return walk_fail(err, STASIS_ERR_INVALID_MACHINE, table, path, "the text is not UTF-8");
    return 0;
}

/* An array of structs, fixed or of its own storage. */
static int check_structs(const struct stasis_field *field, const uint8_t *elements, size_t count,
                         const struct walk_path *path, struct stasis_error *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct walk_path element = walk_element(path, i);
        const int r =
            check_struct(field->table, elements + i * field->table->struct_size, &element, err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int check_length(const struct stasis_table *table, const struct stasis_field *field,
                        const void *object, const struct walk_path *path, struct stasis_error *err)
{
    const size_t length = walk_length(object, field);
    const char *unit = field->kind == STASIS_FIELD_BLOB ? "bytes" : "elements";

    if (length > field->count)
        return walk_fail(err, STASIS_ERR_LIMIT, table, path, "%zu %s, at most %zu are allowed",
                         length, unit, field->count);
    if (length > 0 && !walk_pointer(object, field))
        return walk_fail(err, STASIS_ERR_INVALID_MACHINE, table, path, "%zu %s, but no storage",
                         length, unit);
    return 0;
}

static int check_list(const struct stasis_table *table, const struct stasis_field *field,
                      const void *object, const struct walk_path *path, struct stasis_error *err)
{
    const int r = check_length(table, field, object, path, err);

    if (r < 0)
        return r;
    return check_structs(field, walk_pointer(object, field), walk_length(object, field), path, err);
}

static int check_field(const struct stasis_table *table, const struct stasis_field *field,
                       const void *object, const struct walk_path *path, struct stasis_error *err)
{
    const void *place = walk_place(object, field->offset);
    const void *part;

    switch (field->kind) {
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL: return check_scalars(table, field, object, path, err);
    case STASIS_FIELD_BYTES: return 0;
    case STASIS_FIELD_TEXT: return check_text(table, field, object, path, err);
    case STASIS_FIELD_STRUCT:
        if (field->count > 1)
            return check_structs(field, place, field->count, path, err);
        return check_struct(field->table, place, path, err);
    case STASIS_FIELD_BLOB: return check_length(table, field, object, path, err);
    case STASIS_FIELD_LIST: return check_list(table, field, object, path, err);
    case STASIS_FIELD_PART:
        part = walk_pointer(object, field);
        return part ? check_struct(field->table, part, path, err) : 0;
    }
    return walk_fail(err, STASIS_ERR_INVALID_ARGUMENT, table, path, "the field has no known kind");
}

static int check_struct(const struct stasis_table *table, const void *object,
                        const struct walk_path *path, struct stasis_error *err)
{
    if (table->field_count > WALK_TABLE_FIELDS_MAX)
        return walk_fail(err, STASIS_ERR_LIMIT, table, path, "a table of %zu fields, at most %d",
                         table->field_count, WALK_TABLE_FIELDS_MAX);
    if (path && path->depth > WALK_DEPTH_MAX)
        return walk_fail(err, STASIS_ERR_LIMIT, table, path, "nested deeper than %d",
                         WALK_DEPTH_MAX);

    for (size_t i = 0; i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];
        const struct walk_path member = walk_member(path, field->name);
        const int r = check_field(table, field, object, &member, err);

        if (r < 0)
            return r;
    }
    return 0;
}

int fields_check(const struct stasis_table *table, const void *object, struct stasis_error *err)
{
    return check_struct(table, object, NULL, err);
}
