/*
 * options.c - the command line, parsed by one table.
 */
#include "options.h"

#include "cpu.h"
#include "print.h"

struct number_option {
    const char *name;
    uint16_t offset;
    uint8_t size; /* of the member: 4 or 8 */
    uint64_t min, max;
};

#define NUMBER(option, member, min_value, max_value)                                               \
    {                                                                                              \
        option, offsetof(struct options, member), sizeof(((struct options *)0)->member),           \
            min_value, max_value                                                                   \
    }

static const struct number_option number_options[] = {
    NUMBER("cpus", cpus, 1, CPU_MAX),
    NUMBER("seed", seed, 0, UINT64_MAX),
    NUMBER("mem", mem_size, PAGE_SIZE, UINT64_MAX),
    NUMBER("fill", fill_size, 0, UINT64_MAX),
    NUMBER("fill-run", fill_run, 1, 1u << 20),
    NUMBER("fill-step", fill_step, 1, 1u << 20),
    NUMBER("fill-words", fill_words, 1, PAGE_SIZE / 8),
    NUMBER("dirty", dirty_pages, 0, UINT32_MAX),
    NUMBER("zero", zero_pages, 0, UINT32_MAX),
    NUMBER("check-pages", check_pages, 0, UINT32_MAX),
    NUMBER("tick", tick_ms, 1, 50), /* the PIT's divisor has 16 bits: 54 ms */
    NUMBER("period", period_ms, 0, 3600000),
    NUMBER("lapic-hz", lapic_hz, 0, UINT64_C(4000000000)),
    NUMBER("stop", stop_ms, 1, UINT32_MAX),
    NUMBER("stuck", stuck_ms, 1, UINT32_MAX),
    NUMBER("lost", lost_ms, 1, UINT32_MAX),
    NUMBER("disk-writes", disk_writes, 0, 8),
    NUMBER("disk-reads", disk_reads, 0, 8),
    NUMBER("disk-ring", disk_ring, 16, UINT64_C(1) << 24),
    NUMBER("rng-every", rng_every, 1, UINT32_MAX),
    NUMBER("exit", exit_count, 0, UINT64_MAX),
};

struct choice {
    const char *text;
    uint8_t value;
};

static const struct choice exit_choices[] = {
    { "poweroff", POWER_OFF },
    { "reset", POWER_RESET },
    { "triple", POWER_TRIPLE_FAULT },
    { "halt", POWER_HALT },
    { 0, 0 },
};
static const struct choice timer_choices[] = {
    { "periodic", TIMER_PERIODIC },
    { "oneshot", TIMER_ONESHOT },
    { "deadline", TIMER_DEADLINE },
    { 0, 0 },
};
static const struct choice check_choices[] = { { "slice", false }, { "full", true }, { 0, 0 } };
static const struct choice place_choices[] = { { "random", false }, { "linear", true }, { 0, 0 } };

/* Does `word`, up to a blank, begin with `name`=? Then its value, else NULL. */
static const char *value_of(const char *word, const char *name)
{
    while (*name && *word == *name) {
        word++;
        name++;
    }
    return *name == '\0' && *word == '=' ? word + 1 : NULL;
}

static bool word_ends(const char *at)
{
    return *at == '\0' || *at == ' ' || *at == '\n' || *at == '\t';
}

static bool parse_number(const char *text, uint64_t *ret_value)
{
    const unsigned base = text[0] == '0' && text[1] == 'x' ? 16 : 10;
    uint64_t value = 0;

    if (base == 16)
        text += 2;
    if (word_ends(text))
        return false;
    for (;; text++) {
        const char c = *text;
        unsigned digit;

        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if (base == 16 && c >= 'a' && c <= 'f')
            digit = (unsigned)(c - 'a') + 10;
        else
            break;
        value = value * base + digit;
    }
    switch (*text) {
    case 'G': value <<= 10; /* fall through */
    case 'M': value <<= 10; /* fall through */
    case 'K':
        value <<= 10;
        text++;
        break;
    default: break;
    }
    *ret_value = value;
    return word_ends(text);
}

static bool set_number(struct options *options, const struct number_option *option,
                       const char *text)
{
    char *member = (char *)options + option->offset;
    uint64_t value;

    if (!parse_number(text, &value) || value < option->min || value > option->max)
        return false;
    if (option->size == 8)
        *(uint64_t *)(void *)member = value;
    else
        *(uint32_t *)(void *)member = (uint32_t)value;
    return true;
}

static bool parse_choice(const struct choice *choices, const char *text, uint8_t *ret_value)
{
    for (; choices->text; choices++) {
        unsigned i = 0;

        while (choices->text[i] && choices->text[i] == text[i])
            i++;
        if (!choices->text[i] && word_ends(text + i)) {
            *ret_value = choices->value;
            return true;
        }
    }
    return false;
}

static bool is_all(const char *text)
{
    return text[0] == 'a' && text[1] == 'l' && text[2] == 'l' && word_ends(text + 3);
}

/* True when the word is no option of ours, or a good one. */
static bool parse_word(const char *word, struct options *options)
{
    const char *text;
    uint8_t choice = 0;
    bool good;

    if ((text = value_of(word, "mem")) && is_all(text)) {
        options->mem_size = UINT64_MAX;
        return true;
    }
    for (unsigned i = 0; i < sizeof(number_options) / sizeof(number_options[0]); i++) {
        text = value_of(word, number_options[i].name);
        if (text)
            return set_number(options, &number_options[i], text);
    }
    if ((text = value_of(word, "exit-by"))) {
        good = parse_choice(exit_choices, text, &choice);
        options->exit_by = (enum power_end)choice;
    } else if ((text = value_of(word, "timer"))) {
        good = parse_choice(timer_choices, text, &choice);
        options->timer = (enum timer_mode)choice;
    } else if ((text = value_of(word, "check"))) {
        good = parse_choice(check_choices, text, &choice);
        options->check_full = choice;
    } else if ((text = value_of(word, "place"))) {
        good = parse_choice(place_choices, text, &choice);
        options->place_linear = choice;
    } else {
        return true;
    }
    return good;
}

static void report_bad_word(const char *word)
{
    char text[64];
    unsigned length = 0;

    while (!word_ends(word) && length < sizeof(text) - 1)
        text[length++] = *word++;
    text[length] = '\0';
    print_bad("option %s", text);
}

void options_parse(const char *command_line, struct options *ret_options)
{
    *ret_options = (struct options){
        .cpus = 1,
        .seed = 1,
        .mem_size = 1 << 20,
        .fill_size = UINT64_MAX,
        .fill_run = 1,
        .fill_step = 1,
        .fill_words = PAGE_SIZE / 8,
        .dirty_pages = 16,
        .zero_pages = 1,
        .check_pages = 8,
        .tick_ms = 10,
        .period_ms = 100,
        .stop_ms = 5000,
        .stuck_ms = 20000,
        .lost_ms = 20000,
        .disk_writes = 1,
        .disk_reads = 1,
        .disk_ring = 64,
        .rng_every = 4,
    };

    while (*command_line) {
        if (word_ends(command_line)) {
            command_line++;
            continue;
        }
        if (!parse_word(command_line, ret_options))
            report_bad_word(command_line);
        while (!word_ends(command_line))
            command_line++;
    }
}
