/* A random file exerciser: threads that write, append, truncate, make holes, rename, link and unlink in one tree, in each other's way.
 *
 * Calls may fail because of what another thread did; only failures that say that something else is wrong end the victim. */

#include "victim.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/uio.h>

enum { THREADS_MAX = 16, NAMES = 12, DIRECTORIES = 5, SHARED = 4, FILE_LEN = 1 << 17, BUFFER_LEN = 1 << 14 };

static int shared[SHARED], shared_append[SHARED];
static int thread_count = 4;
/* Calls between two pauses of a thread. */
static unsigned long pace = 16;
static bool with_directories;

/* Names below names below names, all of which may be missing at any moment. */
static void a_path(char *path, size_t len)
{
    switch (below(with_directories ? 4 : 3)) {
    case 0: snprintf(path, len, "f%d", (int)below(NAMES)); break;
    case 1: snprintf(path, len, "dir%d/f%d", (int)below(DIRECTORIES), (int)below(NAMES)); break;
    case 2: snprintf(path, len, "dir%d/../f%d", (int)below(DIRECTORIES), (int)below(NAMES)); break;
    default: snprintf(path, len, "dir%d/dir%d/f%d", (int)below(DIRECTORIES), (int)below(DIRECTORIES), (int)below(NAMES)); break;
    }
}

static void a_directory(char *path, size_t len)
{
    if (below(2))
        snprintf(path, len, "dir%d", (int)below(DIRECTORIES));
    else
        snprintf(path, len, "dir%d/dir%d", (int)below(DIRECTORIES), (int)below(DIRECTORIES));
}

static void may_fail(long result, int line)
{
    if (result >= 0)
        return;
    switch (errno) {
    case ENOENT: case EEXIST: case ENOTDIR: case ENOTEMPTY: case EISDIR: case EINVAL: case EOPNOTSUPP: case EBUSY: case ELOOP: return;
    default: fail_at("exercise", line);
    }
}

#define MAY_FAIL(call) may_fail((long)(call), __LINE__)

/* `own`: the descriptor is this thread's alone, and so is its position. */
static void change_data(int fd, bool own, unsigned char *buffer)
{
    size_t len = below(8) == 0 ? below(BUFFER_LEN) + 1 : below(600) + 1;
    off_t offset = (off_t)below(FILE_LEN);
    fill(buffer, len);
    switch (below(12)) {
    case 0: CHECK(ftruncate(fd, offset)); break;
    case 1: MAY_FAIL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, (off_t)len * 4)); break;
    case 2: MAY_FAIL(fallocate(fd, below(2) ? FALLOC_FL_KEEP_SIZE : 0, offset, (off_t)len * 4)); break;
    case 3: MAY_FAIL(fallocate(fd, FALLOC_FL_ZERO_RANGE, offset, (off_t)len)); break;
    case 4: {
        struct iovec vectors[2] = {{buffer, len / 2}, {buffer + len / 2, len - len / 2}};
        CHECK(pwritev(fd, vectors, 2, offset));
        break;
    }
    case 5:
        if (own)
            CHECK(lseek(fd, offset, SEEK_SET));
        CHECK(write(fd, buffer, len));
        if (!own && below(20) == 0)
            CHECK(ftruncate(fd, 0));
        break;
    default: CHECK(pwrite(fd, buffer, len, offset)); break;
    }
}

/* All threads hit the same few blocks, so that the order in the log shows. */
static void collide(unsigned char *buffer)
{
    int fd = shared[below(SHARED)];
    size_t len = below(4000) + 1;
    fill(buffer, len);
    CHECK(pwrite(fd, buffer, len, (off_t)below(3000)));
}

static void append(unsigned char *buffer)
{
    int fd = shared_append[below(SHARED)];
    size_t len = below(300) + 1;
    fill(buffer, len);
    CHECK(write(fd, buffer, len));
    if (below(200) == 0)
        CHECK(ftruncate(fd, (off_t)below(100)));
}

