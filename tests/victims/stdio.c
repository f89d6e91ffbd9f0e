/* Writes through stdio, whose own writes stay inside libc. */

#include "victim.h"

static FILE *stream;
static int number;

static FILE *opened(FILE *stream)
{
    if (stream == NULL)
        fail_at("fopen", __LINE__);
    return stream;
}

static void print(void)
{
    for (int i = 0; i < 20; i++)
        HOLDS(fprintf(stream, "%d of round %d\n", i, number) > 0);
    number++;
}

static void start(void) { stream = opened(fopen("log", "w")); }

static void by_fprintf(void)
{
    print();
    HOLDS(fflush(stream) == 0);
    if (number % 400 == 0)
        CHECK(ftruncate(fileno(stream), 0));
}

/* Never flushed by the program: libc writes whenever its buffer is full. */
static void by_unflushed(void)
{
    print();
    if (number % 400 == 0)
        rewind(stream);
}

static void by_fflush_all(void)
{
    print();
    HOLDS(fflush(NULL) == 0);
    if (number % 400 == 0)
        rewind(stream);
}

static const char *a_name(void)
{
    static char name[32];
    snprintf(name, sizeof name, "log%d", (int)below(6));
    return name;
}

static void by_fopen(void)
{
    stream = opened(fopen(a_name(), below(2) ? "w" : "a+"));
    print();
    HOLDS(fclose(stream) == 0);
    pause_us(1000);
}

static void by_fopen64(void)
{
    stream = opened(fopen64(a_name(), below(2) ? "w+" : "r+"[0] == 'r' && below(2) ? "a" : "w"));
    print();
    HOLDS(fclose(stream) == 0);
    pause_us(1000);
}

static void by_freopen(void)
{
    stream = opened(freopen(a_name(), "w", stream));
    print();
    pause_us(1000);
}

static void by_freopen64(void)
{
    stream = opened(freopen64(a_name(), below(2) ? "w" : "a", stream));
    print();
    pause_us(1000);
}

static void by_fdopen(void)
{
    stream = opened(fdopen(CHECK(open(a_name(), O_RDWR | O_CREAT | O_TRUNC, 0600)), "w"));
    print();
    HOLDS(fclose(stream) == 0);
    pause_us(1000);
}

static void by_fwrite(void)
{
    static unsigned char large[100000];
    fill(large, sizeof large);
    rewind(stream);
    HOLDS(fwrite(large, 1, sizeof large, stream) == sizeof large);
    HOLDS(fputs("end\n", stream) >= 0 && putc('x', stream) == 'x');
    HOLDS(fflush(stream) == 0);
    pause_us(1000);
}

/* Written early, then idle: what libc has still buffered never reaches the file. Another file goes on by pwrite. */
static void start_quiet(void)
{
    start();
    fprintf(stream, "early");
    HOLDS(fflush(stream) == 0);
}

static void by_quiet(void)
{
    int fd = CHECK(open("other", O_RDWR | O_CREAT, 0600));
    CHECK(pwrite(fd, &number, sizeof number, (off_t)below(1000)));
    CHECK(close(fd));
}

static void by_dprintf(void)
{
    int fd = CHECK(open("other", O_RDWR | O_CREAT, 0600));
    CHECK(lseek(fd, (off_t)below(10000), SEEK_SET));
    HOLDS(dprintf(fd, "%d of all\n", number++) > 0);
    CHECK(close(fd));
}

static const struct action actions[] = {
    {"fprintf", by_fprintf, start},
    {"unflushed", by_unflushed, start},
    {"fflush_all", by_fflush_all, start},
    {"fopen", by_fopen, NULL},
    {"fopen64", by_fopen64, NULL},
    {"freopen", by_freopen, start},
    {"freopen64", by_freopen64, start},
    {"fdopen", by_fdopen, NULL},
    {"fwrite", by_fwrite, start},
    {"quiet", by_quiet, start_quiet},
    {"dprintf", by_dprintf, NULL},
};
VICTIM(actions)
