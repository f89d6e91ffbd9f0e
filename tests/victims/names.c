/* Changes names by every spelling: rename, unlink, link, symlink, mkdir, rmdir, mkstemp. Files get bytes that tell them apart. */

#include "victim.h"

#include <linux/fs.h>

enum { NAMES = 10, DIRECTORIES = 4 };

static int root;
static int directory_fds[DIRECTORIES];
static char from[80], to[96];
static unsigned char buffer[2048];

static void start(void)
{
    root = CHECK(open(".", O_RDONLY | O_DIRECTORY));
    for (int i = 0; i < DIRECTORIES; i++) {
        char name[16];
        snprintf(name, sizeof name, "dir%d", i);
        if (mkdir(name, 0700) < 0)
            HOLDS(errno == EEXIST);
        directory_fds[i] = CHECK(open(name, O_RDONLY | O_DIRECTORY));
    }
}

static void a_name(char *name)
{
    if (below(3) == 0)
        snprintf(name, 80, "f%d", (int)below(NAMES));
    else
        snprintf(name, 80, "dir%d/f%d", (int)below(DIRECTORIES), (int)below(NAMES));
}

/* Makes `name`, if it isn't there, or changes it. */
static void touch(const char *name)
{
    int fd = CHECK(open(name, O_RDWR | O_CREAT, 0600));
    size_t len = below(sizeof buffer) + 1;
    fill(buffer, len);
    CHECK(pwrite(fd, buffer, len, (off_t)below(1000)));
    CHECK(close(fd));
}

static void two_names(void)
{
    do {
        a_name(from);
        a_name(to);
    } while (strcmp(from, to) == 0);
    touch(from);
}

static void ends_with(long result, int allowed)
{
    if (result < 0)
        HOLDS(errno == allowed);
}

static void by_rename(void) { two_names(); CHECK(rename(from, to)); touch(to); }
static void by_renameat(void) { two_names(); CHECK(renameat(root, from, AT_FDCWD, to)); touch(to); }
static void by_renameat2(void) { two_names(); CHECK(renameat2(AT_FDCWD, from, root, to, 0)); }
static void by_noreplace(void) { two_names(); ends_with(renameat2(root, from, root, to, RENAME_NOREPLACE), EEXIST); }
static void by_exchange(void) { two_names(); touch(to); CHECK(renameat2(root, from, root, to, RENAME_EXCHANGE)); touch(from); }

/* Both names are links to one file: rename then does nothing. */
static void by_rename_same(void)
{
    two_names();
    unlink(to);
    CHECK(link(from, to));
    CHECK(rename(from, to));
    touch(from);
    touch(to);
}

static void by_rename_over_open(void)
{
    two_names();
    touch(to);
    int fd = CHECK(open(to, O_RDWR));
    CHECK(rename(from, to));
    CHECK(pwrite(fd, buffer, sizeof buffer, 0));
    touch(to);
    CHECK(close(fd));
}

static void by_unlink(void) { two_names(); CHECK(unlink(from)); touch(to); }
static void by_unlinkat(void) { two_names(); CHECK(unlinkat(root, from, 0)); touch(to); }
static void by_remove(void) { two_names(); CHECK(remove(from)); touch(to); if (below(9) == 0) { CHECK(mkdir("gone", 0700)); CHECK(remove("gone")); } }
static void by_link(void) { two_names(); unlink(to); CHECK(link(from, to)); touch(below(2) ? from : to); }
static void by_linkat(void) { two_names(); unlink(to); CHECK(linkat(root, from, AT_FDCWD, to, 0)); touch(below(2) ? from : to); }

static void by_symlink(void) { two_names(); unlink(to); CHECK(symlink(below(2) ? from : "/nowhere/that/is", to)); CHECK(unlink(to)); ends_with(symlink(from, "soft"), EEXIST); if (below(2)) CHECK(unlink("soft")); }
static void by_symlinkat(void) { two_names(); ends_with(symlinkat(from, root, "soft"), EEXIST); if (below(2)) CHECK(rename("soft", "softer")); }

static void by_mkdir(void)
{
    snprintf(from, sizeof from, "dir%d/d%d", (int)below(DIRECTORIES), (int)below(NAMES));
    if (mkdir(from, 0750) < 0) {
        HOLDS(errno == EEXIST);
        ends_with(rmdir(from), ENOTEMPTY);
        return;
    }
    if (below(2)) {
        snprintf(to, sizeof to, "%s/inside", from);
        touch(to);
        if (below(2))
            CHECK(unlink(to));
    }
}

static void by_mkdirat(void)
{
    char name[16];
    int directory = directory_fds[below(DIRECTORIES)];
    snprintf(name, sizeof name, "d%d", (int)below(NAMES));
    if (mkdirat(directory, name, 0711) < 0) {
        HOLDS(errno == EEXIST);
        CHECK(unlinkat(directory, name, AT_REMOVEDIR));
    }
}

/* A directory moves with what is in it, and its files go on being written through descriptors that are open. */
static void by_rename_directory(void)
{
    static int generation;
    snprintf(from, sizeof from, "moving%d", generation);
    snprintf(to, sizeof to, below(2) ? "moving%d" : "dir1/../moving%d", generation + 1);
    if (mkdir(from, 0700) < 0)
        HOLDS(errno == EEXIST);
    char inside[100];
    snprintf(inside, sizeof inside, "%s/f%d", from, (int)below(NAMES));
    touch(inside);
    int fd = CHECK(open(inside, O_RDWR));
    CHECK(rename(from, to));
    generation++;
    CHECK(pwrite(fd, buffer, below(sizeof buffer), 0));
    CHECK(close(fd));
    snprintf(inside, sizeof inside, "%s/f%d", to, (int)below(NAMES));
    if (below(2))
        unlink(inside);
    else
        touch(inside);
}

