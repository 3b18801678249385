/*
 * kvm_kind.c - what kind of /dev/kvm is this?
 *
 * Prints one line, "KIND: REASON", and exits 0:
 *
 *     hardware   runs guests at a processor's speed, SSE arithmetic included: fit for Linux
 *     software   emulates them: slow, or not all instructions; fit for the guests in guest/
 *     absent     there is none, or we may not use it, or it cannot run a loop
 *
 * The VM is one vCPU in flat 32-bit protected mode without paging, and one page of code. A wrong answer
 * here lets tests and the demo pick a guest that cannot run, or skip what could be proven.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CODE_GPA 0x1000u
#define MEMORY_SIZE 0x2000u
#define LOOP_COUNT 200000u
#define LOOP_INSTRUCTIONS 2u /* dec, jnz */
#define FAST_ENOUGH 20.0     /* million instructions a second; software KVMs do about 2 */
#define TIMING_RUNS 3        /* the best counts: another process may have been in the way */
#define HANG_LIMIT_S 20
#define CR0_PE 1u
#define CR4_OSFXSR 0x200u
#define CR4_OSXMMEXCPT 0x400u

struct vm {
    int kvm_fd, vm_fd, vcpu_fd;
    struct kvm_run *run;
    uint8_t *memory;
};

static const uint8_t loop_code[] = {
    0x49,       /* 1: dec ecx */
    0x75, 0xfd, /*    jnz 1b */
    0xf4,       /*    hlt */
};

static const uint8_t sse_code[] = {
    0x0f, 0x58, 0xc1, /* addps xmm0, xmm1 */
    0xf4,             /* hlt */
};

static int say(const char *kind, const char *reason)
{
    printf("%s: %s\n", kind, reason);
    return 0;
}

static void on_alarm(int sig)
{
    (void)sig; /* its only purpose is to end KVM_RUN with EINTR */
}

/* NULL, or the step that failed, with errno. */
static const char *make_vm(struct vm *vm)
{
    struct kvm_userspace_memory_region region = { .memory_size = MEMORY_SIZE };
    int run_size;

    if (ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return "KVM_GET_API_VERSION";
    vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    if (vm->vm_fd < 0)
        return "KVM_CREATE_VM";
    vm->memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (vm->memory == MAP_FAILED)
        return "mmap";
    region.userspace_addr = (uintptr_t)vm->memory;
    if (ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return "KVM_SET_USER_MEMORY_REGION";
    vm->vcpu_fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, 0);
    if (vm->vcpu_fd < 0)
        return "KVM_CREATE_VCPU";
    run_size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < 0)
        return "KVM_GET_VCPU_MMAP_SIZE";
    vm->run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
    return vm->run == MAP_FAILED ? "mmap of kvm_run" : NULL;
}

static struct kvm_segment flat_segment(uint8_t type)
{
    return (struct kvm_segment){
        .limit = 0xffffffff, .selector = 8, .type = type, .present = 1, .s = 1, .db = 1, .g = 1
    };
}

/* Ready to run `code` with ecx = LOOP_COUNT. */
static bool load(const struct vm *vm, const uint8_t *code, size_t code_size)
{
    struct kvm_regs regs = { .rip = CODE_GPA, .rcx = LOOP_COUNT, .rflags = 2 };
    struct kvm_sregs sregs;

    memcpy(vm->memory + CODE_GPA, code, code_size);
    if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        return false;
    sregs.cs = flat_segment(0xb);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat_segment(0x3);
    sregs.cr0 = CR0_PE;
    sregs.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    return ioctl(vm->vcpu_fd, KVM_SET_SREGS, &sregs) == 0 &&
           ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs) == 0;
}

static bool run_to_halt(const struct vm *vm)
{
    return ioctl(vm->vcpu_fd, KVM_RUN, 0) == 0 && vm->run->exit_reason == KVM_EXIT_HLT;
}

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Million instructions a second, at best; 0 when the loop does not end. */
static double measure_speed(const struct vm *vm)
{
    double best = 0;

    for (int i = 0; i < TIMING_RUNS; i++) {
        double begin, speed;

        if (!load(vm, loop_code, sizeof(loop_code)))
            return 0;
        begin = seconds_now();
        if (!run_to_halt(vm))
            return 0;
        speed = LOOP_COUNT * LOOP_INSTRUCTIONS / (seconds_now() - begin) / 1e6;
        best = speed > best ? speed : best;
    }
    return best;
}

static int classify(const struct vm *vm)
{
    const double speed = measure_speed(vm);
    const bool has_sse = load(vm, sse_code, sizeof(sse_code)) && run_to_halt(vm);
    char reason[128];

    if (speed <= 0)
        return say("absent", "/dev/kvm cannot run a loop of two instructions");
    snprintf(reason, sizeof(reason), "%.0f million instructions a second, SSE arithmetic %s", speed,
             has_sse ? "works" : "is not emulated");
    return say(has_sse && speed >= FAST_ENOUGH ? "hardware" : "software", reason);
}

int main(void)
{
    const struct sigaction action = { .sa_handler = on_alarm }; /* no SA_RESTART */
    struct vm vm = { .kvm_fd = -1, .vm_fd = -1, .vcpu_fd = -1 };
    const char *failed_step;
    char reason[128];

    vm.kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (vm.kvm_fd < 0) {
        snprintf(reason, sizeof(reason), "open /dev/kvm: %s", strerror(errno));
        return say("absent", reason);
    }
    failed_step = make_vm(&vm);
    if (failed_step) {
        snprintf(reason, sizeof(reason), "%s: %s", failed_step, strerror(errno));
        return say("absent", reason);
    }
    sigaction(SIGALRM, &action, NULL);
    alarm(HANG_LIMIT_S);
    return classify(&vm);
}
