/* digest.h - XXH3-128, SHA-256 and CRC-64 behind small calls.
 *
 * XXH3-128 in its canonical (big-endian) form: finds corruption, not tampering. SHA-256 by OpenSSL
 * (SHA-NI where there is). CRC-64 by ISA-L (carry-less multiply). */
#ifndef STASIS_BASE_DIGEST_H
#define STASIS_BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define DIGEST_XXH3_128_SIZE 16
#define DIGEST_SHA256_SIZE 32

void digest_xxh3_128(const void *data, size_t size, uint8_t ret_digest[DIGEST_XXH3_128_SIZE]);
void digest_sha256(const void *data, size_t size, uint8_t ret_digest[DIGEST_SHA256_SIZE]);

/* SHA-256 over several pieces. */
struct digest_sha256_stream;                          /* opaque */
struct digest_sha256_stream *digest_sha256_new(void); /* NULL: out of memory */
void digest_sha256_update(struct digest_sha256_stream *stream, const void *data, size_t size);
void digest_sha256_final(struct digest_sha256_stream *stream,
                         uint8_t ret_digest[DIGEST_SHA256_SIZE]);
void digest_sha256_free(struct digest_sha256_stream *stream);

/* CRC-64/ECMA-182 as Volt uses it, and CRC-64/Jones (Redis) as squib does; `crc` 0 to begin, or
 * the value so far to go on. */
uint64_t digest_crc64_ecma(uint64_t crc, const void *data, size_t size);
uint64_t digest_crc64_jones(uint64_t crc, const void *data, size_t size);

/* Lower-case hex; `text` holds 2 * size + 1 bytes. */
void digest_hex(const uint8_t *bytes, size_t size, char *text);

#endif
