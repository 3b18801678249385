/* test_text.c - bytes from outside made fit for JSON and for terminals.
 *
 * Goal:   what comes out is valid UTF-8 (and free of control characters where that was asked for), and
 *         what was fit before is unchanged.
 * Method: every sequence of lead and second byte with telling third and fourth ones, against an
 *         oracle that decodes code points by the book. */
#include "unit.h"

#include <string.h>

#include "base/text.h"

/* Bytes of the character at `at` by its code point (RFC 3629, section 3), 0 when it is none. */
static size_t slow_character_size(const unsigned char *at)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    uint32_t point;
    size_t size;

    if (at[0] < 0x80)
        return 1;
    size = (at[0] & 0xe0) == 0xc0 ? 2 : (at[0] & 0xf0) == 0xe0 ? 3 : (at[0] & 0xf8) == 0xf0 ? 4 : 0;
    if (size == 0)
        return 0;
    point = at[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        point = point << 6 | (at[i] & 0x3f);
    }
    if (point < least[size] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
        return 0;
    return size;
}

static void slow_make_utf8(char *text)
{
    unsigned char *at = (unsigned char *)text;

    while (*at) {
        const size_t size = slow_character_size(at);

        if (size == 0)
            *at = '?';
        at += size ? size : 1;
    }
}

static void utf8_agrees_with_a_slow_oracle(void **state)
{
    static const unsigned char tails[] = { 0, 'x', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0 };
    char text[8], expected[8];

    (void)state;
    for (unsigned pair = 0; pair < 0x10000; pair++) {
        for (size_t i = 0; i < sizeof(tails) * sizeof(tails); i++) {
            const unsigned char bytes[] = { (unsigned char)(pair >> 8),
                                            (unsigned char)pair,
                                            tails[i / sizeof(tails)],
                                            tails[i % sizeof(tails)],
                                            'y',
                                            0 };

            memcpy(text, bytes, sizeof(bytes));
            memcpy(expected, bytes, sizeof(bytes));
            text_make_utf8(text);
            slow_make_utf8(expected);
            if (strcmp(text, expected) != 0 ||
                text_is_utf8((const char *)bytes, strlen(expected)) !=
                    (memcmp(bytes, expected, strlen(expected)) == 0))
                fail_msg("%02x %02x %02x %02x", bytes[0], bytes[1], bytes[2], bytes[3]);
        }
    }
}

static void bytes_are_judged_up_to_their_size_and_no_further(void **state)
{
    static const char euro[] = "\xe2\x82\xac";

    (void)state;
    assert_true(text_is_utf8("", 0));
    assert_true(text_is_utf8("a\0b", 3)); /* NUL is a character like others */
    assert_false(text_is_utf8("a\0\xff", 3));
    assert_true(text_is_utf8(euro, 3));
    assert_false(text_is_utf8(euro, 2));
    assert_false(text_is_utf8(euro, 1));
}

static void assert_becomes(void (*make)(char *), const char *text, const char *expected)
{
    char copy[64];

    strcpy(copy, text);
    make(copy);
    assert_string_equal(copy, expected);
}

static void fit_text_stays_as_it_is(void **state)
{
    static const char fit[] = "snap-1.stasis \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80 ~";

    (void)state;
    assert_becomes(text_make_utf8, fit, fit);
    assert_becomes(text_make_printable, fit, fit);
    assert_becomes(text_make_utf8, "", "");
}

static void what_is_no_character_becomes_a_question_mark(void **state)
{
    (void)state;
    assert_becomes(text_make_utf8, "a\xff\x62", "a?b");
    assert_becomes(text_make_utf8, "\xc0\xaf", "??");       /* an overlong '/' */
    assert_becomes(text_make_utf8, "\xed\xa0\x80", "???");  /* a surrogate */
    assert_becomes(text_make_utf8, "cut\xe2\x82", "cut??"); /* the text ends inside */
}

static void control_characters_never_reach_a_terminal(void **state)
{
    (void)state;
    assert_becomes(text_make_printable, "\x1b[2Jx\n\x7f", "?[2Jx??");
    assert_becomes(text_make_printable, "\xc2\x9b\x32J\xc2\xa0", "??2J\xc2\xa0"); /* C1's CSI */
    assert_becomes(text_make_utf8, "\x1b[2J\n", "\x1b[2J\n");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_agrees_with_a_slow_oracle),
        cmocka_unit_test(bytes_are_judged_up_to_their_size_and_no_further),
        cmocka_unit_test(fit_text_stays_as_it_is),
        cmocka_unit_test(what_is_no_character_becomes_a_question_mark),
        cmocka_unit_test(control_characters_never_reach_a_terminal),
    };
    return unit_run(tests);
}
