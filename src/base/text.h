/* text.h - bytes from outside, checked or made fit for JSON and for terminals.
 *
 * File names, what a peer says and what stands in a snapshot may be any bytes. JSON must be UTF-8,
 * and a terminal takes control characters as commands. */
#ifndef STASIS_BASE_TEXT_H
#define STASIS_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Whether these bytes are UTF-8 throughout: no overlong forms, no surrogates. NUL is a
 * character. */
bool text_is_utf8(const char *bytes, size_t size);

/* Put '?' in the place of each byte that is not part of a valid character; the text never grows. */
void text_make_utf8(char *text);

/* The same, and of each byte of a control character: C0, DEL and C1. */
void text_make_printable(char *text);

#endif
