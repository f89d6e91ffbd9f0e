/* When and where a backup calls back, and the throttle. */
#define _GNU_SOURCE
#include "common.h"

#include <sys/mman.h>

static struct backup backup;
static pthread_t caller;
static int polls;
static float first = -1, last;
static double longest, previous;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int count_polls(float progress) {
    CHECK(pthread_equal(caller, pthread_self()), "another thread polls");
    if (first < 0)
        first = progress;
    CHECK(progress >= last, "%f after %f", progress, last);
    last = progress;
    polls++;
    if (previous > 0 && now() - previous > longest)
        longest = now() - previous;
    previous = now();
    return 0;
}

static int stage;

static void first_moment(void) {
    CHECK(stage++ == 0 && pthread_equal(caller, pthread_self()), "before_stop");
    fill(in(source, "before"), 5000, 'b');
}

static void second_moment(void) {
    CHECK(stage++ == 1 && pthread_equal(caller, pthread_self()), "after_stop");
    fill(in(source, "after"), 5000, 'a');
    int fd = open(in(source, "file"), O_WRONLY);
    OK(fd);
    OK(pwrite(fd, "late", 4, 0));
    OK(close(fd));
}

static void moments(void) {
    fill(in(source, "file"), 4 << 20, 'x');
    backup = (struct backup){.poll = count_polls, .before_stop = first_moment, .after_stop = second_moment};
    succeed(&backup);
    CHECK(stage == 2 && first == 0 && last == 1, "%d moments, from %f to %f", stage, first, last);
    CHECK(exists(in(destination, "before")), "a change of before_stop is missing");
    CHECK(!exists(in(destination, "after")), "a change of after_stop is there");
    char bytes[5] = "";
    int fd = open(in(destination, "file"), O_RDONLY);
    OK(pread(fd, bytes, 4, 0));
    CHECK(strcmp(bytes, "xxxx") == 0, "%s", bytes);
    OK(close(fd));
    OK(unlink(in(source, "after")));
    fd = open(in(source, "file"), O_WRONLY);
    OK(pwrite(fd, "xxxx", 4, 0));
    OK(close(fd));
}

/* Not seen by the library, and so close to the cut that only the audit behind it can find it. */
static void change_from_outside(void) {
    char command[PATH_MAX + 80];
    snprintf(command, sizeof command, "printf changed | dd of='%s' conv=notrunc status=none", in(source, "file"));
    CHECK(system(command) == 0, "%s", command);
}

static void changed_from_outside(void) {
    fill(in(source, "file"), 1 << 20, 'x');
    backup = (struct backup){.before_stop = change_from_outside};
    succeed(&backup);
}

static double unthrottle_at;

static int wait_then_go(float progress) {
    count_polls(progress);
    if (now() > unthrottle_at)
        tokubackup_throttle_backup(ULONG_MAX);
    return 0;
}

static void held_for_two_seconds(unsigned long rate) {
    fill(in(source, "file"), 16 << 20, 'x');
    tokubackup_throttle_backup(rate);
    double start = now();
    unthrottle_at = start + 2.5;
    backup = (struct backup){.poll = wait_then_go};
    succeed(&backup);
    CHECK(now() - start >= 2.5, "it took %f s", now() - start);
    CHECK(polls >= 3 && longest < 1, "%d polls, the longest pause %f s", polls, longest);
}

static void paused(void) {
    held_for_two_seconds(0);
}

static void slowed(void) {
    held_for_two_seconds(1);
}

static void at_a_rate(void) {
    fill(in(source, "file"), 16 << 20, 'x');
    tokubackup_throttle_backup(8 << 20);
    double start = now();
    backup = (struct backup){.poll = count_polls};
    succeed(&backup);
    CHECK(now() - start > 1.5 && now() - start < 6, "16 MiB at 8 MiB/s took %f s", now() - start);
}

enum { MAPPED = 4096 };
static char *map;

static int store_and_unmap(float progress) {
    if (map && progress > 0.5) {
        memset(map, 'z', MAPPED);
        OK(munmap(map, MAPPED));
        map = NULL;
        tokubackup_throttle_backup(ULONG_MAX);
    }
    return 0;
}

