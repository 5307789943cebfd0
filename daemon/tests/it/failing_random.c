/* Preloaded into the daemon by hostile.rs: while the file $RANDOM_FAILS_ONCE is there, the next request for random
 * bytes fails and deletes it, and the program panics where it asked. Not for anything but tests. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t getrandom(void *bytes, size_t count, unsigned flags) {
    const char *flag = getenv("RANDOM_FAILS_ONCE");
    if (count > 0 && flag && unlink(flag) == 0) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_getrandom, bytes, count, flags);
}
