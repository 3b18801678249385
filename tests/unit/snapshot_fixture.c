/*
 * snapshot_fixture.c - machines, memories and directories for tests of snapshots.
 *
 * The machines have a value in every field that takes one, so that a field that gets lost on its way
 * through a file shows.
 */
#include "snapshot_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "machine/fields.h"

#define PATH_BUFFERS 4

uint64_t fixture_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void *must(void *pointer, const char *what)
{
    if (!pointer || pointer == MAP_FAILED) {
        fprintf(stderr, "fixture: %s: %s\n", what, strerror(errno));
        abort();
    }
    return pointer;
}

void fixture_dir_make(struct fixture_dir *dir)
{
    const char *parent = getenv("TMPDIR");

    snprintf(dir->path, sizeof(dir->path), "%s/stasis-test-XXXXXX", parent ? parent : "/tmp");
    must(mkdtemp(dir->path), "mkdtemp");
}

const char *fixture_path(const struct fixture_dir *dir, const char *name)
{
    static char paths[PATH_BUFFERS][2 * FIXTURE_PATH_SIZE];
    static unsigned next;
    char *path = paths[next++ % PATH_BUFFERS];

    snprintf(path, sizeof(paths[0]), "%s/%s", dir->path, name);
    return path;
}

static bool is_entry(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

unsigned fixture_dir_count(const struct fixture_dir *dir)
{
    DIR *stream = must(opendir(dir->path), "opendir");
    const struct dirent *entry;
    unsigned count = 0;

    while ((entry = readdir(stream)))
        count += is_entry(entry);
    closedir(stream);
    return count;
}

void fixture_dir_remove(struct fixture_dir *dir)
{
    DIR *stream = must(opendir(dir->path), "opendir");
    const struct dirent *entry;

    while ((entry = readdir(stream))) {
        if (is_entry(entry))
            unlinkat(dirfd(stream), entry->d_name, 0);
    }
    rewinddir(stream);
    while ((entry = readdir(stream))) { /* what is left are empty directories */
        if (is_entry(entry))
            unlinkat(dirfd(stream), entry->d_name, AT_REMOVEDIR);
    }
    closedir(stream);
    rmdir(dir->path);
}

/* --- machines: every field of every table gets a value --- */

static void fill_object(const struct stasis_table *table, void *object, uint64_t *random);

static size_t scalar_size(enum stasis_field_kind kind)
{
    switch ((int)kind) {
    case STASIS_FIELD_U8: return 1;
    case STASIS_FIELD_U16: return 2;
    case STASIS_FIELD_U32: return 4;
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64: return 8;
    case STASIS_FIELD_BOOL: return sizeof(bool);
    default: return 0;
    }
}

/* Not all random: the widths of CBOR's integers, and the largest value, come up often. */
static uint64_t scalar_value(const struct stasis_field *field, uint64_t *random)
{
    const uint64_t value = fixture_random(random);
    const uint64_t narrow = value >> (8 * (fixture_random(random) % 8));

    if (field->kind == STASIS_FIELD_BOOL)
        return value & 1;
    if (field->max != 0 && field->max != UINT64_MAX)
        return narrow % (field->max + 1);
    return fixture_random(random) % 16 == 0 ? UINT64_MAX : narrow;
}

static void fill_scalars(const struct stasis_field *field, uint8_t *place, uint64_t *random)
{
    const size_t size = scalar_size(field->kind);

    for (size_t i = 0; i < field->count; i++) {
        const uint64_t value = scalar_value(field, random);

        memcpy(place + i * size, &value, size); /* little-endian hosts only, as all we run on */
    }
}

static void fill_bytes(uint8_t *bytes, size_t size, uint64_t *random)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)fixture_random(random);
}

static void fill_text(char *text, size_t size, uint64_t *random)
{
    const size_t length = fixture_random(random) % size;

    for (size_t i = 0; i < length; i++)
        text[i] = (char)('a' + fixture_random(random) % 26);
    text[length] = '\0';
}

static void fill_storage(const struct stasis_field *field, uint8_t *object, uint64_t *random)
{
    const bool blob = field->kind == STASIS_FIELD_BLOB;
    const size_t unit = blob ? 1 : field->table->struct_size;
    const size_t wanted = 1 + fixture_random(random) % (blob ? 300 : 3);
    const size_t length = wanted < field->count ? wanted : field->count;
    uint8_t *storage = must(calloc(length, unit), "a list");

    if (blob)
        fill_bytes(storage, length, random);
    for (size_t i = 0; !blob && i < length; i++)
        fill_object(field->table, storage + i * unit, random);
    memcpy(object + field->offset, &storage, sizeof(storage));
    memcpy(object + field->length_offset, &length, sizeof(length));
}

