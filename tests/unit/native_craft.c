/*
 * native_craft.c - a native file in memory, to be taken apart and sealed again.
 *
 * The numbers in the file may be nonsense, put there on purpose or by a fuzzer: what does not fit the
 * file is left as it is.
 */
#include "native_craft.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"

#define SUPERBLOCK_BYTES 4096
#define SECTION_MAX 64

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        abort();
    }
}

void craft_load(struct craft *craft, const char *path)
{
    FILE *file = fopen(path, "rb");
    long size;

    must(file && fseek(file, 0, SEEK_END) == 0, path);
    size = ftell(file);
    must(size >= 0 && fseek(file, 0, SEEK_SET) == 0, path);
    craft->size = (size_t)size;
    craft->data = malloc(craft->size + 1);
    must(craft->data && fread(craft->data, 1, craft->size, file) == craft->size, path);
    fclose(file);
}

void craft_store(const struct craft *craft, const char *path)
{
    FILE *file = fopen(path, "wb");

    must(file && fwrite(craft->data, 1, craft->size, file) == craft->size, path);
    must(fclose(file) == 0, path);
}

void craft_copy(struct craft *copy, const struct craft *original)
{
    copy->size = original->size;
    copy->data = malloc(original->size + 1);
    must(copy->data != NULL, "craft_copy");
    memcpy(copy->data, original->data, original->size);
}

void craft_release(struct craft *craft)
{
    free(craft->data);
    *craft = (struct craft){ 0 };
}

static bool inside(const struct craft *craft, uint64_t file_off, uint64_t size)
{
    return file_off <= craft->size && size <= craft->size - file_off;
}

uint64_t craft_get(const struct craft *craft, uint64_t file_off, unsigned size)
{
    uint64_t value = 0;

    if (!inside(craft, file_off, size))
        return 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)craft->data[file_off + i] << (8 * i);
    return value;
}

void craft_put(struct craft *craft, uint64_t file_off, unsigned size, uint64_t value)
{
    if (!inside(craft, file_off, size))
        return;
    for (unsigned i = 0; i < size; i++)
        craft->data[file_off + i] = (uint8_t)(value >> (8 * i));
}

static uint64_t section_count(const struct craft *craft)
{
    const uint64_t count = craft_get(craft, CRAFT_SECTION_COUNT, 4);

    return count > SECTION_MAX ? 0 : count;
}

uint64_t craft_entry_at(const struct craft *craft, uint64_t index)
{
    const uint64_t table_off = craft_get(craft, CRAFT_TABLE_OFF, 8);

    if (index >= section_count(craft) ||
        !inside(craft, table_off, section_count(craft) * CRAFT_ENTRY))
        return 0;
    return table_off + index * CRAFT_ENTRY;
}

uint64_t craft_entry(const struct craft *craft, uint32_t type)
{
    for (uint64_t i = 0; i < section_count(craft); i++) {
        const uint64_t entry = craft_entry_at(craft, i);

        if (entry != 0 && craft_get(craft, entry + CRAFT_TYPE, 4) == type)
            return entry;
    }
    return 0;
}

uint64_t craft_field(const struct craft *craft, uint32_t type, unsigned field, unsigned size)
{
    return craft_get(craft, craft_entry(craft, type) + field, size);
}

void craft_set_field(struct craft *craft, uint32_t type, unsigned field, unsigned size,
                     uint64_t value)
{
    craft_put(craft, craft_entry(craft, type) + field, size, value);
}

void craft_replace(struct craft *craft, uint32_t type, const void *data, size_t size)
{
    const uint64_t off = craft_field(craft, type, CRAFT_OFF, 8);
    const uint64_t old_size = craft_field(craft, type, CRAFT_SIZE, 8);
    const uint64_t room = (old_size + 4095) / 4096 * 4096;

    must(size <= room && inside(craft, off, room), "craft_replace");
    memset(craft->data + off, 0, room);
    memcpy(craft->data + off, data, size);
    craft_set_field(craft, type, CRAFT_SIZE, 8, size);
}

void craft_append_entry(struct craft *craft, const uint8_t entry[CRAFT_ENTRY])
{
    const uint64_t count = section_count(craft);
    const uint64_t end = craft_get(craft, CRAFT_TABLE_OFF, 8) + count * CRAFT_ENTRY;

    must(end == craft->size, "craft_append_entry");
    craft->data = realloc(craft->data, craft->size + CRAFT_ENTRY + 1);
    must(craft->data != NULL, "craft_append_entry");
    memcpy(craft->data + end, entry, CRAFT_ENTRY);
    craft->size += CRAFT_ENTRY;
    craft_put(craft, CRAFT_SECTION_COUNT, 4, count + 1);
    craft_put(craft, CRAFT_FILE_SIZE, 8, craft->size);
}

