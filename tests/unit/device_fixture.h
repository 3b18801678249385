/* device_fixture.h - what tests of devices stand on: guest RAM, interrupt lines, a virtio driver.
 *
 * There is no VM: RAM is anonymous memory with forbidden pages around it, so that a device which
 * reaches beyond is killed on the spot; irq_line_pulse() only counts. The virtio driver is the guest's
 * side of the ring, written from the specification and sharing no code with the device's. */
#ifndef STASIS_TEST_DEVICE_FIXTURE_H
#define STASIS_TEST_DEVICE_FIXTURE_H

#include "unit.h"

#include <pthread.h>

#include <stasis/machine.h>

#include "microvm/device.h"

/* --- random numbers: all from a seed -------------------------------------------------------- */

struct dice {
    uint64_t state;
};
uint64_t dice_roll(struct dice *dice);
uint64_t dice_below(struct dice *dice, uint64_t limit);

/* --- RAM ------------------------------------------------------------------------------------ */

#define LOW_SIZE UINT64_C(0x200000) /* bytes of RAM at 0 */
#define HIGH_GPA UINT64_C(0x100000000)
#define HIGH_SIZE UINT64_C(0x10000)

struct fake_ram {
    struct guest_memory memory; /* first: tests hand it to devices */
    struct stasis_region regions[2];
};
void fake_ram_init(struct fake_ram *ram);
void fake_ram_release(struct fake_ram *ram);
void fake_ram_copy(struct fake_ram *to, const struct fake_ram *from);
/* Fails the test when it is not RAM. */
void *ram_at(const struct fake_ram *ram, uint64_t gpa, uint64_t size);

/* --- interrupts ----------------------------------------------------------------------------- */

unsigned irq_pulses(uint32_t gsi); /* since the last call, any thread */

/* --- a virtio driver ------------------------------------------------------------------------ */

#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u

struct guest_ring {
    struct fake_ram *ram;
    uint16_t size;
    uint64_t desc_gpa, driver_gpa, device_gpa;
    uint16_t posted; /* the driver's idx */
    uint16_t seen;   /* used elements taken */
};

/* Places the three areas one after the other from `gpa`, zeroed. */
void ring_init(struct guest_ring *ring, struct fake_ram *ram, uint16_t size, uint64_t gpa);
uint64_t ring_end(const struct guest_ring *ring);
void ring_desc(struct guest_ring *ring, uint16_t index, uint64_t gpa, uint32_t length,
               uint16_t flags, uint16_t next);
void table_desc(struct fake_ram *ram, uint64_t table_gpa, uint16_t index, uint64_t gpa,
                uint32_t length, uint16_t flags, uint16_t next);
void ring_post(struct guest_ring *ring, uint16_t head);
bool ring_take(struct guest_ring *ring, uint32_t *ret_head, uint32_t *ret_length);
uint16_t ring_used_idx(const struct guest_ring *ring);
void ring_set_idx(struct guest_ring *ring, uint16_t idx);     /* the driver's, as it likes */
void ring_set_flags(struct guest_ring *ring, uint16_t flags); /* the driver's */
void ring_set_used_event(struct guest_ring *ring, uint16_t event);
uint16_t ring_device_flags(const struct guest_ring *ring);
uint16_t ring_avail_event(const struct guest_ring *ring);

/* Registers of a virtio-mmio device. */
uint32_t mmio_read(struct device *device, uint32_t offset);
void mmio_write(struct device *device, uint32_t offset, uint32_t value);
uint64_t mmio_offered(struct device *device);
/* From reset to DRIVER_OK with the given features and one queue; false: the device said no. */
bool mmio_bring_up(struct device *device, uint64_t features, const struct guest_ring *ring);
void mmio_place_queue(struct device *device, const struct guest_ring *ring);

/* --- time ----------------------------------------------------------------------------------- */

uint64_t deadline_in_ms(uint64_t ms); /* CLOCK_MONOTONIC, ns */
/* Waits until `condition(arg)`; fails the test after 20 s. */
void wait_until(bool (*condition)(void *arg), void *arg, const char *what);

#endif
