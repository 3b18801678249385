/*
 * virtio_blk.h - the disks, and the proof that each request is done exactly once.
 */
#ifndef GUEST_VIRTIO_BLK_H
#define GUEST_VIRTIO_BLK_H

#include <stdbool.h>
#include <stdint.h>

#include "options.h"
#include "virtio.h"

/* Takes a probed block device. False, with a BAD line, when it cannot be used. */
bool disk_add(const struct virtio_device *device, const struct options *options);

uint32_t disk_count(void);
uint32_t disk_read_only_count(void);

/* Looks at what has completed since the last call, then posts this count's requests and returns
 * without waiting. False when anything was wrong; BAD lines say what. */
bool disk_step(uint64_t count);

/* Waits for all requests, posting none. False when some are lost. */
bool disk_drain(void);

uint64_t disk_requests_done(void);
uint32_t disk_requests_in_flight(void);

#endif
