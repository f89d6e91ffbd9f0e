/* The interface of hotmirror.h: a session from step to step, and every wrong turn. */
#include "common.h"
#include "hotmirror.h"

#include <sys/mman.h>

static hotmirror_session *session;

static hotmirror_result begin(void) {
    hotmirror_options options = {
        .size = sizeof options, .source_dirs = &source, .dest_dirs = &destination, .dir_count = 1};
    return hotmirror_start(&options, &session);
}

static void step(hotmirror_result result, hotmirror_result expected) {
    CHECK(result == expected, "%d instead of %d: %s", result, expected, hotmirror_last_error(session));
}

static void whole(void) {
    fill(in(source, "file"), 2 << 20, 'x');
    step(begin(), HOTMIRROR_OK);
    step(hotmirror_wait_live(session, -1), HOTMIRROR_OK);
    fill(in(source, "before"), 1000, 'b');
    step(hotmirror_cut(session), HOTMIRROR_OK);
    fill(in(source, "after"), 1000, 'a');
    step(hotmirror_finish(session), HOTMIRROR_OK);
    hotmirror_progress_info info = {.size = sizeof info};
    step(hotmirror_progress(session, &info), HOTMIRROR_OK);
    CHECK(info.total_files == 1 && info.copied_bytes >= 2 << 20, "%llu files", (unsigned long long)info.total_files);
    hotmirror_close(session);
    CHECK(exists(in(destination, "before")) && !exists(in(destination, "after")), "the moment of the cut");
    OK(unlink(in(source, "after")));
    CHECK(strlen(hotmirror_version()) > 0, "no version");
}

static void wrong_turns(void) {
    fill(in(source, "file"), 2 << 20, 'x');
    CHECK(hotmirror_start(NULL, NULL) == HOTMIRROR_INVALID_ARGUMENT, "no session");
    step(hotmirror_start(NULL, &session), HOTMIRROR_INVALID_ARGUMENT);
    hotmirror_close(session);
    hotmirror_options options = {.size = 4};
    step(hotmirror_start(&options, &session), HOTMIRROR_INVALID_ARGUMENT);
    CHECK(hotmirror_last_errno(session) == EINVAL && strlen(hotmirror_last_error(session)) > 0, "no reason");
    hotmirror_close(session);
    hotmirror_throttle(0);
    step(begin(), HOTMIRROR_OK);
    hotmirror_session *first = session;
    step(begin(), HOTMIRROR_BUSY);
    hotmirror_close(session);
    session = first;
    step(hotmirror_wait_live(session, 50), HOTMIRROR_TIMEOUT);
    step(hotmirror_cut(session), HOTMIRROR_WRONG_STATE);
    step(hotmirror_finish(session), HOTMIRROR_WRONG_STATE);
    step(hotmirror_abort(session), HOTMIRROR_OK);
    step(hotmirror_cut(session), HOTMIRROR_WRONG_STATE);
    hotmirror_close(session);
    hotmirror_close(NULL);
    CHECK(hotmirror_cut(NULL) == HOTMIRROR_INVALID_ARGUMENT && hotmirror_finish(NULL) == HOTMIRROR_INVALID_ARGUMENT, "NULL");
    hotmirror_throttle(HOTMIRROR_UNTHROTTLED);
    CHECK(rmdir(destination) == 0, "an aborted backup left something");
    OK(mkdir(destination, 0755));
    whole();
}

/* What is stored to a mapping that is made between live and cut has no record, and no new time either once the page is dirty. */
static void mapped_while_live(void) {
    enum { LEN = 4096 };
    fill(in(source, "file"), LEN, 'x');
    for (int stays = 1; stays >= 0; stays--) {
        step(begin(), HOTMIRROR_OK);
        step(hotmirror_wait_live(session, -1), HOTMIRROR_OK);
        int fd = open(in(source, "file"), O_RDWR);
        OK(fd);
        char *map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(map != MAP_FAILED, "mmap");
        memset(map, 'y' + stays, LEN);
        if (!stays)
            OK(munmap(map, LEN));
        step(hotmirror_cut(session), stays ? HOTMIRROR_UNSETTLED : HOTMIRROR_OK);
        if (!stays)
            step(hotmirror_finish(session), HOTMIRROR_OK);
        else
            OK(munmap(map, LEN));
        hotmirror_close(session);
        OK(close(fd));
    }
}

/* A caller that was compiled before the structure's last fields were there. */
static void older_caller(void) {
    fill(in(source, "file"), 1000, 'x');
    struct {
        hotmirror_options options;
        char garbage[256];
    } known;
    memset(&known, 0xff, sizeof known);
    known.options.size = offsetof(hotmirror_options, exclude);
    known.options.source_dirs = &source;
    known.options.dest_dirs = &destination;
    known.options.dir_count = 1;
    step(hotmirror_start(&known.options, &session), HOTMIRROR_OK);
    step(hotmirror_wait_live(session, -1), HOTMIRROR_OK);
    step(hotmirror_cut(session), HOTMIRROR_OK);
    step(hotmirror_finish(session), HOTMIRROR_OK);
    hotmirror_close(session);
}

int main(int argc, char **argv) {
    static const struct scenario scenarios[] = {
        {"whole", whole}, {"wrong_turns", wrong_turns}, {"older_caller", older_caller}, {"mapped_while_live", mapped_while_live}, {0},
    };
    return run_scenario(scenarios, argc, argv);
}
