/*
 * hashcount.c - the program whose life a snapshot must not disturb.
 *
 *     hashcount run DIR        read DIR's files for ever, check them, count aloud
 *     hashcount manifest DIR   print what DIR/MANIFEST should say
 *
 * "run" forks one worker for each CPU, pinned to it. A worker reads every file of the manifest
 * around O_DIRECT, so that each byte comes through the virtio disk, and compares its hash. The
 * hash lives in SSE registers, and between files each worker checks a piece of its own memory: a
 * restore that loses FPU state, a page or a disk request shows up here as a wrong sum. Meanwhile
 * the parent prints one line each tick (TICK_MS in the environment, 200 by default):
 *
 *     hashcount 17 hashes 240 ok wall 1700000000.123 mono 12.345
 *
 * The count starts at 1 and has no gap. wall is CLOCK_REALTIME, mono CLOCK_MONOTONIC. Whatever is
 * wrong prints a line that starts with BAD, and the program ends with status 1.
 *
 * Static, self-contained and never part of the product: build with cc -static -O2.
 */
#define _GNU_SOURCE
#include <emmintrin.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CPU_MAX 64
#define FILE_MAX 256
#define NAME_MAX_SIZE 64
#define CHUNK_SIZE (64U * 1024)
#define PATTERN_WORDS (256U * 1024 / sizeof(uint64_t))
#define STUCK_TICKS 600 /* a worker that does not finish one file in so many ticks is lost */

struct entry {
    uint64_t hash;
    uint64_t size;
    char name[NAME_MAX_SIZE];
};

/* Shared by the parent and its workers; each worker writes its own counter only. */
struct board {
    _Atomic uint64_t hash_count[CPU_MAX];
};

static struct entry entries[FILE_MAX];
static size_t entry_count;

/* One write for each line: lines of several processes on one terminal then never mix. */
static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
    char line[256];
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (length > (int)sizeof(line) - 1)
        length = (int)sizeof(line) - 1;
    for (int done = 0; done < length;) {
        const ssize_t n = write(STDOUT_FILENO, line + done, (size_t)(length - done));

        if (n < 0 && errno != EINTR && errno != EAGAIN)
            exit(1);
        if (n > 0)
            done += (int)n;
    }
}

#define BAD(...)                                                                                   \
    do {                                                                                           \
        say("BAD " __VA_ARGS__);                                                                   \
        exit(1);                                                                                   \
    } while (0)

/*
 * The hash: two accumulators of two 64-bit lanes, 32 bytes a step, in the manner of XXH3's inner
 * loop. Not for adversaries; any flipped bit or swapped block changes it.
 */
struct hash {
    __m128i lane[2];
};

static void hash_init(struct hash *h)
{
    h->lane[0] = _mm_set_epi64x((long long)UINT64_C(0x9e3779b97f4a7c15), 0x2545f4914f6cdd1dLL);
    h->lane[1] = _mm_set_epi64x((long long)UINT64_C(0xbf58476d1ce4e5b9), 0x1ce4e5b994d049bbLL);
}

static __m128i hash_step(__m128i lane, __m128i data)
{
    const __m128i keyed = _mm_xor_si128(lane, data);
    const __m128i product = _mm_mul_epu32(keyed, _mm_srli_epi64(keyed, 32));
    const __m128i mixed = _mm_add_epi64(_mm_shuffle_epi32(lane, 0x39), data);

    return _mm_add_epi64(_mm_xor_si128(product, _mm_srli_epi64(lane, 29)), mixed);
}

/* size is a multiple of 32 but for the last piece, which is padded with zeros. */
static void hash_update(struct hash *h, const uint8_t *data, size_t size)
{
    __m128i a = h->lane[0];
    __m128i b = h->lane[1];

    for (; size >= 32; data += 32, size -= 32) {
        a = hash_step(a, _mm_loadu_si128((const __m128i *)(const void *)data));
        b = hash_step(b, _mm_loadu_si128((const __m128i *)(const void *)(data + 16)));
    }
    if (size > 0) {
        uint8_t last[32] = { 0 };

        memcpy(last, data, size);
        a = hash_step(a, _mm_loadu_si128((const __m128i *)(const void *)last));
        b = hash_step(b, _mm_loadu_si128((const __m128i *)(const void *)(last + 16)));
    }
    h->lane[0] = a;
    h->lane[1] = b;
}

static uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t hash_final(const struct hash *h, uint64_t size)
{
    uint64_t lane[4];
    uint64_t sum = size;

    memcpy(lane, h->lane, sizeof(lane));
    for (int i = 0; i < 4; i++)
        sum = mix64(sum ^ lane[i]);
    return sum;
}

/* Reads one file from the disk itself; false with errno set when it cannot be read. */
static bool hash_file(const char *path, uint8_t *chunk, int flags, uint64_t *ret_hash,
                      uint64_t *ret_size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    struct hash h;
    uint64_t size = 0;
    ssize_t n;

    if (fd < 0)
        return false;
    hash_init(&h);
    while ((n = read(fd, chunk, CHUNK_SIZE)) > 0) {
        hash_update(&h, chunk, (size_t)n);
        size += (uint64_t)n;
    }
    close(fd);
    if (n < 0)
        return false;
    *ret_hash = hash_final(&h, size);
    *ret_size = size;
    return true;
}

static void read_manifest(void)
{
    FILE *file = fopen("MANIFEST", "re");

    if (file == NULL)
        BAD("MANIFEST: %s\n", strerror(errno));
    while (entry_count < FILE_MAX) {
        struct entry *e = &entries[entry_count];
        const int n = fscanf(file, "%" SCNx64 " %" SCNu64 " %63s", &e->hash, &e->size, e->name);

        if (n == EOF)
            break;
        if (n != 3)
            BAD("MANIFEST: line %zu is malformed\n", entry_count + 1);
        entry_count++;
    }
    fclose(file);
    if (entry_count == 0)
        BAD("MANIFEST is empty\n");
}

static void check_pattern(const uint64_t *pattern, uint64_t seed, int cpu)
{
    for (size_t i = 0; i < PATTERN_WORDS; i++)
        if (pattern[i] != mix64(seed + i))
            BAD("worker %d: its memory changed at word %zu: %016" PRIx64 "\n", cpu, i, pattern[i]);
}

static void __attribute__((noreturn)) work(int cpu, struct board *board)
{
    const uint64_t seed = UINT64_C(1000003) * (uint64_t)(cpu + 1);
    uint64_t *pattern = malloc(PATTERN_WORDS * sizeof(*pattern));
    uint8_t *chunk = aligned_alloc(4096, CHUNK_SIZE);
    cpu_set_t set;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        BAD("worker %d: sched_setaffinity: %s\n", cpu, strerror(errno));
    if (pattern == NULL || chunk == NULL)
        BAD("worker %d: out of memory\n", cpu);
    for (size_t i = 0; i < PATTERN_WORDS; i++)
        pattern[i] = mix64(seed + i);

    for (size_t i = (size_t)cpu;; i++) {
        const struct entry *e = &entries[i % entry_count];
        uint64_t hash = 0;
        uint64_t size = 0;

        if (!hash_file(e->name, chunk, O_DIRECT, &hash, &size))
            BAD("worker %d: %s: %s\n", cpu, e->name, strerror(errno));
        if (size != e->size || hash != e->hash)
            BAD("worker %d: %s: hash %016" PRIx64 " of %" PRIu64 " bytes, manifest says %016" PRIx64
                " of %" PRIu64 "\n",
                cpu, e->name, hash, size, e->hash, e->size);
        check_pattern(pattern, seed, cpu);
        board->hash_count[cpu]++;
    }
}

