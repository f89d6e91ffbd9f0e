/* Times pwrite: prints the nanoseconds that one call takes, as the median of short rounds.
 *
 * Rule: one file, one block, in the page cache, so that the cost of the call is what is measured and not that of the disk.
 *
 *   pwrite_loop FILE BYTES ROUNDS          prints a number, and how many calls a round has
 *   pwrite_loop FILE BYTES ROUNDS wait     prints "ready", waits for a line on stdin, then the same; leaves whoever reads along time between the rounds
 *   pwrite_loop FILE BYTES ROUNDS against  short rounds by the pwrite that programs get and by libc's own in turn, in the same memory: prints what the
 *                                          first takes more, in the median of the pairs, and what the second takes
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CALLS_MAX = 20000, ROUND_BYTES = 10 << 20, BLOCK_MAX = 1 << 20, ROUNDS_MAX = 1000, PAUSE_US = 5000, PAIRS = 501, PAIR_CALLS = 200 };

typedef ssize_t writer(int, const void *, size_t, off_t);

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double round_ns(writer *write_at, int fd, const char *block, size_t len, int calls) {
    double start = now_ns();
    for (int i = 0; i < calls; i++) {
        if (write_at(fd, block, len, 0) != (ssize_t)len) {
            perror("pwrite");
            exit(1);
        }
    }
    return (now_ns() - start) / calls;
}

static void against(int fd, const char *block, size_t len) {
    static double more[PAIRS], own[PAIRS];
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    writer *given = (writer *)dlsym(RTLD_DEFAULT, "pwrite"), *libcs = libc ? (writer *)dlsym(libc, "pwrite") : NULL;
    if (!given || !libcs) {
        fprintf(stderr, "No pwrite: %s\n", dlerror());
        exit(1);
    }
    for (int i = 0; i < PAIRS; i++) {
        double first = round_ns(i % 2 ? given : libcs, fd, block, len, PAIR_CALLS);
        double second = round_ns(i % 2 ? libcs : given, fd, block, len, PAIR_CALLS);
        own[i] = i % 2 ? second : first;
        more[i] = i % 2 ? first - second : second - first;
    }
    qsort(more, PAIRS, sizeof more[0], by_value);
    qsort(own, PAIRS, sizeof own[0], by_value);
    printf("%.2f %.1f\n", more[PAIRS / 2], own[PAIRS / 2]);
}

int main(int argc, char **argv) {
    static double rounds[ROUNDS_MAX];
    static char block[BLOCK_MAX] __attribute__((aligned(4096)));
    char line[16];
    if (argc < 4)
        return 2;
    int len = atoi(argv[2]), count = atoi(argv[3]);
    if (len < 1 || len > BLOCK_MAX || count < 1 || count > ROUNDS_MAX)
        return 2;
    int calls = ROUND_BYTES / len < CALLS_MAX ? ROUND_BYTES / len : CALLS_MAX;
    int fd = open(argv[1], O_RDWR | O_CREAT, 0600);
    if (fd < 0) {
        perror(argv[1]);
        return 1;
    }
    memset(block, 'x', sizeof block);
    round_ns(pwrite, fd, block, len, calls);
    if (argc > 4 && strcmp(argv[4], "against") == 0) {
        against(fd, block, len);
        return 0;
    }
    if (argc > 4) {
        puts("ready");
        fflush(stdout);
        if (!fgets(line, sizeof line, stdin))
            return 1;
    }
    for (int i = 0; i < count; i++) {
        rounds[i] = round_ns(pwrite, fd, block, len, calls);
        if (argc > 4)
            usleep(PAUSE_US);
    }
    qsort(rounds, count, sizeof rounds[0], by_value);
    printf("%.1f %d\n", rounds[count / 2], calls);
    return 0;
}
