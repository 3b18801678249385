/* Goal:   doc/format/native.md lists every key of machine state with its form, so that a second reader
 *         can be written from the page alone; a field added to a table cannot be missing from it.
 * Method: the list is made from the field tables and compared with the page. With STASIS_UPDATE_DOC set
 *         in the environment, it is written into the page instead. */
#include "unit.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stasis/machine.h>

#include "base/io.h"

#define TABLE_MAX 64
#define BEGIN_MARK "<!-- tables: begin."
#define END_MARK "<!-- tables: end -->"

/* The tables in the order in which they are first met, outermost first. */
struct table_list {
    const struct stasis_table *tables[TABLE_MAX];
    size_t count;
};

static void collect(struct table_list *list, const struct stasis_table *table)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->tables[i] == table)
            return;
    }
    assert_in_range(list->count, 0, TABLE_MAX - 1);
    list->tables[list->count++] = table;
    for (size_t i = 0; i < table->field_count; i++) {
        if (table->fields[i].table)
            collect(list, table->fields[i].table);
    }
}

/* "struct stasis_x86_vcpu" is "x86_vcpu" on the page. */
static const char *short_name(const struct stasis_table *table)
{
    const char *name = table->name;

    if (strncmp(name, "struct ", 7) == 0)
        name += 7;
    return strncmp(name, "stasis_", 7) == 0 ? name + 7 : name;
}

static const char *scalar_name(enum stasis_field_kind kind)
{
    switch ((int)kind) {
    case STASIS_FIELD_U8: return "uint8";
    case STASIS_FIELD_U16: return "uint16";
    case STASIS_FIELD_U32: return "uint32";
    case STASIS_FIELD_U64: return "uint64";
    case STASIS_FIELD_S64: return "int64";
    case STASIS_FIELD_BOOL: return "bool";
    default: return NULL;
    }
}

static void print_form(FILE *page, const struct stasis_field *field)
{
    const bool counted = scalar_name(field->kind) || field->kind == STASIS_FIELD_STRUCT;

    if (counted && field->count > 1)
        fprintf(page, "%zu x ", field->count);
    switch (field->kind) {
    case STASIS_FIELD_U8:
    case STASIS_FIELD_U16:
    case STASIS_FIELD_U32:
    case STASIS_FIELD_U64:
    case STASIS_FIELD_S64:
    case STASIS_FIELD_BOOL:
        fputs(scalar_name(field->kind), page);
        if (field->max != 0)
            fprintf(page, ", 0 to %" PRIu64, field->max);
        break;
    case STASIS_FIELD_BYTES: fprintf(page, "bytes, %zu", field->count); break;
    case STASIS_FIELD_TEXT: fprintf(page, "text, at most %zu bytes", field->count - 1); break;
    case STASIS_FIELD_STRUCT: fprintf(page, "map %s", short_name(field->table)); break;
    case STASIS_FIELD_BLOB: fprintf(page, "bytes, at most %zu", field->count); break;
    case STASIS_FIELD_LIST:
        fprintf(page, "array of %s, at most %zu", short_name(field->table), field->count);
        break;
    case STASIS_FIELD_PART: fprintf(page, "map %s, or absent", short_name(field->table)); break;
    }
    if (field->flags & STASIS_FIELD_OPTIONAL)
        fputs(", optional", page);
}

static void print_table(FILE *page, const struct stasis_table *table)
{
    fprintf(page, "\n#### %s\n\n| key | form | unit |\n|---|---|---|\n", short_name(table));
    for (size_t i = 0; i < table->field_count; i++) {
        const struct stasis_field *field = &table->fields[i];

        fprintf(page, "| `%s` | ", field->name);
        print_form(page, field);
        fprintf(page, " | %s |\n", field->unit ? field->unit : "");
    }
}

/* What must stand between the marks; malloc'ed. */
static char *make_list(void)
{
    struct table_list list = { 0 };
    char *text = NULL;
    size_t size;
    FILE *page = open_memstream(&text, &size);

    assert_non_null(page);
    collect(&list, &stasis_machine_table);
    for (size_t i = 0; i < list.count; i++)
        print_table(page, list.tables[i]);
    fputc('\n', page);
    fclose(page);
    return text;
}

static void update_page(const char *path, const char *before, size_t before_size, const char *list,
                        const char *after)
{
    FILE *page = fopen(path, "w");

    assert_non_null(page);
    fwrite(before, 1, before_size, page);
    fputs(list, page);
    fputs(after, page);
    assert_int_equal(fclose(page), 0);
}

static void the_page_lists_every_key_of_machine_state(void **state)
{
    const char *source = getenv("STASIS_SOURCE");
    char path[1024];
    uint8_t *page = NULL;
    size_t size;
    char *begin, *end, *list;
    struct stasis_error err = { 0 };

    (void)state;
    if (!source)
        unit_skip("STASIS_SOURCE does not say where the sources are");
    snprintf(path, sizeof(path), "%s/doc/format/native.md", source);
    assert_stasis_ok(io_read_file(path, 1 << 20, &page, &size, &err), &err);
    begin = strstr((char *)page, BEGIN_MARK);
    end = strstr((char *)page, END_MARK);
    assert_true(begin && end && begin < end);
    begin = strchr(begin, '\n') + 1;
    list = make_list();

    if (getenv("STASIS_UPDATE_DOC"))
        update_page(path, (char *)page, (size_t)(begin - (char *)page), list, end);
    else if (strncmp(begin, list, strlen(list)) != 0 || begin + strlen(list) != end)
        fail_msg("%s is not what the field tables say; run this test once with "
                 "STASIS_UPDATE_DOC=1 in the environment and look at the difference",
                 path);
    free(list);
    free(page);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_lists_every_key_of_machine_state),
    };

    return unit_run(tests);
}
