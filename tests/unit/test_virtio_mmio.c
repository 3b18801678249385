/* Goal:   the transport does what virtio 1.2 sections 2.1 to 2.3 and 4.2 ask of a device, survives
 *         drivers that do not, and comes to rest and back without losing a chain.
 * Method: a device of the test's own that copies what it reads to what it writes, and stops at a gate
 *         when told to; registers are driven one by one. */
#include "device_fixture.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>
#include <string.h>

#include "microvm/virtio_mmio.h"

#define GSI 5u
#define RING_GPA 0x1000u
#define DATA_GPA 0x10000u

#define F_VERSION_1 (UINT64_C(1) << 32)
#define F_EVENT_IDX (UINT64_C(1) << 29)
#define F_INDIRECT (UINT64_C(1) << 28)
#define F_OWN UINT64_C(1)

#define S_ALL_WELL 15u
#define S_NEEDS_RESET 64u
#define S_FAILED 128u

struct echo {
    struct virtio_device virtio; /* first */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool gate_closed;
    unsigned waiting; /* chains at the gate */
    unsigned served;
};

struct bench {
    struct fake_ram ram;
    struct guest_ring ring;
    struct echo *echo;
    struct device *device;
};

static int echo_serve(struct virtio_device *virtio, const struct virtio_chain *chain,
                      uint32_t *ret_written_size)
{
    struct echo *echo = (struct echo *)virtio;
    uint8_t bytes[64];
    size_t size;

    pthread_mutex_lock(&echo->lock);
    echo->waiting++;
    while (echo->gate_closed)
        pthread_cond_wait(&echo->changed, &echo->lock);
    echo->waiting--;
    echo->served++;
    pthread_mutex_unlock(&echo->lock);

    size = virtio_copy_from(chain->iov, chain->out_count, bytes, sizeof(bytes));
    if (size == 0)
        return -EBADMSG; /* this device wants to be told something */
    *ret_written_size =
        (uint32_t)virtio_copy_to(chain->iov + chain->out_count, chain->in_count, bytes, size);
    return 0;
}

static void echo_free(struct device *device)
{
    struct echo *echo = (struct echo *)device;

    virtio_release(&echo->virtio);
    pthread_mutex_destroy(&echo->lock);
    pthread_cond_destroy(&echo->changed);
    free(echo);
}

static const struct virtio_class echo_class = { .device_id = 42,
                                                .queue_count = 1,
                                                .serve = echo_serve };
static const struct device_ops echo_ops = {
    .kind = "echo",
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
    .run = virtio_run,
    .quiesce = virtio_quiesce,
    .free = echo_free,
};

static struct echo *echo_new(struct fake_ram *ram)
{
    const struct irq_line irq = { .vm_fd = -1, .gsi = GSI };
    struct echo *echo = calloc(1, sizeof(*echo));

    assert_non_null(echo);
    echo->virtio.device.ops = &echo_ops;
    strcpy(echo->virtio.device.id, "test");
    pthread_mutex_init(&echo->lock, NULL);
    pthread_cond_init(&echo->changed, NULL);
    virtio_init(&echo->virtio, &echo_class, &irq, &ram->memory, F_OWN);
    for (uint8_t i = 0; i < VIRTIO_CONFIG_SIZE_MAX; i++)
        echo->virtio.config[i] = (uint8_t)(0x40 + i);
    return echo;
}

static void set_gate(struct echo *echo, bool closed)
{
    pthread_mutex_lock(&echo->lock);
    echo->gate_closed = closed;
    pthread_cond_broadcast(&echo->changed);
    pthread_mutex_unlock(&echo->lock);
}

static bool one_waits(void *arg)
{
    struct echo *echo = arg;
    bool yes;

    pthread_mutex_lock(&echo->lock);
    yes = echo->waiting == 1;
    pthread_mutex_unlock(&echo->lock);
    return yes;
}

static unsigned served_count(struct echo *echo)
{
    unsigned count;

    pthread_mutex_lock(&echo->lock);
    count = echo->served;
    pthread_mutex_unlock(&echo->lock);
    return count;
}

static bool is_idle(void *arg)
{
    struct worker *worker = &((struct echo *)arg)->virtio.worker;
    bool idle;

    pthread_mutex_lock(&worker->lock);
    idle = !worker->busy && !worker->kicked;
    pthread_mutex_unlock(&worker->lock);
    return idle;
}

