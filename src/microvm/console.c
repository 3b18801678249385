/*
 * console.c - the outside end of the serial port: moving bytes.
 *
 *     vCPU threads --console_write()--> output buffer --\                 /--> terminal, pipe, client
 *                                                        console thread --
 *     serial port <----input()-------- input buffer <---/                 \<-- terminal, pipe, client
 *
 * One thread does all that may wait, so that a terminal that is held or a client that does not read
 * never stops the guest; it sleeps in poll() and has no timer but after an error that may pass. Only
 * regular files are written by the vCPU thread itself. If this is wrong, the guest stands still
 * behind its console, or lines are lost or out of order.
 */
#include "microvm/console.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "microvm/console_ends.h"
#include "microvm/worker.h"

#define OUTPUT_SIZE (256u * 1024)
#define INPUT_SIZE 4096u
#define SHARED_WRITE_SIZE 512u /* PIPE_BUF of POSIX: after POLLOUT so much does not wait */
#define CLOSE_FLUSH_MS 250
#define INPUT_PAUSE_MS 500 /* after EIO from a terminal that another job owns */
#define CTRL_A 0x01u

struct console {
    struct console_ends ends;
    void (*on_quit)(void *arg);
    void *quit_arg;
    pthread_t thread;
    bool has_thread;
    int wake_fd; /* eventfd */

    pthread_mutex_t input_lock; /* held while input() runs, and to change it */
    console_input_fn *input;
    void *input_arg;

    pthread_mutex_t lock;   /* below */
    pthread_cond_t drained; /* no output waits any more; CLOCK_MONOTONIC */
    bool stopping;
    bool out_open;       /* ends.out_fd takes bytes */
    uint8_t *output;     /* ring of OUTPUT_SIZE */
    size_t output_at;    /* oldest byte */
    size_t output_count; /* bytes */
    uint64_t dropped;    /* bytes */

    /* The thread's own. */
    bool in_open;
    bool in_paused;
    bool escaped; /* the last key was Ctrl-A */
    uint8_t pending_input[INPUT_SIZE];
    size_t pending_count;
};

static void wake(struct console *console)
{
    const uint64_t one = 1;

    /* It can only fail when the counter is full, and then the thread is awake. */
    if (write(console->wake_fd, &one, sizeof(one)) < 0)
        return;
}

/* --- output --------------------------------------------------------------------------------- */

/* Regular files; the rest of a write that fails is dropped. Under lock. */
static void write_file(struct console *console, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        const ssize_t done = write(console->ends.out_fd, bytes, size);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            break;
        bytes += done;
        size -= (size_t)done;
    }
    console->dropped += size;
}

/* Under lock. */
static void buffer_output(struct console *console, const uint8_t *bytes, size_t size)
{
    const size_t room = OUTPUT_SIZE - console->output_count;
    const size_t take = size < room ? size : room;

    for (size_t i = 0; i < take; i++)
        console->output[(console->output_at + console->output_count + i) % OUTPUT_SIZE] = bytes[i];
    console->output_count += take;
    console->dropped += size - take;
}

void console_write(struct console *console, const uint8_t *bytes, size_t size)
{
    bool was_empty = false;

    pthread_mutex_lock(&console->lock);
    if (!console->out_open) {
        console->dropped += size;
    } else if (console->ends.way_out == CONSOLE_OUT_FILE) {
        write_file(console, bytes, size);
    } else {
        was_empty = console->output_count == 0 && size > 0;
        buffer_output(console, bytes, size);
    }
    pthread_mutex_unlock(&console->lock);
    if (was_empty)
        wake(console);
}

void console_flush(struct console *console, unsigned timeout_ms)
{
    struct timespec deadline;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&console->lock);
    while (console->output_count > 0 && r == 0)
        r = pthread_cond_timedwait(&console->drained, &console->lock, &deadline);
    pthread_mutex_unlock(&console->lock);
}

uint64_t console_dropped_size(struct console *console)
{
    uint64_t dropped;

    pthread_mutex_lock(&console->lock);
    dropped = console->dropped;
    pthread_mutex_unlock(&console->lock);
    return dropped;
}

static ssize_t send_some(const struct console *console, const uint8_t *bytes, size_t size)
{
    const int fd = console->ends.out_fd;

    if (console->ends.way_out == CONSOLE_OUT_SOCKET)
        return send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (console->ends.way_out == CONSOLE_OUT_SHARED && size > SHARED_WRITE_SIZE)
        size = SHARED_WRITE_SIZE;
    return write(fd, bytes, size);
}

/* Nobody takes output any more: what waits is lost. Under lock. */
static void close_output(struct console *console)
{
    console->out_open = false;
    console->dropped += console->output_count;
    console->output_count = 0;
    pthread_cond_broadcast(&console->drained);
}

/* The oldest bytes that lie in one piece, once. They are not locked while they go out: writers only
 * add behind them. */
