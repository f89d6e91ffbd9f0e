/* A program that has its own opendir, readdir and closedir: what they report while the backup reads directories is the backup's result. */
#define _GNU_SOURCE
#include "common.h"
#include <dlfcn.h>

static atomic_int opendir_fails, readdir_fails, closedir_fails;

DIR *opendir(const char *path) {
    DIR *(*real)(const char *) = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    if (opendir_fails) {
        errno = opendir_fails;
        return NULL;
    }
    return real(path);
}

struct dirent *readdir(DIR *stream) {
    struct dirent *(*real)(DIR *) = (struct dirent * (*)(DIR *)) dlsym(RTLD_NEXT, "readdir");
    if (readdir_fails) {
        errno = readdir_fails;
        return NULL;
    }
    return real(stream);
}

int closedir(DIR *stream) {
    int (*real)(DIR *) = (int (*)(DIR *)) dlsym(RTLD_NEXT, "closedir");
    int result = real(stream);
    if (closedir_fails) {
        errno = closedir_fails;
        return -1;
    }
    return result;
}

static struct backup backup;

static void failing(void) {
    fill(in(source, "file"), 10, 'x');
    opendir_fails = ENOMEM;
    fail_with(&backup, ENOMEM);
    opendir_fails = 0;
    readdir_fails = EIO;
    fail_with(&backup, EIO);
    readdir_fails = 0;
    closedir_fails = EBADF;
    fail_with(&backup, EBADF);
    closedir_fails = 0;
    succeed(&backup);
}

int main(int argc, char **argv) {
    static const struct scenario scenarios[] = {{"failing", failing}, {0}};
    return run_scenario(scenarios, argc, argv);
}