static void change_names(unsigned char *buffer)
{
    char from[96], to[96];
    a_path(from, sizeof from);
    a_path(to, sizeof to);
    switch (below(12)) {
    case 0: MAY_FAIL(unlink(from)); break;
    case 1: MAY_FAIL(link(from, to)); break;
    case 2: MAY_FAIL(renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE)); break;
    case 3: MAY_FAIL(renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE)); break;
    case 4: case 5: MAY_FAIL(rename(from, to)); break;
    case 6: MAY_FAIL(symlink(from, to)); break;
    case 7: a_directory(from, sizeof from); MAY_FAIL(mkdir(from, 0700)); break;
    case 8: a_directory(from, sizeof from); MAY_FAIL(rmdir(from)); break;
    case 9:
        if (with_directories && below(4) == 0) {
            a_directory(from, sizeof from);
            a_directory(to, sizeof to);
            MAY_FAIL(rename(from, to));
        }
        break;
    default: {
        int fd = open(from, O_RDWR | O_CREAT | (below(4) == 0 ? O_TRUNC : 0), 0600);
        MAY_FAIL(fd);
        if (fd < 0)
            break;
        for (uint64_t i = below(4); i > 0; i--)
            change_data(fd, true, buffer);
        CHECK(close(fd));
    }
    }
}

static void exercise(unsigned char *buffer)
{
    switch (below(6)) {
    case 0: case 1: change_names(buffer); break;
    case 2: append(buffer); break;
    case 3: change_data(shared[below(SHARED)], false, buffer); break;
    default: collide(buffer); break;
    }
}

static void *exercise_forever(void *seed)
{
    static __thread unsigned char buffer[BUFFER_LEN];
    seed_random((uint64_t)(uintptr_t)seed);
    for (unsigned long i = 0;; i++) {
        exercise(buffer);
        if (i % pace == 0)
            pause_us(500 + (long)below(1000));
    }
    return NULL;
}

static void begin(void)
{
    for (int i = 0; i < SHARED; i++) {
        char name[16];
        snprintf(name, sizeof name, "shared%d", i);
        shared[i] = (int)CHECK(open(name, O_RDWR | O_CREAT, 0600));
        snprintf(name, sizeof name, "appended%d", i);
        shared_append[i] = (int)CHECK(open(name, O_RDWR | O_CREAT | O_APPEND, 0600));
    }
    for (int i = 0; i < thread_count - 1; i++) {
        pthread_t thread;
        HOLDS(pthread_create(&thread, NULL, exercise_forever, (void *)(uintptr_t)(below(1 << 30) + 1)) == 0);
    }
}

static void start_files(void)
{
    for (int i = 0; i < DIRECTORIES; i++) {
        char name[16];
        snprintf(name, sizeof name, "dir%d", i);
        if (mkdir(name, 0700) < 0)
            HOLDS(errno == EEXIST);
    }
    begin();
}

static void start_tree(void) { with_directories = true; start_files(); }
static void start_crowd(void) { thread_count = THREADS_MAX; pace = 1; start_tree(); }
static void start_alone(void) { thread_count = 1; start_tree(); }

static void by_exercise(void)
{
    static unsigned char buffer[BUFFER_LEN];
    exercise(buffer);
}

static void by_collision(void)
{
    static unsigned char buffer[BUFFER_LEN];
    collide(buffer);
}

static void *collide_forever(void *seed)
{
    static __thread unsigned char buffer[BUFFER_LEN];
    seed_random((uint64_t)(uintptr_t)seed);
    for (unsigned long i = 0;; i++) {
        collide(buffer);
        if (i % 16 == 0)
            pause_us(500);
    }
    return NULL;
}

static void start_collision(void)
{
    thread_count = 1;
    begin();
    for (int i = 0; i < 5; i++) {
        pthread_t thread;
        HOLDS(pthread_create(&thread, NULL, collide_forever, (void *)(uintptr_t)(below(1 << 30) + 1)) == 0);
    }
}

