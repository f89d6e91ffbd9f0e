/* Threads that change files while a backup begins, copies and cuts. Those that are compared as a whole are stopped in before_stop; the others check what the copy may hold. */
#define _GNU_SOURCE
#include "common.h"

static atomic_int stop_now;
static struct backup backup;
static pthread_t threads[512];
static int thread_count;

static void start(void *(*run)(void *), int count) {
    for (int i = 0; i < count; i++) {
        int failed = pthread_create(&threads[thread_count++], NULL, run, (void *)(size_t)i);
        CHECK(failed == 0, "thread %d", i);
    }
}

static void stop_threads(void) {
    stop_now = 1;
    while (thread_count > 0)
        CHECK(pthread_join(threads[--thread_count], NULL) == 0, "join");
}

static void numbered(char *path, const char *directory, const char *name, size_t number) {
    snprintf(path, PATH_MAX, "%s/%s%zu", directory, name, number);
}

/* Enough to copy that the threads have time. */
static void ballast(void) {
    for (int i = 0; i < 8; i++) {
        char path[PATH_MAX];
        numbered(path, source, "ballast", (size_t)i);
        fill(path, 4 << 20, 'b');
    }
}

static void with(void *(*first)(void *), void *(*second)(void *)) {
    ballast();
    start(first, 2);
    if (second)
        start(second, 2);
    backup.before_stop = stop_threads;
    succeed(&backup);
}

static void *create(void *thread) {
    for (size_t i = 0; !stop_now; i = (i + 1) % 16) {
        char path[PATH_MAX];
        numbered(path, source, "file", i);
        int fd = open(path, O_RDWR | O_CREAT, 0644);
        if (fd >= 0) {
            OK(pwrite(fd, &thread, sizeof thread, (off_t)i * 100));
            OK(close(fd));
        }
    }
    return NULL;
}

static void *rename_about(void *thread) {
    for (size_t i = (size_t)thread; !stop_now; i++) {
        char from[PATH_MAX], to[PATH_MAX];
        numbered(from, source, "file", i % 16);
        numbered(to, source, "file", i * 7 % 16);
        rename(from, to);
    }
    return NULL;
}

static void *remove_about(void *thread) {
    for (size_t i = (size_t)thread; !stop_now; i++) {
        char path[PATH_MAX];
        numbered(path, source, "file", i % 16);
        unlink(path);
    }
    return NULL;
}

static void create_against_rename(void) {
    with(create, rename_about);
}

static void create_against_unlink(void) {
    with(create, remove_about);
}

/* Two threads rename the same file to the same name: one of them fails. */
static void *rename_same(void *thread) {
    (void)thread;
    while (!stop_now) {
        rename(in(source, "left"), in(source, "right"));
        rename(in(source, "right"), in(source, "left"));
    }
    return NULL;
}

static void equal_renames(void) {
    fill(in(source, "left"), 300000, 'l');
    with(rename_same, NULL);
}

static void *overwrite(void *thread) {
    static char block[256 << 10];
    int fd = open(in(source, "ballast0"), O_RDWR);
    OK(fd);
    for (size_t i = (size_t)thread; !stop_now; i++)
        OK(pwrite(fd, block, sizeof block, (off_t)(i * 7919 % 4000000)));
    OK(close(fd));
    return NULL;
}

static void write_during_copy(void) {
    with(overwrite, NULL);
}

/* Files that go while they are copied: `open` ones are written to afterwards, too. */
static int open_files[64];

static int remove_while_copying(float progress) {
    static int removed;
    if (progress > 0 && progress < 0.9 && removed < 64)
        for (int i = 0; i < 16; i++, removed++) {
            char path[PATH_MAX];
            numbered(path, source, "victim", (size_t)removed);
            OK(unlink(path));
            if (open_files[removed] > 0) {
                OK(pwrite(open_files[removed], "gone", 4, 0));
                OK(close(open_files[removed]));
            }
        }
    return 0;
}

