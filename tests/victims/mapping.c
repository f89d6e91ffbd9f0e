/* Writable shared mappings: their stores are seen by nobody. */

#include "victim.h"

#include <sys/mman.h>

enum { LEN = 1 << 16 };

static int fd;
static unsigned char *map;

static void start_file(void)
{
    fd = CHECK(open("mapped", O_RDWR | O_CREAT, 0600));
    CHECK(ftruncate(fd, LEN));
}

static void *mapped(void *address)
{
    if (address == MAP_FAILED)
        fail_at("mmap", __LINE__);
    return address;
}

static void start(void)
{
    start_file();
    map = mapped(mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
}

static void start64(void)
{
    start_file();
    map = mapped(mmap64(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
}

static void store(void)
{
    fill(map + below(LEN - 100), 100);
}

static void by_store(void) { store(); }

static void by_msync(void)
{
    store();
    CHECK(msync(map, LEN, below(2) ? MS_SYNC : MS_ASYNC));
}

/* Mapped, written and unmapped in each round. */
static void by_short_mapping(void)
{
    map = mapped(mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    store();
    CHECK(munmap(map, LEN));
    pause_us(1000);
}

/* A read-only mapping that is made writable later. */
static void by_mprotect(void)
{
    map = mapped(mmap(NULL, LEN, PROT_READ, MAP_SHARED, fd, 0));
    CHECK(mprotect(map, LEN, PROT_READ | PROT_WRITE));
    store();
    CHECK(munmap(map, LEN));
    pause_us(1000);
}

/* As above, and of two stores the second changes no time of the file: its page is dirty by then. */
static void by_mprotect_twice(void)
{
    map = mapped(mmap(NULL, LEN, PROT_READ, MAP_SHARED, fd, 0));
    CHECK(mprotect(map, LEN, PROT_READ | PROT_WRITE));
    unsigned char *at = map + below(LEN / 4096) * 4096;
    fill(at, 100);
    pause_us(1000 + (long)below(2000));
    fill(at, 100);
    CHECK(munmap(map, LEN));
    pause_us(30000);
}

/* A private mapping changes no file: pwrite is what is captured. */
static void by_private(void)
{
    map = mapped(mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
    store();
    CHECK(pwrite(fd, map, 5000, (off_t)below(LEN)));
    CHECK(munmap(map, LEN));
}

/* Mapped once before any session, then left alone: the file is still suspect. */
static void by_idle_mapping(void)
{
    unsigned char byte = (unsigned char)below(255);
    int other = CHECK(open("other", O_RDWR | O_CREAT, 0600));
    CHECK(pwrite(other, &byte, 1, (off_t)below(1000)));
    CHECK(close(other));
}

static const struct action actions[] = {
    {"store", by_store, start},
    {"msync", by_msync, start64},
    {"short_mapping", by_short_mapping, start_file},
    {"mprotect", by_mprotect, start_file},
    {"mprotect_twice", by_mprotect_twice, start_file},
    {"private", by_private, start_file},
    {"idle_mapping", by_idle_mapping, start},
};
VICTIM(actions)
