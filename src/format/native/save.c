/*
 * save.c - a native file being made: the target opened, memory written, the rest, the commit.
 *
 * One file, so state and memory commit together: it is written under a private name and appears
 * under its own only when all of it is on disk (doc/design.md, D4). The machine is encoded before
 * anything is written, so what cannot be saved fails early, and the caller may forget it when the
 * guest goes on.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/durable.h"
#include "base/error.h"
#include "format/native/copy.h"
#include "format/native/facts.h"
#include "format/native/save.h"
#include "machine/fields.h"

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* --- begin --- */

/* A file that somebody else owns: only ever written from the start, and all of it ours. */
static int check_empty_file(int fd, struct stasis_error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return stasis_fail_errno(err, "stat the file to save into");
    if (!S_ISREG(st.st_mode))
        return stasis_fail(err, STASIS_ERR_NOT_REGULAR,
                           "the file to save into is not a regular file");
    if (st.st_size != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the file to save into is not empty, it has %jd bytes",
                           (intmax_t)st.st_size);
    return 0;
}

static int open_target(struct native_save *save, const struct format_target *target,
                       struct stasis_error *err)
{
    int r;

    if (target->path) {
        r = durable_begin(&save->file, target->path, err);
        save->fd = save->file.fd;
        return r;
    }
    r = check_empty_file(target->fd, err);
    if (r < 0)
        return r;
    save->fd = target->fd;
    return 0;
}

static int encode_first(const struct format_content *content, struct native_save *save,
                        struct stasis_error *err)
{
    int r = native_meta_encode(content->label, &save->meta, err);

    if (r < 0)
        return r;
    r = fields_encode(&stasis_machine_table, content->machine, &save->machine, err);
    return r < 0 ? stasis_wrap(err, r, "machine") : 0;
}

int native_save_begin(const struct format_target *target, const struct format_content *content,
                      struct format_save **ret_save, struct stasis_error *err)
{
    struct native_save *save = calloc(1, sizeof(*save));
    int r;

    if (!save)
        return stasis_fail_memory(err, "a save");
    save->file = (struct durable_file){ .fd = -1, .dir_fd = -1 };
    save->fd = -1;
    save->thread_count = content->thread_count;
    save->progress = content->progress;
    save->rate = content->rate;
    save->digest = content->digest;
    save->parent = content->parent;
    save->full_from_parent = content->full_from_parent;
    byte_buffer_init(&save->machine, NATIVE_MACHINE_SIZE_MAX);
    byte_buffer_init(&save->layout, NATIVE_FACTS_SIZE_MAX);
    byte_buffer_init(&save->meta, NATIVE_FACTS_SIZE_MAX);
    if ((r = encode_first(content, save, err)) < 0 || (r = open_target(save, target, err)) < 0) {
        native_save_end(&save->save);
        return r;
    }
    native_writer_init(&save->writer, save->fd, content->digest);
    *ret_save = &save->save;
    return 0;
}

/* --- memory --- */

static int write_diff_memory(struct native_save *save, const struct capture *capture,
                             struct stasis_error *err)
{
    const struct native_diff_job job = { .parent = native_image_of(save->parent),
                                         .capture = capture,
                                         .digest = save->digest,
                                         .thread_count = save->thread_count,
                                         .progress = save->progress,
                                         .rate = save->rate };

    save->save.report.data_size = capture->data_count * STASIS_PAGE_SIZE;
    save->save.report.zero_size = capture->zero_count * STASIS_PAGE_SIZE;
    return native_diff_write_memory(&save->diff, save->fd, &job, err);
}

int native_save_memory(struct format_save *format_save, const struct capture *capture,
                       struct stasis_error *err)
{
    struct native_save *save = native_save_of(format_save);
    struct stasis_save_report *report = &format_save->report;
    const struct native_memory_job job = { .capture = capture,
                                           .thread_count = save->thread_count,
                                           .progress = save->progress,
                                           .rate = save->rate };
    int r;

    report->memory_size = capture->page_count * STASIS_PAGE_SIZE;
    if (native_saves_diff(save))
        return write_diff_memory(save, capture, err);
    r = save->parent ? native_writer_append_clone(&save->writer, native_image_of(save->parent),
                                                  &job, &report->data_size, &save->digests, err)
                     : native_writer_append_memory(&save->writer, &job, &report->data_size,
                                                   &save->digests, err);
    if (r < 0)
        return r;
    report->zero_size = report->memory_size - report->data_size;
    return native_layout_encode(&capture->memory, report->data_size, &save->layout, err);
}

/* --- commit --- */

static int write_state(struct native_save *save, struct stasis_error *err)
{
    struct native_writer *writer = &save->writer;
    int r;

    if ((r = native_writer_append(writer, NATIVE_SECTION_MACHINE, NATIVE_FLAG_CRITICAL,
                                  save->machine.data, save->machine.size, err)) < 0 ||
        (r = native_writer_append(writer, NATIVE_SECTION_LAYOUT, NATIVE_FLAG_CRITICAL,
                                  save->layout.data, save->layout.size, err)) < 0 ||
        (r = native_writer_append(writer, NATIVE_SECTION_META, 0, save->meta.data, save->meta.size,
                                  err)) < 0)
        return r;
    return native_writer_append_digests(writer, 0, &save->digests, err);
}

/* A caller's file is only synced: whose name it gets is the caller's business. */
static int sync_target(struct native_save *save, struct stasis_error *err)
{
    int r;

    if (save->file.fd >= 0)
        return durable_commit(&save->file, err);
    do {
        r = fdatasync(save->fd);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? stasis_fail_errno(err, "sync the file") : 0;
}

static int finish_diff(struct native_save *save, struct stasis_error *err)
{
    const struct native_diff_rest rest = {
        .parent = native_image_of(save->parent),
        .machine = &save->machine,
        .meta = &save->meta,
        .place = { .dir_fd = save->file.dir_fd, .name = save->file.name },
    };

    return native_diff_finish(&save->diff, &rest, &save->save.report.file_size,
                              save->save.report.id, err);
}

static int finish_full(struct native_save *save, struct stasis_error *err)
{
    int r = write_state(save, err);

    return r < 0 ? r
                 : native_writer_finish(&save->writer, &save->save.report.file_size,
                                        save->save.report.id, err);
}

int native_save_commit(struct format_save *format_save, struct stasis_error *err)
{
    struct native_save *save = native_save_of(format_save);
    struct stasis_save_report *report = &format_save->report;
    uint64_t begin_us;
    struct stat st;
    int r = native_saves_diff(save) ? finish_diff(save, err) : finish_full(save, err);

    if (r < 0)
        return r;
    begin_us = now_us();
    r = sync_target(save, err);
    if (r < 0)
        return r;
    report->sync_us = now_us() - begin_us;
    /* Asked after the sync, for before it a file system may not have decided yet. */
    if (fstat(save->fd, &st) == 0)
        report->file_allocated = (uint64_t)st.st_blocks * 512;
    save->committed = true;
    return 0;
}

void native_save_end(struct format_save *format_save)
{
    struct native_save *save = native_save_of(format_save);

    if (!save)
        return;
    /* Best effort: the caller owns the file, and is told that its content is nothing to go by. */
    if (!save->committed && save->file.fd < 0 && save->fd >= 0)
        (void)!ftruncate(save->fd, 0);
    durable_abort(&save->file);
    native_digests_release(&save->digests);
    native_diff_release(&save->diff);
    byte_buffer_release(&save->machine);
    byte_buffer_release(&save->layout);
    byte_buffer_release(&save->meta);
    free(save);
}
