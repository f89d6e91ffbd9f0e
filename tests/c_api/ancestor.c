/*
 * A program of the ancestor's: it declares the interface by itself, as it was when the program was built, and is compiled as C and as C++.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif
typedef int (*poll_fun)(float progress, const char *message, void *extra);
typedef void (*error_fun)(int errnum, const char *message, void *extra);
typedef int (*exclude_fun)(const char *source_file, void *extra);
typedef void (*stop_capture_fun)(void *extra);

int tokubackup_create_backup(const char *source_dirs[], const char *dest_dirs[], int dir_count,
                             poll_fun poll, void *poll_extra, error_fun error, void *error_extra,
                             exclude_fun exclude, void *exclude_extra,
                             stop_capture_fun before_stop, void *before_extra,
                             stop_capture_fun after_stop, void *after_extra);
void tokubackup_throttle_backup(unsigned long bytes_per_second);
extern const char *tokubackup_version_string;
#ifdef __cplusplus
}
#endif

#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

/* Each function counts its calls in the place that is its own argument. */
static int polls, errors, questions, befores, afters;
static int last_error;
static const char *source;

static void put(const char *name, const char *text) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", source, name);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static int on_poll(float progress, const char *message, void *extra) {
    CHECK(extra == &polls && progress >= 0 && progress <= 1 && message);
    polls++;
    return 0;
}

static void on_error(int number, const char *message, void *extra) {
    CHECK(extra == &errors && strlen(message) > 0);
    last_error = number;
    errors++;
}

static int on_exclude(const char *path, void *extra) {
    CHECK(extra == &questions && strstr(path, "source"));
    questions++;
    return 0;
}

static void on_before(void *extra) {
    CHECK(extra == &befores && afters == 0);
    befores++;
    put("before", "in the backup");
}

static void on_after(void *extra) {
    CHECK(extra == &afters && befores == 1);
    afters++;
}

static int back_up(const char *from, const char *to) {
    const char *sources[] = {from}, *destinations[] = {to};
    return tokubackup_create_backup(sources, destinations, 1, on_poll, &polls, on_error, &errors, on_exclude, &questions,
                                    on_before, &befores, on_after, &afters);
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    source = argv[2];
    CHECK(strlen(tokubackup_version_string) > 0);
    put("file", "content");
    tokubackup_throttle_backup(ULONG_MAX);
    CHECK(back_up(source, "/nowhere/at/all") == ENOENT && errors == 1 && last_error == ENOENT);
    CHECK(befores == 0 && afters == 0);
    CHECK(back_up(source, argv[3]) == 0 && errors == 1);
    CHECK(polls >= 2 && questions > 0 && befores == 1 && afters == 1);
    return 0;
}
