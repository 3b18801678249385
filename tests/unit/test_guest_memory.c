/* test_guest_memory.c - what devices write to guest RAM is told to the VM's tracker, page for page.
 *
 * Goal:   a write that is told marks the pages that it touches, in either region, and no others; a queue
 *         tells of its used ring and of as much of a chain as was written; a new generation id is told.
 * Method: RAM and ring of the device fixture, and a bitmap tracker beside them. */
#include "device_fixture.h"

#include <linux/virtio_config.h>
#include <string.h>

#include <stasis/dirty.h>

#include "microvm/layout.h"
#include "microvm/virtio_queue.h"

#define RING_GPA UINT64_C(0x100000)
#define RING_SIZE 8

static struct fake_ram ram;
static struct stasis_page_set dirty;
static struct device *device;

static int setup(void **state)
{
    (void)state;
    fake_ram_init(&ram);
    if (stasis_page_set_init(&dirty, (LOW_SIZE + HIGH_SIZE) / STASIS_PAGE_SIZE, NULL) < 0 ||
        stasis_tracker_open_bitmap(&ram.memory.ram, NULL, &ram.memory.marks, NULL) < 0)
        return -1;
    return stasis_tracker_arm(ram.memory.marks, NULL);
}

static int teardown(void **state)
{
    (void)state;
    device_free(device);
    device = NULL;
    stasis_tracker_close(ram.memory.marks);
    stasis_page_set_release(&dirty);
    fake_ram_release(&ram);
    return 0;
}

/* The pages told since the last call are these `count` from that of `gpa` on; 0: none. */
static void assert_told(uint64_t gpa, uint64_t count)
{
    const uint64_t page = (gpa < HIGH_GPA ? gpa : gpa - HIGH_GPA + LOW_SIZE) / STASIS_PAGE_SIZE;
    uint64_t first = 0, run = 0;

    stasis_page_set_clear(&dirty);
    assert_int_equal(stasis_tracker_harvest(ram.memory.marks, &dirty, NULL), 0);
    assert_int_equal(stasis_page_set_count(&dirty), count);
    if (count == 0)
        return;
    assert_true(stasis_page_set_next_run(&dirty, 0, &first, &run));
    assert_int_equal(first, page);
    assert_int_equal(run, count);
}

static void tell(uint64_t gpa, uint64_t size)
{
    guest_memory_written(&ram.memory, ram_at(&ram, gpa, size), size);
}

static void a_write_marks_the_pages_that_it_touches(void **state)
{
    (void)state;
    tell(0, 1);
    assert_told(0, 1);
    tell(0x3fff, 2);
    assert_told(0x3000, 2);
    tell(0x5000, 3 * STASIS_PAGE_SIZE);
    assert_told(0x5000, 3);
    tell(LOW_SIZE - 1, 1);
    assert_told(LOW_SIZE - STASIS_PAGE_SIZE, 1);
    tell(HIGH_GPA, 1);
    assert_told(HIGH_GPA, 1);
    tell(HIGH_GPA + HIGH_SIZE - 1, 1);
    assert_told(HIGH_GPA + HIGH_SIZE - STASIS_PAGE_SIZE, 1);
}

static void nothing_is_marked_by_writes_of_nothing_or_elsewhere(void **state)
{
    int elsewhere;

    (void)state;
    guest_memory_written(&ram.memory, ram_at(&ram, 0x1000, 1), 0);
    guest_memory_written(&ram.memory, &elsewhere, sizeof(elsewhere));
    assert_told(0, 0);
}

static struct virtio_queue make_queue(struct guest_ring *ring)
{
    struct virtio_queue queue = { 0 };

    ring_init(ring, &ram, RING_SIZE, RING_GPA);
    assert_int_equal(
        virtio_queue_enable(&queue, &ram.memory,
                            &(struct virtio_queue_setup){ .size = RING_SIZE,
                                                          .desc_gpa = ring->desc_gpa,
                                                          .driver_gpa = ring->driver_gpa,
                                                          .device_gpa = ring->device_gpa },
                            0, 0),
        0);
    assert_told(0, 0);
    return queue;
}

