/*
 * virtio_blk.c - a disk: a regular file or a block device as a virtio block device.
 *
 * One worker does one request at a time, straight between guest RAM and the file. So at rest every
 * request is either still in the guest's ring or complete, and a snapshot holds nothing half done.
 *
 *     request   header (16 bytes, read) | data (read or written) | status (1 byte, written)
 *
 * The buffers may be cut anywhere; header, sector and length come from a hostile guest. A request
 * outside the disk or not in whole sectors is answered with IOERR; one without room for its header
 * or status breaks the device until it is reset.
 *
 * The guest sees whole sectors of 512 bytes: a tail of the file that does not fill one is neither
 * seen nor touched. Writes go to the page cache, as the FLUSH feature says they may; a driver that
 * has not taken that feature gets each write on the medium before its completion.
 *
 * If this file is wrong, guests lose data: a write done twice or not at all after a restore, or two
 * machines on one disk, which the lock (a kernel lock on the open file, gone when it closes) prevents.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "microvm/device.h"
#include "microvm/device_state.h"
#include "microvm/virtio_mmio.h"

#define BLK_KIND "virtio-blk"
#define BLK_STATE_VERSION 1u
#define SECTOR_SIZE 512u

/* virtio 1.2, section 5.2. <linux/virtio_blk.h> has a struct virtio_blk_config of its own. */
#define BLK_F_SEG_MAX 2
#define BLK_F_RO 5
#define BLK_F_BLK_SIZE 6
#define BLK_F_FLUSH 9
#define BLK_T_IN 0u
#define BLK_T_OUT 1u
#define BLK_T_FLUSH 4u
#define BLK_T_GET_ID 8u
#define BLK_S_OK 0
#define BLK_S_IOERR 1
#define BLK_S_UNSUPP 2
#define BLK_ID_SIZE 20

