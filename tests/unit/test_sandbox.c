/* test_sandbox.c - the seccomp filter.
 *
 * Goal:   a sandboxed process can do a microVM's work and nothing with which a guest that broke out
 * would
 *         begin: no program, no process, no network, no executable memory, no tracing, no mounts.
 * Method: a child per case enters the sandbox and tries; a denied call must end it by SIGSYS. That
 * the
 *         whole of the microVM's work gets through is for the tests of the command to show. */
#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "microvm/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* What a child says by its exit status. */
#define CHILD_FINE 0
#define CHILD_WRONG 1
#define CHILD_NO_SECCOMP 2

/* Returns CHILD_FINE or CHILD_WRONG, or is killed. */
typedef int attempt_fn(void);

static void be_child(attempt_fn *attempt)
{
    const struct rlimit no_core = { 0 };
    struct stasis_error err = { 0 };

    (void)setrlimit(RLIMIT_CORE, &no_core);
    if (sandbox_enter(&err) < 0)
        _exit(CHILD_NO_SECCOMP);
    _exit(attempt());
}

/* The wait status of a child that tries this in the sandbox. */
static int try_sandboxed(attempt_fn *attempt)
{
    const pid_t child = fork();
    int status = 0;

    assert_true(child >= 0);
    if (child == 0)
        be_child(attempt);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_NO_SECCOMP)
        unit_skip("this kernel or container takes no seccomp filter");
    return status;
}

static void assert_allowed(attempt_fn *attempt)
{
    const int status = try_sandboxed(attempt);

    if (WIFSIGNALED(status))
        fail_msg("killed by signal %d", WTERMSIG(status));
    assert_int_equal(WEXITSTATUS(status), CHILD_FINE);
}

static void assert_denied(attempt_fn *attempt)
{
    const int status = try_sandboxed(attempt);

    if (!WIFSIGNALED(status))
        fail_msg("not killed: exit status %d", WEXITSTATUS(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

/* --- allowed -------------------------------------------------------------------------------- */

static void *add_one(void *arg)
{
    ++*(int *)arg;
    return NULL;
}

static int make_threads(void)
{
    pthread_t thread;
    int count = 0;

    for (int i = 0; i < 3; i++) {
        if (pthread_create(&thread, NULL, add_one, &count) != 0)
            return CHILD_WRONG;
        pthread_join(thread, NULL);
    }
    return count == 3 ? CHILD_FINE : CHILD_WRONG;
}

static int write_a_file_durably(void)
{
    char path[] = "/tmp/stasis-sandbox-XXXXXX";
    char other[64];
    const int fd = mkstemp(path);
    const bool fine = fd >= 0 && write(fd, "x", 1) == 1 && fdatasync(fd) == 0 &&
                      ftruncate(fd, 4096) == 0 && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1) == 0 &&
                      mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED;

    strcpy(other, path);
    strcat(other, ".new");
    return fine && rename(path, other) == 0 && unlink(other) == 0 ? CHILD_FINE : CHILD_WRONG;
}

static int serve_a_unix_socket(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "" };
    const int server = socket(AF_UNIX, SOCK_STREAM, 0);
    const int client = socket(AF_UNIX, SOCK_STREAM, 0);
    const socklen_t size = sizeof(sa_family_t) + 24;

    /* An abstract name: nothing is left behind. */
    snprintf(address.sun_path + 1, 24, "stasis-sandbox-%08d", getpid());
    if (bind(server, (struct sockaddr *)&address, size) < 0 || listen(server, 1) < 0 ||
        connect(client, (struct sockaddr *)&address, size) < 0)
        return CHILD_WRONG;
    return accept4(server, NULL, NULL, SOCK_CLOEXEC) >= 0 ? CHILD_FINE : CHILD_WRONG;
}

static int ask_kvm(void)
{
    const int fd = open("/dev/kvm", O_RDWR);

    if (fd < 0)
        return CHILD_FINE; /* nothing to ask; opening was not denied */
    return ioctl(fd, 0xae00, 0) > 0 ? CHILD_FINE : CHILD_WRONG; /* KVM_GET_API_VERSION */
}

static int enter_once_more(void)
{
    struct stasis_error err = { 0 };

    return sandbox_enter(&err) == 0 ? CHILD_FINE : CHILD_WRONG;
}

static void work_of_a_microvm_is_allowed(void **state)
{
    (void)state;
    assert_allowed(make_threads);
    assert_allowed(write_a_file_durably);
    assert_allowed(serve_a_unix_socket);
    assert_allowed(ask_kvm);
    assert_allowed(enter_once_more);
}

/* --- denied --------------------------------------------------------------------------------- */

static int open_network_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) >= 0;
}

