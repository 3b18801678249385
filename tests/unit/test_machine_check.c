/* test_machine_check.c - which machines could run, and which are refused.
 *
 * Goal:   each rule of stasis_machine_check() refuses what breaks it, with STASIS_ERR_INVALID_MACHINE
 *         or STASIS_ERR_LIMIT and the field's path, and nothing else.
 * Method: a good machine of each architecture, broken in one way at a time. */
#include "test_fields_support.h"

struct fixture {
    struct stasis_machine x86, arm64;
};

static void *duplicate(const void *bytes, size_t size)
{
    return memcpy(allocate(size), bytes, size);
}

static void make_x86_vcpu(struct stasis_x86_vcpu *vcpu, uint32_t id)
{
    static const struct stasis_x86_cpuid cpuid[] = {
        { .function = 0xd, .index = 2, .eax = 256, .ebx = 576 },
    };
    static const struct stasis_x86_xcr xcr = { .index = 0, .value = 7 };

    vcpu->id = id;
    vcpu->cpuid = duplicate(cpuid, sizeof(cpuid));
    vcpu->cpuid_count = 1;
    vcpu->sregs.cr0 = 0x80000011; /* paging in long mode */
    vcpu->sregs.cr4 = 0x20;
    vcpu->sregs.efer = 0x500;
    vcpu->sregs.cs.l = 1;
    vcpu->xsave = allocate(832);
    vcpu->xsave_size = 832;
    vcpu->xsave[24] = 0x80; /* MXCSR 0x1f80 */
    vcpu->xsave[25] = 0x1f;
    vcpu->xsave[512] = 7; /* XSTATE_BV: x87, SSE, AVX */
    vcpu->xcrs = duplicate(&xcr, sizeof(xcr));
    vcpu->xcrs_count = 1;
    vcpu->lapic = allocate(1024);
    vcpu->lapic_size = 1024;
}

static void make_x86(struct stasis_machine *machine)
{
    machine->arch = STASIS_ARCH_X86_64;
    machine->x86_64 = allocate(sizeof(*machine->x86_64));
    machine->x86_64->vcpus = allocate(2 * sizeof(struct stasis_x86_vcpu));
    machine->x86_64->vcpus_count = 2;
    make_x86_vcpu(&machine->x86_64->vcpus[0], 0);
    make_x86_vcpu(&machine->x86_64->vcpus[1], 1);
    stasis_machine_add_opaque_device(machine, "disk", "a", 1, "xyz", 3, NULL);
    stasis_machine_add_opaque_device(machine, "disk", "b", 1, "xyz", 3, NULL);
}

static void make_arm64(struct stasis_machine *machine)
{
    static const struct stasis_arm64_reg regs[] = {
        { 0x6030000000100040, { 1, 2, 3, 4, 5, 6, 7, 8 } }, /* pc: 8 bytes */
        { 0x60200000001000d4, { 1, 2, 3, 4 } },             /* fpsr: 4 bytes */
        { 0x6040000000100054, { [15] = 9 } },               /* v0: 16 bytes */
    };
    struct stasis_arm64_vcpu *vcpus = allocate(2 * sizeof(*vcpus));

    machine->arch = STASIS_ARCH_ARM64;
    machine->arm64 = allocate(sizeof(*machine->arm64));
    machine->arm64->vcpus = vcpus;
    machine->arm64->vcpus_count = 2;
    vcpus[1].mpidr = 1;
    vcpus[0].regs = duplicate(regs, sizeof(regs));
    vcpus[0].regs_count = 3;
    vcpus[0].wide_regs = allocate(sizeof(*vcpus[0].wide_regs));
    vcpus[0].wide_regs_count = 1;
    vcpus[0].wide_regs[0].id = 0x6080000000150000; /* an SVE Z register: 256 bytes */
    vcpus[0].wide_regs[0].value = allocate(256);
    vcpus[0].wide_regs[0].value_size = 256;
    machine->arm64->gic = allocate(sizeof(*machine->arm64->gic));
    *machine->arm64->gic = (struct stasis_arm64_gic){
        .version = 3, .distributor_gpa = 0x8000000, .redistributor_gpa = 0x80a0000, .irq_count = 96
    };
}

