/* virtio_mmio.h - the virtio-mmio transport (virtio 1.2, section 4.2, version 2) of a device.
 *
 * A virtio device embeds a `struct virtio_device`, fills in a `struct virtio_class`, and serves
 * chains; registers, status, queues, interrupts, the worker and the saved state are done here.
 *
 * Threads: registers by vCPU threads, under `lock`. Queues are used by the worker only, without lock;
 * a vCPU thread that changes one (reset, QueueReady) holds the worker meanwhile. */
#ifndef STASIS_MICROVM_VIRTIO_MMIO_H
#define STASIS_MICROVM_VIRTIO_MMIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/field.h>

#include "microvm/device.h"
#include "microvm/virtio_queue.h"
#include "microvm/worker.h"

#define VIRTIO_QUEUE_COUNT_MAX 4u
#define VIRTIO_CONFIG_SIZE_MAX 64u

struct virtio_device;

struct virtio_class {
    uint32_t device_id; /* VIRTIO_ID_* */
    uint32_t queue_count;
    /* Do what one chain asks for, on the worker. -EBADMSG: a chain that makes no sense, the device
     * then asks for a reset, and nothing may have been written; otherwise 0 and the bytes written into
     * the chain's buffers: nothing beyond them may have been. */
    int (*serve)(struct virtio_device *virtio, const struct virtio_chain *chain,
                 uint32_t *ret_written_size);
};

struct virtio_device {
    struct device device; /* first: what the bus sees */
    const struct virtio_class *class;
    const struct guest_memory *memory;
    struct irq_line irq;
    struct worker worker;

    /* Constant once the device is made. */
    uint64_t offered_features;
    uint8_t config[VIRTIO_CONFIG_SIZE_MAX]; /* little-endian; the rest reads as zero */

    pthread_mutex_t lock; /* all below but the content of ready queues */
    uint64_t driver_features;
    uint32_t device_features_sel, driver_features_sel, queue_sel;
    uint32_t status;           /* VIRTIO_CONFIG_S_* */
    uint32_t interrupt_status; /* VIRTIO_MMIO_INT_* */
    struct virtio_queue_setup setups[VIRTIO_QUEUE_COUNT_MAX];
    struct virtio_queue queues[VIRTIO_QUEUE_COUNT_MAX];

    struct virtio_chain chain; /* the worker's, one at a time */
};

/* The state that all virtio devices have in common; part of each one's state struct. */
struct virtio_queue_state {
    bool ready;
    uint32_t size;
    uint64_t desc_gpa, driver_gpa, device_gpa;
    uint16_t next_avail, next_used;
};

struct virtio_state {
    uint64_t driver_features;
    uint32_t device_features_sel, driver_features_sel, queue_sel;
    uint32_t status, interrupt_status;
    struct virtio_queue_state *queues;
    size_t queues_count;
};

extern const struct stasis_table virtio_state_table;

/* `features` are the class's own; those of the ring and VIRTIO_F_VERSION_1 are added. The config
 * space is filled in by the caller, before the device is on the bus. */
void virtio_init(struct virtio_device *virtio, const struct virtio_class *class,
                 const struct irq_line *irq, const struct guest_memory *memory, uint64_t features);
/* Ends the worker, releases what init made. */
void virtio_release(struct virtio_device *virtio);

/* For the class's device_ops. */
uint64_t virtio_mmio_read(struct device *device, uint64_t offset, unsigned size);
void virtio_mmio_write(struct device *device, uint64_t offset, unsigned size, uint64_t value);
int virtio_run(struct device *device, struct stasis_error *err);
int virtio_quiesce(struct device *device, uint64_t deadline_ns, struct stasis_error *err);

/* At rest. The queue list is the caller's to free (stasis_fields_release()). */
int virtio_save(struct virtio_device *virtio, struct virtio_state *ret_state,
                struct stasis_error *err);
/* Hostile input: STASIS_ERR_INVALID_MACHINE, and the device is as it was. Before run(). */
int virtio_load(struct virtio_device *virtio, const struct virtio_state *state,
                struct stasis_error *err);

#endif
