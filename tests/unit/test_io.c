/* test_io.c - reading and writing whole ranges, opening regular files only.
 *
 * Goal:   callers get all of a range or a named error, whatever the kernel does in between.
 * Method: files, directories, FIFOs, sockets and devices in a private folder; pread() and pwrite() are
 *         wrapped by the linker, so that they can be interrupted and cut short on demand. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"

#define CONTENTS "0123456789"
#define NOBODY 65534

static struct {
    char folder[64];
    char path[128]; /* a file with CONTENTS */
    int fd;         /* the same, read-write */
} fixture;

/* What the wrapped calls do; all zero: what the kernel does. */
static struct {
    unsigned interrupt_count; /* fail so many calls with EINTR */
    size_t most;              /* transfer at most so many bytes; 0: all */
    int fail_with;            /* then fail with this */
    bool none;                /* pwrite: return 0 */
} twist;

ssize_t __real_pread64(int fd, void *buf, size_t size, off_t file_off);
ssize_t __real_pwrite64(int fd, const void *buf, size_t size, off_t file_off);
ssize_t __wrap_pread64(int fd, void *buf, size_t size, off_t file_off);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t size, off_t file_off);

static bool twisted(size_t *size)
{
    if (twist.interrupt_count > 0) {
        twist.interrupt_count--;
        errno = EINTR;
        return true;
    }
    if (twist.fail_with) {
        errno = twist.fail_with;
        return true;
    }
    if (twist.most && *size > twist.most)
        *size = twist.most;
    return false;
}

ssize_t __wrap_pread64(int fd, void *buf, size_t size, off_t file_off)
{
    return twisted(&size) ? -1 : __real_pread64(fd, buf, size, file_off);
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t size, off_t file_off)
{
    if (twist.none)
        return 0;
    return twisted(&size) ? -1 : __real_pwrite64(fd, buf, size, file_off);
}

static const char *in_folder(const char *name)
{
    static char path[160];

    snprintf(path, sizeof(path), "%s/%s", fixture.folder, name);
    return path;
}

static int make_folder(void **state)
{
    (void)state;
    memset(&twist, 0, sizeof(twist));
    strcpy(fixture.folder, "/tmp/stasis-io-XXXXXX");
    if (!mkdtemp(fixture.folder))
        return -1;
    snprintf(fixture.path, sizeof(fixture.path), "%s/file", fixture.folder);
    fixture.fd = open(fixture.path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fixture.fd >= 0 && write(fixture.fd, CONTENTS, 10) == 10 ? 0 : -1;
}

static int remove_folder(void **state)
{
    static const char *const names[] = { "file", "fifo", "socket", "link", "dangling" };

    (void)state;
    close(fixture.fd);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unlink(in_folder(names[i]));
    return rmdir(fixture.folder);
}

static void reads_the_range_that_was_asked_for(void **state)
{
    struct stasis_error err = { 0 };
    char buf[5] = "";

    (void)state;
    assert_stasis_ok(io_read_at(fixture.fd, buf, 4, 3, &err), &err);
    assert_string_equal(buf, "3456");
    assert_stasis_ok(io_read_at(fixture.fd, buf, 0, 1000, &err), &err);
}

static void a_read_past_the_end_is_truncated(void **state)
{
    struct stasis_error err = { 0 };
    char buf[16];

    (void)state;
    assert_stasis_fails(io_read_at(fixture.fd, buf, 11, 0, &err), &err, STASIS_ERR_TRUNCATED);
    assert_non_null(strstr(err.text, "ends at 10"));
    assert_stasis_fails(io_read_at(fixture.fd, buf, 1, 10, &err), &err, STASIS_ERR_TRUNCATED);
}

static void a_position_that_no_file_has_is_refused(void **state)
{
    struct stasis_error err = { 0 };
    char buf[4] = "";

    (void)state;
    assert_stasis_fails(io_read_at(fixture.fd, buf, 4, UINT64_MAX - 1, &err), &err,
                        STASIS_ERR_TRUNCATED);
    assert_stasis_fails(io_read_at(fixture.fd, buf, 4, INT64_MAX - 3, &err), &err,
                        STASIS_ERR_TRUNCATED);
    assert_stasis_fails(io_write_at(fixture.fd, buf, 4, UINT64_MAX - 1, &err), &err,
                        STASIS_ERR_NO_SPACE);
}

static void interrupted_and_short_reads_go_on(void **state)
{
    struct stasis_error err = { 0 };
    char buf[11] = "";

    (void)state;
    twist.interrupt_count = 3;
    twist.most = 3;
    assert_stasis_ok(io_read_at(fixture.fd, buf, 10, 0, &err), &err);
    assert_string_equal(buf, CONTENTS);
    assert_int_equal(twist.interrupt_count, 0);
}

static void interrupted_and_short_writes_go_on(void **state)
{
    struct stasis_error err = { 0 };
    char buf[11] = "";

    (void)state;
    twist.interrupt_count = 3;
    twist.most = 3;
    assert_stasis_ok(io_write_at(fixture.fd, "abcdefgh", 8, 1, &err), &err);
    assert_int_equal(__real_pread64(fixture.fd, buf, 10, 0), 10);
    assert_string_equal(buf, "0abcdefgh9");
}

static void a_read_that_fails_says_why(void **state)
{
    struct stasis_error err = { 0 };
    char buf[4];

    (void)state;
    twist.fail_with = EIO;
    assert_stasis_fails(io_read_at(fixture.fd, buf, 4, 0, &err), &err, STASIS_ERR_IO);
    assert_int_equal(err.errnum, EIO);
    assert_non_null(strstr(err.text, "Input/output error"));
}

static void a_full_file_system_is_no_space(void **state)
{
    static const int reasons[] = { ENOSPC, EDQUOT, EFBIG };

    (void)state;
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        struct stasis_error err = { 0 };

        twist.fail_with = reasons[i];
        assert_stasis_fails(io_write_at(fixture.fd, "abcd", 4, 0, &err), &err, STASIS_ERR_NO_SPACE);
        assert_int_equal(err.errnum, reasons[i]);
    }
}