static int setup(void **state)
{
    struct fixture *fixture = allocate(sizeof(*fixture));

    make_x86(&fixture->x86);
    make_arm64(&fixture->arm64);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    stasis_machine_release(&fixture->x86);
    stasis_machine_release(&fixture->arm64);
    free(fixture);
    return 0;
}

static void assert_code(const struct stasis_machine *machine, enum stasis_code code,
                        const char *story)
{
    struct stasis_error err = { 0 };

    assert_stasis_fails(stasis_machine_check(machine, &err), &err, code);
    if (!strstr(err.text, story))
        fail_msg("'%s' does not say '%s'", err.text, story);
    assert_true(stasis_machine_check(machine, NULL) < 0);
}

static void assert_invalid(const struct stasis_machine *machine, const char *story)
{
    assert_code(machine, STASIS_ERR_INVALID_MACHINE, story);
}

static void assert_good(const struct stasis_machine *machine)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_machine_check(machine, &err), &err);
}

/* Break one value, see it refused, mend it. */
#define assert_breaks(machine, member, bad, story)                                                 \
    do {                                                                                           \
        const __typeof__(member) good_ = (member);                                                 \
        (member) = (bad);                                                                          \
        assert_invalid(machine, story);                                                            \
        (member) = good_;                                                                          \
        assert_good(machine);                                                                      \
    } while (0)

static void good_machines_are_good(void **state)
{
    struct fixture *fixture = *state;

    assert_good(&fixture->x86);
    assert_good(&fixture->arm64);
}

static void the_architecture_names_the_part_that_is_there(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_machine *x86 = &fixture->x86;
    const struct stasis_machine zero = { 0 };

    assert_invalid(&zero, "arch: 0 is no known architecture");
    assert_breaks(x86, x86->arch, 3u, "arch: 3 is no known architecture");
    assert_breaks(x86, x86->arch, (uint32_t)STASIS_ARCH_ARM64,
                  "x86_64: present, but arch is arm64");
    assert_breaks(x86, x86->arm64, fixture->arm64.arm64, "arm64: present, but arch is x86_64");
    assert_breaks(x86, x86->x86_64, NULL, "x86_64: absent, but arch is x86_64");
    assert_breaks(&fixture->arm64, fixture->arm64.arm64, NULL, "arm64: absent, but arch is arm64");
}

static void there_is_at_least_one_vcpu(void **state)
{
    struct fixture *fixture = *state;

    assert_breaks(&fixture->x86, fixture->x86.x86_64->vcpus_count, 0, "x86_64.vcpus: there are");
    assert_breaks(&fixture->arm64, fixture->arm64.arm64->vcpus_count, 0, "arm64.vcpus: there are");
}

static void vcpu_ids_are_distinct(void **state)
{
    struct fixture *fixture = *state;

    assert_breaks(&fixture->x86, fixture->x86.x86_64->vcpus[1].id, 0u,
                  "x86_64.vcpus[1].id: 0 is that of vcpus[0] too");
    assert_breaks(&fixture->arm64, fixture->arm64.arm64->vcpus[1].mpidr, 0u,
                  "arm64.vcpus[1].mpidr: 0x0 is that of vcpus[0] too");
}

static void values_are_in_the_ranges_of_their_tables(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_x86_vcpu *vcpu = &fixture->x86.x86_64->vcpus[1];

    assert_breaks(&fixture->x86, vcpu->sregs.cr8, 16u, "x86_64.vcpus[1].sregs.cr8: 16 is out of");
    assert_breaks(&fixture->x86, vcpu->sregs.ss.present, 2u, "x86_64.vcpus[1].sregs.ss.present: 2");
    assert_breaks(&fixture->x86, vcpu->debugregs.dr7, UINT64_C(1) << 32,
                  "x86_64.vcpus[1].debugregs.dr7: 4294967296 is out of range");
    assert_breaks(&fixture->x86, vcpu->events.nmi.masked, 2u, "events.nmi.masked: 2 is out of");
    assert_breaks(&fixture->x86, fixture->x86.devices[0].encoding, 2u,
                  "devices[0].encoding: 2 is out of range");
}