static int bench_new(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));

    if (!bench)
        return -1;
    fake_ram_init(&bench->ram);
    ring_init(&bench->ring, &bench->ram, 16, RING_GPA);
    bench->echo = echo_new(&bench->ram);
    bench->device = &bench->echo->virtio.device;
    irq_pulses(GSI);
    *state = bench;
    return 0;
}

static int bench_free(void **state)
{
    struct bench *bench = *state;

    set_gate(bench->echo, false);
    bench->device->ops->free(bench->device);
    fake_ram_release(&bench->ram);
    free(bench);
    return 0;
}

static void start(struct bench *bench)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(bench->device->ops->run(bench->device, &err), &err);
}

static void bring_up(struct bench *bench, uint64_t features)
{
    assert_true(mmio_bring_up(bench->device, F_VERSION_1 | features, &bench->ring));
    start(bench);
}

/* Chain `n`: one byte out, one byte in. */
static void post(struct bench *bench, uint16_t n)
{
    uint8_t *byte = ram_at(&bench->ram, DATA_GPA + 2u * n, 2);

    byte[0] = (uint8_t)(0x80 + n);
    byte[1] = 0;
    ring_desc(&bench->ring, (uint16_t)(2 * n), DATA_GPA + 2u * n, 1, DESC_NEXT,
              (uint16_t)(2 * n + 1));
    ring_desc(&bench->ring, (uint16_t)(2 * n + 1), DATA_GPA + 2u * n + 1, 1, DESC_WRITE, 0);
    ring_post(&bench->ring, (uint16_t)(2 * n));
}

static void kick(struct bench *bench)
{
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
}

static bool has_used(void *arg)
{
    const struct guest_ring *ring = arg;

    return ring_used_idx(ring) != ring->seen;
}

static void assert_answered(struct bench *bench, uint16_t n)
{
    uint32_t head, length;

    wait_until(has_used, &bench->ring, "a used element");
    assert_true(ring_take(&bench->ring, &head, &length));
    assert_int_equal(head, 2 * n);
    assert_int_equal(length, 1);
    assert_int_equal(*(uint8_t *)ram_at(&bench->ram, DATA_GPA + 2u * n + 1, 1), 0x80 + n);
}

static bool needs_reset(void *arg)
{
    return mmio_read(arg, VIRTIO_MMIO_STATUS) & S_NEEDS_RESET;
}

static void quiesce(struct bench *bench)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(bench->device->ops->quiesce(bench->device, deadline_in_ms(20000), &err), &err);
}

/* --- registers ------------------------------------------------------------------------------ */

static void the_device_says_what_it_is(void **state)
{
    struct device *device = ((struct bench *)*state)->device;

    assert_int_equal(mmio_read(device, 0x000), 0x74726976);
    assert_int_equal(mmio_read(device, 0x004), 2);
    assert_int_equal(mmio_read(device, 0x008), 42);
    assert_memory_equal(&(uint32_t){ mmio_read(device, 0x00c) }, "STAS", 4);
    assert_int_equal(mmio_read(device, 0x034), 256);
    assert_int_equal(mmio_read(device, 0x0fc), 0);
    assert_int_equal(mmio_read(device, 0x0b0), UINT32_MAX); /* no shared memory */
    assert_true(mmio_offered(device) == (F_VERSION_1 | F_EVENT_IDX | F_INDIRECT | F_OWN));
    mmio_write(device, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_DEVICE_FEATURES), 0);
    mmio_write(device, VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    mmio_write(device, VIRTIO_MMIO_QUEUE_SEL, UINT32_MAX);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_QUEUE_READY), 0);
}

static void registers_are_32_bits_wide(void **state)
{
    struct device *device = ((struct bench *)*state)->device;

    assert_int_equal(device->ops->read(device, 0x000, 1), 0);
    assert_int_equal(device->ops->read(device, 0x000, 2), 0);
    assert_int_equal(device->ops->read(device, 0x000, 8), 0);
    assert_int_equal(device->ops->read(device, 0x001, 4), 0);
    device->ops->write(device, VIRTIO_MMIO_STATUS, 1, 1);
    device->ops->write(device, VIRTIO_MMIO_STATUS, 8, 1);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_STATUS), 0);
}

