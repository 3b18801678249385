/* test_fields_hostile.c - decoding what somebody tampered with.
 *
 * Goal:   no input makes the decoder do anything but succeed or fail with a promised code; what it
 *         accepts encodes to something that decodes to the same.
 * Method: machines cut at every byte, with every bit flipped, and with random bytes overwritten.
 *         The sanitizers watch for reads and writes out of bounds and for leaks. */
#include "test_fields_sample.h"

static void encode(const struct stasis_table *table, const void *object, struct byte_buffer *out)
{
    byte_buffer_init(out, 1 << 24);
    assert_int_equal(fields_encode(table, object, out, NULL), 0);
}

static void encode_random(const struct stasis_table *table, uint64_t seed, struct byte_buffer *out)
{
    void *object = allocate(table->struct_size);
    struct random_source random = { seed };

    random_struct(&random, table, object);
    encode(table, object, out);
    stasis_fields_release(table, object);
    free(object);
}

static bool is_promised(enum stasis_code code)
{
    return code == STASIS_ERR_CORRUPT || code == STASIS_ERR_INVALID_MACHINE ||
           code == STASIS_ERR_LIMIT;
}

/* Decode what may be anything; if it is taken, it must survive a round trip. True: taken. */
static bool try_decode(const struct stasis_table *table, const uint8_t *data, size_t size)
{
    void *object = allocate(table->struct_size);
    struct stasis_error err = { 0 };
    const int r = fields_decode(table, data, size, object, &err);

    if (r < 0) {
        assert_true(is_promised(err.code));
        assert_true(err.text[0] != '\0');
    } else {
        void *again = allocate(table->struct_size);
        struct byte_buffer out;
        uint64_t differences = 99;

        encode(table, object, &out);
        assert_stasis_ok(fields_decode(table, out.data, out.size, again, &err), &err);
        assert_stasis_ok(fields_compare(table, object, again, "", STASIS_COMPARE_VOLATILE, NULL,
                                        NULL, &differences, &err),
                         &err);
        assert_int_equal(differences, 0);
        byte_buffer_release(&out);
        stasis_fields_release(table, again);
        stasis_fields_release(table, object);
        free(again);
    }
    free(object);
    return r == 0;
}

/* In storage of exactly its size, so that one byte too many is noticed. */
static bool try_decode_copy(const struct stasis_table *table, const uint8_t *data, size_t size)
{
    uint8_t *copy = allocate(size);
    bool taken;

    memcpy(copy, data, size);
    taken = try_decode(table, copy, size);
    free(copy);
    return taken;
}

static void input_cut_anywhere_is_refused(void **state)
{
    struct byte_buffer out;

    (void)state;
    encode_random(&stasis_machine_table, 3, &out);
    assert_true(out.size > 1000);
    for (size_t size = 0; size < out.size; size++)
        assert_false(try_decode_copy(&stasis_machine_table, out.data, size));
    assert_true(try_decode_copy(&stasis_machine_table, out.data, out.size));
    byte_buffer_release(&out);
}

static void any_flipped_bit_is_refused_or_a_value(void **state)
{
    struct bytes bytes = from_hex(golden_hex);
    size_t taken = 0;

    (void)state;
    for (size_t bit = 0; bit < 8 * bytes.size; bit++) {
        bytes.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        taken += try_decode_copy(&sample_table, bytes.data, bytes.size);
        bytes.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    /* Some only change a number, some break the structure. */
    assert_in_range(taken, 100, 8 * bytes.size - 300);
}

static void overwritten_machines_are_refused_or_values(void **state)
{
    struct random_source random = { 4 };
    size_t taken = 0, refused = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct byte_buffer out;

        encode_random(&stasis_machine_table, seed, &out);
        for (size_t i = 0; i < 200; i++) {
            uint8_t *byte = &out.data[random_below(&random, out.size)];
            const uint8_t before = *byte;

            *byte = (uint8_t)random_next(&random);
            if (try_decode_copy(&stasis_machine_table, out.data, out.size))
                taken++;
            else
                refused++;
            *byte = before;
        }
        byte_buffer_release(&out);
    }
    assert_true(taken > 100 && refused > 100);
}

static void noise_is_refused(void **state)
{
    struct random_source random = { 5 };
    uint8_t noise[256];

    (void)state;
    for (size_t i = 0; i < 5000; i++) {
        random_bytes(&random, noise, sizeof(noise));
        noise[0] = (uint8_t)(0xa0 | noise[0] % 24); /* let it begin well */
        assert_false(try_decode_copy(&sample_table, noise, random_below(&random, 256)));
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(input_cut_anywhere_is_refused),
        cmocka_unit_test(any_flipped_bit_is_refused_or_a_value),
        cmocka_unit_test(overwritten_machines_are_refused_or_values),
        cmocka_unit_test(noise_is_refused),
    };
    return unit_run(tests);
}
