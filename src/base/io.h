/* io.h - reading and writing whole ranges of files; EINTR and short transfers are dealt with. */
#ifndef STASIS_BASE_IO_H
#define STASIS_BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <stasis/error.h>

/* Read exactly `size` bytes at `file_off`. 0; STASIS_ERR_TRUNCATED the file ends before; STASIS_ERR_IO. */
int io_read_at(int fd, void *buf, size_t size, uint64_t file_off, struct stasis_error *err);

/* Write exactly `size` bytes at `file_off`. 0; STASIS_ERR_NO_SPACE, STASIS_ERR_IO, ... */
int io_write_at(int fd, const void *buf, size_t size, uint64_t file_off, struct stasis_error *err);

/* Open a regular file for reading without blocking on FIFOs; refuses all that is not a regular
 * file (STASIS_ERR_NOT_REGULAR). `ret_size` may be NULL. Adds the path to the error. */
int io_open_regular(const char *path, int open_flags, int *ret_fd, uint64_t *ret_size,
                    struct stasis_error *err);

/* A whole regular file in memory, at most `size_max` bytes (STASIS_ERR_LIMIT beyond). `ret_data` is
 * malloc'ed, has a NUL after its last byte, and becomes the caller's. */
int io_read_file(const char *path, size_t size_max, uint8_t **ret_data, size_t *ret_size,
                 struct stasis_error *err);

#endif
