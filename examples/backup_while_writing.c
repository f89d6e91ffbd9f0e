/*
 * Backs up a directory while a thread writes to it, by the ancestor's interface.
 *
 *   cc backup_while_writing.c $(pkg-config --cflags --libs hotmirror) -lpthread -o backup_while_writing
 *   ./backup_while_writing SOURCE DESTINATION
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backup.h"

static atomic_int stopped;

/* Writes records of 512 bytes all over a file of 4 MiB. */
static void *write_on(void *path) {
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    char record[512];
    for (unsigned count = 0; fd >= 0 && !stopped; count++) {
        memset(record, 'a' + count % 26, sizeof record);
        if (pwrite(fd, record, sizeof record, (off_t)(count * 7919u % 8192u) * 512) < 0)
            break;
    }
    if (fd >= 0)
        close(fd);
    return NULL;
}

static int poll_backup(float progress, const char *message, void *extra) {
    (void)extra;
    printf("%3.0f %%  %s\n", progress * 100, message);
    return 0;
}

static void report(int number, const char *message, void *extra) {
    (void)extra;
    fprintf(stderr, "Error %d: %s\n", number, message);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "Usage: %s SOURCE DESTINATION\n", argv[0]);
        return 2;
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/records", argv[1]);
    pthread_t writer;
    if (pthread_create(&writer, NULL, write_on, path) != 0)
        return 1;
    const char *sources[] = {argv[1]};
    const char *destinations[] = {argv[2]};
    int result = tokubackup_create_backup(sources, destinations, 1, poll_backup, NULL, report, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    stopped = 1;
    pthread_join(writer, NULL);
    printf("%s: %s\n", tokubackup_version_string, result == 0 ? "done" : strerror(result));
    return result != 0;
}
