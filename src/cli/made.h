/* made.h - the answer of subcommands that make a snapshot out of others. */
#ifndef STASIS_CLI_MADE_H
#define STASIS_CLI_MADE_H

#include <stdbool.h>

#include <stasis/snapshot.h>

/* CLI_DONE, or CLI_FAILED when stdout fails. */
int cli_print_made(const char *path, const struct stasis_save_report *report, bool json);

#endif
