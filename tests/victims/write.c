/* Writes through every spelling of the write family, at random places of a few files that are open throughout. */

#include "victim.h"

#include <sys/uio.h>

enum { FILES = 3, FILE_LEN = 1 << 17, BUFFER_LEN = 1 << 14 };

static int fds[FILES];
static int twins[FILES];
static unsigned char buffer[BUFFER_LEN];
static struct iovec vectors[4];

static void open_files(int flags)
{
    for (int i = 0; i < FILES; i++) {
        char name[16];
        snprintf(name, sizeof name, "data%d", i);
        fds[i] = CHECK(open(name, O_RDWR | O_CREAT | flags, 0640));
        twins[i] = CHECK(open(name, O_RDWR | flags));
    }
}

static void start(void) { open_files(0); }
static void start_append(void) { open_files(O_APPEND); }

static int a_file(void) { return fds[below(FILES)]; }

static size_t a_buffer(void)
{
    size_t len = below(BUFFER_LEN) + 1;
    fill(buffer, len);
    return len;
}

static off_t an_offset(void) { return (off_t)below(FILE_LEN); }

/* Four pieces of the buffer, one of them empty. */
static int some_vectors(void)
{
    size_t len = a_buffer() / 4;
    for (int i = 0; i < 4; i++) {
        vectors[i].iov_base = buffer + (size_t)i * len;
        vectors[i].iov_len = i == 2 ? 0 : len + 1;
    }
    return 4;
}

/* Keeps files that only ever grow small. */
static void cut_back(int fd)
{
    struct stat stat;
    CHECK(fstat(fd, &stat));
    if (stat.st_size > 2 * FILE_LEN) {
        CHECK(ftruncate(fd, (off_t)below(100)));
        CHECK(lseek(fd, 0, SEEK_END));
    }
}

static void seek_somewhere(int fd) { CHECK(lseek(fd, an_offset(), SEEK_SET)); }

static void by_write(void)
{
    int fd = a_file();
    seek_somewhere(fd);
    for (int i = 0; i < 3; i++) {
        size_t len = a_buffer();
        CHECK(write(fd, buffer, len));
    }
}

static void by_writev(void)
{
    int fd = a_file();
    seek_somewhere(fd);
    int count = some_vectors();
    CHECK(writev(fd, vectors, count));
}

static void by_pwrite(void) { int fd = a_file(); size_t len = a_buffer(); CHECK(pwrite(fd, buffer, len, an_offset())); }
static void by_pwrite64(void) { int fd = a_file(); size_t len = a_buffer(); CHECK(pwrite64(fd, buffer, len, an_offset())); }
static void by_pwritev(void) { int count = some_vectors(); CHECK(pwritev(a_file(), vectors, count, an_offset())); }
static void by_pwritev64(void) { int count = some_vectors(); CHECK(pwritev64(a_file(), vectors, count, an_offset())); }
static void by_pwritev2(void) { int count = some_vectors(); CHECK(pwritev2(a_file(), vectors, count, an_offset(), 0)); }
static void by_pwritev64v2(void) { int count = some_vectors(); CHECK(pwritev64v2(a_file(), vectors, count, an_offset(), RWF_DSYNC)); }

/* An offset of -1 means the file position. */
static void by_pwritev2_position(void)
{
    int fd = a_file();
    seek_somewhere(fd);
    int count = some_vectors();
    CHECK(pwritev2(fd, vectors, count, -1, 0));
}

static void by_pwritev64v2_position(void)
{
    int fd = a_file();
    seek_somewhere(fd);
    int count = some_vectors();
    CHECK(pwritev64v2(fd, vectors, count, -1, 0));
}

static void by_pwritev2_append(void)
{
    int fd = a_file();
    int count = some_vectors();
    CHECK(pwritev2(fd, vectors, count, (off_t)below(50), RWF_APPEND));
    cut_back(fd);
}

