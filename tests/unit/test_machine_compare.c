/* test_machine_compare.c - comparing two machines, with what their tables cannot say.
 *
 * Goal:   what ticks on its own is left out unless asked for; device states are compared key by key
 *         where they are CBOR, and byte by byte where they are not; nothing that differs is missed.
 * Method: hand-made machines with one difference each, and exact reports. */
#include "test_fields_sample.h"

enum { LINES_MAX = 16 };

/* What was reported, one line a difference: "path: a -> b". */
struct lines {
    char text[LINES_MAX][600];
    size_t count;
};

static int collect(void *arg, const struct stasis_difference *difference)
{
    struct lines *lines = arg;

    assert_true(lines->count < LINES_MAX);
    snprintf(lines->text[lines->count++], sizeof(lines->text[0]), "%s: %s -> %s", difference->path,
             difference->a, difference->b);
    return 0;
}

static void compare(const struct stasis_machine *a, const struct stasis_machine *b, unsigned flags,
                    struct lines *ret_lines)
{
    struct stasis_error err = { 0 };
    uint64_t count = 99;

    ret_lines->count = 0;
    assert_stasis_ok(stasis_machine_compare(a, b, flags, collect, ret_lines, &count, &err), &err);
    assert_int_equal(count, ret_lines->count);
}

static void assert_lines(const struct lines *lines, const char *const *expected)
{
    size_t count = 0;

    while (expected[count])
        count++;
    for (size_t i = 0; i < lines->count && i < count; i++)
        assert_string_equal(lines->text[i], expected[i]);
    assert_int_equal(lines->count, count);
}

#define assert_differ(a, b, flags, ...)                                                            \
    do {                                                                                           \
        struct lines lines_;                                                                       \
        compare(a, b, flags, &lines_);                                                             \
        assert_lines(&lines_, (const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL });           \
    } while (0)

static void a_machine_equals_itself(void **state)
{
    (void)state;
    for (uint64_t seed = 300; seed < 320; seed++) {
        struct random_source random = { seed };
        struct stasis_machine machine = { 0 };

        random_struct(&random, &stasis_machine_table, &machine);
        assert_differ(&machine, &machine, STASIS_COMPARE_VOLATILE);
        stasis_machine_release(&machine);
    }
}

static void architectures_differ_as_a_whole(void **state)
{
    struct stasis_x86_machine x86 = { 0 };
    struct stasis_arm64_machine arm64 = { 0 };
    const struct stasis_machine a = { .arch = STASIS_ARCH_X86_64, .x86_64 = &x86 };
    const struct stasis_machine b = { .arch = STASIS_ARCH_ARM64, .arm64 = &arm64 };

    (void)state;
    assert_differ(&a, &b, 0, "arch: 1 -> 2", "x86_64: present -> absent",
                  "arm64: absent -> present");
}

static void the_host_is_compared_only_when_asked_for(void **state)
{
    const struct stasis_machine a = { .host = { .hypervisor = "kvm", .tsc_khz = 2600000 } };
    const struct stasis_machine b = { .host = { .hypervisor = "kvm", .cpu_vendor = "Intel" } };

    (void)state;
    assert_differ(&a, &b, 0);
    assert_differ(&a, &b, STASIS_COMPARE_VOLATILE, "host.cpu_vendor: \"\" -> \"Intel\"",
                  "host.tsc_khz: 2600000 -> 0");
}

/* Two machines of one vCPU, to put a difference into. */
struct pair_of_x86 {
    struct stasis_x86_vcpu vcpu_a, vcpu_b;
    struct stasis_x86_machine x86_a, x86_b;
    struct stasis_machine a, b;
};

static void make_pair(struct pair_of_x86 *pair)
{
    *pair = (struct pair_of_x86){ 0 };
    pair->x86_a = (struct stasis_x86_machine){ .vcpus = &pair->vcpu_a, .vcpus_count = 1 };
    pair->x86_b = (struct stasis_x86_machine){ .vcpus = &pair->vcpu_b, .vcpus_count = 1 };
    pair->a = (struct stasis_machine){ .x86_64 = &pair->x86_a };
    pair->b = (struct stasis_machine){ .x86_64 = &pair->x86_b };
}

