/* command.h - what every subcommand has: a name, an option table, help, and ways to answer.
 *
 * Answers go to stdout, talk to stderr, progress only to a terminal. Exit status: 0 done, 1 failed,
 * 2 misused. With --json the answer is one JSON object on one line; a failure is
 *
 *     {"ok":false,"format":"native" or null,"error":"<stable code name>","message":"..."}
 */
#ifndef STASIS_CLI_COMMAND_H
#define STASIS_CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <json-c/json_object.h>

#include <stasis/error.h>

enum cli_exit { CLI_DONE = 0, CLI_FAILED = 1, CLI_MISUSED = 2 };

#define CLI_OPTION_MAX 32

/* One option: `key` is what cli_next_option() returns, and the short form where it is a letter
 * that `letter` repeats. */
struct cli_option {
    const char *name;     /* long form without dashes */
    const char *argument; /* what to call its argument in the help, NULL: takes none */
    char key;             /* printable, unique in the table, not '?', ':' or 'h' */
    bool letter;          /* -KEY works as well */
    const char *help;
};

struct command {
    const char *name;
    const char *synopsis; /* after the name: "[--json] FILE" */
    const char *summary;  /* one line, no full stop */
    const char *detail;   /* paragraphs of the help, ending in a newline */
    const struct cli_option *options;
    size_t option_count;
    int (*run)(const struct command *command, int argc, char **argv);
};

#define CLI_OPTIONS(table) .options = (table), .option_count = sizeof(table) / sizeof((table)[0])

extern const struct command cmd_run;
extern const struct command cmd_restore;
extern const struct command cmd_save;
extern const struct command cmd_pause;
extern const struct command cmd_resume;
extern const struct command cmd_info;
extern const struct command cmd_verify;
extern const struct command cmd_compare;
extern const struct command cmd_flatten;
extern const struct command cmd_rebase;

enum { CLI_OPTION_END = -1, CLI_OPTION_BAD = 0, CLI_OPTION_HELP = 'h' };

/* The key of the next option (its argument is in optarg), or one of the three above. A bad option
 * has been reported, help has been printed: return cli_option_exit() of it. */
int cli_next_option(const struct command *command, int argc, char **argv);

/* What CLI_OPTION_BAD and CLI_OPTION_HELP mean for the exit status. */
int cli_option_exit(int key);

/* Says what was wrong and one usage line. Returns CLI_MISUSED. */
int cli_misused(const struct command *command, const char *fmt, ...) STASIS_PRINTF(2, 3);

/* Says why it failed, once: on stdout as JSON, on stderr as text otherwise. `format` is that of the
 * snapshot it was about, NULL where there is none. Returns CLI_FAILED. */
int cli_failed(const struct command *command, bool json, const char *format,
               const struct stasis_error *err);

/* The same for a failure about the file at `path`, whose format is told by its content. */
int cli_failed_on_file(const struct command *command, bool json, const char *path,
                       const struct stasis_error *err);

/* Print an object on one line of stdout and drop it. CLI_DONE, or CLI_FAILED when stdout fails. */
int cli_print_json(json_object *object);

/* Text of any origin as a JSON string: what is not UTF-8 becomes '?'. NULL stays null. */
json_object *cli_json_text(const char *text);

/* Text of any origin for people: what a terminal could take as a command becomes '?'. */
void cli_print_safely(FILE *out, const char *text);

/* Flush stdout: CLI_DONE, or CLI_FAILED with a message when the answer did not arrive. */
int cli_flush_answer(void);

/* "512M", "2G", "4096": bytes, binary units K M G T. False: not a size, or beyond 64 bits. */
bool cli_parse_size(const char *text, uint64_t *ret_bytes);

/* A decimal number 0..max, nothing else around it. */
bool cli_parse_number(const char *text, uint64_t max, uint64_t *ret_value);

/* 64 hex digits and a NUL into `text`. */
void cli_format_id(const uint8_t *id, char text[65]);

/* "1.5 GiB"; `text` holds at least 32 bytes. */
void cli_format_bytes(uint64_t bytes, char *text);

#endif