static int64_t now_ms(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Ends the program when a worker has ended or has stood still for too long. */
static void check_workers(const struct board *board, int cpu_count)
{
    static uint64_t last_count[CPU_MAX];
    static unsigned int idle_ticks[CPU_MAX];
    int status;
    const pid_t pid = waitpid(-1, &status, WNOHANG);

    if (pid != 0)
        BAD("worker process %d ended, wait status %#x\n", (int)pid, (unsigned int)status);
    for (int cpu = 0; cpu < cpu_count; cpu++) {
        const uint64_t count = board->hash_count[cpu];

        idle_ticks[cpu] = count == last_count[cpu] ? idle_ticks[cpu] + 1 : 0;
        last_count[cpu] = count;
        if (idle_ticks[cpu] > STUCK_TICKS)
            BAD("worker %d hashed nothing for %u ticks\n", cpu, idle_ticks[cpu]);
    }
}

static int run(void)
{
    const char *tick_text = getenv("TICK_MS");
    const long tick_ms = tick_text != NULL ? strtol(tick_text, NULL, 10) : 200;
    const struct timespec tick = { .tv_sec = tick_ms / 1000, .tv_nsec = tick_ms % 1000 * 1000000L };
    struct board *board =
        mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int cpu_count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int64_t last_mono = 0;

    if (board == MAP_FAILED)
        BAD("mmap: %s\n", strerror(errno));
    if (cpu_count > CPU_MAX)
        cpu_count = CPU_MAX;
    read_manifest();
    for (int cpu = 0; cpu < cpu_count; cpu++) {
        const pid_t pid = fork();

        if (pid < 0)
            BAD("fork: %s\n", strerror(errno));
        if (pid == 0)
            work(cpu, board);
    }

    for (uint64_t n = 1;; n++) {
        uint64_t hashes = 0;
        int64_t wall;
        int64_t mono;

        nanosleep(&tick, NULL);
        check_workers(board, cpu_count);
        for (int cpu = 0; cpu < cpu_count; cpu++)
            hashes += board->hash_count[cpu];
        wall = now_ms(CLOCK_REALTIME);
        mono = now_ms(CLOCK_MONOTONIC);
        if (mono < last_mono)
            BAD("the monotonic clock went from %" PRId64 " back to %" PRId64 " ms\n", last_mono,
                mono);
        last_mono = mono;
        say("hashcount %" PRIu64 " hashes %" PRIu64 " ok wall %" PRId64 ".%03d mono %" PRId64
            ".%03d\n",
            n, hashes, wall / 1000, (int)(wall % 1000), mono / 1000, (int)(mono % 1000));
    }
}

/* Names come on standard input, one a line. */
static int manifest(void)
{
    static uint8_t chunk[CHUNK_SIZE];
    char name[NAME_MAX_SIZE];

    while (scanf("%63s", name) == 1) {
        uint64_t hash;
        uint64_t size;

        if (!hash_file(name, chunk, 0, &hash, &size)) {
            fprintf(stderr, "hashcount: %s: %s\n", name, strerror(errno));
            return 1;
        }
        printf("%016" PRIx64 " %" PRIu64 " %s\n", hash, size, name);
    }
    return 0;
}

/* The wall clock, set to `text` seconds since the epoch. */
static int set_clock(const char *text)
{
    char *end;
    const double seconds = strtod(text, &end);
    struct timespec now = { .tv_sec = (time_t)seconds };

    now.tv_nsec = (long)((seconds - (double)now.tv_sec) * 1e9);
    if (*end != '\0' || end == text || clock_settime(CLOCK_REALTIME, &now) < 0) {
        printf("BAD clock %s: %s\n", text, strerror(errno));
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "clock") == 0)
        return set_clock(argv[2]);
    if (argc != 3 || (strcmp(argv[1], "run") != 0 && strcmp(argv[1], "manifest") != 0)) {
        fprintf(stderr, "usage: hashcount run DIR | hashcount manifest DIR < NAMES | "
                        "hashcount clock SECONDS\n");
        return 2;
    }
    if (chdir(argv[2]) < 0) {
        printf("BAD %s: %s\n", argv[2], strerror(errno));
        return 1;
    }
    return strcmp(argv[1], "run") == 0 ? run() : manifest();
}
