/*
 * info.c - `stasis info`: what a snapshot is, without reading its memory.
 *
 * Names and texts come from the file and are anybody's: they are made fit for a terminal and for
 * JSON before they are printed.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include <stasis/snapshot.h>

#include "cli/command.h"

static const char *digest_name(enum stasis_digest_kind kind)
{
    return kind == STASIS_DIGEST_SHA256 ? "sha256" : "xxh3-128";
}

/* RFC 3339 in UTC with milliseconds; also before 1970, which a file may claim. */
static void format_time(int64_t time_ns, char *text, size_t size)
{
    const int64_t ms = time_ns / 1000000 - (time_ns % 1000000 < 0);
    const time_t seconds = (time_t)(ms / 1000 - (ms % 1000 < 0));
    struct tm utc;
    char day[40];

    if (!gmtime_r(&seconds, &utc) || strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &utc) == 0)
        snprintf(text, size, "unknown");
    else
        snprintf(text, size, "%s.%03dZ", day, (int)(ms - (int64_t)seconds * 1000));
}

static void add_text(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, cli_json_text(value));
}

static void add_number(json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

static json_object *memory_json(const struct stasis_snapshot_info *info)
{
    json_object *memory = json_object_new_object();
    json_object *regions = json_object_new_array();

    add_number(memory, "bytes", info->memory_size);
    add_number(memory, "data_bytes", info->data_size);
    add_number(memory, "zero_bytes", info->zero_size);
    for (size_t i = 0; i < info->region_count; i++) {
        json_object *region = json_object_new_object();

        add_number(region, "gpa", info->regions[i].gpa);
        add_number(region, "size", info->regions[i].size);
        json_object_array_add(regions, region);
    }
    json_object_object_add(memory, "regions", regions);
    return memory;
}

static json_object *devices_json(const struct stasis_machine *machine)
{
    json_object *devices = json_object_new_array();

    for (size_t i = 0; i < machine->devices_count; i++) {
        json_object *device = json_object_new_object();

        add_text(device, "kind", machine->devices[i].kind);
        add_text(device, "id", machine->devices[i].id);
        add_number(device, "version", machine->devices[i].version);
        json_object_array_add(devices, device);
    }
    return devices;
}

static json_object *host_json(const struct stasis_host *host)
{
    json_object *object = json_object_new_object();

    add_text(object, "hypervisor", host->hypervisor);
    add_text(object, "kernel", host->kernel_release);
    add_text(object, "cpu_vendor", host->cpu_vendor);
    add_text(object, "cpu_model", host->cpu_model);
    add_number(object, "cpu_signature", host->cpu_signature);
    add_number(object, "tsc_khz", host->tsc_khz);
    return object;
}

static const char *kind_name(enum stasis_snapshot_kind kind)
{
    return kind == STASIS_SNAPSHOT_DIFF ? "diff" : "full";
}

/* The snapshot itself first, then what it builds on. */
static json_object *chain_json(const struct stasis_snapshot_info *info)
{
    json_object *chain = json_object_new_array();

    for (size_t i = 0; i < info->layer_count; i++) {
        const struct stasis_layer_info *layer = &info->layers[i];
        json_object *object = json_object_new_object();
        char id[65];

        cli_format_id(layer->id, id);
        add_text(object, "id", id);
        add_text(object, "kind", kind_name(layer->kind));
        add_text(object, "path", i > 0 ? layer->path : NULL);
        add_number(object, "file_bytes", layer->file_size);
        add_number(object, "bytes", layer->page_count * STASIS_PAGE_SIZE);
        json_object_array_add(chain, object);
    }
    return chain;
}

static int print_info_json(const struct stasis_snapshot_info *info,
                           const struct stasis_machine *machine)
{
    json_object *answer = json_object_new_object();
    char id[65], created[48], version[16];

    cli_format_id(info->id, id);
    format_time(info->created_ns, created, sizeof(created));
    snprintf(version, sizeof(version), "%u.%u", info->version_major, info->version_minor);
    json_object_object_add(answer, "ok", json_object_new_boolean(true));
    add_text(answer, "format", info->format);
    add_text(answer, "version", version);
    add_text(answer, "id", id);
    add_text(answer, "arch", stasis_arch_name(info->arch));
    add_number(answer, "vcpus", info->vcpu_count);
    json_object_object_add(answer, "memory", memory_json(info));
    json_object_object_add(answer, "devices", devices_json(machine));
    json_object_object_add(answer, "host", host_json(&machine->host));
    add_text(answer, "created", created);
    add_text(answer, "writer", info->writer);
    add_text(answer, "label", info->label);
    add_text(answer, "digest", digest_name(info->digest));
    add_number(answer, "file_bytes", info->file_size);
    add_text(answer, "kind", kind_name(info->kind));
    add_number(answer, "ancestors", info->ancestor_count);
    json_object_object_add(answer, "chain", chain_json(info));
    return cli_print_json(answer);
}

static void print_bytes(const char *name, uint64_t bytes)
{
    char text[32];

    cli_format_bytes(bytes, text);
    printf("%-10s %" PRIu64 " bytes (%s)\n", name, bytes, text);
}

static void print_labelled(const char *name, const char *text)
{
    printf("%-10s ", name);
    cli_print_safely(stdout, text);
    putchar('\n');
}

/* "  layer 1  full  5f2e...  base.stasis, 1.2 GiB of its memory" */
static void print_chain(const struct stasis_snapshot_info *info)
{
    printf("kind       %s", kind_name(info->kind));
    if (info->kind == STASIS_SNAPSHOT_DIFF)
        printf(", %u before it", info->ancestor_count);
    putchar('\n');
    for (size_t i = 0; info->kind == STASIS_SNAPSHOT_DIFF && i < info->layer_count; i++) {
        const struct stasis_layer_info *layer = &info->layers[i];
        char id[65], size[32];

        cli_format_id(layer->id, id);
        cli_format_bytes(layer->page_count * STASIS_PAGE_SIZE, size);
        printf("  layer %-3zu %s %.16s, %s of memory in ", i, kind_name(layer->kind), id, size);
        cli_print_safely(stdout, i > 0 ? layer->path : "this file");
        putchar('\n');
    }
}

static int print_info_text(const struct stasis_snapshot_info *info,
                           const struct stasis_machine *machine)
{
    const struct stasis_host *host = &machine->host;
    char id[65], created[48];

    cli_format_id(info->id, id);
    format_time(info->created_ns, created, sizeof(created));
    printf("format     %s %u.%u\n", info->format, info->version_major, info->version_minor);
    printf("id         %s\n", id);
    print_chain(info);
    printf("created    %s\n", created);
    print_labelled("writer", info->writer);
    if (info->label[0])
        print_labelled("label", info->label);
    printf("arch       %s\n", stasis_arch_name(info->arch));
    printf("vcpus      %zu\n", info->vcpu_count);
    print_bytes("memory", info->memory_size);
    print_bytes("  data", info->data_size);
    print_bytes("  zero", info->zero_size);
    for (size_t i = 0; i < info->region_count; i++)
        printf("  region   0x%" PRIx64 " + 0x%" PRIx64 "\n", info->regions[i].gpa,
               info->regions[i].size);
    for (size_t i = 0; i < machine->devices_count; i++) {
        printf("device     ");
        cli_print_safely(stdout, machine->devices[i].kind);
        putchar(' ');
        cli_print_safely(stdout, machine->devices[i].id);
        putchar('\n');
    }
    printf("host       ");
    cli_print_safely(stdout, host->hypervisor);
    printf(", Linux ");
    cli_print_safely(stdout, host->kernel_release);
    printf(", ");
    cli_print_safely(stdout, host->cpu_model[0] ? host->cpu_model : host->cpu_vendor);
    printf(", TSC %u kHz\n", host->tsc_khz);
    printf("digest     %s\n", digest_name(info->digest));
    print_bytes("file", info->file_size);
    return cli_flush_answer();
}

static int info_run(const struct command *command, int argc, char **argv)
{
    struct stasis_snapshot *snapshot;
    struct stasis_error err = { 0 };
    bool json = false;
    int key, result;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        switch (key) {
        case 'j': json = true; break;
        default: return cli_option_exit(key);
        }
    }
    if (argc - optind != 1)
        return cli_misused(command, "expected one FILE, got %d", argc - optind);
    if (stasis_open(argv[optind], &snapshot, &err) < 0)
        return cli_failed_on_file(command, json, argv[optind], &err);
    result =
        json ? print_info_json(stasis_snapshot_info(snapshot), stasis_snapshot_machine(snapshot))
             : print_info_text(stasis_snapshot_info(snapshot), stasis_snapshot_machine(snapshot));
    stasis_close(snapshot);
    return result;
}

static const struct cli_option options[] = {
    { .name = "json", .key = 'j', .help = "answer as one JSON object" },
};

const struct command cmd_info = {
    .name = "info",
    .synopsis = "[--json] FILE",
    .summary = "tell what a snapshot is",
    .detail =
        "Prints format, version, id, architecture, vCPUs, memory, devices, the host it was saved on and\n"
        "when. The machine state and the file's structure are checked on the way; guest memory is not\n"
        "read (see 'stasis verify').\n",
    CLI_OPTIONS(options),
    .run = info_run,
};
