/*
 * path.c - names of files relative to directories.
 *
 * A diff names its layers from its own directory, so that a folder of snapshots can be moved as a
 * whole. What goes wrong here is a layer that is not found, never a wrong one: layers are known by
 * their roots.
 */
#include "format/native/path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

char *path_parent(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

/* Length of the components that two absolute paths begin with, ends at a '/' or at an end. */
static size_t common_size(const char *a, const char *b)
{
    size_t common = 0, i = 0;

    for (;; i++) {
        const int a_edge = a[i] == '\0' || a[i] == '/';
        const int b_edge = b[i] == '\0' || b[i] == '/';

        if (a_edge && b_edge)
            common = i;
        if (a[i] != b[i] || a[i] == '\0')
            return common;
    }
}

static const char *skip_slashes(const char *text)
{
    while (*text == '/')
        text++;
    return text;
}

static size_t component_count(const char *path)
{
    size_t count = 0;

    for (path = skip_slashes(path); *path; path = skip_slashes(path)) {
        count++;
        path += strcspn(path, "/");
    }
    return count;
}

char *path_relative(const char *dir, const char *path)
{
    const size_t common = common_size(dir, path);
    const size_t up_count = component_count(dir + common);
    const char *rest = skip_slashes(path + common);
    const size_t size = up_count * 3 + strlen(rest) + 2;
    char *relative = malloc(size);
    char *at = relative;

    if (!relative)
        return NULL;
    for (size_t i = 0; i < up_count; i++)
        at = stpcpy(at, "../");
    if (*rest)
        strcpy(at, rest);
    else if (up_count > 0)
        at[-1] = '\0';
    else
        strcpy(at, ".");
    return relative;
}

/* Append the components of `path` to `out`, an absolute path in a buffer large enough. */
static void append_components(char *out, const char *path)
{
    for (path = skip_slashes(path); *path; path = skip_slashes(path)) {
        const size_t size = strcspn(path, "/");

        if (size == 2 && memcmp(path, "..", 2) == 0) {
            char *slash = strrchr(out, '/');

            if (slash)
                *slash = '\0';
        } else if (!(size == 1 && path[0] == '.')) {
            const size_t end = strlen(out);

            out[end] = '/';
            memcpy(out + end + 1, path, size);
            out[end + 1 + size] = '\0';
        }
        path += size;
    }
}

char *path_rebase(const char *path, const char *from_dir, const char *to_dir)
{
    auto_free char *absolute = calloc(strlen(from_dir) + strlen(path) + 3, 1);

    if (!absolute)
        return NULL;
    append_components(absolute, from_dir);
    append_components(absolute, path);
    return path_relative(to_dir, absolute[0] ? absolute : "/");
}
