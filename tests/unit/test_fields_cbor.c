/* test_fields_cbor.c - the CBOR reader and writer under the field walkers.
 *
 * Goal:   each form of RFC 8949 is read as what it is, nothing else is, and one item is skipped
 *         exactly, however it is built. What the writer emits are the RFC's own examples.
 * Method: examples of appendix A, hand-made malformed ones, every first byte there is. */
#include "test_fields_sample.h"

#include "machine/cbor.h"

static struct cbor_reader reader_of(const struct bytes *bytes)
{
    struct cbor_reader reader;

    cbor_reader_init(&reader, bytes->data, bytes->size);
    return reader;
}

static void tokens_are_what_the_rfc_says(void **state)
{
    static const struct {
        const char *hex;
        enum cbor_kind kind;
        uint64_t value;
    } cases[] = {
        { "00", CBOR_KIND_UINT, 0 },
        { "17", CBOR_KIND_UINT, 23 },
        { "1818", CBOR_KIND_UINT, 24 },
        { "1903e8", CBOR_KIND_UINT, 1000 },
        { "1a000f4240", CBOR_KIND_UINT, 1000000 },
        { "1bffffffffffffffff", CBOR_KIND_UINT, UINT64_MAX },
        { "20", CBOR_KIND_NEGATIVE, 0 },
        { "3863", CBOR_KIND_NEGATIVE, 99 },
        { "3903e7", CBOR_KIND_NEGATIVE, 999 },
        { "3a000f423f", CBOR_KIND_NEGATIVE, 999999 },
        { "3bffffffffffffffff", CBOR_KIND_NEGATIVE, UINT64_MAX },
        { "4401020304", CBOR_KIND_BYTES, 4 },
        { "6449455446", CBOR_KIND_TEXT, 4 },
        { "83", CBOR_KIND_ARRAY, 3 },
        { "9818", CBOR_KIND_ARRAY, 24 },
        { "9bffffffffffffffff", CBOR_KIND_ARRAY, UINT64_MAX },
        { "a2", CBOR_KIND_MAP, 2 },
        { "c1", CBOR_KIND_TAG, 1 },
        { "c6", CBOR_KIND_TAG, 6 },
        { "d4", CBOR_KIND_TAG, 20 },
        { "d5", CBOR_KIND_TAG, 21 },
        { "d9d9f7", CBOR_KIND_TAG, 55799 },
        { "f4", CBOR_KIND_BOOL, 0 },
        { "f5", CBOR_KIND_BOOL, 1 },
        { "f6", CBOR_KIND_NULL, 0 },
        { "f7", CBOR_KIND_SIMPLE, 0 },
        { "e0", CBOR_KIND_SIMPLE, 0 },
        { "f3", CBOR_KIND_SIMPLE, 19 },
        { "f8ff", CBOR_KIND_SIMPLE, 255 },
        { "f97e00", CBOR_KIND_FLOAT, 0 },
        { "fa47c35000", CBOR_KIND_FLOAT, 0 },
        { "fb3ff199999999999a", CBOR_KIND_FLOAT, 0 },
        { "5f", CBOR_KIND_OPEN_BYTES, 0 },
        { "7f", CBOR_KIND_OPEN_TEXT, 0 },
        { "9f", CBOR_KIND_OPEN_ARRAY, 0 },
        { "bf", CBOR_KIND_OPEN_MAP, 0 },
        { "ff", CBOR_KIND_BREAK, 0 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct bytes bytes = from_hex(cases[i].hex);
        struct cbor_reader reader = reader_of(&bytes);
        struct cbor_token token;

        assert_int_equal(cbor_reader_next(&reader, &token), CBOR_READ_OK);
        assert_int_equal(token.kind, cases[i].kind);
        assert_true(token.value == cases[i].value);
        assert_int_equal(cbor_reader_left(&reader), 0);
        if (token.kind == CBOR_KIND_BYTES || token.kind == CBOR_KIND_TEXT)
            assert_ptr_equal(token.bytes, bytes.data + 1);

        /* One byte less is too early an end, and the reader stays where it is. */
        reader = (struct cbor_reader){ .data = bytes.data, .size = bytes.size - 1 };
        assert_int_equal(cbor_reader_next(&reader, &token), CBOR_READ_TRUNCATED);
        assert_int_equal(reader.offset, 0);
    }
}

/* RFC 8949, appendix B: which first bytes begin nothing. */
static bool begins_an_item(unsigned first)
{
    const unsigned major = first >> 5, info = first & 31;

    if (info >= 28 && info <= 30)
        return false;
    if (info == 31)
        return major >= 2 && major != 6;
    return true;
}

static void only_first_bytes_of_the_rfc_begin_an_item(void **state)
{
    (void)state;
    for (unsigned first = 0; first < 256; first++) {
        uint8_t data[64] = { (uint8_t)first, 0 };
        struct cbor_reader reader = { .data = data, .size = sizeof(data) };
        struct cbor_token token;
        enum cbor_result result;

        if (first == 0xf8)
            data[1] = 32; /* below it a simple value has one byte only */
        result = cbor_reader_next(&reader, &token);
        assert_int_equal(result, begins_an_item(first) ? CBOR_READ_OK : CBOR_READ_MALFORMED);
    }
}

static void strings_longer_than_the_data_are_refused(void **state)
{
    static const char *const cases[] = { "42 00", "5803 0000", "5a ffffffff 00",
                                         "5b ffffffffffffffff 00", "7b 8000000000000000 61" };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct bytes bytes = from_hex(cases[i]);
        struct cbor_reader reader = reader_of(&bytes);
        struct cbor_token token;

        assert_int_equal(cbor_reader_next(&reader, &token), CBOR_READ_TRUNCATED);
    }
}

