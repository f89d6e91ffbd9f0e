/* Calls of the program that fail or fall short, and backups that fail: neither takes notice of the other. */
#define _GNU_SOURCE
#include "common.h"
#include <sched.h>

static struct backup backup;
static atomic_int stop_now;
static pthread_t threads[8];
static int thread_count;

static void start(void *(*run)(void *), int count) {
    for (int i = 0; i < count; i++)
        CHECK(pthread_create(&threads[thread_count++], NULL, run, (void *)(size_t)i) == 0, "thread %d", i);
}

static void stop_threads(void) {
    stop_now = 1;
    while (thread_count > 0)
        CHECK(pthread_join(threads[--thread_count], NULL) == 0, "join");
}

/* Enough to copy that `once_while_copying` is called in the middle. */
static void ballast(void) {
    for (int i = 0; i < 8; i++) {
        char name[32];
        snprintf(name, sizeof name, "ballast%d", i);
        fill(in(source, name), 4 << 20, 'b');
    }
    tokubackup_throttle_backup(20 << 20);
}

static void (*once_while_copying)(void);
static int was_called;

static int poll_once(float progress) {
    if (progress > 0 && progress < 0.9 && !was_called) {
        was_called = 1;
        /* What is not copied yet waits for what is done now, however long that takes. */
        tokubackup_throttle_backup(1);
        once_while_copying();
        tokubackup_throttle_backup(ULONG_MAX);
    }
    return 0;
}

/* A source without room: writes come to nothing or fall short, space is given back, and so on. */
static atomic_int refused, shortened;

static void *fill_up(void *thread) {
    static char block[96 << 10];
    char path[PATH_MAX], other[PATH_MAX];
    snprintf(path, sizeof path, "%s/filling%zu", source, (size_t)thread);
    snprintf(other, sizeof other, "%s/filled%zu", source, (size_t)thread);
    struct iovec parts[] = {{block, sizeof block / 2}, {block + sizeof block / 2, sizeof block / 2}};
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    OK(fd);
    for (int round = 0; !stop_now; round++) {
        off_t end = lseek(fd, 0, SEEK_END);
        ssize_t done = round % 4 == 0   ? write(fd, block, sizeof block)
                       : round % 4 == 1 ? pwrite(fd, block, sizeof block, end)
                       : round % 4 == 2 ? writev(fd, parts, 2)
                                        : fallocate(fd, 0, end, sizeof block) == 0 ? (ssize_t)sizeof block : -1;
        if (done == (ssize_t)sizeof block)
            continue;
        CHECK(done > 0 || (done == -1 && errno == ENOSPC), "%zd", done);
        *(done > 0 ? &shortened : &refused) += 1;
        CHECK(done < 0 || round % 4 == 1 || lseek(fd, 0, SEEK_CUR) == end + done, "the position after a short write");
        if (done > 0)
            continue;
        if (round % 3 == 0) {
            OK(ftruncate(fd, 1000));
        } else {
            OK(rename(path, other));
            OK(close(fd));
            OK(fd = open(path, O_RDWR | O_CREAT, 0644));
            OK(unlink(other));
        }
    }
    OK(close(fd));
    return NULL;
}

static void wait_for_want(void) {
    int refused_before = refused, shortened_before = shortened;
    while (refused == refused_before || shortened == shortened_before)
        sched_yield();
}

static void want_then_stop(void) {
    CHECK(was_called, "nothing was refused while files were copied");
    wait_for_want();
    stop_threads();
}

static void no_room(void) {
    ballast();
    start(fill_up, 4);
    once_while_copying = wait_for_want;
    backup = (struct backup){.poll = poll_once, .before_stop = want_then_stop};
    succeed(&backup);
}

/* A writer on a pipe that is interrupted while it waits: calls fail with EINTR or fall short. The reader puts what it gets into a file of the source. */
static int ends[2];
static atomic_int interrupted;
static atomic_size_t sent;
static atomic_size_t reads;
/* Held by who keeps the reader from reading. */
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;

static void ignore_signal(int number) {
    (void)number;
}

static void *send_bytes(void *unused) {
    (void)unused;
    static char block[1 << 20];
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)(i % 251);
    while (!stop_now)
        for (size_t done = 0; done < sizeof block;) {
            ssize_t count = write(ends[1], block + done, sizeof block - done);
            CHECK(count > 0 || (count == -1 && errno == EINTR), "%zd", count);
            interrupted += count == -1;
            shortened += count > 0 && (size_t)count < sizeof block - done;
            done += count > 0 ? (size_t)count : 0;
            sent += count > 0 ? (size_t)count : 0;
        }
    OK(close(ends[1]));
    return NULL;
}

