/* durable.h - a file that appears under its name whole and on disk, or not at all (design D4).
 *
 *     begin   open a private temporary file in the destination's directory: O_EXCL, random name,
 *             mode 0600, no symlink followed
 *     commit  fdatasync -> rename over the name -> fsync the directory
 *     abort   the temporary file is unlinked; what stood under the name is untouched
 *
 * A crash at any point leaves the old file or the new one under the name, and at worst a stray
 * temporary file ".NAME.XXXXXXXXXXXX.tmp" that no reader looks at. */
#ifndef STASIS_BASE_DURABLE_H
#define STASIS_BASE_DURABLE_H

#include <sys/types.h>

#include <stasis/error.h>

struct durable_file {
    int fd;         /* the temporary file, read-write; -1 when not begun */
    int dir_fd;     /* its directory */
    char *name;     /* final name within the directory, owned */
    char *tmp_name; /* owned */
};

/* An existing destination must be a regular file (STASIS_ERR_NOT_REGULAR: also for symlinks to
 * other things; a symlink itself is replaced only when it points to a regular file, by replacing
 * what it points to). */
int durable_begin(struct durable_file *file, const char *path, struct stasis_error *err);
/* After a failure the old file stands and durable_abort() removes the new one, with one exception:
 * when only the last step fails, the directory's fsync, the new file is under the name, whole, but
 * a power loss may bring the old one back. */
int durable_commit(struct durable_file *file, struct stasis_error *err);
/* After begin, whether it failed or not, and after commit: safe to call always; drops what is left. */
void durable_abort(struct durable_file *file);

#endif
