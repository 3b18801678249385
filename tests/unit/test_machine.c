/* test_machine.c - the machine's tables, its devices, and its end.
 *
 * Goal:   no member of a state struct is missing from its table; devices are added, found, decoded
 *         and refused as promised; a machine made of all of it survives a round trip.
 * Method: the tables are laid over their structs byte by byte; a device struct of the test's own. */
#include "test_fields_sample.h"

/* Alignment of what a field puts into its struct. */
static size_t field_alignment(const struct stasis_field *field);

static size_t table_alignment(const struct stasis_table *table)
{
    size_t largest = 1;

    for (size_t i = 0; i < table->field_count; i++) {
        const size_t alignment = field_alignment(&table->fields[i]);

        largest = alignment > largest ? alignment : largest;
    }
    return largest;
}

static size_t field_alignment(const struct stasis_field *field)
{
    if (field_is_scalar(field))
        return field_width(field);
    if (field->kind == STASIS_FIELD_STRUCT)
        return table_alignment(field->table);
    if (field->kind == STASIS_FIELD_BYTES || field->kind == STASIS_FIELD_TEXT)
        return 1;
    return sizeof(void *);
}

/* Bytes of the member, its length member included (which is declared right after its pointer). */
static size_t field_size(const struct stasis_field *field)
{
    switch (field->kind) {
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL: return field->count * field_width(field);
    case STASIS_FIELD_BYTES:
    case STASIS_FIELD_TEXT: return field->count;
    case STASIS_FIELD_STRUCT: return field->count * field->table->struct_size;
    case STASIS_FIELD_BLOB:
    case STASIS_FIELD_LIST: return sizeof(void *) + sizeof(size_t);
    case STASIS_FIELD_PART: return sizeof(void *);
    }
    return 0;
}

static size_t round_up(size_t size, size_t alignment)
{
    return (size + alignment - 1) / alignment * alignment;
}

/* Each field begins where the one before it ends, but for what alignment demands. */
static void assert_table_covers(const struct stasis_table *table)
{
    size_t end = 0;

    for (size_t i = 0; i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];

        if (field->offset != round_up(end, field_alignment(field)))
            fail_msg("%s: a member before %s is in no table", table->name, field->name);
        if (field->kind == STASIS_FIELD_BLOB || field->kind == STASIS_FIELD_LIST)
            assert_int_equal(field->length_offset, field->offset + sizeof(void *));
        if (field->table)
            assert_table_covers(field->table);
        end = field->offset + field_size(field);
    }
    if (table->struct_size != round_up(end, table_alignment(table)))
        fail_msg("%s: a member at its end is in no table", table->name);
}

static void tables_have_every_member_of_their_structs(void **state)
{
    (void)state;
    assert_table_covers(&stasis_machine_table);
}

static void assert_names_are_distinct(const struct stasis_table *table)
{
    assert_true(table->field_count <= 512);
    for (size_t i = 0; i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];

        assert_int_equal(strspn(field->name, "abcdefghijklmnopqrstuvwxyz0123456789_"),
                         strlen(field->name));
        assert_true(field->count > 0);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(table->fields[j].name, field->name);
        if (field->table)
            assert_names_are_distinct(field->table);
    }
}

static void field_names_are_distinct_and_snake_case(void **state)
{
    (void)state;
    assert_names_are_distinct(&stasis_machine_table);
}

static void the_public_tables_are_those_of_the_machine(void **state)
{
    (void)state;
    assert_ptr_equal(stasis_x86_machine_table.fields[0].table, &stasis_x86_vcpu_table);
    assert_ptr_equal(stasis_arm64_machine_table.fields[0].table, &stasis_arm64_vcpu_table);
    assert_int_equal(stasis_machine_table.struct_size, sizeof(struct stasis_machine));
    assert_int_equal(stasis_x86_vcpu_table.struct_size, sizeof(struct stasis_x86_vcpu));
    assert_int_equal(stasis_arm64_vcpu_table.struct_size, sizeof(struct stasis_arm64_vcpu));
}

