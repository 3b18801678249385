/*
 * Goal:   a body is one JSON object and nothing else, read as strictly as RFC 8259 has it; every
 *         key is known, comes once, and has the type and range asked for. What is wrong is named.
 * Method: hand-made bodies for each rule; mutations of a good body, which must be refused or mean
 *         the same to json-c's lenient reader.
 */
#include <errno.h>
#include <string.h>

#include <json-c/json_tokener.h>

#include "base/text.h"
#include "microvm/api_json.h"

#include "unit.h"

static int parse(const char *text, size_t size, struct stasis_error *err)
{
    json_object *object = NULL;
    const int r = api_json_parse(text, size, &object, err);

    if (r < 0)
        assert_null(object);
    json_object_put(object);
    return r;
}

static void one_object_is_read_with_blanks_around_it(void **state)
{
    static const char *const good[] = { "{}", " \t\r\n{ \t\r\n} \t\r\n", "{\"a\":{\"b\":[{},1]}}",
                                        "{\"a:\\\"'\":\"b:'\\\\\"}" };
    struct stasis_error err = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_stasis_ok(parse(good[i], strlen(good[i]), &err), &err);
}

static void what_is_not_one_object_is_an_invalid_argument(void **state)
{
    static const char *const bad[] = {
        "",
        " ",
        "null",
        "1",
        "[]",
        "\"a\"",
        "{",
        "{}}",
        "{} {}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":'b'}",
        "{/**/}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\x7f\xff\"}",
        "{\"\xc0\xaf\":1}",
        "{\"a\":\"\xed\xa0\x80\"}",
        "{\"a\\u0000b\":1}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\\q\"}",
        "\xef\xbb\xbf{}",
        "{\"a\":[[[[[[[[[[1]]]]]]]]]]}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct stasis_error err = { 0 };

        if (parse(bad[i], strlen(bad[i]), &err) == 0)
            fail_msg("taken: %s", bad[i]);
        assert_int_equal(err.code, STASIS_ERR_INVALID_ARGUMENT);
    }
}

