/* vm_memory.h - a VM's RAM: where it comes from, of which pages it is, and who tells what changes in it.
 *
 *     vm_memory_add()     map it, or take it over from a restore; hand it to KVM
 *     vm_memory_track()   watch it: before anything is written that a diff must have
 *     vm_memory_remove()  nobody may run any more */
#ifndef STASIS_MICROVM_VM_MEMORY_H
#define STASIS_MICROVM_VM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/dirty.h>
#include <stasis/error.h>
#include <stasis/memory.h>

#include "microvm/device.h"
#include "microvm/microvm.h"

struct vm_memory {
    struct guest_memory guest;       /* what devices and loaders see */
    struct stasis_region regions[2]; /* of guest.ram, where the RAM is our own */
    bool restored;                   /* guest.ram came from stasis_restore() */
    struct stasis_tracker *tracker;  /* KVM's dirty log and guest.marks; NULL: nobody watches */
};

/* The two regions of a memory of this size; returns how many. */
size_t vm_layout_memory(uint64_t memory_size, struct stasis_region regions[2]);

/*
 * Give the VM its RAM, in slots 0, 1. `restored` (may be NULL) becomes the VM's, and is left empty, also
 * on failure: RAM from stasis_restore(). Without it fresh zeroed RAM of `memory_size` bytes is made. 2
 * MiB pages are always made fresh, and what was restored is copied into them.
 *
 * On failure, and at the end, vm_memory_remove(). STASIS_ERR_INVALID_ARGUMENT not whole 2 MiB pages;
 * STASIS_ERR_OUT_OF_MEMORY the host's pool of them is too small; STASIS_ERR_KVM.
 */
int vm_memory_add(struct vm_memory *memory, int vm_fd, uint64_t memory_size,
                  enum microvm_pages pages, struct stasis_memory *restored,
                  struct stasis_error *err);

/* Begin to watch what the guest, KVM and the devices write; no vCPU may run, no device may be there. */
int vm_memory_track(struct vm_memory *memory, int vm_fd, struct stasis_error *err);

/* Before the VM's descriptor is closed: the tracker uses it. */
void vm_memory_untrack(struct vm_memory *memory);
void vm_memory_remove(struct vm_memory *memory);

#endif
