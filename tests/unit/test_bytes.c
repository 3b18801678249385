/* test_bytes.c - the bounded readers and writers.
 *
 * Goal:   they give what is there, and at the end they stop for good.
 * Method: hand-made buffers around every edge; a round trip of all widths; sizes that would wrap. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static void reader_takes_little_endian_numbers(void **state)
{
    static const uint8_t data[] = { 0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0xff,
                                    0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88 };
    struct byte_reader reader;

    (void)state;
    byte_reader_init(&reader, data, sizeof(data));
    assert_int_equal(byte_reader_u8(&reader), 0x01);
    assert_int_equal(byte_reader_u16(&reader), 0x0203);
    assert_int_equal(byte_reader_u32(&reader), 0x04050607);
    assert_true(byte_reader_u64(&reader) == UINT64_C(0x8899aabbccddeeff));
    assert_int_equal(byte_reader_left(&reader), 0);
    assert_false(reader.failed);
}

static void reader_fails_for_good_after_the_end(void **state)
{
    static const uint8_t data[] = { 1, 2, 3, 4 };
    struct byte_reader reader;

    (void)state;
    byte_reader_init(&reader, data, sizeof(data));
    assert_int_equal(byte_reader_u8(&reader), 1);
    assert_int_equal(byte_reader_u32(&reader), 0);
    assert_true(reader.failed);
    /* There are three bytes, but they are not given out any more. */
    assert_int_equal(byte_reader_u8(&reader), 0);
    assert_null(byte_reader_bytes(&reader, 0));
    assert_int_equal(byte_reader_left(&reader), 0);
}

static void reader_gives_bytes_in_place(void **state)
{
    static const uint8_t data[] = { 1, 2, 3, 4, 5 };
    struct byte_reader reader;

    (void)state;
    byte_reader_init(&reader, data, sizeof(data));
    assert_ptr_equal(byte_reader_bytes(&reader, 2), data);
    assert_int_equal(byte_reader_left(&reader), 3);
    assert_ptr_equal(byte_reader_bytes(&reader, 3), data + 2);
    assert_ptr_equal(byte_reader_bytes(&reader, 0), data + 5);
    assert_false(reader.failed);
    assert_null(byte_reader_bytes(&reader, 1));
    assert_true(reader.failed);
}

static void reader_survives_a_size_that_would_wrap(void **state)
{
    static const uint8_t data[] = { 1, 2, 3, 4 };
    struct byte_reader reader;

    (void)state;
    byte_reader_init(&reader, data, sizeof(data));
    byte_reader_u16(&reader);
    assert_null(byte_reader_bytes(&reader, SIZE_MAX));
    assert_true(reader.failed);
}

static void reader_of_nothing_has_zero_bytes(void **state)
{
    struct byte_reader reader;

    (void)state;
    byte_reader_init(&reader, NULL, 0);
    assert_non_null(byte_reader_bytes(&reader, 0));
    assert_false(reader.failed);
    assert_int_equal(byte_reader_u8(&reader), 0);
    assert_true(reader.failed);
}

static void write_one_of_each(struct byte_writer *writer)
{
    byte_writer_u8(writer, 0x12);
    byte_writer_u16(writer, 0x3456);
    byte_writer_u32(writer, 0x789abcde);
    byte_writer_u64(writer, UINT64_C(0xfedcba9876543210));
    byte_writer_bytes(writer, "abc", 3);
    byte_writer_zeros(writer, 2);
}

static void writer_and_reader_agree(void **state)
{
    static const uint8_t tail[] = { 'a', 'b', 'c', 0, 0 };
    uint8_t data[20];
    struct byte_writer writer;
    struct byte_reader reader;

    (void)state;
    memset(data, 0xa5, sizeof(data));
    byte_writer_init(&writer, data, sizeof(data));
    write_one_of_each(&writer);
    assert_false(writer.failed);
    assert_int_equal(writer.offset, sizeof(data));
    byte_reader_init(&reader, data, sizeof(data));
    assert_int_equal(byte_reader_u8(&reader), 0x12);
    assert_int_equal(byte_reader_u16(&reader), 0x3456);
    assert_int_equal(byte_reader_u32(&reader), 0x789abcde);
    assert_true(byte_reader_u64(&reader) == UINT64_C(0xfedcba9876543210));
    assert_memory_equal(byte_reader_bytes(&reader, 5), tail, 5);
}

