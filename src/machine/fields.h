/* fields.h - walking a struct by its field table: the mechanics behind machine state.
 *
 *     encode   struct -> CBOR map, keys in table order, shortest integer forms, definite lengths
 *     decode   CBOR map -> struct; the input is hostile
 *     check    ranges and limits
 *     compare  two structs, differences by path
 *     release  free what the pointers own (stasis_fields_release() in <stasis/machine.h>)
 *
 * CBOR forms (doc/format/native.md is the contract): scalars are integers, BOOL is true/false, BYTES
 * and BLOB are byte strings, TEXT is a text string, STRUCT and PART are maps (an absent PART has no
 * key), LIST and fixed arrays of more than one element are arrays. */
#ifndef STASIS_MACHINE_FIELDS_H
#define STASIS_MACHINE_FIELDS_H

#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>
#include <stasis/field.h>
#include <stasis/machine.h>

#include "base/bytes.h"

/* Append the CBOR form. Range and limit errors as fields_check(); STASIS_ERR_OUT_OF_MEMORY, STASIS_ERR_LIMIT. */
int fields_encode(const struct stasis_table *table, const void *object, struct byte_buffer *out,
                  struct stasis_error *err);

/*
 * Decode one CBOR map that fills `data` exactly. Unknown keys are skipped (nesting at most 16 deep), missing
 * keys refused unless OPTIONAL, duplicate keys refused, values out of a field's range refused;
 * nothing is allocated whose size the remaining input could not fill. `ret_object` is untouched on
 * failure. STASIS_ERR_CORRUPT (not CBOR, wrong type, missing or duplicate key), STASIS_ERR_INVALID_MACHINE
 * (value out of range), STASIS_ERR_LIMIT, STASIS_ERR_OUT_OF_MEMORY. The text names the path.
 */
int fields_decode(const struct stasis_table *table, const void *data, size_t size, void *ret_object,
                  struct stasis_error *err);

/* STASIS_ERR_INVALID_MACHINE or STASIS_ERR_LIMIT, text names the path. */
int fields_check(const struct stasis_table *table, const void *object, struct stasis_error *err);

/* As stasis_machine_compare(), for any two objects of one table. `prefix` begins every path. */
int fields_compare(const struct stasis_table *table, const void *a, const void *b,
                   const char *prefix, unsigned flags, stasis_difference_fn *on_difference,
                   void *arg, uint64_t *ret_count, struct stasis_error *err);

#endif