static bool all_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (data[i] != 0)
            return false;
    }
    return true;
}

static size_t digest_bytes(const struct craft *craft)
{
    return craft_get(craft, CRAFT_DIGEST_KIND, 2) == 2 ? 32 : 16;
}

static void seal_chunk(const struct craft *craft, const uint8_t *data, size_t size, uint8_t *digest)
{
    if (all_zero(data, size))
        memset(digest, 0, digest_bytes(craft));
    else if (digest_bytes(craft) == 32)
        digest_sha256(data, size, digest);
    else
        digest_xxh3_128(data, size, digest);
}

/* Digests of the chunks into the section that holds them. */
static void seal_chunks(struct craft *craft, uint64_t entry)
{
    const uint64_t off = craft_get(craft, entry + CRAFT_OFF, 8);
    const uint64_t size = craft_get(craft, entry + CRAFT_SIZE, 8);
    const uint64_t chunk_size = craft_get(craft, entry + CRAFT_CHUNK_SIZE, 4);
    const uint64_t digests =
        craft_entry_at(craft, craft_get(craft, entry + CRAFT_DIGEST_SECTION, 4));
    const uint64_t digests_off = craft_get(craft, digests + CRAFT_OFF, 8);
    const size_t digest_size = digest_bytes(craft);
    uint64_t chunk = 0;

    if (digests == 0 || chunk_size == 0 || !inside(craft, off, size))
        return;
    for (uint64_t done = 0; done < size; done += chunk_size, chunk++) {
        const uint64_t part = size - done < chunk_size ? size - done : chunk_size;
        uint8_t digest[32];

        if (!inside(craft, digests_off, (chunk + 1) * digest_size))
            return;
        seal_chunk(craft, craft->data + off + done, part, digest);
        memcpy(craft->data + digests_off + chunk * digest_size, digest, digest_size);
    }
}

static void seal_whole(struct craft *craft, uint64_t entry)
{
    const uint64_t off = craft_get(craft, entry + CRAFT_OFF, 8);
    const uint64_t size = craft_get(craft, entry + CRAFT_SIZE, 8);

    if (inside(craft, off, size))
        digest_sha256(craft->data + off, size, craft->data + entry + CRAFT_DIGEST);
}

static void copy_digest(struct craft *craft, uint64_t entry)
{
    const uint64_t digests =
        craft_entry_at(craft, craft_get(craft, entry + CRAFT_DIGEST_SECTION, 4));

    if (digests != 0)
        memmove(craft->data + entry + CRAFT_DIGEST, craft->data + digests + CRAFT_DIGEST, 32);
}

static bool is_chunked(const struct craft *craft, uint64_t entry)
{
    return craft_get(craft, entry + CRAFT_METHOD, 2) == 2;
}

void craft_seal_superblock(struct craft *craft)
{
    if (craft->size >= SUPERBLOCK_BYTES)
        digest_sha256(craft->data, CRAFT_SELF_DIGEST, craft->data + CRAFT_SELF_DIGEST);
}

void craft_seal_root(struct craft *craft)
{
    static const uint8_t prefix[16] = "stasis-root-v1";
    const uint64_t table_off = craft_get(craft, CRAFT_TABLE_OFF, 8);
    const uint64_t table_size = section_count(craft) * CRAFT_ENTRY;
    struct digest_sha256_stream *stream = digest_sha256_new();

    must(stream != NULL, "digest_sha256_new");
    if (craft->size >= SUPERBLOCK_BYTES && inside(craft, table_off, table_size)) {
        digest_sha256_update(stream, prefix, sizeof(prefix));
        digest_sha256_update(stream, craft->data + 8, CRAFT_ROOT - 8);
        digest_sha256_update(stream, craft->data + table_off, table_size);
        digest_sha256_final(stream, craft->data + CRAFT_ROOT);
    }
    digest_sha256_free(stream);
    craft_seal_superblock(craft);
}

void craft_seal(struct craft *craft)
{
    const uint64_t count = section_count(craft);

    /* In table order: digests stand behind what they are the digests of, as the format demands. */
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t entry = craft_entry_at(craft, i);

        if (entry != 0 && is_chunked(craft, entry))
            seal_chunks(craft, entry);
    }
    for (uint64_t i = count; i-- > 0;) {
        const uint64_t entry = craft_entry_at(craft, i);

        if (entry != 0 && is_chunked(craft, entry))
            copy_digest(craft, entry);
        else if (entry != 0)
            seal_whole(craft, entry);
    }
    craft_seal_root(craft);
}
