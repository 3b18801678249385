/*
 * api_routes.c - paths, methods and bodies of the control socket.
 *
 * Names and shapes are Firecracker's (its API specification, version 1.7) for what exists here, so
 * its clients work; doc/api.md lists what is ours alone. Bodies are hostile: all of a body is
 * checked before anything of it is carried out, so a refused request has changed nothing.
 */
#include "microvm/api_routes.h"

#include <stdio.h>
#include <string.h>

#include <stasis/api.h>

#include "base/digest.h"
#include "base/error.h"
#include "base/text.h"
#include "microvm/api_json.h"

#define FIRECRACKER_API_VERSION "1.7.0"

enum { HTTP_OK = 200, HTTP_NO_CONTENT = 204, HTTP_BAD_REQUEST = 400 };

struct request {
    struct api_context *context;
    const char *tail;  /* what the path has after the route's prefix, "" where the route is exact */
    json_object *body; /* NULL for GET */
    json_object *answer; /* set by the handler; NULL: none */
};

typedef int handler_fn(struct request *request, struct stasis_error *err);

void api_context_init(struct api_context *context, struct microvm *vm)
{
    *context = (struct api_context){ .vm = vm };
    pthread_mutex_init(&context->lock, NULL);
}

void api_context_release(struct api_context *context)
{
    pthread_mutex_destroy(&context->lock);
}

void api_refuse(struct api_reply *ret_reply, unsigned status, enum stasis_code code,
                const char *text)
{
    struct stasis_error copy = { 0 };
    json_object *fault = json_object_new_object();

    snprintf(copy.text, sizeof(copy.text), "%s", text);
    text_make_utf8(copy.text); /* it may quote paths of any bytes, cut anywhere */
    json_object_object_add(fault, "fault_message", json_object_new_string(copy.text));
    *ret_reply = (struct api_reply){ .status = status, .body = fault, .code = code };
}

static void add_text(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, json_object_new_string(value));
}

static void add_number(json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

/* Firecracker's names for pages of guest memory, and one of ours. */
static const char *const page_names[] = {
    [MICROVM_PAGES_SMALL] = "None",
    [MICROVM_PAGES_THP] = "Transparent",
    [MICROVM_PAGES_2M] = "2M",
};

/* --- facts ---------------------------------------------------------------------------------- */

static int get_instance(struct request *request, struct stasis_error *err)
{
    struct microvm *vm = request->context->vm;
    json_object *answer = json_object_new_object();

    (void)err;
    add_text(answer, "id", microvm_id(vm));
    add_text(answer, "state", microvm_state_name(microvm_get_state(vm)));
    add_text(answer, "vmm_version", stasis_version());
    add_text(answer, "app_name", "Stasis");
    request->answer = answer;
    return 0;
}

static int get_version(struct request *request, struct stasis_error *err)
{
    json_object *answer = json_object_new_object();

    (void)err;
    add_text(answer, "firecracker_version", FIRECRACKER_API_VERSION);
    add_text(answer, "stasis_version", stasis_version());
    request->answer = answer;
    return 0;
}

static int get_machine(struct request *request, struct stasis_error *err)
{
    json_object *answer = json_object_new_object();
    struct microvm_machine_config config;

    (void)err;
    microvm_get_machine(request->context->vm, &config);
    add_number(answer, "vcpu_count", config.vcpu_count);
    add_number(answer, "mem_size_mib", config.memory_size >> 20);
    json_object_object_add(answer, "smt", json_object_new_boolean(false));
    json_object_object_add(answer, "track_dirty_pages",
                           json_object_new_boolean(config.track_dirty));
    add_text(answer, "huge_pages", page_names[config.pages]);
    request->answer = answer;
    return 0;
}

/* Of a snapshot: what it is, and of a diff, what it is counted from. */
static void add_kind(json_object *answer, const struct microvm_save_report *report)
{
    char parent[2 * STASIS_ID_SIZE + 1];

    add_text(answer, "type", report->diff ? "Diff" : "Full");
    if (report->diff) {
        digest_hex(report->parent_id, sizeof(report->parent_id), parent);
        add_text(answer, "parent", parent);
    } else {
        json_object_object_add(answer, "parent", NULL);
    }
}

static json_object *report_json(const struct microvm_save_report *report)
{
    json_object *answer = json_object_new_object();
    char id[2 * STASIS_ID_SIZE + 1];

    digest_hex(report->snapshot.id, sizeof(report->snapshot.id), id);
    add_text(answer, "id", id);
    add_kind(answer, report);
    add_number(answer, "memory_bytes", report->snapshot.memory_size);
    add_number(answer, "data_bytes", report->snapshot.data_size);
    add_number(answer, "zero_bytes", report->snapshot.zero_size);
    add_number(answer, "file_bytes", report->snapshot.file_size);
    add_number(answer, "file_allocated_bytes", report->snapshot.file_allocated);
    add_number(answer, "memory_us", report->snapshot.memory_us);
    add_number(answer, "sync_us", report->snapshot.sync_us);
    add_number(answer, "total_us", report->snapshot.total_us);
    add_number(answer, "pause_us", report->pause_us);
    return answer;
}

static int get_report(struct request *request, struct stasis_error *err)
{
    struct api_context *context = request->context;
    struct microvm_save_report report;
    bool has_report;

    pthread_mutex_lock(&context->lock);
    has_report = context->has_report;
    report = context->last_report;
    pthread_mutex_unlock(&context->lock);
    if (!has_report)
        return stasis_fail(err, STASIS_ERR_WRONG_STATE, "no snapshot has been created yet");
    request->answer = report_json(&report);
    return 0;
}

static int get_progress(struct request *request, struct stasis_error *err)
{
    struct api_context *context = request->context;
    uint64_t done, total;
    bool is_saving;

    pthread_mutex_lock(&context->lock);
    is_saving = context->is_saving;
    done = context->done;
    total = context->total;
    pthread_mutex_unlock(&context->lock);
    if (!is_saving)
        return stasis_fail(err, STASIS_ERR_WRONG_STATE, "no snapshot is being created");
    request->answer = json_object_new_object();
    add_number(request->answer, "done_bytes", done);
    add_number(request->answer, "total_bytes", total);
    return 0;
}

/* --- configuration ---------------------------------------------------------------------------- */

static int refuse_true(const char *key, bool value, const char *why, struct stasis_error *err)
{
    if (!value)
        return 0;
    return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "'%s' is not supported: %s", key, why);
}

