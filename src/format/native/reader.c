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
    const struct native_section *memory =
        section_find(native->sections, native->superblock.section_count, NATIVE_SECTION_MEMORY);
    auto_free uint8_t *data = NULL;
    size_t size;
    int r = read_section(native, fd, NATIVE_SECTION_LAYOUT, &data, &size, err);

    if (r < 0)
        return r;
    r = native_layout_decode(data, size, &image->memory, &image->info.data_size, err);
    if (r < 0)
        return stasis_wrap(err, r, "layout");
    if (stasis_memory_size(&image->memory) != memory->size)
        return stasis_fail(err, STASIS_ERR_INVALID_MEMORY,
                           "layout: the regions are %ju bytes, the memory section is %ju",
                           (uintmax_t)stasis_memory_size(&image->memory), (uintmax_t)memory->size);
    image->memory_file_off = memory->file_off;
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

static int read_all(struct native_image *native, const struct format_source *source,
                    struct stasis_error *err)
{
    int r = superblock_parse(source->head, source->head_size, &native->superblock, err);

    if (r < 0)
        return r;
    memcpy(native->superblock_bytes, source->head, NATIVE_SUPERBLOCK_SIZE);
    if ((r = check_file_size(&native->superblock, source->file_size, err)) < 0 ||
        (r = read_table(native, source->fd, err)) < 0 ||
        (r = read_machine(native, source->fd, err)) < 0 ||
        (r = read_layout(native, source->fd, err)) < 0 ||
        (r = read_meta(native, source->fd, err)) < 0)
        return r;
    return 0;
}

int native_open(struct format_source *source, struct format_image **ret_image,
                struct stasis_error *err)
{
    struct native_image *native = calloc(1, sizeof(*native));
    int r;

    if (!native)
        return stasis_fail_memory(err, "the snapshot");
    native->image.memory_fd = -1;
    r = read_all(native, source, err);
    if (r < 0) {
        native_close(&native->image);
        return r;
    }
    fill_info(native);
    native->image.memory_fd = fd_steal(&source->fd);
    *ret_image = &native->image;
    return 0;
}

void native_close(struct format_image *image)
{
    if (!image)
        return;
    stasis_machine_release(&image->machine);
    free(image->memory.regions);
    fd_close(&image->memory_fd);
    free(image); /* the address of the native_image that it is the first member of */
}
