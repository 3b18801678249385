/*
 * acpi_tables_aml.c - a small writer of ACPI machine language.
 *
 * AML puts a package's length in front of its contents, in one to four bytes that count
 * themselves. So contents are written first, and the length is slid in under them when they end:
 *
 *     begin   | opcode                | name | contents ...
 *     end     | opcode | length 1..4  | name | contents ...
 *
 * A guest's interpreter runs what is written here with the rights of its kernel; a wrong byte is a
 * guest without devices. The unit test has iasl read everything back.
 */
#include <assert.h>
#include <string.h>

#include "microvm/acpi_tables_aml.h"

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_EXT = 0x5b,
    OP_LOCAL0 = 0x60,
    OP_STORE = 0x70,
    OP_AND = 0x7b,
    OP_NOTIFY = 0x86,
    OP_IF = 0xa0,
    OP_EXT_REGION = 0x80,
    OP_EXT_FIELD = 0x81,
    OP_EXT_DEVICE = 0x82,
};

#define NAME_SIZE 4u
#define METHOD_SERIALIZED 0x08u
#define REGION_SYSTEM_IO 0x01u
#define FIELD_DWORD_PRESERVE 0x03u /* access width 32 bits, no lock, untouched bits preserved */

static void put(struct aml *aml, uint64_t value, size_t size)
{
    byte_buffer_append(aml->bytes, &value, size); /* little-endian host, little-endian AML */
}

static void put_name(struct aml *aml, const char *name)
{
    assert(strlen(name) == NAME_SIZE);
    byte_buffer_append(aml->bytes, name, NAME_SIZE);
}

static void put_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        put(aml, value == 0 ? OP_ZERO : OP_ONE, 1);
    } else if (value <= UINT8_MAX) {
        put(aml, OP_BYTE, 1);
        put(aml, value, 1);
    } else if (value <= UINT16_MAX) {
        put(aml, OP_WORD, 1);
        put(aml, value, 2);
    } else if (value <= UINT32_MAX) {
        put(aml, OP_DWORD, 1);
        put(aml, value, 4);
    } else {
        put(aml, OP_QWORD, 1);
        put(aml, value, 8);
    }
}

/* --- packages ------------------------------------------------------------------------------- */

static void begin_package(struct aml *aml)
{
    assert(aml->depth < AML_DEPTH_MAX);
    aml->open[aml->depth++] = aml->bytes->size;
}

/* PkgLength (20.2.4): up to 63 in one byte; otherwise two bits of count of further bytes and four
 * of length in the first, eight more in each further one. Returns the bytes used. */
static size_t encode_length(size_t content_size, uint8_t ret_bytes[4])
{
    size_t extra = 0;
    size_t length = content_size + 1;

    if (length <= 63) {
        ret_bytes[0] = (uint8_t)length;
        return 1;
    }
    do {
        extra++;
        length = content_size + 1 + extra;
    } while (length >> (4 + 8 * extra) != 0);
    assert(extra <= 3);
    ret_bytes[0] = (uint8_t)(extra << 6 | (length & 0xf));
    for (size_t i = 0; i < extra; i++)
        ret_bytes[1 + i] = (uint8_t)(length >> (4 + 8 * i));
    return 1 + extra;
}

void aml_end(struct aml *aml)
{
    const size_t start = aml->open[--aml->depth];
    const size_t content_size = aml->bytes->size - start;
    uint8_t length[4];
    const size_t length_size = encode_length(content_size, length);

    if (!byte_buffer_extend(aml->bytes, length_size))
        return;
    memmove(aml->bytes->data + start + length_size, aml->bytes->data + start, content_size);
    memcpy(aml->bytes->data + start, length, length_size);
}

void aml_begin_scope(struct aml *aml, const char *name)
{
    put(aml, OP_SCOPE, 1);
    begin_package(aml);
    put_name(aml, name);
}

void aml_begin_device(struct aml *aml, const char *name)
{
    put(aml, OP_EXT, 1);
    put(aml, OP_EXT_DEVICE, 1);
    begin_package(aml);
    put_name(aml, name);
}

void aml_begin_method(struct aml *aml, const char *name, unsigned arg_count)
{
    put(aml, OP_METHOD, 1);
    begin_package(aml);
    put_name(aml, name);
    put(aml, arg_count | METHOD_SERIALIZED, 1);
}

void aml_begin_if_local0_has(struct aml *aml, uint64_t mask)
{
    put(aml, OP_IF, 1);
    begin_package(aml);
    put(aml, OP_AND, 1);
    put(aml, OP_LOCAL0, 1);
    put_integer(aml, mask);
    put(aml, OP_ZERO, 1); /* no target */
}

/* --- names ---------------------------------------------------------------------------------- */