static int open_netlink_socket(void)
{
    return socket(AF_NETLINK, SOCK_RAW, 0) >= 0;
}

static int start_program(void)
{
    char *const argv[] = { (char *)"true", NULL };

    return execve("/bin/true", argv, NULL);
}

static int start_program_by_descriptor(void)
{
    char *const argv[] = { (char *)"true", NULL };

    return (int)syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, NULL, 0);
}

static int start_process(void)
{
    return (int)syscall(SYS_fork);
}

static int start_process_by_clone(void)
{
    return (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static int map_executable_memory(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
           MAP_FAILED;
}

static int make_memory_executable(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static int trace(void)
{
    return (int)ptrace(PTRACE_TRACEME, 0, 0, 0);
}

static int mount_something(void)
{
    return mount("none", "/nonexistent", "tmpfs", 0, NULL);
}

static int load_bpf(void)
{
    return (int)syscall(SYS_bpf, 0, NULL, 0);
}

static int fake_terminal_input(void)
{
    return ioctl(0, TIOCSTI, "x");
}

static int raise_a_limit(void)
{
    const struct rlimit limit = { 1, 1 };

    return setrlimit(RLIMIT_NOFILE, &limit);
}

static int signal_another_process(void)
{
    return kill(getppid(), 0);
}

static int leave_the_namespace(void)
{
    return unshare(CLONE_NEWUSER);
}

static void network_sockets_are_denied(void **state)
{
    (void)state;
    assert_denied(open_network_socket);
    assert_denied(open_netlink_socket);
}

static void mounts_bpf_and_namespaces_are_denied(void **state)
{
    (void)state;
    assert_denied(mount_something);
    assert_denied(load_bpf);
    assert_denied(leave_the_namespace);
}

static void programs_and_processes_are_denied(void **state)
{
    (void)state;
    if (SANITIZED)
        unit_skip("sanitizers need these calls");
    assert_denied(start_program);
    assert_denied(start_program_by_descriptor);
    assert_denied(start_process);
    assert_denied(start_process_by_clone);
    assert_denied(trace);
    assert_denied(signal_another_process);
}

static void executable_memory_is_denied(void **state)
{
    (void)state;
    if (SANITIZED)
        unit_skip("sanitizers need these calls");
    assert_denied(map_executable_memory);
    assert_denied(make_memory_executable);
}

static void terminal_input_and_limits_are_denied(void **state)
{
    (void)state;
    if (SANITIZED)
        unit_skip("sanitizers need these calls");
    assert_denied(fake_terminal_input);
    assert_denied(raise_a_limit);
}

/* --- all threads ---------------------------------------------------------------------------- */

static int go_pipe[2];

static void *wait_and_open_socket(void *arg)
{
    char byte;

    (void)arg;
    if (read(go_pipe[0], &byte, 1) == 1)
        (void)socket(AF_INET, SOCK_STREAM, 0);
    return NULL;
}

/* The thread is older than the filter. */
static void be_child_with_thread(void)
{
    const struct rlimit no_core = { 0 };
    struct stasis_error err = { 0 };
    pthread_t thread;

    (void)setrlimit(RLIMIT_CORE, &no_core);
    if (pipe(go_pipe) < 0 || pthread_create(&thread, NULL, wait_and_open_socket, NULL) != 0)
        _exit(CHILD_WRONG);
    if (sandbox_enter(&err) < 0)
        _exit(CHILD_NO_SECCOMP);
    if (write(go_pipe[1], "x", 1) != 1)
        _exit(CHILD_WRONG);
    pthread_join(thread, NULL);
    _exit(CHILD_WRONG); /* the process should not have lived to say so */
}

static void older_threads_are_sandboxed_too(void **state)
{
    const pid_t child = fork();
    int status = 0;

    (void)state;
    assert_true(child >= 0);
    if (child == 0)
        be_child_with_thread();
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_NO_SECCOMP)
        unit_skip("this kernel or container takes no seccomp filter");
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_of_a_microvm_is_allowed),
        cmocka_unit_test(network_sockets_are_denied),
        cmocka_unit_test(mounts_bpf_and_namespaces_are_denied),
        cmocka_unit_test(programs_and_processes_are_denied),
        cmocka_unit_test(executable_memory_is_denied),
        cmocka_unit_test(terminal_input_and_limits_are_denied),
        cmocka_unit_test(older_threads_are_sandboxed_too),
    };
    return unit_run(tests);
}