static void remove_the_rest(void) {
    CHECK(open_files[1] > 0 && !exists(in(source, "victim0")), "nothing was removed while it was copied");
    for (size_t i = 64; i < 80; i++) {
        char path[PATH_MAX];
        numbered(path, source, "victim", i);
        OK(unlink(path));
    }
}

static void unlink_during_copy(void) {
    ballast();
    for (int i = 0; i < 80; i++) {
        char path[PATH_MAX];
        numbered(path, source, "victim", (size_t)i);
        fill(path, 100000, 'v');
        if (i % 2 && i < 64)
            OK(open_files[i] = open(path, O_RDWR));
    }
    tokubackup_throttle_backup(20 << 20);
    backup = (struct backup){.poll = remove_while_copying, .before_stop = remove_the_rest};
    succeed(&backup);
}

/* A name that moves on and on, through the cut: the copy has it exactly once. */
static void *move_on(void *unused) {
    (void)unused;
    for (size_t i = 0; !stop_now; i++) {
        char from[PATH_MAX], to[PATH_MAX];
        numbered(from, source, "place", i % 8);
        numbered(to, source, "place", (i + 1) % 8);
        OK(rename(from, to));
    }
    return NULL;
}

static void rename_against_the_cut(void) {
    ballast();
    fill(in(source, "place0"), 5000, 'p');
    start(move_on, 1);
    succeed(&backup);
    stop_threads();
    int found = 0;
    for (size_t i = 0; i < 8; i++) {
        char path[PATH_MAX];
        numbered(path, destination, "place", i);
        found += exists(path);
    }
    CHECK(found == 1, "%d names in the copy", found);
}

/* Each thread writes 1, 2, 3… to five descriptors in turn, through the cut: the copy has all numbers up to some one, and none behind it. */
enum { SLOTS = 1 << 16 };
static atomic_size_t written[4];
static size_t least[4], most[4];

static void *count_up(void *thread) {
    size_t me = (size_t)thread;
    int fds[5];
    for (size_t i = 0; i < 5; i++) {
        char path[PATH_MAX];
        numbered(path, source, "counter", me * 5 + i);
        OK(fds[i] = open(path, O_RDWR | O_CREAT, 0644));
    }
    for (size_t number = 1; !stop_now && number < 5 * SLOTS; number++) {
        OK(pwrite(fds[number % 5], &number, sizeof number, (off_t)(number / 5 * sizeof number)));
        written[me] = number;
    }
    for (size_t i = 0; i < 5; i++)
        OK(close(fds[i]));
    return NULL;
}

static void note_least(void) {
    for (int i = 0; i < 4; i++)
        least[i] = written[i];
}

static void note_most(void) {
    /* One more may be written and not yet counted. */
    for (int i = 0; i < 4; i++)
        most[i] = written[i] + 1;
}

static void check_counter(size_t me) {
    static size_t numbers[5][SLOTS];
    memset(numbers, 0, sizeof numbers);
    for (size_t i = 0; i < 5; i++) {
        char path[PATH_MAX];
        numbered(path, destination, "counter", me * 5 + i);
        int fd = open(path, O_RDONLY);
        OK(fd);
        OK(pread(fd, numbers[i], sizeof numbers[i], 0));
        OK(close(fd));
    }
    size_t last = 0;
    for (size_t number = 1; number < 5 * SLOTS; number++)
        if (numbers[number % 5][number / 5] == number) {
            CHECK(number == last + 1, "%zu is there, %zu is not", number, last + 1);
            last = number;
        }
    CHECK(last >= least[me] && last <= most[me], "%zu, from %zu to %zu", last, least[me], most[me]);
}

static void around_the_cut(void) {
    start(count_up, 4);
    backup = (struct backup){.before_stop = note_least, .after_stop = note_most};
    succeed(&backup);
    stop_threads();
    for (size_t i = 0; i < 4; i++)
        check_counter(i);
}

