/*
 * vcpu.c - vCPU threads: run the guest, serve its exits, park at the gate.
 *
 *     gate ----> KVM_RUN ----> port or MMIO access: ask the bus ----> KVM_RUN ...
 *       ^           |
 *       +-- EINTR --+   only here: the kernel has completed the access before
 *
 * To make vCPUs park, a pauser sets `pause`, sets immediate_exit in each shared page and sends each
 * thread a signal. A thread inside KVM_RUN is thrown out by the signal; one outside enters KVM_RUN
 * once more, where immediate_exit lets the kernel finish the access that the thread has just served
 * and come back at once (Documentation/virt/kvm/api.rst, 5, immediate_exit). Both end in EINTR, and
 * EINTR is the only way to the gate, but for events that end the run.
 *
 * Nothing is allocated while the guest runs, and the lock is taken only at the gate.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "microvm/vcpu.h"

#define RESET_RIP 0xfff0u /* where an x86 CPU begins */

uint64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- the kick ------------------------------------------------------------------------------- */

/* Its only work is to interrupt KVM_RUN. */
static void on_kick_signal(int signum)
{
    (void)signum;
}

/* The process's first real-time signal is ours. KVM_RUN is never restarted; other calls are. */
static int install_kick_signal(struct stasis_error *err)
{
    struct sigaction action = { .sa_handler = on_kick_signal, .sa_flags = SA_RESTART };

    sigemptyset(&action.sa_mask);
    if (sigaction(SIGRTMIN, &action, NULL) < 0)
        return stasis_fail_errno(err, "install the handler of SIGRTMIN");
    return 0;
}

/* Signals to the process are for other threads; faults of our own must still reach us. */
static void block_foreign_signals(void)
{
    sigset_t blocked;

    sigfillset(&blocked);
    sigdelset(&blocked, SIGRTMIN);
    sigdelset(&blocked, SIGABRT);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGSYS);
    pthread_sigmask(SIG_SETMASK, &blocked, NULL);
}

static void set_immediate_exit(struct vcpu *vcpu, uint8_t value)
{
    __atomic_store_n(&vcpu->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

/* With the lock held. */
static void kick_all(struct vcpu_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        struct vcpu *vcpu = &set->vcpus[i];

        set_immediate_exit(vcpu, 1);
        if (vcpu->has_thread)
            pthread_kill(vcpu->thread, SIGRTMIN);
    }
    pthread_cond_broadcast(&set->changed);
}

/* --- exits ---------------------------------------------------------------------------------- */

static void report(struct vcpu *vcpu, enum vcpu_event event, const struct stasis_error *why)
{
    vcpu->set->on_event(vcpu->set->event_arg, event, why);
    vcpu_set_end(vcpu->set);
}

static uint64_t read_rip(const struct vcpu *vcpu)
{
    struct kvm_regs regs;

    return ioctl(vcpu->fd, KVM_GET_REGS, &regs) == 0 ? regs.rip : UINT64_MAX;
}

static void serve_port(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    /* String instructions come as one exit with `count` items. */
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_IN)
            bus_read(vcpu->set->bus, BUS_PIO, run->io.port, data, run->io.size);
        else
            bus_write(vcpu->set->bus, BUS_PIO, run->io.port, data, run->io.size);
    }
}

