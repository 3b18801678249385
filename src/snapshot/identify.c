/*
 * identify.c - which format a file is of, by its content alone.
 *
 * Reads the head and asks the formats; nothing else of the file is looked at, so a damaged snapshot
 * still has a format to be named in the report about its damage.
 */
#include "base/cleanup.h"
#include "snapshot/handle.h"

int stasis_identify(const char *path, const char **ret_format, struct stasis_error *err)
{
    const struct format_codec *codec;
    struct format_source source;
    int r = snapshot_source_open(path, &source, &codec, err);

    if (r < 0)
        return r;
    fd_close(&source.fd);
    *ret_format = codec->name;
    return 0;
}
