/*
 * codec.c - the native format's entry in the list of codecs.
 */
#include "format/codec.h"

#include <string.h>

#include "format/native/chain.h"
#include "format/native/copy.h"
#include "format/native/disk.h"
#include "format/native/pages.h"
#include "format/native/reader.h"
#include "format/native/save.h"

static bool native_probe(const struct format_source *source)
{
    return source->head_size >= NATIVE_MAGIC_SIZE &&
           memcmp(source->head, NATIVE_MAGIC, NATIVE_MAGIC_SIZE) == 0;
}

const struct format_codec native_codec = {
    .name = "native",
    .probe = native_probe,
    .open = native_open,
    .close = native_close,
    .open_layer = chain_open_layer,
    .reader_open = native_reader_open,
    .reader_read = native_reader_read,
    .reader_zero = native_reader_zero,
    .reader_close = native_reader_close,
    .verify = native_verify,
    .save_begin = native_save_begin,
    .save_memory = native_save_memory,
    .save_copy = native_save_copy,
    .save_commit = native_save_commit,
    .save_end = native_save_end,
};
