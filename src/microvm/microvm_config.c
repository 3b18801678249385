/*
 * microvm_config.c - what a microVM is to be, before it is: machine, kernel, drives, entropy.
 *
 * Values are checked here as far as they can be without touching the host; whether a kernel is a
 * kernel and a disk is there is found out at the start. Paths are made absolute at once: a snapshot
 * keeps them, and the process that restores it may live in another directory.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "microvm/microvm_private.h"

bool microvm_copy_text(char *to, size_t to_size, const char *from)
{
    const size_t size = strlen(from) + 1;

    if (size > to_size)
        return false;
    memcpy(to, from, size);
    return true;
}

bool microvm_id_is_valid(const char *id)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "abcdefghijklmnopqrstuvwxyz"
                                  "0123456789_-";
    const size_t length = strlen(id);

    return length > 0 && length < MICROVM_ID_SIZE && strspn(id, allowed) == length;
}

int microvm_absolute_path(char *to, size_t to_size, const char *path, const char *what,
                          struct stasis_error *err)
{
    char directory[PATH_MAX] = "";
    int size;

    if (path[0] == '\0')
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the path of the %s is empty", what);
    if (path[0] != '/' && !getcwd(directory, sizeof(directory)))
        return stasis_fail_errno(err, "read the current directory");
    size = snprintf(to, to_size, "%s%s%s", directory, path[0] == '/' ? "" : "/", path);
    if (size < 0 || (size_t)size >= to_size)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the path of the %s is longer than %zu bytes", what, to_size - 1);
    return 0;
}

static int begin_setting(struct microvm *vm, const char *what, struct stasis_error *err)
{
    return microvm_begin(vm, what, MICROVM_IN(MICROVM_NOT_STARTED), err);
}

static int end_setting(struct microvm *vm, int result)
{
    microvm_end(vm, MICROVM_NOT_STARTED);
    return result;
}

#define HUGE_PAGE_SIZE (UINT64_C(2) << 20) /* bytes */

static int check_pages(const struct microvm_machine_config *config, struct stasis_error *err)
{
    if (config->pages == MICROVM_PAGES_2M && config->memory_size % HUGE_PAGE_SIZE != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "%" PRIu64 " bytes of memory are not whole pages of 2 MiB",
                           config->memory_size);
    return 0;
}

static int check_machine(const struct microvm_machine_config *config, struct stasis_error *err)
{
    if (config->vcpu_count < 1 || config->vcpu_count > MICROVM_VCPU_MAX)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "%u vCPUs: must be 1 to %d",
                           config->vcpu_count, MICROVM_VCPU_MAX);
    if (config->memory_size < MICROVM_MEMORY_MIN || config->memory_size > MICROVM_MEMORY_MAX ||
        config->memory_size % STASIS_PAGE_SIZE != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "%" PRIu64 " bytes of memory: must be whole pages of %u bytes, 1 MiB to "
                           "64 GiB",
                           config->memory_size, STASIS_PAGE_SIZE);
    return check_pages(config, err);
}

int microvm_set_machine(struct microvm *vm, const struct microvm_machine_config *config,
                        struct stasis_error *err)
{
    int r = check_machine(config, err);

    if (r == 0)
        r = begin_setting(vm, "machine configuration", err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&vm->lock);
    vm->config.machine = *config;
    pthread_mutex_unlock(&vm->lock);
    return end_setting(vm, 0);
}

static int copy_boot_source(const struct microvm_boot_source *source,
                            struct microvm_config *ret_config, struct stasis_error *err)
{
    int r;