static void registers_that_tick_are_compared_only_when_asked_for(void **state)
{
    struct stasis_x86_msr msrs_a[] = { { 0x10, 1000 }, { 0xc0000080, 0x500 }, { 0x40000020, 1 } };
    struct stasis_x86_msr msrs_b[] = { { 0xc0000080, 0xd00 }, { 0x10, 1001 }, { 0x40000020, 2 } };
    struct pair_of_x86 pair;

    (void)state;
    make_pair(&pair);
    pair.vcpu_a.msrs = msrs_a;
    pair.vcpu_b.msrs = msrs_b;
    pair.vcpu_a.msrs_count = pair.vcpu_b.msrs_count = 3;
    pair.vcpu_a.tsc_offset = 5;
    pair.x86_a.clock.realtime = 6;
    assert_differ(&pair.a, &pair.b, 0, "x86_64.vcpus[0].msrs[0xc0000080].data: 0x500 -> 0xd00");
    assert_differ(
        &pair.a, &pair.b, STASIS_COMPARE_VOLATILE, "x86_64.vcpus[0].tsc_offset: 0x5 -> 0x0",
        "x86_64.vcpus[0].msrs[0x10].data: 0x3e8 -> 0x3e9",
        "x86_64.vcpus[0].msrs[0xc0000080].data: 0x500 -> 0xd00",
        "x86_64.vcpus[0].msrs[0x40000020].data: 0x1 -> 0x2", "x86_64.clock.realtime: 6 -> 0");
    /* That one of them is missing is no ticking. */
    pair.vcpu_b.msrs_count = 1;
    assert_differ(&pair.a, &pair.b, 0, "x86_64.vcpus[0].msrs: 3 elements -> 1 elements",
                  "x86_64.vcpus[0].msrs[0x10]: present -> absent",
                  "x86_64.vcpus[0].msrs[0xc0000080].data: 0x500 -> 0xd00",
                  "x86_64.vcpus[0].msrs[0x40000020]: present -> absent");
}

static void arm64_counters_are_compared_only_when_asked_for(void **state)
{
    struct stasis_arm64_reg regs_a[] = { { 0x603000000013df1a, { 1 } },
                                         { 0x603000000013df01, { 1 } },
                                         { 0x6030000000100040, { 1 } } };
    struct stasis_arm64_reg regs_b[] = { { 0x603000000013df1a, { 2 } },
                                         { 0x603000000013df01, { 2 } },
                                         { 0x6030000000100040, { 2 } } };
    struct stasis_arm64_vcpu vcpu_a = { .regs = regs_a, .regs_count = 3 };
    struct stasis_arm64_vcpu vcpu_b = { .regs = regs_b, .regs_count = 3 };
    struct stasis_arm64_machine arm64_a = { .vcpus = &vcpu_a, .vcpus_count = 1 };
    struct stasis_arm64_machine arm64_b = { .vcpus = &vcpu_b, .vcpus_count = 1 };
    const struct stasis_machine a = { .arm64 = &arm64_a }, b = { .arm64 = &arm64_b };
    struct lines lines;

    (void)state;
    assert_differ(&a, &b, 0,
                  "arm64.vcpus[0].regs[0x6030000000100040].value: 16 bytes, from byte 0: "
                  "0100000000000000... -> 16 bytes, from byte 0: 0200000000000000...");
    compare(&a, &b, STASIS_COMPARE_VOLATILE, &lines);
    assert_int_equal(lines.count, 3);
}