static void *open_and_close(void *thread) {
    for (size_t i = 0; !stop_now; i++) {
        char path[PATH_MAX];
        numbered(path, source, "opened", (size_t)thread * 8 + i % 8);
        int fd = open(path, O_RDWR | O_CREAT, 0644);
        OK(fd);
        OK(write(fd, &i, sizeof i));
        OK(close(fd));
    }
    return NULL;
}

static void rounds(int count) {
    start(open_and_close, 10);
    for (int round = 0; round < count; round++) {
        succeed(&backup);
        if (round + 1 < count)
            empty(destination);
    }
    stop_threads();
    empty(destination);
    succeed(&backup);
}

static void hundred_backups(void) {
    rounds(getenv("ROUNDS") ? atoi(getenv("ROUNDS")) : 100);
}

/* Backups begin and end while files are opened, made and emptied. */
static void *open_always(void *thread) {
    for (size_t i = 0; !stop_now; i++) {
        char path[PATH_MAX] = "";
        numbered(path, source, "fresh", (size_t)thread * 100 + i % 50);
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
        OK(fd);
        OK(write(fd, path, 50));
        OK(close(fd));
        if (i % 3 == 0)
            OK(unlink(path));
    }
    return NULL;
}

static void open_against_start_and_end(void) {
    for (int round = 0; round < 10; round++) {
        stop_now = 0;
        start(open_always, 4);
        backup.before_stop = round % 2 ? stop_threads : NULL;
        succeed(&backup);
        if (!(round % 2))
            stop_threads();
        if (round < 9)
            empty(destination);
    }
}

static void many_pairs(void) {
    enum { PAIRS = 30 };
    static char from[PAIRS][PATH_MAX], to[PAIRS][PATH_MAX];
    const char *sources[PAIRS], *destinations[PAIRS];
    for (size_t i = 0; i < PAIRS; i++) {
        numbered(from[i], source, "dir", i);
        numbered(to[i], destination, "dir", i);
        sources[i] = from[i];
        destinations[i] = to[i];
        OK(mkdir(from[i], 0755));
        OK(mkdir(to[i], 0755));
        fill(in(from[i], "file"), 10000 + i, 'a' + (char)(i % 26));
        OK(mkdir(in(from[i], "empty"), 0700));
    }
    int result = back_up(&backup, sources, destinations, PAIRS);
    CHECK(result == 0, "%d: %s", result, backup.message);
}

/* Three pairs, from memory to memory, from memory to a disk and back; files go from root to root, whose copies are not on one file system. */
static void move_over(size_t number) {
    char from[PATH_MAX], to[PATH_MAX];
    numbered(from, source, "moved", number);
    numbered(to, source, "../leaves/moved", number);
    OK(rename(from, to));
    int fd = open(to, O_WRONLY);
    OK(fd);
    OK(pwrite(fd, "moved", 5, 100));
    OK(close(fd));
    fd = open(in(getenv("OTHER_SOURCE"), "file"), O_WRONLY);
    OK(fd);
    OK(pwrite(fd, "moved", 5, (off_t)number * 1000));
    OK(close(fd));
}

static int moved_while_copying;

static int move_while_copying(float progress) {
    if (progress > 0 && progress < 0.9 && !moved_while_copying++) {
        move_over(0);
        tokubackup_throttle_backup(ULONG_MAX);
    }
    return 0;
}

static void move_then_stop(void) {
    CHECK(moved_while_copying, "nothing was moved while files were copied");
    move_over(1);
    stop_threads();
}