static void the_configuration_reads_in_any_width_and_is_not_written(void **state)
{
    struct device *device = ((struct bench *)*state)->device;

    assert_int_equal(device->ops->read(device, 0x100, 1), 0x40);
    assert_int_equal(device->ops->read(device, 0x101, 2), 0x4241);
    assert_int_equal(device->ops->read(device, 0x102, 4), 0x45444342);
    assert_true(device->ops->read(device, 0x100, 8) == UINT64_C(0x4746454443424140));
    assert_int_equal(device->ops->read(device, 0x13e, 4), 0x7f7e);
    assert_int_equal(device->ops->read(device, 0x140, 4), 0);
    assert_int_equal(device->ops->read(device, 0xfff, 1), 0);
    mmio_write(device, 0x100, 0);
    assert_int_equal(device->ops->read(device, 0x100, 1), 0x40);
}

static void features_are_agreed_only_when_offered_and_modern(void **state)
{
    static const struct {
        uint64_t features;
        bool agreed;
    } cases[] = {
        { F_VERSION_1, true },
        { F_VERSION_1 | F_EVENT_IDX | F_INDIRECT | F_OWN, true },
        { 0, false },
        { F_EVENT_IDX, false },
        { F_VERSION_1 | 2, false },
        { F_VERSION_1 | UINT64_C(1) << 63, false },
    };
    struct bench *bench = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(mmio_bring_up(bench->device, cases[i].features, &bench->ring),
                         cases[i].agreed);
}

static void features_are_settled_by_features_ok(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, 0);
    mmio_write(bench->device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    mmio_write(bench->device, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX);
    assert_true(bench->echo->virtio.driver_features == F_VERSION_1);
}

static void status_bits_are_added_and_never_taken(void **state)
{
    struct bench *bench = *state;
    struct device *device = bench->device;

    mmio_write(device, VIRTIO_MMIO_STATUS, 1);
    mmio_write(device, VIRTIO_MMIO_STATUS, 2);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_STATUS), 3);
    mmio_write(device, VIRTIO_MMIO_STATUS, 4); /* DRIVER_OK before FEATURES_OK */
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_STATUS), 3);
    mmio_write(device, VIRTIO_MMIO_STATUS, S_NEEDS_RESET | 0x30); /* not the driver's to set */
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_STATUS), 3);
    mmio_write(device, VIRTIO_MMIO_STATUS, S_FAILED);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_STATUS), S_FAILED | 3);
}

static void a_ready_queue_stays_where_it_is(void **state)
{
    struct bench *bench = *state;
    struct guest_ring other;

    ring_init(&other, &bench->ram, 16, 0x5000);
    bring_up(bench, 0);
    mmio_place_queue(bench->device, &other);
    post(bench, 0);
    kick(bench);
    assert_answered(bench, 0);
    assert_true(bench->echo->virtio.setups[0].desc_gpa == RING_GPA);
}

static void reset_brings_everything_back(void **state)
{
    struct bench *bench = *state;
    struct device *device = bench->device;

    bring_up(bench, F_OWN);
    post(bench, 0);
    kick(bench);
    assert_answered(bench, 0);
    mmio_write(device, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_STATUS), 0);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_QUEUE_READY), 0);
    assert_int_equal(mmio_read(device, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert_true(bench->echo->virtio.driver_features == 0);
    assert_true(bench->echo->virtio.setups[0].desc_gpa == 0);

    ring_init(&bench->ring, &bench->ram, 16, RING_GPA);
    bring_up(bench, 0);
    post(bench, 3);
    kick(bench);
    assert_answered(bench, 3);
}

/* --- chains --------------------------------------------------------------------------------- */

static void a_chain_is_answered_and_told_by_one_interrupt(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, 0);
    assert_int_equal(irq_pulses(GSI), 0);
    post(bench, 1);
    kick(bench);
    assert_answered(bench, 1);
    quiesce(bench); /* the interrupt comes after the used element */
    assert_int_equal(irq_pulses(GSI), 1);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    mmio_write(bench->device, VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert_int_equal(irq_pulses(GSI), 0);
}

static void an_acknowledgement_that_leaves_a_reason_gives_its_edge_again(void **state)
{
    struct bench *bench = *state;

    bench->echo->virtio.interrupt_status = 3;
    mmio_write(bench->device, VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    assert_int_equal(irq_pulses(GSI), 1);
    mmio_write(bench->device, VIRTIO_MMIO_INTERRUPT_ACK, 2);
    assert_int_equal(irq_pulses(GSI), 0);
}

static void nothing_is_served_before_driver_ok(void **state)
{
    struct bench *bench = *state;
    struct device *device = bench->device;

    start(bench);
    mmio_write(device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    mmio_write(device, VIRTIO_MMIO_DRIVER_FEATURES, 1);
    mmio_write(device, VIRTIO_MMIO_STATUS, 11);
    mmio_place_queue(device, &bench->ring);
    mmio_write(device, VIRTIO_MMIO_QUEUE_READY, 1);
    post(bench, 0);
    kick(bench);
    wait_until(is_idle, bench->echo, "the worker");
    assert_int_equal(served_count(bench->echo), 0);
    mmio_write(device, VIRTIO_MMIO_STATUS, 15); /* no further kick */
    assert_answered(bench, 0);
}

static void a_queue_switched_off_is_not_served(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, 0);
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_READY, 0);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_QUEUE_READY), 0);
    post(bench, 0);
    kick(bench);
    quiesce(bench);
    assert_int_equal(served_count(bench->echo), 0);
    assert_int_equal(ring_used_idx(&bench->ring), 0);
}

