/*
 * text.c - bytes from outside made fit for JSON and for terminals.
 *
 * Touches nothing but the text it is given. If it lets something through, an answer of ours is not JSON
 * any more, or a file's name moves the cursor of whoever looks at it.
 */
#include "base/text.h"

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the valid character at `at` (RFC 3629, section 4), 0 when there is none. The NUL at the
 * end of the text is no continuation byte, so nothing beyond it is looked at. */
static size_t character_size(const unsigned char *at)
{
    static const struct {
        unsigned char first_low, first_high, second_low, second_high;
        size_t size;
    } forms[] = {
        { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 }, { 0xe1, 0xec, 0x80, 0xbf, 3 },
        { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 }, { 0xf0, 0xf0, 0x90, 0xbf, 4 },
        { 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
    };

    if (at[0] < 0x80)
        return 1;
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (at[0] < forms[i].first_low || at[0] > forms[i].first_high)
            continue;
        if (at[1] < forms[i].second_low || at[1] > forms[i].second_high)
            return 0;
        for (size_t k = 2; k < forms[i].size; k++) {
            if ((at[k] & 0xc0) != 0x80)
                return 0;
        }
        return forms[i].size;
    }
    return 0;
}

static bool is_control(const unsigned char *at)
{
    return at[0] < 0x20 || at[0] == 0x7f || (at[0] == 0xc2 && at[1] < 0xa0);
}

static void replace(char *text, bool controls_too)
{
    unsigned char *at = (unsigned char *)text;

    while (*at) {
        size_t size = character_size(at);
        const bool fits = size > 0 && !(controls_too && is_control(at));

        if (size == 0)
            size = 1;
        for (size_t i = 0; i < size && !fits; i++)
            at[i] = '?';
        at += size;
    }
}

void text_make_utf8(char *text)
{
    replace(text, false);
}

void text_make_printable(char *text)
{
    replace(text, true);
}
