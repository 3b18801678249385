/* error.h - why a call failed: a code to act on and a sentence to read.
 *
 * Every fallible function returns 0, or a negative errno for callers that only want to know the
 * kind of failure, and fills a caller-owned `struct stasis_error` (NULL is allowed everywhere).
 * The codes are stable: stasis_code_name() gives the text that `--json` prints as "error", and
 * neither a number nor a name is ever reused. Nothing here allocates; all of it is thread safe as
 * long as one struct is used by one thread at a time. */
#ifndef STASIS_ERROR_H
#define STASIS_ERROR_H

#include <stasis/api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */
/* Code, its stable name, and the errno that functions failing with it return (negated). */
#define STASIS_CODES(X)                                                                            \
    /* the system */                                                                               \
    X(IO, 1, "Io", EIO)                        /* a system call failed; text has strerror() */      \
    X(OUT_OF_MEMORY, 2, "OutOfMemory", ENOMEM)                                                      \
    X(NOT_FOUND, 3, "NotFound", ENOENT)        /* no such file, device or section */                \
    X(PERMISSION, 4, "PermissionDenied", EACCES)                                                    \
    X(EXISTS, 5, "Exists", EEXIST)                                                                  \
    X(NO_SPACE, 6, "NoSpace", ENOSPC)          /* file system full, quota, file size limit */       \
    X(READ_ONLY, 7, "ReadOnly", EROFS)                                                              \
    X(NOT_REGULAR, 8, "NotRegularFile", EINVAL) /* directory, FIFO, socket, device */               \
    /* the caller */                                                                               \
    X(INVALID_ARGUMENT, 20, "InvalidArgument", EINVAL)                                              \
    X(WRONG_STATE, 21, "WrongState", EPERM)    /* the action does not fit the VM's state now */     \
    X(BUSY, 22, "Busy", EBUSY)                 /* another save or restore is going on */            \
    X(CANCELLED, 23, "Cancelled", ECANCELED)                                                        \
    X(LIMIT, 24, "LimitExceeded", E2BIG)       /* a size beyond what Stasis accepts */              \
    X(UNSUPPORTED, 25, "Unsupported", EOPNOTSUPP)                                                   \
    X(NOT_TRACKED, 26, "NotTracked", EINVAL)   /* nothing tells what has changed */                 \
    /* a snapshot file */                                                                          \
    X(BAD_MAGIC, 40, "BadMagic", EBADMSG)      /* not a snapshot of any known format */             \
    X(VERSION, 41, "UnsupportedVersion", EPROTONOSUPPORT)                                           \
    X(CRITICAL_SECTION, 42, "UnknownCriticalSection", EPROTONOSUPPORT)                              \
    X(TRUNCATED, 43, "Truncated", EBADMSG)     /* the file ends before its own sizes say so */      \
    X(CORRUPT, 44, "Corrupt", EBADMSG)         /* structure breaks the format's rules */            \
    X(DIGEST_MISMATCH, 45, "DigestMismatch", EBADMSG)                                               \
    X(INVALID_MACHINE, 46, "InvalidMachineState", EBADMSG)                                          \
    X(INVALID_MEMORY, 47, "InvalidMemoryLayout", EBADMSG) /* overlap, misaligned, too large */      \
    X(PARENT_MISSING, 48, "ParentMissing", ENOENT) /* a file of the chain is not where it should be */ \
    X(WRONG_PARENT, 49, "WrongParent", EINVAL) /* a file of the chain is another snapshot */       \
    X(LAYOUT_MISMATCH, 50, "LayoutMismatch", EINVAL) /* two snapshots of different memory layout */ \
    /* the host */                                                                                 \
    X(KVM, 60, "KvmError", EIO)                /* a KVM ioctl failed; text names it */              \
    X(NO_KVM, 61, "KvmUnavailable", ENODEV)                                                         \
    X(HOST_INCOMPATIBLE, 62, "HostIncompatible", ENOTSUP) /* text names each missing feature */     \
    X(TOO_MANY_VCPUS, 63, "TooManyVcpus", EINVAL)                                                   \
    /* the microVM */                                                                              \
    X(QUIESCE_TIMEOUT, 80, "QuiesceTimeout", ETIMEDOUT) /* the guest was let go on */               \
    X(BAD_KERNEL, 81, "BadKernel", ENOEXEC)                                                         \
    X(DISK, 82, "DiskMismatch", EINVAL)        /* missing, of another size, or wrongly named */     \
    X(GUEST_CRASHED, 83, "GuestCrashed", EIO)  /* triple fault, internal error, failed entry */     \
    /* a peer */                                                                                   \
    X(PROTOCOL, 100, "ProtocolError", EPROTO)  /* what a peer sent breaks the protocol */           \
    X(REFUSED, 101, "Refused", EREMOTEIO)      /* the peer understood and said no */                \
    X(TIMEOUT, 102, "Timeout", ETIMEDOUT)

/* clang-format on */

enum stasis_code {
    STASIS_OK = 0,
#define STASIS_CODE_ENUM(id, number, name, errnum) STASIS_ERR_##id = number,
    STASIS_CODES(STASIS_CODE_ENUM)
#undef STASIS_CODE_ENUM
};

#define STASIS_ERROR_TEXT_SIZE 512

struct stasis_error {
    enum stasis_code code;
    int errnum;                        /* errno of the failed system call, 0 where there was none */
    char text[STASIS_ERROR_TEXT_SIZE]; /* one sentence, outermost context first; NUL-terminated */
};

/** Stable name of a code ("DigestMismatch"); "Ok" for 0, "Unknown" for a number of no code. */
STASIS_API const char *stasis_code_name(enum stasis_code code);

#ifdef __cplusplus
}
#endif
#endif
