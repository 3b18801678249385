/* device.h - what the microVM asks of a device, and what a device may use of the microVM.
 *
 * A device sits on I/O ports or MMIO addresses; accesses come from vCPU threads, several at a time, so
 * each device has its own lock. Work outside vCPU threads (disk, console input) is done by threads of
 * the device, which quiesce() stops at a point where every request is either not begun (still in the
 * guest's ring) or complete (used ring written, interrupt raised).
 *
 * Interrupts are raised with KVM_IRQ_LINE (irq_line_pulse), never by irqfd: an irqfd is injected by a
 * kernel work queue at some later time, so a pause could capture the interrupt controller before an
 * interrupt that the device has sent already arrives in it, and lose it. */
#ifndef STASIS_MICROVM_DEVICE_H
#define STASIS_MICROVM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>
#include <stasis/machine.h>
#include <stasis/memory.h>

struct stasis_tracker;

/* Guest RAM as devices and loaders reach it. */
struct guest_memory {
    struct stasis_memory ram;     /* sorted, at most two regions */
    struct stasis_tracker *marks; /* to be told of writes by devices; NULL: nobody wants to know */
};

/* The host address of `size` bytes of guest RAM at `gpa`, or NULL when any of them is not RAM or they cross
 * into another region. Guests change RAM at any time: copy before checking. */
void *guest_memory_at(const struct guest_memory *memory, uint64_t gpa, uint64_t size);

/* A device has written `size` bytes at `place`, a pointer that came from guest_memory_at(): they are in
 * the next diff. To be called after each write, before the device comes to rest. What a loader writes
 * before a guest has run needs it not: there is no snapshot yet that a diff could be counted from. Any
 * thread, lock-free. */
void guest_memory_written(const struct guest_memory *memory, const void *place, uint64_t size);

/* One interrupt input of the in-kernel controllers. */
struct irq_line {
    int vm_fd;
    uint32_t gsi;
};

/* Raise and lower: one edge, in the interrupt controller when this returns. Any thread. */
void irq_line_pulse(const struct irq_line *line);

struct device;

struct device_ops {
    const char *kind; /* "serial", "virtio-blk", ...: names the state in snapshots */

    /* An access of `size` 1, 2, 4 or 8 bytes at `offset` from the device's base. vCPU threads. */
    uint64_t (*read)(struct device *device, uint64_t offset, unsigned size);
    void (*write)(struct device *device, uint64_t offset, unsigned size, uint64_t value);

    /* Start threads and take up work that waits in queues. Called once after creation or load(), and
     * after each quiesce(). NULL: nothing to do. */
    int (*run)(struct device *device, struct stasis_error *err);
    /* Come to rest by `deadline_ns` (CLOCK_MONOTONIC): STASIS_ERR_QUIESCE_TIMEOUT when that fails; run() is then called
     * to go on. vCPUs are out of KVM_RUN. NULL: always at rest. */
    int (*quiesce)(struct device *device, uint64_t deadline_ns, struct stasis_error *err);

    /* Put the state into `machine` under (kind, id); at rest. */
    int (*save)(struct device *device, struct stasis_machine *machine, struct stasis_error *err);
    /* Take the state from what save() made, which is hostile input; before run(). */
    int (*load)(struct device *device, const struct stasis_machine *machine,
                struct stasis_error *err);

    void (*free)(struct device *device); /* stops its threads first */
};

/* Embedded as the first member of each device. */
struct device {
    const struct device_ops *ops;
    char id[64];
};

/* Where a device answers. */
enum bus_kind { BUS_PIO, BUS_MMIO };

#define BUS_RANGE_MAX 64

struct bus_range {
    enum bus_kind kind;
    uint64_t base;
    uint64_t size; /* bytes */
    struct device *device;
    uint64_t device_offset; /* added to the offset within the range */
};

/* Built before vCPUs run, constant afterwards: lookups need no lock. */
struct bus {
    struct bus_range ranges[BUS_RANGE_MAX];
    size_t range_count;
};

int bus_add(struct bus *bus, const struct bus_range *range, struct stasis_error *err);
/* Reads of nothing give all ones, writes to nothing are dropped. */
void bus_read(const struct bus *bus, enum bus_kind kind, uint64_t address, void *data,
              unsigned size);
void bus_write(const struct bus *bus, enum bus_kind kind, uint64_t address, const void *data,
               unsigned size);

/* --- constructors; each returns a device to free with device_free() ------------------------- */

void device_free(struct device *device); /* NULL is fine */

struct console; /* console.h: where the serial port's bytes go and come from */

int serial_new(const struct irq_line *irq, struct console *console, struct device **ret_device,
               struct stasis_error *err);

struct virtio_blk_config {
    const char *id;
    const char *path;
    bool read_only;
};

/* Opens and locks the file (shared for read-only, exclusive for read-write; OFD or flock). With a size_expected
 * other than 0, STASIS_ERR_DISK when the file's size differs. */
int virtio_blk_new(const struct virtio_blk_config *config, const struct irq_line *irq,
                   const struct guest_memory *memory, uint64_t size_expected,
                   struct device **ret_device, struct stasis_error *err);

int virtio_rng_new(const struct irq_line *irq, const struct guest_memory *memory,
                   struct device **ret_device, struct stasis_error *err);

/* What a virtio-blk device in a snapshot says of its disk, so that it can be opened before load(). */
struct virtio_blk_facts {
    char id[64];
    char path[4096];
    bool read_only;
    uint64_t size; /* bytes */
};
int virtio_blk_read_facts(const struct stasis_device *device, struct virtio_blk_facts *ret_facts,
                          struct stasis_error *err);

/* The ACPI platform: generic event device, sleep and reset registers, i8042 reset, VMGenID. */
struct platform_events {
    void (*power_off)(void *arg); /* vCPU threads */
    void (*reset)(void *arg);
    void *arg;
};
int acpi_platform_new(const struct irq_line *ged_irq, const struct guest_memory *memory,
                      const struct platform_events *events, struct device **ret_device,
                      struct stasis_error *err);
/* Device offsets for bus_range.device_offset: the ports are the offsets themselves. */
void acpi_platform_power_button(struct device *device);
/* A new generation: writes a fresh random GUID to LAYOUT_VMGENID_GPA and tells the guest. After load(), and at boot without telling. */
int acpi_platform_new_generation(struct device *device, bool notify, struct stasis_error *err);

#endif
