/* path.h - names of files relative to directories, by their text alone: nothing is looked up.
 *
 * Absolute paths are expected to be real ones (no symlinks, "." or ".." in them), relative ones may
 * have "..". All results are malloc'ed, NULL when out of memory. */
#ifndef STASIS_FORMAT_NATIVE_PATH_H
#define STASIS_FORMAT_NATIVE_PATH_H

/* The directory that an absolute path is in: "/a" for "/a/b", "/" for "/a". */
char *path_parent(const char *path);

/* How to reach the absolute `path` from the absolute directory `dir`: "../x/y". */
char *path_relative(const char *dir, const char *path);

/* `path`, relative to `from_dir`, as one relative to `to_dir`. */
char *path_rebase(const char *path, const char *from_dir, const char *to_dir);

#endif