static void serve_mmio(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;

    if (run->mmio.is_write)
        bus_write(vcpu->set->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    else
        bus_read(vcpu->set->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

static const char *suberror_name(uint32_t suberror)
{
    switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: return "emulation";
    case KVM_INTERNAL_ERROR_SIMUL_EX: return "simultaneous exceptions";
    case KVM_INTERNAL_ERROR_DELIVERY_EV: return "event delivery";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: return "unexpected exit reason";
    default: return "unknown";
    }
}

/* The instruction that KVM could not emulate, as " instruction 0f 58 c1", where the kernel says. */
static void format_instruction(const struct kvm_run *run, char *text, size_t text_size)
{
    const uint64_t flag = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
    size_t size = run->emulation_failure.insn_size;
    size_t used;

    text[0] = '\0';
    if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION || run->internal.ndata < 3 ||
        !(run->emulation_failure.flags & flag))
        return;
    if (size > sizeof(run->emulation_failure.insn_bytes))
        size = sizeof(run->emulation_failure.insn_bytes);
    used = (size_t)snprintf(text, text_size, ", instruction");
    for (size_t i = 0; i < size && used < text_size; i++)
        used += (size_t)snprintf(text + used, text_size - used, " %02x",
                                 run->emulation_failure.insn_bytes[i]);
}

static void report_internal_error(struct vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    struct stasis_error why = { 0 };
    char instruction[80];

    format_instruction(run, instruction, sizeof(instruction));
    stasis_fail(&why, STASIS_ERR_GUEST_CRASHED,
                "vCPU %u: KVM internal error, suberror %u (%s), rip 0x%" PRIx64 "%s", vcpu->index,
                run->internal.suberror, suberror_name(run->internal.suberror), read_rip(vcpu),
                instruction);
    report(vcpu, VCPU_EVENT_CRASH, &why);
}

static void report_failed_entry(struct vcpu *vcpu)
{
    struct stasis_error why = { 0 };

    stasis_fail(
        &why, STASIS_ERR_GUEST_CRASHED,
        "vCPU %u: the CPU refused to enter the guest, reason 0x%llx, rip 0x%" PRIx64, vcpu->index,
        (unsigned long long)vcpu->run->fail_entry.hardware_entry_failure_reason, read_rip(vcpu));
    report(vcpu, VCPU_EVENT_CRASH, &why);
}

static void report_unknown_exit(struct vcpu *vcpu)
{
    struct stasis_error why = { 0 };

    stasis_fail(&why, STASIS_ERR_GUEST_CRASHED,
                "vCPU %u: KVM exit %u that cannot be served, rip 0x%" PRIx64, vcpu->index,
                vcpu->run->exit_reason, read_rip(vcpu));
    report(vcpu, VCPU_EVENT_CRASH, &why);
}

static void report_failed_run(struct vcpu *vcpu)
{
    struct stasis_error why = { 0 };
    const int run_errno = errno;
    const uint64_t rip = read_rip(vcpu);

    stasis_fail(&why, STASIS_ERR_GUEST_CRASHED, "vCPU %u: KVM_RUN at rip 0x%" PRIx64 ": %s",
                vcpu->index, rip, strerror(run_errno));
    report(vcpu, VCPU_EVENT_CRASH, &why);
}

/* On AMD, KVM has put the vCPU into its reset state already: its rip tells nothing then. */
static void report_triple_fault(struct vcpu *vcpu)
{
    const uint64_t rip = read_rip(vcpu);
    struct stasis_error why = { 0 };

    if (rip == RESET_RIP)
        stasis_fail(&why, STASIS_ERR_GUEST_CRASHED, "vCPU %u: triple fault", vcpu->index);
    else
        stasis_fail(&why, STASIS_ERR_GUEST_CRASHED, "vCPU %u: triple fault, rip 0x%" PRIx64,
                    vcpu->index, rip);
    report(vcpu, VCPU_EVENT_TRIPLE_FAULT, &why);
}

static void report_system_event(struct vcpu *vcpu)
{
    struct stasis_error why = { 0 };

    switch (vcpu->run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN: report(vcpu, VCPU_EVENT_POWER_OFF, NULL); break;
    case KVM_SYSTEM_EVENT_RESET: report(vcpu, VCPU_EVENT_RESET, NULL); break;
    default:
        stasis_fail(&why, STASIS_ERR_GUEST_CRASHED, "vCPU %u: system event %u, rip 0x%" PRIx64,
                    vcpu->index, vcpu->run->system_event.type, read_rip(vcpu));
        report(vcpu, VCPU_EVENT_CRASH, &why);
        break;
    }
}

/* True: run on. False: to the gate, the vCPU waits there or the run has ended. */
static bool serve_exit(struct vcpu *vcpu)
{
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_IO: serve_port(vcpu); return true;
    case KVM_EXIT_MMIO: serve_mmio(vcpu); return true;
    case KVM_EXIT_HLT: return true; /* the in-kernel LAPIC wakes it, nothing to wait for here */
    case KVM_EXIT_INTR: return false;
    case KVM_EXIT_SHUTDOWN: report_triple_fault(vcpu); return false;
    case KVM_EXIT_SYSTEM_EVENT: report_system_event(vcpu); return false;
    case KVM_EXIT_FAIL_ENTRY: report_failed_entry(vcpu); return false;
    case KVM_EXIT_INTERNAL_ERROR: report_internal_error(vcpu); return false;
    default: report_unknown_exit(vcpu); return false;
    }
}

