/* facts.h - the two small CBOR maps of a native file: where memory is (layout), and what people want
 * to know (meta). Both are structs with field tables, as machine state is. */
#ifndef STASIS_FORMAT_NATIVE_FACTS_H
#define STASIS_FORMAT_NATIVE_FACTS_H

#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>
#include <stasis/memory.h>

#include "base/bytes.h"

/* A label is at most 255 bytes; a writer's name may grow to as much. */
#define NATIVE_TEXT_SIZE 256

struct native_region {
    uint64_t gpa;
    uint64_t size; /* bytes */
};

struct native_layout {
    uint64_t data_size;            /* bytes in pages that are not all zero */
    struct native_region *regions; /* owned */
    size_t regions_count;
};

struct native_meta {
    int64_t created_ns; /* since the epoch */
    char writer[NATIVE_TEXT_SIZE];
    char label[NATIVE_TEXT_SIZE];
};

extern const struct stasis_table native_layout_table;
extern const struct stasis_table native_meta_table;

/* Append the layout of `memory` to `out`. STASIS_ERR_OUT_OF_MEMORY. */
int native_layout_encode(const struct stasis_memory *memory, uint64_t data_size,
                         struct byte_buffer *out, struct stasis_error *err);

/*
 * Decode and check a layout. The regions become the caller's (free()), with hva NULL.
 * STASIS_ERR_CORRUPT, STASIS_ERR_INVALID_MEMORY, STASIS_ERR_LIMIT, STASIS_ERR_OUT_OF_MEMORY.
 */
int native_layout_decode(const void *data, size_t size, struct stasis_memory *ret_memory,
                         uint64_t *ret_data_size, struct stasis_error *err);

/* STASIS_ERR_INVALID_ARGUMENT the label is no UTF-8 or too long; STASIS_ERR_OUT_OF_MEMORY. */
int native_meta_encode(const char *label, struct byte_buffer *out, struct stasis_error *err);

/* STASIS_ERR_CORRUPT, STASIS_ERR_OUT_OF_MEMORY. */
int native_meta_decode(const void *data, size_t size, struct native_meta *ret_meta,
                       struct stasis_error *err);

#endif