    if (!source->kernel_path)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "a boot source needs a kernel");
    r = microvm_absolute_path(ret_config->kernel_path, sizeof(ret_config->kernel_path),
                              source->kernel_path, "kernel", err);
    ret_config->initrd_path[0] = '\0';
    if (r == 0 && source->initrd_path)
        r = microvm_absolute_path(ret_config->initrd_path, sizeof(ret_config->initrd_path),
                                  source->initrd_path, "initrd", err);
    if (r < 0)
        return r;
    ret_config->has_cmdline = source->cmdline != NULL;
    if (!microvm_copy_text(ret_config->cmdline, sizeof(ret_config->cmdline),
                           source->cmdline ? source->cmdline : ""))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the command line is longer than %d bytes", MICROVM_CMDLINE_SIZE - 1);
    return 0;
}

int microvm_set_boot_source(struct microvm *vm, const struct microvm_boot_source *source,
                            struct stasis_error *err)
{
    struct microvm_config *config;
    int r = begin_setting(vm, "boot source", err);

    if (r < 0)
        return r;
    /* Into a copy: a refused source leaves the one before. */
    config = malloc(sizeof(*config));
    if (!config)
        return end_setting(vm, stasis_fail_memory(err, "boot source"));
    *config = vm->config;
    r = copy_boot_source(source, config, err);
    if (r == 0)
        microvm_set_config(vm, config);
    free(config);
    return end_setting(vm, r);
}

/* The drive of this id, or the next free one; NULL when all are taken. */
static struct vm_drive *find_drive_place(struct microvm_config *config, const char *id)
{
    for (size_t i = 0; i < config->drives_count; i++) {
        if (strcmp(config->drives[i].id, id) == 0)
            return &config->drives[i];
    }
    return config->drives_count < MICROVM_DRIVE_MAX ? &config->drives[config->drives_count] : NULL;
}

static int set_drive(struct microvm_config *config, const struct microvm_drive *drive,
                     struct stasis_error *err)
{
    struct vm_drive *place = find_drive_place(config, drive->id);
    struct vm_drive wanted = { .read_only = drive->read_only, .is_root = drive->is_root };
    int r;

    if (!place)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "more than %d drives",
                           MICROVM_DRIVE_MAX);
    for (size_t i = 0; i < config->drives_count && drive->is_root; i++) {
        if (config->drives[i].is_root && &config->drives[i] != place)
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                               "drive '%s': drive '%s' is the root device already", drive->id,
                               config->drives[i].id);
    }
    r = microvm_absolute_path(wanted.path, sizeof(wanted.path), drive->path, "drive", err);
    if (r < 0)
        return stasis_wrap(err, r, "drive '%s'", drive->id);
    (void)microvm_copy_text(wanted.id, sizeof(wanted.id), drive->id);
    wanted.slot = (uint32_t)(place - config->drives);
    *place = wanted;
    if (place == &config->drives[config->drives_count])
        config->drives_count++;
    return 0;
}

int microvm_set_drive(struct microvm *vm, const struct microvm_drive *drive,
                      struct stasis_error *err)
{
    int r;

    if (!drive->id || !microvm_id_is_valid(drive->id))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "drive id '%s': must be 1 to %d of A-Z a-z 0-9 _ -",
                           drive->id ? drive->id : "", MICROVM_ID_SIZE - 1);
    if (!drive->path)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "drive '%s' has no path", drive->id);
    r = begin_setting(vm, "drive configuration", err);
    return r < 0 ? r : end_setting(vm, set_drive(&vm->config, drive, err));
}

int microvm_set_entropy(struct microvm *vm, bool present, struct stasis_error *err)
{
    const int r = begin_setting(vm, "entropy configuration", err);

    if (r < 0)
        return r;
    vm->config.has_entropy = present;
    return end_setting(vm, 0);
}

/* microvm_get_machine() reads without the token, so those who have it write with the lock. */
void microvm_set_config(struct microvm *vm, const struct microvm_config *config)
{
    pthread_mutex_lock(&vm->lock);
    vm->config = *config;
    pthread_mutex_unlock(&vm->lock);
}

void microvm_get_machine(struct microvm *vm, struct microvm_machine_config *ret_config)
{
    pthread_mutex_lock(&vm->lock);
    *ret_config = vm->config.machine;
    pthread_mutex_unlock(&vm->lock);
}
