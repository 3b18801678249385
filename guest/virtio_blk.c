/*
 * virtio_blk.c - the disks, and the proof that each request is done exactly once.
 *
 * Writes carry sequence numbers 1, 2, 3 ... and go round a ring of sectors: number s to sector
 * 1 + (s - 1) % ring, so the disk itself shows afterwards which were done. Reads fetch a sector
 * that was written before and compare all of it. Requests stay in flight across counts; no two in
 * flight touch the same sector.
 *
 *     FREE --post--> POSTED --used ring, in the interrupt--> DONE --checked, main loop--> FREE
 *
 * A used entry for a slot that is not POSTED is a DOUBLE; a slot POSTED for longer than lost_ms is
 * LOST, and stays so. Slots are taken in turn, so that a doubled completion meets a FREE slot.
 *
 * On a read-only disk nothing is known of the contents; there a sector must always read the same.
 */
#include "virtio_blk.h"

#include "cpu.h"
#include "print.h"
#include "ram.h"

#define DISKS_MAX VIRTIO_SLOTS
#define SECTOR_SIZE 512u
#define SECTOR_WORDS (SECTOR_SIZE / 8)
#define FEATURE_RO (1u << 5)
#define REQUEST_READ 0u
#define REQUEST_WRITE 1u
#define STATUS_NONE 0xffu
#define RECORD_MAGIC UINT64_C(0x31474f4c46545453) /* "STTFLOG1" */

enum slot_state { SLOT_FREE, SLOT_POSTED, SLOT_DONE, SLOT_LOST };

/* What a written sector holds; the rest of it is rest, rest + 1, ... */
struct record {
    uint64_t magic, sequence, count, sector, seed, rest;
    uint64_t words[SECTOR_WORDS - 6];
};

/* What the device sees of a request. */
struct request {
    uint32_t type, reserved;
    uint64_t sector;
    uint8_t status;
    uint8_t padding[47];
    uint64_t data[SECTOR_WORDS];
};

struct slot {
    volatile enum slot_state state;
    uint32_t type;
    uint64_t sector;
    uint64_t sequence; /* written, or expected by the read */
    uint64_t posted_at;
};

struct disk {
    struct virtio_device device;
    bool read_only;
    /* Faults the interrupt has seen, for the main loop to tell. */
    volatile uint32_t doubles, lates, strays;
    volatile uint32_t faulty_slot;
    uint64_t ring;
    uint64_t next_sequence;
    uint64_t next_read;
    uint64_t done;
    uint32_t next_slot;
    struct slot slots[VIRTIO_CHAINS];
    struct request *requests; /* [VIRTIO_CHAINS] */
    /* Per sector of the ring: the sequence number it holds (0: not known); on a read-only disk a
     * sum of what was read first. */
    uint64_t *contents;
};

static struct disk disks[DISKS_MAX];
static uint32_t disks_used;
static struct options config;

static uint64_t now_ticks(void)
{
    return cpu_this()->lapic_ticks;
}

static struct disk *disk_of(struct virtio_device *device)
{
    return (struct disk *)(void *)((char *)device - offsetof(struct disk, device));
}

static uint64_t *contents_of(const struct disk *disk, uint64_t sector)
{
    return &disk->contents[sector - 1];
}

/* In the interrupt: only notes it. */
static void request_completed(struct virtio_device *device, uint32_t chain, uint32_t size)
{
    struct disk *disk = disk_of(device);

    (void)size;
    if (chain >= VIRTIO_CHAINS) {
        disk->strays++;
        return;
    }
    if (disk->slots[chain].state == SLOT_POSTED) {
        disk->slots[chain].state = SLOT_DONE;
        return;
    }
    disk->faulty_slot = chain;
    if (disk->slots[chain].state == SLOT_LOST) {
        disk->lates++;
        disk->slots[chain].state = SLOT_DONE;
    } else {
        disk->doubles++;
    }
}

/* Tells what the interrupt noted. */
static bool check_used_ring(struct disk *disk)
{
    uint32_t strays, lates, doubles, slot;

    interrupts_off();
    strays = disk->strays;
    lates = disk->lates;
    doubles = disk->doubles;
    slot = disk->faulty_slot;
    disk->strays = disk->lates = disk->doubles = 0;
    interrupts_on();

    if (strays)
        print_bad("disk slot %u used ring names no request, %u times", disk->device.slot, strays);
    if (lates)
        print_bad("disk slot %u LATE request %u, %u times", disk->device.slot, slot, lates);
    if (doubles)
        print_bad("disk slot %u DOUBLE request %u sequence %lu, %u times", disk->device.slot, slot,
                  disk->slots[slot].sequence, doubles);
    return !strays && !lates && !doubles;
}

