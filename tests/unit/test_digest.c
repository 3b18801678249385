/* test_digest.c - XXH3-128, SHA-256, CRC-64 and hex.
 *
 * Goal:   the bytes are those of the published algorithms, on every host and in any slicing.
 * Method: published check values; CRCs against a slow bit-by-bit oracle; streams against one call. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/digest.h"

#define CHECK_TEXT "123456789" /* the input for which CRC catalogues give check values */

static void assert_hex(const uint8_t *digest, size_t size, const char *expected)
{
    char text[2 * DIGEST_SHA256_SIZE + 1];

    digest_hex(digest, size, text);
    assert_string_equal(text, expected);
}

static void fill(uint8_t *data, size_t size)
{
    uint32_t value = 12345;

    for (size_t i = 0; i < size; i++) {
        value = value * 1664525 + 1013904223;
        data[i] = (uint8_t)(value >> 24);
    }
}

static void crc64_has_the_published_check_values(void **state)
{
    (void)state;
    assert_true(digest_crc64_ecma(0, CHECK_TEXT, 9) == UINT64_C(0x6c40df5f0b497347));
    assert_true(digest_crc64_jones(0, CHECK_TEXT, 9) == UINT64_C(0xe9c6d914c4b8d9ca));
}

/* ECMA-182: polynomial 42f0e1eba9ea3693, highest bit first, start 0, nothing inverted. */
static uint64_t slow_ecma(const uint8_t *data, size_t size)
{
    uint64_t crc = 0;

    for (size_t i = 0; i < size; i++) {
        crc ^= (uint64_t)data[i] << 56;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 63 ? (crc << 1) ^ UINT64_C(0x42f0e1eba9ea3693) : crc << 1;
    }
    return crc;
}

/* Jones: polynomial ad93d23594c935a9 reflected, lowest bit first, start 0, nothing inverted. */
static uint64_t slow_jones(const uint8_t *data, size_t size)
{
    uint64_t crc = 0;

    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ UINT64_C(0x95ac9329ac4bc9b5) : crc >> 1;
    }
    return crc;
}

static void crc64_agrees_with_a_slow_oracle(void **state)
{
    uint8_t data[600];

    (void)state;
    fill(data, sizeof(data));
    for (size_t size = 0; size <= sizeof(data); size++) {
        assert_true(digest_crc64_ecma(0, data, size) == slow_ecma(data, size));
        assert_true(digest_crc64_jones(0, data, size) == slow_jones(data, size));
    }
}

static void crc64_goes_on_from_any_cut(void **state)
{
    uint8_t data[300];

    (void)state;
    fill(data, sizeof(data));
    for (size_t cut = 0; cut <= sizeof(data); cut++) {
        const size_t rest = sizeof(data) - cut;

        assert_true(digest_crc64_ecma(digest_crc64_ecma(0, data, cut), data + cut, rest) ==
                    slow_ecma(data, sizeof(data)));
        assert_true(digest_crc64_jones(digest_crc64_jones(0, data, cut), data + cut, rest) ==
                    slow_jones(data, sizeof(data)));
    }
}

static void sha256_has_the_published_values(void **state)
{
    uint8_t digest[DIGEST_SHA256_SIZE];

    (void)state;
    digest_sha256("", 0, digest);
    assert_hex(digest, sizeof(digest),
               "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    digest_sha256("abc", 3, digest);
    assert_hex(digest, sizeof(digest),
               "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    digest_sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, digest);
    assert_hex(digest, sizeof(digest),
               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void sha256_in_pieces_is_sha256_in_one(void **state)
{
    uint8_t data[200], whole[DIGEST_SHA256_SIZE], pieces[DIGEST_SHA256_SIZE];

    (void)state;
    fill(data, sizeof(data));
    digest_sha256(data, sizeof(data), whole);
    for (size_t cut = 0; cut <= sizeof(data); cut++) {
        struct digest_sha256_stream *stream = digest_sha256_new();

        assert_non_null(stream);
        digest_sha256_update(stream, data, cut);
        digest_sha256_update(stream, data + cut, sizeof(data) - cut);
        digest_sha256_final(stream, pieces);
        digest_sha256_free(stream);
        assert_memory_equal(pieces, whole, sizeof(whole));
    }
    digest_sha256_free(NULL);
}

/* Values of XXH3_128bits() in the canonical form, from the xxhsum command (-H128). */
static void xxh3_128_has_the_published_values(void **state)
{
    uint8_t digest[DIGEST_XXH3_128_SIZE];

    (void)state;
    digest_xxh3_128("", 0, digest);
    assert_hex(digest, sizeof(digest), "99aa06d3014798d86001c324468d497f");
    digest_xxh3_128("abc", 3, digest);
    assert_hex(digest, sizeof(digest), "06b05ab6733a618578af5f94892f3950");
}

/* Long inputs take other code (and vector instructions) than short ones. */
static void xxh3_128_of_a_long_input_is_the_published_one(void **state)
{
    uint8_t *data = malloc(65536);
    uint8_t digest[DIGEST_XXH3_128_SIZE];

    (void)state;
    assert_non_null(data);
    memset(data, 0, 65536);
    digest_xxh3_128(data, 65536, digest);
    free(data);
    assert_hex(digest, sizeof(digest), "fd5ee061c8433a0f33b202d302b65caa");
}

static void hex_is_lower_case_and_ends(void **state)
{
    static const uint8_t bytes[] = { 0x00, 0x0f, 0xf0, 0xab, 0xff };
    char text[2 * sizeof(bytes) + 2];

    (void)state;
    memset(text, '#', sizeof(text));
    digest_hex(bytes, sizeof(bytes), text);
    assert_string_equal(text, "000ff0abff");
    assert_int_equal(text[sizeof(text) - 1], '#');
    digest_hex(bytes, 0, text);
    assert_string_equal(text, "");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc64_has_the_published_check_values),
        cmocka_unit_test(crc64_agrees_with_a_slow_oracle),
        cmocka_unit_test(crc64_goes_on_from_any_cut),
        cmocka_unit_test(sha256_has_the_published_values),
        cmocka_unit_test(sha256_in_pieces_is_sha256_in_one),
        cmocka_unit_test(xxh3_128_has_the_published_values),
        cmocka_unit_test(xxh3_128_of_a_long_input_is_the_published_one),
        cmocka_unit_test(hex_is_lower_case_and_ends),
    };
    return unit_run(tests);
}
