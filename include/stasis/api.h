/* api.h - what marks a symbol of libstasis as public, and which version this header belongs to.
 *
 * Everything not marked STASIS_API is hidden in libstasis.so (-fvisibility=hidden and the version
 * script src/libstasis.map). The ABI is not promised before 1.0: the SONAME stays libstasis.so.0. */
#ifndef STASIS_API_H
#define STASIS_API_H

#if defined(__GNUC__)
#define STASIS_API __attribute__((visibility("default")))
#define STASIS_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))
#else
#define STASIS_API
#define STASIS_PRINTF(fmt_index, first_arg)
#endif

#define STASIS_VERSION_MAJOR 0
#define STASIS_VERSION_MINOR 1
#define STASIS_VERSION_PATCH 0
#define STASIS_VERSION_STRING "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/** The version of the library that is loaded, "MAJOR.MINOR.PATCH"; static storage. */
STASIS_API const char *stasis_version(void);

#ifdef __cplusplus
}
#endif
#endif
