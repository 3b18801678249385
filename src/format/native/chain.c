/*
 * chain.c - finding the files that a diff builds on, and making sure that they are those.
 *
 * A path in a diff is only a hint. What decides is the root in the superblock of what is found there:
 * another snapshot in the parent's place would give the guest memory that it never had. Cycles
 * cannot be: a file would have to contain its own SHA-256. The file's length is checked as well, for
 * it will be mapped.
 */
#include "format/native/chain.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "format/native/path.h"

#define ROOT_OFF 64
#define ROOT_END (ROOT_OFF + NATIVE_ID_SIZE)

int chain_open_dir(struct native_image *native, const struct format_source *source,
                   struct stasis_error *err)
{
    auto_free char *real = NULL;
    auto_free char *dir = NULL;

    if (source->parent_dir) {
        native->dir_fd = open(source->parent_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (native->dir_fd < 0)
            return stasis_fail_errno(err, "open directory '%s'", source->parent_dir);
        return 0;
    }
    /* By its real name: paths are meant from where the file is, not from a symlink to it. */
    real = source->path ? realpath(source->path, NULL) : NULL;
    dir = real ? path_parent(real) : NULL;
    if (dir)
        native->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return 0;
}

struct format_layer chain_own_layer(const struct native_image *native)
{
    return (struct format_layer){ .fd = native->fd,
                                  .memory_off = native_memory(native)->file_off,
                                  .flat = !native_is_diff(native) };
}

static int open_file(const struct native_image *native, const char *path, int *ret_fd,
                     uint64_t *ret_size, struct stasis_error *err)
{
    struct stat st;
    auto_fd fd = -1;

    if (native->dir_fd < 0)
        return stasis_fail(err, STASIS_ERR_PARENT_MISSING,
                           "the snapshot is in no directory to look from");
    /* Asked before the open, for opening a device can do things; and after it. */
    if (fstatat(native->dir_fd, path, &st, 0) == 0 && !S_ISREG(st.st_mode))
        return stasis_fail(err, STASIS_ERR_NOT_REGULAR, "not a regular file");
    fd = openat(native->dir_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return stasis_fail(err, STASIS_ERR_PARENT_MISSING, "there is no such file");
    if (fd < 0)
        return stasis_fail_errno(err, "open");
    if (fstat(fd, &st) < 0)
        return stasis_fail_errno(err, "stat");
    if (!S_ISREG(st.st_mode))
        return stasis_fail(err, STASIS_ERR_NOT_REGULAR, "not a regular file");
    *ret_size = (uint64_t)st.st_size;
    *ret_fd = fd_steal(&fd);
    return 0;
}

static int check_identity(int fd, uint64_t file_size, const struct native_layer *layer,
                          struct stasis_error *err)
{
    uint8_t head[ROOT_END];
    int r = file_size < sizeof(head) ? 0 : io_read_at(fd, head, sizeof(head), 0, err);

    if (r < 0)
        return r;
    if (file_size < sizeof(head) || memcmp(head, NATIVE_MAGIC, NATIVE_MAGIC_SIZE) != 0 ||
        memcmp(head + ROOT_OFF, layer->root, NATIVE_ID_SIZE) != 0)
        return stasis_fail(err, STASIS_ERR_WRONG_PARENT,
                           "another file than the one that the snapshot was built on");
    if (file_size != layer->file_size)
        return stasis_fail(err,
                           file_size < layer->file_size ? STASIS_ERR_TRUNCATED : STASIS_ERR_CORRUPT,
                           "the file is %ju bytes, %ju were expected", (uintmax_t)file_size,
                           (uintmax_t)layer->file_size);
    return 0;
}

static int open_checked(const struct native_image *native, uint32_t number, int *ret_fd,
                        struct stasis_error *err)
{
    const struct native_layer *layer = &native->layers.items[number - 1];
    auto_fd fd = -1;
    uint64_t file_size = 0;
    int r = open_file(native, layer->path, &fd, &file_size, err);

    if (r == 0)
        r = check_identity(fd, file_size, layer, err);
    if (r < 0)
        return stasis_wrap(err, r, "layer %u, '%s'", number, layer->path);
    *ret_fd = fd_steal(&fd);
    return 0;
}

int chain_open_layer(const struct format_image *image, uint32_t layer,
                     struct format_layer *ret_layer, struct stasis_error *err)
{
    const struct native_image *native = native_image_of(image);
    const struct native_layer *item;
    int fd = -1;
    int r;

    if (layer == 0) {
        *ret_layer = chain_own_layer(native);
        return 0;
    }
    r = open_checked(native, layer, &fd, err);
    if (r < 0)
        return r;
    item = &native->layers.items[layer - 1];
    *ret_layer = (struct format_layer){ .fd = fd,
                                        .owned = true,
                                        .memory_off = item->memory_off,
                                        .flat = item->kind == NATIVE_KIND_FULL };
    return 0;
}

int chain_open_image(const struct native_image *native, uint32_t layer,
                     struct native_image **ret_native, struct stasis_error *err)
{
    const struct native_layer *item = &native->layers.items[layer - 1];
    const struct native_section *memory;
    struct native_image *opened;
    auto_fd fd = -1;
    int r;

    if ((r = open_checked(native, layer, &fd, err)) < 0)
        return r;
    if ((r = native_open_bare(&fd, item->file_size, &opened, err)) < 0)
        return stasis_wrap(err, r, "layer %u, '%s'", layer, item->path);
    memory = native_memory(opened);
    if (opened->superblock.kind != item->kind || memory->file_off != item->memory_off ||
        memory->size != item->memory_size) {
        native_close(&opened->image);
        return stasis_fail(err, STASIS_ERR_CORRUPT,
                           "layer %u, '%s': not what the snapshot says of it", layer, item->path);
    }
    *ret_native = opened;
    return 0;
}

/* --- the list for the next diff --- */

/* The name that an open file has now. */
static int name_of(int fd, char **ret_path, struct stasis_error *err)
{
    char link[40], path[PATH_MAX];
    struct stat by_fd, by_path;
    ssize_t size;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof(path) - 1);
    if (size < 0)
        return stasis_fail_errno(err, "find the name of the parent's file");
    path[size] = '\0';
    if (fstat(fd, &by_fd) < 0)
        return stasis_fail_errno(err, "stat the parent's file");
    if (stat(path, &by_path) < 0 || by_path.st_ino != by_fd.st_ino ||
        by_path.st_dev != by_fd.st_dev)
        return stasis_fail(err, STASIS_ERR_PARENT_MISSING,
                           "the parent's file has been removed or replaced since it was opened");
    *ret_path = strdup(path);
    return *ret_path ? 0 : stasis_fail_memory(err, "a path");
}

/* The parent itself as layer 1. */
static void describe_parent(const struct native_image *parent, struct native_layer *layer)
{
    const struct native_section *memory = native_memory(parent);

    memcpy(layer->root, parent->superblock.root, NATIVE_ID_SIZE);
    layer->kind = parent->superblock.kind;
    layer->file_size = parent->superblock.file_size;
    layer->memory_off = memory->file_off;
    layer->memory_size = memory->size;
}

static int fill_list(const struct native_image *parent, const char *parent_path, const char *dir,
                     struct native_layers *layers, struct stasis_error *err)
{
    auto_free char *parent_dir = path_parent(parent_path);