static void sizes_are_within_the_limits_of_their_tables(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_x86_machine *x86 = fixture->x86.x86_64;

    x86->vcpus[0].xsave_size = STASIS_X86_XSAVE_MAX + 1;
    assert_code(&fixture->x86, STASIS_ERR_LIMIT, "x86_64.vcpus[0].xsave: 1048577 bytes, at most");
    x86->vcpus[0].xsave_size = 832;
    x86->vcpus_count = STASIS_X86_VCPU_MAX + 1;
    assert_code(&fixture->x86, STASIS_ERR_LIMIT, "x86_64.vcpus: 4097 elements, at most 4096");
    x86->vcpus_count = 2;
}

static void an_xsave_area_is_whole_and_of_standard_format(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_x86_vcpu *vcpu = &fixture->x86.x86_64->vcpus[1];

    assert_breaks(&fixture->x86, vcpu->xsave_size, 575, "xsave: an area of 575 bytes, the small");
    assert_breaks(&fixture->x86, vcpu->xsave_size, 0, "xsave: an area of 0 bytes");
    assert_breaks(&fixture->x86, vcpu->xsave[26], 1,
                  "xsave: reserved bits are set in MXCSR 0x11f80");
    assert_breaks(&fixture->x86, vcpu->xsave[527], 0x80, "xsave: the area is compacted");
    assert_breaks(&fixture->x86, vcpu->xsave[575], 1, "xsave: the area is compacted, or reserved");
    assert_breaks(&fixture->x86, vcpu->xsave_size, 831,
                  "vcpus[1].xsave: component 2 lies beyond the area's 831 bytes");
    vcpu->xsave[512] = 3; /* AVX is not in use: its place may be missing */
    vcpu->xsave_size = 576;
    assert_good(&fixture->x86);
}

static void a_lapic_page_has_1024_bytes_on_all_vcpus(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_x86_vcpu *vcpus = fixture->x86.x86_64->vcpus;

    assert_breaks(&fixture->x86, vcpus[0].lapic_size, 1023, "vcpus[0].lapic: a page of 1023 bytes");
    assert_breaks(&fixture->x86, vcpus[1].lapic_size, 0, "vcpus[1].lapic: some vCPUs have one");
    vcpus[0].lapic_size = 0;
    vcpus[1].lapic_size = 0;
    assert_good(&fixture->x86);
}

static void xcr0_is_one_that_the_processor_takes(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_x86_vcpu *vcpu = &fixture->x86.x86_64->vcpus[0];

    assert_breaks(&fixture->x86, vcpu->xcrs[0].value, 6u, "xcrs[0]: XCR0 0x6 lacks x87");
    assert_breaks(&fixture->x86, vcpu->xcrs[0].value, 5u, "xcrs[0]: XCR0 0x5 lacks x87, or SSE");
    vcpu->xcrs = realloc(vcpu->xcrs, 2 * sizeof(*vcpu->xcrs));
    vcpu->xcrs[1] = vcpu->xcrs[0];
    vcpu->xcrs_count = 2;
    assert_invalid(&fixture->x86, "xcrs[1]: XCR0 is there twice");
    vcpu->xcrs[1].index = 1;
    assert_good(&fixture->x86);
}

static void control_registers_agree_on_the_mode(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_machine *x86 = &fixture->x86;
    struct stasis_x86_sregs *sregs = &x86->x86_64->vcpus[0].sregs;

    assert_breaks(x86, sregs->cr0, UINT64_C(1) << 32 | 0x11, "sregs.cr0: reserved bits are set");
    assert_breaks(x86, sregs->cr0, 0x80000010u, "sregs.cr0: 0x80000010 pages without protected");
    assert_breaks(x86, sregs->cr4, 0u, "sregs.efer: 0x500 is half in long mode (cr4 0x0)");
    assert_breaks(x86, sregs->efer, 0x100u, "sregs.efer: 0x100 is half in long mode");
    assert_breaks(x86, sregs->efer, 0x400u, "sregs.efer: 0x400 is half in long mode (cs.l 1");
    assert_breaks(x86, sregs->efer, 0u, "sregs.efer: 0x0 is half in long mode (cs.l 1");
    assert_breaks(x86, sregs->cr0, 0x11u, "sregs.efer: 0x500 is half in long mode");
    *sregs = (struct stasis_x86_sregs){ .cr0 = 0x60000010 }; /* at reset */
    assert_good(x86);
}

