/* text.h - bytes from outside made fit for JSON and for terminals.
 *
 * File names, what a peer says and what stands in a snapshot may be any bytes. JSON must be UTF-8, and a
 * terminal takes control characters as commands. Both calls work in place: a byte that does not fit
 * becomes '?', so the text never grows. */
#ifndef STASIS_BASE_TEXT_H
#define STASIS_BASE_TEXT_H

/* Every byte that is not part of a valid UTF-8 character (overlong forms and surrogates are not). */
void text_make_utf8(char *text);

/* The same, and every byte of a control character: C0, DEL and C1. */
void text_make_printable(char *text);

#endif