static void by_pwritev64v2_append(void)
{
    int fd = a_file();
    int count = some_vectors();
    CHECK(pwritev64v2(fd, vectors, count, -1, RWF_APPEND));
    cut_back(fd);
}

static void by_append(void)
{
    int file = (int)below(FILES);
    int fd = below(2) ? fds[file] : twins[file];
    size_t len = a_buffer();
    CHECK(write(fd, buffer, len));
    cut_back(fd);
}

static void by_append_writev(void)
{
    int file = (int)below(FILES);
    int fd = below(2) ? fds[file] : twins[file];
    int count = some_vectors();
    CHECK(writev(fd, vectors, count));
    cut_back(fd);
}

/* On Linux pwrite to a file opened with O_APPEND appends, whatever the offset. */
static void by_append_pwrite(void)
{
    int fd = a_file();
    size_t len = a_buffer();
    CHECK(pwrite(fd, buffer, len, an_offset()));
    cut_back(fd);
}

static void by_append_toggled(void)
{
    int fd = a_file();
    size_t len = a_buffer();
    CHECK(fcntl(fd, F_SETFL, below(2) ? O_APPEND : 0));
    CHECK(write(fd, buffer, len));
    CHECK(pwrite(fd, buffer, len, an_offset()));
    cut_back(fd);
}

/* Duplicates share one position. */
static void by_dup(void)
{
    int fd = a_file();
    seek_somewhere(fd);
    int copy = CHECK(dup(fd));
    int other = CHECK(fcntl(fd, F_DUPFD_CLOEXEC, 100));
    size_t len = a_buffer() / 3;
    CHECK(write(fd, buffer, len));
    CHECK(write(copy, buffer + len, len));
    CHECK(write(other, buffer, len));
    CHECK(close(copy));
    CHECK(close(other));
}

static void by_empty(void)
{
    int fd = a_file();
    CHECK(write(fd, buffer, 0));
    CHECK(pwrite(fd, NULL, 0, an_offset()));
    CHECK(writev(fd, NULL, 0));
    CHECK(pwrite(fd, buffer, a_buffer(), an_offset()));
}

static void by_sparse(void)
{
    int fd = a_file();
    size_t len = a_buffer();
    CHECK(pwrite(fd, buffer, len, (off_t)below(1 << 22)));
    if (below(50) == 0)
        CHECK(ftruncate(fd, 0));
}

static void by_large(void)
{
    static unsigned char large[3 << 20];
    int fd = a_file();
    fill(large, sizeof large);
    CHECK(pwrite(fd, large, sizeof large, (off_t)below(1 << 20)));
    pause_us(10000);
}

static void by_many_vectors(void)
{
    static struct iovec many[1024];
    fill(buffer, BUFFER_LEN);
    for (int i = 0; i < 1024; i++)
        many[i] = (struct iovec){.iov_base = buffer + below(BUFFER_LEN - 64), .iov_len = below(40)};
    CHECK(pwritev(a_file(), many, 1024, an_offset()));
}

static const struct action actions[] = {
    {"write", by_write, start},
    {"writev", by_writev, start},
    {"pwrite", by_pwrite, start},
    {"pwrite64", by_pwrite64, start},
    {"pwritev", by_pwritev, start},
    {"pwritev64", by_pwritev64, start},
    {"pwritev2", by_pwritev2, start},
    {"pwritev64v2", by_pwritev64v2, start},
    {"pwritev2_position", by_pwritev2_position, start},
    {"pwritev64v2_position", by_pwritev64v2_position, start},
    {"pwritev2_append", by_pwritev2_append, start},
    {"pwritev64v2_append", by_pwritev64v2_append, start},
    {"append", by_append, start_append},
    {"append_writev", by_append_writev, start_append},
    {"append_pwrite", by_append_pwrite, start_append},
    {"append_toggled", by_append_toggled, start},
    {"dup", by_dup, start},
    {"empty", by_empty, start},
    {"sparse", by_sparse, start},
    {"large", by_large, start},
    {"many_vectors", by_many_vectors, start},
};
VICTIM(actions)
