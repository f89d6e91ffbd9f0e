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

/* Of a change of mode or owner there is no record. */
static void change_modes(void) {
    OK(chmod(in(source, "directory"), 0710));
    OK(chmod(in(source, "directory/file"), 0604));
    OK(chown(in(source, "directory"), 1, 2));
}

static void modes(void) {
    OK(mkdir(in(source, "directory"), 0755));
    fill(in(source, "directory/file"), 100, 'x');
    backup = (struct backup){.before_stop = change_modes};
    succeed(&backup);
}

/* A file that is made when the backup is live, and written without a pause until it is over. */
static atomic_int written, stop_now;
static pthread_t writer;

static void *write_on(void *unused) {
    int fd = open(in(source, "late"), O_WRONLY | O_CREAT, 0644);
    OK(fd);
    for (; !stop_now; written++)
        CHECK(pwrite(fd, "late", 4, written % 1000) == 4, "pwrite");
    OK(close(fd));
    return unused;
}

static void begin_to_write(void) {
    CHECK(pthread_create(&writer, NULL, write_on, NULL) == 0, "a thread");
    while (written < 100)
        usleep(1000);
}

static void made_when_live(void) {
    struct stat found;
    fill(in(source, "file"), 100, 'x');
    backup = (struct backup){.before_stop = begin_to_write};
    time_t begun = time(NULL);
    succeed(&backup);
    stop_now = 1;
    CHECK(pthread_join(writer, NULL) == 0, "join");
    OK(stat(in(destination, "late"), &found));
    CHECK(found.st_mtime >= begun - 1 && found.st_mtime <= time(NULL), "the copy is of %ld, now it is %ld", (long)found.st_mtime, (long)begun);
}

/* What is no file comes from outside under a name in the source, and looks like a file in the log. */
static void bring_what_is_no_file(void) {
    char pipe[PATH_MAX], symbolic[PATH_MAX];
    snprintf(pipe, sizeof pipe, "%s-pipe", source);
    snprintf(symbolic, sizeof symbolic, "%s-symbolic", source);
    OK(mkfifo(pipe, 0644));
    OK(symlink("file", symbolic));
    OK(rename(pipe, in(source, "pipe")));
    OK(link(in(source, "pipe"), in(source, "linked")));
    OK(rename(symbolic, in(source, "symbolic")));
}

static void no_files(void) {
    fill(in(source, "file"), 100, 'x');
    backup = (struct backup){.before_stop = bring_what_is_no_file};
    succeed(&backup);
    OK(unlink(in(source, "pipe")));
    OK(unlink(in(source, "linked")));
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
static int protected;

static int store_and_unmap(float progress) {
    if (map && progress > 0.5) {
        if (protected)
            OK(mprotect(map, MAPPED, PROT_READ | PROT_WRITE));
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
    if (protected)
        OK(mprotect(map, MAPPED, PROT_READ));
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

/* As above, but nothing is mapped for writing when the backup begins. */
static void stored_once_allowed(void) {
    protected = 1;
    stored_behind_the_copy();
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

/* A file comes up while the copying threads are held: who reads the log asks whether it is left out, and the answer takes so long that these threads look meanwhile whether
 * the backup still goes on. Then it lets them go on. */
static atomic_int was_made;

static int wait_then_unthrottle(const char *path) {
    if (strstr(path, "/made_meanwhile") && was_made) {
        usleep(600000);
        tokubackup_throttle_backup(ULONG_MAX);
    }
    return 0;
}

static int make_once(float progress) {
    count_polls(progress);
    /* Long behind the scan. */
    if (!was_made && polls == 10) {
        was_made = 1;
        fill(in(source, "made_meanwhile"), 100, 'x');
    }
    return 0;
}

static void throttled_by_exclude(void) {
    fill(in(source, "file"), 16 << 20, 'x');
    tokubackup_throttle_backup(0);
    alarm(30);
    backup = (struct backup){.poll = make_once, .exclude = wait_then_unthrottle};
    succeed(&backup);
    CHECK(was_made, "the backup was not held");
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
        {"stored_behind_the_copy", stored_behind_the_copy}, {"stored_once_allowed", stored_once_allowed},
        {"modes", modes}, {"made_when_live", made_when_live}, {"no_files", no_files},
        {"throttled_by_exclude", throttled_by_exclude}, {"excluded", excluded}, {"signalled", signalled}, {"called_again", called_again}, {0},
    };
    return run_scenario(scenarios, argc, argv);
}
