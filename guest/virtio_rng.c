/*
 * virtio_rng.c - the entropy device: one request in flight at a time.
 *
 * Bytes that are all zero, or the same as the last ones, are not random. rng_last_word() is printed
 * so that a test can see two machines restored from one snapshot get different ones.
 */
#include "virtio_rng.h"

#include "cpu.h"
#include "print.h"
#include "ram.h"

#define RNG_WORDS 4u

static struct virtio_device rng;
static bool present;
static volatile bool posted, completed, doubled;
static volatile uint32_t completed_size;
static uint64_t posted_at;
static uint64_t *words; /* [RNG_WORDS], written by the device */
static uint64_t last_words[RNG_WORDS];
static uint64_t done;
static struct options config;

static void request_completed(struct virtio_device *device, uint32_t chain, uint32_t size)
{
    (void)device;
    if (!posted || completed || chain != 0)
        doubled = true;
    completed_size = size;
    completed = true;
}

bool rng_add(const struct virtio_device *device, const struct options *options)
{
    config = *options;
    rng = *device;
    rng.completed = request_completed;
    if (!virtio_start(&rng, 0)) {
        print_bad("rng slot %u does not start", device->slot);
        return false;
    }
    words = ram_alloc(RNG_WORDS * sizeof(uint64_t));
    present = true;
    return true;
}

bool rng_present(void)
{
    return present;
}

static bool check_words(void)
{
    bool same = true, zero = true;

    for (unsigned i = 0; i < RNG_WORDS; i++) {
        same &= words[i] == last_words[i];
        zero &= words[i] == 0;
        last_words[i] = words[i];
    }
    if (!same && !zero && completed_size)
        return true;
    print_bad("rng gave %u bytes, %s", completed_size, zero ? "all zero" : "the same again");
    return false;
}

static bool check_completed(void)
{
    bool ok = true;

    if (doubled) {
        print_bad("rng DOUBLE");
        doubled = false;
        ok = false;
    }
    if (posted && completed) {
        ok &= check_words();
        posted = false;
        completed = false;
        done++;
    } else if (posted && (cpu_this()->lapic_ticks - posted_at) * config.tick_ms >= config.lost_ms) {
        print_bad("rng LOST");
        posted_at = cpu_this()->lapic_ticks;
        ok = false;
    }
    return ok;
}

bool rng_step(uint64_t count)
{
    const struct virtio_buffer buffer = { words, RNG_WORDS * sizeof(uint64_t), true };
    const bool ok = check_completed();

    if (!posted && count % config.rng_every == 0) {
        for (unsigned i = 0; i < RNG_WORDS; i++)
            words[i] = 0;
        posted_at = cpu_this()->lapic_ticks;
        posted = true;
        virtio_post(&rng, 0, &buffer, 1);
    }
    return ok;
}

uint64_t rng_requests_done(void)
{
    return done;
}

uint64_t rng_last_word(void)
{
    return last_words[0];
}
