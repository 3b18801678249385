/* test_fields_sample.h - a struct with a field of every kind, and its CBOR form written by hand.
 *
 * The values are such that every width of integer occurs. golden_hex was made by another encoder
 * (python3-cbor2, canonical integers) from the same values, and golden_pairs are its parts. */
#ifndef STASIS_TEST_FIELDS_SAMPLE_H
#define STASIS_TEST_FIELDS_SAMPLE_H

#include "test_fields_support.h"

#include "base/bytes.h"
#include "machine/fields.h"

struct point {
    uint8_t x;
    int64_t y;
};

struct sample {
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    int64_t s64;
    bool flag;
    uint8_t digit; /* 0..10 */
    uint16_t triple[3];
    uint8_t bytes[4];
    char text[8];
    struct point point;
    struct point corners[2];
    uint8_t *blob; /* at most 300 bytes */
    size_t blob_size;
    struct point *points; /* at most 4 */
    size_t points_count;
    struct point *part;
    uint32_t later; /* OPTIONAL */
};

static const struct stasis_field point_fields[] = {
    STASIS_F(struct point, x, U8),
    STASIS_F(struct point, y, S64),
};
static const struct stasis_table point_table = STASIS_TABLE(struct point, point_fields);

static const struct stasis_field sample_fields[] = {
    STASIS_F(struct sample, u8, U8),
    STASIS_F(struct sample, u16, U16, .show = STASIS_SHOW_HEX),
    STASIS_F(struct sample, u32, U32),
    STASIS_F(struct sample, u64, U64, .show = STASIS_SHOW_HEX),
    STASIS_F(struct sample, s64, S64, .unit = "ns"),
    STASIS_F(struct sample, flag, BOOL),
    STASIS_F(struct sample, digit, U8, .max = 10),
    STASIS_F_ARRAY(struct sample, triple, U16),
    STASIS_F_ARRAY(struct sample, bytes, BYTES),
    STASIS_F_ARRAY(struct sample, text, TEXT),
    STASIS_F(struct sample, point, STRUCT, .table = &point_table),
    STASIS_F_ARRAY(struct sample, corners, STRUCT, .table = &point_table),
    STASIS_F_BLOB(struct sample, blob, 300, .max = 0),
    STASIS_F_LIST(struct sample, points, 4, &point_table, .max = 0),
    STASIS_F(struct sample, part, PART, .table = &point_table),
    STASIS_F(struct sample, later, U32, .flags = STASIS_FIELD_OPTIONAL),
};
static const struct stasis_table sample_table = STASIS_TABLE(struct sample, sample_fields);

enum { SAMPLE_FIELDS = sizeof(sample_fields) / sizeof(sample_fields[0]) };

/* One pair of a map: the key, and the value's encoding in hex. */
struct pair {
    const char *key;
    const char *value;
};

static const struct pair golden_pairs[SAMPLE_FIELDS] = {
    { "u8", "17" },                                        /* 23 */
    { "u16", "1901f4" },                                   /* 500 */
    { "u32", "1a00010000" },                               /* 65536 */
    { "u64", "1bffffffffffffffff" },                       /* 2^64 - 1 */
    { "s64", "3903e7" },                                   /* -1000 */
    { "flag", "f5" },                                      /* true */
    { "digit", "0a" },                                     /* 10 */
    { "triple", "83001818 18ff" },                         /* [0, 24, 255] */
    { "bytes", "44deadbeef" },                             /* h'deadbeef' */
    { "text", "67637075 2d303031" },                       /* "cpu-001" */
    { "point", "a2 6178 01 6179 20" },                     /* {x: 1, y: -1} */
    { "corners", "82 a26178026179 3818 a26178036179 00" }, /* [{2, -25}, {3, 0}] */
    { "blob", "43010203" },
    { "points", "81 a2 6178 18ff 6179 1b7fffffffffffffff" }, /* [{255, 2^63 - 1}] */
    { "part", "a2 6178 04 6179 3b7fffffffffffffff" },        /* {4, -2^63} */
    { "later", "07" },
};

static const char golden_hex[] = "b06275381763753136"
                                 "1901f4637533321a00010000"
                                 "637536341bffffffffffffffff"
                                 "637336343903e7"
                                 "64666c6167f5"
                                 "6564696769740a"
                                 "66747269706c658300181818ff"
                                 "65627974657344deadbeef"
                                 "6474657874676370752d303031"
                                 "65706f696e74a2617801617920"
                                 "67636f726e65727382a261780261793818a2617803617900"
                                 "64626c6f6243010203"
                                 "66706f696e747381a2617818ff61791b7fffffffffffffff"
                                 "6470617274a261780461793b7fffffffffffffff"
                                 "656c6174657207";

