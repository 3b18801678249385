/*
 * print.c - a very small printf, and the "BAD" lines that make a test fail.
 */
#include "print.h"

#include <stdarg.h>
#include <stdbool.h>

#include "cpu.h"
#include "serial.h"

#define BAD_LINES_MAX 200u

static volatile uint32_t print_lock;
static uint64_t bad_count;

static void add_char(struct line *line, char c)
{
    if (line->length < sizeof(line->text) - 2)
        line->text[line->length++] = c;
}

static void add_string(struct line *line, const char *text)
{
    while (*text)
        add_char(line, *text++);
}

static void add_number(struct line *line, uint64_t value, unsigned base, unsigned min_digits)
{
    char digits[20];
    unsigned count = 0;

    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (count < min_digits)
        digits[count++] = '0';
    while (count)
        add_char(line, digits[--count]);
}

static void add_formatted(struct line *line, const char *format, va_list args)
{
    for (; *format; format++) {
        unsigned min_digits = 0;
        bool is_long = false;
        uint64_t value;

        if (*format != '%') {
            add_char(line, *format);
            continue;
        }
        for (format++; *format >= '0' && *format <= '9'; format++)
            min_digits = min_digits * 10 + (unsigned)(*format - '0');
        if (*format == 'l') {
            is_long = true;
            format++;
        }
        switch (*format) {
        case 's': add_string(line, va_arg(args, const char *)); break;
        case 'c': add_char(line, (char)va_arg(args, int)); break;
        case 'u':
        case 'x':
            value = is_long ? va_arg(args, uint64_t) : va_arg(args, uint32_t);
            add_number(line, value, *format == 'x' ? 16 : 10, min_digits);
            break;
        default: add_char(line, *format); break;
        }
    }
}

static void add_newline(struct line *line)
{
    line->text[line->length++] = '\n'; /* add_char() leaves room */
}

void line_add(struct line *line, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    add_formatted(line, format, args);
    va_end(args);
}

void line_print(struct line *line)
{
    add_newline(line);
    while (__atomic_exchange_n(&print_lock, 1, __ATOMIC_ACQUIRE))
        cpu_pause();
    serial_write(line->text, line->length);
    __atomic_store_n(&print_lock, 0, __ATOMIC_RELEASE);
}

void print_line(const char *format, ...)
{
    struct line line;
    va_list args;

    line.length = 0; /* an initialiser would clear all of the text too */
    va_start(args, format);
    add_formatted(&line, format, args);
    va_end(args);
    line_print(&line);
}

void print_bad(const char *format, ...)
{
    struct line line;
    va_list args;

    if (__atomic_add_fetch(&bad_count, 1, __ATOMIC_RELAXED) > BAD_LINES_MAX)
        return;
    line.length = 0;
    add_string(&line, "BAD ");
    va_start(args, format);
    add_formatted(&line, format, args);
    va_end(args);
    line_print(&line);
}

void print_bad_last(const char *format, ...)
{
    struct line line;
    va_list args;

    line.length = 0;
    add_string(&line, "BAD ");
    va_start(args, format);
    add_formatted(&line, format, args);
    va_end(args);
    add_newline(&line);
    serial_write(line.text, line.length);
}

uint64_t print_bad_count(void)
{
    return __atomic_load_n(&bad_count, __ATOMIC_RELAXED);
}
