/* Makes, empties and reopens files by every spelling of open, and gives each new one some bytes. */

#include "victim.h"

enum { NAMES = 12 };

static int root;
static char name[64];
static unsigned char buffer[4096];

static void start(void) { root = CHECK(open(".", O_RDONLY | O_DIRECTORY)); }

static const char *a_name(void)
{
    snprintf(name, sizeof name, "file%d", (int)below(NAMES));
    return name;
}

static void use(int fd)
{
    size_t len = below(sizeof buffer) + 1;
    fill(buffer, len);
    CHECK(pwrite(fd, buffer, len, (off_t)below(8192)));
    CHECK(close(fd));
}

/* Now and then the name is taken away, so that the next open makes it. */
static void forget_now_and_then(void)
{
    if (below(3) == 0)
        unlink(a_name());
}

static int some_flags(void)
{
    static const int choices[] = {O_CREAT, O_CREAT | O_TRUNC, O_CREAT | O_APPEND, O_CREAT | O_DSYNC, O_CREAT | O_CLOEXEC};
    return O_RDWR | choices[below(5)];
}

#define ROUND(function, call) \
    static void function(void) \
    { \
        forget_now_and_then(); \
        use(CHECK(call)); \
    }

ROUND(by_open, open(a_name(), some_flags(), 0600))
ROUND(by_open64, open64(a_name(), some_flags(), 0640))
ROUND(by_openat, openat(root, a_name(), some_flags(), 0600))
ROUND(by_openat64, openat64(root, a_name(), some_flags(), 0604))
ROUND(by_openat_cwd, openat(AT_FDCWD, a_name(), some_flags(), 0600))
ROUND(by_creat, creat(a_name(), 0600))
ROUND(by_creat64, creat64(a_name(), 0600))

static void by_trunc(void)
{
    int fd = CHECK(open(a_name(), O_WRONLY | O_CREAT, 0600));
    use(fd);
    CHECK(close(CHECK(open(name, O_WRONLY | O_TRUNC))));
    if (below(2))
        use(CHECK(open64(name, O_RDWR | O_TRUNC)));
    /* Linux truncates on a read-only open, too. */
    if (below(4) == 0)
        CHECK(close(CHECK(open(name, O_RDONLY | O_TRUNC))));
}

static void by_excl(void)
{
    int fd = open(a_name(), O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd >= 0) {
        use(fd);
        return;
    }
    HOLDS(errno == EEXIST);
    CHECK(unlink(name));
    use(CHECK(openat64(root, name, O_RDWR | O_CREAT | O_EXCL, 0600)));
}

/* A file without a name gets one when it is complete. */
static void by_tmpfile(void)
{
    int fd = CHECK(open(".", O_TMPFILE | O_RDWR, 0600));
    fill(buffer, sizeof buffer);
    CHECK(write(fd, buffer, below(sizeof buffer)));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    unlink(a_name());
    CHECK(linkat(AT_FDCWD, path, root, name, AT_SYMLINK_FOLLOW));
    use(fd);
}

static void by_tmpfile_empty_path(void)
{
    int fd = CHECK(openat(root, ".", O_TMPFILE | O_RDWR, 0600));
    fill(buffer, sizeof buffer);
    CHECK(write(fd, buffer, below(sizeof buffer)));
    unlink(a_name());
    CHECK(linkat(fd, "", root, name, AT_EMPTY_PATH));
    use(fd);
}

/* A file whose only name goes away and comes back through a link to its descriptor keeps its bytes. */
static void by_relink(void)
{
    int fd = CHECK(open(a_name(), O_RDWR | O_CREAT, 0600));
    fill(buffer, sizeof buffer);
    CHECK(pwrite(fd, buffer, below(sizeof buffer), 0));
    char other[64];
    snprintf(other, sizeof other, "link%d", (int)below(NAMES));
    unlink(other);
    CHECK(link(name, other));
    CHECK(unlink(name));
    use(fd);
}

static void start_symlink(void)
{
    start();
    for (int i = 0; i < NAMES; i++) {
        char link_name[64], file[64];
        snprintf(link_name, sizeof link_name, "file%d", i);
        snprintf(file, sizeof file, "behind%d", i);
        if (symlink(file, link_name) < 0)
            HOLDS(errno == EEXIST);
    }
}

/* The link dangles until open makes what it points to. */
static void by_symlink(void)
{
    char file[64];
    int number = (int)below(NAMES);
    snprintf(name, sizeof name, "file%d", number);
    snprintf(file, sizeof file, "behind%d", number);
    if (below(3) == 0)
        unlink(file);
    use(CHECK(open(name, O_RDWR | O_CREAT, 0600)));
    if (below(4) == 0)
        use(CHECK(open(name, O_RDWR | O_TRUNC)));
}

static void start_directory(void)
{
    start();
    if (mkdir("sub", 0700) < 0)
        HOLDS(errno == EEXIST);
    if (mkdir("sub/sub", 0700) < 0)
        HOLDS(errno == EEXIST);
    if (symlink("sub/sub", "way") < 0)
        HOLDS(errno == EEXIST);
}

/* The same entry by a relative path, through a link, through dots and by an absolute path. */
static void by_paths(void)
{
    static char path[8192];
    int number = (int)below(NAMES);
    char *cwd = getcwd(NULL, 0);
    HOLDS(cwd != NULL);
    switch (below(5)) {
    case 0: snprintf(path, sizeof path, "sub/sub/f%d", number); break;
    case 1: snprintf(path, sizeof path, "way/f%d", number); break;
    case 2: snprintf(path, sizeof path, "way/../../sub/./sub/f%d", number); break;
    case 3: snprintf(path, sizeof path, "%s//way///f%d", cwd, number); break;
    default: snprintf(path, sizeof path, "/proc/self/cwd/sub/../way/f%d", number); break;
    }
    free(cwd);
    if (below(3) == 0)
        unlink(path);
    use(CHECK(open(path, some_flags(), 0600)));
}

static const struct action actions[] = {
    {"open", by_open, start},
    {"open64", by_open64, start},
    {"openat", by_openat, start},
    {"openat64", by_openat64, start},
    {"openat_cwd", by_openat_cwd, start},
    {"creat", by_creat, start},
    {"creat64", by_creat64, start},
    {"trunc", by_trunc, start},
    {"excl", by_excl, start},
    {"tmpfile", by_tmpfile, start},
    {"tmpfile_empty_path", by_tmpfile_empty_path, start},
    {"relink", by_relink, start},
    {"symlink", by_symlink, start_symlink},
    {"paths", by_paths, start_directory},
};
VICTIM(actions)
