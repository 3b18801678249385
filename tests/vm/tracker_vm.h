/* tracker_vm.h - a small VM whose guest writes to the pages that it is told, for tests of dirty
 * tracking.
 *
 * Two regions of memory over three slots, out of step with each other and with 64-page words, and
 * one slot more that is no memory of the snapshot:
 *
 *     slots     [  0  ]        [  2  ][     1     ]      [ 3 ]
 *     regions   [  0  ]        [        1         ]
 *     gpa       0   1 MiB    4 MiB + 12 KiB           16 MiB
 *
 * The guest runs 32-bit code without paging: for each address of a list it counts up a word. */
#ifndef STASIS_TESTS_TRACKER_VM_H
#define STASIS_TESTS_TRACKER_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <stasis/dirty.h>

#define TRACKER_VM_SLOTS 4
#define TRACKER_VM_LIST_MAX 512 /* pages that the guest writes in one go */
#define TRACKER_VM_WORD 0x800   /* bytes into each page: what the guest counts up */

struct tracker_vm {
    int kvm_fd, vm_fd, vcpu_fd;
    struct kvm_run *run;
    size_t run_size;
    void *hvas[TRACKER_VM_SLOTS];
    struct stasis_kvm_slot slots[TRACKER_VM_SLOTS];
    struct stasis_region regions[2];
    struct stasis_memory memory;
    uint64_t page_count; /* of memory; page 0 and 1 are the guest's list and code */
    uint64_t ring_fulls; /* KVM_EXIT_DIRTY_RING_FULL taken */
};

/* Skips aloud without /dev/kvm. `ring_size` 0: no dirty rings; skips where KVM has none. */
void tracker_vm_open(struct tracker_vm *vm, uint32_t ring_size);
/* Safe on a zeroed, a half-opened and a closed one. */
void tracker_vm_close(struct tracker_vm *vm);

uint64_t tracker_vm_gpa(const struct tracker_vm *vm, uint64_t page);
uint32_t *tracker_vm_word(const struct tracker_vm *vm, uint64_t page);

/* Let the guest count up the word of each page, or, in slot 3, of address UINT64_MAX. `tracker`
 * takes full rings, NULL where there are none. */
#define TRACKER_VM_ELSEWHERE UINT64_MAX
void tracker_vm_write(struct tracker_vm *vm, const uint64_t *pages, size_t page_count,
                      struct stasis_tracker *tracker);

#endif
