/*
 * text.c - bytes from outside, checked or made fit for JSON and for terminals.
 *
 * Touches nothing but the text it is given. If it lets something through, an answer of ours is not
 * JSON any more, or a file's name moves the cursor of whoever looks at it.
 */
#include "base/text.h"

#include <stdint.h>
#include <string.h>

/* The forms of characters of several bytes (RFC 3629, section 4); bytes after the second are
 * 80..bf. */
static const struct form {
    uint8_t first_low, first_high, second_low, second_high;
    uint8_t size;
} forms[] = {
    { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 }, { 0xe1, 0xec, 0x80, 0xbf, 3 },
    { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 }, { 0xf0, 0xf0, 0x90, 0xbf, 4 },
    { 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
};

static const struct form *find_form(uint8_t first)
{
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (first >= forms[i].first_low && first <= forms[i].first_high)
            return &forms[i];
    }
    return NULL;
}

/* Bytes of the valid character at `at`, of which `left` (not 0) may be looked at; 0: there is
 * none. */
static size_t character_size(const uint8_t *at, size_t left)
{
    const struct form *form;

    if (at[0] < 0x80)
        return 1;
    form = find_form(at[0]);
    if (!form || left < form->size || at[1] < form->second_low || at[1] > form->second_high)
        return 0;
    for (size_t i = 2; i < form->size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    }
    return form->size;
}

/* `at` is a valid character. */
static bool is_control(const uint8_t *at)
{
    return at[0] < 0x20 || at[0] == 0x7f || (at[0] == 0xc2 && at[1] < 0xa0);
}

bool text_is_utf8(const char *bytes, size_t size)
{
    const uint8_t *at = (const uint8_t *)bytes;

    while (size > 0) {
        const size_t step = character_size(at, size);

        if (step == 0)
            return false;
        at += step;
        size -= step;
    }
    return true;
}

static void replace(char *text, bool controls_too)
{
    uint8_t *at = (uint8_t *)text;
    size_t left = strlen(text);

    while (left > 0) {
        size_t step = character_size(at, left);
        const bool fits = step > 0 && !(controls_too && is_control(at));

        if (step == 0)
            step = 1;
        if (!fits)
            memset(at, '?', step);
        at += step;
        left -= step;
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
