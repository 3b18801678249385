/*
 * fields_decode.c - a CBOR map from outside into a struct, by its field table.
 *
 * The input is hostile. What holds whatever it contains:
 *   - all or nothing: the struct is built aside, and freed as a whole when anything is wrong;
 *   - storage is allocated for a list only when the bytes left could hold so many elements, each at
 *     its smallest, so that memory use follows the size of the input;
 *   - recursion follows tables, to WALK_DEPTH_MAX; what is unknown is skipped without recursion.
 *
 * Our own files have their keys in table order. Each map therefore tries the field after the last
 * one first and searches only when that is not it.
 */
#include "machine/fields.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "machine/cbor.h"
#include "machine/walk.h"

struct decoder {
    struct cbor_reader reader;
    struct stasis_error *err;
};

static int decode_struct(struct decoder *decoder, const struct stasis_table *table, void *object,
                         const struct walk_path *path);

static int fail_read(struct decoder *decoder, enum cbor_result result,
                     const struct stasis_table *table, const struct walk_path *path)
{
    const enum stasis_code code =
        result == CBOR_READ_TOO_DEEP ? STASIS_ERR_LIMIT : STASIS_ERR_CORRUPT;

    return walk_fail(decoder->err, code, table, path, "byte %zu: the item %s",
                     decoder->reader.offset, cbor_result_text(result));
}

/* The next token, which must be of this kind. */
static int expect(struct decoder *decoder, enum cbor_kind kind, const struct stasis_table *table,
                  const struct walk_path *path, struct cbor_token *ret_token)
{
    const enum cbor_result result = cbor_reader_next(&decoder->reader, ret_token);

    if (result != CBOR_READ_OK)
        return fail_read(decoder, result, table, path);
    if (ret_token->kind != kind)
        return walk_fail(decoder->err, STASIS_ERR_CORRUPT, table, path, "%s where %s belongs",
                         cbor_kind_text(ret_token->kind), cbor_kind_text(kind));
    return 0;
}

/* Is -1 - `minus_one_minus` a value of this field? Only S64 has negative ones. */
static int store_negative(struct decoder *decoder, const struct stasis_table *table,
                          const struct stasis_field *field, uint64_t minus_one_minus, void *place,
                          const struct walk_path *path)
{
    if (field->kind != STASIS_FIELD_S64 || minus_one_minus > INT64_MAX)
        return walk_fail(decoder->err, STASIS_ERR_INVALID_MACHINE, table, path,
                         "-1 - %" PRIu64 " is out of range", minus_one_minus);
    walk_store(field->kind, place, ~minus_one_minus);
    return 0;
}

static int decode_integer(struct decoder *decoder, const struct stasis_table *table,
                          const struct stasis_field *field, void *place,
                          const struct walk_path *path)
{
    struct cbor_token token;
    const enum cbor_result result = cbor_reader_next(&decoder->reader, &token);

    if (result != CBOR_READ_OK)
        return fail_read(decoder, result, table, path);
    if (token.kind == CBOR_KIND_NEGATIVE)
        return store_negative(decoder, table, field, token.value, place, path);
    if (token.kind != CBOR_KIND_UINT)
        return walk_fail(decoder->err, STASIS_ERR_CORRUPT, table, path,
                         "%s where an integer belongs", cbor_kind_text(token.kind));
    if (token.value > walk_scalar_max(field))
        return walk_fail(decoder->err, STASIS_ERR_INVALID_MACHINE, table, path,
                         "%" PRIu64 " is out of range, at most %" PRIu64 " is valid", token.value,
                         walk_scalar_max(field));
    walk_store(field->kind, place, token.value);
    return 0;
}

static int decode_scalar(struct decoder *decoder, const struct stasis_table *table,
                         const struct stasis_field *field, void *place,
                         const struct walk_path *path)
{
    struct cbor_token token;
    int r;

    if (field->kind != STASIS_FIELD_BOOL)
        return decode_integer(decoder, table, field, place, path);
    r = expect(decoder, CBOR_KIND_BOOL, table, path, &token);
    if (r == 0)
        walk_store(field->kind, place, token.value);
    return r;
}

