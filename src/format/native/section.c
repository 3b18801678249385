/*
 * section.c - the section table of a native file, as bytes and back.
 *
 * section_table_parse() is where the numbers of an outside file become numbers that the rest of the
 * reader indexes, maps and multiplies with. After it, every section lies within the file, apart from
 * all others, and every chunk of a known section has a digest at a place that exists.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include <stasis/memory.h>

#include "base/bytes.h"
#include "base/error.h"
#include "format/native/disk.h"

/* Bytes of an entry that mean nothing yet. */
#define ENTRY_RESERVED_1 28
#define ENTRY_RESERVED_2 32

/* What this reader knows of each type. */
static const struct section_rules {
    const char *name;
    bool required;       /* in files of the kinds that have it */
    uint16_t method;     /* enum native_method */
    uint32_t chunk_size; /* chunked only */
    uint64_t align;      /* of the file offset */
    uint64_t size_max;   /* bytes; that of digests follows from what they are the digests of */
    bool diff_only;
} rules_table[] = {
    [NATIVE_SECTION_MEMORY] = { "memory", true, NATIVE_METHOD_CHUNKED, STASIS_BLOCK_SIZE,
                                NATIVE_MEMORY_ALIGN, STASIS_MEMORY_SIZE_MAX },
    [NATIVE_SECTION_MACHINE] = { "machine", true, NATIVE_METHOD_WHOLE, 0, NATIVE_ALIGN,
                                 NATIVE_MACHINE_SIZE_MAX },
    [NATIVE_SECTION_LAYOUT] = { "layout", true, NATIVE_METHOD_WHOLE, 0, NATIVE_ALIGN,
                                NATIVE_FACTS_SIZE_MAX },
    [NATIVE_SECTION_META] = { "meta", false, NATIVE_METHOD_WHOLE, 0, NATIVE_ALIGN,
                              NATIVE_FACTS_SIZE_MAX },
    [NATIVE_SECTION_DIGESTS] = { "digests", false, NATIVE_METHOD_CHUNKED, NATIVE_DIGEST_CHUNK,
                                 NATIVE_ALIGN, UINT64_MAX },
    [NATIVE_SECTION_DIGEST_INDEX] = { "digest index", false, NATIVE_METHOD_WHOLE, 0, NATIVE_ALIGN,
                                      UINT64_MAX },
    [NATIVE_SECTION_EXTENTS] = { "extents", true, NATIVE_METHOD_WHOLE, 0, NATIVE_ALIGN,
                                 NATIVE_EXTENTS_SIZE_MAX, .diff_only = true },
    [NATIVE_SECTION_LAYERS] = { "layers", true, NATIVE_METHOD_WHOLE, 0, NATIVE_ALIGN,
                                NATIVE_LAYERS_SIZE_MAX, .diff_only = true },
};

/* Memory in a diff: packed, a digest for each page, and never mapped by a huge page. */
static const struct section_rules packed_rules = {
    "memory",
    true,
    NATIVE_METHOD_CHUNKED,
    NATIVE_PACKED_CHUNK,
    NATIVE_ALIGN,
    STASIS_MEMORY_SIZE_MAX,
};

#define RULES_COUNT (sizeof(rules_table) / sizeof(rules_table[0]))

static const struct section_rules *find_rules(uint32_t type)
{
    return type < RULES_COUNT && rules_table[type].name ? &rules_table[type] : NULL;
}

/* The rules for a type in files of a kind; NULL when the kind has no such sections. */
static const struct section_rules *rules_in(uint16_t kind, uint32_t type)
{
    const struct section_rules *rules = find_rules(type);

    if (kind == NATIVE_KIND_DIFF && type == NATIVE_SECTION_MEMORY)
        return &packed_rules;
    return rules && rules->diff_only && kind != NATIVE_KIND_DIFF ? NULL : rules;
}

const char *section_name(uint32_t type, char text[NATIVE_SECTION_NAME_SIZE])
{
    const struct section_rules *rules = find_rules(type);

    if (rules)
        return rules->name;
    snprintf(text, NATIVE_SECTION_NAME_SIZE, "section 0x%x", type);
    return text;
}

uint64_t section_chunk_count(const struct native_section *section)
{
    return section->size / section->chunk_size + (section->size % section->chunk_size != 0);
}

static bool known_method(const struct native_section *section)
{
    return section->method == NATIVE_METHOD_WHOLE || section->method == NATIVE_METHOD_CHUNKED;
}

static bool understood(const struct native_section *section)
{
    return find_rules(section->type) && section->version == NATIVE_SECTION_VERSION &&
           known_method(section);
}

const struct native_section *section_find(const struct native_section *sections,
                                          uint32_t section_count, uint32_t type)
{
    for (uint32_t i = 0; i < section_count; i++) {
        if (sections[i].type == type && understood(&sections[i]))
            return &sections[i];
    }
    return NULL;
}

