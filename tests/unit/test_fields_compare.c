/* test_fields_compare.c - comparing two structs by their field table.
 *
 * Goal:   every single change is reported once, under the path where it is, with both values; what
 *         is equal, or only stands elsewhere in a keyed list, is not reported.
 * Method: every value of random structs changed, one at a time, against paths that the test makes
 *         itself; hand-made structs for keys, sizes, texts and stopping. */
#include "test_fields_sample.h"

enum { REPORTS_MAX = 16 };

struct report {
    char path[600], a[200], b[200];
};

struct reports {
    struct report list[REPORTS_MAX];
    size_t count;
    size_t stop_after; /* 0: never */
};

static int collect(void *arg, const struct stasis_difference *difference)
{
    struct reports *reports = arg;
    struct report *report = &reports->list[reports->count];

    assert_true(reports->count < REPORTS_MAX);
    snprintf(report->path, sizeof(report->path), "%s", difference->path);
    snprintf(report->a, sizeof(report->a), "%s", difference->a);
    snprintf(report->b, sizeof(report->b), "%s", difference->b);
    reports->count++;
    return reports->count == reports->stop_after;
}

static struct reports compare(const struct stasis_table *table, const void *a, const void *b,
                              unsigned flags)
{
    struct reports reports = { .count = 0 };
    struct stasis_error err = { 0 };
    uint64_t count = 99;

    assert_stasis_ok(fields_compare(table, a, b, "", flags, collect, &reports, &count, &err), &err);
    assert_int_equal(count, reports.count);
    return reports;
}

static void assert_report(const struct reports *reports, size_t index, const char *path,
                          const char *a, const char *b)
{
    assert_true(index < reports->count);
    assert_string_equal(reports->list[index].path, path);
    assert_string_equal(reports->list[index].a, a);
    assert_string_equal(reports->list[index].b, b);
}

/* A pair of equal structs; the walk goes through one of them and changes it. */
struct mutation {
    const struct stasis_table *table;
    const void *original;
    void *changed;
    size_t sites;
};

static struct reports compare_mutation(const struct mutation *mutation)
{
    return compare(mutation->table, mutation->original, mutation->changed, STASIS_COMPARE_VOLATILE);
}

/* A key's change makes one element go and another come; both are reported without values. */
static void expect_moved_key(const struct reports *reports, const struct value_site *site)
{
    assert_int_equal(reports->count, 2);
    assert_string_equal(reports->list[0].a, "present");
    assert_string_equal(reports->list[0].b, "absent");
    assert_string_equal(reports->list[1].a, "absent");
    assert_string_equal(reports->list[1].b, "present");
    /* The element's path before the change is the beginning of the value's. */
    assert_memory_equal(site->path, reports->list[0].path, strlen(reports->list[0].path));
}

static void expect_one(const struct reports *reports, const struct value_site *site)
{
    if (site->field->flags & STASIS_FIELD_KEY) {
        expect_moved_key(reports, site);
        return;
    }
    assert_int_equal(reports->count, 1);
    assert_string_equal(reports->list[0].path, site->path);
    assert_string_not_equal(reports->list[0].a, reports->list[0].b);
}

static void flip_byte(const struct mutation *mutation, const struct value_site *site, uint8_t *byte,
                      uint8_t mask)
{
    struct reports reports;

    *byte ^= mask;
    reports = compare_mutation(mutation);
    *byte ^= mask;
    expect_one(&reports, site);
}

static void change_list(const struct mutation *mutation, const struct value_site *site)
{
    size_t *length = field_length(site->object, site->field);
    struct reports reports;

    if (*length == 0)
        return;
    (*length)--;
    reports = compare_mutation(mutation);
    (*length)++;
    assert_int_equal(reports.count, 2);
    assert_string_equal(reports.list[0].path, site->path);
    assert_non_null(strstr(reports.list[0].a, " elements"));
    assert_memory_equal(reports.list[1].path, site->path, strlen(site->path));
    assert_string_equal(reports.list[1].a, "present");
    assert_string_equal(reports.list[1].b, "absent");
}

static void change_part(const struct mutation *mutation, const struct value_site *site)
{
    void **pointer = field_pointer(site->object, site->field);
    void *before = *pointer;
    struct reports reports;

    *pointer = before ? NULL : allocate(site->field->table->struct_size);
    reports = compare_mutation(mutation);
    if (!before)
        free(*pointer);
    *pointer = before;
    assert_int_equal(reports.count, 1);
    assert_report(&reports, 0, site->path, before ? "present" : "absent",
                  before ? "absent" : "present");
}

