/*
 * cbor.c - CBOR tokens in and out; the only file that includes libcbor.
 *
 * libcbor's streaming decoder answers one call with one callback. Each callback here fills in the
 * token that its context points to, which turns "push" into "pull":
 *
 *     cbor_reader_next()  ->  cbor_stream_decode()  ->  on_text(token, ...)  ->  the token
 *
 * libcbor 0.8 knows neither tags 6 to 20 nor simple values without a meaning. Both are well-formed,
 * and a later version may put them where this one only has to skip them, so decode_unassigned()
 * deals with these first.
 *
 * Nothing allocates. Lengths are checked against the data by libcbor before a callback sees them;
 * counts of arrays and maps are not, and mean no more than that the sender claims so many items. An
 * error here would let one damaged file read as another machine, or read beyond its end.
 */
#include "machine/cbor.h"

#include <cbor.h>

enum { HEAD_SIZE_MAX = 9 };

static void set(void *context, enum cbor_kind kind, uint64_t value, const uint8_t *bytes)
{
    *(struct cbor_token *)context = (struct cbor_token){ kind, value, bytes };
}

#define ON_NUMBER(name, type, kind)                                                                \
    static void name(void *context, type number)                                                   \
    {                                                                                              \
        set(context, kind, number, NULL);                                                          \
    }
#define ON_STRING(name, kind)                                                                      \
    static void name(void *context, cbor_data bytes, size_t size)                                  \
    {                                                                                              \
        set(context, kind, size, bytes);                                                           \
    }
#define ON_MARK(name, kind)                                                                        \
    static void name(void *context)                                                                \
    {                                                                                              \
        set(context, kind, 0, NULL);                                                               \
    }
#define ON_FLOAT(name, type)                                                                       \
    static void name(void *context, type number) /* nobody here wants one; it can be skipped */    \
    {                                                                                              \
        (void)number;                                                                              \
        set(context, CBOR_KIND_FLOAT, 0, NULL);                                                    \
    }

ON_NUMBER(on_uint8, uint8_t, CBOR_KIND_UINT)
ON_NUMBER(on_uint16, uint16_t, CBOR_KIND_UINT)
ON_NUMBER(on_uint32, uint32_t, CBOR_KIND_UINT)
ON_NUMBER(on_uint64, uint64_t, CBOR_KIND_UINT)
ON_NUMBER(on_negint8, uint8_t, CBOR_KIND_NEGATIVE)
ON_NUMBER(on_negint16, uint16_t, CBOR_KIND_NEGATIVE)
ON_NUMBER(on_negint32, uint32_t, CBOR_KIND_NEGATIVE)
ON_NUMBER(on_negint64, uint64_t, CBOR_KIND_NEGATIVE)
ON_NUMBER(on_array, size_t, CBOR_KIND_ARRAY)
ON_NUMBER(on_map, size_t, CBOR_KIND_MAP)
ON_NUMBER(on_tag, uint64_t, CBOR_KIND_TAG)
ON_NUMBER(on_bool, bool, CBOR_KIND_BOOL)
ON_STRING(on_bytes, CBOR_KIND_BYTES)
ON_STRING(on_text, CBOR_KIND_TEXT)
ON_MARK(on_null, CBOR_KIND_NULL)
ON_MARK(on_undefined, CBOR_KIND_SIMPLE)
ON_MARK(on_open_bytes, CBOR_KIND_OPEN_BYTES)
ON_MARK(on_open_text, CBOR_KIND_OPEN_TEXT)
ON_MARK(on_open_array, CBOR_KIND_OPEN_ARRAY)
ON_MARK(on_open_map, CBOR_KIND_OPEN_MAP)
ON_MARK(on_break, CBOR_KIND_BREAK)
ON_FLOAT(on_float, float)
ON_FLOAT(on_double, double)

static const struct cbor_callbacks callbacks = {
    .uint8 = on_uint8,
    .uint16 = on_uint16,
    .uint32 = on_uint32,
    .uint64 = on_uint64,
    .negint8 = on_negint8,
    .negint16 = on_negint16,
    .negint32 = on_negint32,
    .negint64 = on_negint64,
    .byte_string_start = on_open_bytes,
    .byte_string = on_bytes,
    .string = on_text,
    .string_start = on_open_text,
    .indef_array_start = on_open_array,
    .array_start = on_array,
    .indef_map_start = on_open_map,
    .map_start = on_map,
    .tag = on_tag,
    .float2 = on_float,
    .float4 = on_float,
    .float8 = on_double,
    .undefined = on_undefined,
    .null = on_null,
    .boolean = on_bool,
    .indef_break = on_break,
};

