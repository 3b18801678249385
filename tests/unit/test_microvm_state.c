/* test_microvm_state.c - the microVM's configuration in a snapshot.
 *
 * Goal:   what is saved comes back the same; a configuration that contradicts the machine or the
 * memory that it
 *         came with, or itself, is refused with a named error before anything is built from it.
 * Method: configurations saved into machines made by hand, then read back beside other facts. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "microvm/microvm_private.h"

struct fixture {
    struct microvm_config config, loaded;
    struct stasis_machine machine;
    struct stasis_region regions[2];
    struct stasis_snapshot_info info;
    struct stasis_error err;
};

static void set_memory(struct fixture *fixture, uint64_t size)
{
    fixture->config.machine.memory_size = size;
    fixture->info.region_count = vm_layout_memory(size, fixture->regions);
    fixture->info.regions = fixture->regions;
}

static void add_drive(struct fixture *fixture, const char *id, uint32_t slot)
{
    struct vm_drive *drive = &fixture->config.drives[fixture->config.drives_count++];

    strcpy(drive->id, id);
    strcpy(drive->path, "/disks/one.img");
    drive->slot = slot;
}

static void set_vcpus(struct fixture *fixture, size_t count)
{
    struct stasis_x86_machine *x86 = calloc(1, sizeof(*x86));

    assert_non_null(x86);
    x86->vcpus = calloc(count, sizeof(*x86->vcpus));
    assert_non_null(x86->vcpus);
    x86->vcpus_count = count;
    for (size_t i = 0; i < count; i++)
        x86->vcpus[i].id = (uint32_t)i;
    fixture->machine.arch = STASIS_ARCH_X86_64;
    fixture->machine.x86_64 = x86;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));

    if (!fixture)
        return -1;
    *state = fixture;
    set_vcpus(fixture, 2);
    set_memory(fixture, UINT64_C(4) << 30);
    fixture->config.machine.vcpu_count = 2;
    strcpy(fixture->config.kernel_path, "/boot/vmlinuz");
    strcpy(fixture->config.cmdline, "quiet");
    fixture->config.has_cmdline = true;
    fixture->config.has_entropy = true;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    stasis_machine_release(&fixture->machine);
    free(fixture);
    return 0;
}

static void save(struct fixture *fixture)
{
    assert_stasis_ok(microvm_config_save(&fixture->config, &fixture->machine, &fixture->err),
                     &fixture->err);
}

static int load(struct fixture *fixture)
{
    return microvm_config_load(&fixture->machine, &fixture->info, &fixture->loaded, &fixture->err);
}

static void configuration_comes_back_as_it_was(void **state)
{
    struct fixture *fixture = *state;

    add_drive(fixture, "root", 0);
    add_drive(fixture, "data_2", 4);
    fixture->config.drives[1].read_only = true;
    save(fixture);
    assert_stasis_ok(load(fixture), &fixture->err);
    assert_memory_equal(&fixture->loaded, &fixture->config, sizeof(fixture->config));
}

static void no_drives_and_no_paths_come_back_too(void **state)
{
    struct fixture *fixture = *state;

    memset(fixture->config.kernel_path, 0, sizeof(fixture->config.kernel_path));
    fixture->config.has_entropy = false;
    save(fixture);
    assert_stasis_ok(load(fixture), &fixture->err);
    assert_memory_equal(&fixture->loaded, &fixture->config, sizeof(fixture->config));
}

static void snapshot_of_another_program_is_refused(void **state)
{
    struct fixture *fixture = *state;

    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_UNSUPPORTED);
    assert_non_null(strstr(fixture->err.text, "not made by the microVM"));
}

static void snapshot_of_another_architecture_is_refused(void **state)
{
    struct fixture *fixture = *state;

    save(fixture);
    fixture->machine.arch = STASIS_ARCH_ARM64;
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_UNSUPPORTED);
    assert_non_null(strstr(fixture->err.text, "arm64"));
    fixture->machine.arch = STASIS_ARCH_X86_64;
}

static void newer_configuration_version_is_refused(void **state)
{
    struct fixture *fixture = *state;

    save(fixture);
    fixture->machine.devices[0].version = 2;
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_VERSION);
}

static void garbage_is_refused(void **state)
{
    struct fixture *fixture = *state;

    save(fixture);
    for (size_t i = 0; i < 40 && i < fixture->machine.devices[0].state_size; i++) {
        fixture->machine.devices[0].state[i] ^= 0xff;
        assert_true(load(fixture) < 0);
        fixture->machine.devices[0].state[i] ^= 0xff;
    }
    assert_stasis_ok(load(fixture), &fixture->err);
    fixture->machine.devices[0].state_size /= 2;
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_CORRUPT);
}

static void vcpus_that_the_machine_has_not_are_refused(void **state)
{
    static const uint32_t counts[] = { 0, 1, 3, 32 };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct stasis_machine machine;

        fixture->config.machine.vcpu_count = counts[i];
        save(fixture);
        assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MACHINE);
        machine = fixture->machine;
        fixture->machine.x86_64 = NULL; /* keep it over the release */
        stasis_machine_release(&fixture->machine);
        fixture->machine.arch = STASIS_ARCH_X86_64;
        fixture->machine.x86_64 = machine.x86_64;
    }
}

