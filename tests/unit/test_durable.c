/* test_durable.c - a file that appears under its name whole, or not at all.
 *
 * Goal:   commit replaces, abort leaves no trace, and what is not ours to replace is refused.
 * Method: every kind of destination in a private folder, whose list of names is checked after each
 *         step. Crashes and failing system calls are tests/crash's part. */
#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/durable.h"
#include "base/io.h"

#define NOBODY 65534

static struct {
    char folder[64];
    char path[512];
    struct durable_file file;
} fixture;

static const char *in_folder(const char *name)
{
    snprintf(fixture.path, sizeof(fixture.path), "%s/%s", fixture.folder, name);
    return fixture.path;
}

static int make_folder(void **state)
{
    (void)state;
    fixture.file = (struct durable_file){ .fd = -1, .dir_fd = -1 };
    strcpy(fixture.folder, "/tmp/stasis-durable-XXXXXX");
    return mkdtemp(fixture.folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[128];

    (void)state;
    durable_abort(&fixture.file);
    snprintf(command, sizeof(command), "rm -rf %s", fixture.folder);
    return system(command);
}

static unsigned names_in_folder(void)
{
    DIR *dir = opendir(fixture.folder);
    unsigned count = 0;

    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count - 2; /* "." and ".." */
}

static void put_file(const char *name, const char *text)
{
    FILE *file = fopen(in_folder(name), "w");

    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void assert_holds(const char *name, const char *text)
{
    struct stasis_error err = { 0 };
    uint8_t *data = NULL;
    size_t size;

    assert_stasis_ok(io_read_file(in_folder(name), 1000, &data, &size, &err), &err);
    assert_string_equal((const char *)data, text);
    free(data);
}

static void begin(const char *path)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(durable_begin(&fixture.file, path, &err), &err);
    assert_stasis_ok(io_write_at(fixture.file.fd, "new", 3, 0, &err), &err);
}

static void commit(void)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(durable_commit(&fixture.file, &err), &err);
    durable_abort(&fixture.file);
}

static void commit_makes_a_new_file(void **state)
{
    (void)state;
    begin(in_folder("name"));
    assert_int_not_equal(access(in_folder("name"), F_OK), 0); /* not before */
    commit();
    assert_holds("name", "new");
    assert_int_equal(names_in_folder(), 1);
}

static void commit_replaces_the_old_file(void **state)
{
    (void)state;
    put_file("name", "the old one");
    begin(in_folder("name"));
    assert_holds("name", "the old one");
    commit();
    assert_holds("name", "new");
    assert_int_equal(names_in_folder(), 1);
}

static void abort_leaves_no_trace(void **state)
{
    (void)state;
    put_file("name", "the old one");
    begin(in_folder("name"));
    assert_int_equal(names_in_folder(), 2);
    durable_abort(&fixture.file);
    assert_holds("name", "the old one");
    assert_int_equal(names_in_folder(), 1);
    assert_int_equal(fixture.file.fd, -1);
    durable_abort(&fixture.file); /* a second time does nothing */
}

static void abort_keeps_errno(void **state)
{
    (void)state;
    begin(in_folder("name"));
    errno = ENOSPC;
    durable_abort(&fixture.file);
    assert_int_equal(errno, ENOSPC);
}

