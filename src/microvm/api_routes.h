/* api_routes.h - what each path of the control socket does, apart from how requests arrive. */
#ifndef STASIS_MICROVM_API_ROUTES_H
#define STASIS_MICROVM_API_ROUTES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json_object.h>

#include <stasis/error.h>

#include "microvm/microvm.h"

/* The microvm behind the socket, and what the API remembers of it. */
struct api_context {
    struct microvm *vm;
    pthread_mutex_t lock; /* guards the rest */
    bool has_report;      /* a snapshot was created */
    struct microvm_save_report last_report;
    bool is_saving;       /* a save has told of its progress and has not ended */
    uint64_t done, total; /* bytes of that save */
};

void api_context_init(struct api_context *context, struct microvm *vm);
void api_context_release(struct api_context *context);

struct api_call {
    const char *method;
    const char *path;
    const char *body; /* body_size bytes, 0: none */
    size_t body_size;
};

struct api_reply {
    unsigned status;       /* of HTTP */
    json_object *body;     /* NULL: none; to be dropped with json_object_put() */
    enum stasis_code code; /* of a failure, STASIS_OK otherwise */
    char allow[32];        /* the methods of the path, where the one asked for is none of them */
};

/* Carry out one request; may take as long as a save takes. Any thread. */
void api_route(struct api_context *context, const struct api_call *call,
               struct api_reply *ret_reply);

/* A refusal: {"fault_message": text}. */
void api_refuse(struct api_reply *ret_reply, unsigned status, enum stasis_code code,
                const char *text);

#endif
