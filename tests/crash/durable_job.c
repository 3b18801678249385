/*
 * durable_job.c - the smallest job that commits a file, for the crash tests.
 *
 *     durable_job save PATH LABEL    exit 0, or 1 and "CODE: text" on stderr
 *     durable_job check PATH         prints the label of a whole file; exit 1 if it is not whole
 *
 * A whole file is the label's character, SIZE times.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/durable.h"
#include "base/error.h"
#include "base/io.h"

#define PIECE 50000u
#define PIECES 4u
#define SIZE (PIECE * PIECES)

static int write_pieces(int fd, char label, struct stasis_error *err)
{
    static char piece[PIECE];

    memset(piece, label, sizeof(piece));
    if (ftruncate(fd, SIZE) < 0)
        return stasis_fail_errno(err, "set the size");
    for (unsigned i = 0; i < PIECES; i++) {
        const int r = io_write_at(fd, piece, sizeof(piece), (uint64_t)i * PIECE, err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int save(const char *path, char label, struct stasis_error *err)
{
    struct durable_file file;
    int r = durable_begin(&file, path, err);

    if (r == 0)
        r = write_pieces(file.fd, label, err);
    if (r == 0)
        r = durable_commit(&file, err);
    durable_abort(&file);
    return r;
}

static int check(const char *path, struct stasis_error *err)
{
    uint8_t *data;
    size_t size;
    int r = io_read_file(path, SIZE, &data, &size, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < size; i++) {
        if (size != SIZE || data[i] != data[0])
            return stasis_fail(err, STASIS_ERR_CORRUPT, "not whole: %zu bytes, differs at %zu",
                               size, i);
    }
    printf("%c\n", data[0]);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    struct stasis_error err = { 0 };
    int r;

    if (argc == 4 && strcmp(argv[1], "save") == 0)
        r = save(argv[2], argv[3][0], &err);
    else if (argc == 3 && strcmp(argv[1], "check") == 0)
        r = check(argv[2], &err);
    else
        return 2;
    if (r < 0)
        fprintf(stderr, "%s: %s\n", stasis_code_name(err.code), err.text);
    return r < 0;
}
