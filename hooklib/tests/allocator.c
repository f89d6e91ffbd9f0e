/*
 * An allocator and a dlsym as they come together on an old server: glibc before 2.34 allocates in dlsym, and jemalloc begins by opening files and mapping
 * memory, with its lock held. An allocation meanwhile would wait for that lock for ever; here it aborts.
 *
 * Preloaded behind the library, in front of libc.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARENA_LEN ((size_t)4 << 30)
#define HEADER_LEN 16

static char *arena;
static atomic_size_t used;
static atomic_int beginning;

static void expect(int holds) {
    if (!holds)
        abort();
}

static void begin(void) {
    expect(!atomic_exchange(&beginning, 1));
    int fd = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    expect(fd >= 0 && close(fd) == 0);
    fd = openat(AT_FDCWD, "/proc/self/none", O_RDONLY);
    expect(fd == -1 && errno == ENOENT);
    fd = syscall(SYS_openat, AT_FDCWD, "/dev/null", O_WRONLY);
    expect(fd >= 0 && syscall(SYS_write, fd, "x", 1) == 1 && syscall(SYS_close, fd) == 0);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    arena = mmap(NULL, ARENA_LEN, PROT_NONE, flags, -1, 0);
    expect(arena != MAP_FAILED && mprotect(arena, ARENA_LEN, PROT_READ | PROT_WRITE) == 0);
    expect(mmap(NULL, 0, PROT_NONE, flags, -1, 0) == MAP_FAILED && errno == EINVAL);
    atomic_store(&beginning, 0);
}

static void *take(size_t alignment, size_t len) {
    if (!arena)
        begin();
    size_t room = len + alignment + HEADER_LEN;
    char *free_from = arena + atomic_fetch_add(&used, room) + HEADER_LEN;
    expect(free_from + room < arena + ARENA_LEN);
    char *block = (char *)(((size_t)free_from + alignment - 1) / alignment * alignment);
    memcpy(block - sizeof len, &len, sizeof len);
    return block;
}

void *malloc(size_t len) {
    return take(HEADER_LEN, len);
}

void *calloc(size_t count, size_t len) {
    return take(HEADER_LEN, count * len);
}

void *realloc(void *block, size_t len) {
    void *moved = take(HEADER_LEN, len);
    size_t before;
    if (block) {
        memcpy(&before, (char *)block - sizeof before, sizeof before);
        memcpy(moved, block, before < len ? before : len);
    }
    return moved;
}

int posix_memalign(void **block, size_t alignment, size_t len) {
    *block = take(alignment, len);
    return 0;
}

void *aligned_alloc(size_t alignment, size_t len) {
    return take(alignment, len);
}

void free(void *block) {
    (void)block;
}

void *dlsym(void *handle, const char *name) {
    static void *(*real)(void *, const char *);
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"};
    free(calloc(1, 32));
    for (size_t at = 0; !real && at < sizeof versions / sizeof *versions; at++)
        real = dlvsym(RTLD_NEXT, "dlsym", versions[at]);
    return real(handle, name);
}