bool disk_add(const struct virtio_device *device, const struct options *options)
{
    struct disk *disk = &disks[disks_used];
    uint64_t capacity;

    config = *options;
    disk->device = *device;
    disk->device.completed = request_completed;
    if (!virtio_start(&disk->device, FEATURE_RO)) {
        print_bad("disk slot %u does not start", device->slot);
        return false;
    }
    capacity = virtio_config_read32(&disk->device, 0) |
               (uint64_t)virtio_config_read32(&disk->device, 4) << 32;
    if (capacity < 17) {
        print_bad("disk slot %u has only %lu sectors", device->slot, capacity);
        return false;
    }
    disk->read_only = disk->device.features & FEATURE_RO;
    disk->ring = capacity - 1 < config.disk_ring ? capacity - 1 : config.disk_ring;
    disk->next_sequence = 1;
    disk->requests = ram_alloc(VIRTIO_CHAINS * sizeof(struct request));
    disk->contents = ram_alloc(disk->ring * sizeof(uint64_t));
    disks_used++;
    return true;
}

uint32_t disk_count(void)
{
    return disks_used;
}

uint32_t disk_read_only_count(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < disks_used; i++)
        count += disks[i].read_only;
    return count;
}

static bool sector_is_busy(const struct disk *disk, uint64_t sector)
{
    for (uint32_t i = 0; i < VIRTIO_CHAINS; i++) {
        if (disk->slots[i].state != SLOT_FREE && disk->slots[i].sector == sector)
            return true;
    }
    return false;
}

/* The next free slot in turn, or VIRTIO_CHAINS. */
static uint32_t take_slot(struct disk *disk)
{
    for (uint32_t tries = 0; tries < VIRTIO_CHAINS; tries++) {
        const uint32_t i = disk->next_slot;

        disk->next_slot = (i + 1) % VIRTIO_CHAINS;
        if (disk->slots[i].state == SLOT_FREE)
            return i;
    }
    return VIRTIO_CHAINS;
}

static uint64_t record_rest(const struct disk *disk, uint64_t sequence)
{
    return mix64(config.seed + disk->device.slot + sequence * MIX64_STEP);
}

static void record_make(const struct disk *disk, const struct slot *slot, uint64_t count,
                        struct record *ret_record)
{
    uint64_t word = record_rest(disk, slot->sequence);

    ret_record->magic = RECORD_MAGIC;
    ret_record->sequence = slot->sequence;
    ret_record->count = count;
    ret_record->sector = slot->sector;
    ret_record->seed = config.seed;
    ret_record->rest = word;
    for (unsigned i = 0; i < SECTOR_WORDS - 6; i++)
        ret_record->words[i] = ++word;
}

static bool record_is(const struct disk *disk, const struct slot *slot, const struct record *record)
{
    uint64_t word = record_rest(disk, slot->sequence);

    if (record->magic != RECORD_MAGIC || record->sequence != slot->sequence ||
        record->sector != slot->sector || record->seed != config.seed || record->rest != word) {
        print_bad("disk slot %u sector %lu holds sequence %lu want %lu", disk->device.slot,
                  slot->sector, record->magic == RECORD_MAGIC ? record->sequence : 0,
                  slot->sequence);
        return false;
    }
    for (unsigned i = 0; i < SECTOR_WORDS - 6; i++) {
        if (record->words[i] == ++word)
            continue;
        print_bad("disk slot %u sector %lu sequence %lu word %u is %016lx want %016lx",
                  disk->device.slot, slot->sector, slot->sequence, i + 6, record->words[i], word);
        return false;
    }
    return true;
}

static bool sector_is_unchanged(const struct disk *disk, const struct slot *slot,
                                const uint64_t *data)
{
    uint64_t *before = contents_of(disk, slot->sector);
    uint64_t sum = 1, sums = 1;

    for (unsigned i = 0; i < SECTOR_WORDS; i++)
        sums += sum += data[i];
    sum += 2 * sums;
    if (!sum)
        sum = 1; /* 0: not read yet */
    if (*before && *before != sum) {
        print_bad("disk slot %u read-only sector %lu sum is %016lx was %016lx", disk->device.slot,
                  slot->sector, sum, *before);
        return false;
    }
    *before = sum;
    return true;
}

static void post(struct disk *disk, uint32_t index)
{
    struct slot *slot = &disk->slots[index];
    struct request *request = &disk->requests[index];
    const bool reads = slot->type == REQUEST_READ;
    struct virtio_buffer buffers[3] = {
        { request, 16, false },
        { request->data, SECTOR_SIZE, reads },
        { &request->status, 1, true },
    };

    request->type = slot->type;
    request->reserved = 0;
    request->sector = slot->sector;
    request->status = STATUS_NONE;
    if (reads) {
        for (unsigned i = 0; i < SECTOR_WORDS; i++)
            request->data[i] = ~UINT64_C(0);
    }
    slot->posted_at = now_ticks();
    slot->state = SLOT_POSTED;
    virtio_post(&disk->device, index, buffers, 3);
}

static void post_write(struct disk *disk, uint64_t count)
{
    const uint64_t sector = 1 + (disk->next_sequence - 1) % disk->ring;
    struct slot *slot;
    uint32_t index;

    if (sector_is_busy(disk, sector) || (index = take_slot(disk)) == VIRTIO_CHAINS)
        return; /* next count tries again with the same number */
    slot = &disk->slots[index];
    slot->type = REQUEST_WRITE;
    slot->sector = sector;
    slot->sequence = disk->next_sequence++;
    *contents_of(disk, sector) = 0;
    record_make(disk, slot, count, (struct record *)(void *)disk->requests[index].data);
    post(disk, index);
}