void cbor_reader_init(struct cbor_reader *reader, const void *data, size_t size)
{
    *reader = (struct cbor_reader){ .data = data, .size = size };
}

size_t cbor_reader_left(const struct cbor_reader *reader)
{
    return reader->size - reader->offset;
}

/* The well-formed heads that libcbor refuses; returns the bytes taken, 0 when it is none of them. */
static size_t decode_unassigned(const uint8_t *head, size_t size, struct cbor_token *ret_token)
{
    if (head[0] >= 0xc6 && head[0] <= 0xd4) {
        set(ret_token, CBOR_KIND_TAG, head[0] - 0xc0u, NULL);
        return 1;
    }
    if (head[0] >= 0xe0 && head[0] <= 0xf3) {
        set(ret_token, CBOR_KIND_SIMPLE, head[0] - 0xe0u, NULL);
        return 1;
    }
    if (head[0] == 0xf8 && size >= 2 && head[1] >= 32) {
        set(ret_token, CBOR_KIND_SIMPLE, head[1], NULL);
        return 2;
    }
    return 0;
}

enum cbor_result cbor_reader_next(struct cbor_reader *reader, struct cbor_token *ret_token)
{
    const size_t left = cbor_reader_left(reader);
    struct cbor_decoder_result result;
    const uint8_t *head;
    size_t taken;

    if (left == 0)
        return CBOR_READ_TRUNCATED;
    head = reader->data + reader->offset;
    taken = decode_unassigned(head, left, ret_token);
    if (taken == 0) {
        result = cbor_stream_decode(head, left, &callbacks, ret_token);
        if (result.status == CBOR_DECODER_NEDATA)
            return CBOR_READ_TRUNCATED;
        if (result.status != CBOR_DECODER_FINISHED)
            return head[0] == 0xf8 && left == 1 ? CBOR_READ_TRUNCATED : CBOR_READ_MALFORMED;
        taken = result.read;
    }
    reader->offset += taken;
    return CBOR_READ_OK;
}

/* One array, map or open string that cbor_reader_skip() is inside of. */
struct skip_level {
    enum cbor_kind kind;
    uint64_t items; /* definite: still to come; open: seen so far */
};

static bool is_open(enum cbor_kind kind)
{
    return kind == CBOR_KIND_OPEN_BYTES || kind == CBOR_KIND_OPEN_TEXT ||
           kind == CBOR_KIND_OPEN_ARRAY || kind == CBOR_KIND_OPEN_MAP;
}

/* May this token stand directly inside that level? Open strings hold definite strings only. */
static bool fits_level(const struct skip_level *level, enum cbor_kind kind, bool after_tag)
{
    if (kind == CBOR_KIND_BREAK) {
        const bool half_pair = level->kind == CBOR_KIND_OPEN_MAP && level->items % 2 != 0;

        return is_open(level->kind) && !half_pair && !after_tag;
    }
    if (level->kind == CBOR_KIND_OPEN_BYTES)
        return kind == CBOR_KIND_BYTES;
    if (level->kind == CBOR_KIND_OPEN_TEXT)
        return kind == CBOR_KIND_TEXT;
    return true;
}

/* Items directly inside; no data holds so many that doubling overflows. */
static bool count_items(const struct cbor_token *token, uint64_t *ret_items)
{
    if (token->kind == CBOR_KIND_MAP)
        return !__builtin_mul_overflow(token->value, 2u, ret_items);
    *ret_items = token->kind == CBOR_KIND_ARRAY ? token->value : 0;
    return true;
}

/* One item of the innermost level is complete, and with it perhaps the levels that it ends. */
static unsigned close_levels(struct skip_level *levels, unsigned depth)
{
    while (depth > 0) {
        struct skip_level *level = &levels[depth - 1];

        if (is_open(level->kind)) {
            level->items++;
            break;
        }
        if (--level->items > 0)
            break;
        depth--;
    }
    return depth;
}

enum cbor_result cbor_reader_skip(struct cbor_reader *reader)
{
    struct skip_level levels[CBOR_SKIP_DEPTH_MAX];
    struct cbor_reader at = *reader;
    bool after_tag = false;
    unsigned depth = 0;

