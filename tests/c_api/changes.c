/*
 * Each kind of change, made before the backup, while it copies and when everything is copied. Every change works in a directory of its own, so a difference between source
 * and copy names its change.
 */
#define _GNU_SOURCE
#include "common.h"
#include <libaio.h>
#include <sys/sendfile.h>

/* The directory of one change; `old` was there before the backup and is 1 MiB long. */
struct place {
    char path[PATH_MAX - 64];
    char outside[PATH_MAX - 64];
};

static int opened(const struct place *place, const char *name, int flags) {
    int fd = open(in(place->path, name), flags, 0640);
    CHECK(fd >= 0, "%s/%s", place->path, name);
    return fd;
}

static void say(int fd, const char *text) {
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s", text);
}

static void append(const struct place *place) {
    int fd = opened(place, "old", O_WRONLY | O_APPEND);
    say(fd, "one");
    lseek(fd, 0, SEEK_SET);
    say(fd, "two");
    OK(pwrite(fd, "three", 5, 7));
    close(fd);
}

static void open_truncated(const struct place *place) {
    int fd = opened(place, "old", O_WRONLY | O_TRUNC);
    say(fd, "short");
    close(fd);
}

static void truncate_by_path(const struct place *place) {
    OK(truncate(in(place->path, "old"), 12345));
    OK(truncate(in(place->path, "old"), 99999));
}

static void rename_within(const struct place *place) {
    OK(mkdir(in(place->path, "sub"), 0700));
    OK(rename(in(place->path, "old"), in(place->path, "sub/new")));
    int fd = opened(place, "sub/new", O_WRONLY);
    say(fd, "renamed");
    close(fd);
}

static void rename_over(const struct place *place) {
    fill(in(place->path, "fresh"), 3000, 'f');
    OK(rename(in(place->path, "fresh"), in(place->path, "old")));
}

static void rename_in(const struct place *place) {
    fill(in(place->outside, "came"), 70000, 'c');
    OK(rename(in(place->outside, "came"), in(place->path, "came")));
}

static void rename_out(const struct place *place) {
    OK(rename(in(place->path, "old"), in(place->outside, "left")));
    int fd = open(in(place->outside, "left"), O_WRONLY);
    say(fd, "outside");
    close(fd);
}

static void rename_directory(const struct place *place) {
    OK(mkdir(in(place->path, "a"), 0755));
    fill(in(place->path, "a/file"), 5000, 'd');
    OK(rename(in(place->path, "a"), in(place->path, "b")));
}

static void directories(const struct place *place) {
    OK(mkdir(in(place->path, "empty"), 0750));
    OK(mkdir(in(place->path, "gone"), 0755));
    OK(rmdir(in(place->path, "gone")));
}

static void links(const struct place *place) {
    OK(link(in(place->path, "old"), in(place->path, "second")));
    OK(symlink("old", in(place->path, "symbolic")));
    OK(symlink("/nowhere/at/all", in(place->path, "dangling")));
    int fd = opened(place, "second", O_WRONLY);
    say(fd, "through the second name");
    close(fd);
}

static void remove_and_reuse(const struct place *place) {
    OK(unlink(in(place->path, "old")));
    fill(in(place->path, "old"), 100, 'r');
}

static void creat_openat(const struct place *place) {
    int fd = creat(in(place->path, "created"), 0600);
    OK(fd);
    say(fd, "created");
    close(fd);
    int directory = open(place->path, O_RDONLY | O_DIRECTORY);
    fd = openat(directory, "relative", O_WRONLY | O_CREAT, 0644);
    OK(fd);
    say(fd, "relative");
    close(fd);
    close(directory);
}

static void dups(const struct place *place) {
    int fd = opened(place, "old", O_WRONLY);
    int second = dup(fd);
    close(fd);
    say(second, "dup");
    int third = fcntl(second, F_DUPFD, 100);
    say(third, "fcntl");
    close(second);
    OK(dup2(third, 200));
    say(200, "dup2");
    close(third);
    close(200);
}

static void vectors(const struct place *place) {
    struct iovec parts[] = {{"first", 5}, {"second", 6}, {"", 0}, {"third", 5}};
    int fd = opened(place, "old", O_WRONLY);
    OK(writev(fd, parts, 4));
    OK(pwritev(fd, parts, 4, 500000));
    OK(pwritev2(fd, parts, 2, -1, 0));
    close(fd);
}

