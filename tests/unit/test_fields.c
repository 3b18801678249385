/* test_fields.c - encoding and decoding a struct by its field table.
 *
 * Goal:   the CBOR form is exactly the documented one; what was encoded decodes to the same; each
 *         way in which an input can be wrong is refused with its own code and the field's path.
 * Method: a struct with every kind of field against bytes made by another encoder; the same bytes
 *         with one thing changed at a time; random structs for the round trip. */
#include "test_fields_sample.h"

static void encode(const struct stasis_table *table, const void *object, struct byte_buffer *out)
{
    struct stasis_error err = { 0 };

    byte_buffer_init(out, 1 << 24);
    assert_stasis_ok(fields_encode(table, object, out, &err), &err);
}

static void assert_same(const struct stasis_table *table, const void *a, const void *b)
{
    struct stasis_error err = { 0 };
    uint64_t differences = 99;

    assert_stasis_ok(
        fields_compare(table, a, b, "", STASIS_COMPARE_VOLATILE, NULL, NULL, &differences, &err),
        &err);
    assert_int_equal(differences, 0);
}

static void encoding_is_the_golden_bytes(void **state)
{
    const struct bytes golden = from_hex(golden_hex);
    struct sample sample = make_sample();
    struct byte_buffer out;

    (void)state;
    encode(&sample_table, &sample, &out);
    assert_int_equal(out.size, golden.size);
    assert_memory_equal(out.data, golden.data, golden.size);
    byte_buffer_release(&out);
    release_sample(&sample);
}

static void golden_pairs_make_the_golden_bytes(void **state)
{
    const struct bytes golden = from_hex(golden_hex);
    const struct bytes pairs = from_pairs(golden_pairs, SAMPLE_FIELDS);

    (void)state;
    assert_int_equal(pairs.size, golden.size);
    assert_memory_equal(pairs.data, golden.data, golden.size);
}

static void golden_bytes_decode_to_the_struct(void **state)
{
    const struct bytes golden = from_hex(golden_hex);
    struct sample sample = make_sample();
    struct stasis_error err = { 0 };
    struct sample decoded;

    (void)state;
    assert_stasis_ok(decode_sample(&golden, &decoded, &err), &err);
    assert_true(decoded.flag);
    assert_true(decoded.u64 == UINT64_MAX && decoded.s64 == -1000);
    assert_string_equal(decoded.text, "cpu-001");
    assert_int_equal(decoded.triple[2], 255);
    assert_int_equal(decoded.corners[0].y, -25);
    assert_int_equal(decoded.blob_size, 3);
    assert_memory_equal(decoded.blob, "\1\2\3", 3);
    assert_int_equal(decoded.points_count, 1);
    assert_true(decoded.points[0].y == INT64_MAX && decoded.part->y == INT64_MIN);
    assert_same(&sample_table, &sample, &decoded);
    release_sample(&decoded);
    release_sample(&sample);
}

static void encoding_appends_to_what_is_there(void **state)
{
    const struct point point = { 1, -1 };
    struct stasis_error err = { 0 };
    struct byte_buffer out;

    (void)state;
    byte_buffer_init(&out, 100);
    byte_buffer_append(&out, "ab", 2);
    assert_stasis_ok(fields_encode(&point_table, &point, &out, &err), &err);
    assert_int_equal(out.size, 9);
    assert_memory_equal(out.data, "ab\xa2\x61x\x01\x61y\x20", 9);
    byte_buffer_release(&out);
}

