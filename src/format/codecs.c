/*
 * codecs.c - the list of formats, in the order in which they are asked.
 *
 * This is the only file that knows all of them. Formats with a magic number come first: those
 * recognised by looser marks must not get to answer for them.
 */
#include "format/codec.h"

static const struct format_codec *const codecs[] = { &native_codec };

const struct format_codec *format_find(const struct format_source *source)
{
    for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]); i++) {
        if (codecs[i]->probe(source))
            return codecs[i];
    }
    return NULL;
}
