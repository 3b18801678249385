/*
 * reader.c - from a file to a checked machine and memory layout.
 *
 * Nothing in the file is believed before it is checked, outermost first: version, the superblock's
 * digest, the file's length, the root over the section table, the table's rules, the digest of each
 * section that is read, its contents. Sizes are held against limits and the file's length before
 * they size an allocation. The file is read with pread() only: it may change or shrink at any time,
 * and a mapping that does so kills the process.
 *
 * Memory and its digests are left alone here, so that opening costs the same for a guest of any
 * size; verify.c follows the digests from the root down to them.
 */
#include "format/native/reader.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "format/native/chain.h"
#include "format/native/extents.h"
#include "machine/fields.h"

static int check_file_size(const struct native_superblock *superblock, uint64_t file_size,
                           struct stasis_error *err)
{
    if (file_size < superblock->file_size)
        return stasis_fail(err, STASIS_ERR_TRUNCATED,
                           "the file is %ju bytes, its superblock says %ju", (uintmax_t)file_size,
                           (uintmax_t)superblock->file_size);
    if (file_size > superblock->file_size)
        return stasis_fail(err, STASIS_ERR_CORRUPT,
                           "the file is %ju bytes, its superblock says %ju: something was added",
                           (uintmax_t)file_size, (uintmax_t)superblock->file_size);
    return 0;
}

static int read_table(struct native_image *native, int fd, struct stasis_error *err)
{
    const struct native_superblock *superblock = &native->superblock;
    const size_t size = (size_t)superblock->section_count * NATIVE_ENTRY_SIZE;
    uint8_t table[NATIVE_TABLE_SIZE_MAX];
    uint8_t root[NATIVE_ID_SIZE];
    int r = io_read_at(fd, table, size, superblock->table_off, err);

    if (r < 0)
        return stasis_wrap(err, r, "section table");
    native_root(native->superblock_bytes, table, size, root);
    if (memcmp(root, superblock->root, sizeof(root)) != 0)
        return stasis_fail(err, STASIS_ERR_DIGEST_MISMATCH,
                           "section table: digest mismatch with the superblock's root");
    return section_table_parse(superblock, table, native->sections, err);
}

/* A section hashed whole, read and verified. `ret_data` is NULL when the file has none of the type. */
static int read_section(const struct native_image *native, int fd, uint32_t type,
                        uint8_t **ret_data, size_t *ret_size, struct stasis_error *err)
{
    const struct native_section *section =
        section_find(native->sections, native->superblock.section_count, type);
    char text[NATIVE_SECTION_NAME_SIZE];
    uint8_t digest[DIGEST_SHA256_SIZE];
    auto_free uint8_t *data = NULL;
    int r;

    *ret_data = NULL;
    *ret_size = 0;
    if (!section)
        return 0;
    data = malloc(section->size ? (size_t)section->size : 1);
    if (!data)
        return stasis_fail_memory(err, section_name(type, text));
    r = io_read_at(fd, data, (size_t)section->size, section->file_off, err);
    if (r < 0)
        return stasis_wrap(err, r, "%s", section_name(type, text));
    digest_sha256(data, (size_t)section->size, digest);
    if (memcmp(digest, section->digest, sizeof(digest)) != 0)
        return stasis_fail(err, STASIS_ERR_DIGEST_MISMATCH,
                           "%s (file offset 0x%jx): digest mismatch", section_name(type, text),
                           (uintmax_t)section->file_off);
    *ret_data = take_ptr(data);
    *ret_size = (size_t)section->size;
    return 0;
}

static int read_machine(struct native_image *native, int fd, struct stasis_error *err)
{
    auto_free uint8_t *data = NULL;
    size_t size;
    int r = read_section(native, fd, NATIVE_SECTION_MACHINE, &data, &size, err);

    if (r < 0)
        return r;
    if ((r = fields_decode(&stasis_machine_table, data, size, &native->image.machine, err)) < 0 ||
        (r = stasis_machine_check(&native->image.machine, err)) < 0)
        return stasis_wrap(err, r, "machine");
    return 0;
}

