/*
 * virtio_rng.c - an entropy device: the host's random numbers, straight into the guest's buffers.
 *
 * One request gets at most RNG_REQUEST_MAX bytes, so that a guest with huge buffers neither keeps a
 * host CPU for long nor delays a pause; the virtio specification allows to give less than was asked
 * for. Nothing random is ever saved: clones of one snapshot must not be handed the same numbers.
 */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/error.h"
#include "microvm/device.h"
#include "microvm/device_state.h"
#include "microvm/virtio_mmio.h"

#define RNG_STATE_VERSION 1u
#define RNG_REQUEST_MAX 65536u /* bytes */

struct virtio_rng {
    struct virtio_device virtio; /* first */
};

struct virtio_rng_state {
    struct virtio_state transport;
};

static const struct stasis_field rng_state_fields[] = {
    STASIS_F(struct virtio_rng_state, transport, STRUCT, .table = &virtio_state_table),
};
static const struct stasis_table rng_state_table =
    STASIS_TABLE(struct virtio_rng_state, rng_state_fields);

static struct virtio_rng *rng_of(struct device *device)
{
    return (struct virtio_rng *)device;
}

/* As many bytes as the kernel gives, at most `size`. */
static size_t fill_random(void *buf, size_t size)
{
    size_t done = 0;

    while (done < size) {
        const ssize_t got = getrandom((uint8_t *)buf + done, size - done, 0);

        if (got < 0 && errno != EINTR)
            break;
        done += got > 0 ? (size_t)got : 0;
    }
    return done;
}

static int rng_serve(struct virtio_device *virtio, const struct virtio_chain *chain,
                     uint32_t *ret_written_size)
{
    const struct iovec *iov = chain->iov + chain->out_count;
    uint32_t written = 0;

    (void)virtio;
    for (size_t i = 0; i < chain->in_count && written < RNG_REQUEST_MAX; i++) {
        const size_t room = RNG_REQUEST_MAX - written;
        const size_t want = iov[i].iov_len < room ? iov[i].iov_len : room;
        const size_t got = fill_random(iov[i].iov_base, want);

        written += (uint32_t)got;
        if (got < want)
            break;
    }
    *ret_written_size = written;
    return 0;
}

static const struct virtio_class rng_class = { .device_id = VIRTIO_ID_RNG,
                                               .queue_count = 1,
                                               .serve = rng_serve };

static int rng_save(struct device *device, struct stasis_machine *machine, struct stasis_error *err)
{
    struct virtio_rng_state state = { 0 };
    int r = virtio_save(&rng_of(device)->virtio, &state.transport, err);

    if (r == 0)
        r = device_save_state(device, RNG_STATE_VERSION, &rng_state_table, &state, machine, err);
    stasis_fields_release(&rng_state_table, &state);
    return r;
}

static int rng_load(struct device *device, const struct stasis_machine *machine,
                    struct stasis_error *err)
{
    struct virtio_rng_state state = { 0 };
    int r = device_load_state(device, RNG_STATE_VERSION, &rng_state_table, machine, &state, err);

    if (r == 0) {
        r = virtio_load(&rng_of(device)->virtio, &state.transport, err);
        if (r < 0)
            r = stasis_wrap(err, r, "entropy device");
    }
    stasis_fields_release(&rng_state_table, &state);
    return r;
}

static void rng_free(struct device *device)
{
    struct virtio_rng *rng = rng_of(device);

    virtio_release(&rng->virtio);
    free(rng);
}

static const struct device_ops rng_ops = {
    .kind = "virtio-rng",
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
    .run = virtio_run,
    .quiesce = virtio_quiesce,
    .save = rng_save,
    .load = rng_load,
    .free = rng_free,
};

int virtio_rng_new(const struct irq_line *irq, const struct guest_memory *memory,
                   struct device **ret_device, struct stasis_error *err)
{
    struct virtio_rng *rng = calloc(1, sizeof(*rng));

    if (!rng)
        return stasis_fail_memory(err, "an entropy device");
    rng->virtio.device.ops = &rng_ops;
    snprintf(rng->virtio.device.id, sizeof(rng->virtio.device.id), "rng");
    virtio_init(&rng->virtio, &rng_class, irq, memory, 0);
    *ret_device = &rng->virtio.device;
    return 0;
}
