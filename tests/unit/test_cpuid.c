/* test_cpuid.c - what a vCPU says of itself.
 *
 * Goal:   every leaf that tells of topology agrees with the vCPU's APIC id and the number of vCPUs,
 *         as a guest's own decoding of it would find; everything else stays as KVM gave it.
 * Method: tables made by hand that lie about topology, as a host's own leaves do; decoded here by
 * the
 *         rules of the manuals (Intel SDM 3A 9.9, AMD APM 3 appendix E). With KVM, its own table.
 *         */
#include "unit.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "microvm/cpuid.h"

#define ENTRY_MAX 16

struct fixed_table {
    struct kvm_cpuid2 header;
    struct kvm_cpuid_entry2 entries[ENTRY_MAX];
};

static void add(struct fixed_table *table, uint32_t function, uint32_t index, uint32_t eax,
                uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    table->entries[table->header.nent++] = (struct kvm_cpuid_entry2){
        .function = function, .index = index, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx
    };
}

/* APIC id 0x55 and odd counts everywhere. */
static void make_intel(struct fixed_table *table)
{
    memset(table, 0, sizeof(*table));
    add(table, 0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
    add(table, 1, 0, 0x000806f8, 0x55112233, 0x00200000, 0x1fffffff);
    add(table, 4, 0, 0xfc004121, 0x02c0003f, 0x3f, 0);       /* L1 */
    add(table, 4, 3, 0xfc1fc163, 0x04c0003f, 0xffff, 0x4);   /* L3 */
    add(table, 4, 4, 0, 0, 0, 0);                            /* end */
    add(table, 7, 0, 2, 0xf1bf07ab, 0x1a415f4e, 0xffdd4432); /* not topology */
    add(table, 0xb, 0, 1, 2, 0x100, 0x55);
    add(table, 0x80000008, 0, 0x3934, 0, 0x1234, 0);
    add(table, 0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
}

static void make_amd(struct fixed_table *table)
{
    memset(table, 0, sizeof(*table));
    add(table, 0, 0, 0xd, 0x68747541, 0x444d4163, 0x69746e65);
    add(table, 1, 0, 0x00a20f10, 0x55112233, 0, 0);
    add(table, 0x80000001, 0, 0, 0, 0x2, 0);
    add(table, 0x80000008, 0, 0x3030, 0, 0x7fff, 0);
    add(table, 0x8000001d, 0, 0x3fffc121, 0, 0, 0);
    add(table, 0x8000001d, 3, 0x3fffc163, 0, 0, 0);
    add(table, 0x8000001e, 0, 0x55, 0x1ff, 0x3ff, 0x9);
}

static struct kvm_cpuid2 *cpuid_of(const void *table, uint32_t vcpu_count, uint32_t index)
{
    const struct cpuid_config config = { .vcpu_count = vcpu_count,
                                         .vcpu_index = index,
                                         .has_tsc_deadline = true };
    struct stasis_error err = { 0 };
    struct kvm_cpuid2 *cpuid = NULL;

    assert_stasis_ok(cpuid_for_vcpu(table, &config, &cpuid, &err), &err);
    return cpuid;
}

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *cpuid, uint32_t function,
                                           uint32_t index)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
            return &cpuid->entries[i];
    }
    return NULL;
}

static void basic_leaf_has_this_vcpus_apic_id(void **state)
{
    struct fixed_table table;

    (void)state;
    make_intel(&table);
    for (uint32_t i = 0; i < 3; i++) {
        struct kvm_cpuid2 *cpuid = cpuid_of(&table, 3, i);
        const struct kvm_cpuid_entry2 *basic = leaf(cpuid, 1, 0);

        assert_int_equal(basic->ebx >> 24, i);
        assert_int_equal(basic->ebx >> 16 & 0xff, 4); /* ids, a power of two */
        assert_int_equal(basic->ebx & 0xffff, 0x2233);
        assert_true(basic->edx & 1u << 28);
        free(cpuid);
    }
}

static void single_vcpu_is_not_hyperthreaded(void **state)
{
    struct fixed_table table;
    struct kvm_cpuid2 *cpuid;

    (void)state;
    make_intel(&table);
    cpuid = cpuid_of(&table, 1, 0);
    assert_false(leaf(cpuid, 1, 0)->edx & 1u << 28);
    assert_int_equal(leaf(cpuid, 1, 0)->ebx >> 16 & 0xff, 1);
    free(cpuid);
}