static void a_failed_driver_is_not_served(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, 0);
    mmio_write(bench->device, VIRTIO_MMIO_STATUS, S_ALL_WELL | S_FAILED);
    post(bench, 0);
    kick(bench);
    quiesce(bench);
    assert_int_equal(served_count(bench->echo), 0);
}

/* --- drivers that break the rules ----------------------------------------------------------- */

static void assert_broken_until_reset(struct bench *bench)
{
    unsigned served;

    wait_until(needs_reset, bench->device, "DEVICE_NEEDS_RESET");
    served = served_count(bench->echo);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_INTERRUPT_STATUS) & 2, 2);
    assert_true(irq_pulses(GSI) >= 1);
    post(bench, 1);
    kick(bench);
    quiesce(bench);
    assert_int_equal(served_count(bench->echo), served);

    ring_init(&bench->ring, &bench->ram, 16, RING_GPA);
    bring_up(bench, 0);
    post(bench, 2);
    kick(bench);
    assert_answered(bench, 2);
}

static void a_malformed_chain_stops_the_device_until_reset(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, 0);
    ring_post(&bench->ring, 99);
    kick(bench);
    assert_broken_until_reset(bench);
}

static void a_chain_without_sense_stops_the_device_until_reset(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, 0);
    ring_desc(&bench->ring, 0, DATA_GPA, 1, DESC_WRITE, 0);
    ring_post(&bench->ring, 0);
    kick(bench);
    assert_broken_until_reset(bench);
}

static void a_jump_of_the_index_stops_the_device_until_reset(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, 0);
    ring_set_idx(&bench->ring, 1000);
    kick(bench);
    wait_until(needs_reset, bench->device, "DEVICE_NEEDS_RESET");
    assert_int_equal(served_count(bench->echo), 0);
}

static void a_queue_outside_ram_is_not_made_ready(void **state)
{
    struct bench *bench = *state;
    struct guest_ring nowhere = bench->ring;

    nowhere.device_gpa = LOW_SIZE;
    assert_false(mmio_bring_up(bench->device, F_VERSION_1, &nowhere));
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_QUEUE_READY), 0);
    assert_true(needs_reset(bench->device));
}

static void random_register_writes_do_no_harm(void **state)
{
    struct bench *bench = *state;
    struct dice dice = { .state = 7 };

    start(bench);
    for (unsigned i = 0; i < 100000; i++) {
        const uint32_t offset = 4 * (uint32_t)dice_below(&dice, 0x110 / 4);
        uint64_t value = dice_roll(&dice);

        if (dice_below(&dice, 2))
            value &= 0xf;
        bench->device->ops->write(bench->device, offset, 1u << dice_below(&dice, 4), value);
        bench->device->ops->read(bench->device, dice_below(&dice, 0x1000),
                                 1u << dice_below(&dice, 4));
    }
    irq_pulses(GSI);
    ring_init(&bench->ring, &bench->ram, 16, RING_GPA);
    bring_up(bench, 0);
    post(bench, 0);
    kick(bench);
    assert_answered(bench, 0);
}

/* --- rest ----------------------------------------------------------------------------------- */

