/*
 * save_buffer.c - a snapshot into memory: a file that has no name and no disk, mapped.
 *
 * A memfd takes holes as a file system does, so that a buffer costs what the guest's data does, and the
 * bytes are those of a file because they are written by the same code.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "snapshot/handle.h"

static int map_file(int fd, uint64_t size, struct stasis_buffer *ret_buffer,
                    struct stasis_error *err)
{
    void *data = size > SIZE_MAX
                     ? MAP_FAILED
                     : mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (data == MAP_FAILED)
        return stasis_fail_memory(err, "a snapshot in memory");
    *ret_buffer = (struct stasis_buffer){ .data = data, .size = (size_t)size };
    return 0;
}

int stasis_save_buffer(const struct stasis_machine *machine, const struct stasis_memory *memory,
                       const struct stasis_save_options *options, struct stasis_buffer *ret_buffer,
                       struct stasis_save_report *ret_report, struct stasis_error *err)
{
    struct stasis_save_report report;
    auto_fd fd = memfd_create("stasis", MFD_CLOEXEC);
    int r;

    if (fd < 0)
        return stasis_fail_errno(err, "create a file in memory");
    if ((r = stasis_save_fd(fd, machine, memory, options, &report, err)) < 0 ||
        (r = map_file(fd, report.file_size, ret_buffer, err)) < 0)
        return r;
    if (ret_report)
        *ret_report = report;
    return 0;
}

void stasis_buffer_release(struct stasis_buffer *buffer)
{
    if (!buffer)
        return;
    if (buffer->data)
        munmap(buffer->data, buffer->size);
    *buffer = (struct stasis_buffer){ 0 };
}
