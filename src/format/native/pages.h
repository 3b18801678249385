/* pages.h - pages of a snapshot's memory, read from whatever layer has them, each under its digest. */
#ifndef STASIS_FORMAT_NATIVE_PAGES_H
#define STASIS_FORMAT_NATIVE_PAGES_H

#include "format/codec.h"
#include "format/native/reader.h"

/* See struct format_codec. */
int native_reader_open(const struct format_image *image, struct format_reader **ret_reader,
                       struct stasis_error *err);
/* Whether a file's memory has its digests where writers put them, and not elsewhere as the format would
 * allow: only those are read here. */
bool native_digests_usual(const struct native_image *native);

/* Check the bytes of memory's digests section against what hangs above it. STASIS_ERR_DIGEST_MISMATCH. */
int native_digests_check(const struct native_image *native, const struct native_section *digests,
                         const uint8_t *data, struct stasis_error *err);

int native_reader_read(struct format_reader *reader, uint64_t first_page, uint64_t page_count,
                       uint8_t *buf, struct stasis_error *err);
int native_reader_zero(struct format_reader *reader, uint64_t first_page, uint64_t page_count,
                       struct stasis_error *err);
void native_reader_close(struct format_reader *reader);

#endif
