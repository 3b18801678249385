/*
 * fields_compare.c - two structs of one table, difference by difference.
 *
 *     x86_64.vcpus[1].regs.rip            0xfff0   0x100000
 *     x86_64.vcpus[1].msrs                40 elements   41 elements
 *     x86_64.vcpus[1].msrs[0xda0]         absent   present
 *     x86_64.vcpus[1].xsave               4096 bytes, from byte 24: 801f   4096 bytes, ...
 *
 * Elements of a list whose table has STASIS_FIELD_KEY fields are paired by these keys and named by
 * them in the path, others by position. It only reads; the objects may be hostile in their values
 * but not in their pointers. A difference missed here is a broken restore that a test calls good.
 */
#include "machine/fields.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "machine/compare.h"
#include "machine/match.h"
#include "machine/walk.h"

#define VALUE_SIZE 160  /* bytes of a value as text; longer ones end in "..." */
#define HEX_SHOWN_MAX 8 /* bytes of a blob that are shown from the first difference on */

static int compare_structs(struct compare *compare, const struct stasis_table *table, const void *a,
                           const void *b, const struct walk_path *path);

int compare_report(struct compare *compare, const struct walk_path *path, const char *a,
                   const char *b)
{
    char text[STASIS_ERROR_TEXT_SIZE];
    const struct stasis_difference difference = { .path = text, .a = a, .b = b };

    compare->count++;
    if (!compare->on_difference)
        return 0;
    walk_path_text(path, text, sizeof(text));
    return compare->on_difference(compare->arg, &difference) == 0 ? 0 : COMPARE_STOP;
}

int compare_counts(struct compare *compare, size_t a, size_t b, const struct walk_path *path)
{
    char text_a[VALUE_SIZE], text_b[VALUE_SIZE];

    if (a == b)
        return 0;
    snprintf(text_a, sizeof(text_a), "%zu elements", a);
    snprintf(text_b, sizeof(text_b), "%zu elements", b);
    return compare_report(compare, path, text_a, text_b);
}

static int compare_scalar(struct compare *compare, const struct stasis_field *field, const void *a,
                          const void *b, const struct walk_path *path)
{
    const uint64_t value_a = walk_load(field->kind, a);
    const uint64_t value_b = walk_load(field->kind, b);
    char buf_a[VALUE_SIZE], buf_b[VALUE_SIZE];
    struct walk_text text_a, text_b;

    if (value_a == value_b)
        return 0;
    walk_text_init(&text_a, buf_a, sizeof(buf_a));
    walk_text_init(&text_b, buf_b, sizeof(buf_b));
    walk_scalar_text(field, value_a, &text_a);
    walk_scalar_text(field, value_b, &text_b);
    return compare_report(compare, path, buf_a, buf_b);
}

static int compare_scalars(struct compare *compare, const struct stasis_field *field,
                           const uint8_t *a, const uint8_t *b, const struct walk_path *path)
{
    const size_t size = walk_scalar_size(field->kind);
    int r = 0;

    for (size_t i = 0; r == 0 && i < field->count; i++) {
        const struct walk_path element = walk_element(path, i);

        r = compare_scalar(compare, field, a + i * size, b + i * size,
                           field->count > 1 ? &element : path);
    }
    return r;
}

static int compare_texts(struct compare *compare, const struct stasis_field *field, const char *a,
                         const char *b, const struct walk_path *path)
{
    char buf_a[VALUE_SIZE], buf_b[VALUE_SIZE];
    struct walk_text text_a, text_b;

    if (strncmp(a, b, field->count) == 0)
        return 0;
    walk_text_init(&text_a, buf_a, sizeof(buf_a));
    walk_text_init(&text_b, buf_b, sizeof(buf_b));
    walk_text_add_string(&text_a, a, strnlen(a, field->count));
    walk_text_add_string(&text_b, b, strnlen(b, field->count));
    return compare_report(compare, path, buf_a, buf_b);
}

/* The first offset at which the two differ, the shorter one's end included; `size` of the longer
 * when they are equal. */
static size_t first_difference(const struct compare_bytes *a, const struct compare_bytes *b,
                               const struct compare_ticking *ticking)
{
    const size_t common = a->size < b->size ? a->size : b->size;

    if (common == 0 || memcmp(a->bytes, b->bytes, common) == 0)
        return common;
    for (size_t i = 0; i < common; i++) {
        const bool ticks = ticking && i >= ticking->offset && i - ticking->offset < ticking->size;

        if (a->bytes[i] != b->bytes[i] && !ticks)
            return i;
    }
    return common;
}

static void bytes_text(const struct compare_bytes *bytes, size_t from, char *buf, size_t size)
{
    struct walk_text text;

    walk_text_init(&text, buf, size);
    walk_text_add(&text, "%zu bytes", bytes->size);
    if (from >= bytes->size)
        return;
    walk_text_add(&text, ", from byte %zu: ", from);
    for (size_t i = from; i < bytes->size && i - from < HEX_SHOWN_MAX; i++)
        walk_text_add(&text, "%02x", bytes->bytes[i]);
    if (bytes->size - from > HEX_SHOWN_MAX)
        walk_text_add(&text, "...");
}

