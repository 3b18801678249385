/*
 * crashrun.c - run a program and strike at one of its file-changing system calls.
 *
 *     crashrun [--at N:before|N:after|N:ERRNO] FOLDER LOG PROGRAM [ARGS...]
 *
 * Every system call that changes something in FOLDER (or makes it durable) is counted from 0 and
 * written to LOG, a line each: "N NAME PATH" or "N NAME OLD-PATH NEW-PATH", paths relative to FOLDER.
 * At call N, `before` kills the program (SIGKILL) with the call not done, `after` with the call done, and
 * an errno number makes the call fail with it, undone. Exit status: the program's own, 128 + signal
 * when it was killed, 125 when tracing does not work here, 126 when the program cannot be run.
 *
 * It works by ptrace at the boundary of the kernel, so nothing the program links or calls directly
 * can slip by; only stores to shared file mappings do. Threads are followed, child processes too.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_NO_TRACE 125
#define EXIT_NO_PROGRAM 126
#define THREAD_MAX 64

/* What of its arguments says where a call works. */
enum place {
    PLACE_FD,        /* args[0] is a descriptor */
    PLACE_SECOND_FD, /* args[2] is the one written to (copy_file_range) */
    PLACE_OPEN, /* args[0] directory, args[1] path, args[2] flags: counts with O_CREAT or O_TRUNC */
    PLACE_AT,   /* args[0] directory, args[1] path */
    PLACE_TWO_AT,    /* the same, and args[2], args[3] */
    PLACE_TWO_PATHS, /* args[0] and args[1] are paths */
    PLACE_PATH,      /* args[0] is a path */
};

static const struct watched_call {
    long number;
    const char *name;
    enum place place;
} watched_calls[] = {
    { SYS_write, "write", PLACE_FD },
    { SYS_pwrite64, "pwrite", PLACE_FD },
    { SYS_writev, "writev", PLACE_FD },
    { SYS_pwritev, "pwritev", PLACE_FD },
    { SYS_pwritev2, "pwritev2", PLACE_FD },
    { SYS_sendfile, "sendfile", PLACE_FD },
    { SYS_copy_file_range, "copy_file_range", PLACE_SECOND_FD },
    { SYS_ftruncate, "ftruncate", PLACE_FD },
    { SYS_fallocate, "fallocate", PLACE_FD },
    { SYS_fchmod, "fchmod", PLACE_FD },
    { SYS_sync_file_range, "sync_file_range", PLACE_FD },
    { SYS_fdatasync, "fdatasync", PLACE_FD },
    { SYS_fsync, "fsync", PLACE_FD },
    { SYS_openat, "open", PLACE_OPEN },
    { SYS_unlinkat, "unlink", PLACE_AT },
    { SYS_mkdirat, "mkdir", PLACE_AT },
    { SYS_truncate, "truncate", PLACE_PATH },
    { SYS_renameat, "rename", PLACE_TWO_AT },
    { SYS_renameat2, "rename", PLACE_TWO_AT },
    { SYS_linkat, "link", PLACE_TWO_AT },
#ifdef SYS_rename /* not on arm64 */
    { SYS_rename, "rename", PLACE_TWO_PATHS },
    { SYS_link, "link", PLACE_TWO_PATHS },
    { SYS_unlink, "unlink", PLACE_PATH },
    { SYS_creat, "open", PLACE_PATH },
    { SYS_mkdir, "mkdir", PLACE_PATH },
#endif
};

enum strike { STRIKE_NONE, STRIKE_BEFORE, STRIKE_AFTER, STRIKE_FAIL };

struct options {
    char folder[PATH_MAX]; /* resolved, no slash at its end */
    FILE *log;
    enum strike strike;
    unsigned long at;
    int errnum;
};

/* Between entry and exit of one call of one thread. */
struct thread {
    pid_t tid;
    bool inside; /* the next stop is an exit */
    bool struck; /* this call is the one: do what is left to do at its exit */
};

static struct thread threads[THREAD_MAX];
static unsigned long call_count;

static struct thread *thread_of(pid_t tid)
{
    struct thread *free_slot = NULL;

    for (size_t i = 0; i < THREAD_MAX; i++) {
        if (threads[i].tid == tid)
            return &threads[i];
        if (threads[i].tid == 0 && !free_slot)
            free_slot = &threads[i];
    }
    if (!free_slot) {
        fprintf(stderr, "crashrun: more than %d threads\n", THREAD_MAX);
        exit(EXIT_NO_TRACE);
    }
    *free_slot = (struct thread){ .tid = tid };
    return free_slot;
}