static void one_item_is_skipped_exactly(void **state)
{
    static const char *const items[] = {
        "00",
        "3903e7",
        "43010203",
        "80",
        "a0",
        "8301820203820405",
        "a26161016162820203",
        "826161a161626163",
        "c074323031332d30332d32315432303a30343a30305a",
        "d818456449455446",
        "c1c2c300", /* tags around tags */
        "5f42010243030405ff",
        "7f657374726561646d696e67ff",
        "9fff",
        "9f018202039f0405ffff",
        "83018202039f0405ff",
        "bf61610161629f0203ffff",
        "826161bf61626163ff",
        "bfff",
        "9fc100ff",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++) {
        struct bytes bytes = from_hex(items[i]);
        const size_t item_size = bytes.size;
        struct cbor_reader reader;

        put_hex(&bytes, "01");
        reader = reader_of(&bytes);
        assert_int_equal(cbor_reader_skip(&reader), CBOR_READ_OK);
        assert_int_equal(reader.offset, item_size);

        for (size_t size = 0; size < item_size; size++) {
            reader = (struct cbor_reader){ .data = bytes.data, .size = size };
            assert_int_equal(cbor_reader_skip(&reader), CBOR_READ_TRUNCATED);
            assert_int_equal(reader.offset, 0);
        }
    }
}

static void what_is_no_item_is_not_skipped(void **state)
{
    static const struct {
        const char *hex;
        enum cbor_result result;
    } cases[] = {
        { "ff", CBOR_READ_MALFORMED },       /* a break in nothing */
        { "82ff00", CBOR_READ_MALFORMED },   /* in an array that says its length */
        { "bf6161ff", CBOR_READ_MALFORMED }, /* between key and value */
        { "9fc1ff", CBOR_READ_MALFORMED },   /* between tag and item */
        { "c1ff", CBOR_READ_MALFORMED },
        { "5f00ff", CBOR_READ_MALFORMED },       /* an integer in a byte string */
        { "5f6161ff", CBOR_READ_MALFORMED },     /* text in it */
        { "7f4161ff", CBOR_READ_MALFORMED },     /* bytes in text */
        { "5f5f4101ffff", CBOR_READ_MALFORMED }, /* an open string in an open string */
        { "5fc14101ff", CBOR_READ_MALFORMED },   /* a tag in it */
        { "811c", CBOR_READ_MALFORMED },
        { "f81f", CBOR_READ_MALFORMED },
        { "9bffffffffffffffff", CBOR_READ_TRUNCATED },
        { "bb8000000000000000", CBOR_READ_TRUNCATED }, /* twice that many wraps to none */
        { "bbffffffffffffffff0000", CBOR_READ_TRUNCATED },
        { "8181818181818181818181818181818181 00", CBOR_READ_TOO_DEEP },
        { "9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f ff", CBOR_READ_TOO_DEEP },
        { "a1 00 a1 00 a1 00 a1 00 a1 00 a1 00 a1 00 a1 00 a1 00 a1 00 a1 00 a1 00 a1 00 a1 00"
          "a1 00 a1 00 a1 00 00",
          CBOR_READ_TOO_DEEP },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct bytes bytes = from_hex(cases[i].hex);
        struct cbor_reader reader = reader_of(&bytes);

        assert_int_equal(cbor_reader_skip(&reader), cases[i].result);
        assert_int_equal(reader.offset, 0);
    }
}

