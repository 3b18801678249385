/*
 * microvm.c - the life cycle: start, pause, resume, stop, and what becomes of the guest's own end.
 *
 *     caller                    supervisor                    vCPU thread
 *     microvm_pause() ...       waits on wake_fd
 *                                                             power-off, reset, crash
 *                               <------- microvm_on_event() ---
 *                               takes the token,
 *                               takes the VM down or boots it again
 *
 * A vCPU thread cannot take down the VM it runs in, and callers of the API come and go, so a thread
 * of the microvm's own does it. See microvm_private.h for the lock and the token.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "microvm/acpi_tables.h"
#include "microvm/boot.h"
#include "microvm/cpuid.h"
#include "microvm/microvm_private.h"
#include "microvm/sandbox.h"
#include "microvm/worker.h"

#define DEFAULT_ID "anonymous-instance"
#define DEFAULT_MEMORY_SIZE (UINT64_C(128) << 20)

const char *microvm_state_name(enum microvm_state state)
{
    switch (state) {
    case MICROVM_NOT_STARTED: return "Not started";
    case MICROVM_RUNNING: return "Running";
    case MICROVM_PAUSED: return "Paused";
    case MICROVM_STOPPED: return "Stopped";
    default: return "Unknown";
    }
}

const char *microvm_id(const struct microvm *vm)
{
    return vm->id;
}

enum microvm_state microvm_get_state(struct microvm *vm)
{
    enum microvm_state state;

    pthread_mutex_lock(&vm->lock);
    state = vm->state;
    pthread_mutex_unlock(&vm->lock);
    return state;
}

/* --- the token ------------------------------------------------------------------------------ */

int microvm_begin(struct microvm *vm, const char *action, unsigned states, struct stasis_error *err)
{
    int r = 0;

    pthread_mutex_lock(&vm->lock);
    if (vm->action)
        r = stasis_fail(err, STASIS_ERR_BUSY, "%s: another action goes on (%s)", action,
                        vm->action);
    else if (!(MICROVM_IN(vm->state) & states))
        r = stasis_fail(err, STASIS_ERR_WRONG_STATE,
                        "%s: not possible, the microVM's state is "
                        "\"%s\"",
                        action, microvm_state_name(vm->state));
    else
        vm->action = action;
    pthread_mutex_unlock(&vm->lock);
    return r;
}

