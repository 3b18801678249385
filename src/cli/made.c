/*
 * made.c - what subcommands say of a snapshot that they made.
 */
#include <inttypes.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/made.h"

static void add_number(json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

static int print_json(const char *path, const char *id, const struct stasis_save_report *report)
{
    json_object *answer = json_object_new_object();

    json_object_object_add(answer, "ok", json_object_new_boolean(true));
    json_object_object_add(answer, "format", cli_json_text("native"));
    json_object_object_add(answer, "path", cli_json_text(path));
    json_object_object_add(answer, "id", cli_json_text(id));
    add_number(answer, "memory_bytes", report->memory_size);
    add_number(answer, "data_bytes", report->data_size);
    add_number(answer, "zero_bytes", report->zero_size);
    add_number(answer, "file_bytes", report->file_size);
    add_number(answer, "file_allocated_bytes", report->file_allocated);
    add_number(answer, "total_us", report->total_us);
    return cli_print_json(answer);
}

int cli_print_made(const char *path, const struct stasis_save_report *report, bool json)
{
    char id[65], data[32], allocated[32];

    cli_format_id(report->id, id);
    if (json)
        return print_json(path, id, report);
    cli_format_bytes(report->data_size, data);
    cli_format_bytes(report->file_allocated, allocated);
    cli_print_safely(stdout, path);
    printf(": id %s, %s of data, %s on disk\n", id, data, allocated);
    return cli_flush_answer();
}
