/*
 * pages.c - reading pages of an open snapshot, whatever files they lie in, each under its digest.
 */
#include <stdlib.h>

#include "base/error.h"
#include "snapshot/handle.h"

struct stasis_reader {
    const struct stasis_snapshot *snapshot;
    struct format_reader *reader;
};

int stasis_reader_open(const struct stasis_snapshot *snapshot, struct stasis_reader **ret_reader,
                       struct stasis_error *err)
{
    struct stasis_reader *reader = calloc(1, sizeof(*reader));
    int r;

    if (!reader)
        return stasis_fail_memory(err, "a reader");
    reader->snapshot = snapshot;
    r = snapshot->codec->reader_open(snapshot->image, &reader->reader, err);
    if (r < 0) {
        free(reader);
        return r;
    }
    *ret_reader = reader;
    return 0;
}

int stasis_reader_read(struct stasis_reader *reader, uint64_t first_page, uint64_t page_count,
                       void *buf, struct stasis_error *err)
{
    const struct stasis_snapshot *snapshot = reader->snapshot;
    uint64_t end;

    if (__builtin_add_overflow(first_page, page_count, &end) || end > snapshot->image->page_count)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "%ju pages from page %ju on are not in a memory of %ju",
                           (uintmax_t)page_count, (uintmax_t)first_page,
                           (uintmax_t)snapshot->image->page_count);
    if (page_count == 0)
        return 0;
    return snapshot->codec->reader_read(reader->reader, first_page, page_count, buf, err);
}

void stasis_reader_close(struct stasis_reader *reader)
{
    if (!reader)
        return;
    reader->snapshot->codec->reader_close(reader->reader);
    free(reader);
}
