/*
 * microvm_state.c - the microVM's own part of a snapshot: the device "microvm", id "config".
 *
 * It says how to build the VM that the rest of the snapshot fits into, and how to boot it again
 * when the guest asks for a reset: vCPUs, memory, drives with their slots, kernel, initrd, command
 * line. Everything that comes back out of a file is hostile and is checked here, also against the
 * machine state and the memory layout that came with it, before anything is built from it.
 */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "microvm/microvm_private.h"

#define CONFIG_KIND "microvm"
#define CONFIG_ID "config"
#define CONFIG_VERSION 1u
#define LAYOUT_VERSION 1u /* of layout.h: addresses, ports, interrupts */

static const struct stasis_field drive_fields[] = {
    STASIS_F_ARRAY(struct vm_drive, id, TEXT),
    STASIS_F_ARRAY(struct vm_drive, path, TEXT),
    STASIS_F(struct vm_drive, read_only, BOOL),
    STASIS_F(struct vm_drive, is_root, BOOL, .flags = STASIS_FIELD_OPTIONAL),
    STASIS_F(struct vm_drive, slot, U32, .max = VM_ENTROPY_SLOT - 1),
};
static const struct stasis_table drive_table = STASIS_TABLE(struct vm_drive, drive_fields);

/* The configuration as the table describes it: the list has storage of its own. */
struct saved_config {
    uint32_t layout_version;
    uint32_t vcpu_count;
    uint64_t memory_size;
    char kernel_path[4096];
    char initrd_path[4096];
    char cmdline[MICROVM_CMDLINE_SIZE];
    bool has_cmdline;
    bool has_entropy;
    struct vm_drive *drives;
    size_t drives_count;
};

static const struct stasis_field config_fields[] = {
    STASIS_F(struct saved_config, layout_version, U32),
    STASIS_F(struct saved_config, vcpu_count, U32, .max = MICROVM_VCPU_MAX),
    STASIS_F(struct saved_config, memory_size, U64, .max = MICROVM_MEMORY_MAX, .unit = "bytes"),
    STASIS_F_ARRAY(struct saved_config, kernel_path, TEXT),
    STASIS_F_ARRAY(struct saved_config, initrd_path, TEXT),
    STASIS_F_ARRAY(struct saved_config, cmdline, TEXT),
    STASIS_F(struct saved_config, has_cmdline, BOOL),
    STASIS_F(struct saved_config, has_entropy, BOOL),
    STASIS_F_LIST(struct saved_config, drives, MICROVM_DRIVE_MAX, &drive_table),
};
static const struct stasis_table config_table = STASIS_TABLE(struct saved_config, config_fields);

int microvm_config_save(const struct microvm_config *config, struct stasis_machine *machine,
                        struct stasis_error *err)
{
    /* The table's walk only reads, so the drives may stay where they are. */
    struct saved_config saved = {
        .layout_version = LAYOUT_VERSION,
        .vcpu_count = config->machine.vcpu_count,
        .memory_size = config->machine.memory_size,
        .has_cmdline = config->has_cmdline,
        .has_entropy = config->has_entropy,
        .drives = config->drives_count > 0 ? (struct vm_drive *)config->drives : NULL,
        .drives_count = config->drives_count,
    };

    (void)microvm_copy_text(saved.kernel_path, sizeof(saved.kernel_path), config->kernel_path);
    (void)microvm_copy_text(saved.initrd_path, sizeof(saved.initrd_path), config->initrd_path);
    (void)microvm_copy_text(saved.cmdline, sizeof(saved.cmdline), config->cmdline);
    return stasis_machine_add_device(machine, CONFIG_KIND, CONFIG_ID, CONFIG_VERSION, &config_table,
                                     &saved, err);
}

/* --- from a file ---------------------------------------------------------------------------- */

static int check_vcpus(const struct saved_config *saved, const struct stasis_machine *machine,
                       struct stasis_error *err)
{
    const size_t count = stasis_machine_vcpu_count(machine);

    if (saved->vcpu_count < 1 || saved->vcpu_count != count)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "the snapshot's configuration tells of %u vCPUs, its machine of %zu",
                           saved->vcpu_count, count);
    for (size_t i = 0; i < count; i++) {
        if (machine->x86_64->vcpus[i].id != i)
            return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                               "vCPU %zu has id %u; the microVM's ids are 0, 1, 2, ...", i,
                               machine->x86_64->vcpus[i].id);
    }
    return 0;
}

/* Devices and loaders rely on the layout that vm_layout_memory() makes. */
static int check_memory(const struct saved_config *saved, const struct stasis_snapshot_info *info,
                        struct stasis_error *err)
{
    struct stasis_region regions[2];
    size_t count;