static void architectures_have_names(void **state)
{
    (void)state;
    assert_string_equal(stasis_arch_name(STASIS_ARCH_NONE), "none");
    assert_string_equal(stasis_arch_name(STASIS_ARCH_X86_64), "x86_64");
    assert_string_equal(stasis_arch_name(STASIS_ARCH_ARM64), "arm64");
    assert_string_equal(stasis_arch_name((enum stasis_arch)99), "none");
}

static void vcpus_are_those_of_the_architectures_part(void **state)
{
    struct stasis_x86_machine x86 = { .vcpus_count = 3 };
    struct stasis_arm64_machine arm64 = { .vcpus_count = 5 };
    struct stasis_machine machine = { .x86_64 = &x86, .arm64 = &arm64 };

    (void)state;
    assert_int_equal(stasis_machine_vcpu_count(&machine), 0);
    machine.arch = STASIS_ARCH_X86_64;
    assert_int_equal(stasis_machine_vcpu_count(&machine), 3);
    machine.arch = STASIS_ARCH_ARM64;
    assert_int_equal(stasis_machine_vcpu_count(&machine), 5);
    machine.arm64 = NULL;
    assert_int_equal(stasis_machine_vcpu_count(&machine), 0);
}

static void release_takes_any_machine(void **state)
{
    static const struct stasis_machine zero;
    struct random_source random = { 8 };
    struct stasis_machine machine = { 0 };

    (void)state;
    stasis_machine_release(NULL);
    stasis_machine_release(&machine);
    random_struct(&random, &stasis_machine_table, &machine);
    stasis_machine_release(&machine);
    assert_memory_equal(&machine, &zero, sizeof(zero));
}

static int add(struct stasis_machine *machine, const char *kind, const char *id,
               const struct sample *sample, struct stasis_error *err)
{
    return stasis_machine_add_device(machine, kind, id, 7, &sample_table, sample, err);
}

static void a_device_is_found_and_decoded_as_it_was_added(void **state)
{
    struct stasis_machine machine = { 0 };
    struct sample sample = make_sample();
    const struct stasis_device *device;
    struct stasis_error err = { 0 };
    struct sample decoded;
    uint64_t differences = 99;

    (void)state;
    assert_stasis_ok(add(&machine, "disk", "root", &sample, &err), &err);
    device = stasis_machine_find_device(&machine, "disk", "root");
    assert_non_null(device);
    assert_string_equal(device->kind, "disk");
    assert_string_equal(device->id, "root");
    assert_int_equal(device->version, 7);
    assert_int_equal(device->encoding, STASIS_DEVICE_CBOR);

    assert_stasis_ok(stasis_device_decode(device, &sample_table, &decoded, &err), &err);
    assert_stasis_ok(
        fields_compare(&sample_table, &sample, &decoded, "", 0, NULL, NULL, &differences, &err),
        &err);
    assert_int_equal(differences, 0);
    release_sample(&decoded);
    release_sample(&sample);
    stasis_machine_release(&machine);
}

static void devices_are_found_by_kind_and_id(void **state)
{
    static const struct stasis_table nothing = { "nothing", 1, NULL, 0 };
    struct stasis_machine machine = { 0 };
    const char *const names[][2] = { { "disk", "a" }, { "disk", "b" }, { "serial", "a" } };

    (void)state;
    assert_null(stasis_machine_find_device(&machine, "disk", NULL));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(
            stasis_machine_add_device(&machine, names[i][0], names[i][1], 0, &nothing, "", NULL),
            0);
    for (size_t i = 0; i < 3; i++)
        assert_ptr_equal(stasis_machine_find_device(&machine, names[i][0], names[i][1]),
                         &machine.devices[i]);
    assert_ptr_equal(stasis_machine_find_device(&machine, "disk", NULL), &machine.devices[0]);
    assert_ptr_equal(stasis_machine_find_device(&machine, "serial", NULL), &machine.devices[2]);
    assert_null(stasis_machine_find_device(&machine, "disk", "c"));
    assert_null(stasis_machine_find_device(&machine, "serial", "b"));
    assert_null(stasis_machine_find_device(&machine, "dis", NULL));
    stasis_machine_release(&machine);
}

