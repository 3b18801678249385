/* extents.h - the map of a diff: which page of memory lies where in which file of the chain.
 *
 * A map is resolved: it speaks of all of memory and of all layers, so that nobody has to walk the
 * chain. It is also in its shortest form: no extent goes on where the one before it ends. */
#ifndef STASIS_FORMAT_NATIVE_EXTENTS_H
#define STASIS_FORMAT_NATIVE_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>

#include "base/bytes.h"
#include "format/codec.h"
#include "format/native/layers.h"

#define NATIVE_EXTENT_SIZE 24 /* bytes in the file */

/* A map that is being put together, from page 0 up. */
struct extent_list {
    struct format_extent *extents; /* owned */
    size_t count, capacity;
    bool failed; /* out of memory; sticky */
};

void extent_list_release(struct extent_list *list);

/* What begins at extent->first_page; one that only goes on with the last is not added. */
void extent_list_add(struct extent_list *list, const struct format_extent *extent);

/* Append [first_page, end_page) of an image's map, its layers counted `layer_shift` higher. */
void extent_list_add_range(struct extent_list *list, const struct format_image *image,
                           uint64_t first_page, uint64_t end_page, uint32_t layer_shift);

/* STASIS_ERR_OUT_OF_MEMORY. `count` extents become NATIVE_EXTENT_SIZE bytes each. */
int extents_encode(const struct format_extent *extents, size_t count, struct byte_buffer *out,
                   struct stasis_error *err);

/*
 * Decode and check a section: the map covers `page_count` pages, its extents lie within the memory of
 * their layers, and those of layer 0 are all of its `packed_count` pages, in order. `layers` are
 * the file's ancestors. `ret_extents` is malloc'ed. STASIS_ERR_CORRUPT, _OUT_OF_MEMORY.
 */
int extents_decode(const uint8_t *data, size_t size, uint64_t page_count, uint64_t packed_count,
                   const struct native_layers *layers, struct format_extent **ret_extents,
                   size_t *ret_count, struct stasis_error *err);

#endif