int compare_blobs(struct compare *compare, const struct compare_bytes *a,
                  const struct compare_bytes *b, const struct compare_ticking *ticking,
                  const struct walk_path *path)
{
    const size_t from = first_difference(a, b, ticking);
    char text_a[VALUE_SIZE], text_b[VALUE_SIZE];

    if (a->size == b->size && from == a->size)
        return 0;
    bytes_text(a, from, text_a, sizeof(text_a));
    bytes_text(b, from, text_b, sizeof(text_b));
    return compare_report(compare, path, text_a, text_b);
}

static int compare_fixed_bytes(struct compare *compare, const struct stasis_field *field,
                               const uint8_t *a, const uint8_t *b, const struct walk_path *path)
{
    return compare_blobs(compare, &(struct compare_bytes){ a, field->count },
                         &(struct compare_bytes){ b, field->count }, NULL, path);
}

static const struct compare_ticking *find_ticking(const struct compare *compare,
                                                  const struct stasis_table *table,
                                                  const struct stasis_field *field)
{
    const struct compare_rules *rules = compare->rules;

    if (compare->flags & STASIS_COMPARE_VOLATILE)
        return NULL;
    for (size_t i = 0; i < rules->ticking_count; i++) {
        if (rules->ticking[i].table == table && strcmp(rules->ticking[i].field, field->name) == 0)
            return &rules->ticking[i];
    }
    return NULL;
}

static int compare_blob_members(struct compare *compare, const struct stasis_table *table,
                                const struct stasis_field *field, const void *a, const void *b,
                                const struct walk_path *path)
{
    const struct compare_rules *rules = compare->rules;
    const struct compare_bytes bytes_a = { walk_pointer(a, field), walk_length(a, field) };
    const struct compare_bytes bytes_b = { walk_pointer(b, field), walk_length(b, field) };

    if (rules->is_cbor && rules->is_cbor(table, field, a) && rules->is_cbor(table, field, b))
        return compare_cbor(compare, &bytes_a, &bytes_b, path);
    return compare_blobs(compare, &bytes_a, &bytes_b, find_ticking(compare, table, field), path);
}

static int compare_parts(struct compare *compare, const struct stasis_table *table, const void *a,
                         const void *b, const struct walk_path *path)
{
    if (!a || !b)
        return a == b ? 0
                      : compare_report(compare, path, a ? "present" : "absent",
                                       b ? "present" : "absent");
    return compare_structs(compare, table, a, b, path);
}

static const void *element_at(const struct match_array *array, const struct stasis_table *table,
                              size_t index)
{
    return (const uint8_t *)array->elements + index * table->struct_size;
}

/* Elements by position; those past the other's end are absent there. */
static int compare_by_position(struct compare *compare, const struct stasis_table *table,
                               const struct match_array *a, const struct match_array *b,
                               const struct walk_path *path)
{
    const size_t longer = a->count > b->count ? a->count : b->count;
    int r = 0;

    for (size_t i = 0; r == 0 && i < longer; i++) {
        const struct walk_path element = walk_element(path, i);

        r = compare_parts(compare, table, i < a->count ? element_at(a, table, i) : NULL,
                          i < b->count ? element_at(b, table, i) : NULL, &element);
    }
    return r;
}

static bool is_key(const struct stasis_field *field)
{
    return field->flags & STASIS_FIELD_KEY;
}

static bool has_keys(const struct stasis_table *table)
{
    for (size_t i = 0; i < table->field_count; i++) {
        if (is_key(&table->fields[i]))
            return true;
    }
    return false;
}

static int order_member(const struct stasis_field *field, const uint8_t *x, const uint8_t *y)
{
    uint64_t left, right;

    if (field->kind == STASIS_FIELD_TEXT)
        return strncmp((const char *)x, (const char *)y, field->count);
    left = walk_load(field->kind, x);
    right = walk_load(field->kind, y);
    return (left > right) - (left < right);
}

static int order_by_keys(const void *x, const void *y, void *arg)
{
    const struct stasis_table *table = arg;
    int order = 0;

    for (size_t i = 0; order == 0 && i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];

        if (is_key(field))
            order = order_member(field, walk_place(x, field->offset), walk_place(y, field->offset));
    }
    return order;
}

static int compare_pair(struct compare *compare, const struct stasis_table *table, const void *a,
                        const void *b, const struct walk_path *path)
{
    const bool ticks = !(compare->flags & STASIS_COMPARE_VOLATILE) && compare->rules->is_volatile &&
                       compare->rules->is_volatile(table, a);

    return ticks ? 0 : compare_structs(compare, table, a, b, path);
}

