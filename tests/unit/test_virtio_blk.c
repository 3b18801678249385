/* Goal:   what a guest reads and writes is what is on the disk, in whole sectors inside it, and two
 *         machines never share a writable disk.
 * Method: requests cut into buffers at random against a model of the disk; the linker hands preadv(),
 *         pwritev() and fdatasync() to the test, which cuts them short, fails or counts them. */
#include "device_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_mmio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "microvm/virtio_mmio.h"

#define GSI 6u
#define RING_GPA 0x1000u
#define HEADER_GPA 0x8000u
#define DATA_GPA 0x10000u
#define STATUS_GPA 0x9000u

#define SECTOR_COUNT 128u
#define TAIL_SIZE 100u
#define DISK_SIZE (SECTOR_COUNT * 512u + TAIL_SIZE)

#define F_VERSION_1 (UINT64_C(1) << 32)
#define F_SEG_MAX (UINT64_C(1) << 2)
#define F_RO (UINT64_C(1) << 5)
#define F_BLK_SIZE (UINT64_C(1) << 6)
#define F_FLUSH (UINT64_C(1) << 9)
#define F_RING (UINT64_C(3) << 28)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xee };

/* --- the system calls, as the test wants them ------------------------------------------------ */

static struct {
    struct dice dice;
    bool interrupt_and_cut; /* transfers */
    int transfer_errno;     /* fail with it */
    bool transfer_ends;     /* return 0, as at the end of a file */
    int sync_errno;
    unsigned sync_count;
} calls;

ssize_t __real_preadv64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __real_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
int __wrap_fdatasync(int fd);

/* 1: do the call, with the first buffer cut; otherwise its result. */
static ssize_t disturb(const struct iovec *iov, struct iovec *first)
{
    *first = iov[0];
    if (calls.transfer_errno) {
        errno = calls.transfer_errno;
        return -1;
    }
    if (calls.transfer_ends)
        return 0;
    if (calls.interrupt_and_cut && dice_below(&calls.dice, 4) == 0) {
        errno = EINTR;
        return -1;
    }
    if (calls.interrupt_and_cut)
        first->iov_len = 1 + (size_t)dice_below(&calls.dice, first->iov_len);
    return 1;
}

ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int count, off_t offset)
{
    struct iovec first;
    const ssize_t r = disturb(iov, &first);

    if (r != 1)
        return r;
    if (calls.interrupt_and_cut)
        return __real_preadv64(fd, &first, 1, offset);
    return __real_preadv64(fd, iov, count, offset);
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
{
    struct iovec first;
    const ssize_t r = disturb(iov, &first);

    if (r != 1)
        return r;
    if (calls.interrupt_and_cut)
        return __real_pwritev64(fd, &first, 1, offset);
    return __real_pwritev64(fd, iov, count, offset);
}

int __wrap_fdatasync(int fd)
{
    (void)fd; /* the tests need its order, not the medium */
    calls.sync_count++;
    if (calls.sync_errno == 0)
        return 0;
    errno = calls.sync_errno;
    return -1;
}

/* --- bench ---------------------------------------------------------------------------------- */

struct bench {
    struct fake_ram ram;
    struct guest_ring ring;
    struct device *device;
    char dir[64], path[96];
    uint8_t model[DISK_SIZE]; /* what the file holds */
};

static int open_disk(struct bench *bench, const char *id, const char *path, bool read_only,
                     uint64_t size_expected, struct device **ret_device, struct stasis_error *err)
{
    const struct virtio_blk_config config = { .id = id, .path = path, .read_only = read_only };
    const struct irq_line irq = { .vm_fd = -1, .gsi = GSI };

    return virtio_blk_new(&config, &irq, &bench->ram.memory, size_expected, ret_device, err);
}

static void open_bench_disk(struct bench *bench, bool read_only)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(open_disk(bench, "data-1", bench->path, read_only, 0, &bench->device, &err),
                     &err);
}

static void close_disk(struct bench *bench)
{
    if (bench->device)
        bench->device->ops->free(bench->device);
    bench->device = NULL;
}

static void write_file(const char *path, const void *bytes, size_t size)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    close(fd);
}

