/*
 * codec.c - the native format's entry in the list of codecs, and its way of saving.
 *
 * One file, so state and memory commit together: it is written under a private name and appears
 * under its own only when all of it is on disk (doc/design.md, D4).
 */
#include "format/codec.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/durable.h"
#include "base/error.h"
#include "format/native/disk.h"
#include "format/native/facts.h"
#include "format/native/reader.h"
#include "format/native/writer.h"
#include "machine/fields.h"

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static bool native_probe(const struct format_source *source)
{
    return source->head_size >= NATIVE_MAGIC_SIZE &&
           memcmp(source->head, NATIVE_MAGIC, NATIVE_MAGIC_SIZE) == 0;
}

/* The small sections, encoded before anything is written: what cannot be saved fails early. */
struct encoded {
    struct byte_buffer machine;
    struct byte_buffer layout;
    struct byte_buffer meta;
};

static void encoded_release(struct encoded *encoded)
{
    byte_buffer_release(&encoded->machine);
    byte_buffer_release(&encoded->layout);
    byte_buffer_release(&encoded->meta);
}

static int encode_first(const struct format_content *content, struct encoded *encoded,
                        struct stasis_error *err)
{
    int r = native_meta_encode(content->label, &encoded->meta, err);

    if (r < 0)
        return r;
    r = fields_encode(&stasis_machine_table, content->machine, &encoded->machine, err);
    return r < 0 ? stasis_wrap(err, r, "machine") : 0;
}

static int write_state(struct native_writer *writer, const struct format_content *content,
                       struct encoded *encoded, uint64_t data_size, struct stasis_error *err)
{
    /* Only now is it known how much of memory is data. */
    int r = native_layout_encode(content->memory, data_size, &encoded->layout, err);

    if (r < 0 ||
        (r = native_writer_append(writer, NATIVE_SECTION_MACHINE, NATIVE_FLAG_CRITICAL,
                                  encoded->machine.data, encoded->machine.size, err)) < 0 ||
        (r = native_writer_append(writer, NATIVE_SECTION_LAYOUT, NATIVE_FLAG_CRITICAL,
                                  encoded->layout.data, encoded->layout.size, err)) < 0 ||
        (r = native_writer_append(writer, NATIVE_SECTION_META, 0, encoded->meta.data,
                                  encoded->meta.size, err)) < 0)
        return r;
    return 0;
}

/* A whole snapshot into an empty file. */
static int write_full(int fd, const struct format_content *content, struct encoded *encoded,
                      struct stasis_save_report *report, struct stasis_error *err)
{
    const struct native_memory_job job = { .memory = content->memory,
                                           .thread_count = content->thread_count,
                                           .progress = content->progress,
                                           .progress_arg = content->progress_arg };
    const uint64_t begin_us = now_us();
    struct native_digests digests = { 0 };
    struct native_writer writer;
    int r;

    native_writer_init(&writer, fd, content->digest);
    r = native_writer_append_memory(&writer, &job, &report->data_size, &digests, err);
    if (r < 0)
        return r;
    report->memory_us = now_us() - begin_us;
    if ((r = write_state(&writer, content, encoded, report->data_size, err)) == 0 &&
        (r = native_writer_append_digests(&writer, 0, &digests, err)) == 0)
        r = native_writer_finish(&writer, &report->file_size, report->id, err);
    native_digests_release(&digests);
    return r;
}

static int commit(struct durable_file *file, struct stasis_save_report *report,
                  struct stasis_error *err)
{
    const uint64_t begin_us = now_us();
    struct stat st;
    int r = durable_commit(file, err);

    if (r < 0)
        return r;
    report->sync_us = now_us() - begin_us;
    /* Asked after the sync, for before it a file system may not have decided yet. */
    if (fstat(file->fd, &st) == 0)
        report->file_allocated = (uint64_t)st.st_blocks * 512;
    return 0;
}

static int native_save(const char *path, const struct format_content *content,
                       struct stasis_save_report *ret_report, struct stasis_error *err)
{
    const uint64_t begin_us = now_us();
    struct stasis_save_report report = { .memory_size = stasis_memory_size(content->memory) };
    struct durable_file file = { .fd = -1, .dir_fd = -1 };
    struct encoded encoded;
    int r;

    byte_buffer_init(&encoded.machine, NATIVE_MACHINE_SIZE_MAX);
    byte_buffer_init(&encoded.layout, NATIVE_FACTS_SIZE_MAX);
    byte_buffer_init(&encoded.meta, NATIVE_FACTS_SIZE_MAX);
    if ((r = encode_first(content, &encoded, err)) == 0 &&
        (r = durable_begin(&file, path, err)) == 0 &&
        (r = write_full(file.fd, content, &encoded, &report, err)) == 0)
        r = commit(&file, &report, err);
    durable_abort(&file);
    encoded_release(&encoded);
    if (r < 0)
        return r;

    report.zero_size = report.memory_size - report.data_size;
    report.total_us = now_us() - begin_us;
    if (ret_report)
        *ret_report = report;
    return 0;
}

const struct format_codec native_codec = {
    .name = "native",
    .probe = native_probe,
    .open = native_open,
    .close = native_close,
    .verify = native_verify,
    .save = native_save,
};