static int read_layout(struct native_image *native, int fd, struct stasis_error *err)
{
    struct format_image *image = &native->image;
    const struct native_section *memory = native_memory(native);
    auto_free uint8_t *data = NULL;
    size_t size;
    int r = read_section(native, fd, NATIVE_SECTION_LAYOUT, &data, &size, err);

    if (r < 0)
        return r;
    r = native_layout_decode(data, size, &image->memory, &image->info.data_size, err);
    if (r < 0)
        return stasis_wrap(err, r, "layout");
    image->page_count = stasis_memory_size(&image->memory) / STASIS_PAGE_SIZE;
    if (!native_is_diff(native) && stasis_memory_size(&image->memory) != memory->size)
        return stasis_fail(err, STASIS_ERR_INVALID_MEMORY,
                           "layout: the regions are %ju bytes, the memory section is %ju",
                           (uintmax_t)stasis_memory_size(&image->memory), (uintmax_t)memory->size);
    if (memory->size % STASIS_PAGE_SIZE != 0)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "memory: %ju bytes are not whole pages",
                           (uintmax_t)memory->size);
    return 0;
}

static int read_layers(struct native_image *native, int fd, struct stasis_error *err)
{
    auto_free uint8_t *data = NULL;
    size_t size;
    int r = read_section(native, fd, NATIVE_SECTION_LAYERS, &data, &size, err);

    if (r < 0)
        return r;
    r = native_layers_decode(data, size, &native->layers, err);
    return r < 0 ? stasis_wrap(err, r, "layers") : 0;
}

static int read_extents(struct native_image *native, int fd, struct stasis_error *err)
{
    struct format_image *image = &native->image;
    auto_free uint8_t *data = NULL;
    size_t size;
    int r = read_section(native, fd, NATIVE_SECTION_EXTENTS, &data, &size, err);

    if (r < 0)
        return r;
    r = extents_decode(data, size, image->page_count,
                       native_memory(native)->size / STASIS_PAGE_SIZE, &native->layers,
                       &image->extents, &image->extent_count, err);
    return r < 0 ? stasis_wrap(err, r, "extents") : 0;
}

/* The map of a full snapshot: all of it is in the file, at its own place. */
static int make_flat_map(struct format_image *image, struct stasis_error *err)
{
    image->extents = calloc(1, sizeof(*image->extents));
    if (!image->extents)
        return stasis_fail_memory(err, "the map of memory");
    image->extents[0].kind = FORMAT_EXTENT_DATA;
    image->extent_count = 1;
    return 0;
}

static int read_map(struct native_image *native, int fd, struct stasis_error *err)
{
    int r;

    if (!native_is_diff(native))
        return make_flat_map(&native->image, err);
    if ((r = read_layers(native, fd, err)) < 0 || (r = read_extents(native, fd, err)) < 0)
        return r;
    return 0;
}

static void count_pages(const struct format_image *image, struct stasis_layer_info *layers,
                        uint64_t *ret_zero_pages)
{
    for (size_t i = 0; i < image->extent_count; i++) {
        const struct format_extent *extent = &image->extents[i];
        const uint64_t count = format_extent_end(image, i) - extent->first_page;

        if (extent->kind == FORMAT_EXTENT_ZERO)
            *ret_zero_pages += count;
        else
            layers[extent->layer].page_count += count;
    }
}

static int fill_layers(struct native_image *native, struct stasis_error *err)
{
    struct stasis_snapshot_info *info = &native->image.info;
    struct stasis_layer_info *layers = calloc((size_t)native->layers.count + 1, sizeof(*layers));

    if (!layers)
        return stasis_fail_memory(err, "the layers");
    native->layer_info = layers;
    memcpy(layers[0].id, native->superblock.root, sizeof(layers[0].id));
    layers[0].kind = (enum stasis_snapshot_kind)native->superblock.kind;
    layers[0].path = "";
    layers[0].file_size = native->superblock.file_size;
    for (uint32_t i = 0; i < native->layers.count; i++) {
        const struct native_layer *layer = &native->layers.items[i];

        memcpy(layers[i + 1].id, layer->root, sizeof(layers[0].id));
        layers[i + 1].kind = (enum stasis_snapshot_kind)layer->kind;
        layers[i + 1].path = layer->path;
        layers[i + 1].file_size = layer->file_size;
    }
    native->image.layer_count = native->layers.count + 1;
    count_pages(&native->image, layers, &info->zero_pages);
    info->layers = layers;
    info->layer_count = native->image.layer_count;
    info->ancestor_count = native->layers.depth;
    return 0;
}