/* The call's number becomes one that no kernel has, so nothing is done. */
static void skip_call(pid_t tid)
{
#if defined(__x86_64__)
    struct user_regs_struct regs;

    ptrace(PTRACE_GETREGS, tid, NULL, &regs);
    regs.orig_rax = (unsigned long long)-1;
    ptrace(PTRACE_SETREGS, tid, NULL, &regs);
#elif defined(__aarch64__)
    int number = -1;
    struct iovec iov = { &number, sizeof(number) };

    ptrace(PTRACE_SETREGSET, tid, (void *)0x404 /* NT_ARM_SYSTEM_CALL */, &iov);
#else
#error "say here how a system call is skipped"
#endif
}

static void set_result(pid_t tid, long result)
{
#if defined(__x86_64__)
    struct user_regs_struct regs;

    ptrace(PTRACE_GETREGS, tid, NULL, &regs);
    regs.rax = (unsigned long long)result;
    ptrace(PTRACE_SETREGS, tid, NULL, &regs);
#elif defined(__aarch64__)
    struct user_regs_struct regs;
    struct iovec iov = { &regs, sizeof(regs) };

    ptrace(PTRACE_GETREGSET, tid, (void *)1 /* NT_PRSTATUS */, &iov);
    regs.regs[0] = (unsigned long long)result;
    ptrace(PTRACE_SETREGSET, tid, (void *)1, &iov);
#endif
}

/* Where /proc says a descriptor, or the working directory, of the thread is. */
static void path_of_fd(pid_t tid, int fd, char path[PATH_MAX])
{
    char link[64];
    ssize_t length;

    if (fd == AT_FDCWD)
        snprintf(link, sizeof(link), "/proc/%d/cwd", tid);
    else
        snprintf(link, sizeof(link), "/proc/%d/fd/%d", tid, fd);
    length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = '\0';
}

static void read_text(pid_t tid, uint64_t address, char *text, size_t size)
{
    size_t length = 0;

    /* In pieces that do not cross a page: what follows the text may not be mapped. */
    while (length < size - 1) {
        const size_t to_page_end = 4096 - ((address + length) & 4095);
        const size_t room = size - 1 - length;
        struct iovec local = { text + length, to_page_end < room ? to_page_end : room };
        struct iovec remote = { (void *)(uintptr_t)(address + length), local.iov_len };
        const ssize_t got = process_vm_readv(tid, &local, 1, &remote, 1, 0);

        if (got <= 0)
            break;
        if (memchr(text + length, '\0', (size_t)got))
            return;
        length += (size_t)got;
    }
    text[length] = '\0';
}

static void path_at(pid_t tid, int dir_fd, uint64_t address, char path[PATH_MAX])
{
    size_t length;

    read_text(tid, address, path, PATH_MAX);
    if (path[0] == '/')
        return;
    path_of_fd(tid, dir_fd, path);
    length = strlen(path);
    if (length < PATH_MAX - 2) {
        path[length] = '/';
        read_text(tid, address, path + length + 1, PATH_MAX - length - 1);
    }
}

/* The path relative to the watched folder ("." for itself), or NULL when it is elsewhere. */
static const char *within(const struct options *options, const char *path)
{
    const size_t length = strlen(options->folder);

    if (strncmp(path, options->folder, length) != 0)
        return NULL;
    if (path[length] == '\0')
        return ".";
    return path[length] == '/' ? path + length + 1 : NULL;
}

static const struct watched_call *find_call(uint64_t number)
{
    for (size_t i = 0; i < sizeof(watched_calls) / sizeof(watched_calls[0]); i++) {
        if ((uint64_t)watched_calls[i].number == number)
            return &watched_calls[i];
    }
    return NULL;
}

/* Fills in one or two paths (the second empty where there is none); false: not to be counted. */
static bool find_paths(pid_t tid, const struct watched_call *call, const uint64_t *args,
                       char first[PATH_MAX], char second[PATH_MAX])
{
    second[0] = '\0';
    switch (call->place) {
    case PLACE_FD: path_of_fd(tid, (int)args[0], first); return true;
    case PLACE_SECOND_FD: path_of_fd(tid, (int)args[2], first); return true;
    case PLACE_OPEN:
        path_at(tid, (int)args[0], args[1], first);
        return (args[2] & (O_CREAT | O_TRUNC)) != 0;
    case PLACE_AT: path_at(tid, (int)args[0], args[1], first); return true;
    case PLACE_TWO_AT:
        path_at(tid, (int)args[0], args[1], first);
        path_at(tid, (int)args[2], args[3], second);
        return true;
    case PLACE_TWO_PATHS:
        path_at(tid, AT_FDCWD, args[0], first);
        path_at(tid, AT_FDCWD, args[1], second);
        return true;
    case PLACE_PATH: path_at(tid, AT_FDCWD, args[0], first); return true;
    }
    return false;
}