static void the_lapic_timers_count_ticks_the_rest_of_its_page_does_not(void **state)
{
    uint8_t page_a[1024] = { 0 }, page_b[1024] = { 0 };
    struct pair_of_x86 pair;

    (void)state;
    make_pair(&pair);
    pair.vcpu_a.lapic = page_a;
    pair.vcpu_b.lapic = page_b;
    pair.vcpu_a.lapic_size = pair.vcpu_b.lapic_size = 1024;
    memset(page_b + 0x390, 0xff, 4);
    assert_differ(&pair.a, &pair.b, 0);
    assert_differ(&pair.a, &pair.b, STASIS_COMPARE_VOLATILE,
                  "x86_64.vcpus[0].lapic: 1024 bytes, from byte 912: 0000000000000000... -> "
                  "1024 bytes, from byte 912: ffffffff00000000...");
    page_b[0x394] = 1;
    assert_differ(&pair.a, &pair.b, 0,
                  "x86_64.vcpus[0].lapic: 1024 bytes, from byte 916: 0000000000000000... -> "
                  "1024 bytes, from byte 916: 0100000000000000...");
    page_b[0x38f] = 1;
    assert_differ(&pair.a, &pair.b, 0,
                  "x86_64.vcpus[0].lapic: 1024 bytes, from byte 911: 0000000000000000... -> "
                  "1024 bytes, from byte 911: 01ffffffff010000...");
}

static void devices_are_matched_by_kind_and_id(void **state)
{
    struct stasis_machine a = { 0 }, b = { 0 };

    (void)state;
    stasis_machine_add_opaque_device(&a, "disk", "root", 1, "xyz", 3, NULL);
    stasis_machine_add_opaque_device(&a, "disk", "data", 1, "abc", 3, NULL);
    stasis_machine_add_opaque_device(&b, "net", "data", 1, "abc", 3, NULL);
    stasis_machine_add_opaque_device(&b, "disk", "data", 2, "abd", 3, NULL);
    stasis_machine_add_opaque_device(&b, "disk", "root", 1, "xyz", 3, NULL);
    assert_differ(&a, &b, 0, "devices: 2 elements -> 3 elements",
                  "devices[disk/data].version: 1 -> 2",
                  "devices[disk/data].state: 3 bytes, from byte 2: 63 -> 3 bytes, from byte 2: 64",
                  "devices[net/data]: absent -> present");
    stasis_machine_release(&a);
    stasis_machine_release(&b);
}

static void device_states_from_tables_are_compared_key_by_key(void **state)
{
    struct sample left = make_sample(), right = make_sample();
    struct stasis_machine a = { 0 }, b = { 0 };

    (void)state;
    right.u16 = 501;
    right.s64 = -1001;
    right.flag = false;
    right.triple[2] = 0;
    memcpy(right.text, "CPU-001", 8);
    right.corners[1].y = 8;
    right.blob[1] = 9;
    right.points_count = 0;
    free(right.part);
    right.part = NULL;
    stasis_machine_add_device(&a, "disk", "root", 1, &sample_table, &left, NULL);
    stasis_machine_add_device(&b, "disk", "root", 1, &sample_table, &right, NULL);
    assert_differ(&a, &b, 0, "devices[disk/root].state.u16: 500 -> 501",
                  "devices[disk/root].state.s64: -1000 -> -1001",
                  "devices[disk/root].state.flag: true -> false",
                  "devices[disk/root].state.triple[2]: 255 -> 0",
                  "devices[disk/root].state.text: \"cpu-001\" -> \"CPU-001\"",
                  "devices[disk/root].state.corners[1].y: 0 -> 8",
                  "devices[disk/root].state.blob: 3 bytes, from byte 1: 0203 -> 3 bytes, from byte "
                  "1: 0903",
                  "devices[disk/root].state.points: 1 elements -> 0 elements",
                  "devices[disk/root].state.points[0]: present -> absent",
                  "devices[disk/root].state.part: present -> absent");
    free(right.points);
    right.points = NULL;
    release_sample(&left);
    release_sample(&right);
    stasis_machine_release(&a);
    stasis_machine_release(&b);
}

