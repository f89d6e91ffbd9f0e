/* Calls that fail, or do less than they were asked: what the log says must be what was done. */

#include "victim.h"

/* Arguments that no call accepts are what this file is about. */
#pragma GCC diagnostic ignored "-Wnonnull"
#pragma GCC diagnostic ignored "-Wstringop-overread"
#pragma GCC diagnostic ignored "-Wstringop-overflow"

#include <libaio.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <linux/falloc.h>
#include <linux/fs.h>

enum { LIMIT = 100000, FILE_LEN = 90000 };

static int fd, readable, pipes[2];
static unsigned char buffer[20000];

static void start(void)
{
    fd = CHECK(open("data", O_RDWR | O_CREAT, 0600));
    readable = CHECK(open("data", O_RDONLY));
    CHECK(pipe(pipes));
}

static void do_some(void)
{
    fill(buffer, sizeof buffer);
    CHECK(pwrite(fd, buffer, below(5000) + 1, (off_t)below(FILE_LEN)));
}

static void by_bad_descriptor(void)
{
    do_some();
    FAILS(EBADF, write(-1, buffer, 100));
    FAILS(EBADF, pwrite(9999, buffer, 100, 0));
    FAILS(EBADF, write(readable, buffer, 100));
    FAILS(EBADF, pwrite(readable, buffer, 100, 0));
    FAILS(EINVAL, ftruncate(readable, 0));
    FAILS(EBADF, fallocate(readable, 0, 0, 10));
    FAILS(ESPIPE, pwrite(pipes[1], buffer, 100, 0));
    FAILS(EINVAL, pwrite(fd, buffer, 100, -5));
    FAILS(EINVAL, ftruncate(fd, -1));
    FAILS(EINVAL, truncate("data", -1));
    HOLDS(posix_fallocate(fd, -1, 1) == EINVAL);
    FAILS(EINVAL, fallocate(fd, 0, 0, 0));
    FAILS(EINVAL, writev(fd, NULL, -1));
    FAILS(EFAULT, write(fd, (void *)1, 100));
    FAILS(EFAULT, pwritev(fd, (void *)8, 2, 0));
}

static void by_bad_name(void)
{
    do_some();
    FAILS(ENOENT, open("absent", O_RDWR));
    FAILS(EEXIST, open("data", O_RDWR | O_CREAT | O_EXCL, 0600));
    FAILS(ENOTDIR, open("data/inside", O_RDWR | O_CREAT, 0600));
    FAILS(ENOENT, open("", O_RDWR | O_CREAT, 0600));
    FAILS(EISDIR, open(".", O_RDWR | O_CREAT, 0600));
    FAILS(EFAULT, open(NULL, O_RDWR | O_CREAT, 0600));
    FAILS(EFAULT, unlink(NULL));
    FAILS(ENOENT, rename("absent", "data"));
    FAILS(EEXIST, renameat2(AT_FDCWD, "data", AT_FDCWD, "data", RENAME_NOREPLACE));
    FAILS(EFAULT, rename("data", NULL));
    FAILS(ENOENT, unlink("absent"));
    FAILS(EISDIR, unlink("."));
    FAILS(ENOTDIR, rmdir("data"));
    FAILS(EINVAL, rmdir("."));
    FAILS(EEXIST, link("data", "data"));
    FAILS(EEXIST, symlink("data", "data"));
    FAILS(EEXIST, mkdir("data", 0700));
    FAILS(EBADF, openat(-1, "relative", O_RDWR | O_CREAT, 0600));
    FAILS(ENOTDIR, openat(fd, "relative", O_RDWR | O_CREAT, 0600));
    FAILS(ENOENT, truncate("absent", 0));
    char template[] = "notemplate";
    FAILS(EINVAL, mkstemp(template));
    char absent[] = "absent/XXXXXX";
    FAILS(ENOENT, mkstemp(absent));
    static char long_name[5000];
    memset(long_name, 'a', sizeof long_name - 1);
    FAILS(ENAMETOOLONG, open(long_name, O_RDWR | O_CREAT, 0600));
    FAILS(ENAMETOOLONG, rename("data", long_name));
}

