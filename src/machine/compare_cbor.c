/*
 * compare_cbor.c - two encoded CBOR maps, key by key, without a table.
 *
 * Device states are CBOR that their VMM's tables describe; a tool that has no such table can still
 * say which key differs. Both sides are first checked to be plain (is_plain_map()), after which
 * nothing here can run off their ends. Anything else is compared as bytes: less is said, but no
 * difference is missed.
 *
 *     {"queue": {"next": 3, "size": 256}}     ->  queue.next   3   4
 *     {"queue": {"next": 4, "size": 256}}
 *
 * Maps are indexed and paired by key in O(n log n), since the states may come from hostile files.
 */
#include "machine/compare.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "machine/cbor.h"
#include "machine/match.h"

#define KEYS_MAX 65536     /* of one map; 40 bytes of index each */
#define ITEM_TEXT_SIZE 160 /* bytes of a value as text */

/* One pair of a map: where its key and its value are. */
struct entry {
    struct compare_bytes key;
    size_t value_offset; /* in the reader's data */
};

static int compare_items(struct compare *compare, struct cbor_reader *a, struct cbor_reader *b,
                         const struct walk_path *path);

static struct cbor_token take(struct cbor_reader *reader)
{
    struct cbor_token token = { .kind = CBOR_KIND_NULL };
    const enum cbor_result result = cbor_reader_next(reader, &token);

    assert(result == CBOR_READ_OK); /* is_plain_map() saw all of it */
    (void)result;
    return token;
}

static void pass(struct cbor_reader *reader)
{
    const enum cbor_result result = cbor_reader_skip(reader);

    assert(result == CBOR_READ_OK);
    (void)result;
}

static bool is_plain_kind(enum cbor_kind kind)
{
    return kind <= CBOR_KIND_MAP || kind == CBOR_KIND_BOOL || kind == CBOR_KIND_NULL;
}

static bool is_plain_item(struct cbor_reader *reader, unsigned depth);

static bool is_plain_pairs(struct cbor_reader *reader, uint64_t count, unsigned depth)
{
    if (count > KEYS_MAX)
        return false;
    for (uint64_t i = 0; i < count; i++) {
        struct cbor_token key;

        if (cbor_reader_next(reader, &key) != CBOR_READ_OK || key.kind != CBOR_KIND_TEXT ||
            !is_plain_item(reader, depth + 1))
            return false;
    }
    return true;
}

static bool is_plain_elements(struct cbor_reader *reader, uint64_t count, unsigned depth)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!is_plain_item(reader, depth + 1))
            return false;
    }
    return true;
}

/* Definite lengths, text keys, neither floats nor tags, and shallow enough for cbor_reader_skip(). */
static bool is_plain_item(struct cbor_reader *reader, unsigned depth)
{
    struct cbor_token token;

    if (cbor_reader_next(reader, &token) != CBOR_READ_OK || !is_plain_kind(token.kind))
        return false;
    if (token.kind != CBOR_KIND_ARRAY && token.kind != CBOR_KIND_MAP)
        return true;
    if (depth >= CBOR_SKIP_DEPTH_MAX)
        return false;
    return token.kind == CBOR_KIND_MAP ? is_plain_pairs(reader, token.value, depth)
                                       : is_plain_elements(reader, token.value, depth);
}

static bool is_plain_map(const struct compare_bytes *bytes)
{
    struct cbor_reader reader;
    struct cbor_token token;

    cbor_reader_init(&reader, bytes->bytes, bytes->size);
    if (cbor_reader_next(&reader, &token) != CBOR_READ_OK || token.kind != CBOR_KIND_MAP)
        return false;
    reader.offset = 0;
    return is_plain_item(&reader, 0) && cbor_reader_left(&reader) == 0;
}

static void item_text(const struct cbor_token *token, char *buf, size_t size)
{
    struct walk_text text;

    walk_text_init(&text, buf, size);
    if (token->kind == CBOR_KIND_UINT)
        walk_text_add(&text, "%" PRIu64, token->value);
    else if (token->kind == CBOR_KIND_NEGATIVE && token->value < UINT64_MAX)
        walk_text_add(&text, "-%" PRIu64, token->value + 1);
    else if (token->kind == CBOR_KIND_NEGATIVE)
        walk_text_add(&text, "-18446744073709551616");
    else if (token->kind == CBOR_KIND_BOOL)
        walk_text_add(&text, "%s", token->value ? "true" : "false");
    else if (token->kind == CBOR_KIND_TEXT)
        walk_text_add_string(&text, token->bytes, token->value);
    else
        walk_text_add(&text, "%s", cbor_kind_text(token->kind));
}

static bool are_equal(const struct cbor_token *a, const struct cbor_token *b)
{
    if (a->kind != b->kind || a->value != b->value)
        return false;
    return a->kind != CBOR_KIND_TEXT || memcmp(a->bytes, b->bytes, a->value) == 0;
}

/* Tokens that nothing follows, strings of bytes apart. */
static int compare_tokens(struct compare *compare, const struct cbor_token *a,
                          const struct cbor_token *b, const struct walk_path *path)
{
    char text_a[ITEM_TEXT_SIZE], text_b[ITEM_TEXT_SIZE];

    if (are_equal(a, b))
        return 0;
    item_text(a, text_a, sizeof(text_a));
    item_text(b, text_b, sizeof(text_b));
    return compare_report(compare, path, text_a, text_b);
}

