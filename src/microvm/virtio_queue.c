/*
 * virtio_queue.c - a split virtqueue (virtio 1.2, section 2.7) as the device sees it.
 *
 *     descriptors   { gpa, length, flags, next } x size      16 bytes each, 16-byte aligned
 *     driver area   flags idx ring[size] used_event          u16 each
 *     device area   flags idx { id, length } x size avail_event
 *
 * This file is where a guest's numbers become pointers of ours, so it is the first thing a hostile
 * guest attacks: if a check is missing here, the guest reads or writes the VMM's memory. It may touch
 * guest RAM only, and only through guest_memory_at(). Every number is read once: the guest may
 * change it between two looks.
 *
 * Order matters too: the driver's idx is read before the ring entry it covers (acquire), ours is
 * written after it (release), and a look at the other side's wish (used_event, flags, idx) must not
 * overtake our own last word, which is why those pairs are sequentially consistent.
 */
#include "microvm/virtio_queue.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ring.h>
#include <string.h>

/* Offsets in the driver and device areas, in units of u16. */
#define AREA_FLAGS 0
#define AREA_IDX 1
#define AREA_RING 2

/* The compiler must neither read a copied value again from guest RAM nor move a copy over this. */
static void copied(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static uint16_t area_load(const uint16_t *place, int order)
{
    return le16toh(__atomic_load_n(place, order));
}

/* Into the device area, the only one of the three that is ours to write. */
static void area_store(const struct virtio_queue *queue, uint16_t *place, uint16_t value, int order)
{
    __atomic_store_n(place, htole16(value), order);
    guest_memory_written(queue->memory, place, sizeof(*place));
}

/* used_event: the driver wants an interrupt once next_used passes it. */
static const uint16_t *used_event_of(const struct virtio_queue *queue)
{
    return &queue->driver_area[AREA_RING + queue->size];
}

/* avail_event: we want a kick once the driver's idx passes it. */
static uint16_t *avail_event_of(const struct virtio_queue *queue)
{
    return &queue->device_area[AREA_RING + 4 * queue->size];
}

static bool is_valid_size(uint32_t size)
{
    return size > 0 && size <= VIRTIO_QUEUE_SIZE_MAX && (size & (size - 1)) == 0;
}

int virtio_queue_enable(struct virtio_queue *queue, const struct guest_memory *memory,
                        const struct virtio_queue_setup *setup, uint16_t next_avail,
                        uint16_t next_used)
{
    const void *desc_area, *driver_area;
    void *device_area;

    if (!is_valid_size(setup->size))
        return -EBADMSG;
    if (setup->desc_gpa % 16 || setup->driver_gpa % 2 || setup->device_gpa % 4)
        return -EBADMSG;

    desc_area = guest_memory_at(memory, setup->desc_gpa, 16 * (uint64_t)setup->size);
    driver_area = guest_memory_at(memory, setup->driver_gpa, 6 + 2 * (uint64_t)setup->size);
    device_area = guest_memory_at(memory, setup->device_gpa, 6 + 8 * (uint64_t)setup->size);
    if (!desc_area || !driver_area || !device_area)
        return -EBADMSG;

    queue->memory = memory;
    queue->size = (uint16_t)setup->size;
    queue->desc_area = desc_area;
    queue->driver_area = driver_area;
    queue->device_area = device_area;
    queue->next_avail = next_avail;
    queue->next_used = next_used;
    queue->signaled_used = next_used;
    queue->ready = true;
    return 0;
}

/* A table of descriptors: the queue's own, or an indirect one. */
struct desc_table {
    const uint8_t *descs;
    uint32_t count;
    bool indirect;
};

static struct vring_desc load_desc(const struct desc_table *table, uint32_t index)
{
    struct vring_desc raw;

    memcpy(&raw, table->descs + sizeof(raw) * (size_t)index, sizeof(raw));
    copied();
    return (struct vring_desc){ .addr = le64toh(raw.addr),
                                .len = le32toh(raw.len),
                                .flags = le16toh(raw.flags),
                                .next = le16toh(raw.next) };
}

static int add_buffer(const struct virtio_queue *queue, const struct vring_desc *desc,
                      struct virtio_chain *chain)
{
    const bool writable = desc->flags & VRING_DESC_F_WRITE;
    const size_t at = chain->out_count + chain->in_count;
    void *hva;

    if (!writable && chain->in_count > 0)
        return -EBADMSG; /* buffers to read come first */
    if (desc->len == 0)
        return 0;
    hva = guest_memory_at(queue->memory, desc->addr, desc->len);
    if (!hva || at >= VIRTIO_QUEUE_SIZE_MAX)
        return -EBADMSG;

    chain->iov[at] = (struct iovec){ .iov_base = hva, .iov_len = desc->len };
    *(writable ? &chain->in_count : &chain->out_count) += 1;
    *(writable ? &chain->in_size : &chain->out_size) += desc->len;
    return chain->out_size + chain->in_size > UINT32_MAX ? -EBADMSG : 0;
}

/* From the descriptor that stands for a table to the table. */
static int open_indirect(const struct virtio_queue *queue, const struct vring_desc *desc,
                         struct desc_table *table)
{
    const size_t entry_size = sizeof(struct vring_desc);

    if (!queue->indirect || table->indirect || desc->flags & VRING_DESC_F_NEXT)
        return -EBADMSG;
    if (desc->len == 0 || desc->len % entry_size || desc->len / entry_size > VIRTIO_QUEUE_SIZE_MAX)
        return -EBADMSG;

    table->descs = guest_memory_at(queue->memory, desc->addr, desc->len);
    table->count = (uint32_t)(desc->len / entry_size);
    table->indirect = true;
    return table->descs ? 0 : -EBADMSG;
}

static int follow_chain(const struct virtio_queue *queue, uint16_t head, struct virtio_chain *chain)
{
    struct desc_table table = { .descs = queue->desc_area, .count = queue->size };
    uint32_t index = head;

    /* A chain that is longer than this goes in circles. */
    for (unsigned steps = 0; steps <= VIRTIO_QUEUE_SIZE_MAX; steps++) {
        struct vring_desc desc;

        if (index >= table.count)
            return -EBADMSG;
        desc = load_desc(&table, index);

        if (desc.flags & VRING_DESC_F_INDIRECT) {
            if (open_indirect(queue, &desc, &table) < 0)
                return -EBADMSG;
            index = 0;
            continue;
        }
        if (add_buffer(queue, &desc, chain) < 0)
            return -EBADMSG;
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return 0;
        index = desc.next;
    }
    return -EBADMSG;
}

int virtio_queue_pop(struct virtio_queue *queue, struct virtio_chain *ret_chain)
{
    const uint16_t idx = area_load(&queue->driver_area[AREA_IDX], __ATOMIC_ACQUIRE);
    const uint16_t waiting = (uint16_t)(idx - queue->next_avail);
    const uint16_t slot = queue->next_avail % queue->size;
    uint16_t head;

    if (waiting == 0)
        return 0;
    if (waiting > queue->size)
        return -EBADMSG;

    head = area_load(&queue->driver_area[AREA_RING + slot], __ATOMIC_RELAXED);
    ret_chain->head = head;
    ret_chain->out_count = ret_chain->in_count = 0;
    ret_chain->out_size = ret_chain->in_size = 0;
    if (follow_chain(queue, head, ret_chain) < 0)
        return -EBADMSG;
    queue->next_avail++;
    return 1;
}

void virtio_queue_written(const struct virtio_queue *queue, const struct virtio_chain *chain,
                          uint32_t written_size)
{
    const struct iovec *iov = chain->iov + chain->out_count;
    uint64_t left = written_size;

    for (size_t i = 0; i < chain->in_count && left > 0; i++) {
        const uint64_t size = iov[i].iov_len < left ? iov[i].iov_len : left;

        guest_memory_written(queue->memory, iov[i].iov_base, size);
        left -= size;
    }
}

void virtio_queue_push(struct virtio_queue *queue, uint16_t head, uint32_t written_size)
{
    const struct vring_used_elem element = { .id = htole32(head), .len = htole32(written_size) };
    const uint16_t slot = queue->next_used % queue->size;

    memcpy(&queue->device_area[AREA_RING + 4 * slot], &element, sizeof(element));
    guest_memory_written(queue->memory, &queue->device_area[AREA_RING + 4 * slot], sizeof(element));
    queue->next_used++;
    area_store(queue, &queue->device_area[AREA_IDX], queue->next_used, __ATOMIC_SEQ_CST);
}

bool virtio_queue_wants_interrupt(struct virtio_queue *queue)
{
    const uint16_t before = queue->signaled_used;

    queue->signaled_used = queue->next_used;
    if (queue->event_idx) {
        const uint16_t event = area_load(used_event_of(queue), __ATOMIC_SEQ_CST);

        return vring_need_event(event, queue->next_used, before);
    }
    return !(area_load(&queue->driver_area[AREA_FLAGS], __ATOMIC_SEQ_CST) &
             VRING_AVAIL_F_NO_INTERRUPT);
}

void virtio_queue_suppress_kicks(struct virtio_queue *queue)
{
    /* With event indices the old avail_event does it: the driver is past it already. */
    if (!queue->event_idx)
        area_store(queue, &queue->device_area[AREA_FLAGS], VRING_USED_F_NO_NOTIFY,
                   __ATOMIC_RELAXED);
}

bool virtio_queue_want_kicks(struct virtio_queue *queue)
{
    if (queue->event_idx)
        area_store(queue, avail_event_of(queue), queue->next_avail, __ATOMIC_SEQ_CST);
    else
        area_store(queue, &queue->device_area[AREA_FLAGS], 0, __ATOMIC_SEQ_CST);
    return area_load(&queue->driver_area[AREA_IDX], __ATOMIC_SEQ_CST) != queue->next_avail;
}

size_t virtio_slice(const struct iovec *iov, size_t count, uint64_t skip, uint64_t size,
                    struct iovec *ret_slice)
{
    size_t used = 0;

    for (size_t i = 0; i < count && size > 0; i++) {
        const uint64_t skip_here = skip < iov[i].iov_len ? skip : iov[i].iov_len;
        const uint64_t left = iov[i].iov_len - skip_here;
        const uint64_t take = left < size ? left : size;

        skip -= skip_here;
        if (take == 0)
            continue;
        ret_slice[used++] = (struct iovec){ .iov_base = (uint8_t *)iov[i].iov_base + skip_here,
                                            .iov_len = (size_t)take };
        size -= take;
    }
    return used;
}

size_t virtio_copy_from(const struct iovec *iov, size_t count, void *buf, size_t size)
{
    size_t done = 0;

    for (size_t i = 0; i < count && done < size; i++) {
        const size_t step = iov[i].iov_len < size - done ? iov[i].iov_len : size - done;

        memcpy((uint8_t *)buf + done, iov[i].iov_base, step);
        done += step;
    }
    copied();
    return done;
}

size_t virtio_copy_to(const struct iovec *iov, size_t count, const void *buf, size_t size)
{
    size_t done = 0;

    for (size_t i = 0; i < count && done < size; i++) {
        const size_t step = iov[i].iov_len < size - done ? iov[i].iov_len : size - done;

        memcpy(iov[i].iov_base, (const uint8_t *)buf + done, step);
        done += step;
    }
    return done;
}
