/* layers.h - the files that a diff builds on: who they are, where they are, and how to find them.
 *
 *     layer 0    the diff itself; not in the list
 *     layer 1    its parent, always there
 *     layer 2..  those of the parent's ancestors that a page still comes from, nearest first
 *
 * A layer is known by its root, never by its name; the path is a hint where to look for it. */
#ifndef STASIS_FORMAT_NATIVE_LAYERS_H
#define STASIS_FORMAT_NATIVE_LAYERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>

#include "base/bytes.h"
#include "format/native/disk.h"

#define NATIVE_LAYER_FIXED_SIZE 72 /* bytes of an entry in the file, before its path */
#define NATIVE_LAYERS_HEAD_SIZE 8
#define NATIVE_PATH_MAX 4095
#define NATIVE_LAYER_MAX 65536
#define NATIVE_DEPTH_MAX 0x7fffffffu

struct native_layer {
    uint8_t root[NATIVE_ID_SIZE];
    uint16_t kind; /* enum native_kind */
    uint64_t file_size;
    uint64_t memory_off;  /* of its memory section in its file, bytes */
    uint64_t memory_size; /* of that section, bytes */
    char *path;           /* owned; relative to the directory of the diff that lists it */
};

struct native_layers {
    struct native_layer *items; /* owned; items[n - 1] is layer n */
    uint32_t count;
    uint32_t depth; /* ancestors in all, those not listed counted */
};

void native_layers_release(struct native_layers *layers);

/* STASIS_ERR_OUT_OF_MEMORY, _LIMIT. */
int native_layers_encode(const struct native_layers *layers, struct byte_buffer *out,
                         struct stasis_error *err);

/* Decode and check. STASIS_ERR_CORRUPT, _LIMIT, _OUT_OF_MEMORY. */
int native_layers_decode(const uint8_t *data, size_t size, struct native_layers *ret_layers,
                         struct stasis_error *err);

#endif