/* Two machines with a device each whose state is these bytes, said to be CBOR. */
static void assert_states(const char *hex_a, const char *hex_b, const char *const *expected)
{
    struct bytes bytes_a = from_hex(hex_a), bytes_b = from_hex(hex_b);
    struct stasis_device device_a = { .kind = "k", .id = "i", .encoding = STASIS_DEVICE_CBOR };
    struct stasis_device device_b = device_a;
    const struct stasis_machine a = { .devices = &device_a, .devices_count = 1 };
    const struct stasis_machine b = { .devices = &device_b, .devices_count = 1 };
    struct lines lines;

    device_a.state = bytes_a.data;
    device_a.state_size = bytes_a.size;
    device_b.state = bytes_b.data;
    device_b.state_size = bytes_b.size;
    compare(&a, &b, 0, &lines);
    assert_lines(&lines, expected);
}

#define assert_states_differ(hex_a, hex_b, ...)                                                    \
    assert_states(hex_a, hex_b, (const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL })

static void cbor_is_compared_by_what_it_means(void **state)
{
    (void)state;
    /* Keys in another order, integers in another form. */
    assert_states_differ("a2 6161 01 6162 02", "a2 6162 1802 6161 190001");
    assert_states_differ("a1 6161 01", "a1 6162 01", "devices[k/i].state.a: present -> absent",
                         "devices[k/i].state.b: absent -> present");
    assert_states_differ("a2 6161 01 6161 02", "a2 6161 01 6161 03",
                         "devices[k/i].state.a: 2 -> 3");
    assert_states_differ("a1 6161 01", "a1 6161 6131", "devices[k/i].state.a: 1 -> \"1\"");
    assert_states_differ("a2 6161 820102 6162 00", "a2 6161 a16178f6 6162 01",
                         "devices[k/i].state.a: an array -> a map", "devices[k/i].state.b: 0 -> 1");
    assert_states_differ("a1 6161 8301 a0 f6", "a1 6161 8201 a0",
                         "devices[k/i].state.a: 3 elements -> 2 elements",
                         "devices[k/i].state.a[2]: present -> absent");
    assert_states_differ("a1 6161 81 80", "a1 6161 82 80 8101",
                         "devices[k/i].state.a: 1 elements -> 2 elements",
                         "devices[k/i].state.a[1]: absent -> present");
    assert_states_differ("a1 6161 f6", "a1 6161 f4", "devices[k/i].state.a: null -> false");
    assert_states_differ("a1 6161 3bffffffffffffffff", "a1 6161 3bfffffffffffffffe",
                         "devices[k/i].state.a: -18446744073709551616 -> -18446744073709551615");
    assert_states_differ("a1 621b5b 01", "a1 621b5b 02", "devices[k/i].state.\\x1b[: 1 -> 2");
    assert_states_differ("a1 6161 a1 6162 a1 6163 4101", "a1 6161 a1 6162 a1 6163 4102",
                         "devices[k/i].state.a.b.c: 1 bytes, from byte 0: 01 -> 1 bytes, from byte "
                         "0: 02");
}

static void cbor_that_is_not_plain_is_compared_as_bytes(void **state)
{
    static const char *const odd[] = {
        "a1 6161 f93c00", /* a float */
        "a1 6161 c101",   /* a tag */
        "bf 6161 01 ff",  /* of indefinite length */
        "a1 6161 9fff",
        "a1 01 01",      /* a key that is no text */
        "a1 6161 f7",    /* undefined */
        "a1 6161 01 00", /* something behind it */
        "a1 6161",       /* something missing */
        "80",
        "",
        "a1 6161 81818181818181818181818181818181 80", /* 18 deep */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        const size_t size = from_hex(odd[i]).size;
        char longer[128], text[128];

        assert_states_differ(odd[i], odd[i]);
        snprintf(longer, sizeof(longer), "%s ff", odd[i]);
        snprintf(text, sizeof(text),
                 "devices[k/i].state: %zu bytes -> %zu bytes, from byte %zu: ff", size, size + 1,
                 size);
        assert_states_differ(odd[i], longer, text);
    }
}

/* A map with arrays in it, `depth` containers in all, and a number in the innermost. */
static void assert_nested_differ(size_t depth, const char *path, const char *a, const char *b)
{
    char hex_a[128] = "a16161", hex_b[256], text[256];

    for (size_t i = 1; i < depth; i++)
        strcat(hex_a, "81");
    snprintf(hex_b, sizeof(hex_b), "%s02", hex_a);
    strcat(hex_a, "01");
    snprintf(text, sizeof(text), "devices[k/i].state%s: %s -> %s", path, a, b);
    assert_states_differ(hex_a, hex_b, text);
}

