/* Situations that are hard on a hook: files without names, inodes used again, signal handlers, stuck pipes, forks, threads that die. */

#include "victim.h"

#include <pthread.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <spawn.h>
#include <sys/uio.h>

static unsigned char buffer[8192];
static int fd;
static volatile int number;
static char name[64], other[80];

static int opened(const char *name) { return (int)CHECK(open(name, O_RDWR | O_CREAT, 0600)); }

static void start(void) { fd = opened("data"); }

static void change(int fd)
{
    fill(buffer, sizeof buffer);
    CHECK(pwrite(fd, buffer, below(sizeof buffer) + 1, (off_t)below(50000)));
}

/* An open file that lost its name goes on being written; its inode may come back as another file. */
static void by_unlinked(void)
{
    int nameless = opened("nameless");
    change(nameless);
    CHECK(unlink("nameless"));
    change(nameless);
    change(fd);
    if (below(2))
        CHECK(close(opened("nameless")));
    change(nameless);
    CHECK(ftruncate(nameless, (off_t)below(1000)));
    CHECK(close(nameless));
}

/* Small file systems give the inode that was freed last to the next file. */
static void by_inode_reuse(void)
{
    snprintf(name, sizeof name, "f%d", (int)below(6));
    snprintf(other, sizeof other, "f%d", (int)below(6));
    unlink(name);
    int made = opened(other);
    CHECK(ftruncate(made, (off_t)below(100)));
    change(made);
    CHECK(close(made));
    if (below(3) == 0) {
        CHECK(rename(other, "moved"));
        made = opened(other);
        change(made);
        CHECK(close(made));
        CHECK(unlink("moved"));
    }
}

static int handler_fd;

static void write_in_handler(int signal_number)
{
    (void)signal_number;
    int kept = errno;
    static char line[] = "written in a handler\n";
    line[0] = (char)('a' + number++ % 26);
    if (write(handler_fd, line, sizeof line - 1) < 0 || pwrite(handler_fd, line, 5, number % 3000) < 0)
        _exit(3);
    if (number % 100 == 0 && ftruncate(handler_fd, 0) < 0)
        _exit(4);
    errno = kept;
}

/* Another file than the one that the interrupted call writes: two writes at once have no order. */
static void start_handler(void)
{
    start();
    handler_fd = (int)CHECK(open("handled", O_RDWR | O_CREAT | O_APPEND, 0600));
    struct sigaction action = {.sa_handler = write_in_handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL));
    struct itimerval often = {{0, 1000}, {0, 1000}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL));
}

static void by_handler(void) { change(fd); }

/* The handler opens and renames, maybe in the middle of an open or a rename. */
static void names_in_handler(int signal_number)
{
    (void)signal_number;
    int kept = errno;
    int made = open("handled", O_RDWR | O_CREAT, 0600);
    if (made < 0 || write(made, "bytes", 5) < 0 || close(made) < 0 || rename("handled", "renamed") < 0)
        _exit(3);
    errno = kept;
}

static void start_handler_names(void)
{
    start();
    struct sigaction action = {.sa_handler = names_in_handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL));
    struct itimerval often = {{0, 2000}, {0, 2000}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL));
}

static void by_handler_names(void)
{
    snprintf(name, sizeof name, "f%d", (int)below(6));
    int made = opened(name);
    change(made);
    CHECK(close(made));
    CHECK(rename(name, "target"));
}

static int stuck_pipe[2];

static void *fill_pipe(void *unused)
{
    static char block[1 << 17];
    (void)unused;
    CHECK(write(stuck_pipe[1], block, sizeof block));
    return NULL;
}

static void *fill_pipe_vectored(void *unused)
{
    static char block[1 << 17];
    struct iovec vector = {block, sizeof block};
    (void)unused;
    CHECK(writev(stuck_pipe[1], &vector, 1));
    return NULL;
}

static void *open_fifo(void *unused)
{
    (void)unused;
    CHECK(open("../fifo", O_WRONLY));
    return NULL;
}

static void run(void *(*body)(void *))
{
    pthread_t thread;
    HOLDS(pthread_create(&thread, NULL, body, NULL) == 0);
    HOLDS(pthread_detach(thread) == 0);
}

/* Threads that are stuck for good in calls on what is no file must not hold up a grace period, nor the other calls. */
static void start_stuck(void)
{
    start();
    CHECK(pipe(stuck_pipe));
    run(fill_pipe);
    run(fill_pipe_vectored);
    if (mkfifo("../fifo", 0600) < 0)
        HOLDS(errno == EEXIST);
    run(open_fifo);
}

static void by_stuck(void)
{
    change(fd);
    snprintf(name, sizeof name, "f%d", (int)below(6));
    CHECK(close(opened(name)));
    CHECK(rename(name, "renamed"));
}

/* Calls get stuck over and over, in whatever phase a session is. */
static void *open_fifo_again(void *unused)
{
    (void)unused;
    for (;;) {
        int writer = (int)CHECK(open("../fifo", O_WRONLY | O_CREAT, 0600));
        /* The reader may have gone already. */
        HOLDS(write(writer, "x", 1) == 1 || errno == EPIPE);
        CHECK(close(writer));
    }
    return NULL;
}

static void start_fifo(void)
{
    start();
    HOLDS(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    if (mkfifo("../fifo", 0600) < 0)
        HOLDS(errno == EEXIST);
    run(open_fifo_again);
}

static void by_fifo(void)
{
    by_stuck();
    if (below(20) == 0) {
        int reader = (int)CHECK(open("../fifo", O_RDONLY));
        char byte;
        CHECK(read(reader, &byte, 1));
        CHECK(close(reader));
    }
}

static void reap_child(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0));
    HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* A child of a fork is another process; its own writes are outside the watched directory. */
