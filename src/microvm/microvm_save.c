/*
 * microvm_save.c - a running guest into one file.
 *
 *     quiesce -> capture KVM's state -> each device's -> the configuration -> stasis_save -> resume
 *
 * Whatever happens between, a guest that ran before runs again afterwards; only a guest that came
 * to its own end meanwhile does not. The file appears whole or not at all (stasis_save).
 */
#include <string.h>

#include <stasis/kvm.h>

#include "base/error.h"
#include "microvm/microvm_private.h"

/* microvm_stop() cancels a save: minutes of writing must not keep a user from ending the run. */
struct save_progress {
    struct microvm *vm;
    stasis_progress_fn *user;
    void *user_arg;
};

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
    const struct save_progress *progress = arg;

    if (atomic_load(&progress->vm->stop_wanted))
        return 1;
    return progress->user ? progress->user(progress->user_arg, done, total) : 0;
}

static int save_devices(struct microvm *vm, struct stasis_machine *machine,
                        struct stasis_error *err)
{
    for (size_t i = 0; i < vm->vm.device_count; i++) {
        struct device *device = vm->vm.devices[i];
        const int r = device->ops->save(device, machine, err);

        if (r < 0)
            return r;
    }
    return microvm_config_save(&vm->config, machine, err);
}

static int write_snapshot(struct microvm *vm, const char *path,
                          const struct stasis_machine *machine,
                          const struct stasis_save_options *options,
                          struct stasis_save_report *ret_report, struct stasis_error *err)
{
    struct stasis_save_options with_stop = options ? *options : (struct stasis_save_options){ 0 };
    struct save_progress progress = { .vm = vm,
                                      .user = with_stop.progress,
                                      .user_arg = with_stop.progress_arg };

    with_stop.progress = on_progress;
    with_stop.progress_arg = &progress;
    return stasis_save(path, machine, &vm->vm.memory.ram, &with_stop, ret_report, err);
}

/* The guest stands still. */
static int save_still(struct microvm *vm, const char *path,
                      const struct stasis_save_options *options,
                      struct stasis_save_report *ret_report, struct stasis_error *err)
{
    const struct stasis_kvm_vm view = vm_kvm_view(&vm->vm);
    struct stasis_machine machine = { 0 };
    int r = stasis_kvm_capture(vm->host.stasis, &view, &machine, err);

    if (r == 0)
        r = save_devices(vm, &machine, err);
    if (r == 0)
        r = write_snapshot(vm, path, &machine, options, ret_report, err);
    stasis_machine_release(&machine);
    return r;
}

static int save_running(struct microvm *vm, const char *path,
                        const struct stasis_save_options *options,
                        struct microvm_save_report *ret_report, struct stasis_error *err)
{
    const uint64_t begin_ns = monotonic_ns();
    struct stasis_error resume_err = { 0 };
    int r = microvm_quiesce(vm, err);
    int resumed;

    if (r < 0)
        return r;
    r = save_still(vm, path, options, &ret_report->snapshot, err);
    resumed = vm_resume(&vm->vm, &resume_err);
    ret_report->pause_us = (monotonic_ns() - begin_ns) / 1000;
    if (resumed < 0) {
        /* A device could not go on: the guest cannot either. */
        microvm_on_event(vm, VCPU_EVENT_CRASH, &resume_err);
        if (r == 0 && err)
            *err = resume_err;
        return r < 0 ? r : resumed;
    }
    return r;
}

int microvm_save(struct microvm *vm, const char *path, const struct stasis_save_options *options,
                 struct microvm_save_report *ret_report, struct stasis_error *err)
{
    const unsigned states = MICROVM_IN(MICROVM_RUNNING) | MICROVM_IN(MICROVM_PAUSED);
    struct microvm_save_report report = { 0 };
    enum microvm_state state;
    int r = microvm_begin(vm, "save", states, err);

    if (r < 0)
        return r;
    state = vm->state;
    if (state == MICROVM_RUNNING)
        r = save_running(vm, path, options, &report, err);
    else
        r = save_still(vm, path, options, &report.snapshot, err);
    microvm_end(vm, state);
    if (r == 0 && ret_report)
        *ret_report = report;
    return r;
}