static bool change_one(void *arg, const struct value_site *site)
{
    struct mutation *mutation = arg;
    const struct stasis_field *field = site->field;
    uint8_t *place = field_place(site->object, field);

    mutation->sites++;
    if (field_is_scalar(field)) {
        flip_byte(mutation, site, place + site->index * field_width(field), 1);
    } else if (field->kind == STASIS_FIELD_BYTES) {
        flip_byte(mutation, site, place + field->count - 1, 0x80);
    } else if (field->kind == STASIS_FIELD_TEXT) {
        flip_byte(mutation, site, place, 0x01);
    } else if (field->kind == STASIS_FIELD_BLOB) {
        if (*field_length(site->object, field) > 0)
            flip_byte(mutation, site, *field_pointer(site->object, field), 0xff);
    } else if (field->kind == STASIS_FIELD_LIST) {
        change_list(mutation, site);
    } else {
        change_part(mutation, site);
    }
    return true;
}

static void change_every_value(const struct stasis_table *table, uint64_t seed, size_t *ret_sites)
{
    const struct path_buffer root = { "" };
    struct random_source random = { seed };
    struct mutation mutation = { .table = table };
    void *object = allocate(table->struct_size);
    void *copy = allocate(table->struct_size);
    struct byte_buffer out;

    random_struct(&random, table, object);
    byte_buffer_init(&out, 1 << 24);
    assert_int_equal(fields_encode(table, object, &out, NULL), 0);
    assert_int_equal(fields_decode(table, out.data, out.size, copy, NULL), 0);
    byte_buffer_release(&out);

    mutation.original = object;
    mutation.changed = copy;
    visit_struct(table, copy, &root, change_one, &mutation);
    assert_int_equal(compare_mutation(&mutation).count, 0);
    *ret_sites += mutation.sites;

    stasis_fields_release(table, copy);
    stasis_fields_release(table, object);
    free(copy);
    free(object);
}

static void each_change_of_a_sample_is_found_where_it_is(void **state)
{
    size_t sites = 0;

    (void)state;
    for (uint64_t seed = 100; seed < 120; seed++)
        change_every_value(&sample_table, seed, &sites);
    assert_true(sites > 400);
}

static void each_change_of_a_machine_is_found_where_it_is(void **state)
{
    size_t sites = 0;

    (void)state;
    for (uint64_t seed = 200; seed < 215; seed++)
        change_every_value(&stasis_machine_table, seed, &sites);
    assert_true(sites > 2000);
}

static void values_are_shown_as_their_table_says(void **state)
{
    struct sample a = { .u16 = 500, .u32 = 500, .s64 = -5, .flag = true, .text = "left" };
    struct sample b = { .u16 = 501, .u32 = 501, .s64 = 5, .flag = false, .text = "right" };
    struct reports reports;

    (void)state;
    a.triple[1] = 7;
    a.bytes[2] = 0xab;
    reports = compare(&sample_table, &a, &b, 0);
    assert_int_equal(reports.count, 7);
    assert_report(&reports, 0, "u16", "0x1f4", "0x1f5");
    assert_report(&reports, 1, "u32", "500", "501");
    assert_report(&reports, 2, "s64", "-5", "5");
    assert_report(&reports, 3, "flag", "true", "false");
    assert_report(&reports, 4, "triple[1]", "7", "0");
    assert_report(&reports, 5, "bytes", "4 bytes, from byte 2: ab00", "4 bytes, from byte 2: 0000");
    assert_report(&reports, 6, "text", "\"left\"", "\"right\"");
}

static void texts_from_outside_are_shown_without_control_characters(void **state)
{
    struct sample a = { .text = "\033[2J\n" };
    struct sample b = { .text = "\xc3\xa9\xc2\x9b\xff" };
    struct reports reports;

    (void)state;
    reports = compare(&sample_table, &a, &b, 0);
    assert_int_equal(reports.count, 1);
    assert_report(&reports, 0, "text", "\"\\x1b[2J\\x0a\"", "\"\xc3\xa9\\xc2\\x9b\\xff\"");
}

static void bytes_after_the_end_of_a_text_do_not_count(void **state)
{
    const struct sample a = { .text = "ab\0cd" };
    const struct sample b = { .text = "ab\0xy" };

    (void)state;
    assert_int_equal(compare(&sample_table, &a, &b, 0).count, 0);
}