static int compare_matched(struct compare *compare, const struct stasis_table *table,
                           const struct match_array *a, const struct match_array *b,
                           const struct match *match, const struct walk_path *path)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < a->count; i++) {
        const void *element = element_at(a, table, i);
        const struct walk_path keyed = walk_keyed(path, table, element);

        if (match->a_to_b[i] == MATCH_NONE)
            r = compare_report(compare, &keyed, "present", "absent");
        else
            r = compare_pair(compare, table, element, element_at(b, table, match->a_to_b[i]),
                             &keyed);
    }
    for (size_t i = 0; r == 0 && i < b->count; i++) {
        const struct walk_path keyed = walk_keyed(path, table, element_at(b, table, i));

        if (!match->b_taken[i])
            r = compare_report(compare, &keyed, "absent", "present");
    }
    return r;
}

static int compare_by_keys(struct compare *compare, const struct stasis_table *table,
                           const struct match_array *a, const struct match_array *b,
                           const struct walk_path *path)
{
    struct match match;
    int r = match_arrays(a, b, table->struct_size, order_by_keys, (void *)table, &match);

    if (r < 0)
        return stasis_fail_memory(compare->err, "a comparison");
    r = compare_matched(compare, table, a, b, &match, path);
    match_release(&match);
    return r;
}

static int compare_lists(struct compare *compare, const struct stasis_field *field, const void *a,
                         const void *b, const struct walk_path *path)
{
    const struct match_array list_a = { walk_pointer(a, field), walk_length(a, field) };
    const struct match_array list_b = { walk_pointer(b, field), walk_length(b, field) };
    const int r = compare_counts(compare, list_a.count, list_b.count, path);

    if (r != 0)
        return r;
    if (has_keys(field->table))
        return compare_by_keys(compare, field->table, &list_a, &list_b, path);
    return compare_by_position(compare, field->table, &list_a, &list_b, path);
}

static int compare_fixed_structs(struct compare *compare, const struct stasis_field *field,
                                 const uint8_t *a, const uint8_t *b, const struct walk_path *path)
{
    if (field->count == 1)
        return compare_structs(compare, field->table, a, b, path);
    return compare_by_position(compare, field->table, &(struct match_array){ a, field->count },
                               &(struct match_array){ b, field->count }, path);
}

static int compare_field(struct compare *compare, const struct stasis_table *table,
                         const struct stasis_field *field, const void *a, const void *b,
                         const struct walk_path *path)
{
    const uint8_t *place_a = walk_place(a, field->offset);
    const uint8_t *place_b = walk_place(b, field->offset);

    switch (field->kind) {
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL: return compare_scalars(compare, field, place_a, place_b, path);
    case STASIS_FIELD_BYTES: return compare_fixed_bytes(compare, field, place_a, place_b, path);
    case STASIS_FIELD_TEXT:
        return compare_texts(compare, field, (const char *)place_a, (const char *)place_b, path);
    case STASIS_FIELD_STRUCT: return compare_fixed_structs(compare, field, place_a, place_b, path);
    case STASIS_FIELD_BLOB: return compare_blob_members(compare, table, field, a, b, path);
    case STASIS_FIELD_LIST: return compare_lists(compare, field, a, b, path);
    case STASIS_FIELD_PART:
        return compare_parts(compare, field->table, walk_pointer(a, field), walk_pointer(b, field),
                             path);
    }
    return walk_fail(compare->err, STASIS_ERR_INVALID_ARGUMENT, table, path,
                     "the field has no known kind");
}

static int compare_structs(struct compare *compare, const struct stasis_table *table, const void *a,
                           const void *b, const struct walk_path *path)
{
    const bool with_volatile = compare->flags & STASIS_COMPARE_VOLATILE;
    int r = 0;

    for (size_t i = 0; r == 0 && i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];
        const struct walk_path member = walk_member(path, field->name);

        if (field->flags & STASIS_FIELD_VOLATILE && !with_volatile)
            continue;
        r = compare_field(compare, table, field, a, b, &member);
    }
    return r;
}

int fields_compare(const struct stasis_table *table, const void *a, const void *b,
                   const char *prefix, unsigned flags, stasis_difference_fn *on_difference,
                   void *arg, uint64_t *ret_count, struct stasis_error *err)
{
    const struct walk_path root = walk_member(NULL, prefix ? prefix : "");
    struct compare compare = {
        .rules = &compare_machine_rules,
        .flags = flags,
        .on_difference = on_difference,
        .arg = arg,
        .err = err,
    };
    const int r = compare_structs(&compare, table, a, b, prefix && *prefix ? &root : NULL);

    if (r < 0)
        return r;
    if (ret_count)
        *ret_count = compare.count;
    return 0;
}

int stasis_machine_compare(const struct stasis_machine *a, const struct stasis_machine *b,
                           unsigned flags, stasis_difference_fn *on_difference, void *arg,
                           uint64_t *ret_count, struct stasis_error *err)
{
    return fields_compare(&stasis_machine_table, a, b, NULL, flags, on_difference, arg, ret_count,
                          err);
}
