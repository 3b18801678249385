/*
 * virtio_mmio.c - the virtio-mmio transport: registers, device status, interrupts, saved state.
 *
 *     0x000 .. 0x0ff   registers, 32 bits each, naturally aligned; others read as zero
 *     0x100 ..         configuration space of the device, any width, read-only
 *
 * The driver on the other side is hostile. Registers keep what it writes and promise nothing;
 * a queue becomes real when QueueReady is written and its places have been checked. What breaks the
 * rules later sets DEVICE_NEEDS_RESET, and the device then touches nothing until it is reset.
 *
 * Interrupts are edges, InterruptStatus is a level: each new reason pulses the line, and so does an
 * acknowledgement that leaves a reason standing. If that is wrong, a guest waits for ever.
 */
#include "microvm/virtio_mmio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define MMIO_MAGIC 0x74726976u /* "virt" */
#define MMIO_VERSION 2u
#define MMIO_VENDOR 0x53415453u /* "STAS" */
#define NO_SHARED_MEMORY 0xffffffffu

#define STATUS_FROM_DRIVER                                                                         \
    ((uint32_t)(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
                VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED))
#define STATUS_ALL (STATUS_FROM_DRIVER | (uint32_t)VIRTIO_CONFIG_S_NEEDS_RESET)
#define INTERRUPT_ALL ((uint32_t)(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG))

#define TRANSPORT_FEATURES                                                                         \
    (UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX |                  \
     UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)

static struct virtio_device *virtio_of(struct device *device)
{
    return (struct virtio_device *)device;
}

static bool has_feature(const struct virtio_device *virtio, unsigned bit)
{
    return virtio->driver_features >> bit & 1;
}

/* --- interrupts and status; all under lock -------------------------------------------------- */

static void raise_interrupt(struct virtio_device *virtio, uint32_t reason)
{
    virtio->interrupt_status |= reason;
    irq_line_pulse(&virtio->irq);
}

static void need_reset(struct virtio_device *virtio)
{
    virtio->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    if (virtio->status & VIRTIO_CONFIG_S_DRIVER_OK)
        raise_interrupt(virtio, VIRTIO_MMIO_INT_CONFIG);
}

static bool features_are_acceptable(const struct virtio_device *virtio, uint64_t features)
{
    return !(features & ~virtio->offered_features) && features >> VIRTIO_F_VERSION_1 & 1;
}

/* The driver only ever adds bits; those whose time has not come stay clear, and it reads that back. */
static void add_status(struct virtio_device *virtio, uint32_t value)
{
    uint32_t added = value & STATUS_FROM_DRIVER & ~virtio->status;

    if (!features_are_acceptable(virtio, virtio->driver_features))
        added &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
    virtio->status |= added & ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
    if (virtio->status & VIRTIO_CONFIG_S_FEATURES_OK)
        virtio->status |= added & VIRTIO_CONFIG_S_DRIVER_OK;
}

static bool is_live(const struct virtio_device *virtio)
{
    return virtio->status & VIRTIO_CONFIG_S_DRIVER_OK &&
           !(virtio->status & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED));
}

/* --- work ----------------------------------------------------------------------------------- */

/* A queue's view of the features; they are fixed while the device is live. */
static bool begin_work(struct virtio_device *virtio, struct virtio_queue *queue)
{
    bool live;

    pthread_mutex_lock(&virtio->lock);
    live = is_live(virtio) && queue->ready;
    queue->event_idx = has_feature(virtio, VIRTIO_RING_F_EVENT_IDX);
    queue->indirect = has_feature(virtio, VIRTIO_RING_F_INDIRECT_DESC);
    pthread_mutex_unlock(&virtio->lock);
    return live;
}

static void break_queue(struct virtio_device *virtio)
{
    pthread_mutex_lock(&virtio->lock);
    need_reset(virtio);
    pthread_mutex_unlock(&virtio->lock);
}

