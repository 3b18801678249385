/* test_fields_memory.c - field tables when memory is short, or when an input claims much.
 *
 * Goal:   every allocation that fails ends in STASIS_ERR_OUT_OF_MEMORY with nothing leaked and the
 *         result untouched; how much is asked for follows the size of the input.
 * Method: the linker puts our own functions in front of the allocator's (--wrap); they let the n-th
 *         call fail, for every n, and keep the largest size asked for. */
#include "test_fields_sample.h"

static size_t calls_left = SIZE_MAX; /* until one fails */
static size_t largest;               /* bytes asked for in one call */
static size_t total;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_reallocarray(void *memory, size_t count, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_reallocarray(void *memory, size_t count, size_t size);

static bool let_through(size_t size)
{
    if (calls_left == 0)
        return false;
    if (calls_left != SIZE_MAX)
        calls_left--;
    largest = size > largest ? size : largest;
    total += size;
    return true;
}

void *__wrap_malloc(size_t size)
{
    return let_through(size) ? __real_malloc(size) : NULL;
}

void *__wrap_calloc(size_t count, size_t size)
{
    return let_through(count * size) ? __real_calloc(count, size) : NULL;
}

void *__wrap_realloc(void *memory, size_t size)
{
    return let_through(size) ? __real_realloc(memory, size) : NULL;
}

void *__wrap_reallocarray(void *memory, size_t count, size_t size)
{
    return let_through(count * size) ? __real_reallocarray(memory, count, size) : NULL;
}

static int reset(void **state)
{
    (void)state;
    calls_left = SIZE_MAX;
    largest = 0;
    total = 0;
    return 0;
}

static void encode_random_machine(uint64_t seed, struct stasis_machine *machine,
                                  struct byte_buffer *out)
{
    struct random_source random = { seed };

    random_struct(&random, &stasis_machine_table, machine);
    byte_buffer_init(out, 1 << 24);
    assert_int_equal(fields_encode(&stasis_machine_table, machine, out, NULL), 0);
}

static size_t fail_each_allocation_of_a_decode(const struct byte_buffer *encoded)
{
    struct stasis_machine decoded, untouched;

    memset(&untouched, 0x5a, sizeof(untouched));
    memcpy(&decoded, &untouched, sizeof(decoded));
    for (size_t n = 0;; n++) {
        struct stasis_error err = { 0 };
        int r;

        calls_left = n;
        r = fields_decode(&stasis_machine_table, encoded->data, encoded->size, &decoded, &err);
        calls_left = SIZE_MAX;
        if (r == 0) {
            stasis_machine_release(&decoded);
            return n;
        }
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(err.code, STASIS_ERR_OUT_OF_MEMORY);
        assert_memory_equal(&decoded, &untouched, sizeof(decoded));
    }
}

static void decoding_survives_every_allocation_that_fails(void **state)
{
    size_t failures = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct stasis_machine machine = { 0 };
        struct byte_buffer out;

        encode_random_machine(seed, &machine, &out);
        failures += fail_each_allocation_of_a_decode(&out);
        stasis_machine_release(&machine);
        byte_buffer_release(&out);
    }
    assert_true(failures > 150);
}

static void encoding_reports_exhausted_memory(void **state)
{
    struct sample sample = make_sample();
    struct stasis_error err = { 0 };
    struct byte_buffer out;

    (void)state;
    byte_buffer_init(&out, 4096);
    calls_left = 0;
    assert_int_equal(fields_encode(&sample_table, &sample, &out, &err), -ENOMEM);
    calls_left = SIZE_MAX;
    assert_int_equal(err.code, STASIS_ERR_OUT_OF_MEMORY);
    byte_buffer_release(&out);
    release_sample(&sample);
}

