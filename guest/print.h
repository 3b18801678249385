/*
 * print.h - lines of text for whoever watches the serial port.
 *
 * A line is formatted whole and written under one lock, so lines of different processors never mix.
 */
#ifndef GUEST_PRINT_H
#define GUEST_PRINT_H

#include <stdint.h>

/* Knows %s %c %u %lu %x %lx %016lx %%, and nothing else. Adds the newline. */
void print_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same with "BAD " in front; counted, and silent after BAD_LINES_MAX of them. */
void print_bad(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same for what ends the run: takes no lock, as whoever holds it may be the one interrupted.
 * Nothing else in an interrupt handler may print. */
void print_bad_last(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t print_bad_count(void);

/* A line built piece by piece. */
struct line {
    unsigned length;
    char text[480];
};

void line_add(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
void line_print(struct line *line);

#endif
