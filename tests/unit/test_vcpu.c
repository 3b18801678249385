/* test_vcpu.c - vCPU threads and the gate.
 *
 * Goal:   a pause finds every vCPU between two instructions, with the access it was stopped in
 * complete; a vCPU
 *         that does not come in time is named and everybody goes on; the ways a guest ends are
 *         reported.
 * Method: real-mode guests of a few bytes on /dev/kvm; a device on the bus that can be made to hold
 * an
 *         access until the test lets it go. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "microvm/vcpu.h"

#define RAM_SIZE 0x2000u
#define CODE_GPA 0x1000u
#define DEVICE_GPA 0x10000u /* MMIO: DS = 0x1000, offset 0 */
#define DEVICE_PORT 0x80u

struct holder {
    struct device device;
    bool hold;     /* accesses wait for `let_go` */
    sem_t arrived; /* an access is there */
    sem_t let_go;
    uint64_t answer;      /* of reads */
    uint64_t last;        /* written */
    unsigned count;       /* accesses served */
    struct vcpu_set *end; /* a write ends this set */
};

struct machine {
    int kvm_fd, vm_fd;
    uint8_t *ram;
    struct bus bus;
    struct holder holder;
    struct vcpu_set set;
    sem_t event_there;
    enum vcpu_event event;
    struct stasis_error why;
    struct stasis_error err;
};

static void serve(struct holder *holder)
{
    if (__atomic_load_n(&holder->hold, __ATOMIC_SEQ_CST)) {
        sem_post(&holder->arrived);
        while (sem_wait(&holder->let_go) < 0)
            ;
    }
    __atomic_add_fetch(&holder->count, 1, __ATOMIC_SEQ_CST);
}

static uint64_t holder_read(struct device *device, uint64_t offset, unsigned size)
{
    struct holder *holder = (struct holder *)device;

    (void)offset;
    (void)size;
    serve(holder);
    return holder->answer;
}

static void holder_write(struct device *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct holder *holder = (struct holder *)device;

    (void)offset;
    (void)size;
    serve(holder);
    __atomic_store_n(&holder->last, value, __ATOMIC_SEQ_CST); /* two vCPUs may write at once */
    if (holder->end)
        vcpu_set_end(holder->end);
}

static const struct device_ops holder_ops = { .kind = "holder",
                                              .read = holder_read,
                                              .write = holder_write };

static void on_event(void *arg, enum vcpu_event event, const struct stasis_error *why)
{
    struct machine *machine = arg;

    machine->event = event;
    if (why)
        machine->why = *why;
    sem_post(&machine->event_there);
}

static int setup(void **state)
{
    struct machine *machine = calloc(1, sizeof(*machine));

    if (!machine)
        return -1;
    *state = machine;
    machine->vm_fd = -1;
    machine->holder.device.ops = &holder_ops;
    sem_init(&machine->holder.arrived, 0, 0);
    sem_init(&machine->holder.let_go, 0, 0);
    sem_init(&machine->event_there, 0, 0);
    machine->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (machine->kvm_fd < 0)
        return 0;
    machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0UL);
    machine->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return machine->vm_fd >= 0 && machine->ram != MAP_FAILED ? 0 : -1;
}

static int teardown(void **state)
{
    struct machine *machine = *state;

    __atomic_store_n(&machine->holder.hold, false, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 64; i++)
        sem_post(&machine->holder.let_go);
    vcpu_set_release(&machine->set);
    if (machine->ram)
        munmap(machine->ram, RAM_SIZE);
    if (machine->vm_fd >= 0)
        close(machine->vm_fd);
    if (machine->kvm_fd >= 0)
        close(machine->kvm_fd);
    free(machine);
    return 0;
}

static void add_ranges(struct machine *machine)
{
    const struct bus_range memory = {
        .kind = BUS_MMIO, .base = DEVICE_GPA, .size = 16, .device = &machine->holder.device
    };
    const struct bus_range port = {
        .kind = BUS_PIO, .base = DEVICE_PORT, .size = 4, .device = &machine->holder.device
    };

    assert_stasis_ok(bus_add(&machine->bus, &memory, &machine->err), &machine->err);
    assert_stasis_ok(bus_add(&machine->bus, &port, &machine->err), &machine->err);
}