static void opaque_state_is_copied(void **state)
{
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };
    char bytes[] = "only I know";
    struct sample decoded;

    (void)state;
    assert_stasis_ok(stasis_machine_add_opaque_device(&machine, "gpu", "0", 3, bytes, 11, &err),
                     &err);
    assert_stasis_ok(stasis_machine_add_opaque_device(&machine, "gpu", "1", 3, NULL, 0, &err),
                     &err);
    memset(bytes, 'x', 11);
    assert_int_equal(machine.devices[0].encoding, STASIS_DEVICE_OPAQUE);
    assert_int_equal(machine.devices[0].version, 3);
    assert_int_equal(machine.devices[0].state_size, 11);
    assert_memory_equal(machine.devices[0].state, "only I know", 11);
    assert_null(machine.devices[1].state);

    assert_stasis_fails(stasis_device_decode(&machine.devices[0], &sample_table, &decoded, &err),
                        &err, STASIS_ERR_INVALID_ARGUMENT);
    stasis_machine_release(&machine);
}

static void a_device_of_the_same_kind_and_id_is_refused(void **state)
{
    struct stasis_machine machine = { 0 };
    struct sample sample = make_sample();
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(add(&machine, "disk", "a", &sample, &err), &err);
    assert_int_equal(add(&machine, "disk", "a", &sample, &err), -EEXIST);
    assert_int_equal(err.code, STASIS_ERR_EXISTS);
    assert_int_equal(stasis_machine_add_opaque_device(&machine, "disk", "a", 0, "", 0, &err),
                     -EEXIST);
    assert_int_equal(machine.devices_count, 1);
    release_sample(&sample);
    stasis_machine_release(&machine);
}

static void bad_kinds_and_ids_are_refused(void **state)
{
    char kind_of_47[48], kind_of_48[49], id_of_79[80], id_of_80[81];
    struct sample sample = make_sample();
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };
    const struct {
        const char *kind, *id, *story;
    } cases[] = {
        { "", "a", "kind is empty" },
        { NULL, "a", "kind is empty" },
        { "disk", "", "id is empty" },
        { "disk", NULL, "id is empty" },
        { kind_of_48, "a", "kind is longer than 47 bytes" },
        { "disk", id_of_80, "id is longer than 79 bytes" },
        { "di\xffsk", "a", "kind is not UTF-8" },
        { "disk", "a\nb", "id is not UTF-8 without control" },
        { "disk", "\x7f", "id is not UTF-8 without control" },
    };

    (void)state;
    memset(kind_of_47, 'k', 47);
    memset(kind_of_48, 'k', 48);
    memset(id_of_79, 'i', 79);
    memset(id_of_80, 'i', 80);
    kind_of_47[47] = kind_of_48[48] = id_of_79[79] = id_of_80[80] = '\0';
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(add(&machine, cases[i].kind, cases[i].id, &sample, &err), -EINVAL);
        assert_int_equal(err.code, STASIS_ERR_INVALID_ARGUMENT);
        assert_non_null(strstr(err.text, cases[i].story));
    }
    assert_int_equal(machine.devices_count, 0);
    assert_stasis_ok(add(&machine, kind_of_47, id_of_79, &sample, &err), &err);
    release_sample(&sample);
    stasis_machine_release(&machine);
}

