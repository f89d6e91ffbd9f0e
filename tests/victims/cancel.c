/* Threads that are cancelled in the middle of hooked calls: on files, and stuck on a pipe or a FIFO.
 *
 * A thread makes one kind of call over and over, so that the call itself is the only place where it can act on the request: that it can be joined proves
 * that the call is still a cancellation point. */

#include "victim.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>

enum { THREADS = 4, LEN = 3000, FILE_LEN = 60000 };

struct worker {
    pthread_t thread;
    uint64_t seed;
    int index;
    int cleaned;
    volatile int rounds;
};

static struct worker workers[THREADS];
static int fds[THREADS], appending[THREADS], pipes[THREADS][2], last_fd;
static void *mapping;

static void start(void)
{
    for (int i = 0; i < THREADS; i++) {
        char name[16];
        snprintf(name, sizeof name, "data%d", i);
        fds[i] = (int)CHECK(open(name, O_RDWR | O_CREAT, 0600));
        snprintf(name, sizeof name, "log%d", i);
        appending[i] = (int)CHECK(open(name, O_WRONLY | O_CREAT | O_APPEND, 0600));
        CHECK(ftruncate(fds[i], FILE_LEN));
        CHECK(pipe(pipes[i]));
        CHECK(fcntl(pipes[i][1], F_SETPIPE_SZ, 4096));
    }
    last_fd = pipes[THREADS - 1][1];
}

static void clean(void *worker) { ((struct worker *)worker)->cleaned = 1; }

/* Runs a round of the kind that `round` is, until it is cancelled. */
static void *work(struct worker *worker, void (*round)(struct worker *))
{
    seed_random(worker->seed);
    pthread_cleanup_push(clean, worker);
    for (;;) {
        round(worker);
        worker->rounds++;
        /* The log has a size. */
        int before;
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
        pause_us(100);
        pthread_setcancelstate(before, NULL);
    }
    pthread_cleanup_pop(0);
    return NULL;
}

/* Starts four threads, lets each do something unless it is to get stuck, cancels them, and waits for their end. */
static void cancel_all(void *(*thread)(void *), bool stuck)
{
    for (int i = 0; i < THREADS; i++) {
        workers[i].index = i;
        workers[i].seed = below(1000000);
        workers[i].cleaned = workers[i].rounds = 0;
        HOLDS(pthread_create(&workers[i].thread, NULL, thread, &workers[i]) == 0);
    }
    for (int i = 0; i < THREADS && !stuck; i++)
        while (workers[i].rounds < 3)
            sched_yield();
    pause_us((long)below(200));
    /* Seldom, so that it is mostly a cancelled thread that meets a new session first. */
    if (stuck && below(4) == 0) {
        unsigned char bytes[LEN];
        fill(bytes, sizeof bytes);
        CHECK(pwrite(fds[0], bytes, sizeof bytes, (off_t)below(FILE_LEN)));
    }
    for (int i = 0; i < THREADS; i++)
        HOLDS(pthread_cancel(workers[i].thread) == 0);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        HOLDS(pthread_join(workers[i].thread, &result) == 0);
        HOLDS(result == PTHREAD_CANCELED && workers[i].cleaned);
    }
    /* What a cancelled open left open. */
    CHECK(close_range((unsigned)last_fd + 1, ~0U, 0));
    pause_us(500);
}

#define BY(name, stuck, ...) \
    static void name##_round(struct worker *worker) __VA_ARGS__ \
    static void *name##_thread(void *worker) { return work(worker, name##_round); } \
    static void by_##name(void) { cancel_all(name##_thread, stuck); }

BY(pwrite, false, {
    unsigned char bytes[LEN];
    fill(bytes, sizeof bytes);
    HOLDS(pwrite(fds[worker->index], bytes, sizeof bytes, (off_t)below(FILE_LEN)) == LEN);
})

BY(pwritev, false, {
    unsigned char bytes[LEN];
    fill(bytes, sizeof bytes);
    struct iovec parts[2] = {{bytes, 1000}, {bytes + 1000, LEN - 1000}};
    HOLDS(pwritev(fds[worker->index], parts, 2, (off_t)below(FILE_LEN)) == LEN);
})

BY(write, false, {
    unsigned char bytes[LEN];
    fill(bytes, sizeof bytes);
    if (lseek(fds[worker->index], 0, SEEK_CUR) > FILE_LEN)
        CHECK(lseek(fds[worker->index], 0, SEEK_SET));
    HOLDS(write(fds[worker->index], bytes, sizeof bytes) == LEN);
})

