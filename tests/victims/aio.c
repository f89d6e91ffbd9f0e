/* Asynchronous writes with deep queues: through libaio and through syscall(), buffered and O_DIRECT, plain and vectored.
 *
 * Buffers are refilled only when their request is done, as a server does it. */

#include "victim.h"

#include <libaio.h>
#include <pthread.h>
#include <sys/syscall.h>

enum { DEPTH = 128, BLOCK = 4096, BLOCKS = 256, FILES = 2 };

struct request {
    struct iocb iocb;
    struct iovec vectors[2];
    unsigned char *buffer;
    int block;
    int file;
    bool flying;
};

static int fds[FILES];
static io_context_t context;
static struct request requests[DEPTH];
static bool taken[FILES][BLOCKS];
static bool vectored, raw;

static void open_files(int flags)
{
    for (int i = 0; i < FILES; i++) {
        char name[16];
        snprintf(name, sizeof name, "data%d", i);
        fds[i] = open(name, O_RDWR | O_CREAT | flags, 0600);
        if (fds[i] < 0 && errno == EINVAL)
            fds[i] = open(name, O_RDWR | O_CREAT, 0600);
        CHECK(fds[i]);
        CHECK(ftruncate(fds[i], BLOCK * BLOCKS));
    }
    for (int i = 0; i < DEPTH; i++)
        HOLDS(posix_memalign((void **)&requests[i].buffer, BLOCK, 2 * BLOCK) == 0);
}

static void set_up(int flags)
{
    open_files(flags);
    if (raw) {
        unsigned long made = 0;
        CHECK(syscall(SYS_io_setup, DEPTH, &made));
        context = (io_context_t)made;
    } else {
        HOLDS(io_setup(DEPTH, &context) == 0);
    }
}

static void start_direct(void) { set_up(O_DIRECT); }
static void start_buffered(void) { set_up(0); }
static void start_vectored(void) { vectored = true; set_up(O_DIRECT); }
static void start_raw(void) { raw = true; set_up(O_DIRECT); }
static void start_raw_vectored(void) { raw = vectored = true; set_up(0); }

/* Two blocks that no other request is writing: overlapping requests in flight would leave the bytes to chance. */
static bool prepare(struct request *request)
{
    request->file = (int)below(FILES);
    request->block = (int)below(BLOCKS - 1);
    bool *pair = &taken[request->file][request->block];
    if (pair[0] || pair[1])
        return false;
    pair[0] = pair[1] = true;
    request->flying = true;
    fill(request->buffer, 2 * BLOCK);
    int fd = fds[request->file];
    long long offset = (long long)request->block * BLOCK;
    if (vectored) {
        request->vectors[0] = (struct iovec){request->buffer, BLOCK};
        request->vectors[1] = (struct iovec){request->buffer + BLOCK, BLOCK};
        io_prep_pwritev(&request->iocb, fd, request->vectors, 2, offset);
    } else {
        io_prep_pwrite(&request->iocb, fd, request->buffer, 2 * BLOCK, offset);
    }
    request->iocb.data = request;
    return true;
}

static void submit(struct iocb **iocbs, long count)
{
    while (count > 0) {
        long done = raw ? syscall(SYS_io_submit, context, count, iocbs) : io_submit(context, count, iocbs);
        if (done == -EAGAIN || (done == -1 && errno == EAGAIN))
            continue;
        HOLDS(done > 0);
        iocbs += done;
        count -= done;
    }
}

static void land(struct io_event *event)
{
    struct request *request = event->data;
    HOLDS(request->flying && event->res == 2 * BLOCK);
    taken[request->file][request->block] = taken[request->file][request->block + 1] = false;
    request->flying = false;
}

static void reap(long at_least)
{
    struct io_event events[DEPTH];
    long count = raw ? syscall(SYS_io_getevents, context, at_least, (long)DEPTH, events, NULL)
                     : io_getevents(context, at_least, DEPTH, events, NULL);
    if (count == -EINTR || (count == -1 && errno == EINTR))
        return;
    HOLDS(count >= 0);
    for (long i = 0; i < count; i++)
        land(&events[i]);
}

static long flying(void)
{
    long count = 0;
    for (int i = 0; i < DEPTH; i++)
        count += requests[i].flying;
    return count;
}

static void submit_some(void)
{
    struct iocb *iocbs[DEPTH];
    long count = 0;
    for (int i = 0; i < DEPTH; i++)
        if (!requests[i].flying && below(2) && prepare(&requests[i]))
            iocbs[count++] = &requests[i].iocb;
    submit(iocbs, count);
}

static void by_queue(void)
{
    submit_some();
    reap(flying() / 2);
    pause_us(1000);
}

/* All requests come back before the next round, so that now and then nothing is in flight. */
static void by_batches(void)
{
    submit_some();
    while (flying() > 0)
        reap(1);
    pause_us(1000);
}

/* Requests of both kinds, and reads among them. */
static void by_mixture(void)
{
    static unsigned char *reading;
    if (reading == NULL)
        HOLDS(posix_memalign((void **)&reading, BLOCK, BLOCK) == 0);
    vectored = below(2);
    submit_some();
    struct iocb iocb, *pointer = &iocb;
    io_prep_pread(&iocb, fds[0], reading, BLOCK, 0);
    while (flying() > 0)
        reap(1);
    submit(&pointer, 1);
    struct io_event event;
    HOLDS(io_getevents(context, 1, 1, &event, NULL) == 1 && event.res == BLOCK);
    pause_us(1000);
}

