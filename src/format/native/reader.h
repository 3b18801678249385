/* reader.h - a native file that is open: what its superblock, table, machine and layout say. */
#ifndef STASIS_FORMAT_NATIVE_READER_H
#define STASIS_FORMAT_NATIVE_READER_H

#include "format/codec.h"
#include "format/native/disk.h"
#include "format/native/facts.h"

struct native_image {
    struct format_image image; /* first member: codecs are handed its address */
    struct native_superblock superblock;
    uint8_t superblock_bytes[NATIVE_SUPERBLOCK_SIZE]; /* as they were when it was opened */
    struct native_section sections[NATIVE_SECTION_MAX];
    struct native_meta meta;
};

/* Errors as stasis_open(). Guest memory and its digests are not read. */
int native_open(struct format_source *source, struct format_image **ret_image,
                struct stasis_error *err);
void native_close(struct format_image *image);

/* As stasis_verify(); see struct format_codec. */
int native_verify(const struct format_image *image, const struct stasis_verify_options *options,
                  struct stasis_verify_report *ret_report, struct stasis_error *err);

static inline const struct native_image *native_image_of(const struct format_image *image)
{
    return (const struct native_image *)(const void *)image;
}

#endif