static void guest_knows_that_it_is_one(void **state)
{
    struct fixed_table table;
    struct kvm_cpuid2 *cpuid;

    (void)state;
    make_intel(&table);
    cpuid = cpuid_of(&table, 1, 0);
    assert_true(leaf(cpuid, 1, 0)->ecx & 1u << 31);
    assert_int_equal(leaf(cpuid, 0x40000000, 0)->ebx, 0x4b4d564b);
    free(cpuid);
}

static void deadline_timer_is_shown_when_kvm_has_it(void **state)
{
    struct cpuid_config config = { .vcpu_count = 1, .has_tsc_deadline = false };
    struct stasis_error err = { 0 };
    struct fixed_table table;
    struct kvm_cpuid2 *cpuid;

    (void)state;
    make_intel(&table);
    table.entries[1].ecx |= 1u << 24; /* whatever the host says */
    assert_stasis_ok(cpuid_for_vcpu(&table.header, &config, &cpuid, &err), &err);
    assert_false(leaf(cpuid, 1, 0)->ecx & 1u << 24);
    free(cpuid);
    cpuid = cpuid_of(&table, 1, 0);
    assert_true(leaf(cpuid, 1, 0)->ecx & 1u << 24);
    free(cpuid);
}

/* As a guest does it: shift the x2APIC id right by what each level says. */
static void extended_topology_is_one_socket_of_single_threads(void **state)
{
    static const uint32_t functions[] = { 0xb, 0x1f };
    struct fixed_table table;

    (void)state;
    make_intel(&table);
    for (uint32_t i = 0; i < 5; i++) {
        struct kvm_cpuid2 *cpuid = cpuid_of(&table, 5, i);

        for (size_t f = 0; f < 2; f++) {
            const struct kvm_cpuid_entry2 *threads = leaf(cpuid, functions[f], 0);
            const struct kvm_cpuid_entry2 *cores = leaf(cpuid, functions[f], 1);
            const struct kvm_cpuid_entry2 *end = leaf(cpuid, functions[f], 2);

            assert_int_equal(threads->edx, i);
            assert_int_equal(cores->edx, i);
            assert_int_equal(threads->ecx, 0x100);
            assert_int_equal(threads->ebx, 1);
            assert_int_equal(threads->eax, 0); /* no bits for threads */
            assert_int_equal(cores->ecx, 0x201);
            assert_int_equal(cores->ebx, 5);
            assert_int_equal(i >> cores->eax, 0); /* all in socket 0 */
            assert_int_equal(cores->eax, 3);
            assert_int_equal(end->ecx >> 8, 0);
            assert_int_equal(end->ebx, 0);
            assert_int_equal(cores->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        }
        free(cpuid);
    }
}

static void extended_topology_stays_out_of_older_cpus(void **state)
{
    struct fixed_table table;
    struct kvm_cpuid2 *cpuid;

    (void)state;
    make_amd(&table); /* basic leaves end at 0xd */
    cpuid = cpuid_of(&table, 2, 0);
    assert_non_null(leaf(cpuid, 0xb, 0));
    assert_null(leaf(cpuid, 0x1f, 0));
    free(cpuid);

    table.entries[0].eax = 0xa;
    cpuid = cpuid_of(&table, 2, 0);
    assert_null(leaf(cpuid, 0xb, 0));
    free(cpuid);
}

static void last_level_cache_is_shared_the_others_are_not(void **state)
{
    struct fixed_table table;
    struct kvm_cpuid2 *cpuid;

    (void)state;
    make_intel(&table);
    cpuid = cpuid_of(&table, 6, 1);
    assert_int_equal(leaf(cpuid, 4, 0)->eax >> 14 & 0xfff, 0);
    assert_int_equal(leaf(cpuid, 4, 3)->eax >> 14 & 0xfff, 7);
    assert_int_equal(leaf(cpuid, 4, 0)->eax >> 26, 7);
    assert_int_equal(leaf(cpuid, 4, 0)->eax & 0x3fff, 0x121); /* type and level untouched */
    assert_int_equal(leaf(cpuid, 4, 4)->eax, 0);
    free(cpuid);

    make_amd(&table);
    cpuid = cpuid_of(&table, 6, 1);
    assert_int_equal(leaf(cpuid, 0x8000001d, 0)->eax >> 14 & 0xfff, 0);
    assert_int_equal(leaf(cpuid, 0x8000001d, 3)->eax >> 14 & 0xfff, 7);
    free(cpuid);
}

static void amd_leaves_tell_of_the_same_cores(void **state)
{
    struct fixed_table table;
    struct kvm_cpuid2 *cpuid;

    (void)state;
    make_amd(&table);
    cpuid = cpuid_of(&table, 6, 5);
    assert_int_equal(leaf(cpuid, 0x80000008, 0)->ecx & 0xff, 5);
    assert_int_equal(leaf(cpuid, 0x80000008, 0)->ecx >> 12 & 0xf, 3);
    assert_int_equal(leaf(cpuid, 0x8000001e, 0)->eax, 5);
    assert_int_equal(leaf(cpuid, 0x8000001e, 0)->ebx, 5); /* core 5, one thread */
    assert_int_equal(leaf(cpuid, 0x8000001e, 0)->ecx, 0); /* node 0 of one */
    assert_true(leaf(cpuid, 0x80000001, 0)->ecx & 2);
    free(cpuid);

    cpuid = cpuid_of(&table, 1, 0);
    assert_int_equal(leaf(cpuid, 0x80000008, 0)->ecx & 0xf0ff, 0);
    assert_false(leaf(cpuid, 0x80000001, 0)->ecx & 2);
    free(cpuid);
}

static void other_leaves_stay_as_they_were(void **state)
{
    struct fixed_table table;
    struct kvm_cpuid2 *cpuid;

    (void)state;
    make_intel(&table);
    cpuid = cpuid_of(&table, 8, 3);
    assert_memory_equal(leaf(cpuid, 7, 0), &table.entries[5], sizeof(table.entries[5]));
    assert_memory_equal(leaf(cpuid, 0x80000008, 0), &table.entries[7], sizeof(table.entries[7]));
    assert_memory_equal(leaf(cpuid, 0x40000000, 0), &table.entries[8], sizeof(table.entries[8]));
    assert_memory_equal(leaf(cpuid, 0, 0), &table.entries[0], sizeof(table.entries[0]));
    free(cpuid);
}

static void kvm_takes_what_is_made_of_its_own_table(void **state)
{
    const int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    struct kvm_cpuid2 *supported =
        calloc(1, sizeof(*supported) + 512 * sizeof(struct kvm_cpuid_entry2));
    struct kvm_cpuid2 *cpuid;
    int vm_fd, vcpu_fd;

    (void)state;
    if (kvm_fd < 0) {
        free(supported);
        unit_skip("no /dev/kvm");
    }
    assert_non_null(supported);
    supported->nent = 512;
    assert_int_equal(ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, supported), 0);
    vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0UL);
    assert_true(vm_fd >= 0);
    assert_int_equal(ioctl(vm_fd, KVM_CREATE_IRQCHIP, 0UL), 0);
    vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 1UL);
    assert_true(vcpu_fd >= 0);

    cpuid = cpuid_of(supported, 2, 1);
    assert_int_equal(ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid), 0);
    assert_int_equal(leaf(cpuid, 1, 0)->ebx >> 24, 1);
    free(cpuid);
    free(supported);
    close(vcpu_fd);
    close(vm_fd);
    close(kvm_fd);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(basic_leaf_has_this_vcpus_apic_id),
        cmocka_unit_test(single_vcpu_is_not_hyperthreaded),
        cmocka_unit_test(guest_knows_that_it_is_one),
        cmocka_unit_test(deadline_timer_is_shown_when_kvm_has_it),
        cmocka_unit_test(extended_topology_is_one_socket_of_single_threads),
        cmocka_unit_test(extended_topology_stays_out_of_older_cpus),
        cmocka_unit_test(last_level_cache_is_shared_the_others_are_not),
        cmocka_unit_test(amd_leaves_tell_of_the_same_cores),
        cmocka_unit_test(other_leaves_stay_as_they_were),
        cmocka_unit_test(kvm_takes_what_is_made_of_its_own_table),
    };
    return unit_run(tests);
}