static int read_meta(struct native_image *native, int fd, struct stasis_error *err)
{
    auto_free uint8_t *data = NULL;
    size_t size;
    int r = read_section(native, fd, NATIVE_SECTION_META, &data, &size, err);

    if (r < 0 || !data)
        return r;
    r = native_meta_decode(data, size, &native->meta, err);
    return r < 0 ? stasis_wrap(err, r, "meta") : 0;
}

static void fill_info(struct native_image *native)
{
    struct format_image *image = &native->image;
    struct stasis_snapshot_info *info = &image->info; /* data_size is there already */

    info->format = native_codec.name;
    info->kind = (enum stasis_snapshot_kind)native->superblock.kind;
    info->version_major = native->superblock.major;
    info->version_minor = native->superblock.minor;
    memcpy(info->id, native->superblock.root, sizeof(info->id));
    info->arch = (enum stasis_arch)image->machine.arch;
    info->vcpu_count = stasis_machine_vcpu_count(&image->machine);
    info->memory_size = stasis_memory_size(&image->memory);
    info->zero_size = info->memory_size - info->data_size;
    info->regions = image->memory.regions;
    info->region_count = image->memory.region_count;
    info->digest = (enum stasis_digest_kind)native->superblock.digest_kind;
    info->created_ns = native->meta.created_ns;
    info->writer = native->meta.writer;
    info->label = native->meta.label;
    info->file_size = native->superblock.file_size;
}

static int read_head(struct native_image *native, const struct format_source *source,
                     struct stasis_error *err)
{
    int r = superblock_parse(source->head, source->head_size, &native->superblock, err);

    if (r < 0)
        return r;
    memcpy(native->superblock_bytes, source->head, NATIVE_SUPERBLOCK_SIZE);
    r = check_file_size(&native->superblock, source->file_size, err);
    return r < 0 ? r : read_table(native, source->fd, err);
}

static int read_all(struct native_image *native, const struct format_source *source,
                    struct stasis_error *err)
{
    int r;

    if ((r = read_head(native, source, err)) < 0 ||
        (r = read_machine(native, source->fd, err)) < 0 ||
        (r = read_layout(native, source->fd, err)) < 0 ||
        (r = read_meta(native, source->fd, err)) < 0 ||
        (r = read_map(native, source->fd, err)) < 0 || (r = fill_layers(native, err)) < 0)
        return r;
    return native_is_diff(native) ? chain_open_dir(native, source, err) : 0;
}

static struct native_image *image_new(void)
{
    struct native_image *native = calloc(1, sizeof(*native));

    if (native) {
        native->fd = -1;
        native->dir_fd = -1;
    }
    return native;
}

int native_open(struct format_source *source, struct format_image **ret_image,
                struct stasis_error *err)
{
    struct native_image *native = image_new();
    int r;

    if (!native)
        return stasis_fail_memory(err, "the snapshot");
    r = read_all(native, source, err);
    if (r < 0) {
        native_close(&native->image);
        return r;
    }
    fill_info(native);
    native->fd = fd_steal(&source->fd);
    *ret_image = &native->image;
    return 0;
}

int native_open_bare(int *fd, uint64_t file_size, struct native_image **ret_native,
                     struct stasis_error *err)
{
    struct format_source source = { .fd = *fd, .file_size = file_size };
    struct native_image *native = image_new();
    int r;

    if (!native)
        return stasis_fail_memory(err, "a layer");
    source.head_size = file_size < FORMAT_HEAD_SIZE ? (size_t)file_size : FORMAT_HEAD_SIZE;
    if ((r = io_read_at(*fd, source.head, source.head_size, 0, err)) < 0 ||
        (r = read_head(native, &source, err)) < 0) {
        native_close(&native->image);
        return r;
    }
    native->fd = fd_steal(fd);
    *ret_native = native;
    return 0;
}

const struct native_section *native_memory(const struct native_image *native)
{
    return section_find(native->sections, native->superblock.section_count, NATIVE_SECTION_MEMORY);
}

void native_close(struct format_image *image)
{
    struct native_image *native = (struct native_image *)(void *)image;

    if (!native)
        return;
    stasis_machine_release(&image->machine);
    free(image->memory.regions);
    free(image->extents);
    free(native->layer_info);
    native_layers_release(&native->layers);
    fd_close(&native->fd);
    fd_close(&native->dir_fd);
    free(native);
}