static void encode_entry(struct byte_writer *writer, const struct native_section *section)
{
    byte_writer_u32(writer, section->type);
    byte_writer_u16(writer, section->version);
    byte_writer_u16(writer, section->flags);
    byte_writer_u64(writer, section->file_off);
    byte_writer_u64(writer, section->size);
    byte_writer_u16(writer, section->method);
    byte_writer_u16(writer, 0);
    byte_writer_u32(writer, section->chunk_size);
    byte_writer_u32(writer, section->digest_section);
    byte_writer_zeros(writer, ENTRY_RESERVED_1);
    byte_writer_bytes(writer, section->digest, sizeof(section->digest));
    byte_writer_zeros(writer, ENTRY_RESERVED_2);
}

void section_table_encode(const struct native_section *sections, uint32_t section_count,
                          uint8_t *ret_bytes)
{
    struct byte_writer writer;

    byte_writer_init(&writer, ret_bytes, (size_t)section_count * NATIVE_ENTRY_SIZE);
    for (uint32_t i = 0; i < section_count; i++)
        encode_entry(&writer, &sections[i]);
    assert(!writer.failed && writer.offset == writer.size);
}

/* True when all that is reserved in the entry is zero. */
static bool decode_entry(struct byte_reader *reader, struct native_section *ret_section)
{
    static const uint8_t zeros[ENTRY_RESERVED_2];
    bool clean;

    ret_section->type = byte_reader_u32(reader);
    ret_section->version = byte_reader_u16(reader);
    ret_section->flags = byte_reader_u16(reader);
    ret_section->file_off = byte_reader_u64(reader);
    ret_section->size = byte_reader_u64(reader);
    ret_section->method = byte_reader_u16(reader);
    clean = byte_reader_u16(reader) == 0 && (ret_section->flags & ~NATIVE_FLAG_CRITICAL) == 0;
    ret_section->chunk_size = byte_reader_u32(reader);
    ret_section->digest_section = byte_reader_u32(reader);
    clean &= memcmp(byte_reader_bytes(reader, ENTRY_RESERVED_1), zeros, ENTRY_RESERVED_1) == 0;
    memcpy(ret_section->digest, byte_reader_bytes(reader, DIGEST_SHA256_SIZE), DIGEST_SHA256_SIZE);
    clean &= memcmp(byte_reader_bytes(reader, ENTRY_RESERVED_2), zeros, ENTRY_RESERVED_2) == 0;
    return clean;
}

static int decode_entries(const struct native_superblock *superblock, const uint8_t *bytes,
                          struct native_section *ret_sections, struct stasis_error *err)
{
    struct byte_reader reader;

    byte_reader_init(&reader, bytes, (size_t)superblock->section_count * NATIVE_ENTRY_SIZE);
    for (uint32_t i = 0; i < superblock->section_count; i++) {
        const bool clean = decode_entry(&reader, &ret_sections[i]);

        if (!clean && superblock->minor <= NATIVE_VERSION_MINOR)
            return stasis_fail(err, STASIS_ERR_CORRUPT,
                               "section table: reserved bits of entry %u are not zero", i);
    }
    assert(!reader.failed);
    return 0;
}

/* Within the file, aligned, apart from the superblock: the same for every section. */
static int check_place(const struct native_superblock *superblock,
                       const struct native_section *section, const char *name,
                       struct stasis_error *err)
{
    uint64_t end;

    if (section->type == 0)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "section table: an entry has type 0");
    if (section->file_off < NATIVE_SUPERBLOCK_SIZE || section->file_off % NATIVE_ALIGN != 0)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%s: no section can be at file offset %ju",
                           name, (uintmax_t)section->file_off);
    if (__builtin_add_overflow(section->file_off, section->size, &end) ||
        end > superblock->file_size)
        return stasis_fail(err, STASIS_ERR_CORRUPT,
                           "%s: %ju bytes at file offset %ju end beyond the file's %ju bytes", name,
                           (uintmax_t)section->size, (uintmax_t)section->file_off,
                           (uintmax_t)superblock->file_size);
    return 0;
}

static bool ranges_overlap(uint64_t a_off, uint64_t a_size, uint64_t b_off, uint64_t b_size)
{
    return a_size > 0 && b_size > 0 && a_off < b_off + b_size && b_off < a_off + a_size;
}

/* Apart from the table and from the sections before it in the table; places are checked already. */
static int check_apart(const struct native_superblock *superblock,
                       const struct native_section *sections, uint32_t index, const char *name,
                       struct stasis_error *err)
{
    const struct native_section *section = &sections[index];
    char other_text[NATIVE_SECTION_NAME_SIZE];

    if (ranges_overlap(section->file_off, section->size, superblock->table_off,
                       (uint64_t)superblock->section_count * NATIVE_ENTRY_SIZE))
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%s overlaps the section table", name);
    for (uint32_t i = 0; i < index; i++) {
        if (ranges_overlap(section->file_off, section->size, sections[i].file_off,
                           sections[i].size))
            return stasis_fail(err, STASIS_ERR_CORRUPT, "%s overlaps %s", name,
                               section_name(sections[i].type, other_text));
    }
    return 0;
}

