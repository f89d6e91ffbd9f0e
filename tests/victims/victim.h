/* What every victim shares: `NAME DIRECTORY ACTION SEED` repeats one action in DIRECTORY until SIGTERM, and `NAME --list` names the actions.
 *
 * Rule: a call that fails where the victim did not provoke it ends the victim, so that a backup is never compared with a
 * victim that did nothing. "ready" on standard output says that the loop is under way, and a dot that 16 more rounds are done.
 * Rounds are paced, since the log has a size. */

#ifndef VICTIM_H
#define VICTIM_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct action {
    const char *name;
    void (*round)(void);
    /* Before the first round; may be NULL. */
    void (*start)(void);
};

static volatile sig_atomic_t victim_stop;
static __thread uint64_t victim_random;

static inline uint64_t below(uint64_t bound)
{
    victim_random ^= victim_random >> 12;
    victim_random ^= victim_random << 25;
    victim_random ^= victim_random >> 27;
    return (victim_random * 0x2545f4914f6cdd1dULL >> 16) % bound;
}

static inline void seed_random(uint64_t seed)
{
    victim_random = seed * 0x9e3779b97f4a7c15ULL | 1;
}

static inline void fill(void *buffer, size_t len)
{
    unsigned char *bytes = buffer;
    unsigned char value = (unsigned char)(below(255) + 1);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (unsigned char)(value + i * 7);
}

static inline void fail_at(const char *call, int line)
{
    fprintf(stderr, "line %d: %s: %s\n", line, call, strerror(errno));
    exit(1);
}

static inline long checked(long result, const char *call, int line)
{
    if (result < 0)
        fail_at(call, line);
    return result;
}

/* The call must succeed. */
#define CHECK(call) checked((long)(call), #call, __LINE__)

static inline void expected(long result, int error, const char *call, int line)
{
    if (result != -1 || errno != error) {
        fprintf(stderr, "line %d: %s: result %ld, errno %d, expected errno %d\n", line, call, result, errno, error);
        exit(1);
    }
}

/* The call must fail with this error. */
#define FAILS(error, call) expected((long)(call), error, #call, __LINE__)

/* The condition must hold. */
#define HOLDS(condition) ((condition) ? (void)0 : fail_at("not so: " #condition, __LINE__))

static void victim_term(int number)
{
    (void)number;
    victim_stop = 1;
}

static inline void pause_us(long us)
{
    struct timespec time = {.tv_nsec = us * 1000};
    nanosleep(&time, NULL);
}

static int victim_main(int argc, char **argv, const struct action *actions, size_t count)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < count; i++)
            puts(actions[i].name);
        return 0;
    }
    if (argc != 4) {
        fprintf(stderr, "usage: %s DIRECTORY ACTION SEED | --list\n", argv[0]);
        return 2;
    }
    const struct action *action = NULL;
    for (size_t i = 0; i < count; i++)
        if (strcmp(actions[i].name, argv[2]) == 0)
            action = &actions[i];
    if (action == NULL) {
        fprintf(stderr, "no action %s\n", argv[2]);
        return 2;
    }
    struct sigaction term = {.sa_handler = victim_term, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGTERM, &term, NULL));
    CHECK(chdir(argv[1]));
    seed_random(strtoull(argv[3], NULL, 10));
    if (action->start != NULL)
        action->start();
    for (unsigned long round = 0; !victim_stop; round++) {
        action->round();
        if (round % 16 != 15)
            continue;
        if (round == 15)
            CHECK(write(STDOUT_FILENO, "ready\n", 6));
        else
            CHECK(write(STDOUT_FILENO, ".", 1));
        pause_us(500);
    }
    return 0;
}

#define VICTIM(actions) \
    int main(int argc, char **argv) \
    { \
        return victim_main(argc, argv, actions, sizeof actions / sizeof actions[0]); \
    }

#endif
