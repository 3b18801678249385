/*
 * walk.c - members of structs by their place, paths and values as text.
 *
 * All access to a struct by offset goes through here and the helpers in walk.h, by memcpy, so that
 * a table with a wrong offset is the only way to go astray. Nothing allocates. What comes out as
 * text may end up on a terminal: bytes from outside never pass through unescaped.
 */
#include "machine/walk.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/error.h"

void walk_text_init(struct walk_text *text, char *buf, size_t size)
{
    assert(size >= 4);
    *text = (struct walk_text){ .data = buf, .size = size };
    buf[0] = '\0';
}

static void cut(struct walk_text *text)
{
    memcpy(text->data + text->size - 4, "...", 4);
    text->used = text->size - 1;
    text->cut = true;
}

void walk_text_add(struct walk_text *text, const char *fmt, ...)
{
    const size_t room = text->size - text->used;
    va_list args;
    int wanted;

    if (text->cut)
        return;
    va_start(args, fmt);
    wanted = vsnprintf(text->data + text->used, room, fmt, args);
    va_end(args);
    if (wanted < 0)
        text->data[text->used] = '\0';
    else if ((size_t)wanted >= room)
        cut(text);
    else
        text->used += (size_t)wanted;
}

/* Bytes of the UTF-8 sequence that begins here, 0 where none does (RFC 3629, table 3-7 of Unicode). */
static size_t utf8_sequence(const uint8_t *bytes, size_t size)
{
    uint8_t low = 0x80, high = 0xbf;
    size_t length;

    if (bytes[0] < 0x80)
        return 1;
    if (bytes[0] >= 0xc2 && bytes[0] <= 0xdf)
        length = 2;
    else if (bytes[0] >= 0xe0 && bytes[0] <= 0xef)
        length = 3;
    else if (bytes[0] >= 0xf0 && bytes[0] <= 0xf4)
        length = 4;
    else
        return 0;

    if (bytes[0] == 0xe0) /* no overlong forms, no surrogates, nothing past U+10FFFF */
        low = 0xa0;
    else if (bytes[0] == 0xed)
        high = 0x9f;
    else if (bytes[0] == 0xf0)
        low = 0x90;
    else if (bytes[0] == 0xf4)
        high = 0x8f;

    if (size < length || bytes[1] < low || bytes[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++) {
        if (bytes[i] < 0x80 || bytes[i] > 0xbf)
            return 0;
    }
    return length;
}

/* C0, DEL, and C1 in its UTF-8 form: what a terminal might obey. */
static bool is_control(const uint8_t *bytes, size_t length)
{
    if (length == 1)
        return bytes[0] < 0x20 || bytes[0] == 0x7f;
    return length == 2 && bytes[0] == 0xc2 && bytes[1] < 0xa0;
}

void walk_text_add_outside(struct walk_text *text, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    const uint8_t *const end = at + size;

    while (at < end && !text->cut) {
        const size_t length = utf8_sequence(at, (size_t)(end - at));

        if (length == 0 || is_control(at, length)) {
            walk_text_add(text, "\\x%02x", *at++);
            continue;
        }
        walk_text_add(text, "%.*s", (int)length, (const char *)at);
        at += length;
    }
}

void walk_text_add_string(struct walk_text *text, const void *bytes, size_t size)
{
    walk_text_add(text, "\"");
    walk_text_add_outside(text, bytes, size);
    walk_text_add(text, "\"");
}

bool walk_is_utf8(const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    const uint8_t *const end = at + size;

    while (at < end) {
        const size_t length = utf8_sequence(at, (size_t)(end - at));

        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

bool walk_is_label(const char *bytes, size_t size)
{
    const uint8_t *at = (const uint8_t *)bytes;
    const uint8_t *const end = at + size;

    while (at < end) {
        const size_t length = utf8_sequence(at, (size_t)(end - at));

        if (length == 0 || is_control(at, length))
            return false;
        at += length;
    }
    return true;
}

size_t walk_text_length(const char *text, size_t size)
{
    const size_t length = strnlen(text, size);

    return length < size ? length : SIZE_MAX;
}

static void add_keys(struct walk_text *text, const struct walk_path *path)
{
    const char *separator = "";

    for (size_t i = 0; i < path->table->field_count; i++) {
        const struct stasis_field *field = &path->table->fields[i];
        const void *place = walk_place(path->element, field->offset);

        if (!(field->flags & STASIS_FIELD_KEY))
            continue;
        walk_text_add(text, "%s", separator);
        if (field->kind == STASIS_FIELD_TEXT)
            walk_text_add_outside(text, place, strnlen(place, field->count));
        else
            walk_scalar_text(field, walk_load(field->kind, place), text);
        separator = "/";
    }
}

static void add_path(struct walk_text *text, const struct walk_path *path)
{
    if (path->parent)
        add_path(text, path->parent);
    if (path->name) {
        walk_text_add(text, "%s", text->used ? "." : "");
        walk_text_add_outside(text, path->name,
                              path->name_size == SIZE_MAX ? strlen(path->name) : path->name_size);
        return;
    }
    walk_text_add(text, "[");
    if (path->table)
        add_keys(text, path);
    else
        walk_text_add(text, "%zu", path->index);
    walk_text_add(text, "]");
}

void walk_path_text(const struct walk_path *path, char *buf, size_t size)
{
    struct walk_text text;

    walk_text_init(&text, buf, size);
    if (path)
        add_path(&text, path);
}

int walk_fail(struct stasis_error *err, enum stasis_code code, const struct stasis_table *table,
              const struct walk_path *path, const char *fmt, ...)
{
    char reason[STASIS_ERROR_TEXT_SIZE - WALK_PATH_SIZE];
    char where[WALK_PATH_SIZE];
    va_list args;

    if (!err)
        return stasis_fail(NULL, code, "%s", "");
    va_start(args, fmt);
    vsnprintf(reason, sizeof(reason), fmt, args);
    va_end(args);
    walk_path_text(path, where, sizeof(where));
    return stasis_fail(err, code, "%s: %s", where[0] ? where : table->name, reason);
}

bool walk_is_scalar(enum stasis_field_kind kind)
{
    return kind >= STASIS_FIELD_U8 && kind <= STASIS_FIELD_BOOL;
}

size_t walk_scalar_size(enum stasis_field_kind kind)
{
    switch (kind) {
    case STASIS_FIELD_U8:
    case STASIS_FIELD_BOOL: return 1;
    case STASIS_FIELD_U16: return 2;
    case STASIS_FIELD_U32: return 4;
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64: return 8;
    case STASIS_FIELD_BYTES:
    case STASIS_FIELD_TEXT:
    case STASIS_FIELD_STRUCT:
    case STASIS_FIELD_BLOB:
    case STASIS_FIELD_LIST:
    case STASIS_FIELD_PART: break;
    }
    return 0;
}

static uint64_t kind_max(enum stasis_field_kind kind)
{
    if (kind == STASIS_FIELD_BOOL)
        return 1;
    if (kind == STASIS_FIELD_S64)
        return INT64_MAX;
    return walk_scalar_size(kind) == sizeof(uint64_t)
               ? UINT64_MAX
               : (UINT64_C(1) << (8 * walk_scalar_size(kind))) - 1;
}

uint64_t walk_scalar_max(const struct stasis_field *field)
{
    const uint64_t max = kind_max(field->kind);

    return field->max != 0 && field->max < max ? field->max : max;
}

uint64_t walk_load(enum stasis_field_kind kind, const void *place)
{
    const size_t size = walk_scalar_size(kind);
    uint64_t u64;
    uint32_t u32;
    uint16_t u16;

    switch (size) {
    case 2: memcpy(&u16, place, size); return u16;
    case 4: memcpy(&u32, place, size); return u32;
    case 8: memcpy(&u64, place, size); return u64;
    default: return *(const uint8_t *)place;
    }
}

void walk_store(enum stasis_field_kind kind, void *place, uint64_t value)
{
    const size_t size = walk_scalar_size(kind);
    const uint32_t u32 = (uint32_t)value;
    const uint16_t u16 = (uint16_t)value;

    switch (size) {
    case 2: memcpy(place, &u16, size); break;
    case 4: memcpy(place, &u32, size); break;
    case 8: memcpy(place, &value, size); break;
    default: *(uint8_t *)place = (uint8_t)value; break;
    }
}

void walk_scalar_text(const struct stasis_field *field, uint64_t value, struct walk_text *text)
{
    if (field->kind == STASIS_FIELD_BOOL)
        walk_text_add(text, "%s", value ? "true" : "false");
    else if (field->show == STASIS_SHOW_HEX)
        walk_text_add(text, "0x%" PRIx64, value);
    else if (field->kind == STASIS_FIELD_S64)
        walk_text_add(text, "%" PRId64, (int64_t)value);
    else
        walk_text_add(text, "%" PRIu64, value);
}