static void end(struct microvm *vm, enum microvm_state state, bool saving)
{
    pthread_mutex_lock(&vm->lock);
    vm->state = state;
    vm->saving = vm->saving || saving;
    vm->action = NULL;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

void microvm_end(struct microvm *vm, enum microvm_state state)
{
    end(vm, state, false);
}

int microvm_begin_save(struct microvm *vm, unsigned states, struct stasis_error *err)
{
    int r = microvm_begin(vm, "save", states, err);
    bool saving;

    if (r < 0)
        return r;
    pthread_mutex_lock(&vm->lock);
    saving = vm->saving; /* nobody but a holder of the token sets it */
    pthread_mutex_unlock(&vm->lock);
    if (!saving)
        return 0;
    microvm_end(vm, vm->state);
    return stasis_fail(err, STASIS_ERR_BUSY, "save: another save goes on");
}

void microvm_end_first_part(struct microvm *vm, enum microvm_state state)
{
    end(vm, state, true);
}

void microvm_end_save(struct microvm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->saving = false;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

/* --- events and stop ------------------------------------------------------------------------ */

/* Async-signal-safe. An eventfd is full only when it is readable anyway. */
static void wake_supervisor(const struct microvm *vm)
{
    const uint64_t one = 1;
    const int saved_errno = errno;

    (void)!write(vm->wake_fd, &one, sizeof(one));
    errno = saved_errno;
}

void microvm_on_event(void *arg, enum vcpu_event event, const struct stasis_error *why)
{
    struct microvm *vm = arg;

    pthread_mutex_lock(&vm->lock);
    if (vm->event == VCPU_EVENT_NONE) { /* the first counts: others follow from it */
        vm->event = event;
        vm->event_why = why ? *why : (struct stasis_error){ 0 };
    }
    pthread_mutex_unlock(&vm->lock);
    wake_supervisor(vm);
}

static bool has_event(struct microvm *vm)
{
    bool has;

    pthread_mutex_lock(&vm->lock);
    has = vm->event != VCPU_EVENT_NONE;
    pthread_mutex_unlock(&vm->lock);
    return has;
}

static void on_console_quit(void *arg)
{
    microvm_stop(arg);
}

void microvm_stop(struct microvm *vm)
{
    atomic_store(&vm->stop_wanted, true);
    wake_supervisor(vm);
}

/* --- ahead of time -------------------------------------------------------------------------- */

static void set_done(struct microvm *vm, bool *done)
{
    pthread_mutex_lock(&vm->lock);
    *done = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

static void wait_until_done(struct microvm *vm, const bool *done)
{
    pthread_mutex_lock(&vm->lock);
    while (!*done)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

/* The supervisor's first work. Failures are kept quiet: they matter when a VM is wanted, and then
 * microvm_prepare() and microvm_probe() meet them again. Nobody else touches what is made here
 * before it is said to be done. */
static void prepare_ahead(struct microvm *vm)
{
    const bool is_open = vm_host_open(&vm->host, NULL) == 0;

    if (is_open)
        (void)vm_prepare(&vm->vm, &vm->host, NULL);
    set_done(vm, &vm->prepared);
    if (is_open)
        (void)vm_host_probe(&vm->host, NULL);
    set_done(vm, &vm->probed);
}

int microvm_prepare(struct microvm *vm, struct stasis_error *err)
{
    wait_until_done(vm, &vm->prepared);
    return vm_host_open(&vm->host, err);
}

int microvm_probe(struct microvm *vm, struct stasis_error *err)
{
    wait_until_done(vm, &vm->probed);
    return vm_host_probe(&vm->host, err);
}

/* --- building and taking down --------------------------------------------------------------- */

struct vm_config microvm_vm_config(struct microvm *vm)
{
    return (struct vm_config){
        .vcpu_count = vm->config.machine.vcpu_count,
        .memory_size = vm->config.machine.memory_size,
        .pages = vm->config.machine.pages,
        .track_dirty = vm->config.machine.track_dirty,
        .drives = vm->config.drives,
        .drive_count = vm->config.drives_count,
        .has_entropy = vm->config.has_entropy,
        .console = vm->console,
        .on_event = microvm_on_event,
        .event_arg = vm,
    };
}

int microvm_open_console(struct microvm *vm, struct stasis_error *err)
{
    if (vm->console)
        return 0;
    return console_open(vm->serial, on_console_quit, vm, &vm->console, err);
}

void microvm_remember_snapshot(struct microvm *vm, const char *path)
{
    free(vm->last_snapshot);
    vm->last_snapshot = path ? realpath(path, NULL) : NULL;
}

void microvm_take_down(struct microvm *vm)
{
    microvm_remember_snapshot(vm, NULL);
    wait_until_done(vm, &vm->prepared); /* a start may fail before it has come so far as to wait */
    vm_release(&vm->vm);
    console_close(vm->console);
    vm->console = NULL;
}

static int set_cpuid(struct microvm *vm, const struct kvm_cpuid2 *supported, uint32_t index,
                     struct stasis_error *err)
{
    const struct cpuid_config config = { .vcpu_count = vm->config.machine.vcpu_count,
                                         .vcpu_index = index,
                                         .has_tsc_deadline = vm->host.has_tsc_deadline };
    auto_free struct kvm_cpuid2 *cpuid = NULL;
    const int r = cpuid_for_vcpu(supported, &config, &cpuid, err);

    return r < 0 ? r : vm_set_vcpu_cpuid(&vm->vm, index, cpuid, err);
}

static int set_vcpus(struct microvm *vm, const struct boot_entry *entry, struct stasis_error *err)
{
    auto_free struct kvm_cpuid2 *supported = NULL;
    int r = vm_host_read_cpuid(&vm->host, &supported, err);

    for (uint32_t i = 0; i < vm->config.machine.vcpu_count && r == 0; i++) {
        r = set_cpuid(vm, supported, i, err);
        if (r == 0)
            r = boot_set_vcpu(vm->vm.vcpu_fds[i], i, entry, err);
    }
    return r;
}

/* The command line with the root device behind it, in `text`. Drives are in slot order, which is the
 * order in which Linux names them. */
static int add_root(const struct microvm_config *config, char text[MICROVM_CMDLINE_SIZE],
                    const char **ret_cmdline, struct stasis_error *err)
{
    const char *given = config->has_cmdline ? config->cmdline : NULL;
    int size = 0;

    *ret_cmdline = given;
    for (size_t i = 0; i < config->drives_count; i++) {
        const struct vm_drive *drive = &config->drives[i];

        if (!drive->is_root)
            continue;
        size = snprintf(text, MICROVM_CMDLINE_SIZE, "%s root=/dev/vd%c %s",
                        given ? given : BOOT_LINUX_CMDLINE, (char)('a' + drive->slot),
                        drive->read_only ? "ro" : "rw");
        *ret_cmdline = text;
    }
    if (size >= MICROVM_CMDLINE_SIZE)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the command line with its root device is longer than %d bytes",
                           MICROVM_CMDLINE_SIZE - 1);
    return 0;
}

static int load_kernel(struct microvm *vm, const struct vm_config *config, struct stasis_error *err)
{
    const struct microvm_config *wanted = &vm->config;
    char cmdline[MICROVM_CMDLINE_SIZE];
    struct boot_source source = {
        .kernel_path = wanted->kernel_path,
        .initrd_path = wanted->initrd_path[0] ? wanted->initrd_path : NULL,
    };
    const struct acpi_config acpi = { .vcpu_count = config->vcpu_count,
                                      .virtio_slots = vm_slots_used(config) };
    struct boot_entry entry;
    int r = add_root(wanted, cmdline, &source.cmdline, err);

    if (r == 0)
        r = boot_load(&vm->vm.memory.guest, &source, &entry, err);
    if (r == 0)
        r = acpi_tables_write(&vm->vm.memory.guest, &acpi, err);
    if (r == 0)
        r = set_vcpus(vm, &entry, err);
    if (r == 0)
        r = acpi_platform_new_generation(vm->vm.platform, false, err);
    return r;
}

static int check_kernel_is_set(const struct microvm *vm, struct stasis_error *err)
{
    if (vm->config.kernel_path[0] == '\0')
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "there is no kernel to boot");
    return 0;
}

int microvm_boot(struct microvm *vm, struct stasis_error *err)
{
    const struct vm_config config = microvm_vm_config(vm);
    int r = check_kernel_is_set(vm, err);

    if (r == 0)
        r = vm_build(&vm->vm, &vm->host, &config, NULL, err);
    if (r == 0)
        r = load_kernel(vm, &config, err);
    if (r < 0)
        vm_release(&vm->vm);
    return r;
}

int microvm_enter_sandbox(struct microvm *vm, struct stasis_error *err)
{
    return vm->no_seccomp ? 0 : sandbox_enter(err);
}

/* --- start, pause, resume ------------------------------------------------------------------- */

static int boot_and_run(struct microvm *vm, struct stasis_error *err)
{
    int r = check_kernel_is_set(vm, err); /* said even where there is no KVM */

    if (r == 0)
        r = microvm_prepare(vm, err);
    if (r == 0)
        r = microvm_probe(vm, err);
    if (r == 0)
        r = microvm_open_console(vm, err);
    if (r == 0)
        r = microvm_boot(vm, err);
    if (r == 0)
        r = vm_resume(&vm->vm, err);
    if (r == 0)
        r = microvm_enter_sandbox(vm, err);
    return r;
}

void microvm_forget_event(struct microvm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->event = VCPU_EVENT_NONE;
    pthread_mutex_unlock(&vm->lock);
}

int microvm_start(struct microvm *vm, struct stasis_error *err)
{
    int r = microvm_begin(vm, "start", MICROVM_IN(MICROVM_NOT_STARTED), err);

    if (r < 0)
        return r;
    r = boot_and_run(vm, err);
    if (r < 0) {
        microvm_take_down(vm);
        microvm_forget_event(vm);
    }
    microvm_end(vm, r < 0 ? MICROVM_NOT_STARTED : MICROVM_RUNNING);
    return r;
}

int microvm_quiesce(struct microvm *vm, struct stasis_error *err)
{
    int r = vm_pause(&vm->vm, monotonic_ns() + vm->quiesce_timeout_ns, err);

    if (r < 0)
        return r;
    if (has_event(vm))
        return stasis_fail(err, STASIS_ERR_WRONG_STATE,
                           "the guest has just ended its run or asked for a reset");
    return 0;
}

int microvm_pause(struct microvm *vm, struct stasis_error *err)
{
    const unsigned states = MICROVM_IN(MICROVM_RUNNING) | MICROVM_IN(MICROVM_PAUSED);
    int r = microvm_begin(vm, "pause", states, err);

    if (r < 0)
        return r;
    if (vm->state == MICROVM_PAUSED) { /* states change with the token only */
        microvm_end(vm, MICROVM_PAUSED);
        return 0;
    }
    r = microvm_quiesce(vm, err);
    microvm_end(vm, r < 0 ? MICROVM_RUNNING : MICROVM_PAUSED);
    return r;
}

int microvm_resume(struct microvm *vm, struct stasis_error *err)
{
    const unsigned states = MICROVM_IN(MICROVM_RUNNING) | MICROVM_IN(MICROVM_PAUSED);
    int r = microvm_begin(vm, "resume", states, err);

    if (r < 0)
        return r;
    if (vm->state == MICROVM_PAUSED)
        r = vm_resume(&vm->vm, err);
    microvm_end(vm, r < 0 ? MICROVM_PAUSED : MICROVM_RUNNING);
    return r;
}

int microvm_power_button(struct microvm *vm, struct stasis_error *err)
{
    const unsigned states = MICROVM_IN(MICROVM_RUNNING) | MICROVM_IN(MICROVM_PAUSED);
    const int r = microvm_begin(vm, "power button", states, err);

    if (r < 0)
        return r;
    acpi_platform_power_button(vm->vm.platform);
    microvm_end(vm, vm->state);
    return 0;
}

/* --- the supervisor ------------------------------------------------------------------------- */

static void finish(struct microvm *vm, enum microvm_exit why, int result,
                   const struct stasis_error *error)
{
    microvm_take_down(vm);
    pthread_mutex_lock(&vm->lock);
    vm->exit = why;
    vm->exit_result = result;
    vm->exit_error = *error;
    pthread_mutex_unlock(&vm->lock);
    microvm_end(vm, MICROVM_STOPPED);
}

/* Boot again with the same configuration; the console stays open. */
static void reboot(struct microvm *vm)
{
    struct stasis_error error = { 0 };
    int r;

    vm_release(&vm->vm);
    microvm_remember_snapshot(vm, NULL); /* what comes has nothing in common with it */
    microvm_forget_event(vm);
    r = microvm_boot(vm, &error);
    if (r == 0)
        r = vm_resume(&vm->vm, &error);
    if (r < 0) {
        r = stasis_wrap(&error, r, "the guest asked for a reset, but cannot be booted again");
        finish(vm, MICROVM_EXIT_RESET, r, &error);
        return;
    }
    microvm_end(vm, MICROVM_RUNNING);
}

static void crash(struct microvm *vm, const struct stasis_error *why)
{
    finish(vm, MICROVM_EXIT_CRASHED, -stasis_code_errno(why->code), why);
}

static void deal_with(struct microvm *vm, enum vcpu_event event, const struct stasis_error *why)
{
    static const struct stasis_error none = { 0 };

    switch (event) {
    case VCPU_EVENT_POWER_OFF: finish(vm, MICROVM_EXIT_POWER_OFF, 0, &none); break;
    case VCPU_EVENT_RESET:
        if (vm->exit_on_reset)
            finish(vm, MICROVM_EXIT_RESET, 0, &none);
        else
            reboot(vm);
        break;
    case VCPU_EVENT_TRIPLE_FAULT:
        if (vm->exit_on_reset)
            crash(vm, why);
        else
            reboot(vm);
        break;
    case VCPU_EVENT_CRASH: crash(vm, why); break;
    case VCPU_EVENT_NONE: break;
    }
}

/* With the lock held. A stop goes before whatever else the guest wants. */
static bool has_work(const struct microvm *vm)
{
    return vm->state != MICROVM_STOPPED &&
           (vm->event != VCPU_EVENT_NONE || atomic_load(&vm->stop_wanted));
}

/* Take the token when it is free, no save needs the VM, and there is something to do. False: nothing to
 * do. */
static bool take_work(struct microvm *vm, enum vcpu_event *ret_event, struct stasis_error *ret_why)
{
    bool has;

    pthread_mutex_lock(&vm->lock);
    while ((vm->action || vm->saving) && has_work(vm))
        pthread_cond_wait(&vm->changed, &vm->lock);
    has = has_work(vm);
    if (has) {
        vm->action = "the guest's end or reset";
        *ret_event = atomic_load(&vm->stop_wanted) ? VCPU_EVENT_NONE : vm->event;
        *ret_why = vm->event_why;
    }
    pthread_mutex_unlock(&vm->lock);
    return has;
}

static bool should_quit(struct microvm *vm)
{
    bool quit;

    pthread_mutex_lock(&vm->lock);
    quit = vm->quit;
    pthread_mutex_unlock(&vm->lock);
    return quit;
}

static void *supervise(void *arg)
{
    static const struct stasis_error none = { 0 };
    struct microvm *vm = arg;
    struct stasis_error why;
    enum vcpu_event event;
    uint64_t count;

    prepare_ahead(vm);
    while (!should_quit(vm)) {
        if (read(vm->wake_fd, &count, sizeof(count)) < 0 && errno != EINTR)
            break; /* not possible: an eventfd, 8 bytes */
        if (!take_work(vm, &event, &why))
            continue;
        if (event == VCPU_EVENT_NONE)
            finish(vm, MICROVM_EXIT_STOPPED, 0, &none);
        else
            deal_with(vm, event, &why);
    }
    return NULL;
}

int microvm_wait(struct microvm *vm, enum microvm_exit *ret_exit, struct stasis_error *err)
{
    int r;

    pthread_mutex_lock(&vm->lock);
    while (vm->state != MICROVM_STOPPED)
        pthread_cond_wait(&vm->changed, &vm->lock);
    *ret_exit = vm->exit;
    r = vm->exit_result;
    if (r < 0 && err)
        *err = vm->exit_error;
    pthread_mutex_unlock(&vm->lock);
    return r;
}

/* --- new and free --------------------------------------------------------------------------- */

static int copy_options(struct microvm *vm, const struct microvm_options *options,
                        struct stasis_error *err)
{
    const char *id = options->id ? options->id : DEFAULT_ID;
    const uint32_t timeout_ms =
        options->quiesce_timeout_ms ? options->quiesce_timeout_ms : MICROVM_QUIESCE_MS;

    if (!microvm_id_is_valid(id))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "instance id '%s': must be 1 to %d of A-Z a-z 0-9 _ -", id,
                           MICROVM_ID_SIZE - 1);
    (void)microvm_copy_text(vm->id, sizeof(vm->id), id);
    vm->serial = strdup(options->serial ? options->serial : "stdio");
    if (!vm->serial)
        return stasis_fail_memory(err, "microvm");
    vm->quiesce_timeout_ns = (uint64_t)timeout_ms * 1000000u;
    vm->no_seccomp = options->no_seccomp;
    vm->exit_on_reset = options->exit_on_reset;
    return 0;
}

static int start_supervisor(struct microvm *vm, struct stasis_error *err)
{
    int r;

    vm->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (vm->wake_fd < 0)
        return stasis_fail_errno(err, "create an eventfd");
    r = thread_start(&vm->supervisor, supervise, vm, "the microVM's supervisor", err);
    vm->has_supervisor = r == 0;
    return r;
}

int microvm_new(const struct microvm_options *options, struct microvm **ret_vm,
                struct stasis_error *err)
{
    struct microvm *vm = calloc(1, sizeof(*vm));
    int r;

    if (!vm)
        return stasis_fail_memory(err, "microvm");
    vm->wake_fd = -1;
    vm->config.machine.vcpu_count = 1;
    vm->config.machine.memory_size = DEFAULT_MEMORY_SIZE;
    vm_init(&vm->vm);
    vm_host_init(&vm->host);
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);

    r = copy_options(vm, options, err);
    if (r == 0)
        r = start_supervisor(vm, err);
    if (r < 0) {
        microvm_free(vm);
        return r;
    }
    *ret_vm = vm;
    return 0;
}

static void stop_supervisor(struct microvm *vm)
{
    enum microvm_exit why;

    microvm_stop(vm);
    (void)microvm_wait(vm, &why, NULL);
    pthread_mutex_lock(&vm->lock);
    vm->quit = true;
    pthread_mutex_unlock(&vm->lock);
    wake_supervisor(vm);
    pthread_join(vm->supervisor, NULL);
}

void microvm_free(struct microvm *vm)
{
    if (!vm)
        return;
    if (vm->has_supervisor)
        stop_supervisor(vm);
    vm_host_release(&vm->host);
    fd_close(&vm->wake_fd);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
    stasis_arena_free(vm->arena);
    free(vm->last_snapshot);
    free(vm->serial);
    free(vm);
}