static void whatever_a_queue_writes_is_told(void **state)
{
    struct guest_ring ring;
    struct virtio_queue queue = make_queue(&ring);

    (void)state;
    virtio_queue_push(&queue, 3, 17);
    assert_told(ring.device_gpa, 1);
    virtio_queue_suppress_kicks(&queue);
    assert_told(ring.device_gpa, 1);
    (void)virtio_queue_want_kicks(&queue);
    assert_told(ring.device_gpa, 1);
    queue.event_idx = true;
    (void)virtio_queue_want_kicks(&queue);
    assert_told(ring.device_gpa, 1);
}

static void as_much_of_a_chain_is_told_as_was_written(void **state)
{
    struct guest_ring ring;
    const struct virtio_queue queue = make_queue(&ring);
    const struct virtio_chain chain = {
        .out_count = 1,
        .in_count = 2,
        .iov = { { ram_at(&ram, 0x1000, 16), 16 },
                 { ram_at(&ram, 0x20000, 2 * STASIS_PAGE_SIZE), 2 * STASIS_PAGE_SIZE },
                 { ram_at(&ram, 0x22000, 16), 16 } },
    };

    (void)state;
    virtio_queue_written(&queue, &chain, 0);
    assert_told(0, 0);
    virtio_queue_written(&queue, &chain, STASIS_PAGE_SIZE);
    assert_told(0x20000, 1);
    virtio_queue_written(&queue, &chain, 2 * STASIS_PAGE_SIZE);
    assert_told(0x20000, 2);
    virtio_queue_written(&queue, &chain, 2 * STASIS_PAGE_SIZE + 1);
    assert_told(0x20000, 3);
    virtio_queue_written(&queue, &chain, UINT32_MAX); /* more than there is room for */
    assert_told(0x20000, 3);
}

static bool has_used(void *arg)
{
    return ring_used_idx(arg) != 0;
}

/* Data and used ring lie apart: each of the two must be told. */
static void what_a_device_does_for_a_chain_is_told(void **state)
{
    const struct irq_line irq = { .vm_fd = -1, .gsi = LAYOUT_VIRTIO_GSI };
    struct stasis_error err = { 0 };
    struct guest_ring ring;

    (void)state;
    ring_init(&ring, &ram, RING_SIZE, RING_GPA);
    assert_stasis_ok(virtio_rng_new(&irq, &ram.memory, &device, &err), &err);
    assert_true(mmio_bring_up(device, UINT64_C(1) << VIRTIO_F_VERSION_1, &ring));
    ring_desc(&ring, 0, HIGH_GPA, STASIS_PAGE_SIZE + 1, DESC_WRITE, 0);
    ring_post(&ring, 0);
    assert_stasis_ok(device->ops->run(device, &err), &err);
    wait_until(has_used, &ring, "random bytes");
    assert_stasis_ok(device->ops->quiesce(device, deadline_in_ms(20000), &err), &err);
    stasis_page_set_clear(&dirty);
    assert_int_equal(stasis_tracker_harvest(ram.memory.marks, &dirty, NULL), 0);
    assert_true(stasis_page_set_test(&dirty, ring.device_gpa / STASIS_PAGE_SIZE));
    assert_true(stasis_page_set_test(&dirty, LOW_SIZE / STASIS_PAGE_SIZE));
    assert_true(stasis_page_set_test(&dirty, LOW_SIZE / STASIS_PAGE_SIZE + 1));
    assert_int_equal(stasis_page_set_count(&dirty), 3);
}

static void a_new_generation_is_told(void **state)
{
    const struct irq_line irq = { .vm_fd = -1, .gsi = LAYOUT_GED_GSI };
    const struct platform_events events = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(acpi_platform_new(&irq, &ram.memory, &events, &device, &err), &err);
    assert_told(0, 0);
    assert_stasis_ok(acpi_platform_new_generation(device, true, &err), &err);
    assert_told(LAYOUT_VMGENID_GPA, 1);
}

#define memory_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        memory_test(a_write_marks_the_pages_that_it_touches),
        memory_test(nothing_is_marked_by_writes_of_nothing_or_elsewhere),
        memory_test(whatever_a_queue_writes_is_told),
        memory_test(as_much_of_a_chain_is_told_as_was_written),
        memory_test(what_a_device_does_for_a_chain_is_told),
        memory_test(a_new_generation_is_told),
    };
    return unit_run(tests);
}