static void begin_name(struct aml *aml, const char *name)
{
    put(aml, OP_NAME, 1);
    put_name(aml, name);
}

void aml_name_integer(struct aml *aml, const char *name, uint64_t value)
{
    begin_name(aml, name);
    put_integer(aml, value);
}

void aml_name_string(struct aml *aml, const char *name, const char *value)
{
    begin_name(aml, name);
    put(aml, OP_STRING, 1);
    byte_buffer_append(aml->bytes, value, strlen(value) + 1);
}

static uint32_t hex_digit(char c)
{
    return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of five bits, four hexadecimal digits; the whole in big-endian order. */
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id)
{
    uint32_t value = 0;

    assert(strlen(id) == 7);
    for (size_t i = 0; i < 3; i++)
        value = value << 5 | ((uint32_t)(id[i] - '@') & 0x1f);
    for (size_t i = 3; i < 7; i++)
        value = value << 4 | hex_digit(id[i]);

    begin_name(aml, name);
    put(aml, OP_DWORD, 1);
    put(aml, __builtin_bswap32(value), 4);
}

void aml_name_integers(struct aml *aml, const char *name, const uint64_t *values, size_t count)
{
    begin_name(aml, name);
    put(aml, OP_PACKAGE, 1);
    begin_package(aml);
    put(aml, count, 1);
    for (size_t i = 0; i < count; i++)
        put_integer(aml, values[i]);
    aml_end(aml);
}

/* --- resources ------------------------------------------------------------------------------ */

/* A buffer says its size twice: as a package, and as an integer before its bytes. The integer is
 * written last, always as one byte so that its place is known: aml_end_resources() fills it in. */
#define RESOURCES_SIZE_OFFSET 1u
#define RESOURCES_HEADER_SIZE 2u

void aml_begin_resources(struct aml *aml)
{
    begin_name(aml, "_CRS");
    put(aml, OP_BUFFER, 1);
    begin_package(aml);
    put(aml, OP_BYTE, 1);
    put(aml, 0, 1);
}

void aml_io_ports(struct aml *aml, uint16_t port, uint8_t count)
{
    put(aml, 0x47, 1); /* I/O port descriptor, 7 bytes */
    put(aml, 0x01, 1); /* decodes 16 bits */
    put(aml, port, 2); /* lowest and highest base */
    put(aml, port, 2);
    put(aml, 1, 1); /* alignment */
    put(aml, count, 1);
}

void aml_memory(struct aml *aml, uint32_t gpa, uint32_t size)
{
    put(aml, 0x86, 1); /* 32-bit fixed memory range descriptor, 9 bytes */
    put(aml, 9, 2);
    put(aml, 1, 1); /* writable */
    put(aml, gpa, 4);
    put(aml, size, 4);
}

void aml_interrupt(struct aml *aml, uint32_t gsi)
{
    put(aml, 0x89, 1); /* extended interrupt descriptor, 6 bytes */
    put(aml, 6, 2);
    put(aml, 0x03, 1); /* consumer, edge, active high, exclusive */
    put(aml, 1, 1);    /* one interrupt */
    put(aml, gsi, 4);
}

void aml_end_resources(struct aml *aml)
{
    const size_t start = aml->open[aml->depth - 1];

    put(aml, 0x79, 1); /* end tag */
    put(aml, 0, 1);    /* checksum: not used */
    if (!aml->bytes->failed) {
        const size_t size = aml->bytes->size - start - RESOURCES_HEADER_SIZE;

        assert(size <= UINT8_MAX);
        aml->bytes->data[start + RESOURCES_SIZE_OFFSET] = (uint8_t)size;
    }
    aml_end(aml);
}

/* --- code ----------------------------------------------------------------------------------- */

void aml_port_field(struct aml *aml, const char *region, uint16_t port, const char *field)
{
    put(aml, OP_EXT, 1);
    put(aml, OP_EXT_REGION, 1);
    put_name(aml, region);
    put(aml, REGION_SYSTEM_IO, 1);
    put_integer(aml, port);
    put_integer(aml, 4);

    put(aml, OP_EXT, 1);
    put(aml, OP_EXT_FIELD, 1);
    begin_package(aml);
    put_name(aml, region);
    put(aml, FIELD_DWORD_PRESERVE, 1);
    put_name(aml, field);
    put(aml, 32, 1); /* bits */
    aml_end(aml);
}

void aml_store_to_local0(struct aml *aml, const char *field)
{
    put(aml, OP_STORE, 1);
    put_name(aml, field);
    put(aml, OP_LOCAL0, 1);
}

void aml_notify(struct aml *aml, const char *device, uint64_t value)
{
    put(aml, OP_NOTIFY, 1);
    put_name(aml, device);
    put_integer(aml, value);
}
