/*
 * microvm_files.c - which files are the microVM's own, so that no snapshot is written over them.
 *
 * A save replaces what stands under the destination's name. Were that a disk of the guest, the guest
 * would go on writing into a file that no longer has a name, and its data would be lost.
 */
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "microvm/microvm_private.h"

/* `path` may be NULL, empty or gone: then it is nobody's. */
static bool is_file(const struct stat *destination, const char *path)
{
    struct stat st;

    return path && *path && stat(path, &st) == 0 && st.st_dev == destination->st_dev &&
           st.st_ino == destination->st_ino;
}

static int refuse(struct stasis_error *err, const char *path, const char *what, const char *id)
{
    return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                       "'%.200s' is this microVM's own %s%s%s%s: a snapshot there would replace it",
                       path, what, id ? " '" : "", id ? id : "", id ? "'" : "");
}

int microvm_refuse_own_file(const struct microvm *vm, const char *path, struct stasis_error *err)
{
    const struct microvm_config *config = &vm->config;
    struct stat st;

    if (stat(path, &st) < 0)
        return 0; /* nothing there that could be ours; other troubles are the save's to tell */
    for (size_t i = 0; i < config->drives_count; i++) {
        if (is_file(&st, config->drives[i].path))
            return refuse(err, path, "disk", config->drives[i].id);
    }
    if (is_file(&st, config->kernel_path))
        return refuse(err, path, "kernel", NULL);
    if (is_file(&st, config->initrd_path))
        return refuse(err, path, "initrd", NULL);
    if (vm->serial && strncmp(vm->serial, "file:", 5) == 0 && is_file(&st, vm->serial + 5))
        return refuse(err, path, "console output", NULL);
    return 0;
}