/* The head of an array that must have exactly field->count elements. */
static int expect_fixed_array(struct decoder *decoder, const struct stasis_table *table,
                              const struct stasis_field *field, const struct walk_path *path)
{
    struct cbor_token token;
    const int r = expect(decoder, CBOR_KIND_ARRAY, table, path, &token);

    if (r < 0)
        return r;
    if (token.value != field->count)
        return walk_fail(decoder->err, STASIS_ERR_CORRUPT, table, path,
                         "%" PRIu64 " elements where %zu belong", token.value, field->count);
    return 0;
}

static int decode_scalars(struct decoder *decoder, const struct stasis_table *table,
                          const struct stasis_field *field, uint8_t *place,
                          const struct walk_path *path)
{
    const size_t size = walk_scalar_size(field->kind);
    int r;

    if (field->count == 1)
        return decode_scalar(decoder, table, field, place, path);
    r = expect_fixed_array(decoder, table, field, path);
    for (size_t i = 0; r == 0 && i < field->count; i++) {
        const struct walk_path element = walk_element(path, i);

        r = decode_scalar(decoder, table, field, place + i * size, &element);
    }
    return r;
}

static int decode_structs(struct decoder *decoder, const struct stasis_table *table,
                          uint8_t *elements, size_t count, const struct walk_path *path)
{
    for (size_t i = 0; i < count; i++) {
        const struct walk_path element = walk_element(path, i);
        const int r = decode_struct(decoder, table, elements + i * table->struct_size, &element);

        if (r < 0)
            return r;
    }
    return 0;
}

static int decode_fixed_structs(struct decoder *decoder, const struct stasis_table *table,
                                const struct stasis_field *field, uint8_t *place,
                                const struct walk_path *path)
{
    int r;

    if (field->count == 1)
        return decode_struct(decoder, field->table, place, path);
    r = expect_fixed_array(decoder, table, field, path);
    return r < 0 ? r : decode_structs(decoder, field->table, place, field->count, path);
}

static int decode_bytes(struct decoder *decoder, const struct stasis_table *table,
                        const struct stasis_field *field, uint8_t *place,
                        const struct walk_path *path)
{
    struct cbor_token token;
    const int r = expect(decoder, CBOR_KIND_BYTES, table, path, &token);

    if (r < 0)
        return r;
    if (token.value != field->count)
        return walk_fail(decoder->err, STASIS_ERR_CORRUPT, table, path,
                         "%" PRIu64 " bytes where %zu belong", token.value, field->count);
    memcpy(place, token.bytes, field->count);
    return 0;
}

static int decode_text(struct decoder *decoder, const struct stasis_table *table,
                       const struct stasis_field *field, uint8_t *place,
                       const struct walk_path *path)
{
    struct cbor_token token;
    const int r = expect(decoder, CBOR_KIND_TEXT, table, path, &token);

    if (r < 0)
        return r;
    if (token.value >= field->count)
        return walk_fail(decoder->err, STASIS_ERR_LIMIT, table, path,
                         "a text of %" PRIu64 " bytes, at most %zu are allowed", token.value,
                         field->count - 1);
    if (memchr(token.bytes, '\0', token.value) || !walk_is_utf8(token.bytes, token.value))
        return walk_fail(decoder->err, STASIS_ERR_CORRUPT, table, path,
                         "the text is not UTF-8 without NUL");
    memcpy(place, token.bytes, token.value); /* the rest is zero already */
    return 0;
}

static int decode_blob(struct decoder *decoder, const struct stasis_table *table,
                       const struct stasis_field *field, void *object, const struct walk_path *path)
{
    struct cbor_token token;
    uint8_t *bytes;
    const int r = expect(decoder, CBOR_KIND_BYTES, table, path, &token);

    if (r < 0)
        return r;
    if (token.value > field->count)
        return walk_fail(decoder->err, STASIS_ERR_LIMIT, table, path,
                         "%" PRIu64 " bytes, at most %zu are allowed", token.value, field->count);
    if (token.value == 0)
        return 0;
    bytes = malloc(token.value);
    if (!bytes)
        return stasis_fail_memory(decoder->err, field->name);
    memcpy(bytes, token.bytes, token.value);
    walk_set_pointer(object, field, bytes);
    walk_set_length(object, field, token.value);
    return 0;
}