static void written_items_are_those_of_the_rfc(void **state)
{
    const struct bytes expected = from_hex("1bffffffffffffffff 0a 3903e7"
                                           "3b7fffffffffffffff 20 f4 f5 4401020304 40"
                                           "6449455446 60 9818 80 a0 b90100");
    struct cbor_writer writer;
    struct byte_buffer out;

    (void)state;
    byte_buffer_init(&out, 1000);
    cbor_writer_init(&writer, &out);
    cbor_write_uint(&writer, UINT64_MAX);
    cbor_write_int(&writer, 10);
    cbor_write_int(&writer, -1000);
    cbor_write_int(&writer, INT64_MIN);
    cbor_write_int(&writer, -1);
    cbor_write_bool(&writer, false);
    cbor_write_bool(&writer, true);
    cbor_write_bytes(&writer, "\1\2\3\4", 4);
    cbor_write_bytes(&writer, NULL, 0);
    cbor_write_text(&writer, "IETF", 4);
    cbor_write_text(&writer, "", 0);
    cbor_write_array(&writer, 24);
    cbor_write_array(&writer, 0);
    cbor_write_map(&writer, 0);
    cbor_write_map(&writer, 256);
    assert_false(out.failed || writer.over_limit);
    assert_int_equal(out.size, expected.size);
    assert_memory_equal(out.data, expected.data, expected.size);
    byte_buffer_release(&out);
}

static void heads_have_the_size_that_is_foretold(void **state)
{
    static const uint64_t values[] = {
        0, 23, 24, 255, 256, 65535, 65536, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX
    };

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct cbor_writer writer;
        struct byte_buffer out;

        byte_buffer_init(&out, 16);
        cbor_writer_init(&writer, &out);
        cbor_write_uint(&writer, values[i]);
        assert_int_equal(out.size, cbor_head_size(values[i]));
        byte_buffer_release(&out);
    }
}

static void a_writer_tells_a_full_buffer_from_no_memory(void **state)
{
    struct cbor_writer writer;
    struct byte_buffer out;

    (void)state;
    byte_buffer_init(&out, 3);
    cbor_writer_init(&writer, &out);
    cbor_write_text(&writer, "ab", 2);
    assert_false(writer.over_limit || out.failed);
    cbor_write_uint(&writer, 1);
    assert_true(writer.over_limit && out.failed);
    byte_buffer_release(&out);
}

static void every_kind_and_result_has_a_text(void **state)
{
    (void)state;
    for (int kind = CBOR_KIND_UINT; kind <= CBOR_KIND_BREAK; kind++)
        assert_string_not_equal(cbor_kind_text((enum cbor_kind)kind), "nothing known");
    for (int result = CBOR_READ_OK; result <= CBOR_READ_TOO_DEEP; result++)
        assert_string_not_equal(cbor_result_text((enum cbor_result)result), "cannot be read");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_what_the_rfc_says),
        cmocka_unit_test(only_first_bytes_of_the_rfc_begin_an_item),
        cmocka_unit_test(strings_longer_than_the_data_are_refused),
        cmocka_unit_test(one_item_is_skipped_exactly),
        cmocka_unit_test(what_is_no_item_is_not_skipped),
        cmocka_unit_test(written_items_are_those_of_the_rfc),
        cmocka_unit_test(heads_have_the_size_that_is_foretold),
        cmocka_unit_test(a_writer_tells_a_full_buffer_from_no_memory),
        cmocka_unit_test(every_kind_and_result_has_a_text),
    };
    return unit_run(tests);
}