static void fill_part(const struct stasis_field *field, uint8_t *object, uint64_t *random)
{
    void *part = must(calloc(1, field->table->struct_size), "a part");

    fill_object(field->table, part, random);
    memcpy(object + field->offset, &part, sizeof(part));
}

static void fill_field(const struct stasis_field *field, uint8_t *object, uint64_t *random)
{
    uint8_t *place = object + field->offset;

    switch (field->kind) {
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL: fill_scalars(field, place, random); break;
    case STASIS_FIELD_BYTES: fill_bytes(place, field->count, random); break;
    case STASIS_FIELD_TEXT: fill_text((char *)place, field->count, random); break;
    case STASIS_FIELD_STRUCT:
        for (size_t i = 0; i < field->count; i++)
            fill_object(field->table, place + i * field->table->struct_size, random);
        break;
    case STASIS_FIELD_BLOB:
    case STASIS_FIELD_LIST: fill_storage(field, object, random); break;
    case STASIS_FIELD_PART: fill_part(field, object, random); break;
    }
}

static void fill_object(const struct stasis_table *table, void *object, uint64_t *random)
{
    for (size_t i = 0; i < table->field_count; i++)
        fill_field(&table->fields[i], object, random);
}

static void resize_blob(uint8_t **blob, size_t *blob_size, size_t size, uint64_t *random)
{
    free(*blob);
    *blob = must(calloc(1, size), "a blob");
    *blob_size = size;
    fill_bytes(*blob, size, random);
}

static void fill_host(struct stasis_machine *machine, uint64_t *random)
{
    for (size_t i = 0; i < stasis_machine_table.field_count; i++) {
        const struct stasis_field *field = &stasis_machine_table.fields[i];

        if (strcmp(field->name, "host") == 0)
            fill_object(field->table, (uint8_t *)machine + field->offset, random);
    }
}

static void add_devices(struct stasis_machine *machine, uint64_t *random)
{
    uint8_t state[200];

    fill_bytes(state, sizeof(state), random);
    for (unsigned i = 0; i < 3; i++) {
        const char *const ids[] = { "disk0", "disk1", "com1" };

        if (stasis_machine_add_opaque_device(machine, i < 2 ? "virtio-blk" : "serial", ids[i],
                                             i + 1, state, i * 100, NULL) < 0)
            must(NULL, "add a device");
    }
}

#define XSAVE_SIZE 832 /* legacy area, header, AVX */
#define XSAVE_MXCSR 24
#define XSAVE_HEADER 512
#define NESTED_SIZE 128u