static void blobs_tell_the_first_byte_that_differs(void **state)
{
    uint8_t left[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 };
    uint8_t right[] = { 0, 1, 2, 9, 4, 5, 6, 7, 8, 9, 10, 11 };
    struct sample a = { .blob = left, .blob_size = 12 };
    struct sample b = { .blob = right, .blob_size = 12 };
    struct reports reports = compare(&sample_table, &a, &b, 0);

    (void)state;
    assert_report(&reports, 0, "blob", "12 bytes, from byte 3: 030405060708090a...",
                  "12 bytes, from byte 3: 090405060708090a...");
    right[3] = 3;
    b.blob_size = 10; /* the shorter is the longer's beginning */
    reports = compare(&sample_table, &a, &b, 0);
    assert_report(&reports, 0, "blob", "12 bytes, from byte 10: 0a0b", "10 bytes");
    b.blob_size = 0;
    reports = compare(&sample_table, &a, &b, 0);
    assert_report(&reports, 0, "blob", "12 bytes, from byte 0: 0001020304050607...", "0 bytes");
    a.blob_size = 0;
    a.blob = NULL;
    assert_int_equal(compare(&sample_table, &a, &b, 0).count, 0);
}

static void lists_without_keys_are_compared_by_position(void **state)
{
    struct point left[] = { { 1, 1 }, { 2, 2 }, { 3, 3 } };
    struct point right[] = { { 1, 1 }, { 2, 9 } };
    const struct sample a = { .points = left, .points_count = 3 };
    const struct sample b = { .points = right, .points_count = 2 };
    struct reports reports = compare(&sample_table, &a, &b, 0);

    (void)state;
    assert_int_equal(reports.count, 3);
    assert_report(&reports, 0, "points", "3 elements", "2 elements");
    assert_report(&reports, 1, "points[1].y", "2", "9");
    assert_report(&reports, 2, "points[2]", "present", "absent");
    reports = compare(&sample_table, &b, &a, 0);
    assert_report(&reports, 2, "points[2]", "absent", "present");
}

static struct reports compare_msrs(struct stasis_x86_msr *a, size_t a_count,
                                   struct stasis_x86_msr *b, size_t b_count)
{
    const struct stasis_x86_vcpu left = { .msrs = a, .msrs_count = a_count };
    const struct stasis_x86_vcpu right = { .msrs = b, .msrs_count = b_count };

    return compare(&stasis_x86_vcpu_table, &left, &right, 0);
}

static void lists_with_keys_are_compared_wherever_elements_stand(void **state)
{
    struct stasis_x86_msr a[] = { { 0xc0000080, 0x500 }, { 0x3b, 1 }, { 0x174, 2 } };
    struct stasis_x86_msr b[] = { { 0x3b, 1 }, { 0xda0, 3 }, { 0x174, 2 }, { 0xc0000080, 0xd00 } };
    struct reports reports = compare_msrs(a, 3, b, 4);

    (void)state;
    assert_int_equal(reports.count, 3);
    assert_report(&reports, 0, "msrs", "3 elements", "4 elements");
    assert_report(&reports, 1, "msrs[0xc0000080].data", "0x500", "0xd00");
    assert_report(&reports, 2, "msrs[0xda0]", "absent", "present");
}

static void elements_of_equal_keys_are_paired_in_order(void **state)
{
    struct stasis_x86_msr a[] = { { 1, 10 }, { 2, 0 }, { 1, 11 }, { 1, 12 } };
    struct stasis_x86_msr b[] = { { 2, 0 }, { 1, 10 }, { 1, 99 } };
    struct reports reports = compare_msrs(a, 4, b, 3);

    (void)state;
    assert_int_equal(reports.count, 3);
    assert_report(&reports, 1, "msrs[0x1].data", "0xb", "0x63");
    assert_report(&reports, 2, "msrs[0x1]", "present", "absent");
}

static void keys_of_several_fields_are_joined(void **state)
{
    struct stasis_x86_cpuid a[] = { { .function = 4, .index = 1, .eax = 1 } };
    struct stasis_x86_cpuid b[] = { { .function = 4, .index = 1, .eax = 2 } };
    const struct stasis_x86_vcpu left = { .cpuid = a, .cpuid_count = 1 };
    const struct stasis_x86_vcpu right = { .cpuid = b, .cpuid_count = 1 };
    const struct reports reports = compare(&stasis_x86_vcpu_table, &left, &right, 0);

    (void)state;
    assert_int_equal(reports.count, 1);
    assert_report(&reports, 0, "cpuid[0x4/0x1].eax", "0x1", "0x2");
}

