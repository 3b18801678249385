/* bytes.h - bounded little-endian reading and writing of byte buffers.
 *
 * Both kinds are sticky: after the first step beyond the end every further one does nothing, reads
 * give zero, and `failed` tells, so that a parser checks once per group and not once per field. */
#ifndef STASIS_BASE_BYTES_H
#define STASIS_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct byte_reader {
    const uint8_t *data;
    size_t size;   /* bytes in data */
    size_t offset; /* next byte, <= size */
    bool failed;   /* something beyond the end was asked for */
};

void byte_reader_init(struct byte_reader *reader, const void *data, size_t size);
uint8_t byte_reader_u8(struct byte_reader *reader);
uint16_t byte_reader_u16(struct byte_reader *reader);
uint32_t byte_reader_u32(struct byte_reader *reader);
uint64_t byte_reader_u64(struct byte_reader *reader);
/* `size` bytes in place, or NULL and failed. Valid as long as the data. */
const uint8_t *byte_reader_bytes(struct byte_reader *reader, size_t size);
size_t byte_reader_left(const struct byte_reader *reader);

/* Writes into a caller's buffer of fixed size, or counts when `data` is NULL and size 0. */
struct byte_writer {
    uint8_t *data;
    size_t size;
    size_t offset;
    bool failed;
};

void byte_writer_init(struct byte_writer *writer, void *data, size_t size);
void byte_writer_u8(struct byte_writer *writer, uint8_t value);
void byte_writer_u16(struct byte_writer *writer, uint16_t value);
void byte_writer_u32(struct byte_writer *writer, uint32_t value);
void byte_writer_u64(struct byte_writer *writer, uint64_t value);
void byte_writer_bytes(struct byte_writer *writer, const void *bytes, size_t size);
void byte_writer_zeros(struct byte_writer *writer, size_t size);

/* A buffer that grows, up to a limit; for encodings whose size is not known before. */
struct byte_buffer {
    uint8_t *data; /* owned */
    size_t size;   /* bytes in use */
    size_t capacity;
    size_t size_max; /* growing beyond is refused */
    bool failed;     /* out of memory or beyond size_max; sticky */
};

void byte_buffer_init(struct byte_buffer *buffer, size_t size_max);
void byte_buffer_release(struct byte_buffer *buffer);
/* Room for `size` more bytes at the end, already counted as used, or NULL and failed. */
uint8_t *byte_buffer_extend(struct byte_buffer *buffer, size_t size);
void byte_buffer_append(struct byte_buffer *buffer, const void *bytes, size_t size);

#endif