BY(append, false, {
    unsigned char bytes[LEN];
    fill(bytes, sizeof bytes);
    HOLDS(write(appending[worker->index], bytes, sizeof bytes) == LEN);
    if (below(20) == 0)
        CHECK(ftruncate(appending[worker->index], 0));
})

BY(open, false, {
    char name[16];
    snprintf(name, sizeof name, "new%d", (int)below(8));
    int made = open(name, O_RDWR | O_CREAT | (below(2) ? O_TRUNC : 0), 0600);
    if (below(4) == 0)
        unlink(name);
    if (made >= 0)
        close(made);
})

BY(creat, false, {
    char name[16];
    snprintf(name, sizeof name, "new%d", (int)below(8));
    close(creat(name, 0600));
    (void)worker;
})

BY(fallocate, false, {
    CHECK(fallocate(fds[worker->index], FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, (off_t)below(FILE_LEN), 5000));
})

BY(copy, false, {
    off_t from = (off_t)below(20000), to = 30000 + (off_t)below(20000);
    CHECK(copy_file_range(fds[worker->index], &from, fds[worker->index], &to, LEN, 0));
})

/* The pipe is full: nobody reads. */
BY(pipe, true, {
    unsigned char bytes[LEN] = {1};
    CHECK(write(pipes[worker->index][1], bytes, sizeof bytes));
})

BY(pipe_vector, true, {
    unsigned char bytes[LEN] = {1};
    struct iovec parts[2] = {{bytes, 1000}, {bytes + 1000, LEN - 1000}};
    CHECK(writev(pipes[worker->index][1], parts, 2));
})

BY(splice, true, {
    off_t from = 0;
    CHECK(splice(fds[worker->index], &from, pipes[worker->index][1], NULL, LEN, 0));
})

static void start_fifo(void)
{
    start();
    CHECK(mkfifo("../fifo", 0600));
}

/* Nobody opens the other end. */
BY(fifo, true, {
    CHECK(open("../fifo", O_WRONLY | O_CREAT, 0600));
    (void)worker;
})

BY(fopen_fifo, true, {
    HOLDS(fopen("../fifo", "w") != NULL);
    (void)worker;
})

static void start_mapped(void)
{
    start();
    mapping = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    HOLDS(mapping != MAP_FAILED);
}

BY(msync, false, {
    CHECK(msync(mapping, 4096, MS_SYNC));
    unsigned char byte = (unsigned char)worker->rounds;
    CHECK(pwrite(fds[worker->index], &byte, 1, (off_t)below(FILE_LEN)));
})

/* Threads that stay stuck over the beginning and the end of sessions, and are cancelled in some of the rounds. */
static void by_patience(void)
{
    static bool running;
    if (running && below(40) == 0) {
        for (int i = 0; i < THREADS; i++)
            HOLDS(pthread_cancel(workers[i].thread) == 0);
        for (int i = 0; i < THREADS; i++)
            HOLDS(pthread_join(workers[i].thread, NULL) == 0);
        running = false;
    }
    if (!running) {
        for (int i = 0; i < THREADS; i++) {
            workers[i].index = i;
            HOLDS(pthread_create(&workers[i].thread, NULL, i % 2 ? pipe_thread : fifo_thread, &workers[i]) == 0);
        }
        running = true;
    }
    unsigned char bytes[LEN];
    fill(bytes, sizeof bytes);
    CHECK(pwrite(fds[0], bytes, sizeof bytes, (off_t)below(FILE_LEN)));
    pause_us(300);
}

static const struct action actions[] = {
    {"pwrite", by_pwrite, start},
    {"pwritev", by_pwritev, start},
    {"write", by_write, start},
    {"append", by_append, start},
    {"open", by_open, start},
    {"creat", by_creat, start},
    {"fallocate", by_fallocate, start},
    {"copy", by_copy, start},
    {"pipe", by_pipe, start},
    {"pipe_vector", by_pipe_vector, start},
    {"splice", by_splice, start},
    {"fifo", by_fifo, start_fifo},
    {"fopen_fifo", by_fopen_fifo, start_fifo},
    {"msync", by_msync, start_mapped},
    {"patience", by_patience, start_fifo},
};
VICTIM(actions)