static void run_until_interrupted(struct vcpu *vcpu)
{
    for (;;) {
        if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
            if (!serve_exit(vcpu))
                return;
        } else if (errno == EINTR) {
            return;
        } else if (errno != EAGAIN) { /* EAGAIN: a waiting AP was woken, or spuriously */
            report_failed_run(vcpu);
            return;
        }
    }
}

/* --- the gate ------------------------------------------------------------------------------- */

/* Wait here while vCPUs are to stand still. False: the thread is to end. */
static bool pass_gate(struct vcpu *vcpu)
{
    struct vcpu_set *set = vcpu->set;
    bool go_on;

    pthread_mutex_lock(&set->lock);
    while ((set->pause || set->ended) && !set->quit)
        pthread_cond_wait(&set->changed, &set->lock);
    go_on = !set->quit;
    if (go_on) {
        set_immediate_exit(vcpu, 0);
        vcpu->running = true;
        if (set->running_count++ == 0)
            pthread_cond_broadcast(&set->changed);
        if (set->first_run_ns == 0)
            set->first_run_ns = monotonic_ns();
    }
    pthread_mutex_unlock(&set->lock);
    return go_on;
}

static void come_to_gate(struct vcpu *vcpu)
{
    struct vcpu_set *set = vcpu->set;

    pthread_mutex_lock(&set->lock);
    vcpu->running = false;
    if (--set->running_count == 0)
        pthread_cond_broadcast(&set->changed);
    pthread_mutex_unlock(&set->lock);
}

static void *vcpu_thread(void *arg)
{
    struct vcpu *vcpu = arg;
    char name[16];

    block_foreign_signals();
    snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
    pthread_setname_np(pthread_self(), name);
    while (pass_gate(vcpu)) {
        run_until_interrupted(vcpu);
        come_to_gate(vcpu);
    }
    return NULL;
}

/* --- the set -------------------------------------------------------------------------------- */

static int init_lock(struct vcpu_set *set, struct stasis_error *err)
{
    pthread_condattr_t attr;
    int r = pthread_condattr_init(&attr);

    if (r == 0) {
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        r = pthread_cond_init(&set->changed, &attr);
        pthread_condattr_destroy(&attr);
    }
    if (r != 0)
        return stasis_fail_memory(err, "vCPU gate");
    pthread_mutex_init(&set->lock, NULL);
    set->has_lock = true;
    return 0;
}

int vcpu_set_init(struct vcpu_set *set, const struct bus *bus, vcpu_event_fn *on_event,
                  void *event_arg, struct stasis_error *err)
{
    int r;

    memset(set, 0, sizeof(*set));
    set->bus = bus;
    set->on_event = on_event;
    set->event_arg = event_arg;
    set->pause = true;
    r = install_kick_signal(err);
    return r < 0 ? r : init_lock(set, err);
}

static int create_vcpu(struct vcpu_set *set, int vm_fd, uint32_t index, struct stasis_error *err)
{
    struct vcpu *vcpu = &set->vcpus[index];
    auto_fd fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
    void *run;

    if (fd < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_CREATE_VCPU %u", index);
    run = mmap(NULL, set->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run == MAP_FAILED)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "map the shared page of vCPU %u", index);
    *vcpu = (struct vcpu){ .set = set, .fd = fd_steal(&fd), .index = index, .run = run };
    return 0;
}

