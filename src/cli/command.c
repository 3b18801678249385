/*
 * command.c - option tables on getopt_long, help, and how answers and failures are told.
 *
 * Every subcommand speaks through this file, so what a script may rely on (exit status, where text
 * goes, the shape of a failure) is decided here once. It touches the three standard streams and
 * nothing else.
 */
#include "cli/command.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <stasis/snapshot.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/text.h"

/* Set in what getopt_long() gives for a long option, so that "--json=x" and "-j" differ in
 * optopt. */
#define LONG_FORM 0x100

/* --- options and help ------------------------------------------------------------------------- */

static void print_usage(FILE *out, const struct command *command)
{
    fprintf(out, "usage: stasis %s %s\n", command->name, command->synopsis);
}

static void print_option(const struct cli_option *option)
{
    char left[80];

    snprintf(left, sizeof(left), "%c%c%c --%s%s%s", option->letter ? '-' : ' ',
             option->letter ? option->key : ' ', option->letter ? ',' : ' ', option->name,
             option->argument ? " " : "", option->argument ? option->argument : "");
    if (strlen(left) > 30)
        printf("  %s\n  %-30s  %s\n", left, "", option->help);
    else
        printf("  %-30s  %s\n", left, option->help);
}

static void print_help(const struct command *command)
{
    print_usage(stdout, command);
    printf("\nstasis %s: %s.\n\n%s\nOptions:\n", command->name, command->summary, command->detail);
    for (size_t i = 0; i < command->option_count; i++)
        print_option(&command->options[i]);
    print_option(
        &(struct cli_option){ .name = "help", .key = 'h', .letter = true, .help = "this help" });
    printf("\nExit status: 0 done, 1 failed, 2 misused.\n");
}

/* getopt's own tables from ours, with --help at the end. */
static void fill_getopt_tables(const struct command *command, struct option *longopts,
                               char *shortopts)
{
    size_t n = 0;

    *shortopts++ = ':'; /* we report errors ourselves */
    for (; n < command->option_count; n++) {
        const struct cli_option *option = &command->options[n];

        longopts[n] =
            (struct option){ .name = option->name,
                             .has_arg = option->argument ? required_argument : no_argument,
                             .val = LONG_FORM | option->key };
        if (option->letter) {
            *shortopts++ = option->key;
            if (option->argument)
                *shortopts++ = ':';
        }
    }
    longopts[n++] = (struct option){ .name = "help", .val = LONG_FORM | CLI_OPTION_HELP };
    longopts[n] = (struct option){ 0 };
    *shortopts++ = CLI_OPTION_HELP;
    *shortopts = '\0';
}

/* getopt_long() has just found fault with an option: `kind` is what it returned. */
static void report_bad_option(const struct command *command, int kind, char *const *argv)
{
    const char *word = argv[optind - 1];

    if (kind == ':' && (optopt & LONG_FORM))
        cli_misused(command, "option '%s' needs an argument", word);
    else if (kind == ':')
        cli_misused(command, "option '-%c' needs an argument", optopt);
    else if (optopt == 0)
        cli_misused(command, "unknown or ambiguous option '%s'", word);
    else if (optopt & LONG_FORM)
        cli_misused(command, "option '%.*s' takes no argument", (int)strcspn(word, "="), word);
    else
        cli_misused(command, "unknown option '-%c'", optopt);
}

int cli_next_option(const struct command *command, int argc, char **argv)
{
    struct option longopts[CLI_OPTION_MAX + 2];
    char shortopts[2 * CLI_OPTION_MAX + 4];
    int key;

    fill_getopt_tables(command, longopts, shortopts);
    opterr = 0;
    key = getopt_long(argc, argv, shortopts, longopts, NULL);
    if (key == -1)
        return CLI_OPTION_END;
    if (key == '?' || key == ':') {
        report_bad_option(command, key, argv);
        return CLI_OPTION_BAD;
    }
    key &= ~LONG_FORM;
    if (key == CLI_OPTION_HELP)
        print_help(command);
    return key;
}