static void post_read(struct disk *disk)
{
    struct slot *slot;
    uint32_t index;
    uint64_t sector;

    /* A stride prime to most ring sizes: all sectors in turn, neighbours far apart. */
    disk->next_read = (disk->next_read + 7) % disk->ring;
    sector = 1 + disk->next_read;
    if (!disk->read_only && !*contents_of(disk, sector))
        sector = 1 + disk->next_read % (disk->next_sequence < 2 ? 1 : disk->next_sequence - 1);
    if (sector > disk->ring || sector_is_busy(disk, sector))
        return;
    if (!disk->read_only && !*contents_of(disk, sector))
        return;
    index = take_slot(disk);
    if (index == VIRTIO_CHAINS)
        return;
    slot = &disk->slots[index];
    slot->type = REQUEST_READ;
    slot->sector = sector;
    slot->sequence = *contents_of(disk, sector);
    post(disk, index);
}

static bool check_done(struct disk *disk, uint32_t index)
{
    struct slot *slot = &disk->slots[index];
    const struct request *request = &disk->requests[index];
    bool ok = true;

    if (request->status != 0) {
        print_bad("disk slot %u %s sector %lu status %u", disk->device.slot,
                  slot->type == REQUEST_WRITE ? "write" : "read", slot->sector, request->status);
        ok = false;
    } else if (slot->type == REQUEST_WRITE) {
        *contents_of(disk, slot->sector) = slot->sequence;
    } else if (disk->read_only) {
        ok = sector_is_unchanged(disk, slot, request->data);
    } else {
        ok = record_is(disk, slot, (const struct record *)(const void *)request->data);
    }
    disk->done++;
    slot->state = SLOT_FREE;
    return ok;
}

static bool check_lost(struct disk *disk, uint32_t index)
{
    struct slot *slot = &disk->slots[index];
    const uint64_t age_ticks = now_ticks() - slot->posted_at;
    bool unseen, lost;

    if (age_ticks * config.tick_ms < config.lost_ms)
        return true;
    interrupts_off();
    unseen = virtio_has_unseen(&disk->device);
    if (unseen)
        virtio_collect(&disk->device);
    lost = slot->state == SLOT_POSTED;
    if (lost)
        slot->state = SLOT_LOST;
    interrupts_on();

    if (unseen)
        print_bad("disk slot %u LOST interrupt", disk->device.slot);
    if (lost)
        print_bad("disk slot %u LOST request %u %s sector %lu sequence %lu", disk->device.slot,
                  index, slot->type == REQUEST_WRITE ? "write" : "read", slot->sector,
                  slot->sequence);
    return !unseen && !lost;
}

static bool check_slots(struct disk *disk)
{
    bool ok = check_used_ring(disk);

    for (uint32_t i = 0; i < VIRTIO_CHAINS; i++) {
        if (disk->slots[i].state == SLOT_DONE)
            ok &= check_done(disk, i);
        else if (disk->slots[i].state == SLOT_POSTED)
            ok &= check_lost(disk, i);
    }
    return ok;
}

bool disk_step(uint64_t count)
{
    bool ok = true;

    for (uint32_t i = 0; i < disks_used; i++) {
        struct disk *disk = &disks[i];

        ok &= check_slots(disk);
        for (uint32_t n = 0; n < config.disk_writes && !disk->read_only; n++)
            post_write(disk, count);
        for (uint32_t n = 0; n < config.disk_reads; n++)
            post_read(disk);
    }
    return ok;
}

static bool slots_hold(enum slot_state state)
{
    for (uint32_t i = 0; i < disks_used; i++) {
        for (uint32_t n = 0; n < VIRTIO_CHAINS; n++) {
            if (disks[i].slots[n].state == state)
                return true;
        }
    }
    return false;
}

bool disk_drain(void)
{
    bool ok = true;

    do {
        for (uint32_t i = 0; i < disks_used; i++)
            ok &= check_slots(&disks[i]);
        interrupts_off();
        if (slots_hold(SLOT_POSTED) && !slots_hold(SLOT_DONE))
            interrupts_on_and_halt();
        interrupts_on();
    } while (slots_hold(SLOT_POSTED) || slots_hold(SLOT_DONE));
    return ok && !slots_hold(SLOT_LOST);
}

uint64_t disk_requests_done(void)
{
    uint64_t done = 0;

    for (uint32_t i = 0; i < disks_used; i++)
        done += disks[i].done;
    return done;
}

uint32_t disk_requests_in_flight(void)
{
    uint32_t in_flight = 0;

    for (uint32_t i = 0; i < disks_used; i++) {
        for (uint32_t n = 0; n < VIRTIO_CHAINS; n++)
            in_flight += disks[i].slots[n].state == SLOT_POSTED;
    }
    return in_flight;
}
