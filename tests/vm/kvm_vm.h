/* kvm_vm.h - a small KVM virtual machine for C tests: made in one call, gone in another.
 *
 *     static struct test_vm vm;            teardown calls test_vm_close(&vm), whatever happened
 *     test_vm_open(&vm, &config);          skips the case aloud where there is no /dev/kvm
 *     test_vm_run_to_out(&vm, 0, 0x80);    the guest's "out" ends a stretch
 *
 * Guests are bytes in 16-bit real mode at TEST_CODE_GPA. Every ioctl of the process goes through
 * kvm_spy.c, so that a test can see their order and make one fail. */
#ifndef STASIS_TESTS_KVM_VM_H
#define STASIS_TESTS_KVM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <stasis/kvm.h>

#define TEST_VCPU_MAX 4
#define TEST_MEMORY_SIZE (64 * 1024)
#define TEST_CODE_GPA 0x1000u
#define TEST_STACK_GPA 0x8000u

enum test_irqchip { TEST_IRQCHIP_NONE = 0, TEST_IRQCHIP_SPLIT, TEST_IRQCHIP_FULL };

struct test_vm_config {
    size_t vcpu_count;
    const uint32_t *vcpu_ids; /* NULL: 0, 1, 2, ... */
    enum test_irqchip irqchip;
    bool has_pit;
    bool no_cpuid; /* leave KVM_SET_CPUID2 to the restore */
};

struct test_vm {
    int kvm_fd, vm_fd;
    int vcpu_fds[TEST_VCPU_MAX];
    uint32_t vcpu_ids[TEST_VCPU_MAX];
    struct kvm_run *runs[TEST_VCPU_MAX];
    size_t run_size;
    size_t vcpu_count;
    uint8_t *memory; /* TEST_MEMORY_SIZE bytes at gpa 0 */
    struct stasis_kvm_vm view;
};

/* One vCPU, in-kernel interrupt controllers and PIT. */
extern const struct test_vm_config test_vm_one_vcpu;

/* cmocka's skip(), said why, when this process cannot use KVM. */
void test_need_kvm(void);

void test_vm_open(struct test_vm *vm, const struct test_vm_config *config);
/* Safe on a zeroed, a half-opened and a closed one. */
void test_vm_close(struct test_vm *vm);

/* Host facts, probed once per process and never freed before its end. */
const struct stasis_kvm_host *test_kvm_host(void);

/* Code at TEST_CODE_GPA, vCPU `index` about to run it in flat real mode with interrupts off. */
void test_vm_load(struct test_vm *vm, size_t index, const uint8_t *code, size_t size);

/* Run until the guest writes to `port`; returns the byte. Fails the test on any other exit, and
 * after five seconds. The instruction is complete when this returns: state may be captured. */
uint8_t test_vm_run_to_out(struct test_vm *vm, size_t index, uint16_t port);

/* The same for whatever port comes next: returns the port. */
uint16_t test_vm_run_to_any_out(struct test_vm *vm, size_t index);

/* Run for `ms`; true when the guest did not leave KVM by itself (it computes, or is halted). */
bool test_vm_stays_inside(struct test_vm *vm, size_t index, unsigned ms);

/* A byte written to `port` sooner than after `ms`? */
bool test_vm_outs_within(struct test_vm *vm, size_t index, uint16_t port, unsigned ms);

uint64_t test_vm_msr(const struct test_vm *vm, size_t index, uint32_t msr);
bool test_vm_try_msr(const struct test_vm *vm, size_t index, uint32_t msr, uint64_t *ret_data);
bool test_vm_set_msr(const struct test_vm *vm, size_t index, uint32_t msr, uint64_t data);

/* Fill a supported CPUID, the vCPU's APIC id in it. */
#define TEST_CPUID_MAX 256
struct test_cpuid { /* struct kvm_cpuid2 with room */
    uint32_t nent, padding;
    struct kvm_cpuid_entry2 entries[TEST_CPUID_MAX];
};
void test_cpuid_supported(int kvm_fd, uint32_t apic_id, struct test_cpuid *ret_cpuid);

#endif