/* What a type that we know must look like, beyond what its method demands. */
static int check_rules(const struct native_section *section, const struct section_rules *rules,
                       struct stasis_error *err)
{
    if (section->size > rules->size_max)
        return stasis_fail(err, STASIS_ERR_LIMIT, "%s: %ju bytes, at most %ju are accepted",
                           rules->name, (uintmax_t)section->size, (uintmax_t)rules->size_max);
    if (section->method != rules->method || section->chunk_size != rules->chunk_size)
        return stasis_fail(err, STASIS_ERR_CORRUPT,
                           "%s: hash method %u with chunks of %u bytes does not belong to it",
                           rules->name, section->method, section->chunk_size);
    if (section->file_off % rules->align != 0)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%s: file offset %ju is not a multiple of %ju",
                           rules->name, (uintmax_t)section->file_off, (uintmax_t)rules->align);
    return 0;
}

static bool chunk_size_sound(uint32_t size)
{
    return size >= NATIVE_ALIGN && size <= NATIVE_CHUNK_MAX && (size & (size - 1)) == 0;
}

/* The digests of a chunked section are where it says, one for each chunk, and under its digest. */
static int check_chunks(const struct native_superblock *superblock,
                        const struct native_section *sections, uint32_t index, const char *name,
                        struct stasis_error *err)
{
    const struct native_section *section = &sections[index];
    const struct native_section *digests;
    uint64_t size;

    if (!chunk_size_sound(section->chunk_size))
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%s: chunks cannot be of %u bytes", name,
                           section->chunk_size);
    /* Forward only, so that no chain of digests of digests runs in a circle. */
    if (section->digest_section <= index || section->digest_section >= superblock->section_count)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%s: entry %u cannot hold its digests", name,
                           section->digest_section);
    digests = &sections[section->digest_section];
    if (__builtin_mul_overflow(section_chunk_count(section),
                               chunk_digest_size(superblock->digest_kind), &size) ||
        digests->size != size)
        return stasis_fail(err, STASIS_ERR_CORRUPT,
                           "%s: %ju bytes cannot be the digests of its %ju chunks", name,
                           (uintmax_t)digests->size, (uintmax_t)section_chunk_count(section));
    if (memcmp(digests->digest, section->digest, sizeof(section->digest)) != 0)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%s: its digest is not that of its digests",
                           name);
    return 0;
}

static int check_method(const struct native_superblock *superblock,
                        const struct native_section *sections, uint32_t index, const char *name,
                        struct stasis_error *err)
{
    const struct native_section *section = &sections[index];

    if (section->method == NATIVE_METHOD_CHUNKED)
        return check_chunks(superblock, sections, index, name, err);
    if (section->method == NATIVE_METHOD_WHOLE &&
        (section->chunk_size != 0 || section->digest_section != 0))
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%s: hashed whole, but has chunks", name);
    return 0;
}

static int check_section(const struct native_superblock *superblock,
                         const struct native_section *sections, uint32_t index,
                         struct stasis_error *err)
{
    const struct native_section *section = &sections[index];
    char text[NATIVE_SECTION_NAME_SIZE];
    const char *name = section_name(section->type, text);
    const struct section_rules *rules =
        understood(section) ? rules_in(superblock->kind, section->type) : NULL;
    int r;

    if (!rules && (section->flags & NATIVE_FLAG_CRITICAL))
        return stasis_fail(err, STASIS_ERR_CRITICAL_SECTION,
                           "%s, version %u, method %u: unknown here, and not to be skipped", name,
                           section->version, section->method);
    /* The limits come before the place: an absurd size is named as such, not as a short file. */
    if (rules && (r = check_rules(section, rules, err)) < 0)
        return r;
    if ((r = check_place(superblock, section, name, err)) < 0 ||
        (r = check_apart(superblock, sections, index, name, err)) < 0)
        return r;
    if (rules && section_find(sections, superblock->section_count, section->type) != section)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "there are two sections of type %s", name);
    return check_method(superblock, sections, index, name, err);
}

int section_table_parse(const struct native_superblock *superblock, const uint8_t *bytes,
                        struct native_section *ret_sections, struct stasis_error *err)
{
    int r = decode_entries(superblock, bytes, ret_sections, err);

    for (uint32_t i = 0; r == 0 && i < superblock->section_count; i++)
        r = check_section(superblock, ret_sections, i, err);
    for (uint32_t type = 1; r == 0 && type < RULES_COUNT; type++) {
        const struct section_rules *rules = rules_in(superblock->kind, type);

        if (rules && rules->required &&
            !section_find(ret_sections, superblock->section_count, type))
            r = stasis_fail(err, STASIS_ERR_CORRUPT, "there is no %s section", rules->name);
    }
    return r;
}
