/*
 * microvm_load.c - a file into a running guest.
 *
 *     stasis_open -> configuration -> disks' facts -> memory mapped -> VM built -> host check
 *       -> KVM state -> devices' state -> new generation -> run
 *
 * Time matters here: what a user waits for is the way from the first line to the first KVM_RUN, so
 * nothing is done that does not have to be done before it, and nothing depends on the size of RAM.
 * Everything read from the file is hostile (microvm_state.c, each device's load()).
 */
#include <stdlib.h>
#include <string.h>

#include <stasis/dirty.h>
#include <stasis/kvm.h>
#include <stasis/snapshot.h>

#include "base/error.h"
#include "microvm/microvm_private.h"

/* --- drives --------------------------------------------------------------------------------- */

static struct vm_drive *find_drive(struct microvm_config *config, const char *id)
{
    for (size_t i = 0; i < config->drives_count; i++) {
        if (strcmp(config->drives[i].id, id) == 0)
            return &config->drives[i];
    }
    return NULL;
}

static int override_drive(struct microvm_config *config,
                          const struct microvm_drive_override *override, struct stasis_error *err)
{
    struct vm_drive *drive = find_drive(config, override->id);

    if (!drive)
        return stasis_fail(err, STASIS_ERR_DISK, "the snapshot has no disk '%s'", override->id);
    return microvm_absolute_path(drive->path, sizeof(drive->path), override->path, "disk", err);
}

/* The size comes from the disk's own state: a file of another size is not the disk of the save. */
static int read_drive_size(const struct stasis_machine *machine, struct vm_drive *drive,
                           struct stasis_error *err)
{
    const struct stasis_device *device =
        stasis_machine_find_device(machine, "virtio-blk", drive->id);
    struct virtio_blk_facts facts;
    int r;

    if (!device)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "the snapshot's disk '%s' has no device state", drive->id);
    r = virtio_blk_read_facts(device, &facts, err);
    if (r < 0)
        return r;
    if (facts.read_only != drive->read_only)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "the snapshot contradicts itself on whether disk '%s' is read-only",
                           drive->id);
    drive->size_expected = facts.size;
    return 0;
}

static int settle_drives(struct microvm_config *config, const struct stasis_machine *machine,
                         const struct microvm_load_options *options, struct stasis_error *err)
{
    int r = 0;

    for (size_t i = 0; i < options->drive_count && r == 0; i++)
        r = override_drive(config, &options->drives[i], err);
    for (size_t i = 0; i < config->drives_count && r == 0; i++)
        r = read_drive_size(machine, &config->drives[i], err);
    return r;
}

/* --- the steps ------------------------------------------------------------------------------ */

struct load {
    struct microvm *vm;
    const struct microvm_load_options *options;
    struct stasis_snapshot *snapshot;
    uint64_t begin_ns;
    struct microvm_load_report report;
};

static uint64_t elapsed_us(const struct load *load)
{
    return (monotonic_ns() - load->begin_ns) / 1000;
}

/* What the snapshot says it is, checked against itself. */
static int read_snapshot(struct load *load, const char *path, struct microvm_config *ret_config,
                         struct stasis_error *err)
{
    const struct stasis_machine *machine;
    int r = stasis_open(path, &load->snapshot, err);

    if (r < 0)
        return r;
    machine = stasis_snapshot_machine(load->snapshot);
    r = microvm_config_load(machine, stasis_snapshot_info(load->snapshot), ret_config, err);
    if (r == 0)
        r = settle_drives(ret_config, machine, load->options, err);
    ret_config->machine.pages = load->options->pages;
    ret_config->machine.track_dirty = load->options->track_dirty;
    load->report.opened_us = elapsed_us(load);
    return r;
}

/* microvm_stop() cancels the check of a large memory. */
static int on_verify_progress(void *arg, uint64_t done, uint64_t total)
{
    const struct load *load = arg;
    const struct microvm_load_options *options = load->options;

    if (atomic_load(&load->vm->stop_wanted))
        return 1;
    return options->progress ? options->progress(options->progress_arg, done, total) : 0;
}

static int build(struct load *load, struct stasis_error *err)
{
    const struct stasis_restore_options restore = { .verify = load->options->verify,
                                                    .progress = on_verify_progress,
                                                    .progress_arg = load };
    const struct vm_config config = microvm_vm_config(load->vm);
    struct stasis_memory memory = { 0 };
    int r = microvm_prepare(load->vm, err);

    if (r == 0)
        r = stasis_restore(load->snapshot, &restore, &memory, err);
    if (r == 0)
        r = vm_build(&load->vm->vm, &load->vm->host, &config, &memory, err);
    /* From here on, also our own: the new generation makes the memory differ from the snapshot. */
    if (r == 0 && load->vm->vm.memory.tracker)
        stasis_tracker_set_base(load->vm->vm.memory.tracker,
                                stasis_snapshot_info(load->snapshot)->id);
    load->report.created_us = elapsed_us(load);
    return r;
}