/* 1: a chain was served to its interrupt; 0: nothing there; -EBADMSG: broken. */
static int serve_one(struct virtio_device *virtio, struct virtio_queue *queue)
{
    uint32_t written_size = 0;
    int r = virtio_queue_pop(queue, &virtio->chain);

    if (r <= 0)
        return r;
    r = virtio->class->serve(virtio, &virtio->chain, &written_size);
    if (r < 0)
        return r;
    virtio_queue_written(queue, &virtio->chain, written_size);
    virtio_queue_push(queue, virtio->chain.head, written_size);
    if (virtio_queue_wants_interrupt(queue)) {
        pthread_mutex_lock(&virtio->lock);
        raise_interrupt(virtio, VIRTIO_MMIO_INT_VRING);
        pthread_mutex_unlock(&virtio->lock);
    }
    return 1;
}

/* Until the queue is empty and its kicks are on again, or somebody wants the worker to rest. */
static void serve_queue(struct virtio_device *virtio, struct virtio_queue *queue)
{
    if (!begin_work(virtio, queue))
        return;
    virtio_queue_suppress_kicks(queue);
    while (!worker_should_rest(&virtio->worker)) {
        const int r = serve_one(virtio, queue);

        if (r < 0) {
            break_queue(virtio);
            return;
        }
        if (r == 0 && !virtio_queue_want_kicks(queue))
            return;
        if (r == 0)
            virtio_queue_suppress_kicks(queue);
    }
}

static void serve_all(void *arg)
{
    struct virtio_device *virtio = arg;

    for (uint32_t i = 0; i < virtio->class->queue_count; i++)
        serve_queue(virtio, &virtio->queues[i]);
}

/* --- registers ------------------------------------------------------------------------------ */

static uint64_t read_config(const struct virtio_device *virtio, uint64_t at, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size && at < VIRTIO_CONFIG_SIZE_MAX; i++, at++)
        value |= (uint64_t)virtio->config[at] << (8 * i);
    return value;
}

static uint32_t half_of(uint64_t value, uint32_t which)
{
    if (which > 1)
        return 0;
    return (uint32_t)(which ? value >> 32 : value);
}

static void set_half(uint64_t *value, uint32_t which, uint32_t half)
{
    if (which == 0)
        *value = (*value & ~UINT64_C(0xffffffff)) | half;
    else if (which == 1)
        *value = (*value & UINT64_C(0xffffffff)) | (uint64_t)half << 32;
}

static uint32_t read_register(const struct virtio_device *virtio, uint32_t offset)
{
    const bool queue_exists = virtio->queue_sel < virtio->class->queue_count;

    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE: return MMIO_MAGIC;
    case VIRTIO_MMIO_VERSION: return MMIO_VERSION;
    case VIRTIO_MMIO_DEVICE_ID: return virtio->class->device_id;
    case VIRTIO_MMIO_VENDOR_ID: return MMIO_VENDOR;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return half_of(virtio->offered_features, virtio->device_features_sel);
    case VIRTIO_MMIO_QUEUE_NUM_MAX: return queue_exists ? VIRTIO_QUEUE_SIZE_MAX : 0;
    case VIRTIO_MMIO_QUEUE_READY: return queue_exists ? virtio->queues[virtio->queue_sel].ready : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS: return virtio->interrupt_status;
    case VIRTIO_MMIO_STATUS: return virtio->status;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH: return NO_SHARED_MEMORY;
    case VIRTIO_MMIO_CONFIG_GENERATION: return 0; /* the configuration never changes */
    default: return 0;
    }
}

uint64_t virtio_mmio_read(struct device *device, uint64_t offset, unsigned size)
{
    struct virtio_device *virtio = virtio_of(device);
    uint32_t value;

    if (offset >= VIRTIO_MMIO_CONFIG)
        return read_config(virtio, offset - VIRTIO_MMIO_CONFIG, size);
    if (size != 4)
        return 0;
    pthread_mutex_lock(&virtio->lock);
    value = read_register(virtio, (uint32_t)offset);
    pthread_mutex_unlock(&virtio->lock);
    return value;
}

