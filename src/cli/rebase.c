/*
 * rebase.c - `stasis rebase`: the same snapshot as a diff on another parent.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include <stasis/snapshot.h>

#include "cli/command.h"
#include "cli/made.h"
#include "cli/progress.h"

/* The files of one call. */
struct rebase {
    const char *source, *parent, *output;
};

static int rebase_opened(const struct command *command, const struct rebase *files,
                         const struct stasis_snapshot *snapshot,
                         const struct stasis_snapshot *parent, bool json)
{
    struct stasis_save_report report;
    struct stasis_error err = { 0 };
    struct progress progress;
    const struct stasis_copy_options options = { .progress = progress_step,
                                                 .progress_arg = &progress };
    int r;

    progress_begin(&progress, "comparing");
    r = stasis_rebase(snapshot, parent, files->output, &options, &report, &err);
    progress_end(&progress);
    if (r < 0)
        return cli_failed(command, json, "native", &err);
    return cli_print_made(files->output, &report, json);
}

static int rebase_files(const struct command *command, const struct rebase *files, bool json)
{
    struct stasis_snapshot *snapshot, *parent;
    struct stasis_error err = { 0 };
    int result;

    if (stasis_open(files->source, &snapshot, &err) < 0)
        return cli_failed_on_file(command, json, files->source, &err);
    if (stasis_open(files->parent, &parent, &err) < 0) {
        stasis_close(snapshot);
        return cli_failed_on_file(command, json, files->parent, &err);
    }
    result = rebase_opened(command, files, snapshot, parent, json);
    stasis_close(parent);
    stasis_close(snapshot);
    return result;
}

static int rebase_run(const struct command *command, int argc, char **argv)
{
    struct rebase files = { 0 };
    bool json = false;
    int key;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        switch (key) {
        case 'o': files.output = optarg; break;
        case 'p': files.parent = optarg; break;
        case 'j': json = true; break;
        default: return cli_option_exit(key);
        }
    }
    if (argc - optind != 1)
        return cli_misused(command, "expected one FILE, got %d", argc - optind);
    if (!files.parent)
        return cli_misused(command, "--parent is needed");
    files.source = argv[optind];
    if (!files.output)
        files.output = files.source;
    return rebase_files(command, &files, json);
}

static const struct cli_option options[] = {
    { .name = "parent",
      .argument = "FILE",
      .key = 'p',
      .letter = true,
      .help = "the snapshot to build on from now on" },
    { .name = "output",
      .argument = "FILE",
      .key = 'o',
      .letter = true,
      .help = "the diff to write; without it, the one that was read is replaced" },
    { .name = "json", .key = 'j', .help = "answer as one JSON object" },
};

const struct command cmd_rebase = {
    .name = "rebase",
    .synopsis = "--parent FILE [--output FILE] [--json] FILE",
    .summary = "make a snapshot a diff on another parent",
    .detail =
        "Writes a diff of the same machine and memory that builds on another snapshot, whose memory must\n"
        "be laid out alike. Only pages that differ from the new parent's are in it.\n",
    CLI_OPTIONS(options),
    .run = rebase_run,
};