static void enter_at_code(int vcpu_fd)
{
    struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2, .rsp = CODE_GPA };
    struct kvm_sregs sregs;

    assert_int_equal(ioctl(vcpu_fd, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    sregs.ds.base = DEVICE_GPA;
    sregs.ds.selector = DEVICE_GPA >> 4;
    assert_int_equal(ioctl(vcpu_fd, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(ioctl(vcpu_fd, KVM_SET_REGS, &regs), 0);
}

/* `count` vCPUs, all at the same code, none waiting for another's start-up interrupt. */
static void bring_up(struct machine *machine, size_t count, const void *code, size_t code_size)
{
    const struct kvm_userspace_memory_region slot = { .memory_size = RAM_SIZE,
                                                      .userspace_addr =
                                                          (uint64_t)(uintptr_t)machine->ram };
    const size_t run_size = (size_t)ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
    struct stasis_error *err = &machine->err;

    memcpy(machine->ram + CODE_GPA, code, code_size);
    add_ranges(machine);
    assert_int_equal(ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot), 0);
    assert_int_equal(ioctl(machine->vm_fd, KVM_CREATE_IRQCHIP, 0UL), 0);
    assert_stasis_ok(vcpu_set_init(&machine->set, &machine->bus, on_event, machine, err), err);
    assert_stasis_ok(vcpu_set_create(&machine->set, machine->vm_fd, count, run_size, err), err);
    for (size_t i = 0; i < count; i++) {
        enter_at_code(machine->set.vcpus[i].fd);
        assert_int_equal(ioctl(machine->set.vcpus[i].fd, KVM_SET_MP_STATE, &runnable), 0);
    }
    assert_stasis_ok(vcpu_set_start_threads(&machine->set, err), err);
}

#define need_kvm(machine)                                                                          \
    do {                                                                                           \
        if ((machine)->kvm_fd < 0)                                                                 \
            unit_skip("no /dev/kvm");                                                              \
    } while (0)

static uint64_t in_ms(uint64_t ms)
{
    return monotonic_ns() + ms * 1000000u;
}

static struct kvm_regs regs_of(const struct machine *machine, size_t index)
{
    struct kvm_regs regs;

    assert_int_equal(ioctl(machine->set.vcpus[index].fd, KVM_GET_REGS, &regs), 0);
    return regs;
}

static unsigned served(struct machine *machine)
{
    return __atomic_load_n(&machine->holder.count, __ATOMIC_SEQ_CST);
}

static void wait_for_event(struct machine *machine)
{
    struct timespec deadline;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 20;
    while (sem_timedwait(&machine->event_there, &deadline) < 0)
        assert_int_equal(errno, EINTR);
}

/* Lets an access go after a while, so that a pause finds it unserved. */
static void *let_go_later(void *arg)
{
    struct holder *holder = arg;

    usleep(100000);
    __atomic_store_n(&holder->hold, false, __ATOMIC_SEQ_CST);
    sem_post(&holder->let_go);
    return NULL;
}

static void pause_with_access_held(struct machine *machine)
{
    pthread_t helper;

    machine->holder.hold = true;
    vcpu_set_resume(&machine->set);
    while (sem_wait(&machine->holder.arrived) < 0)
        ;
    assert_int_equal(pthread_create(&helper, NULL, let_go_later, &machine->holder), 0);
    assert_stasis_ok(vcpu_set_pause(&machine->set, in_ms(20000), &machine->err), &machine->err);
    pthread_join(helper, NULL);
}

static void paused_vcpu_has_completed_its_mmio_read(void **state)
{
    /* mov al,[0]; then count in cx for ever */
    static const uint8_t code[] = { 0xa0, 0x00, 0x00, 0x41, 0xeb, 0xfd };
    struct machine *machine = *state;
    struct kvm_regs regs;

    need_kvm(machine);
    bring_up(machine, 1, code, sizeof(code));
    machine->holder.answer = 0x5a;
    pause_with_access_held(machine);
    regs = regs_of(machine, 0);
    assert_int_equal(regs.rax & 0xff, 0x5a);
    assert_in_range(regs.rip, CODE_GPA + 3, CODE_GPA + 4);
    assert_int_equal(served(machine), 1);
}

static void paused_vcpu_has_completed_its_port_read(void **state)
{
    static const uint8_t code[] = { 0xe5, DEVICE_PORT, 0x41, 0xeb, 0xfd }; /* in ax, port */
    struct machine *machine = *state;
    struct kvm_regs regs;

    need_kvm(machine);
    bring_up(machine, 1, code, sizeof(code));
    machine->holder.answer = 0x1234;
    pause_with_access_held(machine);
    regs = regs_of(machine, 0);
    assert_int_equal(regs.rax & 0xffff, 0x1234);
    assert_in_range(regs.rip, CODE_GPA + 2, CODE_GPA + 3);
}

static void paused_vcpu_is_past_its_port_write(void **state)
{
    /* mov al,0x77; out port,al; count in cx for ever */
    static const uint8_t code[] = { 0xb0, 0x77, 0xe6, DEVICE_PORT, 0x41, 0xeb, 0xfd };
    struct machine *machine = *state;

    need_kvm(machine);
    bring_up(machine, 1, code, sizeof(code));
    pause_with_access_held(machine);
    assert_int_equal(machine->holder.last, 0x77);
    assert_in_range(regs_of(machine, 0).rip, CODE_GPA + 4, CODE_GPA + 5);
}

static void nothing_runs_before_resume_and_while_paused(void **state)
{
    static const uint8_t code[] = { 0xe6, DEVICE_PORT, 0xeb, 0xfc }; /* out port,al for ever */
    struct machine *machine = *state;
    unsigned before;

    need_kvm(machine);
    bring_up(machine, 2, code, sizeof(code));
    usleep(50000);
    assert_int_equal(served(machine), 0);
    assert_int_equal(vcpu_set_first_run_ns(&machine->set), 0);
    vcpu_set_resume(&machine->set);
    assert_int_not_equal(vcpu_set_first_run_ns(&machine->set), 0);
    while (served(machine) == 0)
        usleep(1000);

    assert_stasis_ok(vcpu_set_pause(&machine->set, in_ms(20000), &machine->err), &machine->err);
    before = served(machine);
    usleep(50000);
    assert_int_equal(served(machine), before);
    vcpu_set_resume(&machine->set);
    while (served(machine) == before)
        usleep(1000);
}

static void halted_and_spinning_vcpus_pause_within_the_limit(void **state)
{
    static const uint8_t halt[] = { 0xf4, 0xeb, 0xfd };
    static const uint8_t spin[] = { 0xeb, 0xfe };
    struct machine *machine = *state;

    need_kvm(machine);
    bring_up(machine, 2, spin, sizeof(spin));
    memcpy(machine->ram + CODE_GPA + 0x100, halt, sizeof(halt));
    for (int i = 0; i < 20; i++) {
        struct kvm_regs regs = regs_of(machine, 1);

        regs.rip = CODE_GPA + 0x100;
        assert_int_equal(ioctl(machine->set.vcpus[1].fd, KVM_SET_REGS, &regs), 0);
        vcpu_set_resume(&machine->set);
        usleep((useconds_t)i * 500);
        assert_stasis_ok(vcpu_set_pause(&machine->set, in_ms(20000), &machine->err), &machine->err);
    }
}

static void late_vcpu_is_named_and_everybody_goes_on(void **state)
{
    static const uint8_t code[] = { 0xe6, DEVICE_PORT, 0xeb, 0xfc };
    struct machine *machine = *state;
    uint64_t begin_ns;

    need_kvm(machine);
    bring_up(machine, 1, code, sizeof(code));
    machine->holder.hold = true;
    vcpu_set_resume(&machine->set);
    while (sem_wait(&machine->holder.arrived) < 0)
        ;
    begin_ns = monotonic_ns();
    assert_stasis_fails(vcpu_set_pause(&machine->set, in_ms(100), &machine->err), &machine->err,
                        STASIS_ERR_QUIESCE_TIMEOUT);
    assert_in_range(monotonic_ns() - begin_ns, 100 * 1000000u, 10000 * UINT64_C(1000000));
    assert_non_null(strstr(machine->err.text, "vCPU 0"));

    __atomic_store_n(&machine->holder.hold, false, __ATOMIC_SEQ_CST);
    sem_post(&machine->holder.let_go);
    while (served(machine) < 3) /* the guest runs, though the kick came while it was away */
        usleep(1000);
    assert_stasis_ok(vcpu_set_pause(&machine->set, in_ms(20000), &machine->err), &machine->err);
}

static void pauses_and_resumes_by_the_hundred_lose_no_access(void **state)
{
    /* in al,port; inc byte counter in ram; for ever: every access is one step of the counter */
    static const uint8_t code[] = { 0xe4, DEVICE_PORT, 0x41, 0xeb, 0xfb };
    struct machine *machine = *state;

    need_kvm(machine);
    bring_up(machine, 1, code, sizeof(code));
    for (int i = 0; i < 300; i++) {
        struct kvm_regs regs;

        vcpu_set_resume(&machine->set);
        if (i % 3 == 0)
            usleep((useconds_t)(i % 7) * 100);
        assert_stasis_ok(vcpu_set_pause(&machine->set, in_ms(20000), &machine->err), &machine->err);
        regs = regs_of(machine, 0);
        /* Between in and inc the counter is one behind. */
        assert_int_equal((regs.rcx + (regs.rip == CODE_GPA + 2)) & 0xffff,
                         served(machine) & 0xffff);
    }
}

static void triple_fault_is_reported_with_its_vcpu(void **state)
{
    static const uint8_t code[] = { 0x90, 0x0f, 0x0b }; /* nop; ud2: no IDT for it */
    struct machine *machine = *state;
    struct kvm_sregs sregs;

    need_kvm(machine);
    bring_up(machine, 1, code, sizeof(code));
    assert_int_equal(ioctl(machine->set.vcpus[0].fd, KVM_GET_SREGS, &sregs), 0);
    sregs.idt.limit = 0;
    sregs.cr0 |= 1;
    assert_int_equal(ioctl(machine->set.vcpus[0].fd, KVM_SET_SREGS, &sregs), 0);
    vcpu_set_resume(&machine->set);
    wait_for_event(machine);
    if (machine->event != VCPU_EVENT_TRIPLE_FAULT)
        fail_msg("event %d: %s", (int)machine->event, machine->why.text);
    assert_int_equal(machine->why.code, STASIS_ERR_GUEST_CRASHED);
    assert_non_null(strstr(machine->why.text, "vCPU 0: triple fault"));
}

static void ended_set_runs_no_more_guest_code(void **state)
{
    static const uint8_t code[] = { 0xe6, DEVICE_PORT, 0xeb, 0xfc };
    struct machine *machine = *state;
    unsigned count;

    need_kvm(machine);
    bring_up(machine, 1, code, sizeof(code));
    machine->holder.end = &machine->set;
    vcpu_set_resume(&machine->set);
    while (served(machine) == 0)
        usleep(1000);
    usleep(50000);
    count = served(machine);
    assert_int_equal(count, 1); /* the vCPU that ended it went no further itself */
    vcpu_set_resume(&machine->set);
    usleep(20000);
    assert_int_equal(served(machine), count);
    assert_stasis_ok(vcpu_set_pause(&machine->set, in_ms(20000), &machine->err), &machine->err);
}

static void failed_creation_names_the_vcpu(void **state)
{
    struct machine *machine = *state;
    struct stasis_error *err = &machine->err;

    need_kvm(machine);
    assert_stasis_ok(vcpu_set_init(&machine->set, &machine->bus, on_event, machine, err), err);
    assert_stasis_fails(vcpu_set_create(&machine->set, -1, 1, 4096, err), err, STASIS_ERR_KVM);
    assert_non_null(strstr(err->text, "KVM_CREATE_VCPU 0"));
}

#define vcpu_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        vcpu_test(paused_vcpu_has_completed_its_mmio_read),
        vcpu_test(paused_vcpu_has_completed_its_port_read),
        vcpu_test(paused_vcpu_is_past_its_port_write),
        vcpu_test(nothing_runs_before_resume_and_while_paused),
        vcpu_test(halted_and_spinning_vcpus_pause_within_the_limit),
        vcpu_test(late_vcpu_is_named_and_everybody_goes_on),
        vcpu_test(pauses_and_resumes_by_the_hundred_lose_no_access),
        vcpu_test(triple_fault_is_reported_with_its_vcpu),
        vcpu_test(ended_set_runs_no_more_guest_code),
        vcpu_test(failed_creation_names_the_vcpu),
    };
    return unit_run(tests);
}