static void a_zero_byte_ends_no_body(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(parse("{}\0", 3, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(parse("{\0}", 3, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(parse("{\"a\0b\":1}", 9, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
}

static void a_body_beyond_what_the_reader_can_count_is_over_the_limit(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(parse("{}", (size_t)INT32_MAX + 1, &err), &err, STASIS_ERR_LIMIT);
}

static void a_key_given_twice_is_found_at_every_depth(void **state)
{
    static const char *const twice[] = {
        "{\"a\":1,\"a\":1}",
        "{\"a\":1,\"\\u0061\":2}",
        "{\"a\":{\"b\":1,\"b\":2}}",
        "{\"a\":[1,{\"b\":1,\"c\":\":\",\"b\":2}]}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(twice) / sizeof(twice[0]); i++) {
        struct stasis_error err = { 0 };

        assert_stasis_fails(parse(twice[i], strlen(twice[i]), &err), &err,
                            STASIS_ERR_INVALID_ARGUMENT);
        assert_non_null(strstr(err.text, "twice"));
    }
}

/* What a body may hold here. */
struct taken {
    const char *text;
    bool flag;
    uint64_t number;
    json_object *array;
};

static int take(const char *body, struct taken *ret_taken, struct stasis_error *err)
{
    const struct api_key keys[] = {
        { "text", API_TEXT, true, &ret_taken->text, 0, 0, NULL },
        { "flag", API_BOOL, false, &ret_taken->flag, 0, 0, NULL },
        { "number", API_NUMBER, false, &ret_taken->number, 2, UINT64_MAX - 1, NULL },
        { "array", API_ARRAY, false, &ret_taken->array, 0, 0, NULL },
        { "elsewhere", API_NOT_OFFERED, false, NULL, 0, 0, "it is elsewhere" },
    };
    json_object *object = NULL;
    int r = api_json_parse(body, strlen(body), &object, err);

    if (r == 0)
        r = api_json_take(object, API_KEYS(keys), err);
    if (r == 0) { /* texts and arrays live as long as the body: look at them now */
        assert_string_equal(ret_taken->text, "t");
        if (ret_taken->array)
            assert_int_equal(json_object_array_length(ret_taken->array), 2);
    }
    json_object_put(object);
    return r;
}

static void each_kind_of_key_is_taken(void **state)
{
    struct stasis_error err = { 0 };
    struct taken taken = { 0 };

    (void)state;
    assert_stasis_ok(
        take("{\"text\":\"t\",\"flag\":true,\"number\":2,\"array\":[1,2]}", &taken, &err), &err);
    assert_true(taken.flag);
    assert_int_equal(taken.number, 2);
    assert_non_null(taken.array);

    taken = (struct taken){ 0 };
    assert_stasis_ok(take("{\"text\":\"t\",\"number\":18446744073709551614}", &taken, &err), &err);
    assert_true(taken.number == UINT64_MAX - 1);
}

static void absent_and_null_keys_leave_the_default(void **state)
{
    struct stasis_error err = { 0 };
    struct taken taken = { .flag = true, .number = 7 };

    (void)state;
    assert_stasis_ok(take("{\"text\":\"t\"}", &taken, &err), &err);
    assert_stasis_ok(take("{\"text\":\"t\",\"flag\":null,\"number\":null,\"array\":null,"
                          "\"elsewhere\":null}",
                          &taken, &err),
                     &err);
    assert_true(taken.flag);
    assert_int_equal(taken.number, 7);
    assert_null(taken.array);
}

static void what_does_not_fit_a_key_is_refused_by_its_name(void **state)
{
    static const struct {
        const char *body;
        const char *name;
    } bad[] = {
        { "{}", "'text'" },
        { "{\"text\":null}", "'text'" },
        { "{\"text\":1}", "'text'" },
        { "{\"text\":\"t\",\"flag\":1}", "'flag'" },
        { "{\"text\":\"t\",\"flag\":\"true\"}", "'flag'" },
        { "{\"text\":\"t\",\"number\":1}", "'number'" },
        { "{\"text\":\"t\",\"number\":0}", "'number'" },
        { "{\"text\":\"t\",\"number\":-2}", "'number'" },
        { "{\"text\":\"t\",\"number\":-9223372036854775808}", "'number'" },
        { "{\"text\":\"t\",\"number\":-18446744073709551614}", "'number'" },
        { "{\"text\":\"t\",\"number\":18446744073709551615}", "'number'" },
        { "{\"text\":\"t\",\"number\":18446744073709551618}", "'number'" },
        { "{\"text\":\"t\",\"number\":2.0}", "'number'" },
        { "{\"text\":\"t\",\"number\":2e0}", "'number'" },
        { "{\"text\":\"t\",\"number\":\"2\"}", "'number'" },
        { "{\"text\":\"t\",\"array\":{}}", "'array'" },
        { "{\"text\":\"t\",\"more\":null}", "'more'" },
        { "{\"text\":\"t\",\"Text\":\"t\"}", "'Text'" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct stasis_error err = { 0 };
        struct taken taken = { 0 };

        if (take(bad[i].body, &taken, &err) == 0)
            fail_msg("taken: %s", bad[i].body);
        assert_int_equal(err.code, STASIS_ERR_INVALID_ARGUMENT);
        if (!strstr(err.text, bad[i].name))
            fail_msg("%s: %s is not named: %s", bad[i].body, bad[i].name, err.text);
    }
}

static void what_is_not_offered_is_unsupported_and_says_why(void **state)
{
    struct stasis_error err = { 0 };
    struct taken taken = { 0 };

    (void)state;
    assert_stasis_fails(take("{\"text\":\"t\",\"elsewhere\":{}}", &taken, &err), &err,
                        STASIS_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "'elsewhere'"));
    assert_non_null(strstr(err.text, "it is elsewhere"));
}

/* Mutations either fail, or are UTF-8 that json-c reads as the same object. */
static void a_mutated_body_is_refused_or_means_what_it_says(void **state)
{
    static const char seed_body[] = "{\"text\":\"t\\\"\\u00e9\",\"a\":[1,{\"b\":null}],\"n\":12}";
    static const char letters[] = "{}[]\":,\\u0'/ \n\xc3\xa9t1";
    uint32_t seed = 1;
    unsigned taken = 0;

    (void)state;
    for (unsigned round = 0; round < 200000; round++) {
        char body[sizeof(seed_body)];
        json_object *object = NULL, *again;

        memcpy(body, seed_body, sizeof(body));
        for (unsigned i = 0; i < 1 + round % 3; i++) {
            seed = seed * 1664525 + 1013904223;
            body[(seed >> 8) % (sizeof(body) - 1)] = letters[(seed >> 24) % (sizeof(letters) - 1)];
        }
        if (api_json_parse(body, sizeof(body) - 1, &object, NULL) < 0)
            continue;
        taken++;
        assert_true(text_is_utf8(body, sizeof(body) - 1));
        again = json_tokener_parse(body);
        assert_true(json_object_equal(object, again));
        json_object_put(again);
        json_object_put(object);
    }
    assert_true(taken > 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_object_is_read_with_blanks_around_it),
        cmocka_unit_test(what_is_not_one_object_is_an_invalid_argument),
        cmocka_unit_test(a_zero_byte_ends_no_body),
        cmocka_unit_test(a_body_beyond_what_the_reader_can_count_is_over_the_limit),
        cmocka_unit_test(a_key_given_twice_is_found_at_every_depth),
        cmocka_unit_test(each_kind_of_key_is_taken),
        cmocka_unit_test(absent_and_null_keys_leave_the_default),
        cmocka_unit_test(what_does_not_fit_a_key_is_refused_by_its_name),
        cmocka_unit_test(what_is_not_offered_is_unsupported_and_says_why),
        cmocka_unit_test(a_mutated_body_is_refused_or_means_what_it_says),
    };
    return unit_run(tests);
}