    if (saved->memory_size < MICROVM_MEMORY_MIN || saved->memory_size % STASIS_PAGE_SIZE != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "the snapshot's configuration tells of %" PRIu64 " bytes of memory",
                           saved->memory_size);
    count = vm_layout_memory(saved->memory_size, regions);
    if (count != info->region_count)
        return stasis_fail(err, STASIS_ERR_INVALID_MEMORY,
                           "%" PRIu64 " bytes of memory make %zu regions, the snapshot has %zu",
                           saved->memory_size, count, info->region_count);
    for (size_t i = 0; i < count; i++) {
        if (regions[i].gpa != info->regions[i].gpa || regions[i].size != info->regions[i].size)
            return stasis_fail(err, STASIS_ERR_INVALID_MEMORY,
                               "memory region %zu of the snapshot (0x%" PRIx64 " + %" PRIu64
                               ") is not where the microVM has it",
                               i, info->regions[i].gpa, info->regions[i].size);
    }
    return 0;
}

static int check_drives(const struct saved_config *saved, struct stasis_error *err)
{
    for (size_t i = 0; i < saved->drives_count; i++) {
        const struct vm_drive *drive = &saved->drives[i];

        if (!microvm_id_is_valid(drive->id) || drive->path[0] == '\0')
            return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                               "drive %zu of the snapshot has no valid id or no path", i);
        for (size_t j = 0; j < i; j++) {
            if (saved->drives[j].slot == drive->slot || strcmp(saved->drives[j].id, drive->id) == 0)
                return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                                   "drives '%s' and '%s' of the snapshot share an id or a slot",
                                   saved->drives[j].id, drive->id);
        }
    }
    return 0;
}

static int check_saved(const struct saved_config *saved, const struct stasis_machine *machine,
                       const struct stasis_snapshot_info *info, struct stasis_error *err)
{
    int r;

    if (saved->layout_version != LAYOUT_VERSION)
        return stasis_fail(err, STASIS_ERR_VERSION,
                           "the snapshot's microVM has address layout %u, this program has %u",
                           saved->layout_version, LAYOUT_VERSION);
    r = check_vcpus(saved, machine, err);
    if (r == 0)
        r = check_memory(saved, info, err);
    return r < 0 ? r : check_drives(saved, err);
}

static void take_saved(const struct saved_config *saved, struct microvm_config *ret_config)
{
    memset(ret_config, 0, sizeof(*ret_config));
    ret_config->machine.vcpu_count = saved->vcpu_count;
    ret_config->machine.memory_size = saved->memory_size;
    (void)microvm_copy_text(ret_config->kernel_path, sizeof(ret_config->kernel_path),
                            saved->kernel_path);
    (void)microvm_copy_text(ret_config->initrd_path, sizeof(ret_config->initrd_path),
                            saved->initrd_path);
    (void)microvm_copy_text(ret_config->cmdline, sizeof(ret_config->cmdline), saved->cmdline);
    ret_config->has_cmdline = saved->has_cmdline;
    ret_config->has_entropy = saved->has_entropy;
    ret_config->drives_count = saved->drives_count;
    if (saved->drives_count > 0)
        memcpy(ret_config->drives, saved->drives, saved->drives_count * sizeof(saved->drives[0]));
}

int microvm_config_load(const struct stasis_machine *machine,
                        const struct stasis_snapshot_info *info, struct microvm_config *ret_config,
                        struct stasis_error *err)
{
    const struct stasis_device *device =
        stasis_machine_find_device(machine, CONFIG_KIND, CONFIG_ID);
    struct saved_config saved = { 0 };
    int r;

    if (machine->arch != STASIS_ARCH_X86_64)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED,
                           "the snapshot is of %s; the microVM runs x86_64",
                           stasis_arch_name((enum stasis_arch)machine->arch));
    if (!device)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED,
                           "the snapshot was not made by the microVM: it has no device 'microvm'");
    if (device->version != CONFIG_VERSION)
        return stasis_fail(err, STASIS_ERR_VERSION,
                           "the snapshot's microVM configuration has version %u, this program "
                           "reads version %u",
                           device->version, CONFIG_VERSION);
    r = stasis_device_decode(device, &config_table, &saved, err);
    if (r < 0)
        return stasis_wrap(err, r, "microVM configuration");
    r = check_saved(&saved, machine, info, err);
    if (r == 0)
        take_saved(&saved, ret_config);
    stasis_fields_release(&config_table, &saved);
    return r;
}
