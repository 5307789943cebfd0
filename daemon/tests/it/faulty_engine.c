/* Preloaded by faults.rs. In engine processes only (never the fallback), as the environment asks:
 *   FAULT_NO_START=FILE  end at once with a sentence while FILE exists
 *   FAULT_POISON=1       abort when a picture holds the words KITHD-POISON
 *   FAULT_LEAK_MB=N      keep N MiB more with every picture
 * Not for anything but tests. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int poison, leak_mb;
static char *volatile kept; /* volatile, or the compiler leaves the leak out */

__attribute__((constructor)) static void begin(void) {
    char line[8192];
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, line, sizeof line);
    if (fd >= 0) close(fd);
    if (length <= 0 || !memmem(line, length, "\0engine\0", 8) || memmem(line, length, "engine-fallback", 15)) return;
    const char *no_start = getenv("FAULT_NO_START"), *leak = getenv("FAULT_LEAK_MB");
    if (no_start && access(no_start, F_OK) == 0) {
        static const char words[] = "kithd: this machine has no usable accelerator\n";
        if (write(2, words, sizeof words - 1) < 0) abort();
        _exit(1);
    }
    poison = getenv("FAULT_POISON") != NULL;
    leak_mb = leak ? atoi(leak) : 0;
}

static void look_at(const void *bytes, ssize_t length) {
    if (length <= 0) return;
    if (poison && memmem(bytes, length, "KITHD-POISON", 12)) abort();
    if (leak_mb && memmem(bytes, length, "\xff\xd8\xff", 3)) {
        size_t size = (size_t)leak_mb << 20;
        kept = malloc(size);
        if (kept) memset(kept, 1, size);
    }
}

ssize_t recv(int fd, void *bytes, size_t size, int flags) {
    ssize_t (*real)(int, void *, size_t, int) = (ssize_t(*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
    ssize_t length = real(fd, bytes, size, flags);
    look_at(bytes, length);
    return length;
}

ssize_t read(int fd, void *bytes, size_t size) {
    ssize_t (*real)(int, void *, size_t) = (ssize_t(*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    ssize_t length = real(fd, bytes, size);
    if (poison || leak_mb) look_at(bytes, length);
    return length;
}
