/* A program that is linked in several ways. Where another library has a name in front, a backup would miss what the program changes by it. */
#include "common.h"

extern int io_submit(void *context, long count, void *iocbs);

static struct backup backup;

static void in_front(void) {
    /* A program that is linked to fixed addresses has addresses of its own for these. */
    void *volatile functions[] = {(void *)write, (void *)io_submit};
    CHECK(functions[0] != functions[1], "two functions");
    fill(in(source, "file"), 1000, 'x');
    succeed(&backup);
}

static void behind(void) {
    fail_with(&backup, ENOSYS);
    CHECK(strstr(backup.message, getenv("NAME")), "%s", backup.message);
    CHECK(strstr(backup.message, getenv("LIBRARY")), "%s", backup.message);
}

int main(int argc, char **argv) {
    static const struct scenario scenarios[] = {{"in_front", in_front}, {"behind", behind}, {NULL, NULL}};
    return run_scenario(scenarios, argc, argv);
}