static int bench_new(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    struct dice dice = { .state = 11 };

    if (!bench)
        return -1;
    memset(&calls, 0, sizeof(calls));
    fake_ram_init(&bench->ram);
    ring_init(&bench->ring, &bench->ram, 256, RING_GPA);
    strcpy(bench->dir, "/tmp/test_virtio_blk.XXXXXX");
    assert_non_null(mkdtemp(bench->dir));
    snprintf(bench->path, sizeof(bench->path), "%s/disk", bench->dir);
    for (size_t i = 0; i < DISK_SIZE; i++)
        bench->model[i] = (uint8_t)dice_roll(&dice);
    write_file(bench->path, bench->model, DISK_SIZE);
    *state = bench;
    return 0;
}

static int bench_free(void **state)
{
    struct bench *bench = *state;

    close_disk(bench);
    unlink(bench->path);
    rmdir(bench->dir);
    fake_ram_release(&bench->ram);
    free(bench);
    return 0;
}

static void bring_up(struct bench *bench, bool read_only, uint64_t features)
{
    struct stasis_error err = { 0 };

    open_bench_disk(bench, read_only);
    assert_true(mmio_bring_up(bench->device, F_VERSION_1 | features, &bench->ring));
    assert_stasis_ok(bench->device->ops->run(bench->device, &err), &err);
}

static void assert_file_is_model(const struct bench *bench)
{
    static uint8_t file[DISK_SIZE + 1];
    const int fd = open(bench->path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(read(fd, file, sizeof(file)), DISK_SIZE);
    close(fd);
    assert_memory_equal(file, bench->model, DISK_SIZE);
}

/* --- requests ------------------------------------------------------------------------------- */

struct request {
    uint32_t type;
    uint64_t sector;
    uint32_t data_size; /* at DATA_GPA */
};

/* Adds [gpa, gpa + size) to the chain from descriptor `at` on, cut at random where `dice` is given. */
static uint16_t add_buffers(struct bench *bench, struct dice *dice, uint16_t at, uint64_t gpa,
                            uint32_t size, uint16_t flags)
{
    while (size > 0) {
        uint32_t piece = size;

        if (dice && at < 200)
            piece = 1 + (uint32_t)dice_below(dice, size < 2000 ? size : 2000);
        ring_desc(&bench->ring, at, gpa, piece, flags | DESC_NEXT, (uint16_t)(at + 1));
        at++;
        gpa += piece;
        size -= piece;
    }
    return at;
}

static void end_chain(struct bench *bench, uint16_t count)
{
    uint8_t *last = ram_at(&bench->ram, bench->ring.desc_gpa + 16u * (count - 1u), 16);

    last[12] &= (uint8_t)~DESC_NEXT;
}

static void put_header(struct bench *bench, const struct request *request)
{
    const struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header = { request->type, 0, request->sector };

    memcpy(ram_at(&bench->ram, HEADER_GPA, 16), &header, 16);
    *(uint8_t *)ram_at(&bench->ram, STATUS_GPA, 1) = S_NONE;
}

/* Header, data and status side by side in RAM, so that a cut may fall on their borders or not. */
static void post_request(struct bench *bench, const struct request *request, struct dice *dice)
{
    const bool reads = request->type != T_OUT;
    uint16_t at = 0;

    put_header(bench, request);
    at = add_buffers(bench, dice, at, HEADER_GPA, 16, 0);
    at = add_buffers(bench, dice, at, DATA_GPA, request->data_size, reads ? DESC_WRITE : 0);
    at = add_buffers(bench, NULL, at, STATUS_GPA, 1, DESC_WRITE);
    end_chain(bench, at);
    ring_post(&bench->ring, 0);
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
}

static bool has_used(void *arg)
{
    const struct guest_ring *ring = arg;

    return ring_used_idx(ring) != ring->seen;
}

static uint8_t wait_status(struct bench *bench, uint32_t *ret_length)
{
    uint32_t head;

    wait_until(has_used, &bench->ring, "the disk");
    assert_true(ring_take(&bench->ring, &head, ret_length));
    assert_int_equal(head, 0);
    return *(uint8_t *)ram_at(&bench->ram, STATUS_GPA, 1);
}

static uint8_t do_request(struct bench *bench, uint32_t type, uint64_t sector, uint32_t data_size)
{
    const struct request request = { type, sector, data_size };
    uint32_t length;

    post_request(bench, &request, NULL);
    return wait_status(bench, &length);
}

static uint8_t *data_at(const struct bench *bench, size_t size)
{
    return ram_at(&bench->ram, DATA_GPA, size);
}

/* --- reading and writing -------------------------------------------------------------------- */

static void the_disk_tells_its_size_and_what_it_can(void **state)
{
    struct bench *bench = *state;

    open_bench_disk(bench, false);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_DEVICE_ID), 2);
    assert_int_equal(bench->device->ops->read(bench->device, 0x100, 8), SECTOR_COUNT);
    assert_int_equal(mmio_read(bench->device, 0x10c), 254); /* seg_max */
    assert_int_equal(mmio_read(bench->device, 0x114), 512); /* blk_size */
    assert_true(mmio_offered(bench->device) ==
                (F_VERSION_1 | F_RING | F_SEG_MAX | F_BLK_SIZE | F_FLUSH));
    close_disk(bench);
    open_bench_disk(bench, true);
    assert_true(mmio_offered(bench->device) ==
                (F_VERSION_1 | F_RING | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_RO));
}