static void nested_cbor_is_followed_to_a_depth_of_16(void **state)
{
    (void)state;
    assert_nested_differ(2, ".a[0]", "1", "2");
    assert_nested_differ(16, ".a[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]", "1", "2");
    assert_nested_differ(17, "", "20 bytes, from byte 19: 01", "20 bytes, from byte 19: 02");
}

static void a_state_that_is_opaque_on_one_side_is_compared_as_bytes(void **state)
{
    uint8_t bytes_a[] = { 0xa1, 0x61, 'a', 1 }, bytes_b[] = { 0xa1, 0x61, 'a', 2 };
    struct stasis_device device_a = { "k", "i", 0, STASIS_DEVICE_CBOR, bytes_a, 4 };
    struct stasis_device device_b = { "k", "i", 0, STASIS_DEVICE_OPAQUE, bytes_b, 4 };
    const struct stasis_machine a = { .devices = &device_a, .devices_count = 1 };
    const struct stasis_machine b = { .devices = &device_b, .devices_count = 1 };

    (void)state;
    assert_differ(&a, &b, 0, "devices[k/i].encoding: 1 -> 0",
                  "devices[k/i].state: 4 bytes, from byte 3: 01 -> 4 bytes, from byte 3: 02");
}

/* A map of 70000 keys is more than is indexed; its first difference is still told. */
static void maps_of_very_many_keys_are_compared_as_bytes(void **state)
{
    enum { KEYS = 70000, KEY_SIZE = 10 };
    const size_t size = 5 + KEYS * KEY_SIZE;
    uint8_t *bytes_a = allocate(size + 1), *bytes_b = allocate(size + 1);
    struct stasis_device device_a = { "k", "i", 0, STASIS_DEVICE_CBOR, bytes_a, size };
    struct stasis_device device_b = { "k", "i", 0, STASIS_DEVICE_CBOR, bytes_b, size };
    const struct stasis_machine a = { .devices = &device_a, .devices_count = 1 };
    const struct stasis_machine b = { .devices = &device_b, .devices_count = 1 };

    (void)state;
    memcpy(bytes_a, "\xba\x00\x01\x11\x70", 5);
    for (unsigned i = 0; i < KEYS; i++)
        snprintf((char *)bytes_a + 5 + i * KEY_SIZE, KEY_SIZE + 1, "\x68%08u%c", i, 1);
    memcpy(bytes_b, bytes_a, size);
    assert_differ(&a, &b, 0);
    bytes_b[size - 1] = 2;
    assert_differ(&a, &b, 0,
                  "devices[k/i].state: 700005 bytes, from byte 700004: 01 -> 700005 bytes, from "
                  "byte 700004: 02");
    free(bytes_a);
    free(bytes_b);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_machine_equals_itself),
        cmocka_unit_test(architectures_differ_as_a_whole),
        cmocka_unit_test(the_host_is_compared_only_when_asked_for),
        cmocka_unit_test(registers_that_tick_are_compared_only_when_asked_for),
        cmocka_unit_test(arm64_counters_are_compared_only_when_asked_for),
        cmocka_unit_test(the_lapic_timers_count_ticks_the_rest_of_its_page_does_not),
        cmocka_unit_test(devices_are_matched_by_kind_and_id),
        cmocka_unit_test(device_states_from_tables_are_compared_key_by_key),
        cmocka_unit_test(cbor_is_compared_by_what_it_means),
        cmocka_unit_test(cbor_that_is_not_plain_is_compared_as_bytes),
        cmocka_unit_test(nested_cbor_is_followed_to_a_depth_of_16),
        cmocka_unit_test(a_state_that_is_opaque_on_one_side_is_compared_as_bytes),
        cmocka_unit_test(maps_of_very_many_keys_are_compared_as_bytes),
    };
    return unit_run(tests);
}
