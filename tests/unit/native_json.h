/* native_json.h - what the second decoder says of a native file, and whether the library agrees. */
#ifndef STASIS_TESTS_NATIVE_JSON_H
#define STASIS_TESTS_NATIVE_JSON_H

#include <stdbool.h>

#include <json-c/json.h>

#include <stasis/field.h>
#include <stasis/memory.h>
#include <stasis/snapshot.h>

/* False where the decoder cannot run: no sources, no Python, no cbor2; `*ret_why` says which. */
bool native_json_available(const char **ret_why);

/* Run the decoder on a file. NULL when its output is no JSON; else give back by json_object_put(). */
struct json_object *native_json_decode(const char *path);

/* Compare an object with its JSON, field by field along its table; fails the test at the first
 * difference, naming `path`. */
void native_json_expect_object(const struct stasis_table *table, const void *object,
                               struct json_object *json, const char *path);

/* Compare all that the decoder said with what the library says of the open snapshot. `memory` is the
 * restored memory. */
void native_json_expect_snapshot(struct json_object *json, const struct stasis_snapshot *snapshot,
                                 const struct stasis_memory *memory);

#endif