static void the_file_size_limit_is_no_space(void **state)
{
    struct rlimit before, small;
    struct stasis_error err = { 0 };
    int result;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 16;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    result = io_write_at(fixture.fd, "abcdefgh", 8, 12, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    assert_stasis_fails(result, &err, STASIS_ERR_NO_SPACE);
    assert_int_equal(err.errnum, EFBIG);
}

static void a_write_that_makes_no_progress_ends(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    twist.none = true;
    assert_stasis_fails(io_write_at(fixture.fd, "abcd", 4, 0, &err), &err, STASIS_ERR_IO);
}

static void opens_a_regular_file_and_tells_its_size(void **state)
{
    struct stasis_error err = { 0 };
    uint64_t size = 0;
    int fd = -1;

    (void)state;
    assert_stasis_ok(io_open_regular(fixture.path, O_RDONLY, &fd, &size, &err), &err);
    assert_int_equal(size, 10);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close(fd);
    assert_int_equal(symlink("file", in_folder("link")), 0);
    assert_stasis_ok(io_open_regular(in_folder("link"), O_RDONLY, &fd, NULL, &err), &err);
    close(fd);
}

static void assert_not_regular(const char *path, int flags)
{
    struct stasis_error err = { 0 };
    uint64_t size = 77;
    int fd = -7;

    assert_stasis_fails(io_open_regular(path, flags, &fd, &size, &err), &err,
                        STASIS_ERR_NOT_REGULAR);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(fd, -7);
    assert_int_equal(size, 77);
}

static void refuses_what_is_not_a_regular_file(void **state)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    assert_not_regular(fixture.folder, O_RDONLY);
    assert_not_regular(fixture.folder, O_RDWR);
    assert_not_regular("/dev/null", O_RDONLY);
    assert_int_equal(mkfifo(in_folder("fifo"), 0600), 0);
    assert_not_regular(in_folder("fifo"), O_RDONLY);
    assert_not_regular(in_folder("fifo"), O_WRONLY);
    assert_true(strlen(in_folder("socket")) < sizeof(address.sun_path));
    strcpy(address.sun_path, in_folder("socket"));
    assert_int_equal(bind(server, (struct sockaddr *)&address, sizeof(address)), 0);
    close(server);
    assert_not_regular(in_folder("socket"), O_RDONLY);
}

static void a_missing_file_is_not_found(void **state)
{
    struct stasis_error err = { 0 };
    int fd = -7;

    (void)state;
    assert_stasis_fails(io_open_regular(in_folder("none"), O_RDONLY, &fd, NULL, &err), &err,
                        STASIS_ERR_NOT_FOUND);
    assert_int_equal(symlink("none", in_folder("dangling")), 0);
    assert_stasis_fails(io_open_regular(in_folder("dangling"), O_RDONLY, &fd, NULL, &err), &err,
                        STASIS_ERR_NOT_FOUND);
    assert_int_equal(fd, -7);
}