static void integers_take_their_shortest_form(void **state)
{
    static const struct {
        int64_t value;
        const char *hex;
    } cases[] = {
        { 0, "00" },
        { 23, "17" },
        { 24, "1818" },
        { 255, "18ff" },
        { 256, "190100" },
        { 65535, "19ffff" },
        { 65536, "1a00010000" },
        { UINT32_MAX, "1affffffff" },
        { INT64_C(1) << 32, "1b0000000100000000" },
        { INT64_MAX, "1b7fffffffffffffff" },
        { -1, "20" },
        { -24, "37" },
        { -25, "3818" },
        { -256, "38ff" },
        { -257, "390100" },
        { -65537, "3a00010000" },
        { -(INT64_C(1) << 32) - 1, "3b0000000100000000" },
        { INT64_MIN, "3b7fffffffffffffff" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct point point = { 0, cases[i].value };
        struct bytes expected = from_hex("a2 6178 00 6179");
        struct byte_buffer out;
        struct point decoded;

        put_hex(&expected, cases[i].hex);
        encode(&point_table, &point, &out);
        assert_int_equal(out.size, expected.size);
        assert_memory_equal(out.data, expected.data, expected.size);
        assert_int_equal(fields_decode(&point_table, out.data, out.size, &decoded, NULL), 0);
        assert_true(decoded.y == cases[i].value);
        byte_buffer_release(&out);
    }
}

static void longer_integer_forms_mean_the_same(void **state)
{
    static const char *const forms[] = { "17", "1817", "190017", "1a00000017",
                                         "1b0000000000000017" };

    (void)state;
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        const struct bytes bytes = with_value("u8", forms[i]);
        struct stasis_error err = { 0 };
        struct sample sample;

        assert_stasis_ok(decode_sample(&bytes, &sample, &err), &err);
        assert_int_equal(sample.u8, 23);
        release_sample(&sample);
    }
}

static void absent_part_has_no_key(void **state)
{
    struct sample sample = make_sample();
    struct byte_buffer out;
    struct sample decoded;

    (void)state;
    free(sample.part);
    sample.part = NULL;
    encode(&sample_table, &sample, &out);
    assert_int_equal(out.data[0], 0xaf); /* a map of 15 */
    assert_null(memmem(out.data, out.size, "\x64part", 5));
    assert_int_equal(fields_decode(&sample_table, out.data, out.size, &decoded, NULL), 0);
    assert_null(decoded.part);
    release_sample(&decoded);
    byte_buffer_release(&out);
    release_sample(&sample);
}

static void empty_blob_and_list_decode_to_no_storage(void **state)
{
    struct bytes bytes = with_value("blob", "40");
    struct stasis_error err = { 0 };
    struct sample sample;

    (void)state;
    assert_stasis_ok(decode_sample(&bytes, &sample, &err), &err);
    assert_null(sample.blob);
    assert_int_equal(sample.blob_size, 0);
    release_sample(&sample);

    bytes = with_value("points", "80");
    assert_stasis_ok(decode_sample(&bytes, &sample, &err), &err);
    assert_null(sample.points);
    assert_int_equal(sample.points_count, 0);
    release_sample(&sample);
}

static void random_structs_survive_a_round_trip(void **state)
{
    static const struct stasis_table *const tables[] = { &sample_table, &stasis_machine_table,
                                                         &stasis_x86_vcpu_table,
                                                         &stasis_arm64_machine_table };
    struct random_source random = { 1 };

    (void)state;
    for (size_t i = 0; i < 200; i++) {
        const struct stasis_table *table = tables[i % 4];
        void *object = allocate(table->struct_size);
        void *decoded = allocate(table->struct_size);
        struct stasis_error err = { 0 };
        struct byte_buffer out, again;

        random_struct(&random, table, object);
        encode(table, object, &out);
        assert_stasis_ok(fields_decode(table, out.data, out.size, decoded, &err), &err);
        assert_same(table, object, decoded);
        encode(table, decoded, &again);
        assert_int_equal(out.size, again.size);
        assert_memory_equal(out.data, again.data, out.size);

        byte_buffer_release(&again);
        byte_buffer_release(&out);
        stasis_fields_release(table, decoded);
        stasis_fields_release(table, object);
        free(decoded);
        free(object);
    }
}

static void keys_may_come_in_any_order(void **state)
{
    struct random_source random = { 2 };
    struct sample sample = make_sample();

    (void)state;
    for (size_t round = 0; round < 50; round++) {
        struct pair pairs[SAMPLE_FIELDS];
        struct stasis_error err = { 0 };
        struct sample decoded;
        struct bytes bytes;

        memcpy(pairs, golden_pairs, sizeof(pairs));
        for (size_t i = SAMPLE_FIELDS - 1; i > 0; i--) {
            const size_t j = random_below(&random, i + 1);
            const struct pair other = pairs[j];

            pairs[j] = pairs[i];
            pairs[i] = other;
        }
        bytes = from_pairs(pairs, SAMPLE_FIELDS);
        assert_stasis_ok(decode_sample(&bytes, &decoded, &err), &err);
        assert_same(&sample_table, &sample, &decoded);
        release_sample(&decoded);
    }
    release_sample(&sample);
}

