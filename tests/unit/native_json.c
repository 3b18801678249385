/*
 * native_json.c - what the second decoder says of a native file, and whether the library agrees.
 *
 * The decoder is another program in another language, written from the format's page. The comparison
 * walks field tables here, so it reaches every field of machine state.
 */
#include "unit.h"

#include "native_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stasis/machine.h>

#include "base/digest.h"

#define PYTHON "/usr/bin/python3"
#define PATH_SIZE 512

bool native_json_available(const char **ret_why)
{
    if (!getenv("STASIS_SOURCE"))
        *ret_why = "STASIS_SOURCE does not say where the sources are";
    else if (system(PYTHON " -c 'import cbor2' 2>/dev/null") != 0)
        *ret_why = PYTHON " with cbor2 is not installed";
    else
        return true;
    return false;
}

struct json_object *native_json_decode(const char *path)
{
    struct json_tokener *tokener = json_tokener_new_ex(64);
    struct json_object *json = NULL;
    char command[2048], part[65536];
    FILE *output;

    assert_non_null(tokener);
    snprintf(command, sizeof(command), PYTHON " '%s/tests/golden/native_decoder.py' '%s'",
             getenv("STASIS_SOURCE"), path);
    output = popen(command, "r");
    assert_non_null(output);
    for (size_t got; (got = fread(part, 1, sizeof(part), output)) > 0;) {
        json = json_tokener_parse_ex(tokener, part, (int)got);
        if (json || json_tokener_get_error(tokener) != json_tokener_continue)
            break;
    }
    pclose(output);
    json_tokener_free(tokener);
    return json;
}

static struct json_object *member(struct json_object *json, const char *name, const char *path)
{
    struct json_object *value = NULL;

    if (!json_object_object_get_ex(json, name, &value))
        fail_msg("%s has no '%s'", path, name);
    return value;
}

static void expect_text(struct json_object *json, const char *expected, const char *path)
{
    if (strcmp(json_object_get_string(json), expected) != 0)
        fail_msg("%s: decoder '%s', library '%s'", path, json_object_get_string(json), expected);
}

static void expect_hex(struct json_object *json, const void *bytes, size_t size, const char *path)
{
    char *hex = malloc(2 * size + 1);

    assert_non_null(hex);
    digest_hex(bytes, size, hex);
    expect_text(json, hex, path);
    free(hex);
}

static void expect_u64(struct json_object *json, uint64_t expected, const char *path)
{
    if (json_object_get_uint64(json) != expected)
        fail_msg("%s: decoder %" PRIu64 ", library %" PRIu64, path, json_object_get_uint64(json),
                 expected);
}

static void expect_scalar(struct json_object *json, enum stasis_field_kind kind,
                          const uint8_t *place, const char *path)
{
    uint64_t value = 0;

    switch ((int)kind) {
    case STASIS_FIELD_U8: value = *place; break;
    case STASIS_FIELD_U16: value = *(const uint16_t *)(const void *)place; break;
    case STASIS_FIELD_U32: value = *(const uint32_t *)(const void *)place; break;
    case STASIS_FIELD_U64: value = *(const uint64_t *)(const void *)place; break;
    case STASIS_FIELD_S64:
        if (json_object_get_int64(json) != *(const int64_t *)(const void *)place)
            fail_msg("%s: decoder %" PRId64, path, json_object_get_int64(json));
        return;
    case STASIS_FIELD_BOOL:
        if (json_object_get_boolean(json) != *(const bool *)(const void *)place)
            fail_msg("%s: the other of true and false", path);
        return;
    default: fail_msg("%s: no scalar", path);
    }
    expect_u64(json, value, path);
}

static size_t scalar_size(enum stasis_field_kind kind)
{
    switch ((int)kind) {
    case STASIS_FIELD_U8: return 1;
    case STASIS_FIELD_U16: return 2;
    case STASIS_FIELD_U32: return 4;
    case STASIS_FIELD_BOOL: return sizeof(bool);
    default: return 8;
    }
}

static void expect_array_length(struct json_object *json, size_t expected, const char *path)
{
    if (!json_object_is_type(json, json_type_array) || json_object_array_length(json) != expected)
        fail_msg("%s: not an array of %zu", path, expected);
}

/* One scalar or struct, or a fixed array or list of them. */
static void expect_elements(const struct stasis_field *field, const uint8_t *place, size_t count,
                            bool array, struct json_object *json, const char *path)
{
    const size_t size = field->table ? field->table->struct_size : scalar_size(field->kind);

    if (array)
        expect_array_length(json, count, path);
    for (size_t i = 0; i < count; i++) {
        struct json_object *element = array ? json_object_array_get_idx(json, i) : json;
        char element_path[PATH_SIZE];

        snprintf(element_path, sizeof(element_path), array ? "%s[%zu]" : "%s", path, i);
        if (field->table)
            native_json_expect_object(field->table, place + i * size, element, element_path);
        else
            expect_scalar(element, field->kind, place + i * size, element_path);
    }
}