static void by_fork(void)
{
    change(fd);
    pid_t child = (pid_t)CHECK(fork());
    if (child == 0) {
        int outside = open("../outside", O_RDWR | O_CREAT, 0600);
        _exit(outside < 0 || pwrite(outside, "child", 5, 0) != 5);
    }
    change(fd);
    reap_child(child);
    pause_us(2000);
}

static void by_vfork(void)
{
    change(fd);
    pid_t child = vfork();
    CHECK(child);
    if (child == 0) {
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    reap_child(child);
    pause_us(2000);
}

static void by_spawn(void)
{
    extern char **environ;
    change(fd);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "../spawned", O_WRONLY | O_CREAT, 0600);
    char *arguments[] = {"true", NULL};
    pid_t child;
    HOLDS(posix_spawn(&child, "/bin/true", &actions, NULL, arguments, environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    reap_child(child);
    pause_us(2000);
}

/* Other threads write while this one forks. */
static void *change_forever(void *unused)
{
    (void)unused;
    unsigned char mine[3000];
    seed_random((uint64_t)(uintptr_t)&mine);
    for (;;) {
        fill(mine, sizeof mine);
        CHECK(pwrite(fd, mine, sizeof mine, (off_t)below(50000)));
        pause_us(100);
    }
    return NULL;
}

static void start_threads(void)
{
    start();
    for (int i = 0; i < 3; i++)
        run(change_forever);
}

static void *change_once(void *unused)
{
    (void)unused;
    unsigned char mine[500];
    seed_random((uint64_t)time(NULL) ^ (uint64_t)(uintptr_t)pthread_self());
    fill(mine, sizeof mine);
    CHECK(pwrite(fd, mine, sizeof mine, (off_t)below(50000)));
    return NULL;
}

/* Threads come and go, as connections do. */
static void by_thread_churn(void)
{
    pthread_t threads[20];
    for (int i = 0; i < 20; i++)
        HOLDS(pthread_create(&threads[i], NULL, change_once, NULL) == 0);
    for (int i = 0; i < 20; i++)
        HOLDS(pthread_join(threads[i], NULL) == 0);
}

/* The watched directory is reached through descriptors that are passed around and closed at once. */
static void by_descriptor_reuse(void)
{
    int first = opened("first"), second = opened("second");
    change(first);
    CHECK(dup2(first, second));
    change(second);
    CHECK(close(first));
    int third = opened("third");
    HOLDS(third == first);
    change(third);
    change(second);
    CHECK(close(second));
    CHECK(close(third));
}

static void by_chdir(void)
{
    if (mkdir("sub", 0700) < 0)
        HOLDS(errno == EEXIST);
    snprintf(name, sizeof name, "f%d", (int)below(6));
    CHECK(chdir("sub"));
    int made = opened(name);
    change(made);
    CHECK(close(made));
    snprintf(other, sizeof other, "../%s", name);
    CHECK(rename(name, other));
    CHECK(chdir(".."));
}

/* Names with everything in them, and long ones. */
static void by_odd_names(void)
{
    static char odd[300];
    memset(odd, 'n', 200 + below(54));
    odd[0] = (char)(below(46) + 1);
    odd[1] = (char)(below(100) + 128);
    odd[2] = '\n';
    odd[3] = ' ';
    odd[200 + below(54)] = 0;
    snprintf(odd + 4, 4, "%d", (int)below(9));
    odd[5] = '/' + 1;
    int made = opened(odd);
    change(made);
    CHECK(close(made));
    if (below(2))
        CHECK(rename(odd, " (deleted)"));
    else
        CHECK(unlink(odd));
}

/* Reads and looks only: nothing may be recorded for them, and they must not fail. */
static void by_reading(void)
{
    change(fd);
    int reading = (int)CHECK(open("data", O_RDONLY));
    CHECK(pread(reading, buffer, sizeof buffer, 0));
    CHECK(close(reading));
    struct stat stat;
    CHECK(fstat(fd, &stat));
    CHECK(fsync(fd));
}

/* Another thread finds a file the moment it is made, and writes to it before the call that made it has returned. */
static void *find_and_change(void *unused)
{
    (void)unused;
    unsigned char mine[3000];
    char found[64];
    seed_random((uint64_t)(uintptr_t)&mine);
    for (;;) {
        snprintf(found, sizeof found, "new%d", number % 8);
        int fd = open(found, O_RDWR);
        if (fd < 0)
            continue;
        fill(mine, sizeof mine);
        CHECK(pwrite(fd, mine, below(sizeof mine) + 1, (off_t)below(3000)));
        CHECK(close(fd));
    }
    return NULL;
}

static void start_found(void)
{
    start();
    run(find_and_change);
}

static void by_found(void)
{
    snprintf(name, sizeof name, "new%d", (number + 1) % 8);
    unlink(name);
    number++;
    int made = opened(name);
    pause_us(50);
    CHECK(close(made));
}

static const struct action actions[] = {
    {"found", by_found, start_found},
    {"unlinked", by_unlinked, start},
    {"inode_reuse", by_inode_reuse, start},
    {"handler", by_handler, start_handler},
    {"handler_names", by_handler_names, start_handler_names},
    {"stuck", by_stuck, start_stuck},
    {"fifo", by_fifo, start_fifo},
    {"fork", by_fork, start},
    {"vfork", by_vfork, start},
    {"spawn", by_spawn, start},
    {"fork_threads", by_fork, start_threads},
    {"thread_churn", by_thread_churn, start},
    {"descriptor_reuse", by_descriptor_reuse, start},
    {"chdir", by_chdir, start},
    {"odd_names", by_odd_names, start},
    {"reading", by_reading, start},
};
VICTIM(actions)