static void a_state_out_of_range_is_the_callers_mistake(void **state)
{
    struct stasis_machine machine = { 0 };
    struct sample sample = { .digit = 11 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_int_equal(add(&machine, "disk", "a", &sample, &err), -EINVAL);
    assert_int_equal(err.code, STASIS_ERR_INVALID_ARGUMENT);
    assert_string_equal(err.text, "state of device disk 'a': digit: 11 is out of range, at most 10 "
                                  "is valid");
    assert_int_equal(add(&machine, "disk", "a", &sample, NULL), -EINVAL);
    assert_int_equal(machine.devices_count, 0);
}

static void too_large_a_state_is_refused(void **state)
{
    static const struct stasis_field fields[] = {
        STASIS_F_BLOB(struct sample, blob, SIZE_MAX, .max = 0),
    };
    static const struct stasis_table table = STASIS_TABLE(struct sample, fields);
    const size_t limit = STASIS_DEVICE_STATE_MAX;
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };
    struct sample sample = { .blob = allocate(limit + 1) };

    (void)state;
    assert_int_equal(
        stasis_machine_add_opaque_device(&machine, "gpu", "0", 0, sample.blob, limit + 1, &err),
        -E2BIG);
    assert_int_equal(err.code, STASIS_ERR_LIMIT);
    sample.blob_size = limit; /* with its key and heads more than the limit */
    assert_int_equal(stasis_machine_add_device(&machine, "gpu", "0", 0, &table, &sample, &err),
                     -E2BIG);
    assert_int_equal(err.code, STASIS_ERR_LIMIT);
    assert_int_equal(machine.devices_count, 0);
    assert_stasis_ok(
        stasis_machine_add_opaque_device(&machine, "gpu", "0", 0, sample.blob, limit, &err), &err);
    free(sample.blob);
    stasis_machine_release(&machine);
}

static void too_many_devices_are_refused(void **state)
{
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };
    char id[16];

    (void)state;
    for (size_t i = 0; i < STASIS_DEVICE_MAX; i++) {
        snprintf(id, sizeof(id), "%zu", i);
        assert_stasis_ok(stasis_machine_add_opaque_device(&machine, "disk", id, 0, "", 0, &err),
                         &err);
    }
    assert_int_equal(stasis_machine_add_opaque_device(&machine, "disk", "x", 0, "", 0, &err),
                     -E2BIG);
    assert_int_equal(err.code, STASIS_ERR_LIMIT);
    stasis_machine_release(&machine);
}

static void a_damaged_state_names_the_device_and_the_field(void **state)
{
    struct stasis_machine machine = { 0 };
    struct sample sample = make_sample();
    struct stasis_error err = { 0 };
    struct sample decoded;

    (void)state;
    assert_stasis_ok(add(&machine, "disk", "a", &sample, &err), &err);
    machine.devices[0].state[4] = 0xf6; /* the value of "u8" */
    assert_int_equal(stasis_device_decode(&machine.devices[0], &sample_table, &decoded, &err),
                     -EBADMSG);
    assert_int_equal(err.code, STASIS_ERR_CORRUPT);
    assert_string_equal(err.text, "state of device disk 'a': u8: null where an integer belongs");
    machine.devices[0].state[4] = 0x20;
    assert_int_equal(stasis_device_decode(&machine.devices[0], &sample_table, &decoded, &err),
                     -EBADMSG);
    assert_int_equal(err.code, STASIS_ERR_INVALID_MACHINE);
    release_sample(&sample);
    stasis_machine_release(&machine);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_have_every_member_of_their_structs),
        cmocka_unit_test(field_names_are_distinct_and_snake_case),
        cmocka_unit_test(the_public_tables_are_those_of_the_machine),
        cmocka_unit_test(architectures_have_names),
        cmocka_unit_test(vcpus_are_those_of_the_architectures_part),
        cmocka_unit_test(release_takes_any_machine),
        cmocka_unit_test(a_device_is_found_and_decoded_as_it_was_added),
        cmocka_unit_test(devices_are_found_by_kind_and_id),
        cmocka_unit_test(opaque_state_is_copied),
        cmocka_unit_test(a_device_of_the_same_kind_and_id_is_refused),
        cmocka_unit_test(bad_kinds_and_ids_are_refused),
        cmocka_unit_test(a_state_out_of_range_is_the_callers_mistake),
        cmocka_unit_test(too_large_a_state_is_refused),
        cmocka_unit_test(too_many_devices_are_refused),
        cmocka_unit_test(a_damaged_state_names_the_device_and_the_field),
    };
    return unit_run(tests);
}
