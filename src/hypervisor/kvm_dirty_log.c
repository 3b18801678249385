/*
 * kvm_dirty_log.c - the tracker that reads KVM's dirty log.
 *
 * With KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, reading the log and protecting pages again are two calls:
 * KVM_GET_DIRTY_LOG copies it, KVM_CLEAR_DIRTY_LOG takes off the bits that were read, so that a
 * write in between keeps or sets its bit. A harvest costs the copy (one bit a page) and work for
 * each dirty page. Where KVM_DIRTY_LOG_INITIALLY_SET is offered, a log begins all ones and nothing
 * is protected: arm then reads and clears it like any other, a bounded number of pages at a time,
 * and running vCPUs are not held up while the whole of memory is protected under one lock.
 */
#include <stdlib.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "base/error.h"
#include "hypervisor/kvm_slots.h"
#include "memory/tracker.h"

struct tracker_log {
    struct stasis_tracker tracker;
    struct kvm_slots slots;
    int vm_fd;
    bool manual; /* we enabled KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
    bool logging;
};

static struct tracker_log *as_log(struct stasis_tracker *tracker)
{
    return (struct tracker_log *)tracker;
}

/* Manual protection with these KVM_DIRTY_LOG_* flags, 0 to end it. Without it, reading clears. */
static bool set_manual(int vm_fd, uint64_t flags)
{
    const struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                                        .args = { flags } };

    return ioctl(vm_fd, KVM_ENABLE_CAP, &cap) == 0;
}

static bool begin_manual(int vm_fd)
{
    const int offered =
        ioctl(vm_fd, KVM_CHECK_EXTENSION, (unsigned long)KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    const int known = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;

    return offered > 0 && set_manual(vm_fd, (uint64_t)(offered & known));
}

static void stop_logging(struct tracker_log *log)
{
    if (log->logging)
        (void)kvm_slots_log(&log->slots, log->vm_fd, false, NULL);
    if (log->manual)
        (void)set_manual(log->vm_fd, 0);
    log->logging = false;
    log->manual = false;
}

static int start_logging(struct tracker_log *log, struct stasis_error *err)
{
    int r;

    log->manual = begin_manual(log->vm_fd);
    r = kvm_slots_log(&log->slots, log->vm_fd, true, err);
    log->logging = r == 0;
    return r;
}

static int log_harvest(struct stasis_tracker *tracker, struct stasis_error *err)
{
    struct tracker_log *log = as_log(tracker);

    return kvm_slots_read_log(&log->slots, log->vm_fd, log->manual, &tracker->map,
                              &tracker->pending, err);
}

static int log_arm(struct stasis_tracker *tracker, struct stasis_error *err)
{
    struct tracker_log *log = as_log(tracker);
    int r = 0;

    if (!log->logging)
        r = start_logging(log, err);
    if (r == 0)
        r = log_harvest(tracker, err);
    if (r < 0)
        stop_logging(log);
    return r;
}

static void log_close(struct stasis_tracker *tracker)
{
    struct tracker_log *log = as_log(tracker);

    stop_logging(log);
    kvm_slots_release(&log->slots);
    tracker_release(tracker);
    free(log);
}

static const struct tracker_ops log_ops = {
    .name = "KVM dirty log",
    .arm = log_arm,
    .harvest = log_harvest,
    .close = log_close,
};

int stasis_tracker_open_kvm_log(int vm_fd, const struct stasis_kvm_slot *slots, size_t slot_count,
                                const struct stasis_memory *memory,
                                struct stasis_tracker **ret_tracker, struct stasis_error *err)
{
    struct tracker_log *log = calloc(1, sizeof(*log));
    int r;

    if (!log)
        return stasis_fail_memory(err, "a KVM dirty log tracker");
    r = tracker_init(&log->tracker, &log_ops, memory, err);
    if (r < 0) {
        free(log);
        return r;
    }
    log->vm_fd = vm_fd;
    r = kvm_slots_init(&log->slots, slots, slot_count, &log->tracker.map, err);
    if (r < 0) {
        log_close(&log->tracker);
        return r;
    }
    log->tracker.page_size = log->slots.host_page_size;
    *ret_tracker = &log->tracker;
    return 0;
}
