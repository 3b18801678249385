/*
 * zero.c - the zero test: portable words, AVX2 where the CPU has it, NEON on arm64.
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
#define VECTOR_STEP 128 /* bytes looked at between two branches */

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
#if defined(__x86_64__)
__attribute__((target("avx2"))) static bool zero_steps_avx2(const uint8_t *bytes, size_t size)
{
    for (size_t off = 0; off < size; off += VECTOR_STEP) {
        const __m256i *v = (const __m256i *)(const void *)(bytes + off);
        const __m256i seen =
            _mm256_or_si256(_mm256_or_si256(_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)),
                            _mm256_or_si256(_mm256_loadu_si256(v + 2), _mm256_loadu_si256(v + 3)));

        if (!_mm256_testz_si256(seen, seen))
            return false;
    }
    return true;
}

bool zero_bytes(const void *data, size_t size)
{
    const size_t in_steps = size - size % VECTOR_STEP;

    if (!__builtin_cpu_supports("avx2"))
        return zero_bytes_portable(data, size);
    return zero_steps_avx2(data, in_steps) &&
           zero_bytes_portable((const uint8_t *)data + in_steps, size - in_steps);
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

bool zero_bytes(const void *data, size_t size)
{
    const size_t in_steps = size - size % VECTOR_STEP;

    return zero_steps_neon(data, in_steps) &&
           zero_bytes_portable((const uint8_t *)data + in_steps, size - in_steps);
}
#else
bool zero_bytes(const void *data, size_t size)
{
    return zero_bytes_portable(data, size);
}
#endif

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
