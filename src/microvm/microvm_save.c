/*
 * microvm_save.c - a guest into one file, while it stands still as briefly as may be.
 *
 *     first part    parent opened -> quiesce -> capture KVM's state -> each device's -> the
 *                   configuration -> stasis_save_begin -> resume
 *     second part   stasis_save_finish: hash, write, commit; the guest runs, may be paused and resumed
 *
 * Whatever happens between, a guest that ran before runs again afterwards; only a guest that came
 * to its own end meanwhile does not. The file appears whole or not at all, and what changed in
 * memory since the last snapshot is forgotten only when it has appeared (stasis_save_finish()).
 *
 * A guest that was paused before stays so, and nobody waits for it: its memory is then written at
 * once, without a copy.
 */
#include <string.h>

#include <stasis/dirty.h>
#include <stasis/kvm.h>

#include "base/error.h"
#include "microvm/microvm_private.h"

/* Buffers that grew beyond this for one large diff are not kept for the next. */
#define ARENA_KEEP_MAX (UINT64_C(64) << 20) /* bytes */

struct save {
    struct microvm *vm;
    const char *path;
    const struct microvm_save_options *wanted;
    enum microvm_state state;           /* before and after */
    struct stasis_snapshot *parent;     /* NULL: a full snapshot */
    struct stasis_save_options options; /* for the library */
    struct stasis_save_job *job;        /* between the two parts */
    struct microvm_save_report report;
};

/* microvm_stop() cancels a save: minutes of writing must not keep a user from ending the run. */
static int on_progress(void *arg, uint64_t done, uint64_t total)
{
    const struct save *save = arg;
    const struct stasis_save_options *user = &save->wanted->snapshot;
    const int r = user->progress ? user->progress(user->progress_arg, done, total) : 0;

    return atomic_load(&save->vm->stop_wanted) ? 1 : r;
}

/* --- the parent of a diff ------------------------------------------------------------------- */

static int open_parent(struct save *save, struct stasis_error *err)
{
    const char *path = save->wanted->parent_path;
    int r;

    if (!save->wanted->diff)
        return 0;
    if (!save->vm->vm.memory.tracker)
        return stasis_fail(err, STASIS_ERR_NOT_TRACKED,
                           "changes of this microVM's memory are not tracked: a diff is not "
                           "possible (track_dirty_pages, --track-dirty)");
    if (!path)
        path = save->vm->last_snapshot;
    if (!path)
        return stasis_fail(err, STASIS_ERR_NOT_TRACKED,
                           "no snapshot of this microVM has been saved or loaded since it was "
                           "booted: there is nothing that a diff could be counted from");
    r = stasis_open(path, &save->parent, err);
    return r < 0 ? stasis_wrap(err, r, "parent '%s'", path) : 0;
}

static int take_arena(struct microvm *vm, struct stasis_error *err)
{
    return vm->arena ? 0 : stasis_arena_new(0, &vm->arena, err);
}

static int prepare(struct save *save, struct stasis_error *err)
{
    int r = microvm_refuse_own_file(save->vm, save->path, err);

    if (r == 0)
        r = open_parent(save, err);
    if (r == 0 && save->parent)
        r = take_arena(save->vm, err);
    if (r < 0)
        return r;
    save->options = save->wanted->snapshot;
    save->options.progress = on_progress;
    save->options.progress_arg = save;
    save->options.tracker = save->vm->vm.memory.tracker;
    save->options.parent = save->parent;
    save->options.arena = save->parent ? save->vm->arena : NULL;
    if (save->options.writer == STASIS_WRITER_AUTO && save->state == MICROVM_PAUSED)
        save->options.writer = STASIS_WRITER_STREAMING;
    save->report.diff = save->parent != NULL;
    if (save->parent)
        memcpy(save->report.parent_id, stasis_snapshot_info(save->parent)->id, STASIS_ID_SIZE);
    return 0;
}

/* --- the first part ------------------------------------------------------------------------- */

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

/* The guest stands still. */
static int take_all(struct save *save, struct stasis_error *err)
{
    struct microvm *vm = save->vm;
    const struct stasis_kvm_vm view = vm_kvm_view(&vm->vm);
    struct stasis_machine machine = { 0 };
    int r = stasis_kvm_capture(vm->host.stasis, &view, &machine, err);

    if (r == 0)
        r = save_devices(vm, &machine, err);
    if (r == 0)
        r = stasis_save_begin(save->path, &machine, &vm->vm.memory.guest.ram, &save->options,
                              &save->job, err);
    stasis_machine_release(&machine);
    return r;
}

/* A guest that a device keeps from going on cannot go on without it. */
static int resume(struct save *save, struct stasis_error *err)
{
    struct stasis_error resume_err = { 0 };
    const int r = vm_resume(&save->vm->vm, &resume_err);

    if (r == 0)
        return 0;
    microvm_on_event(save->vm, VCPU_EVENT_CRASH, &resume_err);
    stasis_save_abandon(save->job);
    save->job = NULL;
    if (err)
        *err = resume_err;
    return r;
}

static int take_running(struct save *save, struct stasis_error *err)
{
    const uint64_t begin_ns = monotonic_ns();
    int r = microvm_quiesce(save->vm, err);
    int resumed;

    if (r < 0)
        return r;
    r = take_all(save, err);
    resumed = resume(save, r < 0 ? NULL : err); /* of two failures the first is told */
    save->report.pause_us = (monotonic_ns() - begin_ns) / 1000;
    return r < 0 ? r : resumed;
}

static int first_part(struct save *save, struct stasis_error *err)
{
    int r = prepare(save, err);

    if (r < 0)
        return r;
    return save->state == MICROVM_RUNNING ? take_running(save, err) : take_all(save, err);
}

/* --- the second part ------------------------------------------------------------------------ */

/* With `saving`: the tracker, the arena and last_snapshot are ours until it ends. */
static int second_part(struct save *save, struct stasis_error *err)
{
    struct microvm *vm = save->vm;
    const int r = stasis_save_finish(save->job, &save->report.snapshot, err);

    if (r == 0)
        microvm_remember_snapshot(vm, save->path);
    if (save->parent && (r < 0 || save->report.snapshot.data_size > ARENA_KEEP_MAX)) {
        stasis_arena_free(vm->arena);
        vm->arena = NULL;
    }
    return r;
}

int microvm_save(struct microvm *vm, const char *path, const struct microvm_save_options *options,
                 struct microvm_save_report *ret_report, struct stasis_error *err)
{
    static const struct microvm_save_options defaults;
    const unsigned states = MICROVM_IN(MICROVM_RUNNING) | MICROVM_IN(MICROVM_PAUSED);
    struct save save = { .vm = vm, .path = path, .wanted = options ? options : &defaults };
    int r = microvm_begin_save(vm, states, err);

    if (r < 0)
        return r;
    save.state = vm->state; /* states change with the token only */
    r = first_part(&save, err);
    if (r < 0) {
        microvm_end(vm, save.state);
    } else {
        microvm_end_first_part(vm, save.state);
        r = second_part(&save, err);
        microvm_end_save(vm);
    }
    stasis_close(save.parent);
    if (r == 0 && ret_report)
        *ret_report = save.report;
    return r;
}
