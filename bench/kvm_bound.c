/*
 * kvm_bound.c - what a bare KVM restore costs on this machine: the bound for ours.
 *
 *     kvm_bound FILE MEMORY_BYTES [RUNS]
 *
 * Does by hand, and without looking at any result, the least that a VMM with in-kernel interrupt
 * controllers must do to bring one vCPU to its first instruction: open /dev/kvm, make the VM, map FILE
 * as its memory, one memory slot, irqchip, PIT, one vCPU, its CPUID and registers, KVM_RUN. The guest is one
 * `hlt`-free instruction: a port write, which comes straight back. Prints one JSON object per run, in
 * microseconds since the run's beginning.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CPUID_MAX 256

struct bound {
    double created, mapped, devices, vcpu, state, exited;
};

static double now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int must(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "kvm_bound: %s: %s\n", what, strerror(errno));
        exit(1);
    }
    return result;
}

static void set_state(int kvm, int vcpu)
{
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + CPUID_MAX * sizeof(struct kvm_cpuid_entry2));
    struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
    struct kvm_sregs sregs;

    if (!cpuid)
        exit(1);
    cpuid->nent = CPUID_MAX;
    must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
    must(ioctl(vcpu, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
    free(cpuid);
    must(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    must(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    must(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static struct bound run_once(int file, size_t memory_size, int run_size)
{
    static const uint8_t code[] = { 0xe6, 0x80 }; /* out %al, $0x80 */
    const struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
    struct kvm_userspace_memory_region slot = { .memory_size = memory_size };
    const double begin = now_us();
    struct bound bound;
    const int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
    const int vm = must(ioctl(kvm, KVM_CREATE_VM, 0UL), "KVM_CREATE_VM");
    uint8_t *memory;
    struct kvm_run *run;
    int vcpu;

    bound.created = now_us() - begin;
    memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0);
    if (memory == MAP_FAILED)
        must(-1, "mmap");
    memcpy(memory + 0x1000, code, sizeof(code));
    slot.userspace_addr = (uint64_t)(uintptr_t)memory;
    must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
    bound.mapped = now_us() - begin;
    must(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000UL), "KVM_SET_TSS_ADDR");
    must(ioctl(vm, KVM_CREATE_IRQCHIP, 0UL), "KVM_CREATE_IRQCHIP");
    must(ioctl(vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
    bound.devices = now_us() - begin;
    vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0UL), "KVM_CREATE_VCPU");
    run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        must(-1, "mmap vCPU");
    bound.vcpu = now_us() - begin;
    set_state(kvm, vcpu);
    bound.state = now_us() - begin;
    must(ioctl(vcpu, KVM_RUN, 0UL), "KVM_RUN");
    bound.exited = now_us() - begin;
    if (run->exit_reason != KVM_EXIT_IO) {
        fprintf(stderr, "kvm_bound: exit %u instead of a port write\n", run->exit_reason);
        exit(1);
    }
    munmap(run, (size_t)run_size);
    close(vcpu);
    close(vm);
    munmap(memory, memory_size);
    close(kvm);
    return bound;
}

int main(int argc, char **argv)
{
    const size_t memory_size = argc > 2 ? (size_t)strtoull(argv[2], NULL, 0) : 0;
    const int runs = argc > 3 ? atoi(argv[3]) : 21;
    int file, kvm, run_size;

    if (memory_size == 0) {
        fprintf(stderr, "usage: kvm_bound FILE MEMORY_BYTES [RUNS]\n");
        return 2;
    }
    file = must(open(argv[1], O_RDONLY | O_CLOEXEC), argv[1]);
    kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
    run_size = must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL), "KVM_GET_VCPU_MMAP_SIZE");
    for (int i = 0; i < runs; i++) {
        const struct bound bound = run_once(file, memory_size, run_size);

        printf("{\"created_us\":%.1f,\"mapped_us\":%.1f,\"devices_us\":%.1f,\"vcpu_us\":%.1f,"
               "\"state_us\":%.1f,\"exited_us\":%.1f}\n",
               bound.created, bound.mapped, bound.devices, bound.vcpu, bound.state, bound.exited);
    }
    return 0;
}