/* The struct that golden_hex encodes; release it with stasis_fields_release(). */
static inline struct sample make_sample(void)
{
    struct sample sample = {
        .u8 = 23,
        .u16 = 500,
        .u32 = 65536,
        .u64 = UINT64_MAX,
        .s64 = -1000,
        .flag = true,
        .digit = 10,
        .triple = { 0, 24, 255 },
        .bytes = { 0xde, 0xad, 0xbe, 0xef },
        .text = "cpu-001",
        .point = { 1, -1 },
        .corners = { { 2, -25 }, { 3, 0 } },
        .blob = allocate(3),
        .blob_size = 3,
        .points = allocate(sizeof(struct point)),
        .points_count = 1,
        .part = allocate(sizeof(struct point)),
        .later = 7,
    };

    memcpy(sample.blob, "\1\2\3", 3);
    sample.points[0] = (struct point){ 255, INT64_MAX };
    *sample.part = (struct point){ 4, INT64_MIN };
    return sample;
}

static inline void release_sample(struct sample *sample)
{
    stasis_fields_release(&sample_table, sample);
}

/* Some encoded bytes, made by hand. */
struct bytes {
    uint8_t data[4096];
    size_t size;
};

static inline void put_hex(struct bytes *bytes, const char *hex)
{
    unsigned byte;

    for (; *hex; hex += 2) {
        while (*hex == ' ')
            hex++;
        if (sscanf(hex, "%2x", &byte) != 1 || bytes->size == sizeof(bytes->data))
            abort();
        bytes->data[bytes->size++] = (uint8_t)byte;
    }
}

static inline struct bytes from_hex(const char *hex)
{
    struct bytes bytes = { .size = 0 };

    put_hex(&bytes, hex);
    return bytes;
}

/* A short head: major type 0..7 and a value below 256. */
static inline void put_head(struct bytes *bytes, unsigned major, size_t value)
{
    char hex[8];

    if (value < 24)
        snprintf(hex, sizeof(hex), "%02x", (unsigned)(major << 5 | value));
    else
        snprintf(hex, sizeof(hex), "%02x%02x", major << 5 | 24, (unsigned)value & 0xff);
    put_hex(bytes, hex);
}

static inline void put_key(struct bytes *bytes, const char *key)
{
    put_head(bytes, 3, strlen(key));
    memcpy(bytes->data + bytes->size, key, strlen(key));
    bytes->size += strlen(key);
}

static inline struct bytes from_pairs(const struct pair *pairs, size_t count)
{
    struct bytes bytes = { .size = 0 };

    put_head(&bytes, 5, count);
    for (size_t i = 0; i < count; i++) {
        put_key(&bytes, pairs[i].key);
        put_hex(&bytes, pairs[i].value);
    }
    return bytes;
}

/* The golden map with another value for one key. */
static inline struct bytes with_value(const char *key, const char *value)
{
    struct pair pairs[SAMPLE_FIELDS];
    bool found = false;

    memcpy(pairs, golden_pairs, sizeof(pairs));
    for (size_t i = 0; i < SAMPLE_FIELDS; i++) {
        if (strcmp(pairs[i].key, key) == 0) {
            pairs[i].value = value;
            found = true;
        }
    }
    assert_true(found);
    return from_pairs(pairs, SAMPLE_FIELDS);
}

/* The golden map with one more pair, in front. */
static inline struct bytes with_pair(const char *key, const char *value)
{
    struct pair pairs[SAMPLE_FIELDS + 1];

    pairs[0] = (struct pair){ key, value };
    memcpy(pairs + 1, golden_pairs, sizeof(golden_pairs));
    return from_pairs(pairs, SAMPLE_FIELDS + 1);
}

static inline int decode_sample(const struct bytes *bytes, struct sample *ret_sample,
                                struct stasis_error *err)
{
    return fields_decode(&sample_table, bytes->data, bytes->size, ret_sample, err);
}

/* Decoding fails with this code, its text has `story` in it, and the target is left alone. */
static inline void assert_refused(const struct bytes *bytes, enum stasis_code code,
                                  const char *story)
{
    struct stasis_error err = { 0 };
    struct sample sample, before;

    memset(&sample, 0x5a, sizeof(sample));
    memcpy(&before, &sample, sizeof(sample));
    assert_stasis_fails(decode_sample(bytes, &sample, &err), &err, code);
    assert_memory_equal(&sample, &before, sizeof(sample));
    if (!strstr(err.text, story))
        fail_msg("'%s' does not say '%s'", err.text, story);
    assert_true(decode_sample(bytes, &sample, NULL) < 0);
}

#endif