static int compare_arrays(struct compare *compare, struct cbor_reader *a, struct cbor_reader *b,
                          size_t count_a, size_t count_b, const struct walk_path *path)
{
    const size_t longer = count_a > count_b ? count_a : count_b;
    int r = compare_counts(compare, count_a, count_b, path);

    for (size_t i = 0; r == 0 && i < longer; i++) {
        const struct walk_path element = walk_element(path, i);

        if (i >= count_b) {
            pass(a);
            r = compare_report(compare, &element, "present", "absent");
        } else if (i >= count_a) {
            pass(b);
            r = compare_report(compare, &element, "absent", "present");
        } else {
            r = compare_items(compare, a, b, &element);
        }
    }
    return r;
}

/* Passes over the pairs; `count` was bounded by is_plain_map(). */
static struct entry *index_map(struct cbor_reader *reader, size_t count)
{
    struct entry *entries = calloc(count ? count : 1, sizeof(*entries));

    for (size_t i = 0; entries && i < count; i++) {
        const struct cbor_token key = take(reader);

        entries[i].key = (struct compare_bytes){ key.bytes, key.value };
        entries[i].value_offset = reader->offset;
        pass(reader);
    }
    return entries;
}

static int order_entries(const void *x, const void *y, void *arg)
{
    const struct compare_bytes *left = &((const struct entry *)x)->key;
    const struct compare_bytes *right = &((const struct entry *)y)->key;
    const size_t common = left->size < right->size ? left->size : right->size;
    const int order = memcmp(left->bytes, right->bytes, common);

    (void)arg;
    return order != 0 ? order : (left->size > right->size) - (left->size < right->size);
}

static struct walk_path entry_path(const struct walk_path *path, const struct entry *entry)
{
    return walk_member_sized(path, (const char *)entry->key.bytes, entry->key.size);
}

static struct cbor_reader reader_at(const struct cbor_reader *reader, size_t offset)
{
    struct cbor_reader at = *reader;

    at.offset = offset;
    return at;
}

static int compare_entries(struct compare *compare, const struct cbor_reader *a,
                           const struct cbor_reader *b, const struct match_array *in_a,
                           const struct match_array *in_b, const struct match *match,
                           const struct walk_path *path)
{
    const struct entry *entries_a = in_a->elements;
    const struct entry *entries_b = in_b->elements;
    int r = 0;

    for (size_t i = 0; r == 0 && i < in_a->count; i++) {
        const struct walk_path member = entry_path(path, &entries_a[i]);
        const size_t partner = match->a_to_b[i];

        if (partner == MATCH_NONE) {
            r = compare_report(compare, &member, "present", "absent");
        } else {
            struct cbor_reader value_a = reader_at(a, entries_a[i].value_offset);
            struct cbor_reader value_b = reader_at(b, entries_b[partner].value_offset);

            r = compare_items(compare, &value_a, &value_b, &member);
        }
    }
    for (size_t i = 0; r == 0 && i < in_b->count; i++) {
        const struct walk_path member = entry_path(path, &entries_b[i]);

        if (!match->b_taken[i])
            r = compare_report(compare, &member, "absent", "present");
    }
    return r;
}

static int compare_maps(struct compare *compare, struct cbor_reader *a, struct cbor_reader *b,
                        size_t count_a, size_t count_b, const struct walk_path *path)
{
    auto_free struct entry *entries_a = index_map(a, count_a);
    auto_free struct entry *entries_b = index_map(b, count_b);
    const struct match_array in_a = { entries_a, count_a };
    const struct match_array in_b = { entries_b, count_b };
    struct match match;
    int r;

    if (!entries_a || !entries_b ||
        match_arrays(&in_a, &in_b, sizeof(struct entry), order_entries, NULL, &match) < 0)
        return stasis_fail_memory(compare->err, "a comparison");
    r = compare_entries(compare, a, b, &in_a, &in_b, &match, path);
    match_release(&match);
    return r;
}

/* One item of each side, which both readers are then past. */
static int compare_items(struct compare *compare, struct cbor_reader *a, struct cbor_reader *b,
                         const struct walk_path *path)
{
    struct cbor_reader next_a = *a, next_b = *b;
    const struct cbor_token token_a = take(a);
    const struct cbor_token token_b = take(b);

    if (token_a.kind != token_b.kind) {
        pass(&next_a);
        pass(&next_b);
        *a = next_a;
        *b = next_b;
        return compare_tokens(compare, &token_a, &token_b, path);
    }
    if (token_a.kind == CBOR_KIND_ARRAY)
        return compare_arrays(compare, a, b, token_a.value, token_b.value, path);
    if (token_a.kind == CBOR_KIND_MAP)
        return compare_maps(compare, a, b, token_a.value, token_b.value, path);
    if (token_a.kind == CBOR_KIND_BYTES)
        return compare_blobs(compare, &(struct compare_bytes){ token_a.bytes, token_a.value },
                             &(struct compare_bytes){ token_b.bytes, token_b.value }, NULL, path);
    return compare_tokens(compare, &token_a, &token_b, path);
}

int compare_cbor(struct compare *compare, const struct compare_bytes *a,
                 const struct compare_bytes *b, const struct walk_path *path)
{
    struct cbor_reader reader_a, reader_b;

    if (!is_plain_map(a) || !is_plain_map(b))
        return compare_blobs(compare, a, b, NULL, path);
    cbor_reader_init(&reader_a, a->bytes, a->size);
    cbor_reader_init(&reader_b, b->bytes, b->size);
    return compare_items(compare, &reader_a, &reader_b, path);
}
