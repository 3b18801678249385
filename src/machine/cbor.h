/* cbor.h - reading and writing CBOR (RFC 8949) one item at a time, over libcbor's streaming calls.
 *
 * The reader pulls tokens out of a buffer: no tree, no allocation, strings stay in place. It takes
 * any well-formed CBOR; what is acceptable where is its caller's business. The writer emits the
 * shortest form of every head and definite lengths only, so equal values give equal bytes. */
#ifndef STASIS_MACHINE_CBOR_H
#define STASIS_MACHINE_CBOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

#define CBOR_SKIP_DEPTH_MAX                                                                        \
    16 /* arrays and maps inside each other that cbor_reader_skip() follows */

enum cbor_kind {
    CBOR_KIND_UINT,
    CBOR_KIND_NEGATIVE, /* the integer -1 - value */
    CBOR_KIND_BYTES,
    CBOR_KIND_TEXT,
    CBOR_KIND_ARRAY, /* value items follow */
    CBOR_KIND_MAP,   /* value pairs of items follow */
    CBOR_KIND_TAG,   /* number value; one item follows */
    CBOR_KIND_BOOL,
    CBOR_KIND_NULL,
    CBOR_KIND_SIMPLE, /* undefined, and simple values that mean nothing yet */
    CBOR_KIND_FLOAT,
    CBOR_KIND_OPEN_BYTES, /* of indefinite length: items follow up to a BREAK */
    CBOR_KIND_OPEN_TEXT,
    CBOR_KIND_OPEN_ARRAY,
    CBOR_KIND_OPEN_MAP,
    CBOR_KIND_BREAK,
};

struct cbor_token {
    enum cbor_kind kind;
    uint64_t value;       /* integer, count, size of a string, tag number, or 0 and 1 for BOOL */
    const uint8_t *bytes; /* BYTES and TEXT: in the reader's data, `value` bytes */
};

enum cbor_result {
    CBOR_READ_OK = 0,
    CBOR_READ_TRUNCATED, /* the data ends inside the item */
    CBOR_READ_MALFORMED, /* no CBOR item begins like this */
    CBOR_READ_TOO_DEEP,
};

struct cbor_reader {
    const uint8_t *data;
    size_t size;
    size_t offset; /* next byte, <= size; stays where it is when reading fails */
};

void cbor_reader_init(struct cbor_reader *reader, const void *data, size_t size);
size_t cbor_reader_left(const struct cbor_reader *reader);

/* The next token; `ret_token` is untouched on failure. */
enum cbor_result cbor_reader_next(struct cbor_reader *reader, struct cbor_token *ret_token);

/* Pass over one whole item, of any kind and whatever is nested in it. */
enum cbor_result cbor_reader_skip(struct cbor_reader *reader);

/* "ends too early", "is not CBOR", "is nested too deep"; follows the name of what was read. */
const char *cbor_result_text(enum cbor_result result);

/* "an integer", "a byte string", ... for messages. */
const char *cbor_kind_text(enum cbor_kind kind);

struct cbor_writer {
    struct byte_buffer *out;
    bool over_limit; /* out->failed because of out->size_max and not for want of memory */
};

void cbor_writer_init(struct cbor_writer *writer, struct byte_buffer *out);
void cbor_write_uint(struct cbor_writer *writer, uint64_t value);
void cbor_write_int(struct cbor_writer *writer, int64_t value);
void cbor_write_bool(struct cbor_writer *writer, bool value);
void cbor_write_bytes(struct cbor_writer *writer, const void *bytes, size_t size);
void cbor_write_text(struct cbor_writer *writer, const char *text, size_t size);
void cbor_write_array(struct cbor_writer *writer, size_t count);
void cbor_write_map(struct cbor_writer *writer, size_t pair_count);

/* Bytes of the shortest head for this value, 1 to 9. */
size_t cbor_head_size(uint64_t value);

#endif