static size_t smallest_struct(const struct stasis_table *table);

/* Bytes of a field's smallest encoding with its key, 0 where the key may be missing. */
static size_t smallest_field(const struct stasis_field *field)
{
    const size_t name_size = strlen(field->name);
    const size_t key_size = cbor_head_size(name_size) + name_size;
    const size_t array_size = field->count > 1 ? cbor_head_size(field->count) : 0;

    if (field->flags & STASIS_FIELD_OPTIONAL)
        return 0;
    switch (field->kind) {
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL: return key_size + array_size + field->count;
    case STASIS_FIELD_BYTES: return key_size + cbor_head_size(field->count) + field->count;
    case STASIS_FIELD_STRUCT:
        return key_size + array_size + field->count * smallest_struct(field->table);
    case STASIS_FIELD_TEXT:
    case STASIS_FIELD_BLOB:
    case STASIS_FIELD_LIST: return key_size + 1;
    case STASIS_FIELD_PART: break;
    }
    return 0;
}

static size_t smallest_struct(const struct stasis_table *table)
{
    size_t size = 1;

    for (size_t i = 0; i < table->field_count; i++)
        size += smallest_field(&table->fields[i]);
    return size;
}

static int decode_list(struct decoder *decoder, const struct stasis_table *table,
                       const struct stasis_field *field, void *object, const struct walk_path *path)
{
    struct cbor_token token;
    uint8_t *elements;
    const int r = expect(decoder, CBOR_KIND_ARRAY, table, path, &token);

    if (r < 0)
        return r;
    if (token.value > field->count)
        return walk_fail(decoder->err, STASIS_ERR_LIMIT, table, path,
                         "%" PRIu64 " elements, at most %zu are allowed", token.value,
                         field->count);
    if (token.value > cbor_reader_left(&decoder->reader) / smallest_struct(field->table))
        return walk_fail(decoder->err, STASIS_ERR_CORRUPT, table, path,
                         "%" PRIu64 " elements do not fit in the %zu bytes that are left",
                         token.value, cbor_reader_left(&decoder->reader));
    if (token.value == 0)
        return 0;
    elements = calloc(token.value, field->table->struct_size);
    if (!elements)
        return stasis_fail_memory(decoder->err, field->name);
    walk_set_pointer(object, field, elements);
    walk_set_length(object, field, token.value);
    return decode_structs(decoder, field->table, elements, token.value, path);
}

static int decode_part(struct decoder *decoder, const struct stasis_field *field, void *object,
                       const struct walk_path *path)
{
    void *part = calloc(1, field->table->struct_size);

    if (!part)
        return stasis_fail_memory(decoder->err, field->name);
    walk_set_pointer(object, field, part);
    return decode_struct(decoder, field->table, part, path);
}

static int decode_field(struct decoder *decoder, const struct stasis_table *table,
                        const struct stasis_field *field, void *object,
                        const struct walk_path *path)
{
    uint8_t *place = (uint8_t *)object + field->offset;

    switch (field->kind) {
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL: return decode_scalars(decoder, table, field, place, path);
    case STASIS_FIELD_BYTES: return decode_bytes(decoder, table, field, place, path);
    case STASIS_FIELD_TEXT: return decode_text(decoder, table, field, place, path);
    case STASIS_FIELD_STRUCT: return decode_fixed_structs(decoder, table, field, place, path);
    case STASIS_FIELD_BLOB: return decode_blob(decoder, table, field, object, path);
    case STASIS_FIELD_LIST: return decode_list(decoder, table, field, object, path);
    case STASIS_FIELD_PART: return decode_part(decoder, field, object, path);
    }
    return walk_fail(decoder->err, STASIS_ERR_INVALID_ARGUMENT, table, path,
                     "the field has no known kind");
}

/* Which fields of one map have been read. */
struct seen {
    uint64_t words[WALK_TABLE_FIELDS_MAX / 64];
    size_t next; /* the field that our own writer would put next */
};

static bool seen_get(const struct seen *seen, size_t index)
{
    return seen->words[index / 64] >> (index % 64) & 1;
}

static bool is_named(const struct stasis_field *field, const struct cbor_token *key)
{
    return strlen(field->name) == key->value && memcmp(field->name, key->bytes, key->value) == 0;
}

