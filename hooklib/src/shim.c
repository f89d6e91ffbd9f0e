/*
 * What stable Rust can't define: functions with variable arguments, and a thread-local variable that is reached without a call.
 *
 * Each function here fetches its arguments and calls a Rust function with fixed ones. It is entered by a jump from the exported symbol of
 * the libc name (see hooks/variadic.rs). No logic lives here.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/types.h>

/* Mirrors `ThreadState` in inflight.rs. Initial-exec: in memory that exists when the thread does, so that the first access allocates nothing. */
struct hotmirror_thread {
    const void *slot;
    uint32_t crowd_depth;
    uint32_t crowd_calls;
    uint32_t passed_by;
};

__thread struct hotmirror_thread hotmirror_thread_state __attribute__((tls_model("initial-exec")));

struct hotmirror_thread *hotmirror_thread(void) {
    return &hotmirror_thread_state;
}

int hotmirror_open(const char *path, int flags, mode_t mode);
int hotmirror_open64(const char *path, int flags, mode_t mode);
int hotmirror_openat(int directory, const char *path, int flags, mode_t mode);
int hotmirror_openat64(int directory, const char *path, int flags, mode_t mode);
long hotmirror_syscall(long number, long a, long b, long c, long d, long e, long f);

/* The argument exists only with these flags. */
#define FETCH_MODE(mode, flags)                                              \
    mode_t mode = 0;                                                         \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) {         \
        va_list arguments;                                                   \
        va_start(arguments, flags);                                          \
        mode = va_arg(arguments, mode_t);                                    \
        va_end(arguments);                                                   \
    }

int hotmirror_shim_open(const char *path, int flags, ...) {
    FETCH_MODE(mode, flags)
    return hotmirror_open(path, flags, mode);
}

int hotmirror_shim_open64(const char *path, int flags, ...) {
    FETCH_MODE(mode, flags)
    return hotmirror_open64(path, flags, mode);
}

int hotmirror_shim_openat(int directory, const char *path, int flags, ...) {
    FETCH_MODE(mode, flags)
    return hotmirror_openat(directory, path, flags, mode);
}

int hotmirror_shim_openat64(int directory, const char *path, int flags, ...) {
    FETCH_MODE(mode, flags)
    return hotmirror_openat64(directory, path, flags, mode);
}

/* No call has more than six arguments; those that the caller did not pass are read as whatever is there, as libc's own syscall() does. */
long hotmirror_shim_syscall(long number, ...) {
    va_list arguments;
    va_start(arguments, number);
    long a = va_arg(arguments, long);
    long b = va_arg(arguments, long);
    long c = va_arg(arguments, long);
    long d = va_arg(arguments, long);
    long e = va_arg(arguments, long);
    long f = va_arg(arguments, long);
    va_end(arguments);
    return hotmirror_syscall(number, a, b, c, d, e, f);
}
