/*
 * layer.c - what all formats share about the extents and layers of an open snapshot.
 *
 * Everything that reads or maps guest memory asks here which extent a page lies in. The extents were
 * checked when the snapshot was opened: ascending, the first one at page 0.
 */
#include <unistd.h>

#include "base/cleanup.h"
#include "format/codec.h"

size_t format_extent_find(const struct format_image *image, uint64_t page)
{
    size_t low = 0, high = image->extent_count;

    /* extents[low] begins at or before the page, extents[high] behind it. */
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;

        if (image->extents[middle].first_page <= page)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void format_layer_close(struct format_layer *layer)
{
    if (layer->owned)
        fd_close(&layer->fd);
    *layer = (struct format_layer){ .fd = -1 };
}