static void expect_storage(const struct stasis_field *field, const uint8_t *object,
                           struct json_object *json, const char *path)
{
    const uint8_t *storage = *(uint8_t *const *)(const void *)(object + field->offset);
    const size_t length = *(const size_t *)(const void *)(object + field->length_offset);

    if (field->kind == STASIS_FIELD_BLOB)
        expect_hex(json, storage, length, path);
    else
        expect_elements(field, storage, length, true, json, path);
}

static void expect_part(const struct stasis_field *field, const uint8_t *object,
                        struct json_object *parent, const char *path)
{
    const void *part = *(void *const *)(const void *)(object + field->offset);
    struct json_object *json = NULL;
    const bool present = json_object_object_get_ex(parent, field->name, &json);

    if (present != (part != NULL))
        fail_msg("%s: present to one reader only", path);
    if (part)
        native_json_expect_object(field->table, part, json, path);
}

static void expect_field(const struct stasis_field *field, const uint8_t *object,
                         struct json_object *parent, const char *path)
{
    const uint8_t *place = object + field->offset;
    struct json_object *json;

    if (field->kind == STASIS_FIELD_PART) {
        expect_part(field, object, parent, path);
        return;
    }
    json = member(parent, field->name, path);
    switch (field->kind) {
    case STASIS_FIELD_BYTES: expect_hex(json, place, field->count, path); break;
    case STASIS_FIELD_TEXT: expect_text(json, (const char *)place, path); break;
    case STASIS_FIELD_BLOB:
    case STASIS_FIELD_LIST: expect_storage(field, object, json, path); break;
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL:
    case STASIS_FIELD_STRUCT:
    case STASIS_FIELD_PART:
        expect_elements(field, place, field->count, field->count > 1, json, path);
        break;
    }
}

void native_json_expect_object(const struct stasis_table *table, const void *object,
                               struct json_object *json, const char *path)
{
    for (size_t i = 0; i < table->field_count; i++) {
        char field_path[PATH_SIZE];

        snprintf(field_path, sizeof(field_path), "%s.%s", path, table->fields[i].name);
        expect_field(&table->fields[i], object, json, field_path);
    }
}

static void expect_regions(struct json_object *json, const struct stasis_snapshot_info *info,
                           const struct stasis_memory *memory)
{
    expect_array_length(json, info->region_count, "memory.regions");
    for (size_t i = 0; i < info->region_count; i++) {
        struct json_object *region = json_object_array_get_idx(json, i);
        uint8_t digest[DIGEST_SHA256_SIZE];

        expect_u64(member(region, "gpa", "region"), info->regions[i].gpa, "gpa");
        expect_u64(member(region, "size", "region"), info->regions[i].size, "size");
        digest_sha256(memory->regions[i].hva, memory->regions[i].size, digest);
        expect_hex(member(region, "sha256", "region"), digest, sizeof(digest), "sha256");
    }
}

void native_json_expect_snapshot(struct json_object *json, const struct stasis_snapshot *snapshot,
                                 const struct stasis_memory *memory)
{
    const struct stasis_snapshot_info *info = stasis_snapshot_info(snapshot);
    struct json_object *json_memory = member(json, "memory", "");
    struct json_object *meta = member(json, "meta", "");
    struct json_object *version = member(json, "version", "");

    expect_array_length(member(json, "damage", ""), 0, "damage");
    expect_hex(member(json, "id", ""), info->id, sizeof(info->id), "id");
    expect_text(member(json, "digest", ""),
                info->digest == STASIS_DIGEST_SHA256 ? "sha-256" : "xxh3-128", "digest");
    expect_u64(json_object_array_get_idx(version, 0), info->version_major, "major");
    expect_u64(json_object_array_get_idx(version, 1), info->version_minor, "minor");
    expect_u64(member(json, "file_size", ""), info->file_size, "file_size");
    expect_u64(member(json_memory, "size", "memory"), info->memory_size, "memory.size");
    /* Counted by the decoder page by page, not taken from the file's layout. */
    expect_u64(member(json_memory, "data_size", "memory"), info->data_size, "memory.data_size");
    expect_regions(member(json_memory, "regions", "memory"), info, memory);
    expect_text(member(meta, "label", "meta"), info->label, "label");
    expect_text(member(meta, "writer", "meta"), info->writer, "writer");
    expect_u64(member(meta, "created_ns", "meta"), (uint64_t)info->created_ns, "created_ns");
    native_json_expect_object(&stasis_machine_table, stasis_snapshot_machine(snapshot),
                              member(json, "machine", ""), "machine");
}