/* An empty directory may be replaced by another one. */
static void by_replace_directory(void)
{
    touch("plain");
    if (mkdir("first", 0700) < 0)
        HOLDS(errno == EEXIST);
    if (mkdir("second", 0700) < 0)
        HOLDS(errno == EEXIST);
    snprintf(from, sizeof from, "first/f%d", (int)below(NAMES));
    touch(from);
    CHECK(rename("first", "second"));
    snprintf(from, sizeof from, "second/f%d", (int)below(NAMES));
    touch(from);
    CHECK(rename("second", "third"));
    CHECK(renameat2(root, "third", root, "plain", RENAME_EXCHANGE));
    CHECK(renameat2(root, "third", root, "plain", RENAME_EXCHANGE));
    for (int i = 0; i < NAMES; i++) {
        snprintf(from, sizeof from, "third/f%d", i);
        unlink(from);
    }
    CHECK(rmdir("third"));
}

static void by_exchange_directories(void)
{
    snprintf(from, sizeof from, "dir%d/f%d", (int)below(DIRECTORIES), (int)below(NAMES));
    touch(from);
    int first = (int)below(DIRECTORIES), second = (first + 1) % DIRECTORIES;
    snprintf(from, sizeof from, "dir%d", first);
    snprintf(to, sizeof to, "dir%d", second);
    CHECK(renameat2(root, from, root, to, RENAME_EXCHANGE));
    snprintf(from, sizeof from, "dir%d/f%d", (int)below(DIRECTORIES), (int)below(NAMES));
    touch(from);
}

static char temporary[64];
static int made;

static const char *a_template(const char *suffix)
{
    snprintf(temporary, sizeof temporary, "dir%d/tmpXXXXXX%s", (int)below(DIRECTORIES), suffix);
    return temporary;
}

static void use_temporary(int fd)
{
    size_t len = below(sizeof buffer) + 1;
    fill(buffer, len);
    CHECK(write(fd, buffer, len));
    CHECK(close(fd));
    snprintf(to, sizeof to, "kept%d", made++ % 20);
    CHECK(below(2) ? rename(temporary, to) : unlink(temporary));
}

static void by_mkstemp(void) { a_template(""); use_temporary(CHECK(mkstemp(temporary))); }
static void by_mkstemp64(void) { a_template(""); use_temporary(CHECK(mkstemp64(temporary))); }
static void by_mkostemp(void) { a_template(""); use_temporary(CHECK(mkostemp(temporary, O_APPEND))); }
static void by_mkostemp64(void) { a_template(""); use_temporary(CHECK(mkostemp64(temporary, O_CLOEXEC))); }
static void by_mkstemps(void) { a_template(".x"); use_temporary(CHECK(mkstemps(temporary, 2))); }
static void by_mkstemps64(void) { a_template(".xy"); use_temporary(CHECK(mkstemps64(temporary, 3))); }
static void by_mkostemps(void) { a_template(".x"); use_temporary(CHECK(mkostemps(temporary, 2, O_SYNC))); }
static void by_mkostemps64(void) { a_template(".x"); use_temporary(CHECK(mkostemps64(temporary, 2, 0))); }

/* A file comes in from outside the watched directory, and another goes out. */
static void by_moved_in(void)
{
    static int number;
    snprintf(from, sizeof from, "../outside%d", number);
    touch(from);
    snprintf(to, sizeof to, "in%d", number++ % 8);
    CHECK(rename(from, to));
    pause_us(20000);
}

static void by_moved_out(void)
{
    two_names();
    CHECK(rename(from, "../outside"));
    touch("../outside");
    CHECK(unlink("../outside"));
    touch(to);
}

static const struct action actions[] = {
    {"rename", by_rename, start},
    {"renameat", by_renameat, start},
    {"renameat2", by_renameat2, start},
    {"rename_noreplace", by_noreplace, start},
    {"rename_exchange", by_exchange, start},
    {"rename_same", by_rename_same, start},
    {"rename_over_open", by_rename_over_open, start},
    {"unlink", by_unlink, start},
    {"unlinkat", by_unlinkat, start},
    {"remove", by_remove, start},
    {"link", by_link, start},
    {"linkat", by_linkat, start},
    {"symlink", by_symlink, start},
    {"symlinkat", by_symlinkat, start},
    {"mkdir", by_mkdir, start},
    {"mkdirat", by_mkdirat, start},
    {"rename_directory", by_rename_directory, start},
    {"replace_directory", by_replace_directory, start},
    {"exchange_directories", by_exchange_directories, start},
    {"mkstemp", by_mkstemp, start},
    {"mkstemp64", by_mkstemp64, start},
    {"mkostemp", by_mkostemp, start},
    {"mkostemp64", by_mkostemp64, start},
    {"mkstemps", by_mkstemps, start},
    {"mkstemps64", by_mkstemps64, start},
    {"mkostemps", by_mkostemps, start},
    {"mkostemps64", by_mkostemps64, start},
    {"moved_in", by_moved_in, start},
    {"moved_out", by_moved_out, start},
};
VICTIM(actions)
