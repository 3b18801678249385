/* Goal:   on a terminal every key reaches the guest, Ctrl-A commands the console, and the terminal has
 *         its mode back whichever way the program ends.
 * Method: the console runs in a child process on a pseudo terminal of its own; the test types, reads the
 *         screen, and looks at the terminal's mode from the other side. */
#include "device_fixture.h"

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <utmp.h>

#include "microvm/console.h"

#define EXIT_QUIT 42    /* Ctrl-A x was seen */
#define EXIT_NO_OPEN 43 /* the console did not open */

/* --- the child ------------------------------------------------------------------------------ */

static struct console *child_console;
static int quit_pipe[2];

static void on_quit(void *arg)
{
    (void)arg;
    if (write(quit_pipe[1], "q", 1) < 0)
        _exit(1);
}

/* Shows what it gets as hex, so that each key is told apart from what a terminal makes of it. */
static size_t show_input(void *arg, const uint8_t *bytes, size_t size)
{
    (void)arg;
    for (size_t i = 0; i < size; i++) {
        char text[8];
        const int length = snprintf(text, sizeof(text), "<%02x>", bytes[i]);

        console_write(child_console, (const uint8_t *)text, (size_t)length);
    }
    return size;
}

static size_t take_nothing(void *arg, const uint8_t *bytes, size_t size)
{
    (void)arg;
    (void)bytes;
    (void)size;
    return 0;
}

/* Ends by Ctrl-A x; with or without closing the console first. */
static void child_main(console_input_fn *input, bool closes)
{
    struct stasis_error err = { 0 };
    char byte;

    signal(SIGHUP, SIG_IGN);
    if (pipe(quit_pipe) < 0 || console_open("stdio", on_quit, NULL, &child_console, &err) < 0)
        _exit(EXIT_NO_OPEN);
    console_set_input(child_console, input, NULL);
    console_write(child_console, (const uint8_t *)"ready\n", 6);
    if (read(quit_pipe[0], &byte, 1) != 1)
        _exit(1);
    if (closes)
        console_close(child_console);
    exit(EXIT_QUIT);
}

/* --- bench ---------------------------------------------------------------------------------- */

struct bench {
    int master;
    pid_t child;
    struct termios before;
};

static int bench_new(void **state)
{
    *state = calloc(1, sizeof(struct bench));
    return *state ? 0 : -1;
}

static int bench_free(void **state)
{
    struct bench *bench = *state;

    if (bench->child > 0) {
        kill(bench->child, SIGKILL);
        waitpid(bench->child, NULL, 0);
    }
    if (bench->master > 0)
        close(bench->master);
    free(bench);
    return 0;
}

static void assert_screen(struct bench *bench, const char *text)
{
    char got[256] = "";
    size_t count = 0;

    while (count < strlen(text)) {
        struct pollfd waits = { .fd = bench->master, .events = POLLIN };
        ssize_t step;

        if (poll(&waits, 1, 20000) != 1)
            fail_msg("the screen stops at '%s', not '%s'", got, text);
        step = read(bench->master, got + count, strlen(text) - count);
        assert_true(step > 0);
        count += (size_t)step;
    }
    assert_string_equal(got, text);
}

