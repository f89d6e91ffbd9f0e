/*
 * Backs up directories of the program that calls it, while it writes to them, as they are at one moment.
 *
 * Made by cbindgen from c-api/src/api.rs: change that file, not this one.
 */

#ifndef HOTMIRROR_H
#define HOTMIRROR_H

#include <stddef.h>
#include <stdint.h>

/*
 No bound on what backups read.
 */
#define HOTMIRROR_UNTHROTTLED UINT64_MAX

/*
 What a function did.
 */
typedef enum hotmirror_result {
  HOTMIRROR_OK = 0,
  /*
   An argument can't be meant: a null pointer, a destination that is not an empty directory.
   */
  HOTMIRROR_INVALID_ARGUMENT = 1,
  /*
   The system reported an error: hotmirror_last_errno says which.
   */
  HOTMIRROR_IO = 2,
  /*
   Another backup of this process is under way.
   */
  HOTMIRROR_BUSY = 3,
  /*
   The time is up, and what was waited for has not happened.
   */
  HOTMIRROR_TIMEOUT = 4,
  /*
   The backup was stopped.
   */
  HOTMIRROR_CANCELLED = 5,
  /*
   The program wrote more at once than the capture log holds. Tried again, the log is larger, unless its size was given.
   */
  HOTMIRROR_OVERFLOW = 6,
  /*
   Files kept changing in ways that could not be followed: try again.
   */
  HOTMIRROR_UNSETTLED = 7,
  /*
   The function does not fit the state of the session.
   */
  HOTMIRROR_WRONG_STATE = 8,
  /*
   A fault of the library.
   */
  HOTMIRROR_INTERNAL = 9,
} hotmirror_result;

/*
 A backup under way.
 */
typedef struct hotmirror_session hotmirror_session;

/*
 What to back up. Zero in a field that is not needed.
 */
typedef struct hotmirror_options {
  /*
   sizeof(hotmirror_options).
   */
  size_t size;
  /*
   Directories to back up, and for each an existing, empty directory that receives its content.
   */
  const char *const *source_dirs;
  const char *const *dest_dirs;
  size_t dir_count;
  /*
   Gives non-zero for a path of the source that is to be left out, with all below it. Called once for each path, by threads of the library, one at a time.
   */
  int (*exclude)(const char *source_path, void *extra);
  void *exclude_extra;
  /*
   Threads that copy; 0: as many as fit the machine.
   */
  size_t parallel;
  /*
   Bytes of the capture log; 0: 64 MiB, and twice as much each time that it overflows, up to 1 GiB.
   */
  uint64_t log_size;
} hotmirror_options;

/*
 How far a session is.
 */
typedef struct hotmirror_progress_info {
  /*
   sizeof(hotmirror_progress_info).
   */
  size_t size;
  uint64_t copied_bytes;
  uint64_t total_bytes;
  uint64_t copied_files;
  uint64_t total_files;
  /*
   Bytes of the capture log that are in use.
   */
  uint64_t log_used_bytes;
} hotmirror_progress_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Starts a backup, in threads of the library. *session is set whatever the result: hotmirror_last_error tells why a backup did not start, and
 hotmirror_close is due in any case.
 */
enum hotmirror_result hotmirror_start(const struct hotmirror_options *options,
                                      struct hotmirror_session **session);

/*
 Waits until everything is copied and kept current: from then on hotmirror_cut takes a moment. A negative bound is none.
 */
enum hotmirror_result hotmirror_wait_live(struct hotmirror_session *session,
                                          int64_t timeout_ms);

/*
 Makes the moment of this call the moment of the backup. What was changed before the call is in it, what is changed after it returned is not.
 */
enum hotmirror_result hotmirror_cut(struct hotmirror_session *session);

/*
 Completes the backup: when this returns, all files are on disk under their names. Needs a cut.
 */
enum hotmirror_result hotmirror_finish(struct hotmirror_session *session);

/*
 Gives the backup up, and leaves the destinations empty. A finished backup stays.
 */
enum hotmirror_result hotmirror_abort(struct hotmirror_session *session);

/*
 Frees the handle; gives the backup up if it is not finished. NULL is fine.
 */
void hotmirror_close(struct hotmirror_session *session);

/*
 Tells how far the session is, in as many fields as info->size covers.
 */
enum hotmirror_result hotmirror_progress(const struct hotmirror_session *session,
                                         struct hotmirror_progress_info *info);

/*
 Why the last function that failed did; empty if none did. Holds until the next call with this handle.
 */
const char *hotmirror_last_error(const struct hotmirror_session *session);

/*
 The errno of the last failure; 0 if there was none.
 */
int hotmirror_last_errno(const struct hotmirror_session *session);

/*
 Bytes per second that backups of this process read, from now on: 0 pauses, HOTMIRROR_UNTHROTTLED is no bound.
 */
void hotmirror_throttle(uint64_t bytes_per_second);

/*
 Version of the library.
 */
const char *hotmirror_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HOTMIRROR_H */
