/* Preloaded into the daemon by group_commit.rs and service.rs: counts every sync (one byte each in $SYNC_COUNTER), makes
 * it $SYNC_DELAY_MS slower, as an SD card would, and lets it hang while the file $SYNC_HANG is there, as a broken one
 * would. Not for anything but tests. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void count_and_wait(void) {
    const char *file = getenv("SYNC_COUNTER"), *delay = getenv("SYNC_DELAY_MS");
    if (file) {
        int fd = open(file, O_WRONLY | O_APPEND | O_CLOEXEC);
        if (fd >= 0) {
            if (write(fd, ".", 1) != 1) abort();
            close(fd);
        }
    }
    const char *hang = getenv("SYNC_HANG");
    while (hang && access(hang, F_OK) == 0) {
        struct timespec pause = {0, 10000000};
        nanosleep(&pause, NULL);
    }
    long ms = delay ? atol(delay) : 0;
    if (ms > 0) {
        struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    count_and_wait();
    return real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    count_and_wait();
    return real(fd);
}
