/*
 * layers.c - the list of ancestors in a diff, as bytes and back.
 *
 * What is let through here names files that will be opened and places in them that will be mapped, so
 * every number is held against its limit; whether the file found is the one that was meant is for
 * chain.c to say. A path cannot do harm by itself: what it leads to must have the layer's root.
 */
#include "format/native/layers.h"

#include <stdlib.h>
#include <string.h>

#include <stasis/memory.h>

#include "base/cleanup.h"
#include "base/error.h"

void native_layers_release(struct native_layers *layers)
{
    for (uint32_t i = 0; layers->items && i < layers->count; i++)
        free(layers->items[i].path);
    free(layers->items);
    *layers = (struct native_layers){ 0 };
}

static void encode_layer(const struct native_layer *layer, struct byte_writer *writer)
{
    const size_t path_size = strlen(layer->path);

    byte_writer_bytes(writer, layer->root, NATIVE_ID_SIZE);
    byte_writer_u16(writer, layer->kind);
    byte_writer_u16(writer, (uint16_t)path_size);
    byte_writer_u32(writer, 0);
    byte_writer_u64(writer, layer->file_size);
    byte_writer_u64(writer, layer->memory_off);
    byte_writer_u64(writer, layer->memory_size);
    byte_writer_u64(writer, 0);
    byte_writer_bytes(writer, layer->path, path_size);
}

int native_layers_encode(const struct native_layers *layers, struct byte_buffer *out,
                         struct stasis_error *err)
{
    size_t size = NATIVE_LAYERS_HEAD_SIZE;
    struct byte_writer writer;
    uint8_t *data;

    for (uint32_t i = 0; i < layers->count; i++) {
        if (strlen(layers->items[i].path) > NATIVE_PATH_MAX)
            return stasis_fail(err, STASIS_ERR_LIMIT, "the path to layer %u is too long", i + 1);
        size += NATIVE_LAYER_FIXED_SIZE + strlen(layers->items[i].path);
    }
    data = byte_buffer_extend(out, size);
    if (!data)
        return stasis_fail(err, STASIS_ERR_LIMIT, "the list of layers is over %zu bytes",
                           out->size_max);
    byte_writer_init(&writer, data, size);
    byte_writer_u32(&writer, layers->count);
    byte_writer_u32(&writer, layers->depth);
    for (uint32_t i = 0; i < layers->count; i++)
        encode_layer(&layers->items[i], &writer);
    return 0;
}

/* Not absolute, no NUL, not empty. */
static bool path_sound(const char *path, size_t size)
{
    return size > 0 && size <= NATIVE_PATH_MAX && path[0] != '/' && !memchr(path, '\0', size);
}

static int check_layer(const struct native_layer *layer, uint32_t number, struct stasis_error *err)
{
    const uint64_t align = layer->kind == NATIVE_KIND_FULL ? NATIVE_MEMORY_ALIGN : NATIVE_ALIGN;
    uint64_t end;

    if (layer->kind != NATIVE_KIND_FULL && layer->kind != NATIVE_KIND_DIFF)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "layer %u is of unknown kind %u", number,
                           layer->kind);
    if (layer->memory_off < NATIVE_SUPERBLOCK_SIZE || layer->memory_off % align != 0 ||
        layer->memory_size % STASIS_PAGE_SIZE != 0 || layer->memory_size > STASIS_MEMORY_SIZE_MAX ||
        __builtin_add_overflow(layer->memory_off, layer->memory_size, &end) ||
        end > layer->file_size)
        return stasis_fail(err, STASIS_ERR_CORRUPT,
                           "layer %u: %ju bytes of memory at %ju do not lie in a file of %ju bytes",
                           number, (uintmax_t)layer->memory_size, (uintmax_t)layer->memory_off,
                           (uintmax_t)layer->file_size);
    return 0;
}

static int decode_layer(struct byte_reader *reader, uint32_t number, struct native_layer *layer,
                        struct stasis_error *err)
{
    const uint8_t *root = byte_reader_bytes(reader, NATIVE_ID_SIZE);
    const char *path;
    size_t path_size;
    uint64_t reserved;

    layer->kind = byte_reader_u16(reader);
    path_size = byte_reader_u16(reader);
    reserved = byte_reader_u32(reader);
    layer->file_size = byte_reader_u64(reader);
    layer->memory_off = byte_reader_u64(reader);
    layer->memory_size = byte_reader_u64(reader);
    reserved |= byte_reader_u64(reader);
    path = (const char *)byte_reader_bytes(reader, path_size);
    if (reader->failed)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "the section ends within layer %u", number);
    if (reserved != 0)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "layer %u: reserved bytes are not zero",
                           number);
    if (!path_sound(path, path_size))
        return stasis_fail(err, STASIS_ERR_CORRUPT, "layer %u: not a relative path", number);
    memcpy(layer->root, root, NATIVE_ID_SIZE);
    layer->path = strndup(path, path_size);
    return layer->path ? check_layer(layer, number, err) : stasis_fail_memory(err, "a path");
}

static int decode_head(struct byte_reader *reader, struct native_layers *layers,
                       struct stasis_error *err)
{
    const uint32_t count = byte_reader_u32(reader);

    layers->depth = byte_reader_u32(reader);
    if (reader->failed || count == 0 || count > byte_reader_left(reader) / NATIVE_LAYER_FIXED_SIZE)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%zu bytes cannot hold %u layers", reader->size,
                           count);
    if (count > NATIVE_LAYER_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "%u layers, at most %u are accepted", count,
                           NATIVE_LAYER_MAX);
    if (layers->depth < count || layers->depth > NATIVE_DEPTH_MAX)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%u layers in a chain of %u", count,
                           layers->depth);
    layers->items = calloc(count, sizeof(*layers->items));
    if (!layers->items)
        return stasis_fail_memory(err, "the layers");
    layers->count = count;
    return 0;
}

int native_layers_decode(const uint8_t *data, size_t size, struct native_layers *ret_layers,
                         struct stasis_error *err)
{
    struct native_layers layers = { 0 };
    struct byte_reader reader;
    int r;

    byte_reader_init(&reader, data, size);
    r = decode_head(&reader, &layers, err);
    for (uint32_t i = 0; r == 0 && i < layers.count; i++)
        r = decode_layer(&reader, i + 1, &layers.items[i], err);
    if (r == 0 && byte_reader_left(&reader) != 0)
        r = stasis_fail(err, STASIS_ERR_CORRUPT, "%zu bytes behind the last layer",
                        byte_reader_left(&reader));
    if (r < 0) {
        native_layers_release(&layers);
        return r;
    }
    *ret_layers = layers;
    return 0;
}
