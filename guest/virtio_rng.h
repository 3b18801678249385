/*
 * virtio_rng.h - the entropy device: one request in flight at a time.
 */
#ifndef GUEST_VIRTIO_RNG_H
#define GUEST_VIRTIO_RNG_H

#include <stdbool.h>
#include <stdint.h>

#include "options.h"
#include "virtio.h"

bool rng_add(const struct virtio_device *device, const struct options *options);
bool rng_present(void);

/* Checks what came, asks for more every rng_every counts. False when anything was wrong. */
bool rng_step(uint64_t count);

uint64_t rng_requests_done(void);
uint64_t rng_last_word(void);

#endif
