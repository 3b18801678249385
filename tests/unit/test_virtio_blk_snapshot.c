/* Goal:   a disk request is done exactly once, in order, however often the machine is saved and
 *         brought back while requests are under way, and the guest is told of each by interrupt.
 * Method: a guest thread drives the ring as Linux does (event indices, sleeping until an interrupt
 *         comes); the main thread stops it at random moments, brings the disk to rest, saves it, copies
 *         RAM and goes on in a second device, or in the first. pwritev() belongs to the test, which
 *         counts each numbered write, takes random time, or blocks as a frozen file system does. */
#include "device_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_mmio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define GSI 7u
#define RING_GPA 0x1000u
#define SLOT_GPA 0x10000u
#define SLOT_SIZE 1024u
#define SLOT_COUNT 16u
#define RING_SIZE 64u

#define SECTOR_COUNT 64u
#define REQUEST_COUNT 12000u

#define F_VERSION_1 (UINT64_C(1) << 32)
#define F_INDIRECT (UINT64_C(1) << 28)
#define F_EVENT_IDX (UINT64_C(1) << 29)
#define F_FLUSH (UINT64_C(1) << 9)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4 };

/* --- pwritev() ------------------------------------------------------------------------------ */

static uint8_t write_counts[REQUEST_COUNT];
static pthread_mutex_t freeze_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t freeze_changed = PTHREAD_COND_INITIALIZER;
static bool frozen;
static unsigned frozen_count; /* calls that wait */

ssize_t __real_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);

