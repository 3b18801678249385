/* codec.h - what a snapshot format must be able to do, so that the verbs need not know which it is.
 *
 * A codec is a constant table of functions (doc/design.md, D1). Formats do not know each other;
 * codecs.c alone lists them. A file's format is found by its content, never by its name. */
#ifndef STASIS_FORMAT_CODEC_H
#define STASIS_FORMAT_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>
#include <stasis/machine.h>
#include <stasis/memory.h>
#include <stasis/snapshot.h>

#include "memory/progress.h"
#include "memory/rate.h"

#define FORMAT_HEAD_SIZE 4096 /* bytes of a file that probes may look at */

/* An outside file that may be a snapshot. */
struct format_source {
    const char *path; /* as the caller gave it; formats of several files find the others by it. NULL
                         when it was opened by a descriptor */
    const char *parent_dir; /* where to look for other files instead; may be NULL */
    int fd;                 /* open for reading, regular; a codec that keeps it leaves -1 behind */
    uint64_t file_size;
    uint8_t head[FORMAT_HEAD_SIZE]; /* the file's first bytes */
    size_t head_size;               /* how many there are */
};

/*
 * Where guest memory lies: extents in ascending order that cover every page once, each up to where the
 * next begins. Pages are numbered linearly (memory/layout.h), offsets are pages into the memory of a
 * layer. Layer 0 is the snapshot's own file, the others are files it builds on.
 *
 *     page     0        40   41          900
 *     extent   [data    ][ 0 ][data       ][data ...
 *     layer     2              0           2
 *     offset    0              0           900
 */
enum format_extent_kind {
    FORMAT_EXTENT_DATA = 1,
    FORMAT_EXTENT_ZERO = 2, /* offset and layer are 0 */
};

struct format_extent {
    uint64_t first_page;
    uint64_t offset; /* pages */
    uint32_t layer;
    uint32_t kind; /* enum format_extent_kind */
};

/* A layer that is open for reading. */
struct format_layer {
    int fd;
    bool owned;          /* the fd is to be closed by format_layer_close() */
    uint64_t memory_off; /* file offset of page 0 of its memory */
    bool flat;           /* its page n is the guest's page n, and zero pages may be in it */
};

/* An open snapshot. Codecs embed it in a struct of their own and never change it once it is open,
 * so that threads may share it. */
struct format_image {
    struct stasis_snapshot_info info; /* `regions` is the same array as below */
    struct stasis_machine machine;
    struct stasis_memory memory;   /* regions with hva NULL */
    uint64_t page_count;           /* of memory */
    struct format_extent *extents; /* owned */
    size_t extent_count;           /* at least 1 */
    uint32_t layer_count;          /* at least 1; info.layers describes them */
};

/* Where an extent ends: the first page behind it. */
static inline uint64_t format_extent_end(const struct format_image *image, size_t index)
{
    return index + 1 < image->extent_count ? image->extents[index + 1].first_page
                                           : image->page_count;
}

/* The extent that a page of the image lies in. */
size_t format_extent_find(const struct format_image *image, uint64_t page);

/* Safe on a zeroed one. */
void format_layer_close(struct format_layer *layer);

/* Pages of memory read through the format's digests. */
struct format_reader;

/* An open snapshot of whatever format, as a source of pages. */
struct format_pages {
    const struct format_codec *codec;
    const struct format_image *image;
};

/* What is to be saved; checked by the caller. Valid during save_begin() only, but for what is said. */
struct format_content {
    const struct stasis_machine *machine;
    const struct stasis_memory *memory;
    const char *label;              /* never NULL */
    enum stasis_digest_kind digest; /* never 0 */
    unsigned thread_count;          /* never 0 */
    /* What the changes are counted from, open until the save ends; NULL for a full snapshot. */
    const struct format_image *parent;
    bool full_from_parent; /* with a parent: a full file, all the same */
    /* Until the save ends: */
    struct progress
        *progress;     /* progress_add(): bytes of data written, or of pages looked at where the
                                  capture was not scanned; never NULL */
    struct rate *rate; /* rate_take() before writing memory; never NULL */
};

/* Where a snapshot goes: a name, under which it appears whole or not at all, or an empty file. */
struct format_target {
    const char *path; /* NULL: into fd */
    int fd;           /* the caller's, open until the save ends */
};

/* A save under way; codecs embed it in a struct of their own. */
struct format_save {
    struct stasis_save_report report; /* what the codec knows of it */
};

struct capture; /* memory/capture.h */

struct format_codec {
    const char *name;
    /* Does the content look like this format, sound or not? Cheap, and says yes to damaged and newer
     * files too, so that open() can say what is wrong with them. */
    bool (*probe)(const struct format_source *source);
    /* Errors as stasis_open(). */
    int (*open)(struct format_source *source, struct format_image **ret_image,
                struct stasis_error *err);
    void (*close)(struct format_image *image); /* NULL is fine */
    /*
     * The file of a layer, open and known to be the one that the snapshot was built on; cheap, so
     * that a chain can be opened layer by layer. STASIS_ERR_PARENT_MISSING, _WRONG_PARENT, _TRUNCATED.
     */
    int (*open_layer)(const struct format_image *image, uint32_t layer,
                      struct format_layer *ret_layer, struct stasis_error *err);
    /*
     * A reader that checks every page it reads against its digest. It keeps layers open, and what
     * it needs of their digests; reading is thread safe. Errors as open_layer() and verify().
     */
    int (*reader_open)(const struct format_image *image, struct format_reader **ret_reader,
                       struct stasis_error *err);
    /* Pages [first_page, first_page + page_count) of memory. */
    int (*reader_read)(struct format_reader *reader, uint64_t first_page, uint64_t page_count,
                       uint8_t *buf, struct stasis_error *err);
    /* 1 when these pages are known to be zero without reading them, 0 when that is not known. */
    int (*reader_zero)(struct format_reader *reader, uint64_t first_page, uint64_t page_count,
                       struct stasis_error *err);
    void (*reader_close)(struct format_reader *reader); /* NULL is fine */
    /* As stasis_verify(); `options` is not NULL and its thread_count not 0, `ret_report` may be NULL. */
    int (*verify)(const struct format_image *image, const struct stasis_verify_options *options,
                  struct stasis_verify_report *ret_report, struct stasis_error *err);
    /*
     * Saving, all or nothing (D4); NULL where the format is read only. Errors as stasis_save_begin() and
     * stasis_save_finish(). In this order:
     *     save_begin   the target is there and can be written, the machine can be said in this format
     *     save_memory  memory, while the guest stands still (a live capture) or later (a copied one)
     *     save_commit  all that is left, and the commit; fills the report
     *     save_end     always, once, after any of them: what was not committed goes
     */
    int (*save_begin)(const struct format_target *target, const struct format_content *content,
                      struct format_save **ret_save, struct stasis_error *err);
    int (*save_memory)(struct format_save *save, const struct capture *capture,
                       struct stasis_error *err);
    /* Instead of save_memory(): memory, and its layout, from another snapshot. */
    int (*save_copy)(struct format_save *save, const struct format_pages *from,
                     struct stasis_error *err);
    int (*save_commit)(struct format_save *save, struct stasis_error *err);
    void (*save_end)(struct format_save *save); /* NULL is fine */
};

extern const struct format_codec native_codec;

/* The codec whose probe says yes, or NULL. */
const struct format_codec *format_find(const struct format_source *source);

#endif