static void the_temporary_file_is_private_and_hidden(void **state)
{
    struct stat st;

    (void)state;
    umask(0);
    begin(in_folder("name"));
    assert_int_equal(fstat(fixture.file.fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_memory_equal(fixture.file.tmp_name, ".name.", 6);
    assert_string_equal(fixture.file.tmp_name + strlen(fixture.file.tmp_name) - 4, ".tmp");
    assert_int_equal(strlen(fixture.file.tmp_name), strlen(".name.") + 12 + strlen(".tmp"));
    assert_int_equal(fcntl(fixture.file.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

static void two_writers_of_one_name_do_not_meet(void **state)
{
    struct durable_file other = { .fd = -1, .dir_fd = -1 };
    struct stasis_error err = { 0 };

    (void)state;
    begin(in_folder("name"));
    assert_stasis_ok(durable_begin(&other, in_folder("name"), &err), &err);
    assert_string_not_equal(other.tmp_name, fixture.file.tmp_name);
    assert_stasis_ok(durable_commit(&other, &err), &err);
    durable_abort(&other);
    assert_holds("name", "");
    commit();
    assert_holds("name", "new");
    assert_int_equal(names_in_folder(), 1);
}

static void a_relative_path_is_relative_to_here(void **state)
{
    char before[PATH_MAX];

    (void)state;
    assert_non_null(getcwd(before, sizeof(before)));
    assert_int_equal(chdir(fixture.folder), 0);
    begin("name");
    assert_int_equal(chdir(before), 0); /* the directory is held, not its name */
    commit();
    assert_holds("name", "new");
}

static void the_longest_name_has_room_for_its_temporary_one(void **state)
{
    char name[NAME_MAX + 2];

    (void)state;
    memset(name, 'n', NAME_MAX);
    name[NAME_MAX] = '\0';
    begin(in_folder(name));
    assert_int_equal(strlen(fixture.file.tmp_name), NAME_MAX);
    commit();
    assert_holds(name, "new");
}

static void a_long_name_is_not_cut_within_a_character(void **state)
{
    char name[NAME_MAX + 1] = "x";

    (void)state;
    while (strlen(name) + 2 <= NAME_MAX)
        strcat(name, "\xc3\xa4"); /* a with two dots, two bytes */
    begin(in_folder(name));
    for (const char *c = fixture.file.tmp_name; *c; c++) {
        if (*c == '\xc3')
            assert_int_equal(c[1], '\xa4');
    }
    commit();
    assert_holds(name, "new");
}

static void assert_refused(const char *path, enum stasis_code code)
{
    const unsigned names = names_in_folder();
    struct stasis_error err = { 0 };

    assert_stasis_fails(durable_begin(&fixture.file, path, &err), &err, code);
    durable_abort(&fixture.file);
    assert_int_equal(names_in_folder(), names);
}

static void a_name_that_is_too_long_is_refused(void **state)
{
    char name[NAME_MAX + 2];

    (void)state;
    memset(name, 'n', NAME_MAX + 1);
    name[NAME_MAX + 1] = '\0';
    assert_refused(in_folder(name), STASIS_ERR_INVALID_ARGUMENT);
}

static void an_empty_path_is_refused(void **state)
{
    (void)state;
    assert_refused("", STASIS_ERR_INVALID_ARGUMENT);
}

static void a_directory_is_refused(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in_folder("sub"), 0700), 0);
    assert_refused(in_folder("sub"), STASIS_ERR_NOT_REGULAR);
    assert_refused(in_folder("sub/"), STASIS_ERR_NOT_REGULAR);
    assert_refused(in_folder("sub/."), STASIS_ERR_NOT_REGULAR);
    assert_refused(in_folder("sub/.."), STASIS_ERR_NOT_REGULAR);
    assert_refused(in_folder("none/"), STASIS_ERR_NOT_REGULAR);
    assert_refused("/", STASIS_ERR_NOT_REGULAR);
    assert_refused(".", STASIS_ERR_NOT_REGULAR);
}

static void fifos_sockets_and_devices_are_refused(void **state)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    assert_int_equal(mkfifo(in_folder("fifo"), 0600), 0);
    assert_refused(in_folder("fifo"), STASIS_ERR_NOT_REGULAR);
    assert_true(strlen(in_folder("socket")) < sizeof(address.sun_path));
    strcpy(address.sun_path, in_folder("socket"));
    assert_int_equal(bind(server, (struct sockaddr *)&address, sizeof(address)), 0);
    close(server);
    assert_refused(in_folder("socket"), STASIS_ERR_NOT_REGULAR);
    assert_refused("/dev/null", STASIS_ERR_NOT_REGULAR);
    assert_int_equal(symlink("fifo", in_folder("link")), 0);
    assert_refused(in_folder("link"), STASIS_ERR_NOT_REGULAR);
}

static void a_missing_directory_is_not_found(void **state)
{
    (void)state;
    assert_refused(in_folder("none/name"), STASIS_ERR_NOT_FOUND);
    put_file("file", "");
    assert_refused(in_folder("file/name"), STASIS_ERR_NOT_FOUND);
}

static void a_symlink_is_followed_to_the_file_it_names(void **state)
{
    struct stat st;

    (void)state;
    assert_int_equal(mkdir(in_folder("sub"), 0700), 0);
    put_file("sub/real", "the old one");
    assert_int_equal(symlink("sub/real", in_folder("link")), 0);
    begin(in_folder("link"));
    commit();
    assert_holds("sub/real", "new");
    assert_int_equal(lstat(in_folder("link"), &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(names_in_folder(), 2);
}

static void a_symlink_to_nothing_is_refused(void **state)
{
    (void)state;
    assert_int_equal(symlink("none", in_folder("dangling")), 0);
    assert_refused(in_folder("dangling"), STASIS_ERR_NOT_REGULAR);
    assert_int_equal(symlink("circle", in_folder("circle")), 0);
    assert_refused(in_folder("circle"), STASIS_ERR_INVALID_ARGUMENT);
}

static void a_destination_that_became_a_directory_survives(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    begin(in_folder("name"));
    assert_int_equal(mkdir(in_folder("name"), 0700), 0);
    assert_stasis_fails(durable_commit(&fixture.file, &err), &err, STASIS_ERR_NOT_REGULAR);
    durable_abort(&fixture.file);
    assert_int_equal(names_in_folder(), 1);
}

static void running_out_of_descriptors_is_reported(void **state)
{
    struct rlimit before, none;
    struct stasis_error err = { 0 };
    int result;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    in_folder("name");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    result = durable_begin(&fixture.file, fixture.path, &err);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_stasis_fails(result, &err, STASIS_ERR_IO);
    assert_int_equal(err.errnum, EMFILE);
    assert_int_equal(names_in_folder(), 0);
}

/* In a child, as nobody when we are root, to whom no directory is closed. */
static int begin_as_nobody(const char *path)
{
    const pid_t child = fork();
    int status;

    if (child == 0) {
        struct stasis_error err = { 0 };

        if (geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY) < 0)
            _exit(255);
        if (durable_begin(&fixture.file, path, &err) == 0)
            err.code = STASIS_OK;
        durable_abort(&fixture.file);
        _exit((int)err.code);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_directory_closed_to_us_is_permission_denied(void **state)
{
    (void)state;
    assert_int_equal(chmod(fixture.folder, 0777), 0);
    assert_int_equal(begin_as_nobody(in_folder("name")), 0);
    assert_int_equal(chmod(fixture.folder, 0555), 0);
    assert_int_equal(begin_as_nobody(in_folder("name")), STASIS_ERR_PERMISSION);
    assert_int_equal(chmod(fixture.folder, 0700), 0);
    assert_int_equal(names_in_folder(), 0);
}

/* In a child with mounts of its own: 0, or the code that durable_begin() or a write failed with;
 * 254 when this system lets us mount nothing. */
static int save_on_private_mount(unsigned long flags, const char *options, size_t size)
{
    static char data[1 << 20];
    struct stasis_error err = { 0 };

    if (unshare(CLONE_NEWNS | (geteuid() ? CLONE_NEWUSER : 0)) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", fixture.folder, "tmpfs", flags, options) < 0)
        return 254;
    if (durable_begin(&fixture.file, in_folder("name"), &err) < 0 ||
        io_write_at(fixture.file.fd, data, size, 0, &err) < 0) {
        durable_abort(&fixture.file);
        return names_in_folder() == 0 ? (int)err.code : 253;
    }
    return 0;
}

static int in_child(unsigned long flags, const char *options, size_t size)
{
    const pid_t child = fork();
    int status;

    if (child == 0)
        _exit(save_on_private_mount(flags, options, size));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 254)
        unit_skip("not allowed to mount a file system here");
    return WEXITSTATUS(status);
}

static void a_read_only_file_system_is_read_only(void **state)
{
    (void)state;
    assert_int_equal(in_child(MS_RDONLY, "size=1m", 100), STASIS_ERR_READ_ONLY);
}

static void a_full_file_system_is_no_space_and_left_clean(void **state)
{
    (void)state;
    assert_int_equal(in_child(0, "size=64k", 1 << 20), STASIS_ERR_NO_SPACE);
    assert_int_equal(in_child(0, "size=4m", 1 << 20), 0); /* the same with room */
}

#define FOLDER_TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        FOLDER_TEST(commit_makes_a_new_file),
        FOLDER_TEST(commit_replaces_the_old_file),
        FOLDER_TEST(abort_leaves_no_trace),
        FOLDER_TEST(abort_keeps_errno),
        FOLDER_TEST(the_temporary_file_is_private_and_hidden),
        FOLDER_TEST(two_writers_of_one_name_do_not_meet),
        FOLDER_TEST(a_relative_path_is_relative_to_here),
        FOLDER_TEST(the_longest_name_has_room_for_its_temporary_one),
        FOLDER_TEST(a_long_name_is_not_cut_within_a_character),
        FOLDER_TEST(a_name_that_is_too_long_is_refused),
        FOLDER_TEST(an_empty_path_is_refused),
        FOLDER_TEST(a_directory_is_refused),
        FOLDER_TEST(fifos_sockets_and_devices_are_refused),
        FOLDER_TEST(a_missing_directory_is_not_found),
        FOLDER_TEST(a_symlink_is_followed_to_the_file_it_names),
        FOLDER_TEST(a_symlink_to_nothing_is_refused),
        FOLDER_TEST(a_destination_that_became_a_directory_survives),
        FOLDER_TEST(running_out_of_descriptors_is_reported),
        FOLDER_TEST(a_directory_closed_to_us_is_permission_denied),
        FOLDER_TEST(a_read_only_file_system_is_read_only),
        FOLDER_TEST(a_full_file_system_is_no_space_and_left_clean),
    };
    return unit_run(tests);
}
