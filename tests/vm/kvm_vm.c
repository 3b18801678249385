/*
 * kvm_vm.c - see kvm_vm.h.
 */
#include "kvm_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "unit.h"

#define RUN_LIMIT_MS 5000
#define CPUID_1_ECX_TSC_DEADLINE (1u << 24)
#define CPUID_1_ECX_HYPERVISOR (1u << 31)

const struct test_vm_config test_vm_one_vcpu = { .vcpu_count = 1,
                                                 .irqchip = TEST_IRQCHIP_FULL,
                                                 .has_pit = true };

#define must(call)                                                                                 \
    do {                                                                                           \
        if ((call) < 0)                                                                            \
            fail_msg("%s: %s", #call, strerror(errno));                                            \
    } while (0)

static int open_kvm(void)
{
    return open("/dev/kvm", O_RDWR | O_CLOEXEC);
}

void test_need_kvm(void)
{
    const int fd = open_kvm();

    if (fd < 0)
        unit_skip("/dev/kvm: %s", strerror(errno));
    close(fd);
}

const struct stasis_kvm_host *test_kvm_host(void)
{
    static struct stasis_kvm_host *host;
    struct stasis_error err = { 0 };

    if (!host) {
        const int fd = open_kvm();

        assert_stasis_ok(stasis_kvm_host_probe(fd, &host, &err), &err);
        close(fd);
    }
    return host;
}

static struct kvm_cpuid_entry2 *find_leaf(struct test_cpuid *cpuid, uint32_t function)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == function)
            return &cpuid->entries[i];
    }
    return NULL;
}

void test_cpuid_supported(int kvm_fd, uint32_t apic_id, struct test_cpuid *ret_cpuid)
{
    struct kvm_cpuid_entry2 *leaf;

    memset(ret_cpuid, 0, sizeof(*ret_cpuid));
    ret_cpuid->nent = TEST_CPUID_MAX;
    must(ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, ret_cpuid));
    leaf = find_leaf(ret_cpuid, 1);
    assert_non_null(leaf);
    leaf->ebx = (leaf->ebx & 0x00ffffff) | apic_id << 24;
    leaf->ecx |= CPUID_1_ECX_HYPERVISOR;
    if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
        leaf->ecx |= CPUID_1_ECX_TSC_DEADLINE;
}

static void make_controllers(struct test_vm *vm, const struct test_vm_config *config)
{
    struct kvm_pit_config pit = { 0 };
    struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };

    if (config->irqchip == TEST_IRQCHIP_FULL)
        must(ioctl(vm->vm_fd, KVM_CREATE_IRQCHIP, 0));
    if (config->irqchip == TEST_IRQCHIP_SPLIT)
        must(ioctl(vm->vm_fd, KVM_ENABLE_CAP, &split));
    if (config->has_pit)
        must(ioctl(vm->vm_fd, KVM_CREATE_PIT2, &pit));
}

static void make_memory(struct test_vm *vm)
{
    struct kvm_userspace_memory_region region = { .memory_size = TEST_MEMORY_SIZE };

    vm->memory =
        mmap(NULL, TEST_MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(vm->memory, MAP_FAILED);
    region.userspace_addr = (uintptr_t)vm->memory;
    must(ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region));
}

static void make_vcpu(struct test_vm *vm, size_t index, const struct test_vm_config *config)
{
    const uint32_t id = config->vcpu_ids ? config->vcpu_ids[index] : (uint32_t)index;
    struct test_cpuid cpuid;
    int fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, (unsigned long)id);

    must(fd);
    vm->vcpu_fds[index] = fd;
    vm->vcpu_ids[index] = id;
    vm->vcpu_count = index + 1;
    vm->runs[index] = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(vm->runs[index], MAP_FAILED);
    if (config->no_cpuid)
        return;
    test_cpuid_supported(vm->kvm_fd, id, &cpuid);
    must(ioctl(fd, KVM_SET_CPUID2, &cpuid));
}

