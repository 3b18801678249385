/* virtio_queue.h - a split virtqueue (virtio 1.2, section 2.7) as the device sees it.
 *
 *     guest   writes descriptors, puts the head of a chain into the driver area ("available")
 *     device  pops the chain, does what it asks, pushes its head into the device area ("used")
 *
 * The queue lives in guest RAM and the guest is hostile: every address, index and length is copied
 * out first and then checked, a chain is followed for at most VIRTIO_QUEUE_SIZE_MAX descriptors, and
 * nothing outside RAM is touched. What breaks the rules gives -EBADMSG, and the device must then not
 * use the queue until the driver has reset it.
 *
 * One thread at a time. Needs no call to be saved: at rest the state is next_avail and next_used. */
#ifndef STASIS_MICROVM_VIRTIO_QUEUE_H
#define STASIS_MICROVM_VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "microvm/device.h"

#define VIRTIO_QUEUE_SIZE_MAX 256u

/* What the driver says of a queue before it switches it on. */
struct virtio_queue_setup {
    uint32_t size; /* descriptors */
    uint64_t desc_gpa;
    uint64_t driver_gpa;
    uint64_t device_gpa;
};

struct virtio_queue {
    bool ready;
    bool event_idx;         /* VIRTIO_RING_F_EVENT_IDX negotiated */
    bool indirect;          /* VIRTIO_RING_F_INDIRECT_DESC negotiated */
    uint16_t size;          /* a power of two, at most VIRTIO_QUEUE_SIZE_MAX */
    uint16_t next_avail;    /* of the next chain to pop; counts modulo 2^16 */
    uint16_t next_used;     /* of the next element to push */
    uint16_t signaled_used; /* next_used when virtio_queue_wants_interrupt() was last asked */
    const struct guest_memory *memory;
    const uint8_t *desc_area; /* the three areas in this process, checked to be RAM */
    const uint16_t *driver_area;
    uint16_t *device_area;
};

/* A chain as a list of buffers in this process: first those that the device reads, then those it
 * writes. Their content may change at any time. */
struct virtio_chain {
    uint16_t head;
    size_t out_count;  /* buffers to read: iov[0..out_count) */
    size_t in_count;   /* buffers to write: iov[out_count..out_count + in_count) */
    uint64_t out_size; /* bytes; out_size + in_size fits 32 bits */
    uint64_t in_size;
    struct iovec iov[VIRTIO_QUEUE_SIZE_MAX];
};

/* Switch the queue on at the given places. -EBADMSG: a size or an alignment that virtio forbids, or
 * an area that is not RAM; the queue is then as it was. */
int virtio_queue_enable(struct virtio_queue *queue, const struct guest_memory *memory,
                        const struct virtio_queue_setup *setup, uint16_t next_avail,
                        uint16_t next_used);

/* 1 and a chain; 0 nothing there; -EBADMSG the guest broke the rules. The queue must be ready. */
int virtio_queue_pop(struct virtio_queue *queue, struct virtio_chain *ret_chain);

/* The first `written_size` bytes to write of a chain may have been written: they are in the next diff.
 * Comes before virtio_queue_push(). */
void virtio_queue_written(const struct virtio_queue *queue, const struct virtio_chain *chain,
                          uint32_t written_size);

/* Give a chain back, of which the first `written_size` bytes to write have been written. */
void virtio_queue_push(struct virtio_queue *queue, uint16_t head, uint32_t written_size);

/* Whether the driver wants to hear of what was pushed since the last call. */
bool virtio_queue_wants_interrupt(struct virtio_queue *queue);

/* Kicks are of no use while chains are being popped... */
void virtio_queue_suppress_kicks(struct virtio_queue *queue);
/* ...and needed again before waiting. True when a chain came meanwhile: its kick may not come. */
bool virtio_queue_want_kicks(struct virtio_queue *queue);

/* The part [skip, skip + size) of a list of buffers; returns its count, at most `count`. */
size_t virtio_slice(const struct iovec *iov, size_t count, uint64_t skip, uint64_t size,
                    struct iovec *ret_slice);

/* Copy up to `size` bytes from or to a list of buffers; returns how many there was room for. */
size_t virtio_copy_from(const struct iovec *iov, size_t count, void *buf, size_t size);
size_t virtio_copy_to(const struct iovec *iov, size_t count, const void *buf, size_t size);

#endif
