/* vm.h - one KVM virtual machine: its RAM, its devices, its vCPUs; built, paused, taken down as
 * one.
 *
 * A struct vm lives from a boot or a restore to a reset or an end; the microvm around it stays. It
 * has no lock: the microvm sees to it that one thread at a time works on it. */
#ifndef STASIS_MICROVM_VM_H
#define STASIS_MICROVM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>
#include <stasis/kvm.h>
#include <stasis/memory.h>

#include "microvm/console.h"
#include "microvm/device.h"
#include "microvm/layout.h"
#include "microvm/vcpu.h"
#include "microvm/vm_host.h"
#include "microvm/vm_memory.h"

#define VM_ENTROPY_SLOT (LAYOUT_VIRTIO_SLOTS - 1) /* the last; drives have the others */
#define VM_DEVICE_MAX (2 + LAYOUT_VIRTIO_SLOTS)   /* serial, platform, one per slot */

struct vm_drive {
    char id[MICROVM_ID_SIZE];
    char path[4096];
    bool read_only;
    bool is_root;           /* the kernel's command line names it as root; at most one */
    uint32_t slot;          /* virtio-mmio slot, distinct, not VM_ENTROPY_SLOT */
    uint64_t size_expected; /* bytes; 0: whatever the file has */
};

struct vm_config {
    uint32_t vcpu_count;
    uint64_t memory_size; /* bytes; not looked at when there is `memory` */
    enum microvm_pages pages;
    bool track_dirty; /* watch what changes in memory, from before anything of a guest runs */
    const struct vm_drive *drives;
    size_t drive_count;
    bool has_entropy;
    struct console *console; /* not owned */
    vcpu_event_fn *on_event; /* by vCPU threads; power-off and reset by ports come this way too */
    void *event_arg;
};

struct vm {
    int fd;
    struct vm_memory memory;
    struct bus bus;
    struct device *devices[VM_DEVICE_MAX];
    size_t device_count;
    struct device *platform; /* one of `devices` */
    struct vcpu_set vcpus;
    int vcpu_fds[MICROVM_VCPU_MAX];
    vcpu_event_fn *on_event;
    void *event_arg;
};

/* Before anything else; vm_release() is then safe at any time, and leaves it as after vm_init(). */
void vm_init(struct vm *vm);
void vm_release(struct vm *vm);

/* The part of building that needs no configuration: an empty KVM VM. It may be done ahead of time;
 * vm_build() does it where it has not been. On failure there is nothing. */
int vm_prepare(struct vm *vm, const struct vm_host *host, struct stasis_error *err);

/* Build all of it, vCPU threads included, parked. `memory` (may be NULL) becomes the VM's, and is
 * left empty, also on failure: RAM from stasis_restore(). Without it fresh zeroed RAM is made. On
 * failure vm_release() is to be called. */
int vm_build(struct vm *vm, const struct vm_host *host, const struct vm_config *config,
             struct stasis_memory *memory, struct stasis_error *err);

/* Bit n: something is in virtio slot n. */
uint32_t vm_slots_used(const struct vm_config *config);
/* The view that libstasis wants; valid as long as the VM. */
struct stasis_kvm_vm vm_kvm_view(const struct vm *vm);

int vm_set_vcpu_cpuid(const struct vm *vm, uint32_t index, const struct kvm_cpuid2 *cpuid,
                      struct stasis_error *err);

/* Devices run first, then vCPUs. */
int vm_resume(struct vm *vm, struct stasis_error *err);
/* vCPUs first, then devices. On failure nothing stands still because of this call. */
int vm_pause(struct vm *vm, uint64_t deadline_ns, struct stasis_error *err);

#endif
