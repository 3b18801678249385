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

#define FORMAT_HEAD_SIZE 4096 /* bytes of a file that probes may look at */

/* An outside file that may be a snapshot. */
struct format_source {
    const char *path; /* as the caller gave it; formats of several files find the others by it */
    int fd;           /* open for reading, regular; a codec that keeps it leaves -1 behind */
    uint64_t file_size;
    uint8_t head[FORMAT_HEAD_SIZE]; /* the file's first bytes */
    size_t head_size;               /* how many there are */
};

/* An open snapshot. Codecs embed it in a struct of their own and never change it once it is open,
 * so that threads may share it. */
struct format_image {
    struct stasis_snapshot_info info; /* `regions` is the same array as below */
    struct stasis_machine machine;
    struct stasis_memory memory; /* regions with hva NULL */
    int memory_fd;               /* guest memory, flat, regions back to back; -1 when it is not */
    uint64_t memory_file_off;    /* where it begins, bytes */
};

/* What is to be saved; checked by the caller, kept valid and still until save() returns. */
struct format_content {
    const struct stasis_machine *machine;
    const struct stasis_memory *memory;
    const char *label;              /* never NULL */
    enum stasis_digest_kind digest; /* never 0 */
    unsigned thread_count;          /* never 0 */
    stasis_progress_fn *progress;   /* may be NULL */
    void *progress_arg;
};

struct format_codec {
    const char *name;
    /* Does the content look like this format, sound or not? Cheap, and says yes to damaged and newer
     * files too, so that open() can say what is wrong with them. */
    bool (*probe)(const struct format_source *source);
    /* Errors as stasis_open(). */
    int (*open)(struct format_source *source, struct format_image **ret_image,
                struct stasis_error *err);
    void (*close)(struct format_image *image); /* NULL is fine */
    /* As stasis_verify(); `options` is not NULL and its thread_count not 0, `ret_report` may be NULL. */
    int (*verify)(const struct format_image *image, const struct stasis_verify_options *options,
                  struct stasis_verify_report *ret_report, struct stasis_error *err);
    /* As stasis_save(); all or nothing (D4). NULL where the format is read only. */
    int (*save)(const char *path, const struct format_content *content,
                struct stasis_save_report *ret_report, struct stasis_error *err);
};

extern const struct format_codec native_codec;

/* The codec whose probe says yes, or NULL. */
const struct format_codec *format_find(const struct format_source *source);

#endif