/* What a request should do, and the model's own doing of it. */
static uint8_t model_request(struct bench *bench, const struct request *request,
                             uint8_t *ret_expected)
{
    const uint64_t count = request->data_size / 512;
    const bool fits = request->data_size % 512 == 0 && request->sector <= SECTOR_COUNT &&
                      count <= SECTOR_COUNT - request->sector;

    memcpy(ret_expected, data_at(bench, request->data_size), request->data_size);
    switch (request->type) {
    case T_IN:
        if (!fits)
            return S_IOERR;
        memcpy(ret_expected, bench->model + request->sector * 512, request->data_size);
        return S_OK;
    case T_OUT:
        if (!fits)
            return S_IOERR;
        memcpy(bench->model + request->sector * 512, ret_expected, request->data_size);
        return S_OK;
    case T_FLUSH: return S_OK;
    default: return S_UNSUPP;
    }
}

static struct request random_request(struct dice *dice)
{
    static const uint32_t types[] = { T_IN, T_IN, T_IN, T_OUT, T_OUT, T_OUT, T_FLUSH, 2, 99 };
    struct request request = { .type = types[dice_below(dice, 9)],
                               .sector = dice_below(dice, SECTOR_COUNT + 4),
                               .data_size = 512 * (uint32_t)dice_below(dice, 20) };

    if (dice_below(dice, 16) == 0)
        request.sector = dice_roll(dice) | UINT64_C(1) << 55; /* times 512 wraps */
    if (dice_below(dice, 16) == 0)
        request.data_size += (uint32_t)dice_below(dice, 512);
    return request;
}

static void run_random_requests(struct bench *bench, unsigned count)
{
    static uint8_t expected[20 * 512 + 512];
    struct dice dice = { .state = 12 };
    unsigned done_well = 0;

    for (unsigned i = 0; i < count; i++) {
        const struct request request = random_request(&dice);
        uint8_t *data = data_at(bench, sizeof(expected));
        uint32_t length;
        uint8_t status;

        for (uint32_t k = 0; k < request.data_size; k += 7)
            data[k] = (uint8_t)dice_roll(&dice);
        status = model_request(bench, &request, expected);
        post_request(bench, &request, &dice);
        if (wait_status(bench, &length) != status)
            fail_msg("request %u: type %u sector %ju size %u: not %u", i, request.type,
                     (uintmax_t)request.sector, request.data_size, status);
        assert_int_equal(length, request.type == T_OUT ? 1 : request.data_size + 1);
        assert_memory_equal(data, expected, request.data_size);
        done_well += status == S_OK;
    }
    assert_true(done_well > count / 3);
    assert_file_is_model(bench);
}

static void requests_do_what_a_model_of_the_disk_does(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, false, F_FLUSH | F_RING);
    run_random_requests(bench, 3000);
}

static void transfers_that_are_cut_short_or_interrupted_go_on(void **state)
{
    struct bench *bench = *state;

    calls.interrupt_and_cut = true;
    bring_up(bench, false, F_FLUSH);
    run_random_requests(bench, 500);
}

