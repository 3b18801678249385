/* kvm_slots.h - a VM's memory slots as pages of the line, and the calls that log their writes. */
#ifndef STASIS_HYPERVISOR_KVM_SLOTS_H
#define STASIS_HYPERVISOR_KVM_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/dirty.h>

#include "memory/region_map.h"

struct kvm_slots {
    struct stasis_kvm_slot *slots; /* by address space and gpa; owned */
    size_t slot_count;
    uint32_t host_page_size; /* bytes that one bit or ring entry stands for */
    uint64_t *bits;          /* room for the log of the largest slot, owned */
};

/* Copies and checks: whole host pages, no overlap, all of `map` covered.
 * STASIS_ERR_INVALID_ARGUMENT. */
int kvm_slots_init(struct kvm_slots *slots, const struct stasis_kvm_slot *from, size_t slot_count,
                   const struct region_map *map, struct stasis_error *err);
void kvm_slots_release(struct kvm_slots *slots);

/* Switch KVM_MEM_LOG_DIRTY_PAGES of all slots. When switching on fails, all are off again. */
int kvm_slots_log(const struct kvm_slots *slots, int vm_fd, bool on, struct stasis_error *err);

/* Read the dirty log of all slots into `into`, and clear what was read: by KVM_GET_DIRTY_LOG
 * itself, or, when `manual`, by KVM_CLEAR_DIRTY_LOG of the words that had bits. What KVM no longer
 * has is in `into` also on failure. STASIS_ERR_KVM; STASIS_ERR_UNSUPPORTED the VM keeps no log (it
 * has dirty rings). */
int kvm_slots_read_log(struct kvm_slots *slots, int vm_fd, bool manual,
                       const struct region_map *map, struct stasis_page_set *into,
                       struct stasis_error *err);

/* Host page `offset` of slot number `slot`, where it is memory. Ring entries are such pairs. */
void kvm_slots_add_page(const struct kvm_slots *slots, uint32_t slot, uint64_t offset,
                        const struct region_map *map, struct stasis_page_set *into);

#endif