static void flush_some(struct console *console)
{
    size_t at, size;
    ssize_t done;

    pthread_mutex_lock(&console->lock);
    at = console->output_at;
    size = console->output_count < OUTPUT_SIZE - at ? console->output_count : OUTPUT_SIZE - at;
    pthread_mutex_unlock(&console->lock);
    if (size == 0)
        return;

    done = send_some(console, console->output + at, size);
    pthread_mutex_lock(&console->lock);
    if (done >= 0) {
        console->output_at = (at + (size_t)done) % OUTPUT_SIZE;
        console->output_count -= (size_t)done;
        if (console->output_count == 0)
            pthread_cond_broadcast(&console->drained);
    } else if (errno != EAGAIN && errno != EINTR) {
        close_output(console);
    }
    pthread_mutex_unlock(&console->lock);
}

/* --- input ---------------------------------------------------------------------------------- */

static void give_input(struct console *console)
{
    size_t taken = 0;

    if (console->pending_count == 0)
        return;
    pthread_mutex_lock(&console->input_lock);
    if (console->input)
        taken = console->input(console->input_arg, console->pending_input, console->pending_count);
    pthread_mutex_unlock(&console->input_lock);
    console->pending_count -= taken;
    memmove(console->pending_input, console->pending_input + taken, console->pending_count);
}

/* Keys that find no room are lost, as with a terminal's own buffer: Ctrl-A x must always get through. */
static void add_key(struct console *console, uint8_t key)
{
    if (console->pending_count < INPUT_SIZE)
        console->pending_input[console->pending_count++] = key;
}

static void take_key(struct console *console, uint8_t key)
{
    if (!console->escaped && key == CTRL_A) {
        console->escaped = true;
        return;
    }
    if (console->escaped && key == 'x') {
        if (console->on_quit)
            console->on_quit(console->quit_arg);
    } else {
        if (console->escaped && key != CTRL_A)
            add_key(console, CTRL_A);
        add_key(console, key);
    }
    console->escaped = false;
}

static void take_keys(struct console *console, bool hung_up)
{
    uint8_t keys[256];
    const ssize_t got = read(console->ends.in_fd, keys, sizeof(keys));

    /* EIO without a hang-up: another job has the terminal now and may give it back. */
    if (got < 0 && errno == EIO && !hung_up)
        console->in_paused = true;
    else if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN))
        console->in_open = false;
    for (ssize_t i = 0; i < got; i++)
        take_key(console, keys[i]);
}

static void take_bytes(struct console *console)
{
    const ssize_t got = read(console->ends.in_fd, console->pending_input + console->pending_count,
                             INPUT_SIZE - console->pending_count);

    if (got > 0)
        console->pending_count += (size_t)got;
    else if (got == 0 || (errno != EINTR && errno != EAGAIN))
        console->in_open = false;
}

static bool wants_input(const struct console *console)
{
    if (!console->in_open || console->in_paused)
        return false;
    return console->ends.in_is_terminal || console->pending_count < INPUT_SIZE;
}

void console_set_input(struct console *console, console_input_fn *input, void *arg)
{
    pthread_mutex_lock(&console->input_lock);
    console->input = input;
    console->input_arg = arg;
    pthread_mutex_unlock(&console->input_lock);
    console_input_ready(console);
}

void console_input_ready(struct console *console)
{
    if (console->has_thread)
        wake(console);
}

/* --- clients of a socket -------------------------------------------------------------------- */

