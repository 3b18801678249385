/* api_routes.h - what each path of the control socket does, apart from how requests arrive. */
#ifndef STASIS_MICROVM_API_ROUTES_H
#define STASIS_MICROVM_API_ROUTES_H

#include <pthread.h>
#include <stdbool.h>

#include <json-c/json_object.h>

#include <stasis/error.h>

#include "microvm/microvm.h"

/* The microvm behind the socket, and what the API remembers of it. */
struct api_context {
    struct microvm *vm;
    pthread_mutex_t lock;                   /* guards the rest */
    bool has_report;                        /* a snapshot was created */
    struct microvm_save_report last_report;
};

/*
 * Carry out one request. `body` is its text (size 0: none). Returns the HTTP status; `ret_answer` is the
 * body of the answer (NULL: none), to be dropped with json_object_put(); `ret_code` is the stable code of a failure.
 */
unsigned api_route(struct api_context *context, const char *method, const char *path,
                   const char *body, size_t body_size, json_object **ret_answer,
                   enum stasis_code *ret_code);

/* {"fault_message": text} */
json_object *api_fault(const char *text);

#endif
