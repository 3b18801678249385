/* chain.h - from the list of layers in a diff to the files themselves, and back to a list for the
 * next diff.
 *
 * Layers are opened when something of them is needed, and each time it is checked that the file is the
 * one meant: a snapshot may be open for days, and its ancestors may be moved or replaced meanwhile. */
#ifndef STASIS_FORMAT_NATIVE_CHAIN_H
#define STASIS_FORMAT_NATIVE_CHAIN_H

#include "format/codec.h"
#include "format/native/layers.h"
#include "format/native/reader.h"

/* Keep hold of the directory that a diff's paths start from; `native` is being opened. When there is
 * none, its layers cannot be found later, and nothing else fails. */
int chain_open_dir(struct native_image *native, const struct format_source *source,
                   struct stasis_error *err);

/* See struct format_codec. */
int chain_open_layer(const struct format_image *image, uint32_t layer,
                     struct format_layer *ret_layer, struct stasis_error *err);

/* A layer other than 0 with its section table. Errors as chain_open_layer() and stasis_open(). */
int chain_open_image(const struct native_image *native, uint32_t layer,
                     struct native_image **ret_native, struct stasis_error *err);

/* Where memory is in layer 0, an open file of either kind. */
struct format_layer chain_own_layer(const struct native_image *native);

/* Where a diff is going to be. */
struct chain_place {
    int dir_fd;       /* its directory; -1: in no file system, then paths start from the parent's */
    const char *name; /* its name there; NULL when dir_fd is -1 */
};

/*
 * The layers of a diff on `parent`: the parent and its own layers, with paths from the diff's place.
 * `ret_layers` is to be released. STASIS_ERR_PARENT_MISSING the parent's file has no name any more;
 * STASIS_ERR_INVALID_ARGUMENT the diff would replace one of its layers; STASIS_ERR_LIMIT;
 * STASIS_ERR_OUT_OF_MEMORY; STASIS_ERR_IO.
 */
int chain_list_layers(const struct native_image *parent, const struct chain_place *place,
                      struct native_layers *ret_layers, struct stasis_error *err);

/* Drop what no extent uses, but for the parent; extents' layers are renumbered. `list` is a map over
 * layer 0 and `layers`. STASIS_ERR_OUT_OF_MEMORY. */
int chain_drop_unused(struct native_layers *layers, struct format_extent *extents,
                      size_t extent_count, struct stasis_error *err);

#endif
