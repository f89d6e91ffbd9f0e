/* The same changes through syscall(), as MariaDB's wrappers for asynchronous I/O make theirs. */

#include "victim.h"

#include <linux/falloc.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static int fd, root;
static unsigned char buffer[8192];
static struct iovec vectors[2];
static char name[32], other[32];

static void start(void)
{
    root = CHECK(open(".", O_RDONLY | O_DIRECTORY));
    fd = CHECK(syscall(SYS_openat, AT_FDCWD, "data", O_RDWR | O_CREAT, 0600));
}

static size_t a_buffer(void)
{
    fill(buffer, sizeof buffer);
    vectors[0] = (struct iovec){buffer, 1000};
    vectors[1] = (struct iovec){buffer + 3000, below(5000)};
    return below(sizeof buffer) + 1;
}

static long an_offset(void) { return (long)below(100000); }

static void by_write(void) { size_t len = a_buffer(); CHECK(lseek(fd, an_offset(), SEEK_SET)); CHECK(syscall(SYS_write, fd, buffer, len)); }
static void by_writev(void) { a_buffer(); CHECK(lseek(fd, an_offset(), SEEK_SET)); CHECK(syscall(SYS_writev, fd, vectors, 2)); }
static void by_pwrite64(void) { size_t len = a_buffer(); CHECK(syscall(SYS_pwrite64, fd, buffer, len, an_offset())); }
static void by_pwritev(void) { a_buffer(); CHECK(syscall(SYS_pwritev, fd, vectors, 2L, an_offset(), 0L)); }
static void by_pwritev2(void) { a_buffer(); CHECK(syscall(SYS_pwritev2, fd, vectors, 2L, an_offset(), 0L, 0L)); }
static void by_ftruncate(void) { by_pwrite64(); CHECK(syscall(SYS_ftruncate, fd, an_offset())); }
static void by_truncate(void) { by_pwrite64(); CHECK(syscall(SYS_truncate, "data", an_offset())); }
static void by_fallocate(void) { by_pwrite64(); CHECK(syscall(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, an_offset(), 10000L)); }

static void two_names(void)
{
    snprintf(name, sizeof name, "f%d", (int)below(8));
    snprintf(other, sizeof other, "g%d", (int)below(8));
}

static void use(long fd)
{
    size_t len = a_buffer();
    CHECK(pwrite((int)fd, buffer, len, 0));
    CHECK(close((int)fd));
}

static void forget(const char *name)
{
    if (below(3) == 0)
        unlink(name);
}

static void by_open(void) { two_names(); forget(name); use(CHECK(syscall(SYS_open, name, O_RDWR | O_CREAT | (below(2) ? O_TRUNC : 0), 0600))); }
static void by_openat(void) { two_names(); forget(name); use(CHECK(syscall(SYS_openat, root, name, O_RDWR | O_CREAT | (below(2) ? O_TRUNC : 0), 0600))); }
static void by_creat(void) { two_names(); forget(name); use(CHECK(syscall(SYS_creat, name, 0600))); }

static void by_openat2(void)
{
    two_names();
    forget(name);
    struct open_how how = {.flags = O_RDWR | O_CREAT | (below(2) ? O_TRUNC : 0), .mode = 0600};
    /* From a root of its own, the path leads to the same file. */
    char rooted[sizeof name + 1];
    snprintf(rooted, sizeof rooted, "/%s", name);
    if (below(2))
        how.resolve = RESOLVE_IN_ROOT;
    use(CHECK(syscall(SYS_openat2, root, how.resolve ? rooted : name, &how, sizeof how)));
}

static void by_rename(void) { by_open(); CHECK(syscall(SYS_rename, name, other)); }
static void by_renameat(void) { by_open(); CHECK(syscall(SYS_renameat, root, name, root, other)); }
static void by_renameat2(void) { by_open(); CHECK(syscall(SYS_renameat2, root, name, AT_FDCWD, other, 0L)); }
static void by_unlink(void) { by_open(); CHECK(syscall(SYS_unlink, name)); }
static void by_unlinkat(void) { by_open(); CHECK(syscall(SYS_unlinkat, root, name, 0L)); }
static void by_link(void) { by_open(); unlink(other); CHECK(syscall(SYS_link, name, other)); by_open(); }
static void by_linkat(void) { by_open(); unlink(other); CHECK(syscall(SYS_linkat, root, name, root, other, 0L)); }
static void by_symlink(void) { by_open(); unlink(other); CHECK(syscall(SYS_symlink, "anywhere", other)); }
static void by_symlinkat(void) { by_open(); unlink(other); CHECK(syscall(SYS_symlinkat, "anywhere", root, other)); }

static void by_mkdir(void)
{
    snprintf(name, sizeof name, "d%d", (int)below(8));
    if (syscall(SYS_mkdir, name, 0700) < 0)
        CHECK(syscall(SYS_rmdir, name));
}

static void by_mkdirat(void)
{
    snprintf(name, sizeof name, "d%d", (int)below(8));
    if (syscall(SYS_mkdirat, root, name, 0700) < 0)
        CHECK(syscall(SYS_unlinkat, root, name, AT_REMOVEDIR));
}

static void by_mkdtemp(void)
{
    char template[] = "dirXXXXXX";
    HOLDS(mkdtemp(template) != NULL);
    CHECK(rmdir(template));
    by_pwrite64();
    pause_us(1000);
}

/* io_uring must be declined, since its completions can't be seen. */
static void by_uring(void)
{
    char parameters[256] = {0};
    FAILS(ENOSYS, syscall(SYS_io_uring_setup, 8, parameters));
    by_pwrite64();
}

static const struct action actions[] = {
    {"write", by_write, start},
    {"writev", by_writev, start},
    {"pwrite64", by_pwrite64, start},
    {"pwritev", by_pwritev, start},
    {"pwritev2", by_pwritev2, start},
    {"ftruncate", by_ftruncate, start},
    {"truncate", by_truncate, start},
    {"fallocate", by_fallocate, start},
    {"open", by_open, start},
    {"openat", by_openat, start},
    {"openat2", by_openat2, start},
    {"creat", by_creat, start},
    {"rename", by_rename, start},
    {"renameat", by_renameat, start},
    {"renameat2", by_renameat2, start},
    {"unlink", by_unlink, start},
    {"unlinkat", by_unlinkat, start},
    {"link", by_link, start},
    {"linkat", by_linkat, start},
    {"symlink", by_symlink, start},
    {"symlinkat", by_symlinkat, start},
    {"mkdir", by_mkdir, start},
    {"mkdirat", by_mkdirat, start},
    {"mkdtemp", by_mkdtemp, start},
    {"uring", by_uring, start},
};
VICTIM(actions)