static void reset(struct virtio_device *virtio)
{
    worker_hold(&virtio->worker); /* what it has begun it finishes first */
    pthread_mutex_lock(&virtio->lock);
    virtio->driver_features = 0;
    virtio->device_features_sel = virtio->driver_features_sel = virtio->queue_sel = 0;
    virtio->status = virtio->interrupt_status = 0;
    memset(virtio->setups, 0, sizeof(virtio->setups));
    memset(virtio->queues, 0, sizeof(virtio->queues));
    pthread_mutex_unlock(&virtio->lock);
    worker_let_go(&virtio->worker);
}

static void write_status(struct virtio_device *virtio, uint32_t value)
{
    if (value == 0) {
        reset(virtio);
        return;
    }
    pthread_mutex_lock(&virtio->lock);
    add_status(virtio, value);
    pthread_mutex_unlock(&virtio->lock);
    worker_kick(&virtio->worker); /* chains may have waited for DRIVER_OK */
}

static void set_queue_ready(struct virtio_device *virtio, bool ready)
{
    struct virtio_queue *queue = &virtio->queues[virtio->queue_sel];

    if (!ready)
        queue->ready = false;
    else if (!queue->ready && virtio_queue_enable(queue, virtio->memory,
                                                  &virtio->setups[virtio->queue_sel], 0, 0) < 0)
        need_reset(virtio);
}

static void write_queue_ready(struct virtio_device *virtio, uint32_t value)
{
    worker_hold(&virtio->worker);
    pthread_mutex_lock(&virtio->lock);
    if (virtio->queue_sel < virtio->class->queue_count)
        set_queue_ready(virtio, value & 1);
    pthread_mutex_unlock(&virtio->lock);
    worker_let_go(&virtio->worker);
}

/* Features are settled once FEATURES_OK is set. */
static void write_driver_features(struct virtio_device *virtio, uint32_t value)
{
    if (!(virtio->status & VIRTIO_CONFIG_S_FEATURES_OK))
        set_half(&virtio->driver_features, virtio->driver_features_sel, value);
}

/* Acknowledging one reason while another stands: the level stays up, so give its edge again. */
static void acknowledge(struct virtio_device *virtio, uint32_t reasons)
{
    virtio->interrupt_status &= ~reasons;
    if (virtio->interrupt_status)
        irq_line_pulse(&virtio->irq);
}

/* Where a queue shall be; a ready one stays where it is. */
static void write_queue_setup(struct virtio_device *virtio, uint32_t offset, uint32_t value)
{
    struct virtio_queue_setup *setup;

    if (virtio->queue_sel >= virtio->class->queue_count || virtio->queues[virtio->queue_sel].ready)
        return;
    setup = &virtio->setups[virtio->queue_sel];
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM: setup->size = value; break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW: set_half(&setup->desc_gpa, 0, value); break;
    case VIRTIO_MMIO_QUEUE_DESC_HIGH: set_half(&setup->desc_gpa, 1, value); break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW: set_half(&setup->driver_gpa, 0, value); break;
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH: set_half(&setup->driver_gpa, 1, value); break;
    case VIRTIO_MMIO_QUEUE_USED_LOW: set_half(&setup->device_gpa, 0, value); break;
    case VIRTIO_MMIO_QUEUE_USED_HIGH: set_half(&setup->device_gpa, 1, value); break;
    default: break; /* read-only or no register: the write is lost */
    }
}

static void write_register(struct virtio_device *virtio, uint32_t offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL: virtio->device_features_sel = value; break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL: virtio->driver_features_sel = value; break;
    case VIRTIO_MMIO_DRIVER_FEATURES: write_driver_features(virtio, value); break;
    case VIRTIO_MMIO_QUEUE_SEL: virtio->queue_sel = value; break;
    case VIRTIO_MMIO_INTERRUPT_ACK: acknowledge(virtio, value); break;
    default: write_queue_setup(virtio, offset, value); break;
    }
}