int cli_option_exit(int key)
{
    return key == CLI_OPTION_HELP ? cli_flush_answer() : CLI_MISUSED;
}

/* --- answers and failures --------------------------------------------------------------------- */

/* What went wrong, from all that the program may say: `text` is changed. */
static void print_complaint(const char *command_name, char *text)
{
    text_make_printable(text);
    fprintf(stderr, "stasis %s: %s\n", command_name, text);
}

int cli_misused(const struct command *command, const char *fmt, ...)
{
    char text[STASIS_ERROR_TEXT_SIZE];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    print_complaint(command->name, text);
    print_usage(stderr, command);
    return CLI_MISUSED;
}

static void print_failure_json(const char *format, const struct stasis_error *err)
{
    json_object *answer = json_object_new_object();

    json_object_object_add(answer, "ok", json_object_new_boolean(false));
    json_object_object_add(answer, "format", cli_json_text(format));
    json_object_object_add(answer, "error", cli_json_text(stasis_code_name(err->code)));
    json_object_object_add(answer, "message", cli_json_text(err->text));
    (void)cli_print_json(answer); /* the command has failed already */
}

int cli_failed(const struct command *command, bool json, const char *format,
               const struct stasis_error *err)
{
    struct stasis_error copy = *err;

    if (json)
        print_failure_json(format, err);
    else
        print_complaint(command->name, copy.text);
    return CLI_FAILED;
}

int cli_failed_on_file(const struct command *command, bool json, const char *path,
                       const struct stasis_error *err)
{
    const char *format = NULL;

    (void)stasis_identify(path, &format, NULL);
    return cli_failed(command, json, format, err);
}

int cli_flush_answer(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_DONE;
    fprintf(stderr, "stasis: write to standard output: %s\n",
            errno ? strerror(errno) : "part of it was not taken");
    return CLI_FAILED;
}

int cli_print_json(json_object *object)
{
    const char *text = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN |
                                                                  JSON_C_TO_STRING_NOSLASHESCAPE);

    if (text)
        puts(text);
    json_object_put(object);
    if (!text) {
        fprintf(stderr, "stasis: out of memory for an answer\n");
        return CLI_FAILED;
    }
    return cli_flush_answer();
}

json_object *cli_json_text(const char *text)
{
    auto_free char *copy = text ? strdup(text) : NULL;

    if (!copy)
        return NULL;
    text_make_utf8(copy);
    return json_object_new_string(copy);
}

void cli_print_safely(FILE *out, const char *text)
{
    auto_free char *copy = strdup(text);

    if (!copy)
        return;
    text_make_printable(copy);
    fputs(copy, out);
}

/* --- numbers ---------------------------------------------------------------------------------- */

bool cli_parse_number(const char *text, uint64_t max, uint64_t *ret_value)
{
    char *end;
    uint64_t value;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    value = strtoumax(text, &end, 10);
    if (errno != 0 || *end != '\0' || value > max)
        return false;
    *ret_value = value;
    return true;
}

bool cli_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    char digits[24];
    const size_t length = strlen(text);
    const char *unit = length > 0 ? strchr(units, text[length - 1]) : NULL;
    unsigned shift = 0;
    uint64_t value;

    if (length == 0 || length >= sizeof(digits))
        return false;
    memcpy(digits, text, length + 1);
    if (unit) {
        digits[length - 1] = '\0';
        shift = 10u * (unsigned)(unit - units + 1);
    }
    if (!cli_parse_number(digits, UINT64_MAX >> shift, &value))
        return false;
    *ret_bytes = value << shift;
    return true;
}

void cli_format_id(const uint8_t *id, char text[65])
{
    digest_hex(id, STASIS_ID_SIZE, text);
}

void cli_format_bytes(uint64_t bytes, char *text)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    if (unit == 0)
        snprintf(text, 32, "%" PRIu64 " bytes", bytes);
    else
        snprintf(text, 32, "%.1f %s", value, units[unit]);
}
