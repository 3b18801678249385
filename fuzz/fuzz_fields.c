/*
 * fuzz_fields.c - libFuzzer target for the CBOR decoder of field tables.
 *
 * The first byte chooses what the rest is:
 *   - an encoding of a machine (or a part of it): if it is taken, it must encode again, decode
 *     again, and be equal to what was taken; the encoding of the second is that of the first;
 *   - the states of two devices that claim to be CBOR: comparing them must find a difference unless
 *     they mean the same, and none between a state and itself.
 * Decoding hostile bytes must never do more than fail with a promised code.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined ... fuzz/fuzz_fields.c
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stasis/machine.h>

#include "base/bytes.h"
#include "machine/fields.h"

#define ENCODED_SIZE_MAX (64u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Not assert(): the check must be there in every build. */
#define must(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static const struct stasis_table *const tables[] = {
    &stasis_machine_table,       &stasis_x86_machine_table, &stasis_x86_vcpu_table,
    &stasis_arm64_machine_table, &stasis_arm64_vcpu_table,
};

static void *zeroed(size_t size)
{
    void *memory = calloc(1, size);

    must(memory);
    return memory;
}

static uint64_t count_differences(const struct stasis_table *table, const void *a, const void *b)
{
    uint64_t count = UINT64_MAX;

    must(fields_compare(table, a, b, "", STASIS_COMPARE_VOLATILE, NULL, NULL, &count, NULL) == 0);
    return count;
}

static void check_round_trip(const struct stasis_table *table, const void *object)
{
    void *again = zeroed(table->struct_size);
    struct byte_buffer first, second;

    byte_buffer_init(&first, ENCODED_SIZE_MAX);
    byte_buffer_init(&second, ENCODED_SIZE_MAX);
    must(fields_encode(table, object, &first, NULL) == 0);
    must(fields_decode(table, first.data, first.size, again, NULL) == 0);
    must(count_differences(table, object, again) == 0);
    must(fields_encode(table, again, &second, NULL) == 0);
    must(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
    byte_buffer_release(&first);
    byte_buffer_release(&second);
    stasis_fields_release(table, again);
    free(again);
}

static void fuzz_decode(const struct stasis_table *table, const uint8_t *data, size_t size)
{
    void *object = zeroed(table->struct_size);
    struct stasis_error err = { 0 };

    if (fields_decode(table, data, size, object, &err) == 0) {
        check_round_trip(table, object);
        if (table == &stasis_machine_table)
            stasis_machine_check(object, &err); /* any verdict will do */
        stasis_fields_release(table, object);
    } else {
        must(err.code == STASIS_ERR_CORRUPT || err.code == STASIS_ERR_INVALID_MACHINE ||
             err.code == STASIS_ERR_LIMIT);
        must(err.text[0] != '\0');
    }
    free(object);
}

static int check_difference(void *arg, const struct stasis_difference *difference)
{
    (void)arg;
    must(strncmp(difference->path, "devices[k/i].state", 18) == 0);
    must(difference->a[0] != '\0' && difference->b[0] != '\0');
    return 0;
}

static void fuzz_compare(const uint8_t *data, size_t size)
{
    const size_t half = size / 2;
    struct stasis_device device_a = { .kind = "k", .id = "i", .encoding = STASIS_DEVICE_CBOR };
    struct stasis_device device_b = device_a;
    const struct stasis_machine a = { .devices = &device_a, .devices_count = 1 };
    const struct stasis_machine b = { .devices = &device_b, .devices_count = 1 };
    uint64_t forth, back, same;

    device_a.state = (uint8_t *)data;
    device_a.state_size = half;
    device_b.state = (uint8_t *)data + half;
    device_b.state_size = size - half;
    must(stasis_machine_compare(&a, &b, 0, check_difference, NULL, &forth, NULL) == 0);
    must(stasis_machine_compare(&b, &a, 0, check_difference, NULL, &back, NULL) == 0);
    must(stasis_machine_compare(&a, &a, 0, NULL, NULL, &same, NULL) == 0);
    must(same == 0 && forth == back);
    must(forth > 0 || device_a.state_size > 0 || device_b.state_size == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t table_count = sizeof(tables) / sizeof(tables[0]);

    if (size == 0)
        return 0;
    if (data[0] % (table_count + 1) == table_count)
        fuzz_compare(data + 1, size - 1);
    else
        fuzz_decode(tables[data[0] % (table_count + 1)], data + 1, size - 1);
    return 0;
}
