/*
 * fields_encode.c - a struct as a CBOR map, by its field table.
 *
 *     { "id": 0, "regs": {"rax": 1, ...}, "xsave": h'7f03...', "msrs": [{...}, ...], ... }
 *
 * Keys come in table order and every head is the shortest, so equal structs give equal bytes and
 * the digests over them are stable. The object is checked as a whole first; the walk itself has
 * nothing left to refuse and only the buffer can fail. What is written here is in files for ever.
 */
#include "machine/fields.h"

#include "base/error.h"
#include "machine/cbor.h"
#include "machine/walk.h"

static void encode_struct(struct cbor_writer *writer, const struct stasis_table *table,
                          const void *object);

static void encode_scalar(struct cbor_writer *writer, enum stasis_field_kind kind,
                          const void *place)
{
    const uint64_t value = walk_load(kind, place);

    if (kind == STASIS_FIELD_BOOL)
        cbor_write_bool(writer, value != 0);
    else if (kind == STASIS_FIELD_S64)
        cbor_write_int(writer, (int64_t)value);
    else
        cbor_write_uint(writer, value);
}

static void encode_scalars(struct cbor_writer *writer, const struct stasis_field *field,
                           const uint8_t *place)
{
    const size_t size = walk_scalar_size(field->kind);

    if (field->count > 1)
        cbor_write_array(writer, field->count);
    for (size_t i = 0; i < field->count; i++)
        encode_scalar(writer, field->kind, place + i * size);
}

static void encode_structs(struct cbor_writer *writer, const struct stasis_table *table,
                           const uint8_t *elements, size_t count)
{
    cbor_write_array(writer, count);
    for (size_t i = 0; i < count; i++)
        encode_struct(writer, table, elements + i * table->struct_size);
}

static void encode_field(struct cbor_writer *writer, const struct stasis_field *field,
                         const void *object)
{
    const uint8_t *place = walk_place(object, field->offset);

    switch (field->kind) {
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL: encode_scalars(writer, field, place); break;
    case STASIS_FIELD_BYTES: cbor_write_bytes(writer, place, field->count); break;
    case STASIS_FIELD_TEXT:
        cbor_write_text(writer, (const char *)place, strlen((const char *)place));
        break;
    case STASIS_FIELD_STRUCT:
        if (field->count > 1)
            encode_structs(writer, field->table, place, field->count);
        else
            encode_struct(writer, field->table, place);
        break;
    case STASIS_FIELD_BLOB:
        cbor_write_bytes(writer, walk_pointer(object, field), walk_length(object, field));
        break;
    case STASIS_FIELD_LIST:
        encode_structs(writer, field->table, walk_pointer(object, field),
                       walk_length(object, field));
        break;
    case STASIS_FIELD_PART: encode_struct(writer, field->table, walk_pointer(object, field)); break;
    }
}

static bool is_absent(const struct stasis_field *field, const void *object)
{
    return field->kind == STASIS_FIELD_PART && !walk_pointer(object, field);
}

static size_t present_fields(const struct stasis_table *table, const void *object)
{
    size_t count = 0;

    for (size_t i = 0; i < table->field_count; i++)
        count += !is_absent(&table->fields[i], object);
    return count;
}

static void encode_struct(struct cbor_writer *writer, const struct stasis_table *table,
                          const void *object)
{
    cbor_write_map(writer, present_fields(table, object));
    for (size_t i = 0; i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];

        if (is_absent(field, object))
            continue;
        cbor_write_text(writer, field->name, strlen(field->name));
        encode_field(writer, field, object);
    }
}

int fields_encode(const struct stasis_table *table, const void *object, struct byte_buffer *out,
                  struct stasis_error *err)
{
    struct cbor_writer writer;
    const int r = fields_check(table, object, err);

    if (r < 0)
        return r;
    cbor_writer_init(&writer, out);
    encode_struct(&writer, table, object);
    if (writer.over_limit)
        return stasis_fail(err, STASIS_ERR_LIMIT, "%s: its encoding is larger than %zu bytes",
                           table->name, out->size_max);
    if (out->failed)
        return stasis_fail_memory(err, table->name);
    return 0;
}
