/*
 * virtio.h - virtio-mmio (version 2) devices with one split queue each.
 *
 * The queue is used in fixed chains: request number i owns descriptors 4 i .. 4 i + 3, so a used
 * ring entry names its request. Interrupt handlers only call the driver's `completed`.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#define VIRTIO_SLOTS 8u
#define VIRTIO_QUEUE_SIZE 32u
#define VIRTIO_CHAIN_MAX 4u
#define VIRTIO_CHAINS (VIRTIO_QUEUE_SIZE / VIRTIO_CHAIN_MAX)

#define VIRTIO_ID_BLOCK 2u
#define VIRTIO_ID_ENTROPY 4u

struct virtio_buffer {
    void *memory;
    uint32_t size;
    bool device_writes;
};

struct virtio_descriptor {
    uint64_t gpa;
    uint32_t size;
    uint16_t flags, next;
};

struct virtio_available {
    uint16_t flags, index;
    uint16_t ring[VIRTIO_QUEUE_SIZE];
};

struct virtio_used {
    uint16_t flags, index;
    struct {
        uint32_t id, size;
    } ring[VIRTIO_QUEUE_SIZE];
};

struct virtio_device {
    uint64_t gpa;
    uint32_t slot, id;
    uint32_t features; /* the low 32 that both sides have */
    volatile uint64_t interrupts;
    uint16_t used_seen;
    struct virtio_descriptor *descriptors;
    volatile struct virtio_available *available;
    volatile struct virtio_used *used;

    /* In interrupt context or with interrupts off, once per used ring entry; `chain` is what the
     * device said and may be no chain at all (VIRTIO_CHAINS or more). */
    void (*completed)(struct virtio_device *device, uint32_t chain, uint32_t size);
};

/* Is there a device in the slot? Fills gpa, slot and id. */
bool virtio_probe(uint32_t slot, struct virtio_device *ret_device);

/* Negotiates version 1 and those of `features` that are offered, sets the queue up, and starts. */
bool virtio_start(struct virtio_device *device, uint32_t features);

uint32_t virtio_config_read32(const struct virtio_device *device, uint32_t offset);

void virtio_post(struct virtio_device *device, uint32_t chain, const struct virtio_buffer *buffers,
                 uint32_t buffer_count);

/* Used entries that no interrupt has told us of. */
bool virtio_has_unseen(const struct virtio_device *device);
void virtio_collect(struct virtio_device *device); /* interrupts off */

void virtio_interrupt(uint32_t slot);

#endif
