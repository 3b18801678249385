/* measure.h - samples, medians with their spread, and rows of a table. */
#ifndef STASIS_BENCH_MEASURE_H
#define STASIS_BENCH_MEASURE_H

#include <stdbool.h>
#include <stddef.h>

#define MEASURE_MAX 64

/* Samples of one quantity. */
struct measure {
    double values[MEASURE_MAX];
    size_t count;
};

double measure_now_ms(void); /* monotonic */
void measure_add(struct measure *measure, double value);
double measure_median(const struct measure *measure);

/* "12.34 ms (11.90-15.02)" into one of a few static buffers. */
const char *measure_text(const struct measure *measure, const char *unit);

/* | job | measured | bound | ratio | bar | met or missed |; `bar` NULL: for comparison only. */
void row_head(void);
void row(const char *job, const char *measured, const char *bound, double ratio, const char *bar,
         bool met);

#endif
