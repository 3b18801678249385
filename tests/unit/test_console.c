/* Goal:   bytes pass between the serial port and whatever is at the other end in order; what cannot
 *         go on is counted; nothing at the other end blocks, kills or busies the machine.
 * Method: pipes, FIFOs, files and sockets with ends that are slow, full, gone, or closed half-way.
 *         Terminals have a test of their own. */
#include "device_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "microvm/console.h"

#define BUFFERED 262144u /* bytes that a console keeps for an end that does not take them */

struct bench {
    char dir[64], path[96], spec[128];
    struct console *console;
    int saved_stdin, saved_stdout;

    pthread_mutex_t lock; /* below: what the guest has received */
    uint8_t received[300000];
    size_t received_count;
    size_t room; /* bytes it takes before it says no */
};

static int bench_new(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));

    if (!bench)
        return -1;
    strcpy(bench->dir, "/tmp/test_console.XXXXXX");
    assert_non_null(mkdtemp(bench->dir));
    snprintf(bench->path, sizeof(bench->path), "%s/end", bench->dir);
    pthread_mutex_init(&bench->lock, NULL);
    fflush(stdout);
    bench->saved_stdin = dup(0);
    bench->saved_stdout = dup(1);
    *state = bench;
    return 0;
}

static int bench_free(void **state)
{
    struct bench *bench = *state;

    console_close(bench->console);
    dup2(bench->saved_stdin, 0);
    dup2(bench->saved_stdout, 1);
    close(bench->saved_stdin);
    close(bench->saved_stdout);
    unlink(bench->path);
    rmdir(bench->dir);
    pthread_mutex_destroy(&bench->lock);
    free(bench);
    return 0;
}

static void open_console(struct bench *bench, const char *kind)
{
    struct stasis_error err = { 0 };

    snprintf(bench->spec, sizeof(bench->spec), "%s%s", kind, strchr(kind, ':') ? bench->path : "");
    assert_stasis_ok(console_open(bench->spec, NULL, NULL, &bench->console, &err), &err);
}

static void close_console(struct bench *bench)
{
    console_close(bench->console);
    bench->console = NULL;
}

static void refuse(const char *spec, enum stasis_code code)
{
    struct console *console = NULL;
    struct stasis_error err = { 0 };

    assert_stasis_fails(console_open(spec, NULL, NULL, &console, &err), &err, code);
    assert_null(console);
}

static void say(struct bench *bench, const char *text)
{
    console_write(bench->console, (const uint8_t *)text, strlen(text));
}

/* Byte `at` of an endless stream in which a lost, doubled or moved byte shows. */
static uint8_t stream_byte(size_t at)
{
    return (uint8_t)((at * 2654435761u) >> 13);
}

static void write_stream(struct bench *bench, size_t size, size_t piece)
{
    uint8_t bytes[4096];

    for (size_t at = 0; at < size; at += piece) {
        for (size_t i = 0; i < piece; i++)
            bytes[i] = stream_byte(at + i);
        console_write(bench->console, bytes, piece);
    }
}

/* Reads until `size` bytes or the end; each is checked. How many there were. */
static size_t read_stream(int fd, size_t size)
{
    size_t at = 0;

    while (at < size) {
        uint8_t bytes[4096];
        const size_t want = size - at < sizeof(bytes) ? size - at : sizeof(bytes);
        const ssize_t got = read(fd, bytes, want);

        assert_true(got >= 0);
        if (got == 0)
            break;
        for (ssize_t i = 0; i < got; i++)
            assert_int_equal(bytes[i], stream_byte(at + (size_t)i));
        at += (size_t)got;
    }
    return at;
}

static void assert_reads(int fd, const char *text)
{
    char got[256] = "";
    size_t count = 0;

    while (count < strlen(text)) {
        struct pollfd waits = { .fd = fd, .events = POLLIN };
        ssize_t step;

        assert_int_equal(poll(&waits, 1, 20000), 1);
        step = read(fd, got + count, strlen(text) - count);
        assert_true(step > 0);
        count += (size_t)step;
    }
    assert_string_equal(got, text);
}