struct blk_header { /* as it is in guest RAM: little-endian */
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

#define BLK_PATH_SIZE 4096u /* bytes, with the NUL */

/* Data buffers of one request: the chain's, less one each for header and status. */
#define BLK_SEGMENT_MAX (VIRTIO_QUEUE_SIZE_MAX - 2)

struct virtio_blk {
    struct virtio_device virtio; /* first */
    int fd;
    bool read_only;
    uint64_t size; /* bytes of the file or device */
    char path[BLK_PATH_SIZE];
    struct iovec iov[VIRTIO_QUEUE_SIZE_MAX]; /* the worker's: what is left of the request's data */
};

struct virtio_blk_state {
    struct virtio_state transport;
    char path[BLK_PATH_SIZE];
    bool read_only;
    uint64_t size;
};

static const struct stasis_field blk_state_fields[] = {
    STASIS_F(struct virtio_blk_state, transport, STRUCT, .table = &virtio_state_table),
    STASIS_F_ARRAY(struct virtio_blk_state, path, TEXT),
    STASIS_F(struct virtio_blk_state, read_only, BOOL),
    STASIS_F(struct virtio_blk_state, size, U64, .unit = "bytes"),
};
static const struct stasis_table blk_state_table =
    STASIS_TABLE(struct virtio_blk_state, blk_state_fields);

static struct virtio_blk *blk_of(struct device *device)
{
    return (struct virtio_blk *)device;
}

/* --- requests ------------------------------------------------------------------------------- */

/* Let go of the first `done` bytes of a list of buffers. */
static void advance(struct iovec **iov, size_t *count, size_t done)
{
    while (*count > 0 && done >= (*iov)->iov_len) {
        done -= (*iov)->iov_len;
        (*iov)++;
        (*count)--;
    }
    if (*count > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + done;
        (*iov)->iov_len -= done;
    }
}

/* All bytes of `count` buffers in blk->iov, or the status of a failure. */
static uint8_t transfer(struct virtio_blk *blk, bool to_disk, size_t count, uint64_t file_off)
{
    struct iovec *iov = blk->iov;

    while (count > 0) {
        const ssize_t done = to_disk ? pwritev(blk->fd, iov, (int)count, (off_t)file_off)
                                     : preadv(blk->fd, iov, (int)count, (off_t)file_off);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return BLK_S_IOERR; /* 0: the file has shrunk under us */
        file_off += (uint64_t)done;
        advance(&iov, &count, (size_t)done);
    }
    return BLK_S_OK;
}

static bool is_on_disk(const struct virtio_blk *blk, uint64_t sector, uint64_t size)
{
    const uint64_t sector_count = blk->size / SECTOR_SIZE;

    return size % SECTOR_SIZE == 0 && sector <= sector_count &&
           size / SECTOR_SIZE <= sector_count - sector;
}

static uint8_t flush(const struct virtio_blk *blk)
{
    if (!blk->read_only && fdatasync(blk->fd) < 0)
        return BLK_S_IOERR;
    return BLK_S_OK;
}

static bool writes_may_wait(struct virtio_blk *blk)
{
    bool has_flush;

    pthread_mutex_lock(&blk->virtio.lock);
    has_flush = blk->virtio.driver_features >> BLK_F_FLUSH & 1;
    pthread_mutex_unlock(&blk->virtio.lock);
    return has_flush;
}

static uint8_t write_data(struct virtio_blk *blk, const struct virtio_chain *chain, uint64_t sector)
{
    const size_t header_size = sizeof(struct blk_header);
    const uint64_t size = chain->out_size - header_size;
    size_t count;
    uint8_t status;

    if (blk->read_only || !is_on_disk(blk, sector, size))
        return BLK_S_IOERR;
    count = virtio_slice(chain->iov, chain->out_count, header_size, size, blk->iov);
    status = transfer(blk, true, count, sector * SECTOR_SIZE);
    if (status == BLK_S_OK && !writes_may_wait(blk))
        status = flush(blk);
    return status;
}

static uint8_t read_data(struct virtio_blk *blk, const struct virtio_chain *chain, uint64_t sector)
{
    const uint64_t size = chain->in_size - 1;
    size_t count;

    if (!is_on_disk(blk, sector, size))
        return BLK_S_IOERR;
    count = virtio_slice(chain->iov + chain->out_count, chain->in_count, 0, size, blk->iov);
    return transfer(blk, false, count, sector * SECTOR_SIZE);
}

/* The drive's id, cut to or filled up with zeros to 20 bytes. */
static uint8_t read_id(struct virtio_blk *blk, const struct virtio_chain *chain)
{
    char id[BLK_ID_SIZE] = { 0 };
    const size_t length = strnlen(blk->virtio.device.id, sizeof(id));
    size_t count;

    memcpy(id, blk->virtio.device.id, length);
    count = virtio_slice(chain->iov + chain->out_count, chain->in_count, 0, chain->in_size - 1,
                         blk->iov);
    virtio_copy_to(blk->iov, count, id, sizeof(id));
    return BLK_S_OK;
}

static uint8_t do_request(struct virtio_blk *blk, const struct virtio_chain *chain,
                          const struct blk_header *header)
{
    const uint64_t sector = le64toh(header->sector);

    switch (le32toh(header->type)) {
    case BLK_T_IN: return read_data(blk, chain, sector);
    case BLK_T_OUT: return write_data(blk, chain, sector);
    case BLK_T_FLUSH: return flush(blk);
    case BLK_T_GET_ID: return read_id(blk, chain);
    default: return BLK_S_UNSUPP;
    }
}

static int blk_serve(struct virtio_device *virtio, const struct virtio_chain *chain,
                     uint32_t *ret_written_size)
{
    struct virtio_blk *blk = blk_of(&virtio->device);
    struct blk_header header;
    struct iovec status_place;
    uint8_t status;

    if (virtio_copy_from(chain->iov, chain->out_count, &header, sizeof(header)) < sizeof(header) ||
        chain->in_size == 0)
        return -EBADMSG;

    status = do_request(blk, chain, &header);
    virtio_slice(chain->iov + chain->out_count, chain->in_count, chain->in_size - 1, 1,
                 &status_place);
    memcpy(status_place.iov_base, &status, 1);
    *ret_written_size = (uint32_t)chain->in_size;
    return 0;
}

static const struct virtio_class blk_class = { .device_id = VIRTIO_ID_BLOCK,
                                               .queue_count = 1,
                                               .serve = blk_serve };

/* --- the file ------------------------------------------------------------------------------- */

/* Whoever restores the snapshot may stand in another directory, so the path is kept absolute. */
static int make_absolute(const struct virtio_blk_config *config, char *ret_path,
                         struct stasis_error *err)
{
    char directory[BLK_PATH_SIZE] = "";
    int length;

    if (config->path[0] != '/' && !getcwd(directory, sizeof(directory)))
        return stasis_fail_errno(err, "disk '%s': current directory", config->id);
    length = snprintf(ret_path, BLK_PATH_SIZE, "%s%s%s", directory, directory[0] ? "/" : "",
                      config->path);
    if (length < 0 || (size_t)length >= BLK_PATH_SIZE)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "disk '%s': path is too long",
                           config->id);
    return 0;
}

static int open_disk(const struct virtio_blk_config *config, int *ret_fd, struct stasis_error *err)
{
    /* O_NONBLOCK: a FIFO in the place of a disk must not hold us up; disks do not care. */
    const int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (config->read_only ? O_RDONLY : O_RDWR);
    const int fd = open(config->path, flags);

    if (fd < 0 && errno == ENOENT)
        return stasis_fail_errno_as(err, STASIS_ERR_DISK, "disk '%s': open '%s'", config->id,
                                    config->path);
    if (fd < 0)
        return stasis_fail_errno(err, "disk '%s': open '%s'", config->id, config->path);
    *ret_fd = fd;
    return 0;
}