/* In a child, as nobody when we are root, to whom no file is closed. */
static int open_as_nobody(const char *path)
{
    const pid_t child = fork();
    int status;

    if (child == 0) {
        struct stasis_error err = { 0 };
        int fd = -1;

        if (geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY) < 0)
            _exit(255);
        _exit(io_open_regular(path, O_RDONLY, &fd, NULL, &err) < 0 ? (int)err.code : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_file_that_is_closed_to_us_is_permission_denied(void **state)
{
    (void)state;
    assert_int_equal(chmod(fixture.folder, 0755), 0);
    assert_int_equal(chmod(fixture.path, 0444), 0);
    assert_int_equal(open_as_nobody(fixture.path), 0);
    assert_int_equal(chmod(fixture.path, 0), 0);
    assert_int_equal(open_as_nobody(fixture.path), STASIS_ERR_PERMISSION);
}

static void reads_a_whole_file_with_a_nul_behind_it(void **state)
{
    struct stasis_error err = { 0 };
    uint8_t *data = NULL;
    size_t size = 0;

    (void)state;
    assert_stasis_ok(io_read_file(fixture.path, 10, &data, &size, &err), &err);
    assert_int_equal(size, 10);
    assert_string_equal((const char *)data, CONTENTS);
    free(data);
}

static void reads_an_empty_file(void **state)
{
    struct stasis_error err = { 0 };
    uint8_t *data = NULL;
    size_t size = 1;

    (void)state;
    assert_int_equal(ftruncate(fixture.fd, 0), 0);
    assert_stasis_ok(io_read_file(fixture.path, 0, &data, &size, &err), &err);
    assert_int_equal(size, 0);
    assert_int_equal(data[0], 0);
    free(data);
}

static void a_file_beyond_the_limit_is_refused(void **state)
{
    struct stasis_error err = { 0 };
    uint8_t *data = NULL;
    size_t size = 77;

    (void)state;
    assert_stasis_fails(io_read_file(fixture.path, 9, &data, &size, &err), &err, STASIS_ERR_LIMIT);
    assert_null(data);
    assert_int_equal(size, 77);
    assert_stasis_fails(io_read_file(in_folder("none"), 9, &data, &size, &err), &err,
                        STASIS_ERR_NOT_FOUND);
}

/* /proc says of its files that they are empty; what counts is where reading ends. */
static void reads_files_whose_size_is_not_known(void **state)
{
    struct stasis_error err = { 0 };
    uint8_t *data = NULL;
    size_t size = 0;

    (void)state;
    assert_stasis_ok(io_read_file("/proc/self/status", 1 << 20, &data, &size, &err), &err);
    assert_in_range(size, 100, 1 << 20);
    assert_int_equal(strlen((const char *)data), size);
    free(data);
    data = NULL;
    assert_stasis_fails(io_read_file("/proc/self/status", 99, &data, &size, &err), &err,
                        STASIS_ERR_LIMIT);
    assert_null(data);
}

#define FOLDER_TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        FOLDER_TEST(reads_the_range_that_was_asked_for),
        FOLDER_TEST(a_read_past_the_end_is_truncated),
        FOLDER_TEST(a_position_that_no_file_has_is_refused),
        FOLDER_TEST(interrupted_and_short_reads_go_on),
        FOLDER_TEST(interrupted_and_short_writes_go_on),
        FOLDER_TEST(a_read_that_fails_says_why),
        FOLDER_TEST(a_full_file_system_is_no_space),
        FOLDER_TEST(the_file_size_limit_is_no_space),
        FOLDER_TEST(a_write_that_makes_no_progress_ends),
        FOLDER_TEST(opens_a_regular_file_and_tells_its_size),
        FOLDER_TEST(refuses_what_is_not_a_regular_file),
        FOLDER_TEST(a_missing_file_is_not_found),
        FOLDER_TEST(a_file_that_is_closed_to_us_is_permission_denied),
        FOLDER_TEST(reads_a_whole_file_with_a_nul_behind_it),
        FOLDER_TEST(reads_an_empty_file),
        FOLDER_TEST(a_file_beyond_the_limit_is_refused),
        FOLDER_TEST(reads_files_whose_size_is_not_known),
    };
    return unit_run(tests);
}
