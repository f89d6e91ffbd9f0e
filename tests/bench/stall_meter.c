/* Times what the library adds to each call of a server that changes files, while the server works.
 *
 * Rule: the library is the one that is shipped. This file makes two libraries that stand around it: the outer one is found by the server and times the whole
 * call, the inner one is found by the library and times the real one. The library's own time is the difference.
 *
 *   cc -shared -fPIC -DOUTER …, cc -shared -fPIC -DINNER …, LD_PRELOAD=outer:libhotmirror.so:inner
 *
 * A thread that the scheduler takes the processor away from inside of the library's part stands still for a reason that is not the library's, and is counted
 * apart: the kernel says so by the thread's involuntary switches. A wait for a lock is a voluntary one, and stays. Where there was no switch at all, the thread's
 * own clock counts: it stands still while the host of a virtual machine runs something else on the processor.
 *
 * Figures go to the file that HOTMIRROR_STALLS_FILE names, `struct figures`, which another process reads meanwhile. Only calls that begin while its first
 * word is not 0 are counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t word;

/* What the calling thread's call has used up in the library's own part. */
struct share {
    word wall_ns, cpu_ns, waits, preemptions, faults;
};

/* Where the thread stood when its share was last added up. */
struct thread {
    word depth, in_real, real_count;
    struct timespec at, cpu_at;
    struct rusage used;
    struct share own;
    word before_ns;
};

#ifdef OUTER
__thread struct thread hotmirror_meter __attribute__((tls_model("initial-exec")));
#else
extern __thread struct thread hotmirror_meter __attribute__((tls_model("initial-exec")));
#endif

static word ns_between(struct timespec from, struct timespec to) {
    return (word)((to.tv_sec - from.tv_sec) * 1000000000LL + (to.tv_nsec - from.tv_nsec));
}

/* A stretch of the library's own begins: the kernel is asked first, so that asking counts for nothing. */
static inline void own_begins(struct thread *thread) {
    getrusage(RUSAGE_THREAD, &thread->used);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &thread->cpu_at);
    clock_gettime(CLOCK_MONOTONIC, &thread->at);
}

static inline void own_ends(struct thread *thread) {
    struct timespec at, cpu_at;
    struct rusage used;
    clock_gettime(CLOCK_MONOTONIC, &at);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu_at);
    getrusage(RUSAGE_THREAD, &used);
    struct share *own = &thread->own;
    own->wall_ns += ns_between(thread->at, at);
    own->cpu_ns += ns_between(thread->cpu_at, cpu_at);
    own->waits += (word)(used.ru_nvcsw - thread->used.ru_nvcsw);
    own->preemptions += (word)(used.ru_nivcsw - thread->used.ru_nivcsw);
    own->faults += (word)(used.ru_minflt - thread->used.ru_minflt);
}

#ifdef OUTER
enum { PARTS = 8, BUCKETS = 64 * PARTS, KINDS = 16, SLOW_MAX = 4096, SLOW_NS = 300000, STALL_NS = 1000000 };

struct slow {
    word kind, preempted, own_ns, before_ns, cpu_ns, waits, preemptions, faults, len, at_ns, thread, real_count;
};

struct figures {
    _Atomic word recording;
    _Atomic word calls, calls_preempted;
    /* Longer than a millisecond. */
    _Atomic word stalls, stalls_preempted;
    _Atomic word max_ns, max_preempted_ns;
    _Atomic word slow_count;
    /* Of calls that were not preempted: eight to each doubling of the time. */
    _Atomic word histogram[BUCKETS];
    struct {
        _Atomic word calls, max_ns;
    } kinds[KINDS];
    struct slow slow[SLOW_MAX];
};

static struct figures *figures;