/* A text that Firecracker gives a choice for, and Stasis none. */
static int want_text(const char *key, const char *value, const char *only, struct stasis_error *err)
{
    if (strcmp(value, only) == 0)
        return 0;
    return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "'%s' can only be \"%s\"", key, only);
}

static int take_pages(const char *name, enum microvm_pages *ret_pages, struct stasis_error *err)
{
    for (size_t i = 0; i < sizeof(page_names) / sizeof(page_names[0]); i++) {
        if (strcmp(name, page_names[i]) == 0) {
            *ret_pages = (enum microvm_pages)i;
            return 0;
        }
    }
    return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                       "'huge_pages' must be \"None\", \"Transparent\" or \"2M\"");
}

static int put_machine(struct request *request, struct stasis_error *err)
{
    uint64_t vcpu_count = 0, mem_size_mib = 0;
    bool smt = false, track_dirty_pages = false;
    const char *huge_pages = "None", *cpu_template = "None";
    const struct api_key keys[] = {
        { "vcpu_count", API_NUMBER, true, &vcpu_count, 1, MICROVM_VCPU_MAX, NULL },
        { "mem_size_mib", API_NUMBER, true, &mem_size_mib, 1, MICROVM_MEMORY_MAX >> 20, NULL },
        { "smt", API_BOOL, false, &smt, 0, 0, NULL },
        { "track_dirty_pages", API_BOOL, false, &track_dirty_pages, 0, 0, NULL },
        { "huge_pages", API_TEXT, false, &huge_pages, 0, 0, NULL },
        { "cpu_template", API_TEXT, false, &cpu_template, 0, 0, NULL },
    };
    struct microvm_machine_config config = { 0 };
    int r = api_json_take(request->body, API_KEYS(keys), err);

    if (r == 0)
        r = refuse_true("smt", smt, "each vCPU is a core of its own", err);
    if (r == 0)
        r = take_pages(huge_pages, &config.pages, err);
    if (r == 0)
        r = want_text("cpu_template", cpu_template, "None", err);
    if (r < 0)
        return r;
    config.vcpu_count = (uint32_t)vcpu_count;
    config.memory_size = mem_size_mib << 20;
    config.track_dirty = track_dirty_pages;
    return microvm_set_machine(request->context->vm, &config, err);
}

