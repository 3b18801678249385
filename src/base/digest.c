/*
 * digest.c - XXH3-128, SHA-256 and CRC-64 behind small calls.
 *
 * The bytes these functions give are part of file formats: a change here makes every existing
 * snapshot "corrupt". None of them can fail and none allocates, except digest_sha256_new(). For that
 * reason SHA-256 goes through OpenSSL's SHA256_*() and not through EVP, which allocates and looks
 * up providers on each use; both end in the same assembler (SHA-NI where there is).
 */
#define OPENSSL_API_COMPAT 0x10101000L /* SHA256_*() are deprecated in 3.0, and here to stay */
#include "base/digest.h"

#include <stdlib.h>

#include <isa-l/crc64.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <xxhash.h>

struct digest_sha256_stream {
    SHA256_CTX context;
};

void digest_xxh3_128(const void *data, size_t size, uint8_t ret_digest[DIGEST_XXH3_128_SIZE])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
    for (size_t i = 0; i < DIGEST_XXH3_128_SIZE; i++)
        ret_digest[i] = canonical.digest[i];
}

void digest_sha256(const void *data, size_t size, uint8_t ret_digest[DIGEST_SHA256_SIZE])
{
    SHA256_CTX context;

    SHA256_Init(&context);
    SHA256_Update(&context, data, size);
    SHA256_Final(ret_digest, &context);
}

struct digest_sha256_stream *digest_sha256_new(void)
{
    struct digest_sha256_stream *stream = malloc(sizeof(*stream));

    if (stream)
        SHA256_Init(&stream->context);
    return stream;
}

void digest_sha256_update(struct digest_sha256_stream *stream, const void *data, size_t size)
{
    SHA256_Update(&stream->context, data, size);
}

void digest_sha256_final(struct digest_sha256_stream *stream,
                         uint8_t ret_digest[DIGEST_SHA256_SIZE])
{
    SHA256_Final(ret_digest, &stream->context);
}

void digest_sha256_free(struct digest_sha256_stream *stream)
{
    free(stream);
}

/* ISA-L inverts its seed and its result; both of ours start from 0 and end uninverted. */
uint64_t digest_crc64_ecma(uint64_t crc, const void *data, size_t size)
{
    return size > 0 ? ~crc64_ecma_norm(~crc, data, size) : crc;
}

uint64_t digest_crc64_jones(uint64_t crc, const void *data, size_t size)
{
    return size > 0 ? ~crc64_jones_refl(~crc, data, size) : crc;
}

void digest_hex(const uint8_t *bytes, size_t size, char *text)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < size; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * size] = '\0';
}
