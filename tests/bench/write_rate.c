/* Writes small blocks at random places of files of its own, at a given rate, until its input ends.
 *
 *   write_rate DIRECTORY THREADS BYTES RATE      RATE: writes per second of all threads together
 *
 * Rule: what counts is what was written. Every 20 ms it prints how many writes that is so far.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FILE_BYTES = 4 << 20, BYTES_MAX = 1 << 20, THREADS_MAX = 64, REPORT_MS = 20 };
static const struct timespec PAUSE = {0, 200000};

static const char *directory;
static int bytes;
static double rate_of_thread;
/* Each alone on its cache line. */
static struct {
    _Atomic uint64_t written;
    char rest[56];
} counts[THREADS_MAX];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void *work(void *argument) {
    uint64_t index = (uint64_t)(uintptr_t)argument, random = index * 2 + 1, done = 0;
    char path[4096], *block = malloc(BYTES_MAX);
    snprintf(path, sizeof path, "%s/%d", directory, (int)index);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || !block || ftruncate(fd, FILE_BYTES) != 0)
        fail(path);
    memset(block, 'x', BYTES_MAX);
    double start = now();
    for (;;) {
        uint64_t due = (uint64_t)((now() - start) * rate_of_thread);
        for (; done < due; done++) {
            random = random * 6364136223846793005ULL + 1442695040888963407ULL;
            off_t at = (off_t)((random >> 33) % (uint64_t)(FILE_BYTES / bytes)) * bytes;
            memcpy(block, &done, sizeof done);
            if (pwrite(fd, block, (size_t)bytes, at) != bytes)
                fail("pwrite");
            atomic_store_explicit(&counts[index].written, done + 1, memory_order_relaxed);
            /* Not to write on for the rest of the day where it can't keep up. */
            if (done % 1024 == 0)
                due = (uint64_t)((now() - start) * rate_of_thread);
        }
        nanosleep(&PAUSE, NULL);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 5)
        return 2;
    int threads = atoi(argv[2]);
    directory = argv[1];
    bytes = atoi(argv[3]);
    if (threads < 1 || threads > THREADS_MAX || bytes < 8 || bytes > BYTES_MAX)
        return 2;
    rate_of_thread = atof(argv[4]) / threads;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(uintptr_t)i) != 0)
            return 1;
    }
    struct pollfd input = {.fd = 0, .events = POLLIN};
    while (poll(&input, 1, REPORT_MS) == 0) {
        uint64_t sum = 0;
        for (int i = 0; i < threads; i++)
            sum += atomic_load_explicit(&counts[i].written, memory_order_relaxed);
        printf("%llu\n", (unsigned long long)sum);
    }
    return 0;
}