static void a_chain_that_is_begun_is_finished_before_rest(void **state)
{
    struct bench *bench = *state;
    struct stasis_error err = { 0 };

    set_gate(bench->echo, true);
    bring_up(bench, 0);
    post(bench, 0);
    post(bench, 1);
    kick(bench);
    wait_until(one_waits, bench->echo, "the gate");
    assert_stasis_fails(bench->device->ops->quiesce(bench->device, deadline_in_ms(20), &err), &err,
                        STASIS_ERR_QUIESCE_TIMEOUT);
    assert_non_null(strstr(err.text, "echo 'test'"));
    assert_int_equal(ring_used_idx(&bench->ring), 0);

    set_gate(bench->echo, false); /* the first is finished; the second is not begun */
    quiesce(bench);
    assert_int_equal(ring_used_idx(&bench->ring), 1);
    assert_int_equal(irq_pulses(GSI), 1);
    start(bench); /* no kick: it looks by itself */
    assert_answered(bench, 0);
    assert_answered(bench, 1);
}

static void after_a_time_out_the_device_goes_on(void **state)
{
    struct bench *bench = *state;
    struct stasis_error err = { 0 };

    set_gate(bench->echo, true);
    bring_up(bench, 0);
    post(bench, 0);
    kick(bench);
    wait_until(one_waits, bench->echo, "the gate");
    assert_int_equal(bench->device->ops->quiesce(bench->device, 0, &err), -ETIMEDOUT);
    start(bench);
    post(bench, 1);
    kick(bench);
    set_gate(bench->echo, false);
    assert_answered(bench, 0);
    assert_answered(bench, 1);
}

static void *write_reset(void *arg)
{
    struct bench *bench = arg;

    mmio_write(bench->device, VIRTIO_MMIO_STATUS, 0);
    return (void *)(uintptr_t)served_count(bench->echo);
}

static bool is_held(void *arg)
{
    struct echo *echo = arg;

    return worker_should_rest(&echo->virtio.worker);
}

static void reset_returns_when_the_device_has_stopped(void **state)
{
    struct bench *bench = *state;
    pthread_t thread;
    void *served;

    set_gate(bench->echo, true);
    bring_up(bench, 0);
    post(bench, 0);
    post(bench, 1);
    kick(bench);
    wait_until(one_waits, bench->echo, "the gate");
    assert_int_equal(pthread_create(&thread, NULL, write_reset, bench), 0);
    wait_until(is_held, bench->echo, "the reset");
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_STATUS), S_ALL_WELL);
    set_gate(bench->echo, false);
    assert_int_equal(pthread_join(thread, &served), 0);
    assert_int_equal((uintptr_t)served, 1);

    quiesce(bench); /* nothing goes on after it */
    assert_int_equal(served_count(bench->echo), 1);
    assert_int_equal(ring_used_idx(&bench->ring), 1);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_STATUS), 0);
}

static void *write_ready(void *arg)
{
    struct bench *bench = arg;

    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_READY, 1); /* it is: nothing changes */
    return NULL;
}

static void what_waited_while_a_register_held_the_device_is_served(void **state)
{
    struct bench *bench = *state;
    pthread_t thread;

    set_gate(bench->echo, true);
    bring_up(bench, 0);
    post(bench, 0);
    post(bench, 1);
    kick(bench);
    wait_until(one_waits, bench->echo, "the gate");
    assert_int_equal(pthread_create(&thread, NULL, write_ready, bench), 0);
    wait_until(is_held, bench->echo, "the register");
    set_gate(bench->echo, false);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_answered(bench, 0);
    assert_answered(bench, 1);
}

/* --- state ---------------------------------------------------------------------------------- */

static void a_saved_device_goes_on_in_another(void **state)
{
    struct bench *bench = *state;
    struct stasis_error err = { 0 };
    struct virtio_state saved;
    struct echo *second;

    set_gate(bench->echo, true);
    bring_up(bench, F_EVENT_IDX);
    for (uint16_t i = 0; i < 4; i++)
        post(bench, i);
    kick(bench);
    wait_until(one_waits, bench->echo, "the gate");
    assert_int_equal(bench->device->ops->quiesce(bench->device, 0, &err), -ETIMEDOUT);
    set_gate(bench->echo, false);
    quiesce(bench);
    assert_int_equal(served_count(bench->echo), 1);
    assert_stasis_ok(virtio_save(&bench->echo->virtio, &saved, &err), &err);

    second = echo_new(&bench->ram);
    assert_stasis_ok(virtio_load(&second->virtio, &saved, &err), &err);
    stasis_fields_release(&virtio_state_table, &saved);
    bench->device->ops->free(bench->device);
    bench->echo = second;
    bench->device = &second->virtio.device;
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_STATUS), S_ALL_WELL);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert_true(second->virtio.driver_features == (F_VERSION_1 | F_EVENT_IDX));
    start(bench);
    for (uint16_t i = 0; i < 4; i++)
        assert_answered(bench, i);
    assert_int_equal(served_count(second), 3);
}