static void unknown_keys_are_skipped_whatever_they_hold(void **state)
{
    static const char *const values[] = {
        "00",
        "3903e7",
        "43010203",
        "6178",
        "83010203",
        "a2 6161 01 02 03", /* keys that are no text */
        "f4",
        "f6",
        "f7",
        "f93c00",
        "fa3f800000",
        "fb3ff0000000000000",
        "c11a5f5e1000",
        "ca00",
        "d9d9f700",
        "d74401020304",
        "e0",
        "f820",
        "5f 4101 4202 03 ff",
        "7f 6161 60 ff",
        "9f 01 9f ff bf ff ff",
        "bf 6161 01 ff",
        "81818181818181818181818181818180", /* an empty array, 15 around it */
    };
    struct sample sample = make_sample();

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        const struct bytes bytes = with_pair("nobody_knows", values[i]);
        struct stasis_error err = { 0 };
        struct sample decoded;

        assert_stasis_ok(decode_sample(&bytes, &decoded, &err), &err);
        assert_same(&sample_table, &sample, &decoded);
        release_sample(&decoded);
    }
    release_sample(&sample);
}

static void unknown_values_must_still_be_cbor(void **state)
{
    static const char *const values[] = {
        "1c", "fc", "ff", "f818", "5f 6161 ff", "7f 01 ff", "bf 6161 ff", "9f c1 ff",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        const struct bytes bytes = with_pair("nobody_knows", values[i]);

        assert_refused(&bytes, STASIS_ERR_CORRUPT, "nobody_knows: byte");
    }
}

static void names_from_outside_are_escaped_and_cut_in_messages(void **state)
{
    char key[256];
    struct bytes bytes = with_pair("\033[2J", "1c");

    (void)state;
    assert_refused(&bytes, STASIS_ERR_CORRUPT, "\\x1b[2J: byte");
    memset(key, 'k', 255);
    key[255] = '\0';
    bytes = with_pair(key, "1c");
    assert_refused(&bytes, STASIS_ERR_CORRUPT, "kkk: byte"); /* just fits */
    bytes = from_pairs(&(struct pair){ "part", "" }, 1);
    put_head(&bytes, 5, 1);
    put_key(&bytes, key);
    put_hex(&bytes, "1c");
    assert_refused(&bytes, STASIS_ERR_CORRUPT, "kkk...: byte");
}

static void unknown_values_are_followed_to_a_depth_of_16(void **state)
{
    char hex[64] = "";
    struct bytes bytes;
    struct sample sample;

    (void)state;
    for (size_t i = 0; i < 16; i++)
        strcat(hex, "81");
    strcat(hex, "00");
    bytes = with_pair("deep", hex);
    assert_int_equal(decode_sample(&bytes, &sample, NULL), 0);
    release_sample(&sample);

    memmove(hex + 2, hex, strlen(hex) + 1);
    bytes = with_pair("deep", hex);
    assert_refused(&bytes, STASIS_ERR_LIMIT, "deep: byte");
}

static void missing_keys_are_named_unless_optional(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLE_FIELDS; i++) {
        struct pair pairs[SAMPLE_FIELDS];
        char story[64];
        struct sample sample;
        struct bytes bytes;

        memcpy(pairs, golden_pairs, sizeof(pairs));
        memmove(pairs + i, pairs + i + 1, (SAMPLE_FIELDS - 1 - i) * sizeof(pairs[0]));
        bytes = from_pairs(pairs, SAMPLE_FIELDS - 1);
        if (strcmp(golden_pairs[i].key, "later") && strcmp(golden_pairs[i].key, "part")) {
            snprintf(story, sizeof(story), "%s: missing", golden_pairs[i].key);
            assert_refused(&bytes, STASIS_ERR_CORRUPT, story);
            continue;
        }
        assert_int_equal(decode_sample(&bytes, &sample, NULL), 0);
        assert_true(strcmp(golden_pairs[i].key, "later") ? !sample.part : sample.later == 0);
        release_sample(&sample);
    }
}

static void a_key_may_not_come_twice(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLE_FIELDS; i++) {
        const struct bytes bytes = with_pair(golden_pairs[i].key, golden_pairs[i].value);
        char story[64];

        snprintf(story, sizeof(story), "%s: the key is there twice", golden_pairs[i].key);
        assert_refused(&bytes, STASIS_ERR_CORRUPT, story);
    }
}

