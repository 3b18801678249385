/*
 * command.c - option tables on getopt_long, help, and how failures are told.
 */
#include "cli/command.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"

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
    print_option(&(struct cli_option){
        .name = "help", .key = 'h', .letter = true, .help = "this help" });
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

        longopts[n] = (struct option){ .name = option->name,
                                       .has_arg = option->argument ? required_argument
                                                                   : no_argument,
                                       .val = option->key };
        if (option->letter) {
            *shortopts++ = option->key;
            if (option->argument)
                *shortopts++ = ':';
        }
    }
    longopts[n++] = (struct option){ .name = "help", .val = CLI_OPTION_HELP };
    longopts[n] = (struct option){ 0 };
    *shortopts++ = CLI_OPTION_HELP;
    *shortopts = '\0';
}

int cli_next_option(const struct command *command, int argc, char **argv)
{
    struct option longopts[CLI_OPTION_MAX + 2];
    char shortopts[2 * CLI_OPTION_MAX + 4];
    int key;

    fill_getopt_tables(command, longopts, shortopts);
    opterr = 0;
    key = getopt_long(argc, argv, shortopts, longopts, NULL);
    switch (key) {
    case -1: return CLI_OPTION_END;
    case CLI_OPTION_HELP: print_help(command); return CLI_OPTION_HELP;
    case ':':
        cli_misused(command, "option '%s' needs an argument", argv[optind - 1]);
        return CLI_OPTION_BAD;
    case '?':
        if (optopt != 0 && strncmp(argv[optind - 1], "--", 2) == 0)
            cli_misused(command, "option '%s' takes no argument", argv[optind - 1]);
        else if (optopt != 0)
            cli_misused(command, "unknown option '-%c'", optopt);
        else
            cli_misused(command, "unknown option '%s'", argv[optind - 1]);
        return CLI_OPTION_BAD;
    default: return key;
    }
}

int cli_option_exit(int key)
{
    return key == CLI_OPTION_HELP ? cli_flush_answer() : CLI_MISUSED;
}

int cli_misused(const struct command *command, const char *fmt, ...)
{
    va_list args;

    fprintf(stderr, "stasis %s: ", command->name);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    print_usage(stderr, command);
    return CLI_MISUSED;
}

int cli_failed(const struct command *command, bool json, const struct stasis_error *err)
{
    if (json) {
        json_object *answer = json_object_new_object();

        json_object_object_add(answer, "ok", json_object_new_boolean(false));
        json_object_object_add(answer, "error",
                               json_object_new_string(stasis_code_name(err->code)));
        json_object_object_add(answer, "message", json_object_new_string(err->text));
        cli_print_json(answer);
    } else {
        fprintf(stderr, "stasis %s: %s\n", command->name, err->text);
    }
    return CLI_FAILED;
}

int cli_flush_answer(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_DONE;
    fprintf(stderr, "stasis: write to standard output: %s\n", strerror(errno));
    return CLI_FAILED;
}

int cli_print_json(json_object *object)
{
    puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN |
                                                    JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(object);
    return cli_flush_answer();
}

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
    return cli_parse_number(digits, UINT64_MAX >> shift, &value) &&
           (*ret_bytes = value << shift, true);
}

void cli_format_id(const uint8_t *id, char text[65])
{
    digest_hex(id, 32, text);
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