/* A shell's way with a background job, for its first second. */
static void child_in_background(console_input_fn *input)
{
    const struct timespec second = { .tv_sec = 1 };
    const pid_t job = fork();
    int status = 0;

    if (job == 0) {
        setpgid(0, 0);
        child_main(input, true);
    }
    setpgid(job, job);
    nanosleep(&second, NULL);
    tcsetpgrp(0, job);
    waitpid(job, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static void start(struct bench *bench, console_input_fn *input, bool closes, bool in_background)
{
    int slave;

    assert_int_equal(openpty(&bench->master, &slave, NULL, NULL, NULL), 0);
    assert_int_equal(tcgetattr(bench->master, &bench->before), 0);
    fflush(stdout);
    bench->child = fork();
    assert_true(bench->child >= 0);
    if (bench->child == 0) {
        close(bench->master);
        if (login_tty(slave) < 0)
            _exit(1);
        if (in_background)
            child_in_background(input);
        child_main(input, closes);
    }
    close(slave);
    assert_screen(bench,
                  "ready\r\n"); /* output is processed as before: a line begins at its left */
}

static void type(struct bench *bench, const char *keys, size_t count)
{
    assert_int_equal(write(bench->master, keys, count), count);
}

static void assert_quits(struct bench *bench)
{
    int status;

    assert_int_equal(waitpid(bench->child, &status, 0), bench->child);
    bench->child = 0;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_QUIT);
}

static void assert_mode_is_back(struct bench *bench)
{
    struct termios after;

    assert_int_equal(tcgetattr(bench->master, &after), 0);
    assert_int_equal(after.c_lflag, bench->before.c_lflag);
    assert_int_equal(after.c_iflag, bench->before.c_iflag);
    assert_int_equal(after.c_oflag, bench->before.c_oflag);
    assert_int_equal(after.c_cflag, bench->before.c_cflag);
}

/* --- cases ---------------------------------------------------------------------------------- */

static void every_key_reaches_the_guest_unechoed(void **state)
{
    struct bench *bench = *state;
    struct termios raw;

    start(bench, show_input, true, false);
    assert_int_equal(tcgetattr(bench->master, &raw), 0);
    assert_int_equal(raw.c_lflag & (ICANON | ECHO | ISIG), 0);
    type(bench, "a\r\x03\x1a\x04\x11\x13\x1b", 8); /* ^C, ^Z, ^D, ^Q, ^S, Esc */
    assert_screen(bench, "<61><0d><03><1a><04><11><13><1b>");
}

static void ctrl_a_twice_sends_one_and_other_keys_after_it_are_not_lost(void **state)
{
    struct bench *bench = *state;

    start(bench, show_input, true, false);
    type(bench, "\x01\x01", 2);
    assert_screen(bench, "<01>");
    type(bench,
         "\x01"
         "b",
         2);
    assert_screen(bench, "<01><62>");
    type(bench, "x", 1);
    assert_screen(bench, "<78>");
    type(bench, "\x01\x01x", 3); /* the second is the guest's, so x is not a command */
    assert_screen(bench, "<01><78>");
}

static void ctrl_a_x_ends_the_run_and_the_mode_is_back(void **state)
{
    struct bench *bench = *state;

    start(bench, show_input, true, false);
    type(bench, "\x01", 1);
    type(bench, "x", 1);
    assert_quits(bench);
    assert_mode_is_back(bench);
}

static void the_mode_is_back_after_exit_without_a_close(void **state)
{
    struct bench *bench = *state;

    start(bench, show_input, false, false);
    type(bench, "\x01x", 2);
    assert_quits(bench);
    assert_mode_is_back(bench);
}

static void ctrl_a_x_gets_through_to_a_guest_that_takes_no_input(void **state)
{
    struct bench *bench = *state;

    start(bench, take_nothing, true, false);
    for (unsigned i = 0; i < 100; i++)
        type(bench,
             "01234567890123456789012345678901234567890123456789012345678901234567890123456789"
             "01234567890123456789",
             100);
    type(bench, "\x01x", 2);
    assert_quits(bench);
}

static void a_terminal_that_hangs_up_is_no_reason_to_spin(void **state)
{
    const struct timespec nap = { .tv_nsec = 400000000 };
    struct bench *bench = *state;
    struct rusage usage;
    int status;

    start(bench, show_input, true, false);
    close(bench->master);
    bench->master = 0;
    nanosleep(&nap, NULL);
    kill(bench->child, SIGKILL);
    assert_int_equal(wait4(bench->child, &status, 0, &usage), bench->child);
    bench->child = 0;
    assert_true(WIFSIGNALED(status)); /* it was there until then */
    assert_int_equal(WTERMSIG(status), SIGKILL);
    assert_int_equal(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec, 0);
    assert_true(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec < 200000);
}

static void a_background_job_waits_for_the_terminal_without_spinning(void **state)
{
    struct bench *bench = *state;
    struct rusage usage;
    struct termios mode;
    int status;

    start(bench, show_input, true, true);
    assert_int_equal(tcgetattr(bench->master, &mode), 0);
    assert_int_equal(mode.c_lflag,
                     bench->before.c_lflag); /* the terminal is not its own to change */
    type(bench, "a\n", 2);
    assert_screen(bench,
                  "a\r\n<61><0a>"); /* the echo at once, the rest when it gets the terminal */
    type(bench, "\x01x\n", 3);
    assert_int_equal(wait4(bench->child, &status, 0, &usage), bench->child);
    bench->child = 0;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_QUIT);
    assert_int_equal(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec, 0);
    assert_true(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec < 300000);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_new, bench_free)
    static const struct CMUnitTest tests[] = {
        CASE(every_key_reaches_the_guest_unechoed),
        CASE(ctrl_a_twice_sends_one_and_other_keys_after_it_are_not_lost),
        CASE(ctrl_a_x_ends_the_run_and_the_mode_is_back),
        CASE(the_mode_is_back_after_exit_without_a_close),
        CASE(ctrl_a_x_gets_through_to_a_guest_that_takes_no_input),
        CASE(a_terminal_that_hangs_up_is_no_reason_to_spin),
        CASE(a_background_job_waits_for_the_terminal_without_spinning),
    };
#undef CASE

    return unit_run(tests);
}
