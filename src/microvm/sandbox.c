/*
 * sandbox.c - the list of system calls that a running microVM may make.
 *
 * A guest that breaks out of KVM or of a device model finds itself in a process that can start no
 * program, open no network socket, make no memory executable and trace nobody. The list is what
 * the work after boot or load needs: vCPUs, disks, console, control socket, save (openat, rename,
 * fsync, ...), reset (a new VM in the same process), threads. Files are not restricted here: which
 * ones the process may open is for its user and its mount namespace to say.
 *
 * The filter is one for all threads (TSYNC) and cannot be taken off. If the list misses a call, the
 * process dies with SIGSYS, so whoever gives the microVM new work looks here too.
 *
 * Sanitizers call more at the process's end (a tracer for leaks, a symbolizer): builds with them
 * get those calls too, so that the list is tested in such builds as well, but protects less.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <linux/fs.h>
#include <linux/kvm.h>

#include "base/error.h"
#include "microvm/sandbox.h"

/* PAGEMAP_SCAN of Linux 6.7's <linux/fs.h>: _IOWR('f', 16, struct pm_scan_arg), which is 96 bytes. */
#define PAGEMAP_SCAN_REQUEST _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, 96)

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* Linux 5.17 */
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WITH_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define WITH_SANITIZER 1
#endif
#endif
#ifndef WITH_SANITIZER
#define WITH_SANITIZER 0
#endif

/* --- calls allowed whatever their arguments ------------------------------------------------- */

/* clang-format off */
static const int plain_calls[] = {
    /* files: disks, snapshots, console files */
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
    SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2), SCMP_SYS(lseek), SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(close),
    SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx),
    SCMP_SYS(statfs), SCMP_SYS(fstatfs), SCMP_SYS(access), SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(getcwd),
    SCMP_SYS(getdents64), SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2),
    SCMP_SYS(unlink), SCMP_SYS(unlinkat), SCMP_SYS(chmod), SCMP_SYS(fchmod), SCMP_SYS(fchmodat),
    SCMP_SYS(umask), SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(fsync),
    SCMP_SYS(fdatasync), SCMP_SYS(sync_file_range), SCMP_SYS(fadvise64), SCMP_SYS(fcntl),
    SCMP_SYS(flock), SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3), SCMP_SYS(copy_file_range),
    /* waiting and waking */
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(select), SCMP_SYS(pselect6),
    SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),
    SCMP_SYS(eventfd2), SCMP_SYS(pipe), SCMP_SYS(pipe2), SCMP_SYS(futex), SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep), SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres),
    SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(sched_yield), SCMP_SYS(pause),
    SCMP_SYS(restart_syscall),
    /* Unix sockets (socket() itself is below) */
    SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(connect),
    SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
    SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg),
    SCMP_SYS(shutdown),
    /* memory (mmap and mprotect are below) */
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(mincore),
    SCMP_SYS(msync),
    /* threads, signals and the process itself */
    SCMP_SYS(set_robust_list), SCMP_SYS(get_robust_list), SCMP_SYS(rseq),
    SCMP_SYS(set_tid_address), SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(getppid),
    SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(tgkill),
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigtimedwait), SCMP_SYS(sigaltstack), SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getcpu), SCMP_SYS(getrandom), SCMP_SYS(getrusage), SCMP_SYS(sysinfo),
    SCMP_SYS(uname), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(membarrier),
};

/* At a sanitized process's end, and in its reports. */
static const int sanitizer_calls[] = {
    SCMP_SYS(clone), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(execve), SCMP_SYS(wait4),
    SCMP_SYS(ptrace), SCMP_SYS(prctl), SCMP_SYS(mmap), SCMP_SYS(mprotect), SCMP_SYS(prlimit64),
    SCMP_SYS(getrlimit), SCMP_SYS(setrlimit), SCMP_SYS(ioctl), SCMP_SYS(kill),
    SCMP_SYS(arch_prctl), SCMP_SYS(personality), SCMP_SYS(socketpair), SCMP_SYS(process_vm_readv),
    SCMP_SYS(getdents),
    SCMP_SYS(getdents), SCMP_SYS(getdents64), SCMP_SYS(readlink), SCMP_SYS(open), SCMP_SYS(stat),
};
/* clang-format on */

