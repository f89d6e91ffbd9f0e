/*
 * The interface of libHotBackup.so that programs of the ancestor know. New programs find more in hotmirror.h.
 */
#ifndef BACKUP_H
#define BACKUP_H

#ifdef __cplusplus
extern "C" {
#endif

/* None of these functions throws, or leaves by longjmp. */

/* Called at least once a second, from 0.0 to 1.0; anything but 0 stops the backup and is its result. */
typedef int (*backup_poll_fun_t)(float progress, const char *progress_string, void *poll_extra);

/* Called once if the backup fails. */
typedef void (*backup_error_fun_t)(int error_number, const char *error_string, void *error_extra);

/* Gives non-zero for a file of the source that is to be left out. Called by a thread of the library, once for each path. */
typedef int (*backup_exclude_copy_fun_t)(const char *source_file, void *exclude_extra);

/* Called with everything copied and capture on: what is changed before it returns is in the backup. */
typedef void (*backup_before_stop_capt_fun_t)(void *extra);

/* Called right after the moment of the backup. */
typedef void (*backup_after_stop_capt_fun_t)(void *extra);

/*
 * Copies each source directory's content into the existing, empty destination directory of the same index, as it is at one moment.
 * 0, or a number of errno. One call at a time: others get EBUSY.
 */
int tokubackup_create_backup(const char *source_dirs[], const char *dest_dirs[], int dir_count,
                             backup_poll_fun_t poll_fun, void *poll_extra,
                             backup_error_fun_t error_fun, void *error_extra,
                             backup_exclude_copy_fun_t exclude_fun, void *exclude_extra,
                             backup_before_stop_capt_fun_t before_stop_fun, void *before_stop_extra,
                             backup_after_stop_capt_fun_t after_stop_fun, void *after_stop_extra);

/* Bytes per second that backups read, from now on: 0 pauses, ULONG_MAX is no bound. */
void tokubackup_throttle_backup(unsigned long bytes_per_second);

extern const char *tokubackup_version_string;

#ifdef __cplusplus
}
#endif

#endif