static void failing_transfers_are_io_errors(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, false, F_FLUSH);
    calls.transfer_errno = EIO;
    assert_int_equal(do_request(bench, T_IN, 0, 512), S_IOERR);
    assert_int_equal(do_request(bench, T_OUT, 0, 512), S_IOERR);
    calls.transfer_errno = ENOSPC;
    assert_int_equal(do_request(bench, T_OUT, 0, 512), S_IOERR);
    calls.transfer_errno = 0;
    calls.transfer_ends = true; /* the file was cut while we run */
    assert_int_equal(do_request(bench, T_IN, 0, 512), S_IOERR);
    calls.transfer_ends = false;
    calls.sync_errno = EIO;
    assert_int_equal(do_request(bench, T_FLUSH, 0, 0), S_IOERR);
    calls.sync_errno = 0;
    assert_int_equal(do_request(bench, T_IN, 0, 512), S_OK);
    assert_file_is_model(bench);
}

static void the_tail_beyond_the_last_whole_sector_is_out_of_reach(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, false, F_FLUSH);
    assert_int_equal(do_request(bench, T_IN, SECTOR_COUNT - 1, 512), S_OK);
    assert_int_equal(do_request(bench, T_IN, SECTOR_COUNT, 512), S_IOERR);
    assert_int_equal(do_request(bench, T_OUT, SECTOR_COUNT - 1, 1024), S_IOERR);
    assert_int_equal(do_request(bench, T_OUT, SECTOR_COUNT, 512), S_IOERR);
    assert_file_is_model(bench);
}

static void a_read_only_disk_refuses_writes_and_is_not_touched(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(chmod(bench->path, 0400), 0);
    bring_up(bench, true, F_FLUSH | F_RO);
    memset(data_at(bench, 512), 0x5a, 512);
    assert_int_equal(do_request(bench, T_OUT, 0, 512), S_IOERR);
    assert_int_equal(do_request(bench, T_FLUSH, 0, 0), S_OK);
    assert_int_equal(do_request(bench, T_IN, 3, 512), S_OK);
    assert_memory_equal(data_at(bench, 512), bench->model + 3 * 512, 512);
    assert_int_equal(calls.sync_count, 0);
    assert_file_is_model(bench);
}

static void the_id_is_the_drives_id(void **state)
{
    struct bench *bench = *state;
    uint8_t *data = data_at(bench, 64);

    bring_up(bench, false, F_FLUSH);
    memset(data, 0xff, 64);
    assert_int_equal(do_request(bench, T_GET_ID, 0, 20), S_OK);
    assert_memory_equal(data, "data-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff", 21);
    memset(data, 0xff, 64);
    assert_int_equal(do_request(bench, T_GET_ID, 0, 4), S_OK);
    assert_memory_equal(data, "data\xff", 5);
}

static void writes_wait_for_the_medium_when_the_driver_cannot_flush(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, false, 0);
    assert_int_equal(do_request(bench, T_OUT, 0, 512), S_OK);
    assert_int_equal(calls.sync_count, 1);
    calls.sync_errno = EIO;
    assert_int_equal(do_request(bench, T_OUT, 0, 512), S_IOERR);
    calls.sync_errno = 0;
    close_disk(bench);

    ring_init(&bench->ring, &bench->ram, 256, RING_GPA);
    calls.sync_count = 0;
    bring_up(bench, false, F_FLUSH);
    assert_int_equal(do_request(bench, T_OUT, 0, 512), S_OK);
    assert_int_equal(calls.sync_count, 0);
    assert_int_equal(do_request(bench, T_FLUSH, 0, 0), S_OK);
    assert_int_equal(calls.sync_count, 1);
}

static bool needs_reset(void *arg)
{
    return mmio_read(arg, VIRTIO_MMIO_STATUS) & 64;
}