static void *receive_bytes(void *unused) {
    (void)unused;
    char block[10000];
    int fd = open(in(source, "received"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    OK(fd);
    size_t received = 0;
    for (;;) {
        pthread_mutex_lock(&reading);
        ssize_t count = read(ends[0], block, sizeof block);
        pthread_mutex_unlock(&reading);
        CHECK(count >= 0 || errno == EINTR, "read");
        reads++;
        if (count == 0)
            break;
        for (ssize_t i = 0; i < count; i++)
            CHECK(block[i] == (char)((received + (size_t)i) % (1 << 20) % 251), "byte %zu", received + (size_t)i);
        if (count > 0) {
            CHECK(write(fd, block, (size_t)count) == count, "a signal cut a write to a file short");
            received += (size_t)count;
        }
        /* Bounds the file. */
        if (received % (16 << 20) < (size_t)(count > 0 ? count : 0))
            OK(ftruncate(fd, 0));
    }
    CHECK(received == sent, "%zu of %zu bytes", received, (size_t)sent);
    OK(close(fd));
    return NULL;
}

static void interrupt(void) {
    pthread_mutex_lock(&reading);
    int interrupted_before = interrupted, shortened_before = shortened;
    while (interrupted == interrupted_before || shortened == shortened_before) {
        CHECK(pthread_kill(threads[0], SIGUSR1) == 0 && pthread_kill(threads[1], SIGUSR1) == 0, "pthread_kill");
        sched_yield();
        /* A call that finds the pipe full is interrupted before its first byte, and so is each after it: something must be read for one to fall short. */
        if (interrupted != interrupted_before && shortened == shortened_before) {
            size_t reads_before = reads;
            pthread_mutex_unlock(&reading);
            while (reads == reads_before)
                sched_yield();
            pthread_mutex_lock(&reading);
        }
    }
    pthread_mutex_unlock(&reading);
}

static void interrupt_then_stop(void) {
    CHECK(was_called, "nothing was interrupted while files were copied");
    interrupt();
    stop_threads();
}

static void interrupted_calls(void) {
    struct sigaction action = {.sa_handler = ignore_signal};
    OK(sigaction(SIGUSR1, &action, NULL));
    OK(pipe(ends));
    ballast();
    start(send_bytes, 1);
    start(receive_bytes, 1);
    once_while_copying = interrupt;
    backup = (struct backup){.poll = poll_once, .before_stop = interrupt_then_stop};
    succeed(&backup);
}

/* The test does harm while files are copied: the backup fails with EXPECTED, and the program, which goes on all the time, meets no error. */
static atomic_size_t steps;

static void *go_on(void *thread) {
    char path[PATH_MAX], other[PATH_MAX], block[5000], back[5000];
    snprintf(path, sizeof path, "%s/worked%zu", source, (size_t)thread);
    snprintf(other, sizeof other, "%s/moved%zu", source, (size_t)thread);
    for (size_t i = 0; !stop_now; i++, steps++) {
        memset(block, 'a' + (char)(i % 26), sizeof block);
        off_t offset = (off_t)(i % 50 * sizeof block);
        int fd = open(path, O_RDWR | O_CREAT, 0644);
        OK(fd);
        CHECK(pwrite(fd, block, sizeof block, offset) == (ssize_t)sizeof block, "pwrite");
        CHECK(pread(fd, back, sizeof back, offset) == (ssize_t)sizeof back && memcmp(block, back, sizeof block) == 0, "pread");
        OK(ftruncate(fd, offset + 5000));
        OK(fsync(fd));
        OK(close(fd));
        OK(rename(path, other));
        OK(i % 7 ? rename(other, path) : unlink(other));
    }
    return NULL;
}

static void let_harm_be_done(void) {
    char line[16];
    puts("copying");
    fflush(stdout);
    CHECK(fgets(line, sizeof line, stdin), "no word to go on");
}

static void harmed(void) {
    const char *sources[] = {source, getenv("SECOND_SOURCE")};
    const char *destinations[] = {destination, getenv("SECOND_DESTINATION")};
    int expected = atoi(getenv("EXPECTED"));
    ballast();
    start(go_on, 2);
    once_while_copying = let_harm_be_done;
    backup = (struct backup){.poll = poll_once};
    int result = back_up(&backup, sources, destinations, sources[1] ? 2 : 1);
    CHECK(was_called, "no harm was done");
    CHECK(result == expected, "%d instead of %d: %s", result, expected, backup.message);
    /* And on it goes. */
    size_t before = steps;
    while (steps < before + 100)
        sched_yield();
    stop_threads();
}

/* Writes whose records no log of the first size holds. (Larger ones are recorded without their bytes.) They go to a file beside the source, so that they are captured and leave nothing to copy. */
enum { HUGE = 64 << 20 };

static void write_huge(size_t thread, int (*more)(void)) {
    char path[PATH_MAX + 32], *block = calloc(1, HUGE);
    snprintf(path, sizeof path, "%s-beside%zu", source, thread);
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    OK(fd);
    do
        CHECK(block && pwrite(fd, block, HUGE, 0) == HUGE, "pwrite");
    while (more());
    OK(close(fd));
    OK(unlink(path));
    free(block);
}

static int not_stopped(void) {
    return !stop_now;
}

static int no_more(void) {
    return 0;
}

static void *write_huge_on(void *thread) {
    write_huge((size_t)thread, not_stopped);
    return NULL;
}

static void write_huge_once(void) {
    write_huge(0, no_more);
}

static int stop_when_begun_again(float progress) {
    if (strstr(backup.progress_message, "again")) {
        CHECK(progress < 1, "too late");
        stop_now = 1;
    }
    return 0;
}

static void overflow(void) {
    ballast();
    /* Of two, one is always at it when the records begin to carry bytes. */
    start(write_huge_on, 2);
    backup.poll = stop_when_begun_again;
    succeed(&backup);
    CHECK(stop_now, "poll was not told that the copy began again");
    stop_threads();
}

static void overflow_when_live(void) {
    fill(in(source, "file"), 100, 'x');
    backup.before_stop = write_huge_once;
    fail_with(&backup, ENOBUFS);
    succeed(&backup);
}

int main(int argc, char **argv) {
    static const struct scenario scenarios[] = {
        {"no_room", no_room}, {"interrupted_calls", interrupted_calls}, {"harmed", harmed},
        {"overflow", overflow}, {"overflow_when_live", overflow_when_live}, {0},
    };
    return run_scenario(scenarios, argc, argv);
}
