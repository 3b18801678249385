/* Goal:   the entropy device fills the guest's buffers and nothing else, in bounded steps.
 * Method: buffers on a ring of the test's; what was zero before is looked at afterwards. */
#include "device_fixture.h"

#include <linux/virtio_mmio.h>
#include <stdlib.h>
#include <string.h>

#define GSI 8u
#define RING_GPA 0x1000u
#define DATA_GPA 0x10000u
#define F_VERSION_1 (UINT64_C(1) << 32)

struct bench {
    struct fake_ram ram;
    struct guest_ring ring;
    struct device *device;
};

static struct device *new_rng(struct bench *bench)
{
    const struct irq_line irq = { .vm_fd = -1, .gsi = GSI };
    struct stasis_error err = { 0 };
    struct device *device;

    assert_stasis_ok(virtio_rng_new(&irq, &bench->ram.memory, &device, &err), &err);
    return device;
}

static void run(struct bench *bench)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(bench->device->ops->run(bench->device, &err), &err);
}

static int bench_new(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));

    if (!bench)
        return -1;
    fake_ram_init(&bench->ram);
    ring_init(&bench->ring, &bench->ram, 8, RING_GPA);
    bench->device = new_rng(bench);
    assert_true(mmio_bring_up(bench->device, F_VERSION_1, &bench->ring));
    run(bench);
    irq_pulses(GSI);
    *state = bench;
    return 0;
}

static int bench_free(void **state)
{
    struct bench *bench = *state;

    bench->device->ops->free(bench->device);
    fake_ram_release(&bench->ram);
    free(bench);
    return 0;
}

static bool has_used(void *arg)
{
    const struct guest_ring *ring = arg;

    return ring_used_idx(ring) != ring->seen;
}

static uint32_t wait_length(struct bench *bench, uint32_t want_head)
{
    uint32_t head, length;

    wait_until(has_used, &bench->ring, "random bytes");
    assert_true(ring_take(&bench->ring, &head, &length));
    assert_int_equal(head, want_head);
    return length;
}

static void kick(struct bench *bench)
{
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
}

/* Bytes of [0, size) that are not zero. */
static size_t count_changed(const struct bench *bench, uint64_t gpa, size_t size)
{
    const uint8_t *bytes = ram_at(&bench->ram, gpa, size);
    size_t count = 0;

    for (size_t i = 0; i < size; i++)
        count += bytes[i] != 0;
    return count;
}

static void buffers_are_filled_and_their_neighbours_are_not(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_DEVICE_ID), 4);
    ring_desc(&bench->ring, 0, DATA_GPA, 1000, DESC_WRITE | DESC_NEXT, 1);
    ring_desc(&bench->ring, 1, DATA_GPA + 2000, 1000, DESC_WRITE, 0);
    ring_post(&bench->ring, 0);
    kick(bench);
    assert_int_equal(wait_length(bench, 0), 2000);
    /* One byte in 256 is zero by chance: 950 or fewer of 1000 changed will not be seen. */
    assert_in_range(count_changed(bench, DATA_GPA, 1000), 950, 1000);
    assert_in_range(count_changed(bench, DATA_GPA + 2000, 1000), 950, 1000);
    assert_int_equal(count_changed(bench, DATA_GPA + 1000, 1000), 0);
    assert_int_equal(count_changed(bench, DATA_GPA + 3000, 1000), 0);
}

static void two_requests_get_different_bytes(void **state)
{
    struct bench *bench = *state;

    for (uint16_t i = 0; i < 2; i++) {
        ring_desc(&bench->ring, i, DATA_GPA + 64u * i, 64, DESC_WRITE, 0);
        ring_post(&bench->ring, i);
    }
    kick(bench);
    assert_int_equal(wait_length(bench, 0), 64);
    assert_int_equal(wait_length(bench, 1), 64);
    assert_memory_not_equal(ram_at(&bench->ram, DATA_GPA, 64),
                            ram_at(&bench->ram, DATA_GPA + 64, 64), 64);
}

static void one_request_gets_64_kib_at_most(void **state)
{
    struct bench *bench = *state;

    ring_desc(&bench->ring, 0, DATA_GPA, 40000, DESC_WRITE | DESC_NEXT, 1);
    ring_desc(&bench->ring, 1, DATA_GPA + 40000, 1000000, DESC_WRITE, 0);
    ring_post(&bench->ring, 0);
    kick(bench);
    assert_int_equal(wait_length(bench, 0), 65536);
    assert_int_equal(count_changed(bench, DATA_GPA + 65536, 1000000), 0);
}

static void buffers_to_read_are_left_alone(void **state)
{
    struct bench *bench = *state;

    ring_desc(&bench->ring, 0, DATA_GPA, 64, 0, 0);
    ring_post(&bench->ring, 0);
    kick(bench);
    assert_int_equal(wait_length(bench, 0), 0);
    assert_int_equal(count_changed(bench, DATA_GPA, 64), 0);
}

static void a_saved_device_goes_on_in_another(void **state)
{
    struct bench *bench = *state;
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };

    assert_stasis_ok(bench->device->ops->quiesce(bench->device, deadline_in_ms(20000), &err), &err);
    ring_desc(&bench->ring, 3, DATA_GPA, 64, DESC_WRITE, 0);
    ring_post(&bench->ring, 3);
    kick(bench); /* at rest: it stays in the ring */
    assert_stasis_ok(bench->device->ops->save(bench->device, &machine, &err), &err);
    assert_string_equal(machine.devices[0].kind, "virtio-rng");
    assert_int_equal(ring_used_idx(&bench->ring), 0);

    bench->device->ops->free(bench->device);
    bench->device = new_rng(bench);
    assert_stasis_ok(bench->device->ops->load(bench->device, &machine, &err), &err);
    run(bench);
    assert_int_equal(wait_length(bench, 3), 64);

    machine.devices[0].version = 2;
    assert_stasis_fails(bench->device->ops->load(bench->device, &machine, &err), &err,
                        STASIS_ERR_VERSION);
    stasis_machine_release(&machine);
    assert_stasis_fails(bench->device->ops->load(bench->device, &machine, &err), &err,
                        STASIS_ERR_INVALID_MACHINE);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_new, bench_free)
    static const struct CMUnitTest tests[] = {
        CASE(buffers_are_filled_and_their_neighbours_are_not),
        CASE(two_requests_get_different_bytes),
        CASE(one_request_gets_64_kib_at_most),
        CASE(buffers_to_read_are_left_alone),
        CASE(a_saved_device_goes_on_in_another),
    };
#undef CASE

    return unit_run(tests);
}