static void assert_breaks(struct bench *bench)
{
    ring_post(&bench->ring, 0);
    mmio_write(bench->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    wait_until(needs_reset, bench->device, "DEVICE_NEEDS_RESET");
    assert_int_equal(ring_used_idx(&bench->ring), 0);
}

static void a_request_without_a_whole_header_breaks_the_device(void **state)
{
    struct bench *bench = *state;

    bring_up(bench, false, F_FLUSH);
    ring_desc(&bench->ring, 0, HEADER_GPA, 15, DESC_NEXT, 1);
    ring_desc(&bench->ring, 1, STATUS_GPA, 1, DESC_WRITE, 0);
    assert_breaks(bench);
}

static void a_request_without_room_for_its_status_breaks_the_device(void **state)
{
    struct bench *bench = *state;
    const struct request request = { T_OUT, 0, 512 };

    bring_up(bench, false, F_FLUSH);
    put_header(bench, &request);
    memset(data_at(bench, 512), 0, 512);
    ring_desc(&bench->ring, 0, HEADER_GPA, 16, DESC_NEXT, 1);
    ring_desc(&bench->ring, 1, DATA_GPA, 512, 0, 0);
    assert_breaks(bench);
    assert_file_is_model(bench);
}

/* --- opening -------------------------------------------------------------------------------- */

static void assert_refuses(struct bench *bench, const char *path, bool read_only,
                           uint64_t size_expected, enum stasis_code code)
{
    struct device *device = NULL;
    struct stasis_error err = { 0 };

    assert_stasis_fails(open_disk(bench, "root", path, read_only, size_expected, &device, &err),
                        &err, code);
    assert_null(device);
    if (!strstr(err.text, "'root'"))
        fail_msg("the text does not name the disk: %s", err.text);
}

static void what_is_no_disk_is_refused_by_name(void **state)
{
    struct bench *bench = *state;
    char path[128], long_path[5000];

    snprintf(path, sizeof(path), "%s/none", bench->dir);
    assert_refuses(bench, path, false, 0, STASIS_ERR_DISK);
    assert_refuses(bench, path, true, DISK_SIZE, STASIS_ERR_DISK);
    assert_refuses(bench, bench->dir, true, 0, STASIS_ERR_NOT_REGULAR);
    assert_refuses(bench, bench->dir, false, 0, STASIS_ERR_NOT_REGULAR);
    assert_refuses(bench, "/dev/null", false, 0, STASIS_ERR_NOT_REGULAR);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refuses(bench, path, true, 0, STASIS_ERR_NOT_REGULAR);
    assert_refuses(bench, path, false, 0, STASIS_ERR_NOT_REGULAR);
    unlink(path);
    write_file(path, "small", 5);
    assert_refuses(bench, path, false, 0, STASIS_ERR_DISK);
    unlink(path);
    memset(long_path, '/', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    assert_refuses(bench, long_path, false, 0, STASIS_ERR_INVALID_ARGUMENT);
}

static void a_disk_of_another_size_is_refused_with_both_sizes(void **state)
{
    struct bench *bench = *state;
    const struct virtio_blk_config config = { .id = "root", .path = bench->path };
    const struct irq_line irq = { .vm_fd = -1, .gsi = GSI };
    struct stasis_error err = { 0 };

    assert_stasis_fails(
        virtio_blk_new(&config, &irq, &bench->ram.memory, 4096, &bench->device, &err), &err,
        STASIS_ERR_DISK);
    assert_non_null(strstr(err.text, "65636"));
    assert_non_null(strstr(err.text, "4096"));
    assert_stasis_ok(
        virtio_blk_new(&config, &irq, &bench->ram.memory, DISK_SIZE, &bench->device, &err), &err);
}

static void an_id_or_path_that_no_snapshot_can_hold_is_refused(void **state)
{
    struct bench *bench = *state;
    char id[80] = "";
    char path[128];
    struct stasis_error err = { 0 };

    assert_stasis_fails(open_disk(bench, id, bench->path, false, 0, &bench->device, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    memset(id, 'a', 64);
    assert_stasis_fails(open_disk(bench, id, bench->path, false, 0, &bench->device, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    snprintf(path, sizeof(path), "%s/\xff\xfe", bench->dir);
    assert_int_equal(rename(bench->path, path), 0);
    assert_true(open_disk(bench, "root", path, false, 0, &bench->device, &err) < 0);
    assert_null(bench->device);
    assert_non_null(strstr(err.text, "UTF-8"));
    assert_int_equal(rename(path, bench->path), 0);
    open_bench_disk(bench, false); /* the refusal has given its lock back */
}

static void a_writable_disk_is_for_one_machine_only(void **state)
{
    struct bench *bench = *state;

    open_bench_disk(bench, false);
    assert_refuses(bench, bench->path, false, 0, STASIS_ERR_BUSY);
    assert_refuses(bench, bench->path, true, 0, STASIS_ERR_BUSY);
    close_disk(bench);
    open_bench_disk(bench, false);
}

static void a_read_only_disk_is_for_many_readers_and_no_writer(void **state)
{
    struct bench *bench = *state;
    struct stasis_error err = { 0 };
    struct device *second;

    open_bench_disk(bench, true);
    assert_stasis_ok(open_disk(bench, "other", bench->path, true, 0, &second, &err), &err);
    assert_refuses(bench, bench->path, false, 0, STASIS_ERR_BUSY);
    second->ops->free(second);
}

/* --- state ---------------------------------------------------------------------------------- */

/* The names of the saved fields, once more: they are a promise to files that exist. */
struct saved_disk {
    struct virtio_state transport;
    char path[4096];
    bool read_only;
    uint64_t size;
};
static const struct stasis_field saved_fields[] = {
    STASIS_F(struct saved_disk, transport, STRUCT, .table = &virtio_state_table),
    STASIS_F_ARRAY(struct saved_disk, path, TEXT),
    STASIS_F(struct saved_disk, read_only, BOOL),
    STASIS_F(struct saved_disk, size, U64),
};
static const struct stasis_table saved_table = STASIS_TABLE(struct saved_disk, saved_fields);

static void save(struct bench *bench, struct stasis_machine *machine)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(bench->device->ops->quiesce(bench->device, deadline_in_ms(20000), &err), &err);
    assert_stasis_ok(bench->device->ops->save(bench->device, machine, &err), &err);
}

static void a_snapshot_tells_which_disk_to_open(void **state)
{
    struct bench *bench = *state;
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };
    struct virtio_blk_facts facts;

    bring_up(bench, true, F_FLUSH);
    save(bench, &machine);
    assert_int_equal(machine.devices_count, 1);
    assert_string_equal(machine.devices[0].kind, "virtio-blk");
    assert_stasis_ok(virtio_blk_read_facts(&machine.devices[0], &facts, &err), &err);
    assert_string_equal(facts.id, "data-1");
    assert_string_equal(facts.path, bench->path);
    assert_true(facts.read_only);
    assert_int_equal(facts.size, DISK_SIZE);
    stasis_machine_release(&machine);
}

static void a_relative_path_is_saved_as_an_absolute_one(void **state)
{
    struct bench *bench = *state;
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };
    struct virtio_blk_facts facts;
    char before[4096];

    assert_non_null(getcwd(before, sizeof(before)));
    assert_int_equal(chdir(bench->dir), 0);
    assert_stasis_ok(open_disk(bench, "data-1", "disk", true, 0, &bench->device, &err), &err);
    assert_int_equal(chdir(before), 0);
    save(bench, &machine);
    assert_stasis_ok(virtio_blk_read_facts(&machine.devices[0], &facts, &err), &err);
    assert_string_equal(facts.path, bench->path);
    stasis_machine_release(&machine);
}

static void what_the_guest_wrote_is_on_the_medium_before_the_snapshot(void **state)
{
    struct bench *bench = *state;
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };

    bring_up(bench, false, F_FLUSH);
    save(bench, &machine);
    assert_int_equal(calls.sync_count, 1);
    stasis_machine_release(&machine);
    calls.sync_errno = EIO;
    assert_stasis_fails(bench->device->ops->save(bench->device, &machine, &err), &err,
                        STASIS_ERR_IO);
    assert_int_equal(machine.devices_count, 0);
}

/* A machine with one disk whose state the test has made. */
static void put_disk(struct stasis_machine *machine, const char *id, uint32_t version,
                     const struct saved_disk *saved)
{
    struct stasis_error err = { 0 };

    stasis_machine_release(machine);
    assert_stasis_ok(
        stasis_machine_add_device(machine, "virtio-blk", id, version, &saved_table, saved, &err),
        &err);
}

static void hostile_states_are_refused_and_change_nothing(void **state)
{
    struct bench *bench = *state;
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };
    struct saved_disk *good = calloc(1, sizeof(*good)), *bad = malloc(sizeof(*bad));
    int (*load)(struct device *, const struct stasis_machine *, struct stasis_error *);

    bring_up(bench, false, F_FLUSH);
    load = bench->device->ops->load;
    save(bench, &machine);
    assert_stasis_ok(stasis_device_decode(&machine.devices[0], &saved_table, good, &err), &err);
    mmio_write(bench->device, VIRTIO_MMIO_STATUS, 0);

#define REFUSES(change, id, version, code)                                                         \
    do {                                                                                           \
        *bad = *good;                                                                              \
        change;                                                                                    \
        put_disk(&machine, id, version, bad);                                                      \
        assert_stasis_fails(load(bench->device, &machine, &err), &err, code);                      \
        assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_STATUS), 0);                         \
    } while (0)
    REFUSES(bad->size -= 512, "data-1", 1, STASIS_ERR_DISK);
    assert_non_null(strstr(err.text, "data-1"));
    assert_non_null(strstr(err.text, "65636"));
    assert_non_null(strstr(err.text, "65124"));
    REFUSES(bad->read_only = true, "data-1", 1, STASIS_ERR_DISK);
    REFUSES((void)0, "data-1", 2, STASIS_ERR_VERSION);
    REFUSES((void)0, "data-2", 1, STASIS_ERR_INVALID_MACHINE);
    REFUSES(bad->transport.status = 0x1000, "data-1", 1, STASIS_ERR_INVALID_MACHINE);
    REFUSES(bad->transport.queues_count = 0, "data-1", 1, STASIS_ERR_INVALID_MACHINE);
