/* cleanup.h - resources that give themselves back when their scope ends.
 *
 *     auto_fd fd = open(...);          closed on every way out; fd_steal(&fd) hands it on
 *     auto_free char *text = malloc(n); freed; text_steal is take_ptr(&text)
 *
 * The helpers keep errno, so a cleanup never hides why a function failed. */
#ifndef STASIS_BASE_CLEANUP_H
#define STASIS_BASE_CLEANUP_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Once, and never again on EINTR: on Linux the descriptor is gone already. */
static inline void fd_close(int *fd)
{
    const int saved_errno = errno;

    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    errno = saved_errno;
}

static inline int fd_steal(int *fd)
{
    const int taken = *fd;

    *fd = -1;
    return taken;
}

/* `ptr` is the address of a pointer of any type. */
static inline void free_pointee(void *ptr)
{
    const int saved_errno = errno;

    free(*(void **)ptr);
    errno = saved_errno;
}

static inline void file_close(FILE **file)
{
    const int saved_errno = errno;

    if (*file)
        fclose(*file);
    errno = saved_errno;
}

#define auto_fd __attribute__((cleanup(fd_close))) int
#define auto_free __attribute__((cleanup(free_pointee)))
#define auto_file __attribute__((cleanup(file_close))) FILE *

/* The value of a pointer variable, leaving NULL behind, so that auto_free does nothing. */
#define take_ptr(ptr_var)                                                                          \
    __extension__({                                                                                \
        __typeof__(ptr_var) taken_ = (ptr_var);                                                    \
        (ptr_var) = NULL;                                                                          \
        taken_;                                                                                    \
    })

#endif