static void a_device_that_is_being_set_up_goes_on_in_another(void **state)
{
    struct bench *bench = *state;
    struct stasis_error err = { 0 };
    struct virtio_state saved;
    struct echo *second = echo_new(&bench->ram);

    mmio_write(bench->device, VIRTIO_MMIO_STATUS, 3);
    mmio_write(bench->device, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    mmio_write(bench->device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    mmio_write(bench->device, VIRTIO_MMIO_DRIVER_FEATURES,
               UINT32_MAX); /* not agreed, only written */
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_SEL, 9);
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_SEL, 0);
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_NUM, 12345);
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_USED_HIGH, 77);
    assert_stasis_ok(virtio_save(&bench->echo->virtio, &saved, &err), &err);
    assert_stasis_ok(virtio_load(&second->virtio, &saved, &err), &err);
    stasis_fields_release(&virtio_state_table, &saved);

    assert_int_equal(mmio_read(&second->virtio.device, VIRTIO_MMIO_STATUS), 3);
    assert_int_equal(mmio_read(&second->virtio.device, VIRTIO_MMIO_DEVICE_FEATURES), 1);
    assert_true(second->virtio.driver_features == UINT64_C(0xffffffff00000000));
    assert_int_equal(second->virtio.setups[0].size, 12345);
    assert_true(second->virtio.setups[0].device_gpa == UINT64_C(77) << 32);
    second->virtio.device.ops->free(&second->virtio.device);
}

static void hostile_states_are_refused_and_change_nothing(void **state)
{
    struct bench *bench = *state;
    struct stasis_error err = { 0 };
    struct virtio_state good, bad;
    struct virtio_queue_state queues[2], *good_queues;

    bring_up(bench, 0);
    quiesce(bench);
    assert_stasis_ok(virtio_save(&bench->echo->virtio, &good, &err), &err);
    good_queues = good.queues;
    mmio_write(bench->device, VIRTIO_MMIO_STATUS, 0);

#define REFUSES(change)                                                                            \
    do {                                                                                           \
        bad = good;                                                                                \
        queues[0] = queues[1] = good_queues[0];                                                    \
        bad.queues = queues;                                                                       \
        change;                                                                                    \
        assert_stasis_fails(virtio_load(&bench->echo->virtio, &bad, &err), &err,                   \
                            STASIS_ERR_INVALID_MACHINE);                                           \
        assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_STATUS), 0);                         \
        assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_QUEUE_READY), 0);                    \
    } while (0)
    REFUSES(bad.status |= 0x10);
    REFUSES(bad.status |= 0x100);
    REFUSES(bad.status &= ~8u);
    REFUSES(bad.driver_features = 0);
    REFUSES(bad.driver_features |= 2);
    REFUSES(bad.interrupt_status = 4);
    REFUSES(bad.queues_count = 0);
    REFUSES(bad.queues_count = 2);
    REFUSES(queues[0].size = 0);
    REFUSES(queues[0].size = 17);
    REFUSES(queues[0].size = 65536 + 16);
    REFUSES(queues[0].desc_gpa = LOW_SIZE);
    REFUSES(queues[0].desc_gpa += 1);
    REFUSES(queues[0].driver_gpa = UINT64_MAX - 1);
    REFUSES(queues[0].device_gpa = HIGH_GPA + HIGH_SIZE - 4);
#undef REFUSES

    good.queues = good_queues;
    assert_stasis_ok(virtio_load(&bench->echo->virtio, &good, &err), &err);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_STATUS), S_ALL_WELL);
    stasis_fields_release(&virtio_state_table, &good);
}