/* Its page is dirty all the time, so that the store changes nothing that stat would tell, and the small file is copied long before half of all is. */
static void stored_behind_the_copy(void) {
    fill(in(source, "large"), 8 << 20, 'x');
    fill(in(source, "mapped"), MAPPED, 'x');
    int fd = open(in(source, "mapped"), O_RDWR);
    OK(fd);
    map = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED, "mmap");
    memset(map, 'y', MAPPED);
    OK(close(fd));
    tokubackup_throttle_backup(4 << 20);
    backup = (struct backup){.poll = store_and_unmap};
    succeed(&backup);
    CHECK(map == NULL, "never stored");
    char byte = 0;
    fd = open(in(destination, "mapped"), O_RDONLY);
    OK(fd);
    CHECK(read(fd, &byte, 1) == 1 && byte == 'z', "the copy has %c", byte);
    OK(close(fd));
}

static int asked_for_this, asked_for_others;

static int leave_out(const char *path) {
    CHECK(strncmp(path, source, strlen(source)) == 0, "%s is not in the source", path);
    if (strstr(path, "/unwanted")) {
        asked_for_this++;
        return 1;
    }
    asked_for_others++;
    return 0;
}

static void excluded(void) {
    char real[PATH_MAX];
    source = realpath(source, real);
    fill(in(source, "unwanted"), 100, 'x');
    fill(in(source, "wanted"), 100, 'x');
    backup = (struct backup){.exclude = leave_out};
    succeed(&backup);
    CHECK(asked_for_this > 0 && asked_for_others > 0, "%d, %d", asked_for_this, asked_for_others);
    CHECK(exists(in(destination, "wanted")) && !exists(in(destination, "unwanted")), "what was left out");
    OK(unlink(in(source, "unwanted")));
}

static atomic_int signals;

static void note_signal(int number) {
    (void)number;
    CHECK(pthread_equal(caller, pthread_self()), "a thread of the library got a signal");
    signals++;
}

static int send_signal(float progress) {
    (void)progress;
    return kill(getpid(), SIGUSR1);
}

static void signalled(void) {
    struct sigaction action = {.sa_handler = note_signal};
    OK(sigaction(SIGUSR1, &action, NULL));
    fill(in(source, "file"), 16 << 20, 'x');
    backup = (struct backup){.poll = send_signal};
    succeed(&backup);
    CHECK(signals > 0, "no signal arrived");
}

/* Each function calls the library again: another backup is refused, and this one is none the worse. */
static atomic_int polled_again, asked_again, stopped_again;

static void call_again(atomic_int *count) {
    struct backup other = {0};
    CHECK(back_up(&other, &source, &destination, 1) == EBUSY, "%d: %s", other.error, other.message);
    tokubackup_throttle_backup(ULONG_MAX);
    ++*count;
}

static int poll_again(float progress) {
    (void)progress;
    call_again(&polled_again);
    return 0;
}

static int ask_again(const char *path) {
    (void)path;
    call_again(&asked_again);
    return 0;
}

static void stop_again(void) {
    call_again(&stopped_again);
}

static void called_again(void) {
    fill(in(source, "file"), 100000, 'x');
    backup = (struct backup){.poll = poll_again, .exclude = ask_again, .before_stop = stop_again, .after_stop = stop_again};
    succeed(&backup);
    CHECK(polled_again > 0 && asked_again > 0 && stopped_again == 2, "%d, %d, %d", polled_again, asked_again, stopped_again);
}

int main(int argc, char **argv) {
    caller = pthread_self();
    static const struct scenario scenarios[] = {
        {"moments", moments}, {"changed_from_outside", changed_from_outside}, {"paused", paused}, {"slowed", slowed}, {"at_a_rate", at_a_rate},
        {"stored_behind_the_copy", stored_behind_the_copy},
        {"excluded", excluded}, {"signalled", signalled}, {"called_again", called_again}, {0},
    };
    return run_scenario(scenarios, argc, argv);
}
