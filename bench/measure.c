/*
 * measure.c - medians, because a mean follows the one run in which the machine did something else.
 */
#include "measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double measure_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

void measure_add(struct measure *measure, double value)
{
    if (measure->count < MEASURE_MAX)
        measure->values[measure->count++] = value;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void sort_samples(const struct measure *measure, double *sorted)
{
    memcpy(sorted, measure->values, measure->count * sizeof(*sorted));
    qsort(sorted, measure->count, sizeof(*sorted), compare_doubles);
}

double measure_median(const struct measure *measure)
{
    double sorted[MEASURE_MAX];

    if (measure->count == 0)
        return 0;
    sort_samples(measure, sorted);
    return (sorted[(measure->count - 1) / 2] + sorted[measure->count / 2]) / 2;
}

const char *measure_text(const struct measure *measure, const char *unit)
{
    static char texts[8][96];
    static unsigned next;
    double sorted[MEASURE_MAX] = { 0 };
    char *text = texts[next++ % 8];

    sort_samples(measure, sorted);
    snprintf(text, sizeof(texts[0]), "%.2f %s (%.2f-%.2f)", measure_median(measure), unit,
             sorted[0], sorted[measure->count ? measure->count - 1 : 0]);
    return text;
}

void row_head(void)
{
    printf("| job | measured: median (min-max) | bound, same run | ratio | bar | |\n"
           "|---|---|---|---|---|---|\n");
}

void row(const char *job, const char *measured, const char *bound, double ratio, const char *bar,
         bool met)
{
    printf("| %s | %s | %s | %.2f | %s | %s |\n", job, measured, bound, ratio, bar ? bar : "",
           bar ? (met ? "met" : "**missed**") : "");
    fflush(stdout);
}
