/*
 * verify.c - `stasis verify`: check every digest of a snapshot and name what is damaged.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include <stasis/snapshot.h>

#include "cli/command.h"
#include "cli/progress.h"

#define DAMAGE_SHOWN 16

static void add_text_or_null(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, value ? json_object_new_string(value) : NULL);
}

/* The stable answer: {"ok", "format", "error", "message"}, null where there is nothing to say. */
static int print_verdict_json(const char *format, const struct stasis_error *err)
{
    json_object *answer = json_object_new_object();
    const bool ok = err->code == STASIS_OK;
    int result;

    json_object_object_add(answer, "ok", json_object_new_boolean(ok));
    add_text_or_null(answer, "format", format);
    add_text_or_null(answer, "error", ok ? NULL : stasis_code_name(err->code));
    add_text_or_null(answer, "message", ok ? NULL : err->text);
    result = cli_print_json(answer);
    return ok ? result : CLI_FAILED;
}

static void print_damage(const struct stasis_verify_options *checked,
                         const struct stasis_verify_report *report)
{
    const uint64_t shown =
        report->blocks_bad < checked->damage_max ? report->blocks_bad : checked->damage_max;

    for (uint64_t i = 0; i < shown; i++) {
        const struct stasis_damage *damage = &checked->damage[i];

        printf("bad: %s block %" PRIu64 ", file offset 0x%" PRIx64 ", %" PRIu64 " bytes",
               damage->section, damage->block, damage->file_off, damage->size);
        if (damage->has_gpa)
            printf(", guest 0x%" PRIx64, damage->gpa);
        putchar('\n');
    }
    if (report->blocks_bad > shown)
        printf("bad: %" PRIu64 " more\n", report->blocks_bad - shown);
}

static int verify_file(const struct command *command, const char *path, bool json)
{
    struct stasis_damage damage[DAMAGE_SHOWN];
    struct stasis_verify_report report = { 0 };
    struct stasis_error err = { 0 };
    struct stasis_snapshot *snapshot;
    struct progress progress;
    const struct stasis_verify_options checked = { .progress = progress_step,
                                                   .progress_arg = &progress,
                                                   .damage_max = DAMAGE_SHOWN,
                                                   .damage = damage };
    const char *format;

    if (stasis_open(path, &snapshot, &err) < 0)
        return json ? print_verdict_json(NULL, &err) : cli_failed(command, false, &err);
    format = stasis_snapshot_info(snapshot)->format; /* static storage, outlives the snapshot */
    progress_begin(&progress, "verifying");
    (void)stasis_verify(snapshot, &checked, &report, &err);
    progress_end(&progress);
    stasis_close(snapshot);
    if (json)
        return print_verdict_json(format, &err);
    if (err.code != STASIS_OK) {
        print_damage(&checked, &report);
        cli_flush_answer();
        return cli_failed(command, false, &err);
    }
    printf("%s: good, %" PRIu64 " blocks and %" PRIu64 " bytes checked\n", path,
           report.blocks_checked, report.bytes_checked);
    return cli_flush_answer();
}

static int verify_run(const struct command *command, int argc, char **argv)
{
    bool json = false;
    int key;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        switch (key) {
        case 'j': json = true; break;
        default: return cli_option_exit(key);
        }
    }
    if (argc - optind != 1)
        return cli_misused(command, "expected one FILE, got %d", argc - optind);
    return verify_file(command, argv[optind], json);
}

static const struct cli_option options[] = {
    { .name = "json", .key = 'j', .help = "answer {\"ok\", \"format\", \"error\", \"message\"}" },
};

const struct command cmd_verify = {
    .name = "verify",
    .synopsis = "[--json] FILE",
    .summary = "check every digest of a snapshot",
    .detail = "Reads the whole file, guest memory included, and checks each block against its digest and all\n"
              "digests against the root. Names each bad block with its section and place.\n",
    CLI_OPTIONS(options),
    .run = verify_run,
};
