/* Changes whose bytes never pass through the program: sendfile, copy_file_range, splice. */

#include "victim.h"

#include <sys/sendfile.h>

enum { FILES = 3, FILE_LEN = 1 << 16 };

static int fds[FILES];
static int pipes[2];
static unsigned char buffer[8192];

static void start(void)
{
    for (int i = 0; i < FILES; i++) {
        char name[16];
        snprintf(name, sizeof name, "data%d", i);
        fds[i] = CHECK(open(name, O_RDWR | O_CREAT, 0600));
        CHECK(ftruncate(fds[i], FILE_LEN));
    }
    CHECK(pipe(pipes));
}

static int from, to;

static void two_files(void)
{
    from = fds[below(FILES)];
    do
        to = fds[below(FILES)];
    while (to == from);
    fill(buffer, sizeof buffer);
    CHECK(pwrite(from, buffer, sizeof buffer, (off_t)below(FILE_LEN)));
}

static off_t an_offset(void) { return (off_t)below(FILE_LEN); }

static void by_sendfile(void)
{
    two_files();
    off_t offset = an_offset();
    CHECK(lseek(to, an_offset(), SEEK_SET));
    CHECK(sendfile(to, from, &offset, 5000));
}

static void by_sendfile64(void)
{
    two_files();
    off64_t offset = an_offset();
    CHECK(lseek(to, an_offset(), SEEK_SET));
    CHECK(sendfile64(to, from, &offset, 5000));
}

static void by_copy_file_range(void)
{
    two_files();
    off64_t in = an_offset(), out = an_offset();
    CHECK(copy_file_range(from, &in, to, &out, 5000, 0));
}

static void by_copy_file_range_position(void)
{
    two_files();
    CHECK(lseek(to, an_offset(), SEEK_SET));
    CHECK(lseek(from, an_offset(), SEEK_SET));
    CHECK(copy_file_range(from, NULL, to, NULL, 5000, 0));
}

static void by_splice(void)
{
    two_files();
    size_t len = below(sizeof buffer) + 1;
    CHECK(write(pipes[1], buffer, len));
    off64_t out = an_offset();
    CHECK(splice(pipes[0], NULL, to, &out, len, 0));
    int left = fcntl(pipes[0], F_SETFL, O_NONBLOCK);
    HOLDS(left == 0);
    while (read(pipes[0], buffer, sizeof buffer) > 0)
        continue;
    CHECK(fcntl(pipes[0], F_SETFL, 0));
}

static const struct action actions[] = {
    {"sendfile", by_sendfile, start},
    {"sendfile64", by_sendfile64, start},
    {"copy_file_range", by_copy_file_range, start},
    {"copy_file_range_position", by_copy_file_range_position, start},
    {"splice", by_splice, start},
};
VICTIM(actions)