__attribute__((constructor)) static void map_figures(void) {
    const char *path = getenv("HOTMIRROR_STALLS_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof *figures, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED)
        figures = mapped;
}

static void raise_to(_Atomic word *most, word value) {
    word known = atomic_load(most);
    while (known < value && !atomic_compare_exchange_weak(most, &known, value)) {
    }
}

static unsigned bucket(word ns) {
    if (ns < PARTS)
        return (unsigned)ns;
    unsigned doublings = 63 - (unsigned)__builtin_clzll(ns);
    return (doublings - 2) * PARTS + (unsigned)(ns >> (doublings - 3)) % PARTS;
}

static inline int begin(void) {
    struct thread *thread = &hotmirror_meter;
    if (!figures || !atomic_load_explicit(&figures->recording, memory_order_relaxed) || thread->depth)
        return 0;
    thread->depth = 1;
    thread->in_real = thread->real_count = thread->before_ns = 0;
    thread->own = (struct share){0};
    own_begins(thread);
    return 1;
}

static void end(int metered, unsigned kind, word len) {
    struct thread *thread = &hotmirror_meter;
    if (!metered)
        return;
    own_ends(thread);
    thread->depth = 0;
    const struct share *own = &thread->own;
    int preempted = own->preemptions != 0;
    word ns = preempted || own->waits || own->cpu_ns > own->wall_ns ? own->wall_ns : own->cpu_ns;
    atomic_fetch_add(&figures->calls, 1);
    atomic_fetch_add(&figures->kinds[kind].calls, 1);
    if (preempted) {
        atomic_fetch_add(&figures->calls_preempted, 1);
        raise_to(&figures->max_preempted_ns, ns);
    } else {
        atomic_fetch_add(&figures->histogram[bucket(ns)], 1);
        raise_to(&figures->max_ns, ns);
        raise_to(&figures->kinds[kind].max_ns, ns);
    }
    if (ns > STALL_NS)
        atomic_fetch_add(preempted ? &figures->stalls_preempted : &figures->stalls, 1);
    if (own->wall_ns > SLOW_NS) {
        word index = atomic_fetch_add(&figures->slow_count, 1);
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        if (index < SLOW_MAX)
            figures->slow[index] = (struct slow){
                kind, (word)preempted, own->wall_ns, thread->before_ns, own->cpu_ns, own->waits, own->preemptions, own->faults, len,
                (word)now.tv_sec * 1000000000 + (word)now.tv_nsec, (word)gettid(), thread->real_count,
            };
    }
}
#else
static inline int begin(void) {
    struct thread *thread = &hotmirror_meter;
    if (!thread->depth || thread->in_real)
        return 0;
    own_ends(thread);
    thread->in_real = 1;
    if (!thread->real_count++)
        thread->before_ns = thread->own.wall_ns;
    return 1;
}

static inline void end(int metered, unsigned kind, word len) {
    struct thread *thread = &hotmirror_meter;
    (void)kind, (void)len;
    if (!metered)
        return;
    thread->in_real = 0;
    own_begins(thread);
}
#endif

/* The table of names in the bench has the same order. */
enum { WRITE, PWRITE, VECTOR, SIZE, SUBMIT, EVENTS };

#define METERED(kind, len, type, name, parameters, ...)                                                                                                        \
    type name parameters {                                                                                                                                     \
        static type(*_Atomic real) parameters;                                                                                                                 \
        if (!real)                                                                                                                                             \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name);                                                                                                \
        int metered = begin();                                                                                                                                 \
        type result = real(__VA_ARGS__);                                                                                                                       \
        end(metered, kind, (word)(len));                                                                                                                       \
        return result;                                                                                                                                         \
    }

METERED(WRITE, len, ssize_t, write, (int fd, const void *bytes, size_t len), fd, bytes, len)
METERED(VECTOR, count, ssize_t, writev, (int fd, const struct iovec *parts, int count), fd, parts, count)
METERED(PWRITE, len, ssize_t, pwrite, (int fd, const void *bytes, size_t len, off_t at), fd, bytes, len, at)
METERED(PWRITE, len, ssize_t, pwrite64, (int fd, const void *bytes, size_t len, off_t at), fd, bytes, len, at)
METERED(VECTOR, count, ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), fd, parts, count, at)
METERED(VECTOR, count, ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off_t at), fd, parts, count, at)
METERED(VECTOR, count, ssize_t, pwritev2, (int fd, const struct iovec *parts, int count, off_t at, int flags), fd, parts, count, at, flags)
METERED(SIZE, len, int, ftruncate, (int fd, off_t len), fd, len)
METERED(SIZE, len, int, ftruncate64, (int fd, off_t len), fd, len)
METERED(SIZE, len, int, fallocate, (int fd, int mode, off_t at, off_t len), fd, mode, at, len)
METERED(SIZE, len, int, fallocate64, (int fd, int mode, off_t at, off_t len), fd, mode, at, len)
METERED(SIZE, len, int, posix_fallocate, (int fd, off_t at, off_t len), fd, at, len)
METERED(SIZE, len, int, posix_fallocate64, (int fd, off_t at, off_t len), fd, at, len)

#ifdef OUTER
/* libaio's own; the library makes the system calls behind them itself. */
METERED(SUBMIT, count, int, io_submit, (long context, long count, void **iocbs), context, count, iocbs)
METERED(EVENTS, max, int, io_getevents, (long context, long min, long max, void *events, void *timeout), context, min, max, events, timeout)
#endif

static int kind_of(long number) {
    switch (number) {
    case SYS_write:
        return WRITE;
    case SYS_pwrite64:
        return PWRITE;
    case SYS_writev:
    case SYS_pwritev:
    case SYS_pwritev2:
        return VECTOR;
    case SYS_ftruncate:
    case SYS_fallocate:
        return SIZE;
    case SYS_io_submit:
        return SUBMIT;
    case SYS_io_getevents:
    case SYS_io_pgetevents:
        return EVENTS;
    default:
        /* Among them what the library asks the kernel for itself. */
        return -1;
    }
}

/* Whatever the number, six arguments are passed on: the kernel looks at those that it wants. */
long syscall(long number, ...) {
    static long (*_Atomic real)(long, ...);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_list given;
    va_start(given, number);
    long a = va_arg(given, long), b = va_arg(given, long), c = va_arg(given, long);
    long d = va_arg(given, long), e = va_arg(given, long), f = va_arg(given, long);
    va_end(given);
    int kind = kind_of(number), metered = kind >= 0 && begin();
    long result = real(number, a, b, c, d, e, f);
    end(metered, (unsigned)kind, (word)c);
    return result;
}