    do {
        struct cbor_token token;
        uint64_t items;
        const enum cbor_result result = cbor_reader_next(&at, &token);

        if (result != CBOR_READ_OK)
            return result;
        if (depth > 0 ? !fits_level(&levels[depth - 1], token.kind, after_tag)
                      : token.kind == CBOR_KIND_BREAK)
            return CBOR_READ_MALFORMED;
        if (!count_items(&token, &items))
            return CBOR_READ_TRUNCATED;

        after_tag = token.kind == CBOR_KIND_TAG;
        if (after_tag)
            continue;
        if (is_open(token.kind) || items > 0) {
            if (depth == CBOR_SKIP_DEPTH_MAX)
                return CBOR_READ_TOO_DEEP;
            levels[depth++] = (struct skip_level){ token.kind, items };
            continue;
        }
        if (token.kind == CBOR_KIND_BREAK)
            depth--;
        depth = close_levels(levels, depth);
    } while (depth > 0 || after_tag);

    *reader = at;
    return CBOR_READ_OK;
}

const char *cbor_result_text(enum cbor_result result)
{
    switch (result) {
    case CBOR_READ_OK: return "is well";
    case CBOR_READ_TRUNCATED: return "ends too early";
    case CBOR_READ_MALFORMED: return "is not CBOR";
    case CBOR_READ_TOO_DEEP: return "is nested too deep";
    }
    return "cannot be read";
}

const char *cbor_kind_text(enum cbor_kind kind)
{
    switch (kind) {
    case CBOR_KIND_UINT:
    case CBOR_KIND_NEGATIVE: return "an integer";
    case CBOR_KIND_BYTES: return "a byte string";
    case CBOR_KIND_TEXT: return "a text string";
    case CBOR_KIND_ARRAY: return "an array";
    case CBOR_KIND_MAP: return "a map";
    case CBOR_KIND_TAG: return "a tag";
    case CBOR_KIND_BOOL: return "true or false";
    case CBOR_KIND_NULL: return "null";
    case CBOR_KIND_SIMPLE: return "a simple value";
    case CBOR_KIND_FLOAT: return "a floating-point number";
    case CBOR_KIND_OPEN_BYTES:
    case CBOR_KIND_OPEN_TEXT: return "a string of indefinite length";
    case CBOR_KIND_OPEN_ARRAY: return "an array of indefinite length";
    case CBOR_KIND_OPEN_MAP: return "a map of indefinite length";
    case CBOR_KIND_BREAK: return "a break";
    }
    return "nothing known";
}

void cbor_writer_init(struct cbor_writer *writer, struct byte_buffer *out)
{
    *writer = (struct cbor_writer){ .out = out };
}

static void put(struct cbor_writer *writer, const void *bytes, size_t size)
{
    const struct byte_buffer *out = writer->out;

    if (!out->failed && size > out->size_max - out->size)
        writer->over_limit = true;
    byte_buffer_append(writer->out, bytes, size);
}

void cbor_write_uint(struct cbor_writer *writer, uint64_t value)
{
    unsigned char head[HEAD_SIZE_MAX];

    put(writer, head, cbor_encode_uint(value, head, sizeof(head)));
}

void cbor_write_int(struct cbor_writer *writer, int64_t value)
{
    unsigned char head[HEAD_SIZE_MAX];

    if (value >= 0)
        cbor_write_uint(writer, (uint64_t)value);
    else
        put(writer, head, cbor_encode_negint((uint64_t)(-1 - value), head, sizeof(head)));
}

void cbor_write_bool(struct cbor_writer *writer, bool value)
{
    unsigned char head[HEAD_SIZE_MAX];

    put(writer, head, cbor_encode_bool(value, head, sizeof(head)));
}

void cbor_write_bytes(struct cbor_writer *writer, const void *bytes, size_t size)
{
    unsigned char head[HEAD_SIZE_MAX];

    put(writer, head, cbor_encode_bytestring_start(size, head, sizeof(head)));
    put(writer, bytes, size);
}

void cbor_write_text(struct cbor_writer *writer, const char *text, size_t size)
{
    unsigned char head[HEAD_SIZE_MAX];

    put(writer, head, cbor_encode_string_start(size, head, sizeof(head)));
    put(writer, text, size);
}

void cbor_write_array(struct cbor_writer *writer, size_t count)
{
    unsigned char head[HEAD_SIZE_MAX];

    put(writer, head, cbor_encode_array_start(count, head, sizeof(head)));
}

void cbor_write_map(struct cbor_writer *writer, size_t pair_count)
{
    unsigned char head[HEAD_SIZE_MAX];

    put(writer, head, cbor_encode_map_start(pair_count, head, sizeof(head)));
}

size_t cbor_head_size(uint64_t value)
{
    if (value < 24)
        return 1;
    if (value <= UINT8_MAX)
        return 2;
    if (value <= UINT16_MAX)
        return 3;
    return value <= UINT32_MAX ? 5 : 9;
}
