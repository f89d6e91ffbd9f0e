/* Sets sizes, allocates, and makes holes, between writes that give the ranges something to lose. */

#include "victim.h"

#include <linux/falloc.h>

enum { FILES = 3, FILE_LEN = 1 << 18, BLOCK = 4096 };

static int fds[FILES];
static unsigned char buffer[16384];
static char name[16];

static void start(void)
{
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "data%d", i);
        fds[i] = CHECK(open(name, O_RDWR | O_CREAT, 0600));
    }
}

static int written_file(void)
{
    int file = (int)below(FILES);
    snprintf(name, sizeof name, "data%d", file);
    fill(buffer, sizeof buffer);
    for (int i = 0; i < 2; i++)
        CHECK(pwrite(fds[file], buffer, below(sizeof buffer) + 1, (off_t)below(FILE_LEN)));
    struct stat stat;
    CHECK(fstat(fds[file], &stat));
    if (stat.st_size > 4 * FILE_LEN)
        CHECK(ftruncate(fds[file], FILE_LEN));
    return fds[file];
}

static off_t a_len(void) { return (off_t)below(FILE_LEN); }
static off_t a_block(void) { return (off_t)(below(FILE_LEN / BLOCK) * BLOCK); }

static void by_ftruncate(void) { CHECK(ftruncate(written_file(), a_len())); }
static void by_ftruncate64(void) { CHECK(ftruncate64(written_file(), a_len())); }
static void by_truncate(void) { written_file(); CHECK(truncate(name, a_len())); }
static void by_truncate64(void) { written_file(); CHECK(truncate64(name, a_len())); }
static void by_fallocate(void) { CHECK(fallocate(written_file(), 0, a_len(), a_len() + 1)); }
static void by_fallocate64(void) { CHECK(fallocate64(written_file(), 0, a_len(), a_len() + 1)); }
static void by_keep_size(void) { CHECK(fallocate(written_file(), FALLOC_FL_KEEP_SIZE, a_len(), a_len() + 1)); }
static void by_punch(void) { CHECK(fallocate(written_file(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, a_len(), a_len() + 1)); }
static void by_punch64(void) { CHECK(fallocate64(written_file(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, a_len(), a_len() + 1)); }

static void by_posix_fallocate(void)
{
    errno = posix_fallocate(written_file(), a_len(), a_len() + 1);
    HOLDS(errno == 0);
}

static void by_posix_fallocate64(void)
{
    errno = posix_fallocate64(written_file(), a_len(), a_len() + 1);
    HOLDS(errno == 0);
}

/* Not every file system can do these; where it can't, the victim must still see the real error. */
static void or_unsupported(int result)
{
    if (result < 0)
        HOLDS(errno == EOPNOTSUPP || errno == EINVAL);
}

static void by_zero(void) { or_unsupported(fallocate(written_file(), FALLOC_FL_ZERO_RANGE, a_len(), a_len() + 1)); }
static void by_zero_keep_size(void) { or_unsupported(fallocate64(written_file(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, a_len(), a_len() + 1)); }
static void by_collapse(void) { or_unsupported(fallocate(written_file(), FALLOC_FL_COLLAPSE_RANGE, a_block(), BLOCK)); }
static void by_insert(void) { or_unsupported(fallocate64(written_file(), FALLOC_FL_INSERT_RANGE, a_block(), BLOCK)); }

static void by_growing(void)
{
    int fd = written_file();
    CHECK(ftruncate(fd, a_len()));
    CHECK(ftruncate(fd, a_len()));
    CHECK(ftruncate(fd, 0));
    CHECK(ftruncate(fd, a_len() + 1));
    CHECK(pwrite(fd, buffer, 100, a_len()));
}

static const struct action actions[] = {
    {"ftruncate", by_ftruncate, start},
    {"ftruncate64", by_ftruncate64, start},
    {"truncate", by_truncate, start},
    {"truncate64", by_truncate64, start},
    {"fallocate", by_fallocate, start},
    {"fallocate64", by_fallocate64, start},
    {"fallocate_keep_size", by_keep_size, start},
    {"fallocate_punch", by_punch, start},
    {"fallocate64_punch", by_punch64, start},
    {"fallocate_zero", by_zero, start},
    {"fallocate64_zero_keep_size", by_zero_keep_size, start},
    {"fallocate_collapse", by_collapse, start},
    {"fallocate64_insert", by_insert, start},
    {"posix_fallocate", by_posix_fallocate, start},
    {"posix_fallocate64", by_posix_fallocate64, start},
    {"growing", by_growing, start},
};
VICTIM(actions)