#define BAD ((void *)1)

static io_context_t context;

static void start_bad_pointer(void)
{
    start();
    HOLDS(io_setup(4, &context) == 0);
}

/* Addresses that can't be read are the kernel's to refuse. */
static void by_bad_pointer(void)
{
    do_some();
    FAILS(EFAULT, open(BAD, O_RDWR | O_CREAT, 0600));
    FAILS(EFAULT, open64(BAD, O_RDWR | O_TRUNC));
    FAILS(EFAULT, openat(AT_FDCWD, BAD, O_RDWR | O_CREAT, 0600));
    FAILS(EFAULT, openat64(AT_FDCWD, BAD, O_RDWR | O_CREAT, 0600));
    FAILS(EFAULT, creat(BAD, 0600));
    FAILS(EFAULT, creat64(BAD, 0600));
    HOLDS(fopen(BAD, "w") == NULL && errno == EFAULT);
    HOLDS(fopen64(BAD, "a") == NULL && errno == EFAULT);
    FAILS(EFAULT, truncate(BAD, 0));
    FAILS(EFAULT, truncate64(BAD, 0));
    FAILS(EFAULT, rename(BAD, "data"));
    FAILS(EFAULT, rename("data", BAD));
    FAILS(EFAULT, renameat(AT_FDCWD, BAD, AT_FDCWD, "data"));
    FAILS(EFAULT, renameat2(AT_FDCWD, "data", AT_FDCWD, BAD, 0));
    FAILS(EFAULT, unlink(BAD));
    FAILS(EFAULT, unlinkat(AT_FDCWD, BAD, 0));
    FAILS(EFAULT, remove(BAD));
    FAILS(EFAULT, rmdir(BAD));
    FAILS(EFAULT, link("data", BAD));
    FAILS(EFAULT, linkat(AT_FDCWD, BAD, AT_FDCWD, "other", 0));
    FAILS(EFAULT, symlink("data", BAD));
    FAILS(EFAULT, symlink(BAD, "other"));
    FAILS(EFAULT, symlinkat("data", AT_FDCWD, BAD));
    FAILS(EFAULT, mkdir(BAD, 0700));
    FAILS(EFAULT, mkdirat(AT_FDCWD, BAD, 0700));
    FAILS(EFAULT, write(fd, BAD, 10));
    FAILS(EFAULT, pwrite(fd, BAD, 10, 0));
    FAILS(EFAULT, writev(fd, BAD, 1));
    FAILS(EFAULT, pwritev(fd, BAD, 1, 0));
    FAILS(EFAULT, pwritev2(fd, BAD, 1, -1, 0));
    FAILS(EFAULT, sendfile(fd, readable, BAD, 10));
    FAILS(EFAULT, copy_file_range(readable, BAD, fd, NULL, 10, 0));
    FAILS(EFAULT, copy_file_range(readable, NULL, fd, BAD, 10, 0));
    FAILS(EFAULT, splice(pipes[0], NULL, fd, BAD, 10, 0));
    FAILS(EFAULT, syscall(SYS_openat, AT_FDCWD, BAD, O_RDWR | O_CREAT, 0600));
    FAILS(EFAULT, syscall(SYS_openat2, AT_FDCWD, "other", BAD, 24));
    FAILS(EFAULT, syscall(SYS_unlinkat, AT_FDCWD, BAD, 0));
    FAILS(EFAULT, syscall(SYS_renameat2, AT_FDCWD, BAD, AT_FDCWD, BAD, 0));
    struct iocb *bad = BAD, *none = NULL;
    HOLDS(io_submit(context, 1, BAD) == -EFAULT);
    HOLDS(io_submit(context, 1, &bad) == -EFAULT);
    HOLDS(io_submit(context, 1, &none) == -EFAULT);
    /* The kernel makes EINTR of no events where it has woken the thread for something of its own. */
    int got = io_getevents(context, 0, 1, BAD, NULL);
    if (got != 0)
        fprintf(stderr, "io_getevents gave %d\n", got);
    HOLDS(got == 0 || got == -EINTR);
    FAILS(EFAULT, syscall(SYS_io_submit, context, 1, &bad));

    /* What comes before the bad one is taken, and written. */
    struct iocb good, *iocbs[2] = {&good, BAD};
    io_prep_pwrite(&good, fd, buffer, 500, (long long)below(FILE_LEN));
    HOLDS(io_submit(context, 2, iocbs) == 1);
    struct io_event event;
    HOLDS(io_getevents(context, 1, 1, &event, NULL) == 1 && event.res == 500);
}