int vcpu_set_create(struct vcpu_set *set, int vm_fd, size_t count, size_t run_size,
                    struct stasis_error *err)
{
    set->run_size = run_size;
    for (uint32_t i = 0; i < count; i++) {
        const int r = create_vcpu(set, vm_fd, i, err);

        if (r < 0)
            return r;
        set->count++;
    }
    return 0;
}

int vcpu_set_start_threads(struct vcpu_set *set, struct stasis_error *err)
{
    for (size_t i = 0; i < set->count; i++) {
        struct vcpu *vcpu = &set->vcpus[i];
        const int r = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);

        if (r != 0) {
            vcpu_set_stop(set);
            errno = r;
            return stasis_fail_errno(err, "create the thread of vCPU %zu", i);
        }
        vcpu->has_thread = true;
    }
    return 0;
}

void vcpu_set_resume(struct vcpu_set *set)
{
    pthread_mutex_lock(&set->lock);
    set->pause = false;
    pthread_cond_broadcast(&set->changed);
    while (set->running_count == 0 && !set->ended && !set->quit)
        pthread_cond_wait(&set->changed, &set->lock);
    pthread_mutex_unlock(&set->lock);
}

/* With the lock held: who is still inside the guest, or in a device's access. */
static int fail_timeout(struct vcpu_set *set, struct stasis_error *err)
{
    for (size_t i = 0; i < set->count; i++) {
        if (set->vcpus[i].running)
            return stasis_fail(err, STASIS_ERR_QUIESCE_TIMEOUT,
                               "vCPU %zu did not come to rest within the time limit", i);
    }
    return 0;
}

int vcpu_set_pause(struct vcpu_set *set, uint64_t deadline_ns, struct stasis_error *err)
{
    const struct timespec deadline = { .tv_sec = (time_t)(deadline_ns / 1000000000u),
                                       .tv_nsec = (long)(deadline_ns % 1000000000u) };
    int waited = 0;
    int r = 0;

    pthread_mutex_lock(&set->lock);
    set->pause = true;
    kick_all(set);
    while (set->running_count > 0 && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&set->changed, &set->lock, &deadline);
    if (set->running_count > 0) {
        r = fail_timeout(set, err);
        set->pause = false;
        pthread_cond_broadcast(&set->changed);
    }
    pthread_mutex_unlock(&set->lock);
    return r;
}

uint64_t vcpu_set_first_run_ns(struct vcpu_set *set)
{
    uint64_t first_run_ns;

    pthread_mutex_lock(&set->lock);
    first_run_ns = set->first_run_ns;
    pthread_mutex_unlock(&set->lock);
    return first_run_ns;
}

void vcpu_set_end(struct vcpu_set *set)
{
    pthread_mutex_lock(&set->lock);
    set->ended = true;
    kick_all(set);
    pthread_mutex_unlock(&set->lock);
}

void vcpu_set_stop(struct vcpu_set *set)
{
    pthread_mutex_lock(&set->lock);
    set->quit = true;
    kick_all(set);
    pthread_mutex_unlock(&set->lock);

    for (size_t i = 0; i < set->count; i++) {
        if (set->vcpus[i].has_thread)
            pthread_join(set->vcpus[i].thread, NULL);
        set->vcpus[i].has_thread = false;
    }
}

void vcpu_set_release(struct vcpu_set *set)
{
    if (!set->has_lock)
        return;
    vcpu_set_stop(set);
    for (size_t i = 0; i < set->count; i++) {
        munmap(set->vcpus[i].run, set->run_size);
        fd_close(&set->vcpus[i].fd);
    }
    set->count = 0;
    pthread_cond_destroy(&set->changed);
    pthread_mutex_destroy(&set->lock);
    set->has_lock = false;
}