void virtio_mmio_write(struct device *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_device *virtio = virtio_of(device);
    const uint32_t value32 = (uint32_t)value;

    if (size != 4 || offset >= VIRTIO_MMIO_CONFIG)
        return;
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NOTIFY: worker_kick(&virtio->worker); return;
    case VIRTIO_MMIO_STATUS: write_status(virtio, value32); return;
    case VIRTIO_MMIO_QUEUE_READY: write_queue_ready(virtio, value32); return;
    default: break;
    }
    pthread_mutex_lock(&virtio->lock);
    write_register(virtio, (uint32_t)offset, value32);
    pthread_mutex_unlock(&virtio->lock);
}

/* --- life ----------------------------------------------------------------------------------- */

void virtio_init(struct virtio_device *virtio, const struct virtio_class *class,
                 const struct irq_line *irq, const struct guest_memory *memory, uint64_t features)
{
    virtio->class = class;
    virtio->irq = *irq;
    virtio->memory = memory;
    virtio->offered_features = features | TRANSPORT_FEATURES;
    pthread_mutex_init(&virtio->lock, NULL);
    worker_init(&virtio->worker, virtio->device.id, serve_all, virtio);
}

void virtio_release(struct virtio_device *virtio)
{
    worker_release(&virtio->worker);
    pthread_mutex_destroy(&virtio->lock);
}

int virtio_run(struct device *device, struct stasis_error *err)
{
    return worker_start(&virtio_of(device)->worker, err);
}

int virtio_quiesce(struct device *device, uint64_t deadline_ns, struct stasis_error *err)
{
    if (worker_rest(&virtio_of(device)->worker, deadline_ns) < 0)
        return stasis_fail(err, STASIS_ERR_QUIESCE_TIMEOUT,
                           "%s '%s': a request is still under way at the time limit",
                           device->ops->kind, device->id);
    return 0;
}

/* --- state ---------------------------------------------------------------------------------- */

static const struct stasis_field queue_state_fields[] = {
    STASIS_F(struct virtio_queue_state, ready, BOOL),
    STASIS_F(struct virtio_queue_state, size, U32),
    STASIS_F(struct virtio_queue_state, desc_gpa, U64, .show = STASIS_SHOW_HEX),
    STASIS_F(struct virtio_queue_state, driver_gpa, U64, .show = STASIS_SHOW_HEX),
    STASIS_F(struct virtio_queue_state, device_gpa, U64, .show = STASIS_SHOW_HEX),
    STASIS_F(struct virtio_queue_state, next_avail, U16),
    STASIS_F(struct virtio_queue_state, next_used, U16),
};
static const struct stasis_table queue_state_table =
    STASIS_TABLE(struct virtio_queue_state, queue_state_fields);

static const struct stasis_field state_fields[] = {
    STASIS_F(struct virtio_state, driver_features, U64, .show = STASIS_SHOW_HEX),
    STASIS_F(struct virtio_state, device_features_sel, U32),
    STASIS_F(struct virtio_state, driver_features_sel, U32),
    STASIS_F(struct virtio_state, queue_sel, U32),
    STASIS_F(struct virtio_state, status, U32, .show = STASIS_SHOW_HEX),
    STASIS_F(struct virtio_state, interrupt_status, U32, .show = STASIS_SHOW_HEX),
    STASIS_F_LIST(struct virtio_state, queues, VIRTIO_QUEUE_COUNT_MAX, &queue_state_table),
};
const struct stasis_table virtio_state_table = STASIS_TABLE(struct virtio_state, state_fields);

static struct virtio_queue_state queue_state(const struct virtio_queue *queue,
                                             const struct virtio_queue_setup *setup)
{
    return (struct virtio_queue_state){ .ready = queue->ready,
                                        .size = setup->size,
                                        .desc_gpa = setup->desc_gpa,
                                        .driver_gpa = setup->driver_gpa,
                                        .device_gpa = setup->device_gpa,
                                        .next_avail = queue->next_avail,
                                        .next_used = queue->next_used };
}