static int allow_calls(scmp_filter_ctx filter, const int *calls, size_t count)
{
    int r = 0;

    for (size_t i = 0; i < count && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
    return r;
}

/* --- calls allowed with some arguments only ------------------------------------------------- */

static int allow_one(scmp_filter_ctx filter, int call, struct scmp_arg_cmp arg)
{
    return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, 1, &arg);
}

/* No memory is ever executable again: no library is loaded, no code is made. */
static int allow_memory(scmp_filter_ctx filter)
{
    const int r = allow_one(filter, SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

    return r < 0 ? r
                 : allow_one(filter, SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
}

/* Threads, not processes. clone3() hides its flags in memory where no filter sees them: it is said
 * not to exist, and the C library takes clone(). */
static int allow_threads(scmp_filter_ctx filter)
{
    const int r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

    return r < 0 ? r
                 : allow_one(filter, SCMP_SYS(clone),
                             SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
}

static int allow_unix_sockets(scmp_filter_ctx filter)
{
    const int r = allow_one(filter, SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_UNIX));

    return r < 0 ? r : allow_one(filter, SCMP_SYS(socketpair), SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
}

/* KVM's requests, those of terminals, the size of a disk that is a block device (at a reset), and, for
 * saves, which pages of our own memory there are. */
static int allow_ioctls(scmp_filter_ctx filter)
{
    static const unsigned long others[] = { TCGETS,  TCSETS,       TCSETSW,
                                            TCSETSF, TIOCGWINSZ,   FIONREAD,
                                            FIONBIO, BLKGETSIZE64, PAGEMAP_SCAN_REQUEST };
    int r = allow_one(filter, SCMP_SYS(ioctl),
                      SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00u, (unsigned)KVMIO << 8));

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]) && r == 0; i++)
        r = allow_one(filter, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, others[i]));
    return r;
}

/* Names for threads and, by newer C libraries, for memory; limits may be read, not set. */
static int allow_process_control(scmp_filter_ctx filter)
{
    int r = allow_one(filter, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));

    if (r == 0)
        r = allow_one(filter, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_VMA));
    return r < 0 ? r : allow_one(filter, SCMP_SYS(prlimit64), SCMP_A2(SCMP_CMP_EQ, 0));
}

static int add_rules(scmp_filter_ctx filter)
{
    int r = allow_calls(filter, plain_calls, sizeof(plain_calls) / sizeof(plain_calls[0]));

    if (r == 0 && WITH_SANITIZER)
        r = allow_calls(filter, sanitizer_calls,
                        sizeof(sanitizer_calls) / sizeof(sanitizer_calls[0]));
    if (r == 0)
        r = allow_memory(filter);
    if (r == 0)
        r = allow_threads(filter);
    if (r == 0)
        r = allow_unix_sockets(filter);
    if (r == 0)
        r = allow_ioctls(filter);
    return r < 0 ? r : allow_process_control(filter);
}

/* --- putting it on -------------------------------------------------------------------------- */

/* A binary search over the calls instead of a walk: KVM_RUN goes through it at every exit. Where
 * the library cannot do that, the filter is as strict. The kernel logs a killed process by itself.
 * */
static int load_filter(scmp_filter_ctx filter)
{
    int r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);

    if (r == 0)
        r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (r < 0)
        return r;
    (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    r = add_rules(filter);
    return r < 0 ? r : seccomp_load(filter);
}

static int enter(struct stasis_error *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int r;

    if (!filter)
        return stasis_fail_memory(err, "seccomp filter");
    r = load_filter(filter);
    seccomp_release(filter);
    if (r < 0) {
        errno = -r;
        return stasis_fail_errno(err, "turn on the seccomp filter");
    }
    return 0;
}

int sandbox_enter(struct stasis_error *err)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static bool entered;
    int r = 0;

    pthread_mutex_lock(&lock);
    if (!entered) {
        r = enter(err);
        entered = r == 0;
    }
    pthread_mutex_unlock(&lock);
    return r;
}
