/*
 * What the programs of this folder share: a backup with its callbacks, and checks that say what is wrong and end the program.
 *
 * A scenario that starts threads stops them in `before_stop`, so that what the source is after the program is what it was at the cut: the test that ran it compares the
 * directories. A scenario that goes on writing checks by itself what may be in the copy.
 */
#ifndef COMMON_H
#define COMMON_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backup.h"

#define CHECK(condition, ...)                                                                     \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%s:%d: %s (errno %d): ", __FILE__, __LINE__, #condition, errno);     \
            fprintf(stderr, __VA_ARGS__);                                                         \
            fputc('\n', stderr);                                                                  \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

#define OK(call) CHECK((call) >= 0, "failed")

/* Where the scenario works. */
static const char *source, *destination;

static inline const char *in(const char *directory, const char *name) {
    static __thread char paths[4][PATH_MAX];
    static __thread unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, PATH_MAX, "%s/%s", directory, name);
    return path;
}

static inline void fill(const char *path, size_t len, char byte) {
    char block[4096];
    memset(block, byte, sizeof block);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0, "%s", path);
    for (size_t done = 0; done < len; done += sizeof block)
        OK(pwrite(fd, block, len - done < sizeof block ? len - done : sizeof block, (off_t)done));
    OK(close(fd));
}

static inline int exists(const char *path) {
    struct stat found;
    return lstat(path, &found) == 0;
}

/* A backup's callbacks, as a scenario wants them. */
struct backup {
    int (*poll)(float progress);
    int (*exclude)(const char *path);
    void (*before_stop)(void);
    void (*after_stop)(void);
    /* What poll was told last. */
    float progress;
    char progress_message[512];
    int errors;
    int error;
    char message[512];
};

static int call_poll(float progress, const char *message, void *extra) {
    struct backup *backup = extra;
    CHECK(message != NULL && progress >= backup->progress && progress <= 1, "%f after %f", progress, backup->progress);
    backup->progress = progress;
    snprintf(backup->progress_message, sizeof backup->progress_message, "%s", message);
    return backup->poll ? backup->poll(progress) : 0;
}

static int call_exclude(const char *path, void *extra) {
    struct backup *backup = extra;
    return backup->exclude(path);
}

static void call_before_stop(void *extra) {
    struct backup *backup = extra;
    if (backup->before_stop)
        backup->before_stop();
}

static void call_after_stop(void *extra) {
    struct backup *backup = extra;
    if (backup->after_stop)
        backup->after_stop();
}

static void call_error(int number, const char *message, void *extra) {
    struct backup *backup = extra;
    backup->errors++;
    backup->error = number;
    snprintf(backup->message, sizeof backup->message, "%s", message);
}

static inline int back_up(struct backup *backup, const char **sources, const char **destinations, int count) {
    backup->errors = 0;
    backup->progress = 0;
    int result = tokubackup_create_backup(sources, destinations, count, call_poll, backup, call_error, backup,
                                          backup->exclude ? call_exclude : NULL, backup, call_before_stop, backup,
                                          call_after_stop, backup);
    CHECK(backup->errors == (result != 0), "%d calls of the error function for result %d", backup->errors, result);
    CHECK(result == 0 || backup->error == result, "error %d, result %d", backup->error, result);
    return result;
}

static inline void succeed(struct backup *backup) {
    int result = back_up(backup, &source, &destination, 1);
    CHECK(result == 0, "%d: %s", result, backup->message);
}

static inline void fail_with(struct backup *backup, int expected) {
    int result = back_up(backup, &source, &destination, 1);
    CHECK(result == expected, "%d instead of %d: %s", result, expected, backup->message);
}

/* Empties a directory. */
static inline void empty(const char *path) {
    char command[PATH_MAX + 64];
    snprintf(command, sizeof command, "find '%s' -mindepth 1 -delete", path);
    CHECK(system(command) == 0, "%s", command);
}

struct scenario {
    const char *name;
    void (*run)(void);
};

/* Runs the scenario that is named first, in the source and destination that are named next. */
static inline int run_scenario(const struct scenario *scenarios, int argc, char **argv) {
    CHECK(argc == 4, "Usage: %s SCENARIO SOURCE DESTINATION", argv[0]);
    source = argv[2];
    destination = argv[3];
    for (; scenarios->name; scenarios++)
        if (strcmp(scenarios->name, argv[1]) == 0) {
            scenarios->run();
            return 0;
        }
    CHECK(0, "No scenario %s", argv[1]);
}

#endif