static void writer_without_a_buffer_counts(void **state)
{
    struct byte_writer writer;

    (void)state;
    byte_writer_init(&writer, NULL, 0);
    write_one_of_each(&writer);
    assert_false(writer.failed);
    assert_int_equal(writer.offset, 20);
    byte_writer_zeros(&writer, SIZE_MAX);
    assert_true(writer.failed);
}

static void writer_never_passes_the_end(void **state)
{
    uint8_t data[8];
    struct byte_writer writer;

    (void)state;
    memset(data, 0xa5, sizeof(data));
    byte_writer_init(&writer, data, 5);
    byte_writer_u32(&writer, 0);
    byte_writer_u16(&writer, 0); /* one byte of room */
    assert_true(writer.failed);
    byte_writer_u8(&writer, 0); /* would fit, but the failure sticks */
    byte_writer_bytes(&writer, "x", 1);
    byte_writer_zeros(&writer, 1);
    assert_int_equal(writer.offset, 4);
    for (size_t i = 4; i < sizeof(data); i++)
        assert_int_equal(data[i], 0xa5);
}

static void buffer_keeps_all_that_is_appended(void **state)
{
    struct byte_buffer buffer;

    (void)state;
    byte_buffer_init(&buffer, 100000);
    for (unsigned i = 0; i < 20000; i++) {
        const uint8_t bytes[3] = { (uint8_t)i, (uint8_t)(i >> 8), 7 };

        byte_buffer_append(&buffer, bytes, sizeof(bytes));
    }
    assert_false(buffer.failed);
    assert_int_equal(buffer.size, 60000);
    for (unsigned i = 0; i < 20000; i++) {
        assert_int_equal(buffer.data[3 * i], (uint8_t)i);
        assert_int_equal(buffer.data[3 * i + 1], (uint8_t)(i >> 8));
    }
    byte_buffer_release(&buffer);
}

static void buffer_stops_at_its_limit_for_good(void **state)
{
    struct byte_buffer buffer;

    (void)state;
    byte_buffer_init(&buffer, 1000);
    assert_non_null(byte_buffer_extend(&buffer, 999));
    assert_non_null(byte_buffer_extend(&buffer, 1));
    assert_int_equal(buffer.capacity, 1000);
    assert_null(byte_buffer_extend(&buffer, 1));
    assert_true(buffer.failed);
    assert_null(byte_buffer_extend(&buffer, 0));
    byte_buffer_append(&buffer, "x", 1);
    assert_int_equal(buffer.size, 1000);
    byte_buffer_release(&buffer);
}

static void buffer_survives_a_size_that_would_wrap(void **state)
{
    struct byte_buffer buffer;

    (void)state;
    byte_buffer_init(&buffer, SIZE_MAX);
    assert_non_null(byte_buffer_extend(&buffer, 16));
    assert_null(byte_buffer_extend(&buffer, SIZE_MAX - 8));
    assert_true(buffer.failed);
    byte_buffer_release(&buffer);
}

static void buffer_reports_exhausted_memory(void **state)
{
    struct byte_buffer buffer;

    (void)state;
    byte_buffer_init(&buffer, SIZE_MAX);
    assert_null(byte_buffer_extend(&buffer, SIZE_MAX / 2 + 1));
    assert_true(buffer.failed);
    assert_int_equal(buffer.size, 0);
    byte_buffer_release(&buffer);
}

static void buffer_release_accepts_any_stage(void **state)
{
    struct byte_buffer buffer;

    (void)state;
    byte_buffer_release(NULL);
    byte_buffer_init(&buffer, 10);
    byte_buffer_release(&buffer);
    assert_null(buffer.data);
    byte_buffer_release(&buffer);
    assert_int_equal(buffer.size, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(reader_takes_little_endian_numbers),
        cmocka_unit_test(reader_fails_for_good_after_the_end),
        cmocka_unit_test(reader_gives_bytes_in_place),
        cmocka_unit_test(reader_survives_a_size_that_would_wrap),
        cmocka_unit_test(reader_of_nothing_has_zero_bytes),
        cmocka_unit_test(writer_and_reader_agree),
        cmocka_unit_test(writer_without_a_buffer_counts),
        cmocka_unit_test(writer_never_passes_the_end),
        cmocka_unit_test(buffer_keeps_all_that_is_appended),
        cmocka_unit_test(buffer_stops_at_its_limit_for_good),
        cmocka_unit_test(buffer_survives_a_size_that_would_wrap),
        cmocka_unit_test(buffer_reports_exhausted_memory),
        cmocka_unit_test(buffer_release_accepts_any_stage),
    };
    return unit_run(tests);
}
