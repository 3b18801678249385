/*
 * compare.c - `stasis compare`: what differs between two snapshots.
 *
 * Differences are an answer, not a failure: the exit status is 0 whether there are any or not, as the
 * answer says it. Field values come from the files and are anybody's.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include <stasis/snapshot.h>

#include "cli/command.h"
#include "cli/progress.h"

#define LISTED_MAX 1000 /* differences of each kind that are listed; all are counted */

struct answer {
    bool json;
    json_object *fields; /* lists, with --json */
    json_object *memory;
    uint64_t field_count, run_count;
    uint64_t run_gpa, run_size; /* the run that may go on */
};

static void show_field(const struct stasis_difference *difference)
{
    cli_print_safely(stdout, difference->path);
    printf(": ");
    cli_print_safely(stdout, difference->a);
    printf(" -> ");
    cli_print_safely(stdout, difference->b);
    putchar('\n');
}

static int on_field(void *arg, const struct stasis_difference *difference)
{
    struct answer *answer = arg;

    if (answer->field_count++ >= LISTED_MAX)
        return 0;
    if (answer->json) {
        json_object *field = json_object_new_object();

        json_object_object_add(field, "path", cli_json_text(difference->path));
        json_object_object_add(field, "a", cli_json_text(difference->a));
        json_object_object_add(field, "b", cli_json_text(difference->b));
        json_object_array_add(answer->fields, field);
    } else {
        show_field(difference);
    }
    return 0;
}

static void tell_run(struct answer *answer)
{
    if (answer->run_size == 0 || answer->run_count++ >= LISTED_MAX)
        return;
    if (answer->json) {
        json_object *run = json_object_new_object();

        json_object_object_add(run, "gpa", json_object_new_uint64(answer->run_gpa));
        json_object_object_add(run, "bytes", json_object_new_uint64(answer->run_size));
        json_object_array_add(answer->memory, run);
    } else {
        printf("memory 0x%" PRIx64 " + 0x%" PRIx64 "\n", answer->run_gpa, answer->run_size);
    }
}

/* Runs that adjoin are one to a reader. */
static int on_memory(void *arg, const struct stasis_memory_difference *difference)
{
    struct answer *answer = arg;

    if (answer->run_size > 0 && difference->gpa == answer->run_gpa + answer->run_size) {
        answer->run_size += difference->size;
        return 0;
    }
    tell_run(answer);
    answer->run_gpa = difference->gpa;
    answer->run_size = difference->size;
    return 0;
}

static void add_number(json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

static int print_json(struct answer *answer, const struct stasis_compare_report *report)
{
    json_object *object = json_object_new_object();

    json_object_object_add(object, "ok", json_object_new_boolean(true));
    json_object_object_add(object, "format", cli_json_text("native"));
    json_object_object_add(
        object, "equal",
        json_object_new_boolean(report->fields_different == 0 && report->pages_different == 0));
    add_number(object, "fields_different", report->fields_different);
    add_number(object, "pages_compared", report->pages_compared);
    add_number(object, "pages_different", report->pages_different);
    add_number(object, "bytes_different", report->bytes_different);
    json_object_object_add(object, "fields", answer->fields);
    json_object_object_add(object, "memory", answer->memory);
    return cli_print_json(object);
}

static int print_text(const struct answer *answer, const struct stasis_compare_report *report)
{
    if (answer->field_count > LISTED_MAX)
        printf("... and %" PRIu64 " more fields\n", answer->field_count - LISTED_MAX);
    if (answer->run_count > LISTED_MAX)
        printf("... and %" PRIu64 " more ranges of memory\n", answer->run_count - LISTED_MAX);
    printf("%" PRIu64 " fields differ, and %" PRIu64 " bytes in %" PRIu64 " of %" PRIu64 " pages\n",
           report->fields_different, report->bytes_different, report->pages_different,
           report->pages_compared);
    return cli_flush_answer();
}

static int compare_opened(const struct command *command, const struct stasis_snapshot *a,
                          const struct stasis_snapshot *b, unsigned flags, bool json)
{
    struct answer answer = { .json = json };
    struct stasis_compare_report report;
    struct stasis_error err = { 0 };
    struct progress progress;
    const struct stasis_compare_options options = { .flags = flags,
                                                    .on_field = on_field,
                                                    .on_memory = on_memory,
                                                    .arg = &answer,
                                                    .progress = progress_step,
                                                    .progress_arg = &progress };
    int r;

    if (json) {
        answer.fields = json_object_new_array();
        answer.memory = json_object_new_array();
    }
    progress_begin(&progress, "comparing");
    r = stasis_compare(a, b, &options, &report, &err);
    progress_end(&progress);
    if (r < 0) {
        json_object_put(answer.fields);
        json_object_put(answer.memory);
        (void)cli_flush_answer(); /* what was found so far, before the reason */
        return cli_failed(command, json, "native", &err);
    }
    tell_run(&answer);
    return json ? print_json(&answer, &report) : print_text(&answer, &report);
}

static int compare_files(const struct command *command, char **paths, unsigned flags, bool json)
{
    struct stasis_snapshot *a, *b;
    struct stasis_error err = { 0 };
    int result;

    if (stasis_open(paths[0], &a, &err) < 0)
        return cli_failed_on_file(command, json, paths[0], &err);
    if (stasis_open(paths[1], &b, &err) < 0) {
        stasis_close(a);
        return cli_failed_on_file(command, json, paths[1], &err);
    }
    result = compare_opened(command, a, b, flags, json);
    stasis_close(b);
    stasis_close(a);
    return result;
}

static int compare_run(const struct command *command, int argc, char **argv)
{
    unsigned flags = 0;
    bool json = false;
    int key;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        switch (key) {
        case 'v': flags = STASIS_COMPARE_VOLATILE; break;
        case 'j': json = true; break;
        default: return cli_option_exit(key);
        }
    }
    if (argc - optind != 2)
        return cli_misused(command, "expected two FILEs, got %d", argc - optind);
    return compare_files(command, argv + optind, flags, json);
}

static const struct cli_option options[] = {
    { .name = "volatile", .key = 'v', .help = "also compare fields that tick on their own" },
    { .name = "json", .key = 'j', .help = "answer as one JSON object" },
};

const struct command cmd_compare = {
    .name = "compare",
    .synopsis = "[--volatile] [--json] FILE FILE",
    .summary = "tell what differs between two snapshots",
    .detail =
        "Compares machine state field by field and memory page by page. Memory that both have from the\n"
        "same file of a chain is not read. Lists the first 1000 of each kind and counts all.\n",
    CLI_OPTIONS(options),
    .run = compare_run,
};