/* Counts and logs the call if it is one of ours; true when this is the one to strike at. */
static bool count_call(struct options *options, pid_t tid, const struct __ptrace_syscall_info *info)
{
    const struct watched_call *call = find_call(info->entry.nr);
    char first[PATH_MAX], second[PATH_MAX];
    const char *name, *name2;

    if (!call || !find_paths(tid, call, info->entry.args, first, second))
        return false;
    name = within(options, first);
    name2 = within(options, second);
    if (!name && !name2)
        return false;
    fprintf(options->log, "%lu %s %s%s%s\n", call_count, call->name, name ? name : "(elsewhere)",
            name2 ? " " : "", name2 ? name2 : "");
    return call_count++ == options->at && options->strike != STRIKE_NONE;
}

static void at_entry(struct options *options, struct thread *thread, pid_t pid,
                     const struct __ptrace_syscall_info *info)
{
    thread->struck = count_call(options, thread->tid, info);
    if (!thread->struck)
        return;
    if (options->strike == STRIKE_BEFORE || options->strike == STRIKE_FAIL)
        skip_call(thread->tid);
    if (options->strike == STRIKE_BEFORE)
        kill(pid, SIGKILL);
}

static void at_exit(const struct options *options, const struct thread *thread, pid_t pid)
{
    if (!thread->struck)
        return;
    if (options->strike == STRIKE_AFTER)
        kill(pid, SIGKILL);
    else if (options->strike == STRIKE_FAIL)
        set_result(thread->tid, -options->errnum);
}

static void at_syscall_stop(struct options *options, pid_t tid, pid_t pid)
{
    struct thread *thread = thread_of(tid);
    struct __ptrace_syscall_info info = { 0 };

    if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) < 0)
        return; /* killed meanwhile */
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        at_entry(options, thread, pid, &info);
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
        at_exit(options, thread, pid);
        thread->struck = false;
    }
}

/* The signal to hand on when the stopped thread goes on; 0 for stops that are ptrace's own. */
static int signal_to_deliver(int status)
{
    const int sig = WSTOPSIG(status);

    if (status >> 16 != 0 || sig == (SIGTRAP | 0x80) || sig == SIGSTOP)
        return 0;
    return sig;
}

static int trace(struct options *options, pid_t pid)
{
    int status;

    for (;;) {
        const pid_t tid = waitpid(-1, &status, __WALL);

        if (tid < 0)
            return EXIT_NO_TRACE;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            thread_of(tid)->tid = 0;
            if (tid == pid)
                return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        if (WSTOPSIG(status) == (SIGTRAP | 0x80))
            at_syscall_stop(options, tid, pid);
        ptrace(PTRACE_SYSCALL, tid, NULL, (void *)(intptr_t)signal_to_deliver(status));
    }
}

static int run(struct options *options, char **argv)
{
    const long trace_options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE |
                               PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC;
    const pid_t pid = fork();
    int status;

    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(EXIT_NO_TRACE);
        raise(SIGSTOP);
        execv(argv[0], argv);
        _exit(EXIT_NO_PROGRAM);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) ||
        ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)trace_options) < 0 ||
        ptrace(PTRACE_SYSCALL, pid, NULL, NULL) < 0) {
        fprintf(stderr, "crashrun: ptrace does not work here\n");
        return EXIT_NO_TRACE;
    }
    return trace(options, pid);
}

static bool parse_strike(struct options *options, const char *text)
{
    char *end;

    options->at = strtoul(text, &end, 10);
    if (end == text || *end != ':')
        return false;
    end++;
    options->errnum = atoi(end);
    if (strcmp(end, "before") == 0)
        options->strike = STRIKE_BEFORE;
    else if (strcmp(end, "after") == 0)
        options->strike = STRIKE_AFTER;
    else if (options->errnum > 0)
        options->strike = STRIKE_FAIL;
    return options->strike != STRIKE_NONE;
}

int main(int argc, char **argv)
{
    struct options options = { 0 };
    int next = 1;
    int status;

    if (argc > 2 && strcmp(argv[1], "--at") == 0) {
        if (!parse_strike(&options, argv[2]))
            argc = 0;
        next = 3;
    }
    if (argc - next < 3) {
        fprintf(stderr, "usage: crashrun [--at N:before|N:after|N:ERRNO] FOLDER LOG PROGRAM...\n");
        return 2;
    }
    if (!realpath(argv[next], options.folder)) {
        perror(argv[next]);
        return 2;
    }
    options.log = fopen(argv[next + 1], "we");
    if (!options.log) {
        perror(argv[next + 1]);
        return 2;
    }
    status = run(&options, argv + next + 2);
    fclose(options.log);
    return status;
}
