/*
 * virtio.c - virtio-mmio (version 2) devices with one split queue each.
 *
 * After "Virtual I/O Device (VIRTIO) Version 1.2", 4.2 (MMIO) and 2.7 (split queues).
 */
#include "virtio.h"

#include "cpu.h"
#include "ram.h"

#define MMIO_GPA UINT64_C(0xd0000000)
#define MMIO_STRIDE 0x1000u
#define REG_MAGIC 0x000u
#define REG_VERSION 0x004u
#define REG_DEVICE_ID 0x008u
#define REG_DEVICE_FEATURES 0x010u
#define REG_DEVICE_FEATURES_SEL 0x014u
#define REG_DRIVER_FEATURES 0x020u
#define REG_DRIVER_FEATURES_SEL 0x024u
#define REG_QUEUE_SEL 0x030u
#define REG_QUEUE_SIZE_MAX 0x034u
#define REG_QUEUE_SIZE 0x038u
#define REG_QUEUE_READY 0x044u
#define REG_QUEUE_NOTIFY 0x050u
#define REG_INTERRUPT_STATUS 0x060u
#define REG_INTERRUPT_ACK 0x064u
#define REG_STATUS 0x070u
#define REG_QUEUE_DESC 0x080u
#define REG_QUEUE_DRIVER 0x090u
#define REG_QUEUE_DEVICE 0x0a0u
#define REG_CONFIG 0x100u

#define MAGIC 0x74726976u
#define STATUS_ACKNOWLEDGE 1u
#define STATUS_DRIVER 2u
#define STATUS_DRIVER_OK 4u
#define STATUS_FEATURES_OK 8u
#define FEATURE_VERSION_1_HIGH 1u /* bit 32 */
#define DESC_NEXT 1u
#define DESC_WRITE 2u

/* Where the three parts of the queue lie in its page. */
#define AVAILABLE_OFFSET 0x400u
#define USED_OFFSET 0x800u

static struct virtio_device *devices[VIRTIO_SLOTS];

static uint32_t reg_read(const struct virtio_device *device, uint32_t reg)
{
    return mmio_read32(device->gpa + reg);
}

static void reg_write(const struct virtio_device *device, uint32_t reg, uint32_t value)
{
    mmio_write32(device->gpa + reg, value);
}

static void reg_write_gpa(const struct virtio_device *device, uint32_t reg, volatile void *memory)
{
    reg_write(device, reg, (uint32_t)(uint64_t)memory);
    reg_write(device, reg + 4, (uint32_t)((uint64_t)memory >> 32));
}

bool virtio_probe(uint32_t slot, struct virtio_device *ret_device)
{
    ret_device->gpa = MMIO_GPA + (uint64_t)slot * MMIO_STRIDE;
    ret_device->slot = slot;
    if (reg_read(ret_device, REG_MAGIC) != MAGIC || reg_read(ret_device, REG_VERSION) != 2)
        return false;
    ret_device->id = reg_read(ret_device, REG_DEVICE_ID);
    return ret_device->id != 0;
}

static void queue_set_up(struct virtio_device *device)
{
    uint8_t *page = ram_alloc(PAGE_SIZE);

    device->descriptors = (void *)page;
    device->available = (void *)(page + AVAILABLE_OFFSET);
    device->used = (void *)(page + USED_OFFSET);
    device->used_seen = 0;

    reg_write(device, REG_QUEUE_SEL, 0);
    reg_write(device, REG_QUEUE_SIZE, VIRTIO_QUEUE_SIZE);
    reg_write_gpa(device, REG_QUEUE_DESC, device->descriptors);
    reg_write_gpa(device, REG_QUEUE_DRIVER, device->available);
    reg_write_gpa(device, REG_QUEUE_DEVICE, device->used);
    reg_write(device, REG_QUEUE_READY, 1);
}

bool virtio_start(struct virtio_device *device, uint32_t features)
{
    uint32_t status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;

    reg_write(device, REG_STATUS, 0);
    reg_write(device, REG_STATUS, status);

    reg_write(device, REG_DEVICE_FEATURES_SEL, 1);
    if (!(reg_read(device, REG_DEVICE_FEATURES) & FEATURE_VERSION_1_HIGH))
        return false;
    reg_write(device, REG_DEVICE_FEATURES_SEL, 0);
    device->features = reg_read(device, REG_DEVICE_FEATURES) & features;
    reg_write(device, REG_DRIVER_FEATURES_SEL, 0);
    reg_write(device, REG_DRIVER_FEATURES, device->features);
    reg_write(device, REG_DRIVER_FEATURES_SEL, 1);
    reg_write(device, REG_DRIVER_FEATURES, FEATURE_VERSION_1_HIGH);
    status |= STATUS_FEATURES_OK;
    reg_write(device, REG_STATUS, status);
    if (!(reg_read(device, REG_STATUS) & STATUS_FEATURES_OK))
        return false;

    reg_write(device, REG_QUEUE_SEL, 0);
    if (reg_read(device, REG_QUEUE_SIZE_MAX) < VIRTIO_QUEUE_SIZE)
        return false;
    queue_set_up(device);
    devices[device->slot] = device;
    reg_write(device, REG_STATUS, status | STATUS_DRIVER_OK);
    return true;
}

uint32_t virtio_config_read32(const struct virtio_device *device, uint32_t offset)
{
    return reg_read(device, REG_CONFIG + offset);
}

void virtio_post(struct virtio_device *device, uint32_t chain, const struct virtio_buffer *buffers,
                 uint32_t buffer_count)
{
    const uint32_t head = chain * VIRTIO_CHAIN_MAX;
    const uint16_t index = device->available->index;

    for (uint32_t i = 0; i < buffer_count; i++) {
        struct virtio_descriptor *descriptor = &device->descriptors[head + i];

        descriptor->gpa = (uint64_t)buffers[i].memory;
        descriptor->size = buffers[i].size;
        descriptor->flags = (uint16_t)((i + 1 < buffer_count ? DESC_NEXT : 0) |
                                       (buffers[i].device_writes ? DESC_WRITE : 0));
        descriptor->next = (uint16_t)(head + i + 1);
    }
    device->available->ring[index % VIRTIO_QUEUE_SIZE] = (uint16_t)head;
    compiler_barrier(); /* stores stay in order on x86 */
    device->available->index = (uint16_t)(index + 1);
    compiler_barrier();
    reg_write(device, REG_QUEUE_NOTIFY, 0);
}

bool virtio_has_unseen(const struct virtio_device *device)
{
    return device->used->index != device->used_seen;
}

void virtio_collect(struct virtio_device *device)
{
    while (virtio_has_unseen(device)) {
        const uint32_t at = device->used_seen % VIRTIO_QUEUE_SIZE;
        const uint32_t id = device->used->ring[at].id;
        const uint32_t size = device->used->ring[at].size;

        device->used_seen++;
        device->completed(device, id % VIRTIO_CHAIN_MAX ? VIRTIO_CHAINS : id / VIRTIO_CHAIN_MAX,
                          size);
    }
}

void virtio_interrupt(uint32_t slot)
{
    struct virtio_device *device = devices[slot];

    if (!device)
        return;
    device->interrupts++;
    reg_write(device, REG_INTERRUPT_ACK, reg_read(device, REG_INTERRUPT_STATUS));
    virtio_collect(device);
}