static void wait_while_frozen(void)
{
    pthread_mutex_lock(&freeze_lock);
    frozen_count++;
    while (frozen)
        pthread_cond_wait(&freeze_changed, &freeze_lock);
    frozen_count--;
    pthread_mutex_unlock(&freeze_lock);
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
{
    uint64_t number;

    wait_while_frozen();
    memcpy(&number, iov[0].iov_base, sizeof(number));
    if (number < REQUEST_COUNT)
        write_counts[number]++;
    if (number % 3 == 0) {
        const struct timespec nap = { .tv_nsec = (long)(number % 7) * 20000 };

        nanosleep(&nap, NULL);
    }
    return __real_pwritev64(fd, iov, count, offset);
}

static void set_frozen(bool on)
{
    pthread_mutex_lock(&freeze_lock);
    frozen = on;
    pthread_cond_broadcast(&freeze_changed);
    pthread_mutex_unlock(&freeze_lock);
}

static bool is_stuck(void *arg)
{
    bool stuck;

    (void)arg;
    pthread_mutex_lock(&freeze_lock);
    stuck = frozen_count > 0;
    pthread_mutex_unlock(&freeze_lock);
    return stuck;
}

/* --- bench ---------------------------------------------------------------------------------- */

struct slot {
    bool posted;
    uint32_t number; /* of the request */
    uint32_t type;
    uint64_t expected; /* first word of the sector, for a read */
};

struct bench {
    struct fake_ram rams[2];
    struct fake_ram *ram; /* the one in use */
    struct guest_ring ring;
    struct device *device;
    char path[64];

    /* The guest's own. */
    struct dice dice;
    struct slot slots[SLOT_COUNT];
    uint64_t model[SECTOR_COUNT]; /* first word of each sector, once all that is posted is done */
    uint32_t posted_count, write_count, done_count;
    uint32_t interrupts_seen;
    const char *failure; /* what went wrong in the guest's thread */

    /* Main thread and guest. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop_wanted, stopped, finished;
};

static void open_disk(struct bench *bench, struct device **ret_device)
{
    const struct virtio_blk_config config = { .id = "data", .path = bench->path };
    const struct irq_line irq = { .vm_fd = -1, .gsi = GSI };
    struct stasis_error err = { 0 };

    assert_stasis_ok(
        virtio_blk_new(&config, &irq, &bench->ram->memory, SECTOR_COUNT * 512, ret_device, &err),
        &err);
}

static void run(struct bench *bench)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(bench->device->ops->run(bench->device, &err), &err);
}

static int bench_new(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    int fd;

    if (!bench)
        return -1;
    memset(write_counts, 0, sizeof(write_counts));
    fake_ram_init(&bench->rams[0]);
    fake_ram_init(&bench->rams[1]);
    bench->ram = &bench->rams[0];
    ring_init(&bench->ring, bench->ram, RING_SIZE, RING_GPA);
    strcpy(bench->path, "/tmp/test_virtio_blk.XXXXXX");
    fd = mkstemp(bench->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, SECTOR_COUNT * 512), 0);
    close(fd);
    pthread_mutex_init(&bench->lock, NULL);
    pthread_cond_init(&bench->changed, NULL);
    open_disk(bench, &bench->device);
    assert_true(mmio_bring_up(bench->device, F_VERSION_1 | F_EVENT_IDX | F_INDIRECT | F_FLUSH,
                              &bench->ring));
    run(bench);
    irq_pulses(GSI);
    *state = bench;
    return 0;
}

static int bench_free(void **state)
{
    struct bench *bench = *state;

    set_frozen(false);
    bench->device->ops->free(bench->device);
    unlink(bench->path);
    pthread_mutex_destroy(&bench->lock);
    pthread_cond_destroy(&bench->changed);
    fake_ram_release(&bench->rams[0]);
    fake_ram_release(&bench->rams[1]);
    free(bench);
    return 0;
}

/* --- the guest ------------------------------------------------------------------------------ */

/* Slot n: header at 0, status at 16, data at 512; descriptors 3n .. 3n + 2. */
static uint64_t slot_gpa(uint32_t n)
{
    return SLOT_GPA + (uint64_t)SLOT_SIZE * n;
}

static void fill_slot(struct bench *bench, uint32_t n, uint32_t type)
{
    const uint64_t sector = dice_below(&bench->dice, SECTOR_COUNT);
    struct slot *slot = &bench->slots[n];
    uint8_t *place = ram_at(bench->ram, slot_gpa(n), SLOT_SIZE);
    const uint64_t number = bench->posted_count++;

    *slot = (struct slot){
        .posted = true, .number = (uint32_t)number, .type = type, .expected = bench->model[sector]
    };
    memset(place, 0xcc, SLOT_SIZE);
    memcpy(place, &slot->type, 4);
    memset(place + 4, 0, 4);
    memcpy(place + 8, &sector, 8);
    if (slot->type == T_OUT) {
        memcpy(place + 512, &number, 8);
        bench->model[sector] = number;
        bench->write_count++;
    }
}

static void post_slot(struct bench *bench, uint32_t n, uint32_t type)
{
    const uint16_t at = (uint16_t)(3 * n);
    const uint64_t gpa = slot_gpa(n);
    uint16_t data_flags = DESC_NEXT;

    fill_slot(bench, n, type);
    if (type == T_IN)
        data_flags |= DESC_WRITE;
    ring_desc(&bench->ring, at, gpa, 16, DESC_NEXT, (uint16_t)(type == T_FLUSH ? at + 2 : at + 1));
    ring_desc(&bench->ring, (uint16_t)(at + 1), gpa + 512, 512, data_flags, (uint16_t)(at + 2));
    ring_desc(&bench->ring, (uint16_t)(at + 2), gpa + 16, 1, DESC_WRITE, 0);
    ring_post(&bench->ring, at);
}

/* As Linux: a kick only when the device has asked for one. */
static void kick_when_wanted(struct bench *bench, uint16_t before)
{
    const uint16_t event = ring_avail_event(&bench->ring);
    const uint16_t after = bench->ring.posted;

    if ((uint16_t)(after - event - 1) < (uint16_t)(after - before))
        mmio_write(bench->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
}

static void post_some(struct bench *bench)
{
    static const uint32_t types[] = { T_OUT, T_OUT, T_OUT, T_IN, T_IN, T_FLUSH };
    const uint16_t before = bench->ring.posted;
    uint64_t count = 1 + dice_below(&bench->dice, SLOT_COUNT);

    for (uint32_t n = 0; n < SLOT_COUNT && count > 0; n++) {
        if (bench->slots[n].posted || bench->posted_count == REQUEST_COUNT)
            continue;
        post_slot(bench, n, types[dice_below(&bench->dice, 6)]);
        count--;
    }
    if (bench->ring.posted != before)
        kick_when_wanted(bench, before);
}

static const char *check_done(struct bench *bench, uint32_t head)
{
    const uint32_t n = head / 3;
    struct slot *slot = &bench->slots[n];
    const uint8_t *place;
    uint64_t word;

    if (head % 3 || n >= SLOT_COUNT || !slot->posted)
        return "a completion of what was not asked for";
    if (slot->number != bench->done_count)
        return "completions out of order";
    place = ram_at(bench->ram, slot_gpa(n), SLOT_SIZE);
    if (place[16] != 0)
        return "a request failed";
    memcpy(&word, place + 512, 8);
    if (slot->type == T_IN && word != slot->expected)
        return "a read does not see the writes before it";
    slot->posted = false;
    bench->done_count++;
    return NULL;
}

static void take_done(struct bench *bench)
{
    uint32_t head, length;

    while (!bench->failure && ring_take(&bench->ring, &head, &length))
        bench->failure = check_done(bench, head);
}

/* A vCPU stops between two instructions; here, between two steps. */
static void stop_when_wanted(struct bench *bench)
{
    pthread_mutex_lock(&bench->lock);
    while (bench->stop_wanted) {
        bench->stopped = true;
        pthread_cond_broadcast(&bench->changed);
        pthread_cond_wait(&bench->changed, &bench->lock);
    }
    bench->stopped = false;
    pthread_mutex_unlock(&bench->lock);
}

/* As Linux: ask for an interrupt at the next completion, look once more, then sleep until it comes. */
static void wait_for_completion(struct bench *bench)
{
    const uint64_t deadline = deadline_in_ms(20000);
    const struct timespec nap = { .tv_nsec = 20000 };

    ring_set_used_event(&bench->ring, bench->ring.seen);
    if (ring_used_idx(&bench->ring) != bench->ring.seen)
        return;
    while (!irq_pulses(GSI)) {
        stop_when_wanted(bench);
        nanosleep(&nap, NULL);
        if (deadline_in_ms(0) > deadline) {
            bench->failure = "no interrupt for 20 s";
            return;
        }
    }
    bench->interrupts_seen++;
}

static void *guest_main(void *arg)
{
    struct bench *bench = arg;

    while (bench->done_count < REQUEST_COUNT && !bench->failure) {
        stop_when_wanted(bench);
        post_some(bench);
        wait_for_completion(bench);
        take_done(bench);
    }
    pthread_mutex_lock(&bench->lock);
    bench->finished = bench->stopped = true;
    pthread_cond_broadcast(&bench->changed);
    pthread_mutex_unlock(&bench->lock);
    return NULL;
}

/* --- the machine ---------------------------------------------------------------------------- */

static bool stop_guest(struct bench *bench)
{
    bool finished;

    pthread_mutex_lock(&bench->lock);
    bench->stop_wanted = true;
    while (!bench->stopped)
        pthread_cond_wait(&bench->changed, &bench->lock);
    finished = bench->finished;
    pthread_mutex_unlock(&bench->lock);
    return !finished;
}

static void let_guest_go(struct bench *bench)
{
    pthread_mutex_lock(&bench->lock);
    bench->stop_wanted = false;
    pthread_cond_broadcast(&bench->changed);
    pthread_mutex_unlock(&bench->lock);
}

/* Into other RAM and another device; the first one dies first, as it holds the disk. */
static void move_to_another(struct bench *bench, const struct stasis_machine *machine)
{
    struct fake_ram *other = bench->ram == &bench->rams[0] ? &bench->rams[1] : &bench->rams[0];
    struct stasis_error err = { 0 };

    fake_ram_copy(other, bench->ram);
    memset(ram_at(bench->ram, 0, LOW_SIZE), 0xee, LOW_SIZE); /* nobody may use it any more */
    bench->device->ops->free(bench->device);
    bench->ram = bench->ring.ram = other;
    open_disk(bench, &bench->device);
    assert_stasis_ok(bench->device->ops->load(bench->device, machine, &err), &err);
}

static void save_and_go_on(struct bench *bench, bool move)
{
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };

    assert_stasis_ok(bench->device->ops->quiesce(bench->device, deadline_in_ms(20000), &err), &err);
    assert_stasis_ok(bench->device->ops->save(bench->device, &machine, &err), &err);
    if (move)
        move_to_another(bench, &machine);
    stasis_machine_release(&machine);
    run(bench);
}

static void assert_disk_is_model(const struct bench *bench)
{
    const int fd = open(bench->path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    for (uint64_t sector = 0; sector < SECTOR_COUNT; sector++) {
        uint64_t word;

        assert_int_equal(pread(fd, &word, 8, (off_t)(sector * 512)), 8);
        assert_int_equal(word, bench->model[sector]);
    }
    close(fd);
}

/* Ends the guest; each write has gone to the disk once, and the disk is as it should be. */
static void join_guest(struct bench *bench, pthread_t guest)
{
    unsigned written = 0;

    assert_int_equal(pthread_join(guest, NULL), 0);
    if (bench->failure)
        fail_msg("after %u requests: %s", bench->done_count, bench->failure);
    assert_int_equal(bench->done_count, REQUEST_COUNT);
    assert_true(bench->interrupts_seen > 0);
    for (size_t i = 0; i < REQUEST_COUNT; i++) {
        assert_true(write_counts[i] <= 1);
        written += write_counts[i];
    }
    assert_int_equal(written, bench->write_count);
    assert_disk_is_model(bench);
}

/* Without snapshots nothing but kicks and interrupts keeps the two sides going. */
static void kicks_and_interrupts_are_never_missing(void **state)
{
    struct bench *bench = *state;
    pthread_t guest;

    bench->dice.state = 20;
    assert_int_equal(pthread_create(&guest, NULL, guest_main, bench), 0);
    join_guest(bench, guest);
}

static void every_request_is_done_exactly_once_over_many_snapshots(void **state)
{
    struct bench *bench = *state;
    struct dice dice = { .state = 21 };
    unsigned snapshots = 0;
    pthread_t guest;

    bench->dice.state = 22;
    assert_int_equal(pthread_create(&guest, NULL, guest_main, bench), 0);
    for (;;) {
        const struct timespec nap = { .tv_nsec = (long)dice_below(&dice, 1500000) };

        nanosleep(&nap, NULL);
        if (!stop_guest(bench))
            break;
        save_and_go_on(bench, dice_below(&dice, 3) != 0);
        snapshots++;
        let_guest_go(bench);
    }
    join_guest(bench, guest);
    assert_true(snapshots > 20);
}

static void a_frozen_disk_times_out_and_the_request_is_done_once_it_thaws(void **state)
{
    struct bench *bench = *state;
    struct stasis_error err = { 0 };
    bool (*const stuck)(void *) = is_stuck;
    uint32_t head, length;

    set_frozen(true);
    post_slot(bench, 0, T_OUT);
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    wait_until(stuck, NULL, "the write");
    assert_stasis_fails(bench->device->ops->quiesce(bench->device, deadline_in_ms(50), &err), &err,
                        STASIS_ERR_QUIESCE_TIMEOUT);
    assert_non_null(strstr(err.text, "virtio-blk 'data'"));
    run(bench); /* the guest goes on */
    assert_int_equal(ring_used_idx(&bench->ring), 0);
    set_frozen(false);
    assert_stasis_ok(bench->device->ops->quiesce(bench->device, deadline_in_ms(20000), &err), &err);
    assert_true(ring_take(&bench->ring, &head, &length));
    assert_int_equal(irq_pulses(GSI), 1);
    assert_int_equal(write_counts[bench->slots[0].number], 1);
    run(bench);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_new, bench_free)
    static const struct CMUnitTest tests[] = {
        CASE(kicks_and_interrupts_are_never_missing),
        CASE(every_request_is_done_exactly_once_over_many_snapshots),
        CASE(a_frozen_disk_times_out_and_the_request_is_done_once_it_thaws),
    };
#undef CASE

    return unit_run(tests);
}
