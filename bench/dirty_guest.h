/* dirty_guest.h - a KVM guest that writes to exactly the pages it is told, for benchmarks. */
#ifndef STASIS_BENCH_DIRTY_GUEST_H
#define STASIS_BENCH_DIRTY_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/kvm.h>
#include <stasis/memory.h>

#define DIRTY_GUEST_FIRST_PAGE 1024 /* pages below are its code, tables and list */
#define DIRTY_GUEST_LIST_MAX 65536

struct dirty_guest {
    int kvm_fd, vm_fd, vcpu_fd;
    struct stasis_region region; /* all of its RAM, from gpa 0 on, at most 512 GiB */
    struct stasis_memory memory; /* that region */
    struct stasis_kvm_host *host;
    struct stasis_kvm_vm view;
};

/* False where /dev/kvm is not to be had or refuses; `why` then tells. */
bool dirty_guest_make(struct dirty_guest *guest, uint64_t size, const char **why);
void dirty_guest_release(struct dirty_guest *guest);

/* Run the guest until it has written `value` to the first word of each of these pages. */
bool dirty_guest_write(struct dirty_guest *guest, const uint64_t *pages, size_t count,
                       uint64_t value);

#endif