static int load_devices(struct load *load, struct stasis_error *err)
{
    const struct stasis_machine *machine = stasis_snapshot_machine(load->snapshot);
    struct vm *vm = &load->vm->vm;

    for (size_t i = 0; i < vm->device_count; i++) {
        const int r = vm->devices[i]->ops->load(vm->devices[i], machine, err);

        if (r < 0)
            return r;
    }
    return 0;
}

/* The supervisor may still be at its probe while the VM is built: so the check comes late, but
 * before anything of the machine's gets into the VM. */
static int check_host(struct load *load, struct stasis_error *err)
{
    int r = microvm_probe(load->vm, err);

    if (r == 0)
        r = stasis_kvm_host_probe_vcpu(load->vm->host.stasis, load->vm->vm.vcpu_fds[0], err);
    if (r == 0)
        r = stasis_kvm_check_host(load->vm->host.stasis, stasis_snapshot_machine(load->snapshot),
                                  err);
    return r;
}

/* The new generation comes last: its interrupt must land in the restored controllers. */
static int restore_state(struct load *load, struct stasis_error *err)
{
    const struct stasis_kvm_vm view = vm_kvm_view(&load->vm->vm);
    const unsigned flags = load->options->clock_stopped ? STASIS_KVM_CLOCK_STOPPED : 0;
    int r = stasis_kvm_restore(load->vm->host.stasis, &view,
                               stasis_snapshot_machine(load->snapshot), flags, err);

    if (r == 0)
        r = load_devices(load, err);
    if (r == 0)
        r = acpi_platform_new_generation(load->vm->vm.platform, true, err);
    load->report.restored_us = elapsed_us(load);
    return r;
}

static int run(struct load *load, struct stasis_error *err)
{
    const int r = vm_resume(&load->vm->vm, err);

    if (r < 0)
        return r;
    load->report.first_run_ns = vcpu_set_first_run_ns(&load->vm->vm.vcpus);
    load->report.first_run_us = (load->report.first_run_ns - load->begin_ns) / 1000;
    return 0;
}

static int load_all(struct load *load, const char *path, struct microvm_config *config,
                    struct stasis_error *err)
{
    struct microvm *vm = load->vm;
    int r = read_snapshot(load, path, config, err);

    if (r < 0)
        return r;
    microvm_set_config(vm, config);
    r = microvm_open_console(vm, err);
    if (r == 0)
        r = build(load, err);
    if (r == 0)
        r = check_host(load, err);
    if (r == 0)
        r = restore_state(load, err);
    if (r == 0 && load->options->resume)
        r = run(load, err);
    if (r == 0)
        r = microvm_enter_sandbox(vm, err);
    if (r == 0 && load->options->track_dirty)
        microvm_remember_snapshot(vm, path);
    return r;
}

/* On failure the microvm is what it was: no VM, no console, the old configuration. */
static int load_or_undo(struct load *load, const char *path, struct stasis_error *err)
{
    /* Together some 80 KiB: too much for a small stack. */
    struct microvm_config *configs = calloc(2, sizeof(*configs));
    struct microvm *vm = load->vm;
    int r;

    if (!configs)
        return stasis_fail_memory(err, "configuration");
    configs[0] = vm->config;
    r = load_all(load, path, &configs[1], err);
    if (r < 0) {
        microvm_take_down(vm);
        microvm_forget_event(vm);
        microvm_set_config(vm, &configs[0]);
    }
    free(configs);
    stasis_close(load->snapshot);
    return r;
}

int microvm_load(struct microvm *vm, const char *path, const struct microvm_load_options *options,
                 struct microvm_load_report *ret_report, struct stasis_error *err)
{
    static const struct microvm_load_options defaults = { 0 };
    struct load load = { .vm = vm,
                         .options = options ? options : &defaults,
                         .begin_ns = monotonic_ns() };
    int r = microvm_begin(vm, "load", MICROVM_IN(MICROVM_NOT_STARTED), err);

    if (r < 0)
        return r;
    r = load_or_undo(&load, path, err);
    if (r < 0)
        microvm_end(vm, MICROVM_NOT_STARTED);
    else
        microvm_end(vm, load.options->resume ? MICROVM_RUNNING : MICROVM_PAUSED);
    if (r == 0 && ret_report)
        *ret_report = load.report;
    return r;
}
