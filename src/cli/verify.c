/*
 * verify.c - `stasis verify`: check every digest of a snapshot and name what is damaged.
 *
 * A verdict is an answer and goes to stdout, also when it is bad; scripts go by the exit status.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include <stasis/snapshot.h>

#include "cli/command.h"
#include "cli/progress.h"

#define DAMAGE_SHOWN 16

/* The stable answer of a sound snapshot; that of another one is the failure of every command. */
static int print_good_json(const char *format)
{
    json_object *answer = json_object_new_object();

    json_object_object_add(answer, "ok", json_object_new_boolean(true));
    json_object_object_add(answer, "format", cli_json_text(format));
    json_object_object_add(answer, "error", NULL);
    json_object_object_add(answer, "message", NULL);
    return cli_print_json(answer);
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
    (void)cli_flush_answer(); /* before the reason on stderr; the exit status is 1 anyway */
}

static int print_good(const char *path, const struct stasis_verify_report *report)
{
    cli_print_safely(stdout, path);
    printf(": good, %" PRIu64 " blocks and %" PRIu64 " bytes checked\n", report->blocks_checked,
           report->bytes_checked);
    return cli_flush_answer();
}

static int verify_snapshot(const struct command *command, const struct stasis_snapshot *snapshot,
                           const char *path, bool json)
{
    const char *format = stasis_snapshot_info(snapshot)->format;
    struct stasis_damage damage[DAMAGE_SHOWN];
    struct stasis_verify_report report = { 0 };
    struct stasis_error err = { 0 };
    struct progress progress;
    const struct stasis_verify_options checked = { .progress = progress_step,
                                                   .progress_arg = &progress,
                                                   .damage_max = DAMAGE_SHOWN,
                                                   .damage = damage };
    int r;

    progress_begin(&progress, "verifying");
    r = stasis_verify(snapshot, &checked, &report, &err);
    progress_end(&progress);
    if (r < 0 && !json)
        print_damage(&checked, &report);
    if (r < 0)
        return cli_failed(command, json, format, &err);
    return json ? print_good_json(format) : print_good(path, &report);
}

static int verify_file(const struct command *command, const char *path, bool json)
{
    struct stasis_snapshot *snapshot;
    struct stasis_error err = { 0 };
    int result;

    if (stasis_open(path, &snapshot, &err) < 0)
        return cli_failed_on_file(command, json, path, &err);
    result = verify_snapshot(command, snapshot, path, json);
    stasis_close(snapshot);
    return result;
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
    .detail =
        "Reads the whole file, guest memory included, and checks each block against its digest\n"
        "and all digests against the root. Names each bad block with its section and place.\n",
    CLI_OPTIONS(options),
    .run = verify_run,
};