/* Every kind of item in the place of every field: taken where the kind fits, else refused. */
static void values_of_another_type_are_corrupt(void **state)
{
    static const struct {
        const char *hex;
        const char *story;
    } wrong[] = {
        { "f6", "null where" },
        { "f7", "a simple value where" },
        { "f93c00", "a floating-point number where" },
        { "c100", "a tag where" },
        { "5f4101ff", "a string of indefinite length where" },
        { "7f6161ff", "a string of indefinite length where" },
        { "9fff", "an array of indefinite length where" },
        { "bfff", "a map of indefinite length where" },
        { "ff", "a break where" },
    };

    (void)state;
    for (size_t i = 0; i < SAMPLE_FIELDS; i++) {
        for (size_t j = 0; j < sizeof(wrong) / sizeof(wrong[0]); j++) {
            const struct bytes bytes = with_value(golden_pairs[i].key, wrong[j].hex);
            char story[64];

            snprintf(story, sizeof(story), "%s: %s", golden_pairs[i].key, wrong[j].story);
            assert_refused(&bytes, STASIS_ERR_CORRUPT, story);
        }
    }
}

static void types_are_not_taken_for_each_other(void **state)
{
    static const struct pair wrong[] = {
        { "u8", "f5" },
        { "u8", "4101" },
        { "u8", "6131" },
        { "u8", "80" },
        { "u8", "a0" },
        { "flag", "01" },
        { "flag", "00" },
        { "triple", "18ff" },
        { "triple", "4100" },
        { "bytes", "64deadbeef" },
        { "bytes", "8401020304" },
        { "text", "4161" },
        { "text", "01" },
        { "point", "80" },
        { "point", "00" },
        { "corners", "a0" },
        { "blob", "6161" },
        { "blob", "8101" },
        { "points", "a0" },
        { "points", "40" },
        { "part", "80" },
        { "s64", "f4" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const struct bytes bytes = with_value(wrong[i].key, wrong[i].value);

        assert_refused(&bytes, STASIS_ERR_CORRUPT, " belong");
    }
}

static void values_out_of_range_are_an_invalid_machine(void **state)
{
    static const struct {
        const char *key, *value, *story;
    } cases[] = {
        { "u8", "190100", "u8: 256 is out of range, at most 255 is valid" },
        { "u8", "20", "u8: -1 - 0 is out of range" },
        { "u16", "1a00010000", "u16: 65536 is out of range, at most 65535 is valid" },
        { "u32", "1b0000000100000000", "u32: 4294967296 is out of range" },
        { "u64", "20", "u64: -1 - 0 is out of range" },
        { "s64", "1b8000000000000000", "s64: 9223372036854775808 is out of range" },
        { "s64", "3b8000000000000000", "s64: -1 - 9223372036854775808 is out of range" },
        { "digit", "0b", "digit: 11 is out of range, at most 10 is valid" },
        { "triple", "830000 1a00010000", "triple[2]: 65536 is out of range" },
        { "point", "a26178190100617900", "point.x: 256 is out of range" },
        { "corners", "82a26178006179 00a26178 190100 617900", "corners[1].x: 256 is out" },
        { "points", "81a26178190100617900", "points[0].x: 256 is out of range" },
        { "part", "a26178190100617900", "part.x: 256 is out of range" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct bytes bytes = with_value(cases[i].key, cases[i].value);

        assert_refused(&bytes, STASIS_ERR_INVALID_MACHINE, cases[i].story);
    }
}

static void sizes_that_do_not_fit_are_refused(void **state)
{
    static const struct {
        const char *key, *value;
        enum stasis_code code;
        const char *story;
    } cases[] = {
        { "triple", "820000", STASIS_ERR_CORRUPT, "triple: 2 elements where 3 belong" },
        { "triple", "8400000000", STASIS_ERR_CORRUPT, "triple: 4 elements where 3 belong" },
        { "corners", "80", STASIS_ERR_CORRUPT, "corners: 0 elements where 2 belong" },
        { "bytes", "43deadbe", STASIS_ERR_CORRUPT, "bytes: 3 bytes where 4 belong" },
        { "bytes", "45deadbeef00", STASIS_ERR_CORRUPT, "bytes: 5 bytes where 4 belong" },
        { "text", "686370752d30303030", STASIS_ERR_LIMIT, "text: a text of 8 bytes, at most 7" },
        { "text", "6363007a", STASIS_ERR_CORRUPT, "text: the text is not UTF-8 without NUL" },
        { "text", "62c0af", STASIS_ERR_CORRUPT, "text: the text is not UTF-8 without NUL" },
        { "text", "63eda080", STASIS_ERR_CORRUPT, "text: the text is not UTF-8 without NUL" },
        { "text", "64f4908080", STASIS_ERR_CORRUPT, "text: the text is not UTF-8 without NUL" },
        { "text", "61c3", STASIS_ERR_CORRUPT, "text: the text is not UTF-8 without NUL" },
        { "points", "85", STASIS_ERR_LIMIT, "points: 5 elements, at most 4 are allowed" },
        { "points", "9bffffffffffffffff", STASIS_ERR_LIMIT, "points: 18446744073709551615 el" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct bytes bytes = with_value(cases[i].key, cases[i].value);

        assert_refused(&bytes, cases[i].code, cases[i].story);
    }
}

static void texts_are_utf8_to_the_last_code_point(void **state)
{
    static const struct {
        const char *hex;
        bool good;
    } cases[] = {
        { "60", true },          { "617f", true },        { "62c280", true },
        { "62dfbf", true },      { "63e0a080", true },    { "63ed9fbf", true },
        { "63ee8080", true },    { "63efbfbf", true },    { "64f0908080", true },
        { "64f48fbfbf", true },  { "6180", false },       { "61ff", false },
        { "62c1bf", false },     { "62c27f", false },     { "62c2c0", false },
        { "63e09fbf", false },   { "63eda080", false },   { "63e08080", false },
        { "63e1807f", false },   { "62e180", false },     { "64f08fbfbf", false },
        { "64f4908080", false }, { "64f5808080", false }, { "64f180807f", false },
        { "63f18080", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct bytes bytes = with_value("text", cases[i].hex);
        struct sample sample;

        if (!cases[i].good) {
            assert_refused(&bytes, STASIS_ERR_CORRUPT, "text: the text is not UTF-8");
            continue;
        }
        assert_int_equal(decode_sample(&bytes, &sample, NULL), 0);
        release_sample(&sample);
    }
}

static void a_blob_beyond_its_limit_is_refused(void **state)
{
    struct bytes bytes = { .size = 0 };

    (void)state;
    put_head(&bytes, 5, 1);
    put_key(&bytes, "blob");
    put_hex(&bytes, "59012d"); /* 301 bytes */
    bytes.size += 301;
    assert_refused(&bytes, STASIS_ERR_LIMIT, "blob: 301 bytes, at most 300 are allowed");
}

static void a_list_that_the_data_cannot_fill_is_refused_at_once(void **state)
{
    struct bytes bytes = { .size = 0 };

    (void)state;
    put_head(&bytes, 5, 1);
    put_key(&bytes, "points");
    put_hex(&bytes, "82 a2617800617900 a26178006179"); /* the second lacks its last byte */
    assert_refused(&bytes, STASIS_ERR_CORRUPT, "points: 2 elements do not fit in the 13 bytes");
}

static void what_is_not_one_map_is_corrupt(void **state)
{
    static const struct {
        const char *hex, *story;
    } cases[] = {
        { "", "sample: byte 0: the item ends too early" },
        { "00", "sample: an integer where a map belongs" },
        { "80", "sample: an array where a map belongs" },
        { "bfff", "sample: a map of indefinite length where a map belongs" },
        { "1c", "sample: byte 0: the item is not CBOR" },
        { "a10000", "sample: an integer where a text string belongs" },
        { "a1416100", "sample: a byte string where a text string belongs" },
        { "a17f6161ff00", "sample: a string of indefinite length where a text string belongs" },
        { "bbffffffffffffffff", "sample: byte 9: the item ends too early" },
    };
    struct bytes bytes;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bytes = from_hex(cases[i].hex);
        assert_refused(&bytes, STASIS_ERR_CORRUPT, cases[i].story);
    }
    bytes = from_hex(golden_hex);
    put_hex(&bytes, "00");
    assert_refused(&bytes, STASIS_ERR_CORRUPT, "sample: 1 bytes follow its end");
}

/* A struct that holds itself, as deep as one likes. */
struct chain {
    struct chain *next;
};
static const struct stasis_table chain_table;
static const struct stasis_field chain_fields[] = {
    STASIS_F(struct chain, next, PART, .table = &chain_table),
};
static const struct stasis_table chain_table = STASIS_TABLE(struct chain, chain_fields);

static int decode_chain(size_t links, struct chain *ret_chain, struct stasis_error *err)
{
    struct bytes bytes = { .size = 0 };

    for (size_t i = 0; i < links; i++)
        put_hex(&bytes, "a1 646e657874");
    put_hex(&bytes, "a0");
    return fields_decode(&chain_table, bytes.data, bytes.size, ret_chain, err);
}

static void tables_that_nest_are_followed_to_a_depth_of_32(void **state)
{
    struct stasis_error err = { 0 };
    struct chain chain;

    (void)state;
    assert_stasis_ok(decode_chain(32, &chain, &err), &err);
    assert_stasis_ok(fields_check(&chain_table, &chain, &err), &err);

    /* One link more, at the front, is too much for both directions. */
    assert_stasis_fails(fields_check(&chain_table, &(struct chain){ &chain }, &err), &err,
                        STASIS_ERR_LIMIT);
    stasis_fields_release(&chain_table, &chain);
    assert_stasis_fails(decode_chain(33, &chain, &err), &err, STASIS_ERR_LIMIT);
    assert_stasis_fails(decode_chain(500, &chain, &err), &err, STASIS_ERR_LIMIT);
}

static void tables_of_too_many_fields_are_refused(void **state)
{
    static struct stasis_field fields[513];
    const struct stasis_table table = { "wide", 1, fields, 513 };
    struct stasis_error err = { 0 };
    uint8_t object = 0;

    (void)state;
    for (size_t i = 0; i < 513; i++)
        fields[i] = (struct stasis_field){ .name = "x", .kind = STASIS_FIELD_U8, .count = 1 };
    assert_stasis_fails(fields_check(&table, &object, &err), &err, STASIS_ERR_LIMIT);
    assert_stasis_fails(fields_decode(&table, "\xa0", 1, &object, &err), &err, STASIS_ERR_LIMIT);
}

static void assert_check_fails(const struct sample *sample, enum stasis_code code,
                               const char *story)
{
    struct stasis_error err = { 0 };
    struct byte_buffer out;

    assert_stasis_fails(fields_check(&sample_table, sample, &err), &err, code);
    if (!strstr(err.text, story))
        fail_msg("'%s' does not say '%s'", err.text, story);

    /* Encoding refuses the same and writes nothing. */
    err = (struct stasis_error){ 0 };
    byte_buffer_init(&out, 4096);
    assert_stasis_fails(fields_encode(&sample_table, sample, &out, &err), &err, code);
    assert_non_null(strstr(err.text, story));
    assert_int_equal(out.size, 0);
    byte_buffer_release(&out);
}

static void check_finds_each_bad_value(void **state)
{
    struct sample sample = make_sample();
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(fields_check(&sample_table, &sample, &err), &err);

    sample.digit = 11;
    assert_check_fails(&sample, STASIS_ERR_INVALID_MACHINE, "digit: 11 is out of range");
    sample.digit = 10;

    memset(&sample.flag, 2, 1);
    assert_check_fails(&sample, STASIS_ERR_INVALID_MACHINE, "flag: 2 is out of range");
    memset(&sample.flag, 1, 1);

    memcpy(sample.text, "12345678", 8);
    assert_check_fails(&sample, STASIS_ERR_INVALID_MACHINE, "text: the text does not end");
    memcpy(sample.text, "\xff\0\0\0\0\0\0", 8);
    assert_check_fails(&sample, STASIS_ERR_INVALID_MACHINE, "text: the text is not UTF-8");
    sample.text[0] = '\0';

    sample.blob_size = 301;
    assert_check_fails(&sample, STASIS_ERR_LIMIT, "blob: 301 bytes, at most 300 are allowed");
    sample.blob_size = 3;

    sample.points_count = 5;
    assert_check_fails(&sample, STASIS_ERR_LIMIT, "points: 5 elements, at most 4 are allowed");
    sample.points_count = 1;

    assert_stasis_ok(fields_check(&sample_table, &sample, &err), &err);
    release_sample(&sample);
}

static void check_finds_lengths_without_storage(void **state)
{
    struct sample sample = { .blob_size = 1 };

    (void)state;
    assert_check_fails(&sample, STASIS_ERR_INVALID_MACHINE, "blob: 1 bytes, but no storage");
    sample = (struct sample){ .points_count = 2 };
    assert_check_fails(&sample, STASIS_ERR_INVALID_MACHINE, "points: 2 elements, but no storage");
}

static void check_names_the_place_of_a_bad_value(void **state)
{
    struct stasis_x86_vcpu vcpus[2] = { 0 };
    struct stasis_x86_machine x86 = { .vcpus = vcpus, .vcpus_count = 2 };
    const struct stasis_machine machine = { .x86_64 = &x86 };
    struct stasis_error err = { 0 };

    (void)state;
    vcpus[1].sregs.tr.dpl = 4;
    assert_stasis_fails(fields_check(&stasis_machine_table, &machine, &err), &err,
                        STASIS_ERR_INVALID_MACHINE);
    assert_string_equal(err.text,
                        "x86_64.vcpus[1].sregs.tr.dpl: 4 is out of range, at most 3 is valid");
}

static void an_encoding_beyond_the_buffers_limit_is_refused(void **state)
{
    const size_t golden_size = from_hex(golden_hex).size;
    struct sample sample = make_sample();

    (void)state;
    for (size_t limit = 0; limit <= golden_size; limit++) {
        struct stasis_error err = { 0 };
        struct byte_buffer out;

        byte_buffer_init(&out, limit);
        if (limit < golden_size)
            assert_stasis_fails(fields_encode(&sample_table, &sample, &out, &err), &err,
                                STASIS_ERR_LIMIT);
        else
            assert_stasis_ok(fields_encode(&sample_table, &sample, &out, &err), &err);
        assert_true(out.size <= limit);
        byte_buffer_release(&out);
    }
    release_sample(&sample);
}

static void release_frees_and_zeroes(void **state)
{
    static const struct sample zero;
    struct sample sample = make_sample();

    (void)state;
    release_sample(&sample); /* that all is freed, the leak checker tells */
    assert_memory_equal(&sample, &zero, offsetof(struct sample, later));
    release_sample(&sample);
    stasis_fields_release(&sample_table, NULL);

    /* Half-built: a length whose storage could not be had. */
    sample.points_count = 3;
    release_sample(&sample);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoding_is_the_golden_bytes),
        cmocka_unit_test(golden_pairs_make_the_golden_bytes),
        cmocka_unit_test(golden_bytes_decode_to_the_struct),
        cmocka_unit_test(encoding_appends_to_what_is_there),
        cmocka_unit_test(integers_take_their_shortest_form),
        cmocka_unit_test(longer_integer_forms_mean_the_same),
        cmocka_unit_test(absent_part_has_no_key),
        cmocka_unit_test(empty_blob_and_list_decode_to_no_storage),
        cmocka_unit_test(random_structs_survive_a_round_trip),
        cmocka_unit_test(keys_may_come_in_any_order),
        cmocka_unit_test(unknown_keys_are_skipped_whatever_they_hold),
        cmocka_unit_test(unknown_values_must_still_be_cbor),
        cmocka_unit_test(names_from_outside_are_escaped_and_cut_in_messages),
        cmocka_unit_test(unknown_values_are_followed_to_a_depth_of_16),
        cmocka_unit_test(missing_keys_are_named_unless_optional),
        cmocka_unit_test(a_key_may_not_come_twice),
        cmocka_unit_test(values_of_another_type_are_corrupt),
        cmocka_unit_test(types_are_not_taken_for_each_other),
        cmocka_unit_test(values_out_of_range_are_an_invalid_machine),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
        cmocka_unit_test(texts_are_utf8_to_the_last_code_point),
        cmocka_unit_test(a_blob_beyond_its_limit_is_refused),
        cmocka_unit_test(a_list_that_the_data_cannot_fill_is_refused_at_once),
        cmocka_unit_test(what_is_not_one_map_is_corrupt),
        cmocka_unit_test(tables_that_nest_are_followed_to_a_depth_of_32),
        cmocka_unit_test(tables_of_too_many_fields_are_refused),
        cmocka_unit_test(check_finds_each_bad_value),
        cmocka_unit_test(check_finds_lengths_without_storage),
        cmocka_unit_test(check_names_the_place_of_a_bad_value),
        cmocka_unit_test(an_encoding_beyond_the_buffers_limit_is_refused),
        cmocka_unit_test(release_frees_and_zeroes),
    };
    return unit_run(tests);
}