static int disk_size(const struct virtio_blk_config *config, int fd, uint64_t *ret_size,
                     struct stasis_error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return stasis_fail_errno(err, "disk '%s': stat '%s'", config->id, config->path);
    if (S_ISREG(st.st_mode)) {
        *ret_size = (uint64_t)st.st_size;
        return 0;
    }
    if (!S_ISBLK(st.st_mode))
        return stasis_fail(err, STASIS_ERR_NOT_REGULAR,
                           "disk '%s': '%s' is neither a regular file nor a block device",
                           config->id, config->path);
    if (ioctl(fd, BLKGETSIZE64, ret_size) < 0)
        return stasis_fail_errno(err, "disk '%s': size of '%s'", config->id, config->path);
    return 0;
}

static int check_disk_size(const struct virtio_blk_config *config, uint64_t size,
                           uint64_t size_expected, struct stasis_error *err)
{
    if (size_expected != 0 && size != size_expected)
        return stasis_fail(
            err, STASIS_ERR_DISK, "disk '%s': '%s' is %llu bytes, the snapshot's is %llu",
            config->id, config->path, (unsigned long long)size, (unsigned long long)size_expected);
    if (size < SECTOR_SIZE)
        return stasis_fail(err, STASIS_ERR_DISK,
                           "disk '%s': '%s' is %llu bytes, less than one sector", config->id,
                           config->path, (unsigned long long)size);
    return 0;
}

