/* compare.h - the running comparison of two objects, shared by the files that walk parts of it.
 *
 * Functions named compare_* return 0 to go on, COMPARE_STOP when the callback wants no more, or a
 * negative errno. Private to this room; callers use fields.h and <stasis/machine.h>. */
#ifndef STASIS_MACHINE_COMPARE_H
#define STASIS_MACHINE_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/machine.h>

#include "machine/walk.h"

#define COMPARE_STOP 1

/* Bytes of a blob that tick on their own. */
struct compare_ticking {
    const struct stasis_table *table; /* whose BLOB */
    const char *field;                /* of this name */
    size_t offset, size;              /* bytes */
};

/* What tables cannot say, because it depends on values. */
struct compare_rules {
    /* Do the values of this list element (its keys apart) tick on their own? */
    bool (*is_volatile)(const struct stasis_table *table, const void *element);
    /* Is this BLOB of `object` a CBOR map, to be compared key by key? */
    bool (*is_cbor)(const struct stasis_table *table, const struct stasis_field *field,
                    const void *object);
    const struct compare_ticking *ticking;
    size_t ticking_count;
};

extern const struct compare_rules compare_machine_rules;

struct compare {
    const struct compare_rules *rules;
    unsigned flags; /* STASIS_COMPARE_* */
    stasis_difference_fn *on_difference;
    void *arg;
    uint64_t count; /* differences reported */
    struct stasis_error *err;
};

/* A run of bytes in one of the two objects. */
struct compare_bytes {
    const uint8_t *bytes;
    size_t size;
};

/* Tell of one difference. */
int compare_report(struct compare *compare, const struct walk_path *path, const char *a,
                   const char *b);

/* `ticking` is what is not looked at, or NULL. */
int compare_blobs(struct compare *compare, const struct compare_bytes *a,
                  const struct compare_bytes *b, const struct compare_ticking *ticking,
                  const struct walk_path *path);

/* "3 elements" against "4 elements", when they differ. */
int compare_counts(struct compare *compare, size_t a, size_t b, const struct walk_path *path);

/* Two encoded CBOR maps key by key, or as bytes where one of them is beyond what this can follow:
 * not one definite map with text keys, floats, tags, too many keys. */
int compare_cbor(struct compare *compare, const struct compare_bytes *a,
                 const struct compare_bytes *b, const struct walk_path *path);

#endif