int virtio_save(struct virtio_device *virtio, struct virtio_state *ret_state,
                struct stasis_error *err)
{
    const uint32_t count = virtio->class->queue_count;
    struct virtio_queue_state *queues = calloc(count, sizeof(*queues));

    if (!queues)
        return stasis_fail_memory(err, "the state of virtqueues");
    pthread_mutex_lock(&virtio->lock);
    for (uint32_t i = 0; i < count; i++)
        queues[i] = queue_state(&virtio->queues[i], &virtio->setups[i]);
    *ret_state = (struct virtio_state){ .driver_features = virtio->driver_features,
                                        .device_features_sel = virtio->device_features_sel,
                                        .driver_features_sel = virtio->driver_features_sel,
                                        .queue_sel = virtio->queue_sel,
                                        .status = virtio->status,
                                        .interrupt_status = virtio->interrupt_status,
                                        .queues = queues,
                                        .queues_count = count };
    pthread_mutex_unlock(&virtio->lock);
    return 0;
}

/* Only what a driver could have brought the registers to. */
static int check_registers(const struct virtio_device *virtio, const struct virtio_state *state,
                           struct stasis_error *err)
{
    const bool features_ok = state->status & VIRTIO_CONFIG_S_FEATURES_OK;

    if (state->status & ~STATUS_ALL)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "status 0x%x has unknown bits",
                           state->status);
    if (features_ok && !features_are_acceptable(virtio, state->driver_features))
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "features 0x%llx are not what this device offers (0x%llx)",
                           (unsigned long long)state->driver_features,
                           (unsigned long long)virtio->offered_features);
    if (state->status & VIRTIO_CONFIG_S_DRIVER_OK && !features_ok)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "status 0x%x: running without agreed features", state->status);
    if (state->interrupt_status & ~INTERRUPT_ALL)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "interrupt status 0x%x has unknown bits", state->interrupt_status);
    if (state->queues_count != virtio->class->queue_count)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "%zu queues, this device has %u",
                           state->queues_count, virtio->class->queue_count);
    return 0;
}

static int load_queue(const struct virtio_device *virtio, const struct virtio_queue_state *state,
                      struct virtio_queue *queue, struct virtio_queue_setup *setup)
{
    *setup = (struct virtio_queue_setup){ .size = state->size,
                                          .desc_gpa = state->desc_gpa,
                                          .driver_gpa = state->driver_gpa,
                                          .device_gpa = state->device_gpa };
    if (state->ready)
        return virtio_queue_enable(queue, virtio->memory, setup, state->next_avail,
                                   state->next_used);
    queue->next_avail = state->next_avail;
    queue->next_used = state->next_used;
    return 0;
}

int virtio_load(struct virtio_device *virtio, const struct virtio_state *state,
                struct stasis_error *err)
{
    struct virtio_queue queues[VIRTIO_QUEUE_COUNT_MAX] = { 0 };
    struct virtio_queue_setup setups[VIRTIO_QUEUE_COUNT_MAX] = { 0 };
    const int r = check_registers(virtio, state, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < state->queues_count; i++) {
        if (load_queue(virtio, &state->queues[i], &queues[i], &setups[i]) < 0)
            return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                               "queue %zu: size %u or a ring's place is not possible", i,
                               state->queues[i].size);
    }

    pthread_mutex_lock(&virtio->lock);
    virtio->driver_features = state->driver_features;
    virtio->device_features_sel = state->device_features_sel;
    virtio->driver_features_sel = state->driver_features_sel;
    virtio->queue_sel = state->queue_sel;
    virtio->status = state->status;
    virtio->interrupt_status = state->interrupt_status;
    memcpy(virtio->setups, setups, sizeof(setups));
    memcpy(virtio->queues, queues, sizeof(queues));
    pthread_mutex_unlock(&virtio->lock);
    return 0;
}