static void start_limit(void)
{
    start();
    struct rlimit limit = {LIMIT, LIMIT};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit));
    HOLDS(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
}

/* The limit on the size of files lets a part through, then nothing. */
static void by_short_write(void)
{
    fill(buffer, sizeof buffer);
    HOLDS(pwrite(fd, buffer, sizeof buffer, LIMIT - 7000) == 7000);
    CHECK(lseek(fd, LIMIT - 300, SEEK_SET));
    HOLDS(write(fd, buffer + 100, 1000) == 300);
    FAILS(EFBIG, write(fd, buffer, 1000));
    FAILS(EFBIG, pwrite(fd, buffer, 1, LIMIT));
    FAILS(EFBIG, ftruncate(fd, LIMIT + 1));
    struct iovec vectors[3] = {{buffer, 50}, {buffer + 1000, 100}, {buffer + 2000, 1000}};
    HOLDS(pwritev(fd, vectors, 3, LIMIT - 200) == 200);
    CHECK(ftruncate(fd, (off_t)below(LIMIT)));
}

/* An address that can't be read ends a write in its middle. */
static void by_fault_inside(void)
{
    fill(buffer, sizeof buffer);
    struct iovec vectors[3] = {{buffer, 3000}, {buffer + 4000, 2000}, {(void *)4096, 1000}};
    ssize_t done = writev(fd, vectors, 3);
    HOLDS(done == 5000 || (done < 0 && errno == EFAULT));
    done = pwritev(fd, vectors, 3, (off_t)below(FILE_LEN));
    HOLDS(done >= 0 || errno == EFAULT);
    do_some();
    CHECK(lseek(fd, (off_t)below(FILE_LEN), SEEK_SET));
}

static void on_alarm(int number) { (void)number; }

static void start_interrupted(void)
{
    start();
    struct sigaction action = {.sa_handler = on_alarm};
    CHECK(sigaction(SIGALRM, &action, NULL));
    struct itimerval often = {{0, 300}, {0, 300}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL));
}

/* A signal every 300 microseconds, without SA_RESTART. */
static void by_interrupted(void)
{
    fill(buffer, sizeof buffer);
    for (int i = 0; i < 10; i++) {
        ssize_t done = pwrite(fd, buffer, sizeof buffer, (off_t)below(FILE_LEN));
        HOLDS(done >= 0 || errno == EINTR);
    }
    int result = posix_fallocate(fd, (off_t)below(FILE_LEN), 50000);
    HOLDS(result == 0 || result == EINTR);
    if (below(20) == 0)
        CHECK(ftruncate(fd, 0));
}

/* errno is what the real call left, and a call that succeeds leaves it alone. */
static void by_errno(void)
{
    errno = 77;
    do_some();
    HOLDS(errno == 77);
    int other = CHECK(open("other", O_RDWR | O_CREAT | O_TRUNC, 0600));
    CHECK(write(other, buffer, 100));
    CHECK(close(other));
    CHECK(rename("other", "another"));
    CHECK(unlink("another"));
    HOLDS(errno == 77);
}

static const struct action actions[] = {
    {"bad_descriptor", by_bad_descriptor, start},
    {"bad_name", by_bad_name, start},
    {"bad_pointer", by_bad_pointer, start_bad_pointer},
    {"short_write", by_short_write, start_limit},
    {"fault_inside", by_fault_inside, start},
    {"interrupted", by_interrupted, start_interrupted},
    {"errno", by_errno, start},
};
VICTIM(actions)
