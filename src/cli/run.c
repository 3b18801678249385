/*
 * run.c - `stasis run`: boot a guest in a microVM, in the foreground.
 *
 * Only turns options into a configuration: whether a kernel is a kernel and a disk is there is the
 * microVM's to find out, and is a failure, not a misuse.
 */
#include <getopt.h>
#include <string.h>

#include "cli/session.h"

#define DEFAULT_MEMORY (UINT64_C(128) << 20)

struct run_request {
    struct session session;
    struct microvm_machine_config machine;
    struct microvm_boot_source boot;
    struct microvm_drive drives[MICROVM_DRIVE_MAX];
    size_t drive_count;
    bool entropy;
    bool machine_given; /* by an option that says what the machine is to be */
};

/* "id=ID,path=PATH[,readonly]"; parts end at a comma, so a path with one in it cannot be given.
 * Cuts `text` into the strings that `ret_drive` points to. */
static bool parse_drive(char *text, struct microvm_drive *ret_drive)
{
    struct microvm_drive drive = { 0 };
    char *rest = text;

    for (char *part = strsep(&rest, ","); part; part = strsep(&rest, ",")) {
        if (strncmp(part, "id=", 3) == 0 && !drive.id)
            drive.id = part + 3;
        else if (strncmp(part, "path=", 5) == 0 && !drive.path)
            drive.path = part + 5;
        else if (strcmp(part, "readonly") == 0 && !drive.read_only)
            drive.read_only = true;
        else
            return false;
    }
    if (!drive.id || !*drive.id || !drive.path || !*drive.path)
        return false;
    *ret_drive = drive;
    return true;
}

static int add_drive(struct run_request *request, char *text)
{
    const struct command *command = request->session.command;
    struct microvm_drive drive;

    if (request->drive_count == MICROVM_DRIVE_MAX)
        return cli_misused(command, "at most %d disks", MICROVM_DRIVE_MAX);
    if (!parse_drive(text, &drive))
        return cli_misused(command, "--disk takes id=ID,path=PATH[,readonly]");
    for (size_t i = 0; i < request->drive_count; i++) {
        if (strcmp(request->drives[i].id, drive.id) == 0)
            return cli_misused(command, "disk '%s' is given twice", drive.id);
    }
    request->drives[request->drive_count++] = drive;
    return CLI_DONE;
}

static int take_option(struct run_request *request, int key, char *argument)
{
    const struct command *command = request->session.command;
    uint64_t number;

    request->machine_given = request->machine_given || key == 'T' || key == 'H';
    if (session_has_option(key))
        return session_option(&request->session, key, argument);
    switch (key) {
    case 'k': request->boot.kernel_path = argument; break;
    case 'I': request->boot.initrd_path = argument; break;
    case 'C': request->boot.cmdline = argument; break;
    case 'r': request->entropy = true; break;
    case 'd': return add_drive(request, argument);
    case 'c':
        if (!cli_parse_number(argument, MICROVM_VCPU_MAX, &number) || number == 0)
            return cli_misused(command, "--cpus takes 1 to %d, not '%s'", MICROVM_VCPU_MAX,
                               argument);
        request->machine.vcpu_count = (uint32_t)number;
        request->machine_given = true;
        break;
    default:
        if (!cli_parse_size(argument, &request->machine.memory_size))
            return cli_misused(command, "--memory takes a size such as 512M, not '%s'", argument);
        request->machine_given = true;
        break;
    }
    return CLI_DONE;
}

/* What was given becomes the microVM's configuration; the rest may come over the control socket. */
static int configure(const struct run_request *request, struct stasis_error *err)
{
    struct microvm_machine_config machine = request->machine;
    struct microvm *vm = request->session.vm;
    int r = 0;

    machine.track_dirty = request->session.track_dirty;
    machine.pages = request->session.pages;
    if (request->boot.kernel_path || request->machine_given)
        r = microvm_set_machine(vm, &machine, err);
    for (size_t i = 0; r == 0 && i < request->drive_count; i++)
        r = microvm_set_drive(vm, &request->drives[i], err);
    if (r == 0 && request->entropy)
        r = microvm_set_entropy(vm, true, err);
    if (r == 0 && request->boot.kernel_path)
        r = microvm_set_boot_source(vm, &request->boot, err);
    return r;
}

static int run_vm(struct run_request *request)
{
    struct session *session = &request->session;
    struct stasis_error err = { 0 };
    int r = session_begin(session, &err);

    if (r == 0)
        r = configure(request, &err);
    if (r == 0 && request->boot.kernel_path)
        r = microvm_start(session->vm, &err);
    if (r == 0)
        r = session_wait(session, &err);
    return session_end(session, r, &err);
}

static int run_run(const struct command *command, int argc, char **argv)
{
    struct run_request request = {
        .session = { .command = command },
        .machine = { .vcpu_count = 1, .memory_size = DEFAULT_MEMORY },
    };
    int key;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        if (key == CLI_OPTION_BAD || key == CLI_OPTION_HELP)
            return cli_option_exit(key);
        if (take_option(&request, key, optarg) != CLI_DONE)
            return CLI_MISUSED;
    }
    if (argc != optind)
        return cli_misused(command, "unexpected operand '%s'", argv[optind]);
    if (!request.boot.kernel_path && !request.session.socket_path)
        return cli_misused(command, "--kernel or --api-socket is needed");
    if (!request.boot.kernel_path && (request.boot.initrd_path || request.boot.cmdline))
        return cli_misused(command, "--initrd and --cmdline need --kernel");
    return run_vm(&request);
}

static const struct cli_option options[] = {
    { .name = "kernel",
      .argument = "PATH",
      .key = 'k',
      .help = "bzImage, ELF vmlinux (PVH) or flat guest" },
    { .name = "initrd", .argument = "PATH", .key = 'I', .help = "initial RAM disk" },
    { .name = "cmdline", .argument = "TEXT", .key = 'C', .help = "kernel command line" },
    { .name = "cpus", .argument = "N", .key = 'c', .help = "vCPUs, 1 to 32 (1)" },
    { .name = "memory",
      .argument = "SIZE",
      .key = 'm',
      .help = "guest RAM, such as 512M or 4G, at most 64G (128M)" },
    { .name = "disk",
      .argument = "id=ID,path=PATH[,readonly]",
      .key = 'd',
      .help = "add a virtio disk; up to 7" },
    { .name = "rng", .key = 'r', .help = "add a virtio entropy device" },
    SESSION_OPTIONS,
};

const struct command cmd_run = {
    .name = "run",
    .synopsis = "[--kernel PATH] [--api-socket PATH] [OPTION]...",
    .summary = "boot a guest in a microVM",
    .detail = "Runs in the foreground until the guest powers off, crashes, or a signal ends it.\n"
              "Without a kernel the microVM waits to be configured and started over its control\n"
              "socket. On a terminal, Ctrl-A x ends the run.\n",
    CLI_OPTIONS(options),
    .run = run_run,
};