static void at_most_one_interrupt_is_being_injected(void **state)
{
    struct fixture *fixture = *state;
    uint64_t *bitmap = fixture->x86.x86_64->vcpus[0].sregs.interrupt_bitmap;

    bitmap[3] = 1;
    assert_good(&fixture->x86);
    assert_breaks(&fixture->x86, bitmap[0], 2u, "sregs.interrupt_bitmap: 2 interrupts, at most 1");
}

static void events_name_exceptions_and_vectors(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_x86_events *events = &fixture->x86.x86_64->vcpus[1].events;

    events->exception.nr = 0xff; /* left from before: nobody looks at it */
    assert_good(&fixture->x86);
    assert_breaks(&fixture->x86, events->exception.pending, 1u,
                  "exception.nr: 255 is no exception");
    events->exception.injected = 1;
    events->exception.nr = 14;
    assert_breaks(&fixture->x86, events->exception.nr, 2u, "exception.nr: 2 is no exception");
    assert_breaks(&fixture->x86, events->sipi_vector, 256u, "sipi_vector: 0x100 is no vector");
}

static void mp_states_are_those_of_the_architecture(void **state)
{
    struct fixture *fixture = *state;
    uint32_t *x86 = &fixture->x86.x86_64->vcpus[0].mp_state;
    uint32_t *arm64 = &fixture->arm64.arm64->vcpus[0].mp_state;

    for (uint32_t i = 0; i < 20; i++) {
        struct stasis_error err = { 0 };

        *x86 = *arm64 = i;
        assert_int_equal(stasis_machine_check(&fixture->x86, &err) == 0, i <= 4 || i == 9);
        assert_int_equal(stasis_machine_check(&fixture->arm64, &err) == 0,
                         i == 0 || i == 5 || i == 10);
    }
    assert_invalid(&fixture->x86, "x86_64.vcpus[0].mp_state: 19 is not one of an x86 vCPU");
    assert_invalid(&fixture->arm64, "arm64.vcpus[0].mp_state: 19 is not one of an arm64 vCPU");
}

static void nested_state_is_as_long_as_it_says(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_x86_vcpu *vcpu = &fixture->x86.x86_64->vcpus[0];

    vcpu->nested = allocate(256);
    vcpu->nested_size = 256;
    assert_invalid(&fixture->x86, "nested: it claims 0 bytes and has 256");
    vcpu->nested[4] = 128;
    assert_good(&fixture->x86);
    assert_breaks(&fixture->x86, vcpu->nested_size, 127, "nested: 127 bytes, the smallest is 128");
    assert_breaks(&fixture->x86, vcpu->nested[2], 2u, "nested: format 2 is neither VMX nor SVM");
    assert_breaks(&fixture->x86, vcpu->nested[5], 1u, "nested: it claims 384 bytes and has 256");
}

static void there_are_two_pics_or_none(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_x86_machine *x86 = fixture->x86.x86_64;

    x86->pics = allocate(2 * sizeof(*x86->pics));
    x86->pics_count = 2;
    assert_good(&fixture->x86);
    assert_breaks(&fixture->x86, x86->pics_count, 1, "x86_64.pics: 1 of them, there are two or");
}

static void registers_have_the_size_that_their_id_says(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_machine *arm64 = &fixture->arm64;
    struct stasis_arm64_vcpu *vcpu = &arm64->arm64->vcpus[0];

    assert_breaks(arm64, vcpu->regs[0].id, 0x5030000000100040, "regs[0].id: 0x5030000000100040 is");
    assert_breaks(arm64, vcpu->regs[0].id, 0x6030000100100040, "regs[0].id: 0x6030000100100040 is");
    assert_breaks(arm64, vcpu->regs[2].id, 0x6050000000100054, "regs[2].id: 0x6050000000100054 is");
    assert_breaks(arm64, vcpu->regs[1].value[4], 1, "regs[1].value: more than the 4 bytes of");
    assert_breaks(arm64, vcpu->wide_regs[0].value_size, 255, "wide_regs[0]: 0x6080000000150000 wi");
    assert_breaks(arm64, vcpu->wide_regs[0].id, 0x6040000000150000, "wide_regs[0]: 0x60400000001");
    assert_breaks(arm64, vcpu->wide_regs[0].id, 0x5080000000150000, "wide_regs[0]: 0x50800000001");
}