static int put_boot_source(struct request *request, struct stasis_error *err)
{
    struct microvm_boot_source source = { 0 };
    const struct api_key keys[] = {
        { "kernel_image_path", API_TEXT, true, &source.kernel_path, 0, 0, NULL },
        { "initrd_path", API_TEXT, false, &source.initrd_path, 0, 0, NULL },
        { "boot_args", API_TEXT, false, &source.cmdline, 0, 0, NULL },
    };
    const int r = api_json_take(request->body, API_KEYS(keys), err);

    return r < 0 ? r : microvm_set_boot_source(request->context->vm, &source, err);
}

static int put_drive(struct request *request, struct stasis_error *err)
{
    struct microvm_drive drive = { 0 };
    const char *cache_type = "Unsafe", *io_engine = "Sync";
    const struct api_key keys[] = {
        { "drive_id", API_TEXT, true, &drive.id, 0, 0, NULL },
        { "path_on_host", API_TEXT, true, &drive.path, 0, 0, NULL },
        { "is_root_device", API_BOOL, true, &drive.is_root, 0, 0, NULL },
        { "is_read_only", API_BOOL, false, &drive.read_only, 0, 0, NULL },
        { "cache_type", API_TEXT, false, &cache_type, 0, 0, NULL },
        { "io_engine", API_TEXT, false, &io_engine, 0, 0, NULL },
        { "partuuid", API_NOT_OFFERED, false, NULL, 0, 0, "name the root in boot_args" },
        { "rate_limiter", API_NOT_OFFERED, false, NULL, 0, 0, "disks are not limited" },
        { "socket", API_NOT_OFFERED, false, NULL, 0, 0, "there are no vhost-user disks" },
    };
    int r = api_json_take(request->body, API_KEYS(keys), err);

    if (r < 0)
        return r;
    if (strcmp(drive.id, request->tail) != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "'drive_id' is '%.64s' but the path says '%.64s'", drive.id,
                           request->tail);
    /* Guest flushes reach the disk here whatever is asked for: both cache types are honoured. */
    if (strcmp(cache_type, "Unsafe") != 0 && strcmp(cache_type, "Writeback") != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "'cache_type' must be \"Unsafe\" or \"Writeback\"");
    r = want_text("io_engine", io_engine, "Sync", err);
    return r < 0 ? r : microvm_set_drive(request->context->vm, &drive, err);
}

static int put_entropy(struct request *request, struct stasis_error *err)
{
    const struct api_key keys[] = {
        { "rate_limiter", API_NOT_OFFERED, false, NULL, 0, 0, "entropy is not limited" },
    };
    const int r = api_json_take(request->body, API_KEYS(keys), err);

    return r < 0 ? r : microvm_set_entropy(request->context->vm, true, err);
}

/* --- life ------------------------------------------------------------------------------------- */

static int put_action(struct request *request, struct stasis_error *err)
{
    const char *action = NULL;
    const struct api_key keys[] = { { "action_type", API_TEXT, true, &action, 0, 0, NULL } };
    const int r = api_json_take(request->body, API_KEYS(keys), err);

    if (r < 0)
        return r;
    if (strcmp(action, "InstanceStart") == 0)
        return microvm_start(request->context->vm, err);
    if (strcmp(action, "SendCtrlAltDel") == 0)
        return microvm_power_button(request->context->vm, err);
    return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                       "'action_type' must be \"InstanceStart\" or \"SendCtrlAltDel\"");
}

static int patch_vm(struct request *request, struct stasis_error *err)
{
    const char *state = NULL;
    const struct api_key keys[] = { { "state", API_TEXT, true, &state, 0, 0, NULL } };
    const int r = api_json_take(request->body, API_KEYS(keys), err);

    if (r < 0)
        return r;
    if (strcmp(state, "Paused") == 0)
        return microvm_pause(request->context->vm, err);
    if (strcmp(state, "Resumed") == 0)
        return microvm_resume(request->context->vm, err);
    return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                       "'state' must be \"Paused\" or \"Resumed\"");
}

/* One save's view of the progress that all clients may ask for. */
struct save_progress {
    struct api_context *context;
    bool told;
};

static int note_progress(void *arg, uint64_t done, uint64_t total)
{
    struct save_progress *progress = arg;
    struct api_context *context = progress->context;

    pthread_mutex_lock(&context->lock);
    progress->told = true;
    context->is_saving = true;
    context->done = done;
    context->total = total;
    pthread_mutex_unlock(&context->lock);
    return 0;
}

