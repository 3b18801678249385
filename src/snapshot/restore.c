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
    int r = 0;

    if (options && options->mode != 0 && options->mode != STASIS_RESTORE_MAP)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "unknown restore mode %d",
                           (int)options->mode);
    if (options && options->verify) {
        const struct stasis_verify_options check = { .progress = options->progress,
                                                     .progress_arg = options->progress_arg };

        r = stasis_verify(snapshot, &check, NULL, err);
    }
    return r < 0 ? r : mapping_make(snapshot->codec, image, ret_memory, err);
}
