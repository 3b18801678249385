/*
 * api_json.c - strict reading of request bodies.
 *
 * json-c does the parsing. What it lets pass (a key given twice, names in single quotes, control
 * characters, a name that ends early at an escaped NUL) is refused here, by a scan of the text: two
 * readers of one body must not come to different conclusions.
 */
#include "microvm/api_json.h"

#include <stdint.h>
#include <string.h>

#include <json-c/json_tokener.h>
#include <json-c/linkhash.h>

#include "base/error.h"
#include "base/text.h"

#define DEPTH_MAX 8

/* Keys in a parsed tree, all levels. */
static size_t count_keys(json_object *value)
{
    size_t count = 0;

    if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, key, member)
        {
            (void)key;
            count += 1 + count_keys(member);
        }
    } else if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++)
            count += count_keys(json_object_array_get_idx(value, i));
    }
    return count;
}

/* Keys as written: colons outside of strings. False: what RFC 8259 does not allow, or an escaped
 * NUL. */
static bool scan_text(const char *text, size_t size, size_t *ret_key_count)
{
    static const char escaped_nul[] = "\\u0000";
    const size_t nul_size = sizeof(escaped_nul) - 1;
    bool in_string = false;
    size_t count = 0;

    for (size_t i = 0; i < size; i++) {
        if (in_string && text[i] == '\\') {
            if (size - i >= nul_size && memcmp(text + i, escaped_nul, nul_size) == 0)
                return false;
            i++;
        } else if (text[i] == '"') {
            in_string = !in_string;
        } else if (in_string ? (unsigned char)text[i] < 0x20 : text[i] == '\'') {
            return false;
        } else if (!in_string && text[i] == ':') {
            count++;
        }
    }
    *ret_key_count = count;
    return true;
}

static int check_keys(json_object *object, const char *text, size_t size, struct stasis_error *err)
{
    size_t written;

    if (!scan_text(text, size, &written))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the body holds a quote or a control character that JSON does not "
                           "allow, or an escaped zero byte");
    if (count_keys(object) != written)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the body gives a key twice");
    return 0;
}

static int check_parsed(json_tokener *tokener, json_object *object, const char *text, size_t size,
                        struct stasis_error *err)
{
    if (json_tokener_get_error(tokener) == json_tokener_continue)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the body is not complete JSON");
    if (json_tokener_get_error(tokener) != json_tokener_success)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the body is not JSON: %s at byte %zu",
                           json_tokener_error_desc(json_tokener_get_error(tokener)),
                           json_tokener_get_parse_end(tokener));
    for (size_t i = json_tokener_get_parse_end(tokener); i < size; i++) {
        if (!strchr(" \t\r\n", text[i]) || text[i] == '\0')
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                               "the body goes on after its JSON value, at byte %zu", i);
    }
    if (!json_object_is_type(object, json_type_object))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the body is not a JSON object");
    return check_keys(object, text, size, err);
}

int api_json_parse(const char *text, size_t size, json_object **ret_object,
                   struct stasis_error *err)
{
    json_tokener *tokener;
    json_object *object;
    int r;

    if (size == 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the body is empty");
    if (size > INT32_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "the body is %zu bytes", size);
    if (!text_is_utf8(text, size)) /* json-c's own check lets overlong forms and surrogates pass */
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the body is not UTF-8");
    tokener = json_tokener_new_ex(DEPTH_MAX);
    if (!tokener)
        return stasis_fail_memory(err, "a JSON reader");
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    object = json_tokener_parse_ex(tokener, text, (int)size);
    r = check_parsed(tokener, object, text, size, err);
    json_tokener_free(tokener);
    if (r < 0)
        json_object_put(object);
    else
        *ret_object = object;
    return r;
}

static const struct api_key *find_key(const struct api_key *keys, size_t key_count,
                                      const char *name)
{
    for (size_t i = 0; i < key_count; i++) {
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    }
    return NULL;
}

static int take_text(const struct api_key *key, json_object *value, struct stasis_error *err)
{
    const char *text;

    if (!json_object_is_type(value, json_type_string))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "'%s' must be a string", key->name);
    text = json_object_get_string(value);
    if (strlen(text) != (size_t)json_object_get_string_len(value))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "'%s' holds a zero byte", key->name);
    *(const char **)key->ret = text;
    return 0;
}

static int take_number(const struct api_key *key, json_object *value, struct stasis_error *err)
{
    uint64_t number;

    if (!json_object_is_type(value, json_type_int))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "'%s' must be a whole number",
                           key->name);
    number = json_object_get_uint64(value); /* 0 for negative ones */
    if (json_object_get_int64(value) < 0 || number < key->min || number > key->max)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "'%s' must be %llu to %llu, not %s",
                           key->name, (unsigned long long)key->min, (unsigned long long)key->max,
                           json_object_get_string(value));
    *(uint64_t *)key->ret = number;
    return 0;
}

static int take_value(const struct api_key *key, json_object *value, struct stasis_error *err)
{
    if (!value && !key->required)
        return 0; /* null is as good as absent, as in Firecracker */
    switch (key->kind) {
    case API_TEXT: return take_text(key, value, err);
    case API_NUMBER: return take_number(key, value, err);
    case API_BOOL:
        if (!json_object_is_type(value, json_type_boolean))
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "'%s' must be true or false",
                               key->name);
        *(bool *)key->ret = json_object_get_boolean(value);
        return 0;
    case API_ARRAY:
        if (!json_object_is_type(value, json_type_array))
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "'%s' must be an array",
                               key->name);
        *(json_object **)key->ret = value;
        return 0;
    case API_NOT_OFFERED:
    default:
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "'%s' is not supported: %s", key->name,
                           key->why);
    }
}

int api_json_take(json_object *object, const struct api_key *keys, size_t key_count,
                  struct stasis_error *err)
{
    json_object_object_foreach(object, name, value)
    {
        const struct api_key *key = find_key(keys, key_count, name);
        int r;

        if (!key)
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "unknown key '%.64s'", name);
        r = take_value(key, value, err);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < key_count; i++) {
        if (keys[i].required && !json_object_object_get_ex(object, keys[i].name, NULL))
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "key '%s' is missing",
                               keys[i].name);
    }
    return 0;
}