/* A save that was refused because another runs has told nothing, and ends nothing. */
static void end_save(struct api_context *context, const struct save_progress *progress,
                     const struct microvm_save_report *report)
{
    pthread_mutex_lock(&context->lock);
    if (progress->told)
        context->is_saving = false;
    if (report) {
        context->has_report = true;
        context->last_report = *report;
    }
    pthread_mutex_unlock(&context->lock);
}

static int take_type(const char *type, struct microvm_save_options *options,
                     struct stasis_error *err)
{
    options->diff = strcmp(type, "Diff") == 0;
    if (!options->diff && strcmp(type, "Full") != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "'snapshot_type' must be \"Full\" or \"Diff\"");
    if (!options->diff && options->parent_path)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "'parent_path' is for snapshots of type \"Diff\"");
    return 0;
}

static int put_snapshot_create(struct request *request, struct stasis_error *err)
{
    struct api_context *context = request->context;
    const char *type = "Full", *path = NULL;
    bool pause = false;
    struct save_progress progress = { .context = context };
    struct microvm_save_options options = {
        .snapshot = { .progress = note_progress, .progress_arg = &progress },
    };
    const struct api_key keys[] = {
        { "snapshot_type", API_TEXT, false, &type, 0, 0, NULL },
        { "snapshot_path", API_TEXT, true, &path, 0, 0, NULL },
        { "parent_path", API_TEXT, false, &options.parent_path, 0, 0, NULL },
        { "pause_vm", API_BOOL, false, &pause, 0, 0, NULL },
        { "mem_file_path", API_NOT_OFFERED, false, NULL, 0, 0,
          "state and memory are one file, at snapshot_path" },
    };
    struct microvm_save_report report;
    int r = api_json_take(request->body, API_KEYS(keys), err);

    if (r == 0)
        r = take_type(type, &options, err);
    /* As Firecracker: the caller pauses first, or says that it wants this, so that nothing stands
     * still unasked. */
    if (r == 0 && !pause && microvm_get_state(context->vm) == MICROVM_RUNNING)
        r = stasis_fail(err, STASIS_ERR_WRONG_STATE,
                        "a snapshot needs a paused microVM, this one is running");
    if (r < 0)
        return r;
    r = microvm_save(context->vm, path, &options, &report, err);
    end_save(context, &progress, r < 0 ? NULL : &report);
    if (r == 0 && pause)
        request->answer = report_json(&report);
    return r;
}

static int take_overrides(json_object *drives, struct microvm_drive_override *overrides,
                          size_t *ret_count, struct stasis_error *err)
{
    const size_t count = drives ? json_object_array_length(drives) : 0;

    if (count > MICROVM_DRIVE_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "'drives' lists %zu, at most %d can be", count,
                           MICROVM_DRIVE_MAX);
    for (size_t i = 0; i < count; i++) {
        json_object *drive = json_object_array_get_idx(drives, i);
        const struct api_key keys[] = {
            { "drive_id", API_TEXT, true, &overrides[i].id, 0, 0, NULL },
            { "path_on_host", API_TEXT, true, &overrides[i].path, 0, 0, NULL },
        };
        int r;

        if (!json_object_is_type(drive, json_type_object))
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "'drives' must hold objects only");
        r = api_json_take(drive, API_KEYS(keys), err);
        if (r < 0)
            return stasis_wrap(err, r, "'drives' entry %zu", i);
    }
    *ret_count = count;
    return 0;
}

static int put_snapshot_load(struct request *request, struct stasis_error *err)
{
    struct microvm_drive_override overrides[MICROVM_DRIVE_MAX];
    struct microvm_load_options options = { .drives = overrides };
    json_object *drives = NULL;
    const char *path = NULL, *huge_pages = "None";
    bool diff_snapshots = false, track_dirty_pages = false;
    const struct api_key keys[] = {
        { "snapshot_path", API_TEXT, true, &path, 0, 0, NULL },
        { "resume_vm", API_BOOL, false, &options.resume, 0, 0, NULL },
        { "drives", API_ARRAY, false, &drives, 0, 0, NULL },
        { "enable_diff_snapshots", API_BOOL, false, &diff_snapshots, 0, 0, NULL },
        { "track_dirty_pages", API_BOOL, false, &track_dirty_pages, 0, 0, NULL },
        { "huge_pages", API_TEXT, false, &huge_pages, 0, 0, NULL },
        { "mem_file_path", API_NOT_OFFERED, false, NULL, 0, 0,
          "state and memory are one file, at snapshot_path" },
        { "mem_backend", API_NOT_OFFERED, false, NULL, 0, 0,
          "state and memory are one file, at snapshot_path" },
        { "network_overrides", API_NOT_OFFERED, false, NULL, 0, 0, "there is no network" },
    };
    int r = api_json_take(request->body, API_KEYS(keys), err);

    /* The older and the newer name of one thing. */
    options.track_dirty = diff_snapshots || track_dirty_pages;
    if (r == 0)
        r = take_pages(huge_pages, &options.pages, err);
    if (r == 0)
        r = take_overrides(drives, overrides, &options.drive_count, err);
    return r < 0 ? r : microvm_load(request->context->vm, path, &options, NULL, err);
}