static void a_gic_is_one_that_kvm_makes(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_machine *arm64 = &fixture->arm64;
    struct stasis_arm64_gic *gic = arm64->arm64->gic;

    assert_breaks(arm64, gic->version, 2u, "arm64.gic.version: 2, only 3 is known");
    assert_breaks(arm64, gic->irq_count, 32u, "arm64.gic.irq_count: 32 is not a multiple of 32");
    assert_breaks(arm64, gic->irq_count, 97u, "arm64.gic.irq_count: 97 is not a multiple of 32");
    assert_breaks(arm64, gic->irq_count, 1056u, "arm64.gic.irq_count: 1056 is out of range");
    assert_breaks(arm64, gic->its_gpa, 0x1000u,
                  "arm64.gic: a frame is not at a multiple of 0x10000");
    gic->its_regs = allocate(sizeof(*gic->its_regs));
    gic->its_regs_count = 1;
    assert_invalid(arm64, "arm64.gic.its_regs: 1 registers of an ITS that is not there");
    gic->its_gpa = 0x8080000;
    assert_good(arm64);
}

static void devices_have_names_of_their_own(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_device *devices = fixture->x86.devices;

    assert_breaks(&fixture->x86, devices[1].id[0], 'a', "devices[1].id: there is another disk 'a'");
    assert_breaks(&fixture->x86, devices[1].id[0], '\0', "devices[1].id: it is empty");
    assert_breaks(&fixture->x86, devices[1].kind[0], '\0', "devices[1].kind: it is empty");
    assert_breaks(&fixture->x86, devices[1].kind[1], '\n',
                  "devices[1].kind: it is empty or has con");
}

static void cbor_state_is_one_map(void **state)
{
    struct fixture *fixture = *state;
    struct stasis_device *device = &fixture->x86.devices[0];
    static const struct {
        const char *bytes;
        size_t size;
        bool good;
    } cases[] = {
        { "\xa0", 1, true },      { "\xa1\x61x\x01", 4, true },
        { "\xbf\xff", 2, false }, /* of indefinite length: stasis_device_decode() takes none */
        { "\xa0\x00", 2, false }, { "\xa1\x61x", 3, false },
        { "\x80", 1, false },     { "", 0, false },
        { "\x1c", 1, false },
    };

    device->encoding = STASIS_DEVICE_CBOR;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        free(device->state);
        device->state = duplicate(cases[i].bytes, cases[i].size);
        device->state_size = cases[i].size;
        if (cases[i].good)
            assert_good(&fixture->x86);
        else
            assert_invalid(&fixture->x86, "devices[0].state: it is not one CBOR map");
    }
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        test(good_machines_are_good),
        test(the_architecture_names_the_part_that_is_there),
        test(there_is_at_least_one_vcpu),
        test(vcpu_ids_are_distinct),
        test(values_are_in_the_ranges_of_their_tables),
        test(sizes_are_within_the_limits_of_their_tables),
        test(an_xsave_area_is_whole_and_of_standard_format),
        test(a_lapic_page_has_1024_bytes_on_all_vcpus),
        test(xcr0_is_one_that_the_processor_takes),
        test(control_registers_agree_on_the_mode),
        test(at_most_one_interrupt_is_being_injected),
        test(events_name_exceptions_and_vectors),
        test(mp_states_are_those_of_the_architecture),
        test(nested_state_is_as_long_as_it_says),
        test(there_are_two_pics_or_none),
        test(registers_have_the_size_that_their_id_says),
        test(a_gic_is_one_that_kvm_makes),
        test(devices_have_names_of_their_own),
        test(cbor_state_is_one_map),
    };
    return unit_run(tests);
}
