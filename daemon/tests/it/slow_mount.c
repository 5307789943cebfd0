/* Preloaded into the daemon by folder.rs: whatever asks about a path that contains $HANG_PATH waits while the file
 * $HANG_WHILE is there, as in a mount whose server is away. Not for anything but tests. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_for_server(const char *path) {
    const char *hang = getenv("HANG_PATH"), *flag = getenv("HANG_WHILE");
    if (!hang || !flag || !path || !strstr(path, hang)) return;
    while (syscall(SYS_faccessat, -100, flag, F_OK) == 0) {
        struct timespec pause = {0, 10000000};
        nanosleep(&pause, NULL);
    }
}

int statx(int folder, const char *path, int flags, unsigned mask, struct statx *result) {
    wait_for_server(path);
    return syscall(SYS_statx, folder, path, flags, mask, result);
}

int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    wait_for_server(path);
    return real(path, flags, mode);
}

DIR *opendir(const char *path) {
    DIR *(*real)(const char *) = (DIR * (*)(const char *))dlsym(RTLD_NEXT, "opendir");
    wait_for_server(path);
    return real(path);
}