/* Sorting, not searching: 4096 registers in opposite orders are done at once. */
static void long_lists_in_opposite_orders_are_equal(void **state)
{
    static struct stasis_x86_msr a[STASIS_X86_MSR_MAX], b[STASIS_X86_MSR_MAX];

    (void)state;
    for (uint32_t i = 0; i < STASIS_X86_MSR_MAX; i++) {
        a[i] = (struct stasis_x86_msr){ i + 0x1000, i };
        b[STASIS_X86_MSR_MAX - 1 - i] = a[i];
    }
    assert_int_equal(compare_msrs(a, STASIS_X86_MSR_MAX, b, STASIS_X86_MSR_MAX).count, 0);
    b[17].data++;
    assert_int_equal(compare_msrs(a, STASIS_X86_MSR_MAX, b, STASIS_X86_MSR_MAX).count, 1);
}

static void volatile_fields_are_compared_only_when_asked_for(void **state)
{
    const struct stasis_x86_machine a = { .clock = { .clock = 1, .flags = 1 } };
    const struct stasis_x86_machine b = { .clock = { .clock = 2, .flags = 2 } };
    struct reports reports = compare(&stasis_x86_machine_table, &a, &b, 0);

    (void)state;
    assert_int_equal(reports.count, 0);
    reports = compare(&stasis_x86_machine_table, &a, &b, STASIS_COMPARE_VOLATILE);
    assert_int_equal(reports.count, 2);
    assert_report(&reports, 0, "clock.clock", "1", "2");
    assert_report(&reports, 1, "clock.flags", "0x1", "0x2");
}

static void the_prefix_begins_every_path(void **state)
{
    const struct point a = { 1, 2 }, b = { 3, 4 };
    struct reports reports = { .count = 0 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(fields_compare(&point_table, &a, &b, "here", 0, collect, &reports, NULL, &err),
                     &err);
    assert_int_equal(reports.count, 2);
    assert_string_equal(reports.list[0].path, "here.x");
    assert_string_equal(reports.list[1].path, "here.y");
}

static void the_callback_stops_the_comparison(void **state)
{
    struct point points[] = { { 1, 2 } };
    struct sample a = { .u8 = 1, .triple = { 1, 1, 1 }, .points = points, .points_count = 1 };
    struct sample b = { .u8 = 2 };

    (void)state;
    for (size_t stop = 1; stop <= 6; stop++) {
        struct reports reports = { .stop_after = stop };
        struct stasis_error err = { 0 };
        uint64_t count = 99;

        assert_stasis_ok(
            fields_compare(&sample_table, &a, &b, "", 0, collect, &reports, &count, &err), &err);
        assert_int_equal(reports.count, stop);
        assert_int_equal(count, stop);
    }
}

static void without_a_callback_differences_are_counted(void **state)
{
    const struct point a = { 1, 2 }, b = { 3, 4 };
    struct stasis_error err = { 0 };
    uint64_t count = 99;

    (void)state;
    assert_stasis_ok(fields_compare(&point_table, &a, &b, "", 0, NULL, NULL, &count, &err), &err);
    assert_int_equal(count, 2);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_change_of_a_sample_is_found_where_it_is),
        cmocka_unit_test(each_change_of_a_machine_is_found_where_it_is),
        cmocka_unit_test(values_are_shown_as_their_table_says),
        cmocka_unit_test(texts_from_outside_are_shown_without_control_characters),
        cmocka_unit_test(bytes_after_the_end_of_a_text_do_not_count),
        cmocka_unit_test(blobs_tell_the_first_byte_that_differs),
        cmocka_unit_test(lists_without_keys_are_compared_by_position),
        cmocka_unit_test(lists_with_keys_are_compared_wherever_elements_stand),
        cmocka_unit_test(elements_of_equal_keys_are_paired_in_order),
        cmocka_unit_test(keys_of_several_fields_are_joined),
        cmocka_unit_test(long_lists_in_opposite_orders_are_equal),
        cmocka_unit_test(volatile_fields_are_compared_only_when_asked_for),
        cmocka_unit_test(the_prefix_begins_every_path),
        cmocka_unit_test(the_callback_stops_the_comparison),
        cmocka_unit_test(without_a_callback_differences_are_counted),
    };
    return unit_run(tests);
}
