/*
 * main.c - the command `stasis`: finds the subcommand and hands over.
 *
 * Before that it sees to it that descriptors 0 to 2 are open: what is opened later would otherwise
 * take a closed one's number, and a guest's console or an error message would be written into a
 * disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <stasis/api.h>

#include "cli/command.h"

static const struct command *const commands[] = {
    &cmd_run,  &cmd_save,   &cmd_restore, &cmd_pause,   &cmd_resume,
    &cmd_info, &cmd_verify, &cmd_compare, &cmd_flatten, &cmd_rebase,
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void print_overview(void)
{
    printf("usage: stasis COMMAND [OPTION]... [OPERAND]...\n\n"
           "Saves running virtual machines to files and brings them back.\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    printf("\n'stasis COMMAND --help' tells more about one; 'stasis --version' the version.\n");
}

static int misused(const char *what, const char *word)
{
    fprintf(stderr, "stasis: %s", what);
    if (word) {
        fputs(" '", stderr);
        cli_print_safely(stderr, word);
        fputs("'", stderr);
    }
    fputs("\nusage: stasis COMMAND [OPTION]... [OPERAND]...\n", stderr);
    return CLI_MISUSED;
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return NULL;
}

static int overview_run(int argc, char **argv)
{
    if (argc > 2)
        return misused("unexpected operand", argv[2]);
    print_overview();
    return cli_flush_answer();
}

static int version_run(int argc, char **argv)
{
    if (argc > 2)
        return misused("unexpected operand", argv[2]);
    printf("stasis %s\n", stasis_version());
    return cli_flush_answer();
}

/* `stasis help [COMMAND]` is `stasis [COMMAND] --help`. */
static int help_run(int argc, char **argv)
{
    const struct command *command;
    char help_option[] = "--help";
    char *help_argv[] = { argv[0], help_option, NULL };

    if (argc == 2)
        return overview_run(argc, argv);
    command = find_command(argv[2]);
    if (!command)
        return misused("no command", argv[2]);
    if (argc > 3)
        return misused("unexpected operand", argv[3]);
    return command->run(command, 2, help_argv);
}

/* For reading only: a closed input is at its end, and writing to a closed output still fails. */
static bool fill_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
            continue;
        if (open("/dev/null", O_RDONLY) != fd)
            return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    const struct command *command;

    if (!fill_standard_descriptors())
        return CLI_FAILED;
    signal(SIGPIPE, SIG_IGN); /* a closed reader is an error to report, not a death */
    signal(SIGXFSZ, SIG_IGN); /* and so is a file size limit: EFBIG */
    if (argc < 2)
        return misused("a command is needed", NULL);
    if (strcmp(argv[1], "--version") == 0)
        return version_run(argc, argv);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return overview_run(argc, argv);
    if (strcmp(argv[1], "help") == 0)
        return help_run(argc, argv);
    if (argv[1][0] == '-')
        return misused("unknown option", argv[1]);
    command = find_command(argv[1]);
    if (!command)
        return misused("no command", argv[1]);
    return command->run(command, argc - 1, argv + 1);
}
