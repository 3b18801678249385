/* device_fixture.c - what tests of devices stand on: guest RAM, interrupt lines, a virtio driver. */
#include "device_fixture.h"

#include <endian.h>
#include <linux/virtio_mmio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define GUARD_SIZE 65536u
#define GSI_COUNT 32u

static unsigned pulses[GSI_COUNT];

/* In the place of the real one, which is not linked. */
void irq_line_pulse(const struct irq_line *line)
{
    __atomic_fetch_add(&pulses[line->gsi % GSI_COUNT], 1, __ATOMIC_SEQ_CST);
}

unsigned irq_pulses(uint32_t gsi)
{
    return __atomic_exchange_n(&pulses[gsi % GSI_COUNT], 0, __ATOMIC_SEQ_CST);
}

uint64_t dice_roll(struct dice *dice)
{
    uint64_t z = (dice->state += UINT64_C(0x9e3779b97f4a7c15)); /* SplitMix64 */

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t dice_below(struct dice *dice, uint64_t limit)
{
    return dice_roll(dice) % limit;
}

/* --- RAM ------------------------------------------------------------------------------------ */

static void *map_guarded(uint64_t size)
{
    uint8_t *all = mmap(NULL, size + 2 * GUARD_SIZE, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_ptr_not_equal(all, MAP_FAILED);
    assert_int_equal(mprotect(all + GUARD_SIZE, size, PROT_READ | PROT_WRITE), 0);
    return all + GUARD_SIZE;
}

void fake_ram_init(struct fake_ram *ram)
{
    ram->regions[0] =
        (struct stasis_region){ .gpa = 0, .size = LOW_SIZE, .hva = map_guarded(LOW_SIZE) };
    ram->regions[1] =
        (struct stasis_region){ .gpa = HIGH_GPA, .size = HIGH_SIZE, .hva = map_guarded(HIGH_SIZE) };
    ram->memory.ram.regions = ram->regions;
    ram->memory.ram.region_count = 2;
}

void fake_ram_release(struct fake_ram *ram)
{
    for (size_t i = 0; i < 2; i++)
        munmap((uint8_t *)ram->regions[i].hva - GUARD_SIZE, ram->regions[i].size + 2 * GUARD_SIZE);
}

void fake_ram_copy(struct fake_ram *to, const struct fake_ram *from)
{
    for (size_t i = 0; i < 2; i++)
        memcpy(to->regions[i].hva, from->regions[i].hva, from->regions[i].size);
}

void *ram_at(const struct fake_ram *ram, uint64_t gpa, uint64_t size)
{
    for (size_t i = 0; i < 2; i++) {
        const struct stasis_region *region = &ram->regions[i];

        if (gpa >= region->gpa && gpa + size <= region->gpa + region->size)
            return (uint8_t *)region->hva + (gpa - region->gpa);
    }
    fail_msg("0x%llx is not RAM: the test is wrong", (unsigned long long)gpa);
    return NULL;
}

/* --- the ring, from the driver's side ------------------------------------------------------- */

static uint16_t *driver_word(const struct guest_ring *ring, unsigned index)
{
    return ram_at(ring->ram, ring->driver_gpa + 2 * index, 2);
}

static uint16_t *device_word(const struct guest_ring *ring, unsigned index)
{
    return ram_at(ring->ram, ring->device_gpa + 2 * index, 2);
}

void ring_init(struct guest_ring *ring, struct fake_ram *ram, uint16_t size, uint64_t gpa)
{
    *ring = (struct guest_ring){ .ram = ram, .size = size, .desc_gpa = gpa };
    ring->driver_gpa = gpa + 16u * size;
    ring->device_gpa = (ring->driver_gpa + 6 + 2u * size + 3) & ~UINT64_C(3);
    memset(ram_at(ram, gpa, ring_end(ring) - gpa), 0, ring_end(ring) - gpa);
}

uint64_t ring_end(const struct guest_ring *ring)
{
    return ring->device_gpa + 6 + 8u * ring->size;
}

void table_desc(struct fake_ram *ram, uint64_t table_gpa, uint16_t index, uint64_t gpa,
                uint32_t length, uint16_t flags, uint16_t next)
{
    uint8_t *place = ram_at(ram, table_gpa + 16u * index, 16);
    const uint64_t gpa_le = htole64(gpa);
    const uint32_t length_le = htole32(length);
    const uint16_t flags_le = htole16(flags), next_le = htole16(next);

    memcpy(place, &gpa_le, 8);
    memcpy(place + 8, &length_le, 4);
    memcpy(place + 12, &flags_le, 2);
    memcpy(place + 14, &next_le, 2);
}

void ring_desc(struct guest_ring *ring, uint16_t index, uint64_t gpa, uint32_t length,
               uint16_t flags, uint16_t next)
{
    table_desc(ring->ram, ring->desc_gpa, index, gpa, length, flags, next);
}

void ring_set_idx(struct guest_ring *ring, uint16_t idx)
{
    ring->posted = idx;
    __atomic_store_n(driver_word(ring, 1), htole16(idx), __ATOMIC_SEQ_CST);
}

void ring_post(struct guest_ring *ring, uint16_t head)
{
    __atomic_store_n(driver_word(ring, 2 + ring->posted % ring->size), htole16(head),
                     __ATOMIC_RELAXED);
    ring_set_idx(ring, (uint16_t)(ring->posted + 1));
}

uint16_t ring_used_idx(const struct guest_ring *ring)
{
    return le16toh(__atomic_load_n(device_word(ring, 1), __ATOMIC_ACQUIRE));
}

bool ring_take(struct guest_ring *ring, uint32_t *ret_head, uint32_t *ret_length)
{
    const uint16_t *element = device_word(ring, 2 + 4u * (ring->seen % ring->size));
    uint32_t head, length;

    if (ring_used_idx(ring) == ring->seen)
        return false;
    memcpy(&head, element, 4);
    memcpy(&length, element + 2, 4);
    ring->seen++;
    *ret_head = le32toh(head);
    *ret_length = le32toh(length);
    return true;
}

void ring_set_flags(struct guest_ring *ring, uint16_t flags)
{
    __atomic_store_n(driver_word(ring, 0), htole16(flags), __ATOMIC_SEQ_CST);
}

void ring_set_used_event(struct guest_ring *ring, uint16_t event)
{
    __atomic_store_n(driver_word(ring, 2u + ring->size), htole16(event), __ATOMIC_SEQ_CST);
}

uint16_t ring_device_flags(const struct guest_ring *ring)
{
    return le16toh(__atomic_load_n(device_word(ring, 0), __ATOMIC_SEQ_CST));
}

uint16_t ring_avail_event(const struct guest_ring *ring)
{
    return le16toh(__atomic_load_n(device_word(ring, 2u + 4u * ring->size), __ATOMIC_SEQ_CST));
}

/* --- registers ------------------------------------------------------------------------------ */

uint32_t mmio_read(struct device *device, uint32_t offset)
{
    return (uint32_t)device->ops->read(device, offset, 4);
}

void mmio_write(struct device *device, uint32_t offset, uint32_t value)
{
    device->ops->write(device, offset, 4, value);
}

uint64_t mmio_offered(struct device *device)
{
    uint64_t features;

    mmio_write(device, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    features = (uint64_t)mmio_read(device, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
    mmio_write(device, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    return features | mmio_read(device, VIRTIO_MMIO_DEVICE_FEATURES);
}

void mmio_place_queue(struct device *device, const struct guest_ring *ring)
{
    mmio_write(device, VIRTIO_MMIO_QUEUE_NUM, ring->size);
    mmio_write(device, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)ring->desc_gpa);
    mmio_write(device, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(ring->desc_gpa >> 32));
    mmio_write(device, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)ring->driver_gpa);
    mmio_write(device, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(ring->driver_gpa >> 32));
    mmio_write(device, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)ring->device_gpa);
    mmio_write(device, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(ring->device_gpa >> 32));
}

bool mmio_bring_up(struct device *device, uint64_t features, const struct guest_ring *ring)
{
    mmio_write(device, VIRTIO_MMIO_STATUS, 0);
    mmio_write(device, VIRTIO_MMIO_STATUS, 1); /* ACKNOWLEDGE */
    mmio_write(device, VIRTIO_MMIO_STATUS, 3); /* DRIVER */
    for (uint32_t half = 0; half < 2; half++) {
        mmio_write(device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        mmio_write(device, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> (32 * half)));
    }
    mmio_write(device, VIRTIO_MMIO_STATUS, 11); /* FEATURES_OK */
    if (mmio_read(device, VIRTIO_MMIO_STATUS) != 11)
        return false;
    mmio_write(device, VIRTIO_MMIO_QUEUE_SEL, 0);
    mmio_place_queue(device, ring);
    mmio_write(device, VIRTIO_MMIO_QUEUE_READY, 1);
    mmio_write(device, VIRTIO_MMIO_STATUS, 15); /* DRIVER_OK */
    return mmio_read(device, VIRTIO_MMIO_STATUS) == 15 &&
           mmio_read(device, VIRTIO_MMIO_QUEUE_READY) == 1;
}

/* --- time ----------------------------------------------------------------------------------- */

uint64_t deadline_in_ms(uint64_t ms)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + ms * 1000000u;
}

void wait_until(bool (*condition)(void *arg), void *arg, const char *what)
{
    const uint64_t deadline = deadline_in_ms(20000);

    while (!condition(arg)) {
        const struct timespec nap = { .tv_nsec = 200000 };

        if (deadline_in_ms(0) > deadline)
            fail_msg("still waiting for %s after 20 s", what);
        nanosleep(&nap, NULL);
    }
}