#undef REFUSES

    put_disk(&machine, "data-1", 1, good);
    machine.devices[0].state_size /= 2;
    assert_stasis_fails(load(bench->device, &machine, &err), &err, STASIS_ERR_CORRUPT);
    put_disk(&machine, "data-1", 1, good);
    assert_stasis_ok(load(bench->device, &machine, &err), &err);
    assert_int_equal(mmio_read(bench->device, VIRTIO_MMIO_STATUS), 15);
    stasis_machine_release(&machine);
    stasis_fields_release(&saved_table, good);
    free(good);
    free(bad);
}

static void hostile_facts_are_refused(void **state)
{
    struct bench *bench = *state;
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };
    struct saved_disk *saved = calloc(1, sizeof(*saved));
    struct virtio_blk_facts facts;
    char long_id[70];

    (void)bench;
    assert_non_null(saved);
    memset(long_id, 'x', 69);
    long_id[69] = '\0';
    saved->size = DISK_SIZE;
    put_disk(&machine, "root", 1, saved); /* no path */
    assert_stasis_fails(virtio_blk_read_facts(&machine.devices[0], &facts, &err), &err,
                        STASIS_ERR_INVALID_MACHINE);
    strcpy(saved->path, "/disk");
    put_disk(&machine, long_id, 1, saved);
    assert_stasis_fails(virtio_blk_read_facts(&machine.devices[0], &facts, &err), &err,
                        STASIS_ERR_INVALID_MACHINE);
    put_disk(&machine, "root", 7, saved);
    assert_stasis_fails(virtio_blk_read_facts(&machine.devices[0], &facts, &err), &err,
                        STASIS_ERR_VERSION);
    saved->size = 511;
    put_disk(&machine, "root", 1, saved);
    assert_stasis_fails(virtio_blk_read_facts(&machine.devices[0], &facts, &err), &err,
                        STASIS_ERR_INVALID_MACHINE);
    strcpy(machine.devices[0].kind, "serial");
    assert_stasis_fails(virtio_blk_read_facts(&machine.devices[0], &facts, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    stasis_machine_release(&machine);
    free(saved);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_new, bench_free)
    static const struct CMUnitTest tests[] = {
        CASE(the_disk_tells_its_size_and_what_it_can),
        CASE(requests_do_what_a_model_of_the_disk_does),
        CASE(transfers_that_are_cut_short_or_interrupted_go_on),
        CASE(failing_transfers_are_io_errors),
        CASE(the_tail_beyond_the_last_whole_sector_is_out_of_reach),
        CASE(a_read_only_disk_refuses_writes_and_is_not_touched),
        CASE(the_id_is_the_drives_id),
        CASE(writes_wait_for_the_medium_when_the_driver_cannot_flush),
        CASE(a_request_without_a_whole_header_breaks_the_device),
        CASE(a_request_without_room_for_its_status_breaks_the_device),
        CASE(what_is_no_disk_is_refused_by_name),
        CASE(a_disk_of_another_size_is_refused_with_both_sizes),
        CASE(an_id_or_path_that_no_snapshot_can_hold_is_refused),
        CASE(a_writable_disk_is_for_one_machine_only),
        CASE(a_read_only_disk_is_for_many_readers_and_no_writer),
        CASE(a_snapshot_tells_which_disk_to_open),
        CASE(a_relative_path_is_saved_as_an_absolute_one),
        CASE(what_the_guest_wrote_is_on_the_medium_before_the_snapshot),
        CASE(hostile_states_are_refused_and_change_nothing),
        CASE(hostile_facts_are_refused),
    };
#undef CASE

    return unit_run(tests);
}
