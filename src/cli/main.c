/*
 * main.c - the command `stasis`: finds the subcommand and hands over.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <stasis/api.h>

#include "cli/command.h"

static const struct command *const commands[] = {
    &cmd_run, &cmd_save, &cmd_restore, &cmd_pause, &cmd_resume, &cmd_info, &cmd_verify,
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void print_overview(FILE *out)
{
    fprintf(out, "usage: stasis COMMAND [OPTION]... [OPERAND]...\n\n"
                 "Saves running virtual machines to files and brings them back.\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(out, "\n'stasis COMMAND --help' tells more about one; 'stasis --version' the version.\n");
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return NULL;
}

/* `stasis help [COMMAND]` is `stasis [COMMAND] --help`. */
static int help_run(int argc, char **argv)
{
    const struct command *command = argc == 2 ? find_command(argv[1]) : NULL;
    char help_option[] = "--help";
    char *help_argv[] = { argv[0], help_option, NULL };

    if (argc == 1) {
        print_overview(stdout);
        return cli_flush_answer();
    }
    if (!command) {
        fprintf(stderr, "stasis help: no command '%s'\nusage: stasis help [COMMAND]\n", argv[1]);
        return CLI_MISUSED;
    }
    return command->run(command, 2, help_argv);
}

int main(int argc, char **argv)
{
    const struct command *command;

    signal(SIGPIPE, SIG_IGN); /* a closed reader is an error to report, not a death */
    if (argc < 2) {
        print_overview(stderr);
        return CLI_MISUSED;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("stasis %s\n", stasis_version());
        return cli_flush_answer();
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_overview(stdout);
        return cli_flush_answer();
    }
    if (strcmp(argv[1], "help") == 0)
        return help_run(argc - 1, argv + 1);
    command = find_command(argv[1]);
    if (!command) {
        fprintf(stderr, "stasis: no command '%s'\nusage: stasis COMMAND [OPTION]... [OPERAND]...\n",
                argv[1]);
        return CLI_MISUSED;
    }
    return command->run(command, argc - 1, argv + 1);
}