void test_vm_open(struct test_vm *vm, const struct test_vm_config *config)
{
    test_need_kvm();
    memset(vm, 0, sizeof(*vm));
    vm->vm_fd = -1;
    vm->kvm_fd = open_kvm();
    vm->run_size = (size_t)ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    must(vm->vm_fd);
    /* Intel needs these to run real mode; away from our memory. */
    must(ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul));
    make_controllers(vm, config);
    make_memory(vm);
    for (size_t i = 0; i < config->vcpu_count; i++)
        make_vcpu(vm, i, config);
    vm->view = (struct stasis_kvm_vm){ .vm_fd = vm->vm_fd,
                                       .vcpu_fds = vm->vcpu_fds,
                                       .vcpu_ids = config->vcpu_ids ? vm->vcpu_ids : NULL,
                                       .vcpu_count = config->vcpu_count,
                                       .has_irqchip = config->irqchip == TEST_IRQCHIP_FULL,
                                       .has_lapic = config->irqchip != TEST_IRQCHIP_NONE,
                                       .has_pit = config->has_pit };
}

void test_vm_close(struct test_vm *vm)
{
    if (vm->kvm_fd <= 0)
        return;
    for (size_t i = 0; i < vm->vcpu_count; i++) {
        munmap(vm->runs[i], vm->run_size);
        close(vm->vcpu_fds[i]);
    }
    if (vm->memory)
        munmap(vm->memory, TEST_MEMORY_SIZE);
    if (vm->vm_fd >= 0)
        close(vm->vm_fd);
    close(vm->kvm_fd);
    memset(vm, 0, sizeof(*vm));
}

static void flatten(struct kvm_segment *segment)
{
    segment->base = 0;
    segment->selector = 0;
}

void test_vm_load(struct test_vm *vm, size_t index, const uint8_t *code, size_t size)
{
    const int fd = vm->vcpu_fds[index];
    struct kvm_regs regs = { .rip = TEST_CODE_GPA, .rsp = TEST_STACK_GPA, .rflags = 0x2 };
    struct kvm_sregs sregs;
    struct kvm_mp_state state = { .mp_state = KVM_MP_STATE_RUNNABLE };

    memcpy(vm->memory + TEST_CODE_GPA, code, size);
    must(ioctl(fd, KVM_GET_SREGS, &sregs));
    flatten(&sregs.cs), flatten(&sregs.ds), flatten(&sregs.es), flatten(&sregs.ss);
    must(ioctl(fd, KVM_SET_SREGS, &sregs));
    must(ioctl(fd, KVM_SET_REGS, &regs));
    must(ioctl(fd, KVM_SET_MP_STATE, &state));
}

/* --- running, with a time limit ------------------------------------------------------------- */

/* The signal both interrupts KVM_RUN and, when it comes just before, stops the next one. */
static struct kvm_run *volatile running;

static void on_alarm(int signal_number)
{
    (void)signal_number;
    if (running)
        running->immediate_exit = 1;
}

static void arm(unsigned ms)
{
    static bool installed;
    const struct sigaction action = { .sa_handler = on_alarm };
    /* Again and again: the first may hit before KVM_RUN looks. */
    const struct itimerspec when = { .it_value = { ms / 1000, (long)(ms % 1000) * 1000000 },
                                     .it_interval = { 0, 10000000 } };
    static timer_t timer;

    if (!installed) {
        sigaction(SIGALRM, &action, NULL);
        must(timer_create(CLOCK_MONOTONIC, NULL, &timer));
        installed = true;
    }
    timer_settime(timer, 0, ms ? &when : &(struct itimerspec){ 0 }, NULL);
}