static pthread_t reaper;
static pthread_mutex_t reaping = PTHREAD_MUTEX_INITIALIZER;

/* A thread of its own waits for events, as InnoDB's do. */
static void *reap_always(void *unused)
{
    (void)unused;
    for (;;) {
        struct io_event events[8];
        int count = io_getevents(context, 1, 8, events, NULL);
        HOLDS(count >= 0 || count == -EINTR);
        pthread_mutex_lock(&reaping);
        for (int i = 0; i < count; i++)
            land(&events[i]);
        pthread_mutex_unlock(&reaping);
    }
    return NULL;
}

static void start_threads(void)
{
    set_up(O_DIRECT);
    HOLDS(pthread_create(&reaper, NULL, reap_always, NULL) == 0);
}

static void by_threads(void)
{
    pthread_mutex_lock(&reaping);
    submit_some();
    pthread_mutex_unlock(&reaping);
    pause_us(1000);
}

/* Requests that the kernel refuses, or that end with an error, change nothing. */
static void by_refused(void)
{
    struct iocb bad, *pointer = &bad;
    io_prep_pwrite(&bad, -1, requests[0].buffer, BLOCK, 0);
    HOLDS(io_submit(context, 1, &pointer) == -EBADF);
    io_prep_pwrite(&bad, fds[0], requests[0].buffer, BLOCK, 0);
    bad.aio_lio_opcode = 77;
    HOLDS(io_submit(context, 1, &pointer) == -EINVAL);
    int readable = CHECK(open("data0", O_RDONLY));
    io_prep_pwrite(&bad, readable, requests[0].buffer, BLOCK, 0);
    HOLDS(io_submit(context, 1, &pointer) == -EBADF);
    CHECK(close(readable));
    HOLDS(io_submit(context, 0, NULL) == 0);
    by_batches();
}

/* The descriptor is closed, and its number used again, while the request is in flight. */
static void by_closed(void)
{
    int fd = CHECK(open("closed", O_RDWR | O_CREAT, 0600));
    struct iocb iocb, *pointer = &iocb;
    fill(requests[0].buffer, BLOCK);
    io_prep_pwrite(&iocb, fd, requests[0].buffer, BLOCK, (long long)below(16) * BLOCK);
    submit(&pointer, 1);
    CHECK(close(fd));
    int other = CHECK(open("other", O_RDWR | O_CREAT, 0600));
    HOLDS(other == fd);
    struct io_event event;
    HOLDS(io_getevents(context, 1, 1, &event, NULL) == 1);
    HOLDS(event.res == BLOCK);
    CHECK(close(other));
    pause_us(1000);
}

/* The file is removed while the request is in flight, and its inode, where the file system gives it at once, is another file's when the event is fetched. */
static void by_removed(void)
{
    CHECK(unlink("next") == 0 || errno == ENOENT ? 0 : -1);
    int fd = CHECK(open("removed", O_RDWR | O_CREAT | O_EXCL, 0600));
    struct iocb iocb, *pointer = &iocb;
    fill(requests[0].buffer, BLOCK);
    fill(requests[1].buffer, BLOCK);
    io_prep_pwrite(&iocb, fd, requests[0].buffer, BLOCK, 0);
    submit(&pointer, 1);
    CHECK(unlink("removed"));
    CHECK(close(fd));
    fd = CHECK(open("next", O_RDWR | O_CREAT | O_EXCL, 0600));
    CHECK(pwrite(fd, requests[1].buffer, BLOCK, 0));
    CHECK(close(fd));
    struct io_event event;
    HOLDS(io_getevents(context, 1, 1, &event, NULL) == 1);
    HOLDS(event.res == BLOCK);
    pause_us(200);
}

/* Destroying a context waits for its requests; nobody ever sees their events. */
static void by_destroyed(void)
{
    io_context_t other = NULL;
    struct iocb iocb, *pointer = &iocb;
    fill(requests[0].buffer, BLOCK);
    CHECK(pwrite(fds[1], requests[0].buffer, BLOCK, (off_t)below(BLOCKS) * BLOCK));
    pause_us(500);
    /* It takes a while: most sessions shall begin between two. */
    if (below(256) != 0)
        return;
    HOLDS(io_setup(4, &other) == 0);
    io_prep_pwrite(&iocb, fds[0], requests[0].buffer, BLOCK, (long long)below(BLOCKS) * BLOCK);
    HOLDS(io_submit(other, 1, &pointer) == 1);
    if (raw)
        CHECK(syscall(SYS_io_destroy, other));
    else
        HOLDS(io_destroy(other) == 0);
    pause_us(2000);
}

static const struct action actions[] = {
    {"direct", by_queue, start_direct},
    {"buffered", by_queue, start_buffered},
    {"vectored", by_queue, start_vectored},
    {"raw", by_queue, start_raw},
    {"raw_vectored", by_queue, start_raw_vectored},
    {"batches", by_batches, start_direct},
    {"mixture", by_mixture, start_direct},
    {"threads", by_threads, start_threads},
    {"refused", by_refused, start_direct},
    {"closed", by_closed, start_buffered},
    {"removed", by_removed, start_buffered},
    {"destroyed", by_destroyed, start_direct},
    {"destroyed_raw", by_destroyed, start_raw},
};
VICTIM(actions)