static void comparing_survives_every_allocation_that_fails(void **state)
{
    struct stasis_machine a = { 0 }, b = { 0 };
    struct stasis_error err = { 0 };
    const struct sample device = { .text = "some" };
    size_t failures = 0;
    uint64_t count = 0;
    int r;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct stasis_machine *machine = i ? &b : &a;

        assert_int_equal(stasis_machine_add_device(machine, "disk", i ? "x" : "y", 1, &sample_table,
                                                   &device, &err),
                         0);
        assert_int_equal(
            stasis_machine_add_device(machine, "disk", "z", 1, &sample_table, &device, &err), 0);
    }
    for (size_t n = 0;; n++) {
        calls_left = n;
        r = stasis_machine_compare(&a, &b, 0, NULL, NULL, &count, &err);
        calls_left = SIZE_MAX;
        if (r == 0)
            break;
        failures++;
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(err.code, STASIS_ERR_OUT_OF_MEMORY);
        assert_int_equal(count, 0);
    }
    assert_true(failures > 8);
    assert_int_equal(count, 2); /* x is absent, y is absent */
    stasis_machine_release(&a);
    stasis_machine_release(&b);
}

static void adding_devices_survives_every_allocation_that_fails(void **state)
{
    const struct sample device = { .text = "some" };
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };
    size_t failures = 0;

    (void)state;
    for (size_t n = 0; machine.devices_count < 2; n++) {
        int r;

        calls_left = n;
        if (machine.devices_count == 0)
            r = stasis_machine_add_device(&machine, "disk", "a", 1, &sample_table, &device, &err);
        else
            r = stasis_machine_add_opaque_device(&machine, "disk", "b", 1, "x", 1, &err);
        calls_left = SIZE_MAX;
        if (r == 0) {
            n = SIZE_MAX; /* begin again with the other */
            continue;
        }
        failures++;
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(err.code, STASIS_ERR_OUT_OF_MEMORY);
    }
    assert_true(failures >= 4);
    stasis_machine_release(&machine);
}

/* 4096 vCPUs take 4 MiB. A few bytes that claim them get nothing. */
static void a_count_that_is_only_claimed_allocates_nothing(void **state)
{
    struct bytes bytes = { .size = 0 };
    struct stasis_machine machine;
    struct stasis_error err = { 0 };

    (void)state;
    put_head(&bytes, 5, 1);
    put_key(&bytes, "x86_64");
    put_head(&bytes, 5, 1);
    put_key(&bytes, "vcpus");
    put_hex(&bytes, "991000");
    bytes.size = sizeof(bytes.data); /* enough for as many empty maps, not for vCPUs */
    reset(NULL);
    assert_stasis_fails(
        fields_decode(&stasis_machine_table, bytes.data, bytes.size, &machine, &err), &err,
        STASIS_ERR_CORRUPT);
    assert_non_null(strstr(err.text, "x86_64.vcpus: 4096 elements do not fit in the"));
    assert_true(total < 4096);
}

static void storage_asked_for_follows_the_size_of_the_input(void **state)
{
    struct random_source random = { 7 };

    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct stasis_machine machine = { 0 };
        struct byte_buffer out;

        encode_random_machine(seed, &machine, &out);
        stasis_machine_release(&machine);
        for (size_t i = 0; i < 300; i++) {
            const size_t at = random_below(&random, out.size);
            const uint8_t before = out.data[at];

            out.data[at] = (uint8_t)random_next(&random);
            reset(NULL);
            if (fields_decode(&stasis_machine_table, out.data, out.size, &machine, NULL) == 0)
                stasis_machine_release(&machine);
            assert_true(largest <= 4096 + 8 * out.size);
            assert_true(total <= 8192 + 16 * out.size);
            out.data[at] = before;
        }
        byte_buffer_release(&out);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(decoding_survives_every_allocation_that_fails, reset),
        cmocka_unit_test_teardown(encoding_reports_exhausted_memory, reset),
        cmocka_unit_test_teardown(comparing_survives_every_allocation_that_fails, reset),
        cmocka_unit_test_teardown(adding_devices_survives_every_allocation_that_fails, reset),
        cmocka_unit_test(a_count_that_is_only_claimed_allocates_nothing),
        cmocka_unit_test(storage_asked_for_follows_the_size_of_the_input),
    };
    return unit_run(tests);
}
