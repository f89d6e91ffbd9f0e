/* The library opened while the program runs: the program's calls go to libc, so a backup would miss what it changes. */
#define _GNU_SOURCE
#include "common.h"
#include <dlfcn.h>

static int befores, errors, error;

static void change(void *path) {
    int fd = open(path, O_WRONLY);
    OK(fd);
    OK(pwrite(fd, "changed", 7, 0));
    OK(close(fd));
    befores++;
}

static void on_error(int number, const char *message, void *extra) {
    (void)extra;
    CHECK(strlen(message) > 0, "no reason");
    error = number;
    errors++;
}

typedef int create_backup(const char *[], const char *[], int, backup_poll_fun_t, void *, backup_error_fun_t, void *,
                          backup_exclude_copy_fun_t, void *, backup_before_stop_capt_fun_t, void *,
                          backup_after_stop_capt_fun_t, void *);

int main(int argc, char **argv) {
    CHECK(argc == 4, "three arguments");
    const char *sources[] = {argv[2]}, *destinations[] = {argv[3]};
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/file", argv[2]);
    fill(path, 1000, 'x');
    for (int global = 0; global < 2; global++) {
        void *library = dlopen("libHotBackup.so", RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL));
        CHECK(library, "%s", dlerror());
        create_backup *create;
        *(void **)&create = dlsym(library, "tokubackup_create_backup");
        CHECK(create, "%s", dlerror());
        int result = create(sources, destinations, 1, NULL, NULL, on_error, NULL, NULL, NULL, change, path, NULL, NULL);
        CHECK(result == ENOSYS && error == ENOSYS && errors == global + 1, "%d", result);
        CHECK(befores == 0, "it was called live");
        CHECK(dlclose(library) == 0, "%s", dlerror());
    }
    return 0;
}
