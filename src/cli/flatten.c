/*
 * flatten.c - `stasis flatten`: a chain of diffs as one snapshot that stands alone.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include <stasis/snapshot.h>

#include "cli/command.h"
#include "cli/made.h"
#include "cli/progress.h"

static int flatten_file(const struct command *command, const char *source, const char *output,
                        bool json)
{
    struct stasis_snapshot *snapshot;
    struct stasis_save_report report;
    struct stasis_error err = { 0 };
    struct progress progress;
    const struct stasis_copy_options options = { .progress = progress_step,
                                                 .progress_arg = &progress };
    int r;

    if (stasis_open(source, &snapshot, &err) < 0)
        return cli_failed_on_file(command, json, source, &err);
    progress_begin(&progress, "flattening");
    r = stasis_flatten(snapshot, output, &options, &report, &err);
    progress_end(&progress);
    stasis_close(snapshot);
    if (r < 0)
        return cli_failed(command, json, "native", &err);
    return cli_print_made(output, &report, json);
}

static int flatten_run(const struct command *command, int argc, char **argv)
{
    const char *output = NULL;
    bool json = false;
    int key;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        switch (key) {
        case 'o': output = optarg; break;
        case 'j': json = true; break;
        default: return cli_option_exit(key);
        }
    }
    if (argc - optind != 1)
        return cli_misused(command, "expected one FILE, got %d", argc - optind);
    if (!output)
        return cli_misused(command, "--output is needed");
    return flatten_file(command, argv[optind], output, json);
}

static const struct cli_option options[] = {
    { .name = "output",
      .argument = "FILE",
      .key = 'o',
      .letter = true,
      .help = "the snapshot to write; an existing file is replaced as a whole" },
    { .name = "json", .key = 'j', .help = "answer as one JSON object" },
};

const struct command cmd_flatten = {
    .name = "flatten",
    .synopsis = "--output FILE [--json] FILE",
    .summary = "make one full snapshot of a chain of diffs",
    .detail =
        "Reads a snapshot and all that it builds on, checks every page against its digest, and writes a\n"
        "full snapshot of the same machine and memory. It stands alone: the chain may go.\n",
    CLI_OPTIONS(options),
    .run = flatten_run,
};