static void accept_client(struct console *console)
{
    const int fd = accept4(console->ends.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    pthread_mutex_lock(&console->lock);
    console->ends.in_fd = console->ends.out_fd = fd;
    console->out_open = true;
    pthread_mutex_unlock(&console->lock);
    console->in_open = true;
}

/* A client that has gone in both directions makes place for the next. */
static void drop_client(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    if (!console->out_open && !console->in_open) {
        fd_close(&console->ends.in_fd);
        console->ends.out_fd = -1;
    }
    pthread_mutex_unlock(&console->lock);
}

static bool has_client(const struct console *console)
{
    return console->ends.listen_fd >= 0 && console->ends.in_fd >= 0;
}

/* --- the thread ----------------------------------------------------------------------------- */

enum { POLL_WAKE, POLL_IN, POLL_OUT, POLL_LISTEN, POLL_COUNT };

static void drain_wakes(struct console *console)
{
    uint64_t count;

    if (read(console->wake_fd, &count, sizeof(count)) < 0)
        return; /* nothing in it: somebody was faster */
}

/* Descriptors of -1 are ignored by poll(). A client's hang-up must be seen without output, too. */
static void fill_polls(struct console *console, bool stopping, struct pollfd *fds)
{
    const struct console_ends *ends = &console->ends;
    bool watch_out;

    pthread_mutex_lock(&console->lock);
    watch_out = console->out_open && (console->output_count > 0 || has_client(console));
    fds[POLL_OUT] = (struct pollfd){ .fd = watch_out ? ends->out_fd : -1,
                                     .events = console->output_count > 0 ? POLLOUT : 0 };
    pthread_mutex_unlock(&console->lock);
    fds[POLL_WAKE] = (struct pollfd){ .fd = console->wake_fd, .events = POLLIN };
    fds[POLL_IN] = (struct pollfd){ .fd = !stopping && wants_input(console) ? ends->in_fd : -1,
                                    .events = POLLIN };
    fds[POLL_LISTEN] =
        (struct pollfd){ .fd = !stopping && !has_client(console) ? ends->listen_fd : -1,
                         .events = POLLIN };
}

static void handle_polls(struct console *console, const struct pollfd *fds)
{
    if (fds[POLL_WAKE].revents)
        drain_wakes(console);
    if (fds[POLL_OUT].revents & POLLOUT) {
        flush_some(console);
    } else if (fds[POLL_OUT].revents) {
        pthread_mutex_lock(&console->lock);
        close_output(console);
        pthread_mutex_unlock(&console->lock);
    }
    if (fds[POLL_IN].revents && console->ends.in_is_terminal)
        take_keys(console, fds[POLL_IN].revents & POLLHUP);
    else if (fds[POLL_IN].revents)
        take_bytes(console);
    if (fds[POLL_LISTEN].revents)
        accept_client(console);
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whether the thread goes on: until it is to stop and all is out, or CLOSE_FLUSH_MS later. */
static bool goes_on(struct console *console, int64_t *stop_at_ms, bool *ret_stopping)
{
    bool has_output;

    pthread_mutex_lock(&console->lock);
    *ret_stopping = console->stopping;
    has_output = console->out_open && console->output_count > 0;
    pthread_mutex_unlock(&console->lock);

    if (!*ret_stopping)
        return true;
    if (*stop_at_ms == 0)
        *stop_at_ms = now_ms() + CLOSE_FLUSH_MS;
    return has_output && now_ms() < *stop_at_ms;
}

static void *console_main(void *arg)
{
    struct console *console = arg;
    struct pollfd fds[POLL_COUNT];
    int64_t stop_at_ms = 0;
    bool stopping;

    pthread_setname_np(pthread_self(), "console");
    while (goes_on(console, &stop_at_ms, &stopping)) {
        int timeout_ms = console->in_paused ? INPUT_PAUSE_MS : -1;

        if (stopping)
            timeout_ms = CLOSE_FLUSH_MS;
        fill_polls(console, stopping, fds);
        if (poll(fds, POLL_COUNT, timeout_ms) < 0)
            continue;
        console->in_paused = false;
        handle_polls(console, fds);
        if (!stopping)
            give_input(console);
        if (has_client(console))
            drop_client(console);
    }
    return NULL;
}

/* --- life ----------------------------------------------------------------------------------- */

static bool needs_thread(const struct console_ends *ends)
{
    return ends->in_fd >= 0 || ends->listen_fd >= 0 ||
           (ends->out_fd >= 0 && ends->way_out != CONSOLE_OUT_FILE);
}

static void init_locks(struct console *console)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&console->input_lock, NULL);
    pthread_mutex_init(&console->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&console->drained, &attr);
    pthread_condattr_destroy(&attr);
}

static int start_thread(struct console *console, struct stasis_error *err)
{
    int r;

    console->output = malloc(OUTPUT_SIZE);
    if (!console->output)
        return stasis_fail_memory(err, "the console's output");
    console->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (console->wake_fd < 0)
        return stasis_fail_errno(err, "make the console's eventfd");
    r = thread_start(&console->thread, console_main, console, "the console", err);
    console->has_thread = r == 0;
    return r;
}

int console_open(const char *spec, void (*on_quit)(void *arg), void *quit_arg,
                 struct console **ret_console, struct stasis_error *err)
{
    struct console *console = calloc(1, sizeof(*console));
    int r;

    if (!console)
        return stasis_fail_memory(err, "the console");
    r = console_ends_open(spec, &console->ends, err);
    if (r < 0) {
        free(console);
        return r;
    }
    console->on_quit = on_quit;
    console->quit_arg = quit_arg;
    console->wake_fd = -1;
    console->in_open = console->ends.in_fd >= 0;
    console->out_open = console->ends.out_fd >= 0;
    init_locks(console);
    if (needs_thread(&console->ends))
        r = start_thread(console, err);
    if (r < 0) {
        console_close(console);
        return r;
    }
    *ret_console = console;
    return 0;
}

static void stop_thread(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    console->stopping = true;
    pthread_mutex_unlock(&console->lock);
    wake(console);
    pthread_join(console->thread, NULL);
}

void console_close(struct console *console)
{
    if (!console)
        return;
    if (console->has_thread)
        stop_thread(console);
    console_ends_close(&console->ends);
    fd_close(&console->wake_fd);
    pthread_mutex_destroy(&console->input_lock);
    pthread_mutex_destroy(&console->lock);
    pthread_cond_destroy(&console->drained);
    free(console->output);
    free(console);
}
