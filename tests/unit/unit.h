/* unit.h - cmocka, with the headers it needs before it, and what its 1.1.5 lacks.
 *
 * A test program is one file with one group of cases:
 *
 *     static void run_crosses_a_word_edge(void **state) { ... }
 *
 *     int main(void)
 *     {
 *         static const struct CMUnitTest tests[] = {
 *             cmocka_unit_test(run_crosses_a_word_edge),
 *         };
 *         return unit_run(tests);
 *     }
 *
 * The name of a case is the sentence it proves. A failed assertion leaves its function by longjmp:
 * cleanup attributes do not run, so what must go away belongs into setup and teardown. */
#ifndef STASIS_TESTS_UNIT_H
#define STASIS_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stasis/error.h>

#define unit_run(tests) cmocka_run_group_tests_name(__FILE__, tests, NULL, NULL)
#define unit_run_with(tests, setup, teardown)                                                      \
    cmocka_run_group_tests_name(__FILE__, tests, setup, teardown)

/* Skip aloud: the runner prints the reason next to the case's name. */
#define unit_skip(...)                                                                             \
    do {                                                                                           \
        print_message("# skip: " __VA_ARGS__);                                                     \
        print_message("\n");                                                                       \
        skip();                                                                                    \
    } while (0)

/* The call succeeded; if not, say why. */
#define assert_stasis_ok(call, err)                                                                \
    do {                                                                                           \
        const int result_ = (call);                                                                \
        if (result_ != 0)                                                                          \
            fail_msg("%s: %d, %s", #call, result_, (err)->text);                                   \
    } while (0)

/* The call failed with this code, returned that code's errno, and told a story. */
#define assert_stasis_fails(call, err, code_)                                                      \
    do {                                                                                           \
        const int result_ = (call);                                                                \
        if (result_ >= 0)                                                                          \
            fail_msg("%s: %d, should have failed", #call, result_);                                \
        if ((err)->code != (code_))                                                                \
            fail_msg("%s: code %d (%s), expected %s: %s", #call, (int)(err)->code,                 \
                     stasis_code_name((err)->code), stasis_code_name(code_), (err)->text);         \
        assert_int_not_equal((err)->text[0], '\0');                                                \
    } while (0)

#endif
