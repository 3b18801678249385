/* native_craft.h - a native file in memory, to be taken apart and sealed again.
 *
 * Tests of bad input need files whose digests are right and whose contents are not: otherwise the
 * first digest hides all that is behind it. This is a second writer of the format's fixed parts, made
 * from doc/format/native.md and not from the library, so it also disagrees when the two do. */
#ifndef STASIS_TESTS_NATIVE_CRAFT_H
#define STASIS_TESTS_NATIVE_CRAFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Offsets in the superblock. */
enum {
    CRAFT_MAJOR = 8,
    CRAFT_MINOR = 10,
    CRAFT_SUPERBLOCK_SIZE = 12,
    CRAFT_PAGE_SIZE = 16,
    CRAFT_BLOCK_SIZE = 20,
    CRAFT_KIND = 24,
    CRAFT_DIGEST_KIND = 26,
    CRAFT_SECTION_COUNT = 28,
    CRAFT_ENTRY_SIZE = 32,
    CRAFT_TABLE_OFF = 40,
    CRAFT_FILE_SIZE = 48,
    CRAFT_ROOT = 64,
    CRAFT_SELF_DIGEST = 4064,
};

/* Offsets in an entry of the section table. */
enum {
    CRAFT_TYPE = 0,
    CRAFT_VERSION = 4,
    CRAFT_FLAGS = 6,
    CRAFT_OFF = 8,
    CRAFT_SIZE = 16,
    CRAFT_METHOD = 24,
    CRAFT_CHUNK_SIZE = 28,
    CRAFT_DIGEST_SECTION = 32,
    CRAFT_DIGEST = 64,
    CRAFT_ENTRY = 128, /* bytes of an entry */
};

/* Section types. */
enum {
    CRAFT_MEMORY = 1,
    CRAFT_MACHINE,
    CRAFT_LAYOUT,
    CRAFT_META,
    CRAFT_DIGESTS,
    CRAFT_INDEX,
    CRAFT_EXTENTS,
    CRAFT_LAYERS,
};

struct craft {
    uint8_t *data; /* owned */
    size_t size;
};

void craft_load(struct craft *craft, const char *path); /* aborts the test program on failure */
void craft_store(const struct craft *craft, const char *path);
void craft_copy(struct craft *copy, const struct craft *original);
void craft_release(struct craft *craft);

/* Little-endian numbers of 1 to 8 bytes anywhere in the file; reading outside it gives zero, writing
 * outside it does nothing. */
uint64_t craft_get(const struct craft *craft, uint64_t file_off, unsigned size);
void craft_put(struct craft *craft, uint64_t file_off, unsigned size, uint64_t value);

/* File offset of the table's entry for a type, or of entry `index`. 0 when there is none. */
uint64_t craft_entry(const struct craft *craft, uint32_t type);
uint64_t craft_entry_at(const struct craft *craft, uint64_t index);

/* A field of the entry for a type. */
uint64_t craft_field(const struct craft *craft, uint32_t type, unsigned field, unsigned size);
void craft_set_field(struct craft *craft, uint32_t type, unsigned field, unsigned size,
                     uint64_t value);

/* Other contents for a section; they must fit before the next section begins. */
void craft_replace(struct craft *craft, uint32_t type, const void *data, size_t size);

/* Append an entry to the table, which must be the last thing in the file; the file grows by it. */
void craft_append_entry(struct craft *craft, const uint8_t entry[CRAFT_ENTRY]);

/* Make digests right again, as far as the file's numbers make sense. */
void craft_seal_superblock(struct craft *craft); /* its own digest only */
void craft_seal_root(struct craft *craft);       /* root and superblock */
void craft_seal(struct craft *craft);            /* all: chunks, sections, root, superblock */

#endif