/* 0, or the errno of KVM_RUN: EINTR when the time was up. */
static int run_for(struct test_vm *vm, size_t index, unsigned ms)
{
    int r;

    vm->runs[index]->immediate_exit = 0;
    running = vm->runs[index];
    arm(ms);
    r = ioctl(vm->vcpu_fds[index], KVM_RUN, 0) < 0 ? errno : 0;
    arm(0);
    running = NULL;
    vm->runs[index]->immediate_exit = 0;
    return r;
}

/* KVM finishes the instruction that left it when it is next entered: enter, and leave at once. */
static void complete_exit(struct test_vm *vm, size_t index)
{
    vm->runs[index]->immediate_exit = 1;
    if (ioctl(vm->vcpu_fds[index], KVM_RUN, 0) == 0 || errno != EINTR)
        fail_msg("KVM_RUN with immediate_exit did not give EINTR");
    vm->runs[index]->immediate_exit = 0;
}

struct out { /* what the guest wrote, and where to */
    uint16_t port;
    uint8_t byte;
};

/* False when the time was up; fails the test on any exit but an out. */
static bool run_to_out(struct test_vm *vm, size_t index, unsigned ms, struct out *ret_out)
{
    const struct kvm_run *run = vm->runs[index];
    const int r = run_for(vm, index, ms);

    if (r == EINTR)
        return false;
    if (r != 0)
        fail_msg("KVM_RUN: %s", strerror(r));
    if (run->exit_reason != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_OUT)
        fail_msg("exit reason %u, expected an out", run->exit_reason);
    *ret_out =
        (struct out){ .port = run->io.port, .byte = *((const uint8_t *)run + run->io.data_offset) };
    complete_exit(vm, index);
    return true;
}

static void assert_port(const struct out *out, uint16_t port)
{
    if (out->port != port)
        fail_msg("out to port 0x%x, expected 0x%x", out->port, port);
}

bool test_vm_outs_within(struct test_vm *vm, size_t index, uint16_t port, unsigned ms)
{
    struct out out;

    if (!run_to_out(vm, index, ms, &out))
        return false;
    assert_port(&out, port);
    return true;
}

static struct out must_out(struct test_vm *vm, size_t index)
{
    struct out out = { 0 };

    if (!run_to_out(vm, index, RUN_LIMIT_MS, &out))
        fail_msg("no out within %d ms", RUN_LIMIT_MS);
    return out;
}

uint8_t test_vm_run_to_out(struct test_vm *vm, size_t index, uint16_t port)
{
    const struct out out = must_out(vm, index);

    assert_port(&out, port);
    return out.byte;
}

uint16_t test_vm_run_to_any_out(struct test_vm *vm, size_t index)
{
    return must_out(vm, index).port;
}

bool test_vm_stays_inside(struct test_vm *vm, size_t index, unsigned ms)
{
    return run_for(vm, index, ms) == EINTR;
}

/* --- MSRs ----------------------------------------------------------------------------------- */

struct one_msr { /* struct kvm_msrs with one entry */
    uint32_t nmsrs, pad;
    struct kvm_msr_entry entry;
};

bool test_vm_try_msr(const struct test_vm *vm, size_t index, uint32_t msr, uint64_t *ret_data)
{
    struct one_msr one = { .nmsrs = 1, .entry.index = msr };
    const bool done = ioctl(vm->vcpu_fds[index], KVM_GET_MSRS, &one) == 1;

    *ret_data = one.entry.data;
    return done;
}

uint64_t test_vm_msr(const struct test_vm *vm, size_t index, uint32_t msr)
{
    uint64_t data;

    if (!test_vm_try_msr(vm, index, msr, &data))
        fail_msg("MSR 0x%x does not read", msr);
    return data;
}

bool test_vm_set_msr(const struct test_vm *vm, size_t index, uint32_t msr, uint64_t data)
{
    struct one_msr one = { .nmsrs = 1, .entry = { .index = msr, .data = data } };

    return ioctl(vm->vcpu_fds[index], KVM_SET_MSRS, &one) == 1;
}