/* Counters that do not fit the rings are the guest's affair, as if it had moved its own idx. */
static void impossible_counters_stop_the_device_and_nothing_else(void **state)
{
    struct bench *bench = *state;
    struct stasis_error err = { 0 };
    struct virtio_state saved;

    bring_up(bench, 0);
    quiesce(bench);
    assert_stasis_ok(virtio_save(&bench->echo->virtio, &saved, &err), &err);
    saved.queues[0].next_avail = 30000;
    saved.queues[0].next_used = 65535;
    assert_stasis_ok(virtio_load(&bench->echo->virtio, &saved, &err), &err);
    stasis_fields_release(&virtio_state_table, &saved);
    start(bench);
    wait_until(needs_reset, bench->device, "DEVICE_NEEDS_RESET");
    assert_int_equal(served_count(bench->echo), 0);
}

/* --- load from many sides ------------------------------------------------------------------- */

static void *kick_and_look(void *arg)
{
    struct bench *bench = arg;

    for (unsigned i = 0; i < 20000; i++) {
        kick(bench);
        mmio_read(bench->device, VIRTIO_MMIO_INTERRUPT_STATUS);
        mmio_write(bench->device, VIRTIO_MMIO_INTERRUPT_ACK, 1);
    }
    return NULL;
}

static void many_threads_at_once_get_every_chain_answered(void **state)
{
    struct bench *bench = *state;
    pthread_t threads[2];

    bring_up(bench, F_EVENT_IDX);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, kick_and_look, bench), 0);
    for (unsigned i = 0; i < 2000; i++) {
        post(bench, (uint16_t)(i % 8));
        kick(bench);
        if (i % 50 == 7) {
            quiesce(bench);
            start(bench);
        }
        assert_answered(bench, (uint16_t)(i % 8));
    }
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(served_count(bench->echo), 2000);
}

/* The linker hands the device's question "did one come meanwhile?" to the test, which lets one come
 * just then, and does not kick. */
static struct bench *late_bench;

bool __real_virtio_queue_want_kicks(struct virtio_queue *queue);
bool __wrap_virtio_queue_want_kicks(struct virtio_queue *queue);

bool __wrap_virtio_queue_want_kicks(struct virtio_queue *queue)
{
    struct bench *bench = __atomic_exchange_n(&late_bench, NULL, __ATOMIC_SEQ_CST);

    if (bench)
        post(bench, 1);
    return __real_virtio_queue_want_kicks(queue);
}

static void a_chain_that_comes_as_the_device_goes_idle_is_served(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, 0);
    wait_until(is_idle, bench->echo, "the worker");
    post(bench, 0);
    __atomic_store_n(&late_bench, bench, __ATOMIC_SEQ_CST);
    kick(bench);
    assert_answered(bench, 0);
    assert_answered(bench, 1);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_new, bench_free)
    static const struct CMUnitTest tests[] = {
        CASE(the_device_says_what_it_is),
        CASE(registers_are_32_bits_wide),
        CASE(the_configuration_reads_in_any_width_and_is_not_written),
        CASE(features_are_agreed_only_when_offered_and_modern),
        CASE(features_are_settled_by_features_ok),
        CASE(status_bits_are_added_and_never_taken),
        CASE(a_ready_queue_stays_where_it_is),
        CASE(reset_brings_everything_back),
        CASE(a_chain_is_answered_and_told_by_one_interrupt),
        CASE(an_acknowledgement_that_leaves_a_reason_gives_its_edge_again),
        CASE(nothing_is_served_before_driver_ok),
        CASE(a_queue_switched_off_is_not_served),
        CASE(a_failed_driver_is_not_served),
        CASE(a_malformed_chain_stops_the_device_until_reset),
        CASE(a_chain_without_sense_stops_the_device_until_reset),
        CASE(a_jump_of_the_index_stops_the_device_until_reset),
        CASE(a_queue_outside_ram_is_not_made_ready),
        CASE(random_register_writes_do_no_harm),
        CASE(a_chain_that_is_begun_is_finished_before_rest),
        CASE(after_a_time_out_the_device_goes_on),
        CASE(reset_returns_when_the_device_has_stopped),
        CASE(what_waited_while_a_register_held_the_device_is_served),
        CASE(a_saved_device_goes_on_in_another),
        CASE(a_device_that_is_being_set_up_goes_on_in_another),
        CASE(hostile_states_are_refused_and_change_nothing),
        CASE(impossible_counters_stop_the_device_and_nothing_else),
        CASE(many_threads_at_once_get_every_chain_answered),
        CASE(a_chain_that_comes_as_the_device_goes_idle_is_served),
    };
#undef CASE

    return unit_run(tests);
}
