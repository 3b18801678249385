/* api_json.h - strict reading of request bodies.
 *
 * A body is one JSON object and nothing else; every key must be known, none may come twice, types
 * and ranges must fit. What is wrong is said by name. */
#ifndef STASIS_MICROVM_API_JSON_H
#define STASIS_MICROVM_API_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json_object.h>

#include <stasis/error.h>

enum api_key_kind {
    API_TEXT,        /* const char *: lives as long as the body */
    API_BOOL,        /* bool */
    API_NUMBER,      /* uint64_t, min..max */
    API_ARRAY,       /* json_object *: lives as long as the body */
    API_NOT_OFFERED, /* what Firecracker has and we do not: refused, `why` says so; null passes */
};

struct api_key {
    const char *name;
    enum api_key_kind kind;
    bool required;
    void *ret; /* set when the key is there */
    uint64_t min, max;
    const char *why;
};

/* The object in `text`, to be dropped with json_object_put(). STASIS_ERR_INVALID_ARGUMENT. */
int api_json_parse(const char *text, size_t size, json_object **ret_object,
                   struct stasis_error *err);

/* Take the keys of an object. STASIS_ERR_INVALID_ARGUMENT or STASIS_ERR_UNSUPPORTED. */
int api_json_take(json_object *object, const struct api_key *keys, size_t key_count,
                  struct stasis_error *err);

#define API_KEYS(keys) (keys), sizeof(keys) / sizeof((keys)[0])

#endif
