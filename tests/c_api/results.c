/* Results: each mistake and each failure has its number of errno, one call of the error function, and leaves nothing behind. */
#define _GNU_SOURCE
#include "common.h"

static struct backup backup;

static void missing(void) {
    rmdir(destination);
    fail_with(&backup, ENOENT);
}

static void null(void) {
    const char *none = NULL;
    CHECK(back_up(&backup, &source, &none, 1) == EINVAL, "destination");
    CHECK(back_up(&backup, &none, &destination, 1) == EINVAL, "source");
    CHECK(back_up(&backup, NULL, &destination, 1) == EINVAL, "sources");
    CHECK(back_up(&backup, &source, NULL, 1) == EINVAL, "destinations");
    CHECK(back_up(&backup, &source, &destination, 0) == EINVAL, "no pair");
    CHECK(back_up(&backup, &source, &destination, -1) == EINVAL, "fewer than none");
}

static void no_functions(void) {
    fill(in(source, "file"), 100, 'x');
    int result = tokubackup_create_backup(&source, &destination, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    CHECK(result == 0, "%d", result);
    result = tokubackup_create_backup(&source, &destination, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    CHECK(result == EINVAL, "%d", result);
}

static void not_a_directory(void) {
    OK(rmdir(destination));
    fill(destination, 10, 'x');
    fail_with(&backup, EINVAL);
}

static void not_empty(void) {
    fill(in(destination, "mine"), 10, 'x');
    fail_with(&backup, EINVAL);
    CHECK(exists(in(destination, "mine")), "it was taken away");
    OK(unlink(in(destination, "mine")));
}

static void no_source(void) {
    source = in(source, "nowhere");
    fail_with(&backup, ENOENT);
}

static void inside_the_source(void) {
    destination = in(source, "copy");
    OK(mkdir(destination, 0755));
    fail_with(&backup, EINVAL);
}

/* In either order, and by whatever path. */
static void source_inside_a_source(void) {
    char inner[PATH_MAX], other[PATH_MAX], around[PATH_MAX];
    snprintf(inner, sizeof inner, "%s/inner", source);
    snprintf(around, sizeof around, "%s/inner/..", source);
    snprintf(other, sizeof other, "%s-other", destination);
    OK(mkdir(inner, 0755));
    OK(mkdir(other, 0755));
    const char *destinations[] = {destination, other};
    const char *pairs[][2] = {{source, inner}, {inner, source}, {around, inner}};
    for (int i = 0; i < 3; i++) {
        CHECK(back_up(&backup, pairs[i], destinations, 2) == EINVAL, "%d: %s", i, backup.message);
        CHECK(strstr(backup.message, "inside the source directory"), "%s", backup.message);
    }
    OK(rmdir(other));
    /* One that only begins like another is beside it. */
    char beside[PATH_MAX];
    snprintf(beside, sizeof beside, "%s-beside", source);
    OK(mkdir(beside, 0755));
    OK(mkdir(other, 0755));
    const char *both[] = {source, beside};
    CHECK(back_up(&backup, both, destinations, 2) == 0, "%s", backup.message);
}

/* As a user that is not root. */
static void not_writable(void) {
    OK(chmod(destination, 0555));
    fail_with(&backup, EACCES);
    OK(chmod(destination, 0333));
    fail_with(&backup, EACCES);
    OK(chmod(destination, 0755));
}

/* As a user that is not root. */
static void unreadable_source(void) {
    fill(in(source, "secret"), 10, 'x');
    OK(chmod(in(source, "secret"), 0));
    fail_with(&backup, EACCES);
    OK(chmod(in(source, "secret"), 0600));
    succeed(&backup);
}

/* The destination is a file system of a few megabytes. */
static void full(void) {
    fill(in(source, "large"), 32 << 20, 'x');
    fail_with(&backup, ENOSPC);
}

static int at(float progress) {
    return progress > 0 ? 77 : 0;
}

static void stopped(void) {
    fill(in(source, "file"), 4 << 20, 'x');
    backup.poll = at;
    fail_with(&backup, 77);
    CHECK(rmdir(destination) == 0, "the destination is not empty");
    OK(mkdir(destination, 0755));
    backup.poll = NULL;
    succeed(&backup);
}

static void second_call(void) {
    struct backup second = {0};
    CHECK(back_up(&second, &source, &destination, 1) == EBUSY, "%d", second.error);
}

static void busy(void) {
    fill(in(source, "file"), 100, 'x');
    backup.before_stop = second_call;
    succeed(&backup);
}

int main(int argc, char **argv) {
    static const struct scenario scenarios[] = {
        {"missing", missing}, {"null", null}, {"no_functions", no_functions}, {"not_a_directory", not_a_directory},
        {"not_empty", not_empty}, {"no_source", no_source}, {"inside_the_source", inside_the_source},
        {"source_inside_a_source", source_inside_a_source},
        {"not_writable", not_writable}, {"unreadable_source", unreadable_source}, {"full", full},
        {"stopped", stopped}, {"busy", busy}, {0},
    };
    return run_scenario(scenarios, argc, argv);
}
