/*
 * vm.c - builds a KVM virtual machine and takes it down again.
 *
 *     KVM_CREATE_VM -> RAM, tracking -> irqchip, PIT -> vCPUs -> devices -> threads (parked)
 *     vm_prepare()     vm_build()
 *
 * The same order for a boot and for a restore, so that a restored VM is the same machine. What KVM
 * needs before vCPUs exist (TSS address, irqchip) comes before them. RAM comes before the interrupt
 * controllers: each change of memory slots waits for readers of the VM's tables (SRCU), and right
 * after the PIT has registered its ports that wait was seen to take 5 ms instead of 0.1. Taking
 * down goes the other way: threads that touch RAM end first, RAM is unmapped last.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "microvm/vm.h"

void vm_init(struct vm *vm)
{
    memset(vm, 0, sizeof(*vm));
    vm->fd = -1;
}

/* --- KVM's own parts ------------------------------------------------------------------------ */

static int vm_ioctl(const struct vm *vm, unsigned long request, unsigned long arg, const char *name,
                    struct stasis_error *err)
{
    if (ioctl(vm->fd, request, arg) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "%s", name);
    return 0;
}

int vm_prepare(struct vm *vm, const struct vm_host *host, struct stasis_error *err)
{
    if (vm->fd >= 0)
        return 0;
    /* A signal during the creation is no failure (the kernel allocates a lot and may be told to
     * stop). */
    do
        vm->fd = ioctl(host->kvm_fd, KVM_CREATE_VM, 0UL);
    while (vm->fd < 0 && errno == EINTR);
    if (vm->fd < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_CREATE_VM");
    return 0;
}

static int create_interrupt_controllers(struct vm *vm, struct stasis_error *err)
{
    const uint64_t identity_map_gpa = LAYOUT_IDENTITY_MAP_GPA;
    const struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
    int r = vm_ioctl(vm, KVM_SET_TSS_ADDR, LAYOUT_TSS_GPA, "KVM_SET_TSS_ADDR", err);

    if (r == 0)
        r = vm_ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, (unsigned long)(uintptr_t)&identity_map_gpa,
                     "KVM_SET_IDENTITY_MAP_ADDR", err);
    if (r == 0)
        r = vm_ioctl(vm, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP", err);
    if (r == 0)
        r = vm_ioctl(vm, KVM_CREATE_PIT2, (unsigned long)(uintptr_t)&pit, "KVM_CREATE_PIT2", err);
    return r;
}

static int create_vcpus(struct vm *vm, const struct vm_host *host, const struct vm_config *config,
                        struct stasis_error *err)
{
    int r;

    if (config->vcpu_count > host->vcpu_max)
        return stasis_fail(err, STASIS_ERR_TOO_MANY_VCPUS,
                           "%u vCPUs are asked for, this host's KVM offers %u per VM",
                           config->vcpu_count, host->vcpu_max);
    r = vcpu_set_init(&vm->vcpus, &vm->bus, config->on_event, config->event_arg, err);
    if (r == 0)
        r = vcpu_set_create(&vm->vcpus, vm->fd, config->vcpu_count, host->run_size, err);
    for (size_t i = 0; i < vm->vcpus.count; i++)
        vm->vcpu_fds[i] = vm->vcpus.vcpus[i].fd;
    return r;
}

int vm_set_vcpu_cpuid(const struct vm *vm, uint32_t index, const struct kvm_cpuid2 *cpuid,
                      struct stasis_error *err)
{
    if (ioctl(vm->vcpu_fds[index], KVM_SET_CPUID2, cpuid) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_SET_CPUID2 of vCPU %u", index);
    return 0;
}

struct stasis_kvm_vm vm_kvm_view(const struct vm *vm)
{
    return (struct stasis_kvm_vm){ .vm_fd = vm->fd,
                                   .vcpu_fds = vm->vcpu_fds,
                                   .vcpu_count = vm->vcpus.count,
                                   .has_irqchip = true,
                                   .has_lapic = true,
                                   .has_pit = true };
}

/* --- devices -------------------------------------------------------------------------------- */

/* Takes `device` over, also when its range cannot be added. */
static void keep_device(struct vm *vm, struct device *device)
{
    vm->devices[vm->device_count++] = device;
}

static int add_port_range(struct vm *vm, struct device *device, uint16_t port, uint64_t size,
                          uint64_t device_offset, struct stasis_error *err)
{
    const struct bus_range range = { .kind = BUS_PIO,
                                     .base = port,
                                     .size = size,
                                     .device = device,
                                     .device_offset = device_offset };

    return bus_add(&vm->bus, &range, err);
}

static int add_serial(struct vm *vm, struct console *console, struct stasis_error *err)
{
    const struct irq_line irq = { .vm_fd = vm->fd, .gsi = LAYOUT_SERIAL_GSI };
    struct device *device;
    const int r = serial_new(&irq, console, &device, err);

    if (r < 0)
        return r;
    keep_device(vm, device);
    return add_port_range(vm, device, LAYOUT_SERIAL_PORT, 8, 0, err);
}

static void on_power_off(void *arg)
{
    struct vm *vm = arg;

    vm->on_event(vm->event_arg, VCPU_EVENT_POWER_OFF, NULL);
    vcpu_set_end(&vm->vcpus);
}

static void on_reset(void *arg)
{
    struct vm *vm = arg;

    vm->on_event(vm->event_arg, VCPU_EVENT_RESET, NULL);
    vcpu_set_end(&vm->vcpus);
}

/* Event, sleep and reset ports lie side by side, the keyboard controller's two do not. */
static int add_platform(struct vm *vm, struct stasis_error *err)
{
    const struct irq_line irq = { .vm_fd = vm->fd, .gsi = LAYOUT_GED_GSI };
    const struct platform_events events = { .power_off = on_power_off,
                                            .reset = on_reset,
                                            .arg = vm };
    const uint16_t ports[][2] = { { LAYOUT_GED_PORT, LAYOUT_RESET_PORT + 1 - LAYOUT_GED_PORT },
                                  { LAYOUT_I8042_PORT, 1 },
                                  { LAYOUT_I8042_PORT + 4, 1 } };
    struct device *device;
    int r = acpi_platform_new(&irq, &vm->memory.guest, &events, &device, err);

    if (r < 0)
        return r;
    keep_device(vm, device);
    vm->platform = device;
    for (size_t i = 0; i < sizeof(ports) / sizeof(ports[0]) && r == 0; i++)
        r = add_port_range(vm, device, ports[i][0], ports[i][1], ports[i][0], err);
    return r;
}

static struct irq_line virtio_irq(const struct vm *vm, uint32_t slot)
{
    return (struct irq_line){ .vm_fd = vm->fd, .gsi = LAYOUT_VIRTIO_GSI + slot };
}

static int add_virtio(struct vm *vm, struct device *device, uint32_t slot, struct stasis_error *err)
{
    const struct bus_range range = { .kind = BUS_MMIO,
                                     .base =
                                         LAYOUT_VIRTIO_MMIO_GPA + slot * LAYOUT_VIRTIO_MMIO_STRIDE,
                                     .size = LAYOUT_VIRTIO_MMIO_STRIDE,
                                     .device = device };

    keep_device(vm, device);
    return bus_add(&vm->bus, &range, err);
}

static int add_drive(struct vm *vm, const struct vm_drive *drive, struct stasis_error *err)
{
    const struct irq_line irq = virtio_irq(vm, drive->slot);
    const struct virtio_blk_config config = { .id = drive->id,
                                              .path = drive->path,
                                              .read_only = drive->read_only };
    struct device *device;
    const int r =
        virtio_blk_new(&config, &irq, &vm->memory.guest, drive->size_expected, &device, err);

    return r < 0 ? r : add_virtio(vm, device, drive->slot, err);
}

static int add_entropy(struct vm *vm, struct stasis_error *err)
{
    const struct irq_line irq = virtio_irq(vm, VM_ENTROPY_SLOT);
    struct device *device;
    const int r = virtio_rng_new(&irq, &vm->memory.guest, &device, err);

    return r < 0 ? r : add_virtio(vm, device, VM_ENTROPY_SLOT, err);
}

static int add_devices(struct vm *vm, const struct vm_config *config, struct stasis_error *err)
{
    int r = add_serial(vm, config->console, err);

    if (r == 0)
        r = add_platform(vm, err);
    for (size_t i = 0; i < config->drive_count && r == 0; i++)
        r = add_drive(vm, &config->drives[i], err);
    if (r == 0 && config->has_entropy)
        r = add_entropy(vm, err);
    return r;
}

uint32_t vm_slots_used(const struct vm_config *config)
{
    uint32_t slots = config->has_entropy ? UINT32_C(1) << VM_ENTROPY_SLOT : 0;

    for (size_t i = 0; i < config->drive_count; i++)
        slots |= UINT32_C(1) << config->drives[i].slot;
    return slots;
}

/* --- the whole ------------------------------------------------------------------------------ */

int vm_build(struct vm *vm, const struct vm_host *host, const struct vm_config *config,
             struct stasis_memory *memory, struct stasis_error *err)
{
    int r;

    vm->on_event = config->on_event;
    vm->event_arg = config->event_arg;
    r = vm_prepare(vm, host, err);
    if (r == 0)
        r = vm_memory_add(&vm->memory, vm->fd, config->memory_size, config->pages, memory, err);
    if (r == 0 && config->track_dirty)
        r = vm_memory_track(&vm->memory, vm->fd, err);
    if (r == 0)
        r = create_interrupt_controllers(vm, err);
    if (r == 0)
        r = create_vcpus(vm, host, config, err);
    if (r == 0)
        r = add_devices(vm, config, err);
    if (r == 0)
        r = vcpu_set_start_threads(&vm->vcpus, err);
    if (memory && memory->region_count > 0)
        stasis_memory_unmap(memory);
    return r;
}

void vm_release(struct vm *vm)
{
    vcpu_set_release(&vm->vcpus);
    while (vm->device_count > 0)
        device_free(vm->devices[--vm->device_count]);
    vm_memory_untrack(&vm->memory);
    fd_close(&vm->fd);
    vm_memory_remove(&vm->memory);
    vm_init(vm);
}

/* --- pause and resume ----------------------------------------------------------------------- */

static int run_devices(struct vm *vm, size_t count, struct stasis_error *err)
{
    for (size_t i = 0; i < count; i++) {
        struct device *device = vm->devices[i];
        const int r = device->ops->run ? device->ops->run(device, err) : 0;

        if (r < 0)
            return stasis_wrap(err, r, "%s '%s'", device->ops->kind, device->id);
    }
    return 0;
}

int vm_resume(struct vm *vm, struct stasis_error *err)
{
    const int r = run_devices(vm, vm->device_count, err);

    if (r == 0)
        vcpu_set_resume(&vm->vcpus);
    return r;
}

static int quiesce_devices(struct vm *vm, uint64_t deadline_ns, struct stasis_error *err)
{
    for (size_t i = 0; i < vm->device_count; i++) {
        struct device *device = vm->devices[i];
        int r = device->ops->quiesce ? device->ops->quiesce(device, deadline_ns, err) : 0;

        if (r < 0) {
            /* Those at rest, and the one that half is, go on. */
            r = stasis_wrap(err, r, "%s '%s'", device->ops->kind, device->id);
            (void)run_devices(vm, i + 1, NULL);
            return r;
        }
    }
    return 0;
}

int vm_pause(struct vm *vm, uint64_t deadline_ns, struct stasis_error *err)
{
    int r = vcpu_set_pause(&vm->vcpus, deadline_ns, err);

    if (r < 0)
        return r;
    r = quiesce_devices(vm, deadline_ns, err);
    if (r < 0)
        vcpu_set_resume(&vm->vcpus);
    return r;
}