    describe_parent(parent, &layers->items[0]);
    layers->items[0].path = path_relative(dir, parent_path);
    if (!parent_dir || !layers->items[0].path)
        return stasis_fail_memory(err, "a path");
    for (uint32_t i = 0; i < parent->layers.count; i++) {
        const struct native_layer *from = &parent->layers.items[i];
        struct native_layer *to = &layers->items[i + 1];

        *to = *from;
        to->path = strcmp(dir, parent_dir) == 0 ? strdup(from->path)
                                                : path_rebase(from->path, parent_dir, dir);
        if (!to->path)
            return stasis_fail_memory(err, "a path");
    }
    return 0;
}

static int check_not_replaced(const struct native_layers *layers, const char *name,
                              struct stasis_error *err)
{
    for (uint32_t i = 0; name && i < layers->count; i++) {
        if (strcmp(layers->items[i].path, name) == 0)
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                               "the diff would replace '%s', which it builds on", name);
    }
    return 0;
}

int chain_list_layers(const struct native_image *parent, const struct chain_place *place,
                      struct native_layers *ret_layers, struct stasis_error *err)
{
    struct native_layers layers = { .count = parent->layers.count + 1,
                                    .depth = parent->layers.depth + 1 };
    auto_free char *parent_path = NULL;
    auto_free char *dir = NULL;
    int r;

    if (layers.count > NATIVE_LAYER_MAX || layers.depth > NATIVE_DEPTH_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT,
                           "the chain is %u layers long: flatten it, or rebase the diff",
                           layers.count);
    if ((r = name_of(parent->fd, &parent_path, err)) < 0)
        return r;
    if (place->dir_fd >= 0)
        r = name_of(place->dir_fd, &dir, err);
    else if (!(dir = path_parent(parent_path)))
        r = stasis_fail_memory(err, "a path");
    if (r < 0)
        return r;
    layers.items = calloc(layers.count, sizeof(*layers.items));
    if (!layers.items)
        return stasis_fail_memory(err, "the layers");
    if ((r = fill_list(parent, parent_path, dir, &layers, err)) < 0 ||
        (r = check_not_replaced(&layers, place->name, err)) < 0) {
        native_layers_release(&layers);
        return r;
    }
    *ret_layers = layers;
    return 0;
}

int chain_drop_unused(struct native_layers *layers, struct format_extent *extents,
                      size_t extent_count, struct stasis_error *err)
{
    auto_free uint32_t *number = calloc((size_t)layers->count + 1, sizeof(*number));
    uint32_t kept = 1;

    if (!number)
        return stasis_fail_memory(err, "the layers");
    for (size_t i = 0; i < extent_count; i++)
        number[extents[i].layer] = 1;
    number[1] = 1;
    for (uint32_t i = 1; i < layers->count; i++) {
        if (number[i + 1] == 0) {
            free(layers->items[i].path);
            continue;
        }
        layers->items[kept++] = layers->items[i];
        number[i + 1] = kept;
    }
    layers->count = kept;
    number[0] = 0;
    for (size_t i = 0; i < extent_count; i++)
        extents[i].layer = number[extents[i].layer];
    return 0;
}