static void vcpu_ids_of_another_kind_are_refused(void **state)
{
    struct fixture *fixture = *state;

    save(fixture);
    fixture->machine.x86_64->vcpus[1].id = 2;
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MACHINE);
}

static void memory_of_another_size_is_refused(void **state)
{
    struct fixture *fixture = *state;

    save(fixture);
    fixture->regions[1].size -= 4096;
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MEMORY);
    fixture->regions[1].size += 4096;
    fixture->regions[1].gpa += 4096;
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MEMORY);
    fixture->info.region_count = 1;
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MEMORY);
    assert_non_null(strstr(fixture->err.text, "make 2 regions"));
}

static void impossible_memory_sizes_are_refused(void **state)
{
    struct fixture *fixture = *state;

    fixture->config.machine.memory_size = 4096;
    save(fixture);
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MACHINE);
}

static void odd_memory_sizes_are_refused(void **state)
{
    struct fixture *fixture = *state;

    fixture->config.machine.memory_size = (UINT64_C(4) << 30) + 1;
    save(fixture);
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MACHINE);
}

static void drives_that_share_a_slot_are_refused(void **state)
{
    struct fixture *fixture = *state;

    add_drive(fixture, "a", 3);
    add_drive(fixture, "b", 3);
    save(fixture);
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MACHINE);
}

static void drives_that_share_an_id_are_refused(void **state)
{
    struct fixture *fixture = *state;

    add_drive(fixture, "a", 1);
    add_drive(fixture, "a", 2);
    save(fixture);
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MACHINE);
}

static void drive_ids_with_odd_characters_are_refused(void **state)
{
    struct fixture *fixture = *state;

    add_drive(fixture, "../a", 1);
    save(fixture);
    assert_stasis_fails(load(fixture), &fixture->err, STASIS_ERR_INVALID_MACHINE);
}

/* The last slot is the entropy device's, and there are no more. */
static void slots_beyond_those_for_drives_cannot_be_saved(void **state)
{
    struct fixture *fixture = *state;

    add_drive(fixture, "a", VM_ENTROPY_SLOT);
    assert_true(microvm_config_save(&fixture->config, &fixture->machine, &fixture->err) < 0);
    fixture->config.drives[0].slot = UINT32_MAX;
    assert_true(microvm_config_save(&fixture->config, &fixture->machine, &fixture->err) < 0);
}

static void memory_over_three_gib_continues_at_four(void **state)
{
    struct stasis_region regions[2];

    (void)state;
    assert_int_equal(vm_layout_memory(UINT64_C(3) << 30, regions), 1);
    assert_int_equal(regions[0].size, UINT64_C(3) << 30);
    assert_int_equal(vm_layout_memory((UINT64_C(3) << 30) + 4096, regions), 2);
    assert_int_equal(regions[0].size, UINT64_C(3) << 30);
    assert_int_equal(regions[1].gpa, UINT64_C(4) << 30);
    assert_int_equal(regions[1].size, 4096);
    assert_int_equal(vm_layout_memory(MICROVM_MEMORY_MAX, regions), 2);
    assert_int_equal(regions[0].size + regions[1].size, MICROVM_MEMORY_MAX);
}

#define state_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        state_test(configuration_comes_back_as_it_was),
        state_test(no_drives_and_no_paths_come_back_too),
        state_test(snapshot_of_another_program_is_refused),
        state_test(snapshot_of_another_architecture_is_refused),
        state_test(newer_configuration_version_is_refused),
        state_test(garbage_is_refused),
        state_test(vcpus_that_the_machine_has_not_are_refused),
        state_test(vcpu_ids_of_another_kind_are_refused),
        state_test(memory_of_another_size_is_refused),
        state_test(impossible_memory_sizes_are_refused),
        state_test(odd_memory_sizes_are_refused),
        state_test(drives_that_share_a_slot_are_refused),
        state_test(drives_that_share_an_id_are_refused),
        state_test(drive_ids_with_odd_characters_are_refused),
        state_test(slots_beyond_those_for_drives_cannot_be_saved),
        cmocka_unit_test(memory_over_three_gib_continues_at_four),
    };
    return unit_run(tests);
}
