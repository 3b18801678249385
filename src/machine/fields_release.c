/*
 * fields_release.c - free what the pointers in a struct own, by its field table.
 *
 * Works on half-built structs: whoever builds one sets a list's length only together with its
 * storage, zeroed. A pointer that is in no table is never freed, one that is in two is freed twice.
 */
#include <stdlib.h>

#include <stasis/machine.h>

#include "machine/walk.h"

static void release_members(const struct stasis_table *table, const void *object);

static void release_structs(const struct stasis_table *table, const uint8_t *elements, size_t count)
{
    for (size_t i = 0; elements && i < count; i++)
        release_members(table, elements + i * table->struct_size);
}

static void release_field(const struct stasis_field *field, const void *object)
{
    switch (field->kind) {
    case STASIS_FIELD_STRUCT:
        release_structs(field->table, walk_place(object, field->offset), field->count);
        break;
    case STASIS_FIELD_LIST:
        release_structs(field->table, walk_pointer(object, field), walk_length(object, field));
        free(walk_pointer(object, field));
        break;
    case STASIS_FIELD_PART:
        release_structs(field->table, walk_pointer(object, field), 1);
        free(walk_pointer(object, field));
        break;
    case STASIS_FIELD_BLOB: free(walk_pointer(object, field)); break;
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL:
    case STASIS_FIELD_BYTES:
    case STASIS_FIELD_TEXT: break;
    }
}

static void release_members(const struct stasis_table *table, const void *object)
{
    for (size_t i = 0; i < table->field_count; i++)
        release_field(&table->fields[i], object);
}

void stasis_fields_release(const struct stasis_table *table, void *object)
{
    if (!object)
        return;
    release_members(table, object);
    memset(object, 0, table->struct_size);
}