/* --- routes ----------------------------------------------------------------------------------- */

static const struct route {
    const char *method;
    const char *path; /* one that ends in '/' (but "/" itself) takes a non-empty tail */
    handler_fn *handler;
} routes[] = {
    { "GET", "/", get_instance },
    { "GET", "/version", get_version },
    { "GET", "/machine-config", get_machine },
    { "PUT", "/machine-config", put_machine },
    { "PUT", "/boot-source", put_boot_source },
    { "PUT", "/drives/", put_drive },
    { "PUT", "/entropy", put_entropy },
    { "PUT", "/actions", put_action },
    { "PATCH", "/vm", patch_vm },
    { "GET", "/snapshot", get_report },
    { "GET", "/snapshot/progress", get_progress },
    { "PUT", "/snapshot/create", put_snapshot_create },
    { "PUT", "/snapshot/load", put_snapshot_load },
};

/* The rest of `path` after the route's, or NULL when the route is another's. */
static const char *route_tail(const struct route *route, const char *path)
{
    const size_t length = strlen(route->path);

    if (length > 1 && route->path[length - 1] == '/')
        return strncmp(path, route->path, length) == 0 && path[length] ? path + length : NULL;
    return strcmp(path, route->path) == 0 ? "" : NULL;
}

/* The route, or NULL; then `ret_allow` lists the methods that the path has, "" where it is no
 * path. */
static const struct route *find_route(const char *method, const char *path, char *ret_allow,
                                      size_t allow_size)
{
    size_t length = 0;

    ret_allow[0] = '\0';
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        if (!route_tail(&routes[i], path))
            continue;
        if (strcmp(method, routes[i].method) == 0)
            return &routes[i];
        length = strlen(ret_allow);
        snprintf(ret_allow + length, allow_size - length, "%s%s", length ? ", " : "",
                 routes[i].method);
    }
    return NULL;
}

static int call_handler(const struct route *route, struct request *request,
                        const struct api_call *call, struct stasis_error *err)
{
    const bool wants_body = strcmp(route->method, "GET") != 0;
    int r = 0;

    if (wants_body)
        r = api_json_parse(call->body, call->body_size, &request->body, err);
    else if (call->body_size > 0)
        r = stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "GET takes no body");
    if (r == 0)
        r = route->handler(request, err);
    json_object_put(request->body);
    return r;
}

static void refuse_route(const struct api_call *call, const char *allow,
                         struct api_reply *ret_reply)
{
    struct stasis_error err;

    stasis_fail(&err, STASIS_ERR_INVALID_ARGUMENT, "%.16s '%.128s': no such %s", call->method,
                call->path, allow[0] ? "method for this path" : "path");
    api_refuse(ret_reply, HTTP_BAD_REQUEST, err.code, err.text);
    snprintf(ret_reply->allow, sizeof(ret_reply->allow), "%s", allow);
}

void api_route(struct api_context *context, const struct api_call *call,
               struct api_reply *ret_reply)
{
    char allow[sizeof(ret_reply->allow)];
    const struct route *route = find_route(call->method, call->path, allow, sizeof(allow));
    struct request request = { .context = context };
    struct stasis_error err = { 0 };

    if (!route) {
        refuse_route(call, allow, ret_reply);
        return;
    }
    request.tail = route_tail(route, call->path);
    if (call_handler(route, &request, call, &err) < 0) {
        api_refuse(ret_reply, HTTP_BAD_REQUEST, err.code, err.text);
        return;
    }
    *ret_reply = (struct api_reply){ .status = request.answer ? HTTP_OK : HTTP_NO_CONTENT,
                                     .body = request.answer };
}
