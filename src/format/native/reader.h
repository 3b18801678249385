/* reader.h - a native file that is open: what its superblock, table, machine and layout say. */
#ifndef STASIS_FORMAT_NATIVE_READER_H
#define STASIS_FORMAT_NATIVE_READER_H

#include "format/codec.h"
#include "format/native/disk.h"
#include "format/native/facts.h"
#include "format/native/layers.h"

struct native_image {
    struct format_image image; /* first member: codecs are handed its address */
    struct native_superblock superblock;
    uint8_t superblock_bytes[NATIVE_SUPERBLOCK_SIZE]; /* as they were when it was opened */
    struct native_section sections[NATIVE_SECTION_MAX];
    struct native_meta meta;
    int fd;                      /* the file */
    int dir_fd;                  /* O_PATH, where a diff's layers are looked for; -1 when nowhere */
    struct native_layers layers; /* of a diff; empty otherwise */
    struct stasis_layer_info *layer_info; /* owned; what info.layers points to */
};

/* Errors as stasis_open(). Guest memory and its digests are not read. */
int native_open(struct format_source *source, struct format_image **ret_image,
                struct stasis_error *err);
void native_close(struct format_image *image);

/* Superblock, root and section table only, of a file that is `file_size` bytes. Also takes the fd. */
int native_open_bare(int *fd, uint64_t file_size, struct native_image **ret_native,
                     struct stasis_error *err);

static inline bool native_is_diff(const struct native_image *native)
{
    return native->superblock.kind == NATIVE_KIND_DIFF;
}

/* The memory section; every file has one. */
const struct native_section *native_memory(const struct native_image *native);

/* As stasis_verify(); see struct format_codec. */
int native_verify(const struct format_image *image, const struct stasis_verify_options *options,
                  struct stasis_verify_report *ret_report, struct stasis_error *err);

static inline const struct native_image *native_image_of(const struct format_image *image)
{
    return (const struct native_image *)(const void *)image;
}

#endif
