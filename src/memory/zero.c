/*
 * zero.c - the zero test: portable words, AVX-512 or AVX2 where the CPU has it, NEON on arm64.
 *
 * Pages that are zero are neither written nor stored, so a wrong "zero" here silently loses guest
 * memory, and a wrong "not zero" only costs disk. Each variant looks at every byte: the vector
 * loops take whole steps and leave the tail to the portable words.
 *
 * Most pages of a guest that are not zero differ early, so every variant leaves at its first step
 * that finds something; pages that are zero are read once from end to end.
 */
#include "memory/zero.h"

#include <assert.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <stasis/memory.h>

#define WORD_STEP (8 * sizeof(uint64_t))
#define VECTOR_STEP 256 /* bytes looked at between two branches */

static uint64_t load_word(const uint8_t *bytes)
{
    uint64_t word;

    memcpy(&word, bytes, sizeof(word)); /* any alignment; one load to the compiler */
    return word;
}

static uint64_t or_of_words(const uint8_t *bytes)
{
    uint64_t seen = 0;

    for (size_t i = 0; i < WORD_STEP; i += sizeof(uint64_t))
        seen |= load_word(bytes + i);
    return seen;
}

bool zero_bytes_portable(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint8_t tail = 0;

    for (; size >= WORD_STEP; bytes += WORD_STEP, size -= WORD_STEP) {
        if (or_of_words(bytes) != 0)
            return false;
    }
    for (size_t i = 0; i < size; i++)
        tail |= bytes[i];
    return tail == 0;
}

/* Each zero_steps_*() looks at whole steps of VECTOR_STEP bytes only. */
typedef bool zero_steps_fn(const uint8_t *bytes, size_t size);

static bool zero_by(zero_steps_fn *zero_steps, const void *data, size_t size)
{
    const size_t in_steps = size - size % VECTOR_STEP;

    return zero_steps(data, in_steps) &&
           zero_bytes_portable((const uint8_t *)data + in_steps, size - in_steps);
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static bool zero_steps_avx512(const uint8_t *bytes, size_t size)
{
    for (size_t off = 0; off < size; off += VECTOR_STEP) {
        const uint8_t *at = bytes + off;
        const __m512i seen = _mm512_or_si512(
            _mm512_or_si512(_mm512_loadu_si512(at), _mm512_loadu_si512(at + 64)),
            _mm512_or_si512(_mm512_loadu_si512(at + 128), _mm512_loadu_si512(at + 192)));

        if (_mm512_test_epi64_mask(seen, seen) != 0)
            return false;
    }
    return true;
}

__attribute__((target("avx2"))) static __m256i or_of_vectors(const uint8_t *bytes)
{
    const __m256i *v = (const __m256i *)(const void *)bytes;

    return _mm256_or_si256(_mm256_or_si256(_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)),
                           _mm256_or_si256(_mm256_loadu_si256(v + 2), _mm256_loadu_si256(v + 3)));
}

__attribute__((target("avx2"))) static bool zero_steps_avx2(const uint8_t *bytes, size_t size)
{
    for (size_t off = 0; off < size; off += VECTOR_STEP) {
        const __m256i seen =
            _mm256_or_si256(or_of_vectors(bytes + off), or_of_vectors(bytes + off + 128));

        if (!_mm256_testz_si256(seen, seen))
            return false;
    }
    return true;
}

/* Asked each time: a load and a test of what the loader found out. */
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") != 0;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

static bool zero_bytes_avx512(const void *data, size_t size)
{
    return zero_by(zero_steps_avx512, data, size);
}

static bool zero_bytes_avx2(const void *data, size_t size)
{
    return zero_by(zero_steps_avx2, data, size);
}
#elif defined(__aarch64__)
static bool zero_steps_neon(const uint8_t *bytes, size_t size)
{
    for (size_t off = 0; off < size; off += VECTOR_STEP) {
        uint8x16_t seen = vld1q_u8(bytes + off);

        for (size_t i = 16; i < VECTOR_STEP; i += 16)
            seen = vorrq_u8(seen, vld1q_u8(bytes + off + i));
        if (vmaxvq_u32(vreinterpretq_u32_u8(seen)) != 0)
            return false;
    }
    return true;
}

static bool zero_bytes_neon(const void *data, size_t size)
{
    return zero_by(zero_steps_neon, data, size);
}
#endif

static bool has_always(void)
{
    return true;
}

const struct zero_variant zero_variants[] = {
#if defined(__x86_64__)
    { "avx512", has_avx512, zero_bytes_avx512 },
    { "avx2", has_avx2, zero_bytes_avx2 },
#elif defined(__aarch64__)
    { "neon", has_always, zero_bytes_neon },
#endif
    { "portable", has_always, zero_bytes_portable },
};
const size_t zero_variant_count = sizeof(zero_variants) / sizeof(zero_variants[0]);

bool zero_bytes(const void *data, size_t size)
{
#if defined(__x86_64__)
    if (has_avx512())
        return zero_bytes_avx512(data, size);
    if (has_avx2())
        return zero_bytes_avx2(data, size);
    return zero_bytes_portable(data, size);
#elif defined(__aarch64__)
    return zero_bytes_neon(data, size);
#else
    return zero_bytes_portable(data, size);
#endif
}

uint64_t zero_data_page_map(const void *data, size_t page_count)
{
    const uint8_t *page = data;
    uint64_t map = 0;

    assert(page_count <= ZERO_MAP_PAGES);
    for (size_t i = 0; i < page_count; i++, page += STASIS_PAGE_SIZE) {
        if (!zero_bytes(page, STASIS_PAGE_SIZE))
            map |= UINT64_C(1) << i;
    }
    return map;
}