static void fix_x86_blobs(struct stasis_x86_vcpu *vcpu, uint64_t *random)
{
    const uint64_t xstate_bv = 7;
    const uint32_t mxcsr = 0x1f80, nested_size = NESTED_SIZE;

    resize_blob(&vcpu->xsave, &vcpu->xsave_size, XSAVE_SIZE, random);
    memcpy(vcpu->xsave + XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
    memset(vcpu->xsave + XSAVE_HEADER, 0, 64);
    memcpy(vcpu->xsave + XSAVE_HEADER, &xstate_bv, sizeof(xstate_bv));
    resize_blob(&vcpu->lapic, &vcpu->lapic_size, 1024, random);
    resize_blob(&vcpu->nested, &vcpu->nested_size, NESTED_SIZE, random);
    memset(vcpu->nested, 0, 4); /* flags, format */
    memcpy(vcpu->nested + 4, &nested_size, sizeof(nested_size));
}

/* Where the architecture wants more than each field in its range. */
static void fix_x86_vcpu(struct stasis_x86_vcpu *vcpu, uint32_t id, uint64_t *random)
{
    vcpu->id = id;
    vcpu->mp_state = id % 2;
    vcpu->sregs.cr0 = 0x80000011; /* long mode */
    vcpu->sregs.cr4 |= 0x20;
    vcpu->sregs.efer = 0xd00;
    memset(vcpu->sregs.interrupt_bitmap, 0, sizeof(vcpu->sregs.interrupt_bitmap));
    vcpu->sregs.interrupt_bitmap[id % 4] = UINT64_C(1) << 33;
    vcpu->events.exception.nr = 14;
    vcpu->events.sipi_vector &= 0xff;
    fix_x86_blobs(vcpu, random);
    for (uint32_t i = 0; i < vcpu->msrs_count; i++)
        vcpu->msrs[i].index = 0xc0000080 + i;
    for (uint32_t i = 0; i < vcpu->cpuid_count; i++)
        vcpu->cpuid[i].function = i;
    for (uint32_t i = 0; i < vcpu->xcrs_count; i++)
        vcpu->xcrs[i].index = i;
    if (vcpu->xcrs_count > 0)
        vcpu->xcrs[0].value = 7;
}

/* A list of `count` filled elements, in place of what the walk made. */
static void *make_list(const struct stasis_table *table, size_t count, uint64_t *random)
{
    uint8_t *list = must(calloc(count, table->struct_size), "a list");

    for (size_t i = 0; i < count; i++)
        fill_object(table, list + i * table->struct_size, random);
    return list;
}

static void release_list(const struct stasis_table *table, void *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        stasis_fields_release(table, (uint8_t *)list + i * table->struct_size);
    free(list);
}

void fixture_x86_machine(struct stasis_machine *machine, unsigned vcpu_count, uint64_t seed)
{
    struct stasis_x86_machine *x86 = must(calloc(1, sizeof(*x86)), "a machine");

    *machine = (struct stasis_machine){ .arch = STASIS_ARCH_X86_64, .x86_64 = x86 };
    fill_host(machine, &seed);
    fill_object(&stasis_x86_machine_table, x86, &seed);
    release_list(&stasis_x86_vcpu_table, x86->vcpus, x86->vcpus_count);
    x86->vcpus = make_list(&stasis_x86_vcpu_table, vcpu_count, &seed);
    x86->vcpus_count = vcpu_count;
    for (uint32_t i = 0; i < vcpu_count; i++)
        fix_x86_vcpu(&x86->vcpus[i], i, &seed);
    free(x86->pics);
    x86->pics = must(calloc(2, sizeof(*x86->pics)), "two PICs");
    x86->pics_count = 2;
    x86->pics[0].imr = 0xb8;
    x86->pics[1].irq_base = 0x28;
    add_devices(machine, &seed);
}

#define ARM64_CORE_REG UINT64_C(0x6030000000100000) /* of 64 bits, and a number */
#define ARM64_WIDE_REG UINT64_C(0x6050000000150000) /* of 256 bits, and a number */

static void fix_arm64_vcpu(struct stasis_arm64_vcpu *vcpu, uint64_t mpidr, uint64_t *random)
{
    vcpu->mpidr = mpidr;
    vcpu->mp_state = 0;
    for (size_t i = 0; i < vcpu->regs_count; i++) {
        vcpu->regs[i].id = ARM64_CORE_REG + i * 2;
        memset(vcpu->regs[i].value + 8, 0, 8);
    }
    for (size_t i = 0; i < vcpu->wide_regs_count; i++) {
        vcpu->wide_regs[i].id = ARM64_WIDE_REG + i;
        resize_blob(&vcpu->wide_regs[i].value, &vcpu->wide_regs[i].value_size, 32, random);
    }
}

static void fix_arm64_gic(struct stasis_arm64_gic *gic)
{
    gic->version = 3;
    gic->irq_count = 96;
    gic->distributor_gpa = 0x8000000;
    gic->redistributor_gpa = 0x80a0000;
    gic->its_gpa = 0x8080000;
    for (size_t i = 0; i < gic->regs_count; i++)
        gic->regs[i].attr = i * 4;
    for (size_t i = 0; i < gic->its_regs_count; i++)
        gic->its_regs[i].attr = i * 8;
}

void fixture_arm64_machine(struct stasis_machine *machine, unsigned vcpu_count, uint64_t seed)
{
    struct stasis_arm64_machine *arm64 = must(calloc(1, sizeof(*arm64)), "a machine");

    *machine = (struct stasis_machine){ .arch = STASIS_ARCH_ARM64, .arm64 = arm64 };
    fill_host(machine, &seed);
    fill_object(&stasis_arm64_machine_table, arm64, &seed);
    release_list(&stasis_arm64_vcpu_table, arm64->vcpus, arm64->vcpus_count);
    arm64->vcpus = make_list(&stasis_arm64_vcpu_table, vcpu_count, &seed);
    arm64->vcpus_count = vcpu_count;
    for (unsigned i = 0; i < vcpu_count; i++)
        fix_arm64_vcpu(&arm64->vcpus[i], i, &seed);
    fix_arm64_gic(arm64->gic);
    add_devices(machine, &seed);
}

/* --- memory --- */

static void fill_region(const struct stasis_region *region, unsigned zero_percent, uint64_t *random)
{
    uint8_t *page = region->hva;
    uint8_t *end = page + region->size;

    while (page < end) {
        const bool zero = fixture_random(random) % 100 < zero_percent;
        const uint64_t run = 1 + fixture_random(random) % 40;

        for (uint64_t i = 0; i < run && page < end; i++, page += STASIS_PAGE_SIZE) {
            /* One word somewhere is enough to be data, and is where a lazy zero test would miss it. */
            const uint64_t place = fixture_random(random) % (STASIS_PAGE_SIZE / 8);
            const uint64_t value = fixture_random(random) | 1;

            if (!zero)
                memcpy(page + place * 8, &value, sizeof(value));
        }
    }
}

void fixture_memory(struct stasis_memory *memory, const struct fixture_region *regions,
                    size_t region_count, unsigned zero_percent, uint64_t seed)
{
    memory->region_count = region_count;
    memory->regions = must(calloc(region_count, sizeof(*memory->regions)), "regions");
    for (size_t i = 0; i < region_count; i++) {
        struct stasis_region *region = &memory->regions[i];

        region->gpa = regions[i].gpa;
        region->size = regions[i].size;
        region->hva = must(mmap(NULL, regions[i].size, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
                           "guest memory");
        fill_region(region, zero_percent, &seed);
    }
}

void fixture_random_memory(struct stasis_memory *memory, size_t region_max, uint64_t size_max,
                           uint64_t seed)
{
    const size_t count = 1 + fixture_random(&seed) % region_max;
    struct fixture_region *regions = must(calloc(count, sizeof(*regions)), "regions");
    uint64_t gpa = 0;

    for (size_t i = 0; i < count; i++) {
        gpa += fixture_random(&seed) % 3 * STASIS_PAGE_SIZE; /* a third of them adjoin */
        regions[i].gpa = gpa;
        regions[i].size =
            (1 + fixture_random(&seed) % (size_max / STASIS_PAGE_SIZE)) * STASIS_PAGE_SIZE;
        gpa += regions[i].size;
    }
    fixture_memory(memory, regions, count, (unsigned)(fixture_random(&seed) % 101), seed);
    free(regions);
}

bool fixture_memory_equal(const struct stasis_memory *a, const struct stasis_memory *b)
{
    if (a->region_count != b->region_count)
        return false;
    for (size_t i = 0; i < a->region_count; i++) {
        if (a->regions[i].gpa != b->regions[i].gpa || a->regions[i].size != b->regions[i].size ||
            memcmp(a->regions[i].hva, b->regions[i].hva, a->regions[i].size) != 0)
            return false;
    }
    return true;
}

/* Encodings, not structs: equal machines give equal bytes, and every field is in them. */
bool fixture_machine_equal(const struct stasis_machine *a, const struct stasis_machine *b)
{
    struct byte_buffer a_bytes, b_bytes;
    bool equal;

    byte_buffer_init(&a_bytes, SIZE_MAX);
    byte_buffer_init(&b_bytes, SIZE_MAX);
    equal = fields_encode(&stasis_machine_table, a, &a_bytes, NULL) == 0 &&
            fields_encode(&stasis_machine_table, b, &b_bytes, NULL) == 0 &&
            a_bytes.size == b_bytes.size && memcmp(a_bytes.data, b_bytes.data, a_bytes.size) == 0;
    byte_buffer_release(&a_bytes);
    byte_buffer_release(&b_bytes);
    return equal;
}

uint64_t fixture_data_pages(const struct stasis_memory *memory)
{
    uint64_t count = 0;

    for (size_t i = 0; i < memory->region_count; i++) {
        const uint8_t *bytes = memory->regions[i].hva;

        for (uint64_t page = 0; page < memory->regions[i].size; page += STASIS_PAGE_SIZE) {
            bool data = false;

            for (uint64_t at = page; at < page + STASIS_PAGE_SIZE; at++)
                data |= bytes[at] != 0;
            count += data;
        }
    }
    return count;
}
