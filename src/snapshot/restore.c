/*
 * restore.c - guest memory back into a process: mapped from the files it lies in.
 *
 * Nothing is read beyond what mapping.c has to copy: a page comes from the page cache when the guest
 * first touches it, and what the guest writes is the process's own.
 */
#include "base/error.h"
#include "snapshot/handle.h"
#include "snapshot/mapping.h"

int stasis_restore(const struct stasis_snapshot *snapshot,
                   const struct stasis_restore_options *options, struct stasis_memory *ret_memory,
                   struct stasis_error *err)
{
    const struct format_image *image = snapshot->image;
    int r;

    if (options && options->mode != 0 && options->mode != STASIS_RESTORE_MAP)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "unknown restore mode %d",
                           (int)options->mode);
    if (options && options->verify && (r = stasis_verify(snapshot, NULL, NULL, err)) < 0)
        return r;
    return mapping_make(snapshot->codec, image, ret_memory, err);
}