static void across_file_systems(void) {
    char stays[PATH_MAX], leaves[PATH_MAX], comes[PATH_MAX];
    snprintf(stays, sizeof stays, "%s/stays", destination);
    snprintf(comes, sizeof comes, "%s/comes", destination);
    OK(mkdir(stays, 0755));
    OK(mkdir(comes, 0755));
    const char *destinations[] = {stays, getenv("OTHER_DESTINATION"), comes};
    snprintf(leaves, sizeof leaves, "%s/leaves", source);
    OK(mkdir(leaves, 0755));
    char from[PATH_MAX];
    snprintf(from, sizeof from, "%s/stays", source);
    OK(mkdir(from, 0755));
    fill(in(from, "moved0"), 500000, 'm');
    fill(in(from, "moved1"), 500000, 'm');
    fill(in(getenv("OTHER_SOURCE"), "file"), 4 << 20, 'o');
    const char *sources[] = {from, leaves, getenv("OTHER_SOURCE")};
    source = from;
    ballast();
    start(create, 2);
    start(overwrite, 1);
    tokubackup_throttle_backup(20 << 20);
    backup = (struct backup){.poll = move_while_copying, .before_stop = move_then_stop};
    int result = back_up(&backup, sources, destinations, 3);
    CHECK(result == 0, "%d: %s", result, backup.message);
}

static void *small_steps(void *thread) {
    char path[PATH_MAX];
    numbered(path, source, "thread", (size_t)thread);
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    OK(fd);
    /* Root's backup goes before threads that want more processor than there is. Anybody else's has one share among five hundred, and these leave it some. */
    useconds_t pause = geteuid() == 0 ? 2000 : 20000;
    for (size_t i = 0; !stop_now; i++) {
        OK(pwrite(fd, &i, sizeof i, (off_t)(i % 1000 * 8)));
        usleep(pause);
    }
    OK(close(fd));
    return NULL;
}

static void crowd(void) {
    start(small_steps, 500);
    backup.before_stop = stop_threads;
    succeed(&backup);
}

/* Children are made while a backup runs: they write, and the parent's backup is none the worse. They can't make a backup; a child that is made without one can. */
static void in_child(const char *suffix, int expected) {
    pid_t child = fork();
    OK(child);
    if (child == 0) {
        char base[PATH_MAX - 16];
        snprintf(base, sizeof base, "%s-%s", source, suffix);
        CHECK(mkdir(base, 0755) == 0 && mkdir(in(base, "from"), 0755) == 0 && mkdir(in(base, "to"), 0755) == 0, "%s", base);
        fill(in(base, "from/file"), 100000, 'c');
        const char *from = in(base, "from"), *to = in(base, "to");
        struct backup own = {0};
        /* Some allocators can't be used in the child of a process with threads. */
        if (!getenv("CHILDREN_ONLY_WRITE")) {
            int result = back_up(&own, &from, &to, 1);
            CHECK(result == expected, "%d: %s", result, own.message);
            CHECK(exists(in(base, "to/file")) == (expected == 0), "the child's copy");
        }
        _exit(0);
    }
    int status;
    OK(waitpid(child, &status, 0));
    CHECK(status == 0, "the child: %x", (unsigned)status);
}

static int forked;

static int fork_once(float progress) {
    if (progress > 0 && progress < 0.9 && !forked++) {
        in_child("during", ENOTSUP);
        CHECK(system("true") == 0, "system");
    }
    return 0;
}

static void forks(void) {
    in_child("before", 0);
    ballast();
    start(count_up, 2);
    tokubackup_throttle_backup(20 << 20);
    backup = (struct backup){.poll = fork_once, .before_stop = stop_threads};
    succeed(&backup);
    CHECK(forked, "no child was made");
    in_child("after", 0);
}

int main(int argc, char **argv) {
    static const struct scenario scenarios[] = {
        {"create_against_rename", create_against_rename}, {"create_against_unlink", create_against_unlink},
        {"equal_renames", equal_renames}, {"write_during_copy", write_during_copy},
        {"unlink_during_copy", unlink_during_copy}, {"rename_against_the_cut", rename_against_the_cut},
        {"around_the_cut", around_the_cut}, {"hundred_backups", hundred_backups},
        {"open_against_start_and_end", open_against_start_and_end}, {"many_pairs", many_pairs},
        {"across_file_systems", across_file_systems},
        {"crowd", crowd}, {"forks", forks}, {0},
    };
    return run_scenario(scenarios, argc, argv);
}