/* Every kind of change in the same few bytes at once: what the file holds at the end depends on the order of all of them. */
static void collide_mixed(unsigned char *buffer)
{
    static __thread int own, own_append;
    if (own == 0) {
        own = (int)CHECK(open("shared0", O_RDWR));
        own_append = (int)CHECK(open("shared0", O_WRONLY | O_APPEND));
    }
    size_t len = below(3000) + 1;
    off_t offset = (off_t)below(3000);
    struct iovec vectors[2] = {{buffer, len / 3}, {buffer + len / 3, len - len / 3}};
    fill(buffer, len);
    switch (below(12)) {
    case 0: CHECK(ftruncate(own, offset)); break;
    case 1: CHECK(truncate("shared0", offset * 2)); break;
    case 2: CHECK(fallocate(own, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, (off_t)len)); break;
    case 3: MAY_FAIL(fallocate(own, FALLOC_FL_ZERO_RANGE, offset, (off_t)len)); break;
    case 4: CHECK(fallocate(own, 0, offset, (off_t)len)); break;
    case 5: CHECK(write(own_append, buffer, len)); break;
    case 6: CHECK(pwritev2(own, vectors, 2, 0, RWF_APPEND)); break;
    case 7:
        CHECK(lseek(own, offset, SEEK_SET));
        CHECK(writev(own, vectors, 2));
        break;
    case 8: CHECK(pwritev(own, vectors, 2, offset)); break;
    case 9:
        if (below(10) == 0)
            CHECK(close((int)CHECK(open("shared0", O_WRONLY | O_TRUNC))));
        break;
    default: CHECK(pwrite(own, buffer, len, offset)); break;
    }
}

static void by_collision_mixed(void)
{
    static unsigned char buffer[BUFFER_LEN];
    collide_mixed(buffer);
}

static void *collide_mixed_forever(void *seed)
{
    static __thread unsigned char buffer[BUFFER_LEN];
    seed_random((uint64_t)(uintptr_t)seed);
    for (unsigned long i = 0;; i++) {
        collide_mixed(buffer);
        if (i % 16 == 0)
            pause_us(500);
    }
    return NULL;
}

static void start_collision_mixed(void)
{
    thread_count = 1;
    begin();
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        HOLDS(pthread_create(&thread, NULL, collide_mixed_forever, (void *)(uintptr_t)(below(1 << 30) + 1)) == 0);
    }
}

enum { BIG_LEN = 96 << 20 };

static void change_big(unsigned char *buffer)
{
    int fd = shared[below(2)];
    size_t len = below(BUFFER_LEN) + 1;
    off_t offset = (off_t)below(BIG_LEN);
    fill(buffer, len);
    switch (below(40)) {
    case 0: CHECK(ftruncate(fd, offset)); break;
    case 1: CHECK(ftruncate(fd, BIG_LEN)); break;
    case 2: CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, 10 << 20)); break;
    case 3: MAY_FAIL(fallocate(fd, FALLOC_FL_ZERO_RANGE, offset, 3 << 20)); break;
    case 4: CHECK(ftruncate(fd, 0)); break;
    default: CHECK(pwrite(fd, buffer, len, offset)); break;
    }
}

static void *change_big_forever(void *seed)
{
    static __thread unsigned char buffer[BUFFER_LEN];
    seed_random((uint64_t)(uintptr_t)seed);
    for (;;) {
        change_big(buffer);
        pause_us(2000);
    }
    return NULL;
}

/* Files of several pieces each, so that a copy of them takes time and several workers. */
static void start_big(void)
{
    static unsigned char block[1 << 20];
    thread_count = 1;
    begin();
    for (int i = 0; i < 2; i++) {
        for (off_t at = 0; at < BIG_LEN; at += (off_t)sizeof block) {
            fill(block, sizeof block);
            CHECK(pwrite(shared[i], block, sizeof block, at));
        }
        pthread_t thread;
        HOLDS(pthread_create(&thread, NULL, change_big_forever, (void *)(uintptr_t)(below(1 << 30) + 1)) == 0);
    }
}

static void by_big(void)
{
    static unsigned char buffer[BUFFER_LEN];
    change_big(buffer);
    pause_us(2000);
}

static const struct action actions[] = {
    {"big", by_big, start_big},
    {"collision_mixed", by_collision_mixed, start_collision_mixed},
    {"alone", by_exercise, start_alone},
    {"files", by_exercise, start_files},
    {"tree", by_exercise, start_tree},
    {"crowd", by_exercise, start_crowd},
    {"collision", by_collision, start_collision},
};
VICTIM(actions)
