/* vcpu.h - the virtual CPUs of one VM: a thread each, and the gate where they come to rest.
 *
 *     set_add_all -> start_threads (parked) -> resume <-> pause -> stop -> release
 *
 * vCPUs park only where KVM_RUN has returned with nothing pending: an access to a port or to MMIO
 * is completed by the kernel at the next KVM_RUN, so a vCPU stopped between the two would be
 * captured halfway through an instruction. */
#ifndef STASIS_MICROVM_VCPU_H
#define STASIS_MICROVM_VCPU_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <stasis/error.h>

#include "microvm/device.h"
#include "microvm/microvm.h"

/* How a guest ends its run; told by a vCPU thread, which parks for good afterwards. */
enum vcpu_event {
    VCPU_EVENT_NONE = 0,
    VCPU_EVENT_POWER_OFF,
    VCPU_EVENT_RESET,
    VCPU_EVENT_TRIPLE_FAULT, /* a reset, as on real hardware; `why` says where */
    VCPU_EVENT_CRASH,        /* `why` says what KVM said */
};

typedef void vcpu_event_fn(void *arg, enum vcpu_event event, const struct stasis_error *why);

struct vcpu_set;

struct vcpu {
    struct vcpu_set *set;
    int fd;
    uint32_t index; /* and the id given to KVM_CREATE_VCPU, and the APIC id */
    struct kvm_run *run;
    pthread_t thread;
    bool has_thread;
    bool running; /* past the gate; under the set's lock */
};

struct vcpu_set {
    struct vcpu vcpus[MICROVM_VCPU_MAX];
    size_t count;
    size_t run_size;
    const struct bus *bus;
    vcpu_event_fn *on_event;
    void *event_arg;

    pthread_mutex_t lock; /* all below */
    pthread_cond_t changed;
    bool has_lock;
    bool pause;            /* vCPUs are to park */
    bool ended;            /* an event ended the run: nobody runs guest code any more */
    bool quit;             /* threads are to return */
    size_t running_count;  /* vCPUs past the gate; 0 is quiescence */
    uint64_t first_run_ns; /* CLOCK_MONOTONIC just before the first KVM_RUN, 0 before that */
};

int vcpu_set_init(struct vcpu_set *set, const struct bus *bus, vcpu_event_fn *on_event,
                  void *event_arg, struct stasis_error *err);
/* KVM_CREATE_VCPU for ids 0..count-1, with their shared pages mapped. */
int vcpu_set_create(struct vcpu_set *set, int vm_fd, size_t count, size_t run_size,
                    struct stasis_error *err);
/* One thread each, parked. */
int vcpu_set_start_threads(struct vcpu_set *set, struct stasis_error *err);

/* Let them run; returns when the first is about to enter the guest. */
void vcpu_set_resume(struct vcpu_set *set);
/* All parked, by `deadline_ns` (CLOCK_MONOTONIC). STASIS_ERR_QUIESCE_TIMEOUT: those that had parked
 * run again. */
int vcpu_set_pause(struct vcpu_set *set, uint64_t deadline_ns, struct stasis_error *err);
/* When the first vCPU first entered the guest, CLOCK_MONOTONIC; 0: none did yet. */
uint64_t vcpu_set_first_run_ns(struct vcpu_set *set);
/* No guest code runs from soon after this call on; for vCPU threads that report an event. */
void vcpu_set_end(struct vcpu_set *set);
/* End and join all threads. */
void vcpu_set_stop(struct vcpu_set *set);
/* Stops, then gives back descriptors and mappings. Half-built sets are fine. */
void vcpu_set_release(struct vcpu_set *set);

/* Now, on CLOCK_MONOTONIC, nanoseconds. */
uint64_t monotonic_ns(void);

#endif