static uint64_t cpu_us(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* A thread that spins would use all of the 300 ms. */
static void assert_idle(void)
{
    const struct timespec nap = { .tv_nsec = 300000000 };
    const uint64_t before = cpu_us();

    nanosleep(&nap, NULL);
    assert_true(cpu_us() - before < 100000);
}

/* --- the guest's side of input --------------------------------------------------------------- */

static size_t take_input(void *arg, const uint8_t *bytes, size_t size)
{
    struct bench *bench = arg;
    size_t take;

    pthread_mutex_lock(&bench->lock);
    take = size < bench->room ? size : bench->room;
    assert_true(bench->received_count + take <= sizeof(bench->received));
    memcpy(bench->received + bench->received_count, bytes, take);
    bench->received_count += take;
    bench->room -= take;
    pthread_mutex_unlock(&bench->lock);
    return take;
}

static void make_room(struct bench *bench, size_t room)
{
    pthread_mutex_lock(&bench->lock);
    bench->room = room;
    pthread_mutex_unlock(&bench->lock);
    console_input_ready(bench->console);
}

static bool is_room_used(void *arg)
{
    struct bench *bench = arg;
    bool used;

    pthread_mutex_lock(&bench->lock);
    used = bench->room == 0;
    pthread_mutex_unlock(&bench->lock);
    return used;
}

static size_t received_count(struct bench *bench)
{
    size_t count;

    pthread_mutex_lock(&bench->lock);
    count = bench->received_count;
    pthread_mutex_unlock(&bench->lock);
    return count;
}

static void assert_receives(struct bench *bench, const char *text)
{
    make_room(bench, strlen(text));
    wait_until(is_room_used, bench, text);
    pthread_mutex_lock(&bench->lock);
    assert_memory_equal(bench->received, text, strlen(text));
    bench->received_count = 0;
    pthread_mutex_unlock(&bench->lock);
}

/* --- what to open --------------------------------------------------------------------------- */

static void other_words_and_empty_paths_are_refused(void **state)
{
    (void)state;
    refuse("", STASIS_ERR_INVALID_ARGUMENT);
    refuse("tty", STASIS_ERR_INVALID_ARGUMENT);
    refuse("stdio2", STASIS_ERR_INVALID_ARGUMENT);
    refuse("none:", STASIS_ERR_INVALID_ARGUMENT);
    refuse("file", STASIS_ERR_INVALID_ARGUMENT);
    refuse("file:", STASIS_ERR_INVALID_ARGUMENT);
    refuse("socket:", STASIS_ERR_INVALID_ARGUMENT);
}

static void none_drops_everything(void **state)
{
    struct bench *bench = *state;

    open_console(bench, "none");
    console_set_input(bench->console, take_input, bench);
    console_input_ready(bench->console);
    write_stream(bench, 1000, 10);
    assert_int_equal(console_dropped_size(bench->console), 1000);
}

/* --- files ---------------------------------------------------------------------------------- */

static void a_file_is_private_and_is_added_to(void **state)
{
    struct bench *bench = *state;
    struct stat st;
    int fd;

    open_console(bench, "file:");
    say(bench, "one ");
    close_console(bench);
    assert_int_equal(stat(bench->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    open_console(bench, "file:");
    say(bench, "two");
    fd = open(bench->path, O_RDONLY | O_CLOEXEC); /* it is there at once, without a flush */
    assert_reads(fd, "one two");
    close(fd);
    assert_int_equal(console_dropped_size(bench->console), 0);
}

static void what_cannot_be_written_to_is_refused(void **state)
{
    struct bench *bench = *state;
    char spec[200];

    snprintf(spec, sizeof(spec), "file:%s/none/file", bench->dir);
    refuse(spec, STASIS_ERR_NOT_FOUND);
    snprintf(spec, sizeof(spec), "file:%s", bench->dir);
    refuse(spec, STASIS_ERR_NOT_REGULAR);
    assert_int_equal(mkfifo(bench->path, 0600), 0);
    snprintf(spec, sizeof(spec), "file:%s", bench->path);
    refuse(spec, STASIS_ERR_IO); /* at once, though nobody reads from the FIFO */
}

static void a_full_file_drops_and_counts(void **state)
{
    struct bench *bench = *state;
    const struct rlimit limit = { .rlim_cur = 1000, .rlim_max = RLIM_INFINITY };
    struct rlimit before;
    struct stat st;

    open_console(bench, "file:");
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    write_stream(bench, 4096, 512);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(stat(bench->path, &st), 0);
    assert_int_equal(st.st_size, 1000);
    assert_int_equal(console_dropped_size(bench->console), 3096);
}

static void a_fifo_gets_everything_in_order(void **state)
{
    struct bench *bench = *state;
    int fd;

    assert_int_equal(mkfifo(bench->path, 0600), 0);
    fd = open(bench->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    open_console(bench, "file:");
    assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
    write_stream(bench, 200000, 1000);
    assert_int_equal(read_stream(fd, 200000), 200000);
    close(fd);
    assert_int_equal(console_dropped_size(bench->console), 0);
}

static bool has_dropped(void *arg)
{
    struct bench *bench = arg;

    say(bench, "x");
    return console_dropped_size(bench->console) > 0;
}

static void a_reader_that_goes_away_kills_nobody(void **state)
{
    struct bench *bench = *state;
    int fd;

    assert_int_equal(mkfifo(bench->path, 0600), 0);
    fd = open(bench->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    open_console(bench, "file:");
    close(fd);
    wait_until(has_dropped, bench, "the broken pipe"); /* SIGPIPE would have ended the test */
    assert_idle();
}

/* --- stdio ---------------------------------------------------------------------------------- */

struct pipes {
    int to_stdin, from_stdout;
};

/* Pipes in the place of the process's own stdin and stdout. */
static struct pipes use_pipes(void)
{
    int in[2], out[2];

    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    dup2(in[0], 0);
    dup2(out[1], 1);
    close(in[0]);
    close(out[1]);
    return (struct pipes){ in[1], out[0] };
}

static void stdio_moves_bytes_both_ways(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();

    open_console(bench, "stdio");
    console_set_input(bench->console, take_input, bench);
    say(bench, "login: ");
    assert_reads(pipes.from_stdout, "login: ");
    assert_int_equal(write(pipes.to_stdin, "root\n\x01x\x01\x01", 9), 9);
    assert_receives(bench, "root\n\x01x\x01\x01"); /* no terminal: no key means anything */
    close(pipes.to_stdin);
    close(pipes.from_stdout);
}

static void stdio_leaves_the_shells_descriptors_blocking(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();

    open_console(bench, "stdio");
    assert_int_equal(fcntl(0, F_GETFL) & O_NONBLOCK, 0);
    assert_int_equal(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
    close_console(bench);
    assert_int_equal(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
    close(pipes.to_stdin);
    close(pipes.from_stdout);
}

static void input_waits_until_the_guest_has_room(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();
    uint8_t bytes[40000];
    size_t sent = 0;

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = stream_byte(i);
    open_console(bench, "stdio");
    assert_int_equal(fcntl(pipes.to_stdin, F_SETFL, O_NONBLOCK), 0);
    console_set_input(bench->console, take_input, bench);
    while (received_count(bench) < sizeof(bytes)) {
        const ssize_t step = write(pipes.to_stdin, bytes + sent, sizeof(bytes) - sent);
        const size_t left = sizeof(bytes) - received_count(bench);

        sent += step > 0 ? (size_t)step : 0;
        make_room(bench, left < 501 ? left : 501);
        wait_until(is_room_used, bench, "input");
    }
    assert_memory_equal(bench->received, bytes, sizeof(bytes));
    assert_int_equal(bench->received_count, sizeof(bytes));
    close(pipes.to_stdin);
    close(pipes.from_stdout);
}

static void input_before_there_is_a_guest_is_kept(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();

    open_console(bench, "stdio");
    assert_int_equal(write(pipes.to_stdin, "early", 5), 5);
    assert_idle();
    console_set_input(bench->console, take_input, bench);
    assert_receives(bench, "early");
    console_set_input(bench->console, NULL, NULL); /* the machine is being reset */
    assert_int_equal(write(pipes.to_stdin, "between", 7), 7);
    console_set_input(bench->console, take_input, bench);
    assert_receives(bench, "between");
    close(pipes.to_stdin);
    close(pipes.from_stdout);
}

static void the_end_of_input_is_no_reason_to_spin(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();

    open_console(bench, "stdio");
    console_set_input(bench->console, take_input, bench);
    assert_int_equal(write(pipes.to_stdin, "last", 4), 4);
    close(pipes.to_stdin);
    assert_receives(bench, "last");
    assert_idle();
    say(bench, "still here");
    assert_reads(pipes.from_stdout, "still here");
    close(pipes.from_stdout);
}

static void input_that_nobody_takes_is_no_reason_to_spin(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();
    static const uint8_t much[20000];

    open_console(bench, "stdio");
    console_set_input(bench->console, take_input, bench);
    assert_int_equal(write(pipes.to_stdin, much, sizeof(much)), sizeof(much));
    close(pipes.to_stdin);
    assert_idle();
    make_room(bench, sizeof(much));
    wait_until(is_room_used, bench, "all of it");
    close(pipes.from_stdout);
}

static void a_closed_stdin_and_stdout_are_no_input_and_no_output(void **state)
{
    struct bench *bench = *state;

    close(0);
    close(1);
    open_console(bench, "stdio");
    say(bench, "x");
    assert_int_equal(console_dropped_size(bench->console), 1);
    close_console(bench);
    assert_int_equal(open("/dev/null", O_RDWR), 0); /* else the next files get their numbers */
    assert_int_equal(dup(0), 1);
}

static void dev_null_is_an_end_like_any_other(void **state)
{
    struct bench *bench = *state;
    const int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    dup2(fd, 0);
    dup2(fd, 1);
    close(fd);
    open_console(bench, "stdio");
    console_set_input(bench->console, take_input, bench);
    assert_idle();
    say(bench, "x");
    close_console(bench);
}

static void output_redirected_to_a_file_goes_where_the_shell_left_it(void **state)
{
    struct bench *bench = *state;
    int fd = open(bench->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_int_equal(write(fd, "before ", 7), 7);
    dup2(fd, 1);
    open_console(bench, "stdio");
    say(bench, "console ");
    close_console(bench);
    assert_int_equal(write(1, "after", 5), 5);
    lseek(fd, 0, SEEK_SET);
    assert_reads(fd, "before console after");
    close(fd);
}

static void a_reader_that_is_slow_costs_bytes_and_never_time(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();
    const size_t written = 2000000;
    const uint64_t deadline = deadline_in_ms(10000);
    size_t got;

    open_console(bench, "stdio");
    write_stream(bench, written, 1000);
    assert_true(deadline_in_ms(0) < deadline);
    assert_true(console_dropped_size(bench->console) > 0);
    got = written - console_dropped_size(bench->console);
    assert_true(got >= BUFFERED);
    assert_int_equal(read_stream(pipes.from_stdout, BUFFERED), BUFFERED);
    close(pipes.to_stdin);
    close(pipes.from_stdout);
}

static bool has_bytes(int fd)
{
    struct pollfd waits = { .fd = fd, .events = POLLIN };

    return poll(&waits, 1, 0) == 1;
}

static void a_flush_waits_for_output_but_not_for_ever(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();
    const uint64_t deadline = deadline_in_ms(10000);

    open_console(bench, "stdio");
    for (unsigned i = 0; i < 500; i++) {
        char byte;

        say(bench, "x");
        console_flush(bench->console, 20000);
        assert_true(has_bytes(pipes.from_stdout)); /* it is in the pipe, not on its way */
        assert_int_equal(read(pipes.from_stdout, &byte, 1), 1);
    }
    write_stream(bench, 200000, 1000);
    console_flush(bench->console, 1050); /* nobody reads */
    assert_true(deadline_in_ms(0) < deadline);
    close(pipes.to_stdin);
    close(pipes.from_stdout);
}

static void *read_late(void *arg)
{
    const struct timespec nap = { .tv_nsec = 30000000 };

    nanosleep(&nap, NULL);
    return (void *)read_stream(*(int *)arg, SIZE_MAX);
}

static void closing_flushes_what_waits(void **state)
{
    struct bench *bench = *state;
    struct pipes pipes = use_pipes();
    pthread_t reader;
    void *got;

    open_console(bench, "stdio");
    write_stream(bench, 200000, 1000);
    assert_int_equal(pthread_create(&reader, NULL, read_late, &pipes.from_stdout), 0);
    close_console(bench);
    dup2(bench->saved_stdout, 1); /* the last writer: the reader sees the end */
    assert_int_equal(pthread_join(reader, &got), 0);
    assert_int_equal((size_t)got, 200000);
    close(pipes.to_stdin);
    close(pipes.from_stdout);
}

static void closing_does_not_wait_for_a_reader_that_does_not_read(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();
    const uint64_t deadline = deadline_in_ms(5000);

    open_console(bench, "stdio");
    write_stream(bench, 200000, 1000);
    close_console(bench);
    assert_true(deadline_in_ms(0) < deadline);
    close(pipes.to_stdin);
    close(pipes.from_stdout);
}

/* --- sockets -------------------------------------------------------------------------------- */

static int new_socket(const struct bench *bench, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    memcpy(address->sun_path, bench->path, strlen(bench->path) + 1);
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int connect_client(const struct bench *bench)
{
    struct sockaddr_un address;
    const int fd = new_socket(bench, &address);

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* A client that the console has taken: what it sends arrives. */
static int join_client(struct bench *bench)
{
    const int fd = connect_client(bench);

    assert_int_equal(write(fd, "!", 1), 1);
    assert_receives(bench, "!");
    return fd;
}

static void open_socket(struct bench *bench)
{
    open_console(bench, "socket:");
    console_set_input(bench->console, take_input, bench);
}

static void a_client_talks_and_listens(void **state)
{
    struct bench *bench = *state;
    struct stat st;
    int fd;

    open_socket(bench);
    assert_int_equal(stat(bench->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    say(bench, "into the void");
    assert_int_equal(console_dropped_size(bench->console), 13);
    fd = join_client(bench);
    say(bench, "login: ");
    assert_reads(fd, "login: ");
    assert_int_equal(write(fd, "root\n", 5), 5);
    assert_receives(bench, "root\n");
    close(fd);
    close_console(bench);
    assert_int_equal(access(bench->path, F_OK), -1);
}

static void clients_are_served_one_after_the_other(void **state)
{
    struct bench *bench = *state;
    int first, second;

    open_socket(bench);
    first = join_client(bench);
    second = connect_client(bench);
    assert_int_equal(write(second, "second", 6), 6);
    say(bench, "to the first");
    assert_reads(first, "to the first");
    assert_int_equal(received_count(bench), 0);
    close(first);
    assert_receives(bench, "second");
    say(bench, "to the second");
    assert_reads(second, "to the second");
    close(second);
    assert_idle();
    close(join_client(bench));
}

static void a_client_that_only_listens_still_hears(void **state)
{
    struct bench *bench = *state;
    int fd;

    open_socket(bench);
    fd = join_client(bench);
    assert_int_equal(write(fd, "bye", 3), 3);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    assert_receives(bench, "bye");
    assert_idle();
    say(bench, "and more");
    assert_reads(fd, "and more");
    close(fd);
    close(join_client(bench));
}

static void a_client_that_hangs_up_while_nobody_takes_its_input_is_no_reason_to_spin(void **state)
{
    struct bench *bench = *state;
    static const uint8_t much[20000];
    int fd;

    open_socket(bench);
    fd = join_client(bench);
    assert_int_equal(write(fd, much, sizeof(much)), sizeof(much));
    close(fd);
    assert_idle();
    make_room(bench, sizeof(much));
    wait_until(is_room_used, bench, "all of it");
    bench->received_count = 0; /* nobody sends now */
    close(join_client(bench));
}

static void a_client_that_does_not_read_costs_bytes_and_never_time(void **state)
{
    struct bench *bench = *state;
    int fd;

    open_socket(bench);
    fd = join_client(bench);
    write_stream(bench, 2000000, 1000);
    assert_true(console_dropped_size(bench->console) > 0);
    assert_int_equal(read_stream(fd, BUFFERED), BUFFERED);
    close(fd);
}

static void a_path_too_long_for_a_socket_is_refused(void **state)
{
    char spec[200] = "socket:/tmp/";
    struct bench *bench = *state;

    memset(spec + strlen(spec), 'x', 108);
    refuse(spec, STASIS_ERR_INVALID_ARGUMENT);
    snprintf(spec, sizeof(spec), "socket:%s/none/socket", bench->dir);
    refuse(spec, STASIS_ERR_NOT_FOUND);
}

static void what_is_there_is_not_taken_away(void **state)
{
    struct bench *bench = *state;
    char spec[128];
    struct stat st;
    int fd;

    snprintf(spec, sizeof(spec), "socket:%s", bench->path);
    fd = open(bench->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    close(fd);
    refuse(spec, STASIS_ERR_EXISTS);
    assert_int_equal(stat(bench->path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
    unlink(bench->path);

    open_socket(bench);
    refuse(spec, STASIS_ERR_EXISTS); /* somebody answers */
    close(join_client(bench));
}

static void a_dead_socket_is_replaced(void **state)
{
    struct bench *bench = *state;
    struct sockaddr_un address;
    const int fd = new_socket(bench, &address);

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    open_socket(bench);
    close(join_client(bench));
}

static void closing_leaves_what_another_has_put_there(void **state)
{
    struct bench *bench = *state;
    int fd;

    open_socket(bench);
    unlink(bench->path);
    fd = open(bench->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    close(fd);
    close_console(bench);
    assert_int_equal(access(bench->path, F_OK), 0);
}

/* --- many writers --------------------------------------------------------------------------- */

static void *write_many(void *arg)
{
    struct bench *bench = arg;

    for (unsigned i = 0; i < 2000; i++)
        say(bench, "0123456789\n");
    return NULL;
}

static void writers_at_once_do_not_tear_each_others_writes(void **state)
{
    struct bench *bench = *state;
    const struct pipes pipes = use_pipes();
    pthread_t threads[2];
    char line[12] = "";

    open_console(bench, "stdio");
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, bench), 0);
    for (unsigned i = 0; i < 4000; i++) {
        for (size_t at = 0; at < 11;) {
            const ssize_t step = read(pipes.from_stdout, line + at, 11 - at);

            assert_true(step > 0);
            at += (size_t)step;
        }
        assert_string_equal(line, "0123456789\n");
    }
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(console_dropped_size(bench->console), 0);
    close(pipes.to_stdin);
    close(pipes.from_stdout);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_new, bench_free)
    static const struct CMUnitTest tests[] = {
        CASE(other_words_and_empty_paths_are_refused),
        CASE(none_drops_everything),
        CASE(a_file_is_private_and_is_added_to),
        CASE(what_cannot_be_written_to_is_refused),
        CASE(a_full_file_drops_and_counts),
        CASE(a_fifo_gets_everything_in_order),
        CASE(a_reader_that_goes_away_kills_nobody),
        CASE(stdio_moves_bytes_both_ways),
        CASE(stdio_leaves_the_shells_descriptors_blocking),
        CASE(input_waits_until_the_guest_has_room),
        CASE(input_before_there_is_a_guest_is_kept),
        CASE(the_end_of_input_is_no_reason_to_spin),
        CASE(input_that_nobody_takes_is_no_reason_to_spin),
        CASE(a_closed_stdin_and_stdout_are_no_input_and_no_output),
        CASE(dev_null_is_an_end_like_any_other),
        CASE(output_redirected_to_a_file_goes_where_the_shell_left_it),
        CASE(a_reader_that_is_slow_costs_bytes_and_never_time),
        CASE(a_flush_waits_for_output_but_not_for_ever),
        CASE(closing_flushes_what_waits),
        CASE(closing_does_not_wait_for_a_reader_that_does_not_read),
        CASE(a_client_talks_and_listens),
        CASE(clients_are_served_one_after_the_other),
        CASE(a_client_that_only_listens_still_hears),
        CASE(a_client_that_hangs_up_while_nobody_takes_its_input_is_no_reason_to_spin),
        CASE(a_client_that_does_not_read_costs_bytes_and_never_time),
        CASE(a_path_too_long_for_a_socket_is_refused),
        CASE(what_is_there_is_not_taken_away),
        CASE(a_dead_socket_is_replaced),
        CASE(closing_leaves_what_another_has_put_there),
        CASE(writers_at_once_do_not_tear_each_others_writes),
    };
#undef CASE

    return unit_run(tests);
}