/* Index of the field that the key names, or field_count. */
static size_t find_field(const struct stasis_table *table, const struct seen *seen,
                         const struct cbor_token *key)
{
    if (seen->next < table->field_count && is_named(&table->fields[seen->next], key))
        return seen->next;
    for (size_t i = 0; i < table->field_count; i++) {
        if (is_named(&table->fields[i], key))
            return i;
    }
    return table->field_count;
}

static int skip_unknown(struct decoder *decoder, const struct stasis_table *table,
                        const struct cbor_token *key, const struct walk_path *path)
{
    const struct walk_path member = walk_member_sized(path, (const char *)key->bytes, key->value);
    const enum cbor_result result = cbor_reader_skip(&decoder->reader);

    return result == CBOR_READ_OK ? 0 : fail_read(decoder, result, table, &member);
}

/* One key and its value. */
static int decode_pair(struct decoder *decoder, const struct stasis_table *table, void *object,
                       struct seen *seen, const struct walk_path *path)
{
    const struct stasis_field *field;
    struct cbor_token key;
    struct walk_path member;
    size_t index;
    const int r = expect(decoder, CBOR_KIND_TEXT, table, path, &key);

    if (r < 0)
        return r;
    index = find_field(table, seen, &key);
    if (index == table->field_count)
        return skip_unknown(decoder, table, &key, path);
    field = &table->fields[index];
    member = walk_member(path, field->name);
    if (seen_get(seen, index))
        return walk_fail(decoder->err, STASIS_ERR_CORRUPT, table, &member,
                         "the key is there twice");
    seen->words[index / 64] |= UINT64_C(1) << (index % 64);
    seen->next = index + 1;
    return decode_field(decoder, table, field, object, &member);
}

static int check_missing(struct decoder *decoder, const struct stasis_table *table,
                         const struct seen *seen, const struct walk_path *path)
{
    for (size_t i = 0; i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];
        const bool may_miss =
            field->kind == STASIS_FIELD_PART || field->flags & STASIS_FIELD_OPTIONAL;

        if (!may_miss && !seen_get(seen, i)) {
            const struct walk_path member = walk_member(path, field->name);

            return walk_fail(decoder->err, STASIS_ERR_CORRUPT, table, &member, "missing");
        }
    }
    return 0;
}

/* `object` is zeroed; on failure it is left half-built, fit to be released. */
static int decode_struct(struct decoder *decoder, const struct stasis_table *table, void *object,
                         const struct walk_path *path)
{
    struct seen seen = { 0 };
    struct cbor_token token;
    int r;

    if (table->field_count > WALK_TABLE_FIELDS_MAX)
        return walk_fail(decoder->err, STASIS_ERR_LIMIT, table, path,
                         "a table of %zu fields, at most %d", table->field_count,
                         WALK_TABLE_FIELDS_MAX);
    if (path && path->depth > WALK_DEPTH_MAX)
        return walk_fail(decoder->err, STASIS_ERR_LIMIT, table, path, "nested deeper than %d",
                         WALK_DEPTH_MAX);

    r = expect(decoder, CBOR_KIND_MAP, table, path, &token);
    for (uint64_t i = 0; r == 0 && i < token.value; i++)
        r = decode_pair(decoder, table, object, &seen, path);
    return r < 0 ? r : check_missing(decoder, table, &seen, path);
}

int fields_decode(const struct stasis_table *table, const void *data, size_t size, void *ret_object,
                  struct stasis_error *err)
{
    struct decoder decoder = { .err = err };
    auto_free void *object = calloc(1, table->struct_size);
    int r;

    if (!object)
        return stasis_fail_memory(err, table->name);
    cbor_reader_init(&decoder.reader, data, size);
    r = decode_struct(&decoder, table, object, NULL);
    if (r == 0 && cbor_reader_left(&decoder.reader) > 0)
        r = stasis_fail(err, STASIS_ERR_CORRUPT, "%s: %zu bytes follow its end", table->name,
                        cbor_reader_left(&decoder.reader));
    if (r < 0) {
        stasis_fields_release(table, object);
        return r;
    }
    memcpy(ret_object, object, table->struct_size);
    return 0;
}
