/*
 * bytes.c - bounded little-endian reading and writing of byte buffers.
 *
 * Everything that parses outside bytes in this project stands on these few lines: the bounds check
 * is here, once, and says `size > end - offset` (never `offset + size > end`, which can wrap). A
 * wrong comparison here reads past a mapped file or writes past an allocation.
 *
 * Values are put together byte by byte, so neither alignment nor the host's byte order matters;
 * compilers turn that into single loads and stores.
 */
#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

#define BUFFER_CAPACITY_MIN 256

void byte_reader_init(struct byte_reader *reader, const void *data, size_t size)
{
    *reader = (struct byte_reader){ .data = data, .size = size };
}

size_t byte_reader_left(const struct byte_reader *reader)
{
    return reader->failed ? 0 : reader->size - reader->offset;
}

const uint8_t *byte_reader_bytes(struct byte_reader *reader, size_t size)
{
    static const uint8_t nothing[1];
    const uint8_t *bytes;

    if (reader->failed || size > reader->size - reader->offset) {
        reader->failed = true;
        return NULL;
    }
    /* Zero bytes of a NULL buffer are there, and are not a failure. */
    bytes = reader->data ? reader->data + reader->offset : nothing;
    reader->offset += size;
    return bytes;
}

static uint64_t read_number(struct byte_reader *reader, size_t size)
{
    const uint8_t *bytes = byte_reader_bytes(reader, size);
    uint64_t value = 0;

    if (!bytes)
        return 0;
    for (size_t i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

uint8_t byte_reader_u8(struct byte_reader *reader)
{
    return (uint8_t)read_number(reader, 1);
}

uint16_t byte_reader_u16(struct byte_reader *reader)
{
    return (uint16_t)read_number(reader, 2);
}

uint32_t byte_reader_u32(struct byte_reader *reader)
{
    return (uint32_t)read_number(reader, 4);
}

uint64_t byte_reader_u64(struct byte_reader *reader)
{
    return read_number(reader, 8);
}

void byte_writer_init(struct byte_writer *writer, void *data, size_t size)
{
    *writer = (struct byte_writer){ .data = data, .size = size };
}

/*
 * Claims `size` bytes. False when there is nothing to fill in: the writer has failed, or only
 * counts. `*ret_bytes` is where they go.
 */
static bool writer_claim(struct byte_writer *writer, size_t size, uint8_t **ret_bytes)
{
    const size_t limit = writer->data ? writer->size : SIZE_MAX;

    if (writer->failed || size > limit - writer->offset) {
        writer->failed = true;
        return false;
    }
    if (writer->data)
        *ret_bytes = writer->data + writer->offset;
    writer->offset += size;
    return writer->data != NULL && size > 0;
}

static void write_number(struct byte_writer *writer, uint64_t value, size_t size)
{
    uint8_t *bytes;

    if (!writer_claim(writer, size, &bytes))
        return;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

void byte_writer_u8(struct byte_writer *writer, uint8_t value)
{
    write_number(writer, value, 1);
}

void byte_writer_u16(struct byte_writer *writer, uint16_t value)
{
    write_number(writer, value, 2);
}

void byte_writer_u32(struct byte_writer *writer, uint32_t value)
{
    write_number(writer, value, 4);
}

void byte_writer_u64(struct byte_writer *writer, uint64_t value)
{
    write_number(writer, value, 8);
}

void byte_writer_bytes(struct byte_writer *writer, const void *bytes, size_t size)
{
    uint8_t *place;

    if (writer_claim(writer, size, &place))
        memcpy(place, bytes, size);
}

void byte_writer_zeros(struct byte_writer *writer, size_t size)
{
    uint8_t *place;

    if (writer_claim(writer, size, &place))
        memset(place, 0, size);
}

void byte_buffer_init(struct byte_buffer *buffer, size_t size_max)
{
    *buffer = (struct byte_buffer){ .size_max = size_max };
}

void byte_buffer_release(struct byte_buffer *buffer)
{
    if (!buffer)
        return;
    free(buffer->data);
    *buffer = (struct byte_buffer){ 0 };
}

/* Doubles, so that appending n bytes costs O(n), but never beyond the limit. */
static bool buffer_grow(struct byte_buffer *buffer, size_t wanted)
{
    size_t capacity = buffer->capacity ? buffer->capacity : BUFFER_CAPACITY_MIN;
    uint8_t *data;

    while (capacity < wanted) {
        if (__builtin_mul_overflow(capacity, (size_t)2, &capacity))
            capacity = SIZE_MAX;
    }
    if (capacity > buffer->size_max)
        capacity = buffer->size_max;
    data = realloc(buffer->data, capacity ? capacity : 1);
    if (!data)
        return false;
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

uint8_t *byte_buffer_extend(struct byte_buffer *buffer, size_t size)
{
    uint8_t *place;

    if (buffer->failed || size > buffer->size_max - buffer->size) {
        buffer->failed = true;
        return NULL;
    }
    if ((!buffer->data || size > buffer->capacity - buffer->size) &&
        !buffer_grow(buffer, buffer->size + size)) {
        buffer->failed = true;
        return NULL;
    }
    place = buffer->data + buffer->size;
    buffer->size += size;
    return place;
}

void byte_buffer_append(struct byte_buffer *buffer, const void *bytes, size_t size)
{
    uint8_t *place = byte_buffer_extend(buffer, size);

    if (place && size > 0)
        memcpy(place, bytes, size);
}