static int lock_disk(const struct virtio_blk_config *config, int fd, struct stasis_error *err)
{
    struct flock lock = { .l_type = config->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return stasis_fail(err, STASIS_ERR_BUSY, "disk '%s': '%s' is in use by another machine%s",
                           config->id, config->path,
                           config->read_only ? " that may write to it" : "");
    return stasis_fail_errno(err, "disk '%s': lock '%s'", config->id, config->path);
}

static int attach_disk(struct virtio_blk *blk, const struct virtio_blk_config *config,
                       uint64_t size_expected, struct stasis_error *err)
{
    int r = make_absolute(config, blk->path, err);

    if (r == 0)
        r = open_disk(config, &blk->fd, err);
    if (r == 0)
        r = disk_size(config, blk->fd, &blk->size, err);
    if (r == 0)
        r = check_disk_size(config, blk->size, size_expected, err);
    if (r == 0)
        r = lock_disk(config, blk->fd, err);
    return r;
}

/* --- the device ----------------------------------------------------------------------------- */

static int put_state(struct virtio_blk *blk, struct stasis_machine *machine,
                     struct stasis_error *err)
{
    struct virtio_blk_state *state = calloc(1, sizeof(*state));
    int r;

    if (!state)
        return stasis_fail_memory(err, "the state of a disk");
    memcpy(state->path, blk->path, sizeof(state->path));
    state->read_only = blk->read_only;
    state->size = blk->size;
    r = virtio_save(&blk->virtio, &state->transport, err);
    if (r == 0)
        r = device_save_state(&blk->virtio.device, BLK_STATE_VERSION, &blk_state_table, state,
                              machine, err);
    stasis_fields_release(&blk_state_table, state);
    free(state);
    return r;
}

static int blk_save(struct device *device, struct stasis_machine *machine, struct stasis_error *err)
{
    struct virtio_blk *blk = blk_of(device);

    /* The snapshot will survive a crash of the host, so what its guest has written must, too: else
     * it would be restored with a memory that is newer than its disk. */
    if (!blk->read_only && fdatasync(blk->fd) < 0)
        return stasis_fail_errno(err, "disk '%s': sync '%s'", device->id, blk->path);
    return put_state(blk, machine, err);
}

/* A path that no snapshot can hold (it is not UTF-8) is refused now and not at the first save. */
static int check_can_be_saved(struct virtio_blk *blk, struct stasis_error *err)
{
    struct stasis_machine scratch = { 0 };
    const int r = put_state(blk, &scratch, err);

    stasis_machine_release(&scratch);
    return r;
}

static int check_same_disk(const struct virtio_blk *blk, const struct virtio_blk_state *state,
                           struct stasis_error *err)
{
    const char *id = blk->virtio.device.id;

    if (state->size != blk->size)
        return stasis_fail(err, STASIS_ERR_DISK,
                           "disk '%s': '%s' is %llu bytes, the snapshot's is %llu", id, blk->path,
                           (unsigned long long)blk->size, (unsigned long long)state->size);
    if (state->read_only != blk->read_only)
        return stasis_fail(err, STASIS_ERR_DISK, "disk '%s' is %s, the snapshot's is %s", id,
                           blk->read_only ? "read-only" : "writable",
                           state->read_only ? "read-only" : "writable");
    return 0;
}

static int blk_load(struct device *device, const struct stasis_machine *machine,
                    struct stasis_error *err)
{
    struct virtio_blk *blk = blk_of(device);
    struct virtio_blk_state *state = calloc(1, sizeof(*state));
    int r;

    if (!state)
        return stasis_fail_memory(err, "the state of a disk");
    r = device_load_state(device, BLK_STATE_VERSION, &blk_state_table, machine, state, err);
    if (r == 0)
        r = check_same_disk(blk, state, err);
    if (r == 0) {
        r = virtio_load(&blk->virtio, &state->transport, err);
        if (r < 0)
            r = stasis_wrap(err, r, "disk '%s'", device->id);
    }
    stasis_fields_release(&blk_state_table, state);
    free(state);
    return r;
}

static void blk_free(struct device *device)
{
    struct virtio_blk *blk = blk_of(device);

    virtio_release(&blk->virtio);
    fd_close(&blk->fd); /* and with it the lock */
    free(blk);
}

static const struct device_ops blk_ops = {
    .kind = BLK_KIND,
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
    .run = virtio_run,
    .quiesce = virtio_quiesce,
    .save = blk_save,
    .load = blk_load,
    .free = blk_free,
};

static void fill_config(struct virtio_blk *blk)
{
    const struct virtio_blk_config_space {
        uint64_t capacity;
        uint32_t size_max, seg_max;
        uint32_t geometry;
        uint32_t blk_size;
    } space = { .capacity = htole64(blk->size / SECTOR_SIZE),
                .seg_max = htole32(BLK_SEGMENT_MAX),
                .blk_size = htole32(SECTOR_SIZE) };

    memcpy(blk->virtio.config, &space, sizeof(space));
}

int virtio_blk_new(const struct virtio_blk_config *config, const struct irq_line *irq,
                   const struct guest_memory *memory, uint64_t size_expected,
                   struct device **ret_device, struct stasis_error *err)
{
    uint64_t features =
        UINT64_C(1) << BLK_F_SEG_MAX | UINT64_C(1) << BLK_F_BLK_SIZE | UINT64_C(1) << BLK_F_FLUSH;
    struct virtio_blk *blk;
    int r;

    if (config->id[0] == '\0' || strlen(config->id) >= sizeof(blk->virtio.device.id))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "disk id '%s' is empty or longer than %zu bytes", config->id,
                           sizeof(blk->virtio.device.id) - 1);
    blk = calloc(1, sizeof(*blk));
    if (!blk)
        return stasis_fail_memory(err, "a disk");
    blk->fd = -1;
    blk->read_only = config->read_only;
    r = attach_disk(blk, config, size_expected, err);
    if (r < 0) {
        fd_close(&blk->fd);
        free(blk);
        return r;
    }

    blk->virtio.device.ops = &blk_ops;
    memcpy(blk->virtio.device.id, config->id, strlen(config->id) + 1);
    if (config->read_only)
        features |= UINT64_C(1) << BLK_F_RO;
    fill_config(blk);
    virtio_init(&blk->virtio, &blk_class, irq, memory, features);
    r = check_can_be_saved(blk, err);
    if (r < 0) {
        blk_free(&blk->virtio.device);
        return r;
    }
    *ret_device = &blk->virtio.device;
    return 0;
}

int virtio_blk_read_facts(const struct stasis_device *device, struct virtio_blk_facts *ret_facts,
                          struct stasis_error *err)
{
    const size_t id_length = strnlen(device->id, sizeof(device->id));
    struct virtio_blk_state *state;
    int r;

    if (strcmp(device->kind, BLK_KIND) != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "'%s' is not a disk", device->kind);
    if (id_length == 0 || id_length >= sizeof(ret_facts->id))
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "a disk's id is empty or longer than %zu bytes",
                           sizeof(ret_facts->id) - 1);
    state = calloc(1, sizeof(*state));
    if (!state)
        return stasis_fail_memory(err, "the state of a disk");

    r = device_decode_state(device, BLK_STATE_VERSION, &blk_state_table, state, err);
    if (r == 0 && (state->path[0] == '\0' || state->size < SECTOR_SIZE))
        r = stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "disk '%s' has no path or no sectors",
                        device->id);
    if (r == 0) {
        memcpy(ret_facts->id, device->id, id_length + 1);
        memcpy(ret_facts->path, state->path, sizeof(ret_facts->path));
        ret_facts->read_only = state->read_only;
        ret_facts->size = state->size;
    }
    stasis_fields_release(&blk_state_table, state);
    free(state);
    return r;
}