static void space(const struct place *place) {
    int fd = opened(place, "old", O_RDWR);
    OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 65536, 131072));
    OK(fallocate(fd, 0, 1 << 20, 1 << 20));
    CHECK(posix_fallocate(fd, 3 << 20, 4096) == 0, "posix_fallocate");
    fallocate(fd, FALLOC_FL_ZERO_RANGE, 300000, 50000);
    OK(ftruncate(fd, 5 << 20));
    close(fd);
    fd = opened(place, "sparse", O_RDWR | O_CREAT);
    OK(pwrite(fd, "far", 3, 64 << 20));
    close(fd);
}

static void in_kernel(const struct place *place) {
    int from = opened(place, "old", O_RDONLY), to = opened(place, "copied", O_RDWR | O_CREAT);
    OK(copy_file_range(from, NULL, to, NULL, 300000, 0));
    OK(sendfile(to, from, NULL, 200000));
    close(from);
    close(to);
}

static void streams(const struct place *place) {
    FILE *stream = fopen(in(place->path, "stream"), "w");
    CHECK(stream, "fopen");
    for (int line = 0; line < 3000; line++)
        fprintf(stream, "line %d\n", line);
    CHECK(fclose(stream) == 0, "fclose");
    stream = fopen(in(place->path, "old"), "a");
    fputs("appended", stream);
    CHECK(fflush(stream) == 0 && fclose(stream) == 0, "fflush");
}

static void asynchronous(const struct place *place) {
    static char block[8192];
    io_context_t context = 0;
    CHECK(io_setup(8, &context) == 0, "io_setup");
    int fd = opened(place, "old", O_WRONLY);
    struct iocb requests[8], *list[8];
    for (int i = 0; i < 8; i++) {
        io_prep_pwrite(&requests[i], fd, block, sizeof block, i * 20000);
        list[i] = &requests[i];
    }
    struct io_event events[8];
    CHECK(io_submit(context, 8, list) == 8 && io_getevents(context, 8, 8, events, NULL) == 8, "libaio");
    io_destroy(context);
    close(fd);
}

static void attributes(const struct place *place) {
    OK(chmod(in(place->path, "old"), 04711));
    if (geteuid() == 0)
        OK(chown(in(place->path, "old"), 1234, 4321));
    fill(in(place->path, "closed"), 10, 'm');
    OK(chmod(in(place->path, "closed"), 0400));
}

/* `call` fails with `number`. */
#define FAILS(call, number) CHECK((call) == -1 && errno == (number), "it should fail with %d", number)

static void refused(const struct place *place) {
    char nothing[PATH_MAX], directory[PATH_MAX], inner[PATH_MAX], old[PATH_MAX];
    snprintf(nothing, sizeof nothing, "%s/nothing", place->path);
    snprintf(directory, sizeof directory, "%s/full", place->path);
    snprintf(inner, sizeof inner, "%s/full/file", place->path);
    snprintf(old, sizeof old, "%s/old", place->path);
    OK(mkdir(directory, 0755));
    fill(inner, 100, 'x');
    FAILS(rename(directory, place->path), ENOTEMPTY);
    FAILS(rename(place->path, directory), EINVAL);
    FAILS(rename(old, directory), EISDIR);
    FAILS(renameat2(AT_FDCWD, old, AT_FDCWD, inner, RENAME_NOREPLACE), EEXIST);
    FAILS(unlink(directory), EISDIR);
    FAILS(remove(directory), ENOTEMPTY);
    FAILS(rmdir(old), ENOTDIR);
    FAILS(truncate(nothing, 1), ENOENT);
    FAILS(truncate(directory, 1), EISDIR);
    FAILS(truncate(old, -1), EINVAL);
    FAILS(link(old, directory), EEXIST);
    FAILS(symlink("old", directory), EEXIST);
    FAILS(mkdir(old, 0755), EEXIST);
    FAILS(open(old, O_RDWR | O_CREAT | O_EXCL, 0644), EEXIST);
    FAILS(open(directory, O_WRONLY | O_TRUNC), EISDIR);
    FAILS(creat(directory, 0644), EISDIR);
    int fd = opened(place, "old", O_RDWR);
    FAILS(fallocate(fd, 0, 0, 0), EINVAL);
    FAILS(pwrite(fd, "no", 2, -1), EINVAL);
    FAILS(ftruncate(fd, -1), EINVAL);
    /* The copying threads of this process are given the lowest number that is free, and would be given `fd`. */
    int closed = fcntl(fd, F_DUPFD, 900);
    CHECK(closed >= 900, "F_DUPFD");
    OK(close(closed));
    OK(close(fd));
    FAILS(ftruncate(closed, 0), EBADF);
    FAILS(write(closed, "no", 2), EBADF);
}

