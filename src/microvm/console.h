/* console.h - the outside end of the serial port: the terminal, a file, a socket, or nothing.
 *
 *     stdio        stdin and stdout; a terminal is put into raw mode and back at the end; Ctrl-A x ends the
 *                  run, Ctrl-A Ctrl-A sends one Ctrl-A
 *     file:PATH    output appended to PATH (created 0600), no input
 *     socket:PATH  a listening Unix socket; one client at a time, output is dropped while there is none
 *     none         output dropped, no input
 *
 * Output never blocks a vCPU for ever: when the other end does not take bytes, they wait in a bounded
 * buffer and beyond it are dropped and counted. */
#ifndef STASIS_MICROVM_CONSOLE_H
#define STASIS_MICROVM_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>

struct console;

/* Told of input, from the console's thread; takes as many bytes as it has room for and returns how
 * many; the rest comes again after console_input_ready(). */
typedef size_t console_input_fn(void *arg, const uint8_t *bytes, size_t size);

int console_open(const char *spec, void (*on_quit)(void *arg), void *quit_arg,
                 struct console **ret_console, struct stasis_error *err);
/* NULL is fine; flushes what can go without waiting long. */
void console_close(struct console *console);
void console_set_input(struct console *console, console_input_fn *input, void *arg);
void console_input_ready(struct console *console);
void console_write(struct console *console, const uint8_t *bytes, size_t size);
/* Wait until all output so far has gone out, or for `timeout_ms`. */
void console_flush(struct console *console, unsigned timeout_ms);
/* Bytes of output that nobody will ever see, so far. */
uint64_t console_dropped_size(struct console *console);

#endif