static void failing(const struct place *place) {
    struct rlimit before, limit;
    OK(getrlimit(RLIMIT_FSIZE, &before));
    CHECK(rename(in(place->path, "nothing"), in(place->path, "old")) == -1, "rename");
    CHECK(unlink(in(place->path, "nothing")) == -1 && rmdir(place->path) == -1, "unlink");
    int fd = opened(place, "old", O_RDONLY);
    CHECK(ftruncate(fd, 1) == -1 && write(fd, "no", 2) == -1 && pwrite(fd, "no", 2, 0) == -1, "read-only");
    close(fd);
    fd = opened(place, "limited", O_RDWR | O_CREAT);
    signal(SIGXFSZ, SIG_IGN);
    /* It holds for the copying threads of this process, too: no other file is as large. */
    const off_t most = 65 << 20;
    limit = (struct rlimit){most, before.rlim_max};
    OK(setrlimit(RLIMIT_FSIZE, &limit));
    static char block[4096];
    memset(block, 'l', sizeof block);
    CHECK(pwrite(fd, block, 4096, most - 1808) == 1808, "not short");
    CHECK(pwrite(fd, block, 4096, most + 2000) == -1 && errno == EFBIG, "not limited");
    OK(setrlimit(RLIMIT_FSIZE, &before));
    const void *volatile nothing = (void *)16;
    if (!getenv("NO_BAD_POINTERS"))
        CHECK(pwrite(fd, nothing, 100, 0) == -1 && errno == EFAULT, "a pointer to nothing");
    close(fd);
}

static const struct {
    const char *name;
    void (*make)(const struct place *);
} changes[] = {
    {"append", append}, {"open_truncated", open_truncated}, {"truncate_by_path", truncate_by_path},
    {"rename_within", rename_within}, {"rename_over", rename_over}, {"rename_in", rename_in}, {"rename_out", rename_out},
    {"rename_directory", rename_directory}, {"directories", directories}, {"links", links},
    {"remove_and_reuse", remove_and_reuse}, {"creat_openat", creat_openat}, {"dups", dups}, {"vectors", vectors},
    {"space", space}, {"in_kernel", in_kernel}, {"streams", streams}, {"asynchronous", asynchronous},
    {"attributes", attributes}, {"refused", refused}, {"failing", failing},
};

#define CHANGE_COUNT (sizeof changes / sizeof *changes)

static char sibling[PATH_MAX - 128];

static struct place place_of(const char *when, const char *name) {
    struct place place;
    snprintf(place.path, sizeof place.path, "%s/%s-%s", source, when, name);
    snprintf(place.outside, sizeof place.outside, "%s/%s-%s", sibling, when, name);
    return place;
}

static void prepare(const char *when) {
    for (size_t i = 0; i < CHANGE_COUNT; i++) {
        struct place place = place_of(when, changes[i].name);
        OK(mkdir(place.path, 0755));
        OK(mkdir(place.outside, 0755));
        fill(in(place.path, "old"), 1 << 20, 'o');
    }
}

static void make_all(const char *when) {
    const char *only = getenv("ONLY");
    for (size_t i = 0; i < CHANGE_COUNT; i++) {
        struct place place = place_of(when, changes[i].name);
        if (!only || strcmp(only, changes[i].name) == 0)
            changes[i].make(&place);
    }
}

static int while_copying(float progress) {
    static int made;
    if (progress > 0 && !made) {
        CHECK(progress < 0.9, "too late: %f", progress);
        made = 1;
        make_all("copying");
        tokubackup_throttle_backup(ULONG_MAX);
    }
    return 0;
}

static void when_live(void) {
    make_all("live");
}

static void all(void) {
    /* A directory beside the source whose name begins with the source's. */
    snprintf(sibling, sizeof sibling, "%s-sibling", source);
    OK(mkdir(sibling, 0755));
    prepare("before");
    prepare("copying");
    prepare("live");
    make_all("before");
    tokubackup_throttle_backup(20 << 20);
    struct backup backup = {.poll = while_copying, .before_stop = when_live};
    succeed(&backup);
    char command[PATH_MAX + 32];
    snprintf(command, sizeof command, "rm -rf '%s'", sibling);
    CHECK(system(command) == 0, "%s", command);
}

int main(int argc, char **argv) {
    static const struct scenario scenarios[] = {{"all", all}, {0}};
    return run_scenario(scenarios, argc, argv);
}
