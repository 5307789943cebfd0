/* Preloaded into kithd by camera.rs: a V4L2 camera at /dev/video77 that is not there, below nokhwa and v4l. It plays the
 * files of the folder $FAKE_CAMERA; the first word of the file "control" in it says how, the second which: those whose
 * names begin with it, in turn.
 *   play     each as it is, over what the buffer held before, as a driver leaves it
 *   glitch   every other one cut in half, zeros behind it
 *   torn     every third one cut in half, behind it what the buffer held before
 *   garbage  noise
 *   stall    no frame, for as long as that stands there
 *   gone     unplugged
 *   busy     somebody else streams
 *   denied   this account may not
 * Behind the words, from the 65th byte on, it counts the frames it gave since it was opened. Frames are read then: its user
 * may have given up files since. Not for anything but tests. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 640, HEIGHT = 480, BUFFER = WIDTH * HEIGHT * 3, BUFFERS = 4, FRAMES = 64, WORDS = 64 };
static const char *node = "/dev/video77";
static const unsigned codes[] = {V4L2_PIX_FMT_MJPEG, V4L2_PIX_FMT_RGB24}, rates[] = {30, 15, 10};

struct frame {
    char name[256];
    unsigned char *bytes;
    size_t length;
};
static struct frame frames[FRAMES];
static size_t count;
static char *control;
static int camera = -1;
static unsigned char *memory;
static unsigned code, rate = 30, sequence;

static long (*real_syscall(void))(long, ...) {
    static long (*real)(long, ...);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real;
}

static char *in_folder(const char *name, char path[512]) {
    const char *folder = getenv("FAKE_CAMERA");
    snprintf(path, 512, "%s/%s", folder ? folder : "/nowhere", name);
    return path;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct frame *)a)->name, ((const struct frame *)b)->name);
}

static int real_open(const char *path) { return real_syscall()(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0); }

static void *map(const char *path, size_t *length) {
    struct stat stat;
    int file = real_open(path);
    if (file < 0 || fstat(file, &stat)) abort();
    *length = stat.st_size;
    void *bytes = mmap(NULL, stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (bytes == MAP_FAILED) abort();
    real_syscall()(SYS_close, file);
    return bytes;
}

static void load(void) {
    char path[512];
    size_t length;
    if (control) return;
    DIR *folder = opendir(in_folder("", path));
    for (struct dirent *entry; folder && (entry = readdir(folder)) && count < FRAMES;) {
        if (entry->d_name[0] == '.' || !strcmp(entry->d_name, "control")) continue;
        struct frame *frame = &frames[count++];
        snprintf(frame->name, sizeof frame->name, "%s", entry->d_name);
        frame->bytes = map(in_folder(frame->name, path), &frame->length);
    }
    closedir(folder);
    qsort(frames, count, sizeof *frames, by_name);
    control = map(in_folder("control", path), &length);
}

/* Whether that is the word now. */
static int told(const char *word) {
    char path[512];
    size_t length = strlen(word);
    if (control) return !strncmp(control, word, length) && control[length] == ' ';
    char text[WORDS] = "";
    int file = real_open(in_folder("control", path));
    if (file < 0) return 0;
    real_syscall()(SYS_read, file, text, sizeof text - 1);
    real_syscall()(SYS_close, file);
    return !strncmp(text, word, length) && text[length] == ' ';
}

/* The next frame of those that are played, into a buffer. */
static void fill(unsigned char *buffer) {
    const char *which = strchr(control, ' ') + 1;
    size_t length = strcspn(which, " "), matching = 0;
    for (size_t n = 0; n < count; n++) matching += !strncmp(frames[n].name, which, length);
    if (!matching) abort();
    size_t wanted = sequence % matching;
    struct frame *frame = frames;
    for (;; frame++)
        if (!strncmp(frame->name, which, length) && wanted-- == 0) break;
    if (told("garbage")) {
        for (size_t at = 0; at < BUFFER; at++) buffer[at] = at * 31 + sequence;
    } else if (told("glitch") && sequence % 2) {
        memset(buffer, 0, BUFFER);
        memcpy(buffer, frame->bytes, frame->length / 2);
    } else {
        size_t whole = frame->length < BUFFER ? frame->length : BUFFER;
        memcpy(buffer, frame->bytes, told("torn") && sequence % 3 == 1 ? whole / 2 : whole);
    }
}

static void describe(struct v4l2_pix_format *format) {
    format->width = WIDTH, format->height = HEIGHT, format->pixelformat = code, format->field = V4L2_FIELD_NONE;
    format->bytesperline = code == V4L2_PIX_FMT_RGB24 ? WIDTH * 3 : 0, format->sizeimage = BUFFER;
}

static int answer(unsigned long request, void *argument) {
    if (told("gone")) return ENODEV;
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *able = argument;
        memset(able, 0, sizeof *able);
        strcpy((char *)able->driver, "fake"), strcpy((char *)able->card, "Fake camera"), strcpy((char *)able->bus_info, "test");
        able->capabilities = able->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        able->capabilities |= V4L2_CAP_DEVICE_CAPS;
        return 0;
    }
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *format = argument;
        if (format->index >= sizeof codes / sizeof *codes) return EINVAL;
        format->pixelformat = codes[format->index];
        return 0;
    }
    case VIDIOC_ENUM_FRAMESIZES: {
        struct v4l2_frmsizeenum *size = argument;
        if (size->index) return EINVAL;
        size->type = V4L2_FRMSIZE_TYPE_DISCRETE, size->discrete.width = WIDTH, size->discrete.height = HEIGHT;
        return 0;
    }
    case VIDIOC_ENUM_FRAMEINTERVALS: {
        struct v4l2_frmivalenum *interval = argument;
        if (interval->index >= sizeof rates / sizeof *rates) return EINVAL;
        interval->type = V4L2_FRMIVAL_TYPE_DISCRETE;
        interval->discrete.numerator = 1, interval->discrete.denominator = rates[interval->index];
        return 0;
    }
    case VIDIOC_S_FMT:
        if (told("busy")) return EBUSY;
        code = ((struct v4l2_format *)argument)->fmt.pix.pixelformat == codes[1] ? codes[1] : codes[0];
        describe(&((struct v4l2_format *)argument)->fmt.pix);
        return 0;
    case VIDIOC_G_FMT: describe(&((struct v4l2_format *)argument)->fmt.pix); return 0;
    case VIDIOC_S_PARM: rate = ((struct v4l2_streamparm *)argument)->parm.capture.timeperframe.denominator; return 0;
    case VIDIOC_G_PARM: {
        struct v4l2_fract interval = {1, rate};
        ((struct v4l2_streamparm *)argument)->parm.capture.timeperframe = interval;
        return 0;
    }
    case VIDIOC_REQBUFS: ((struct v4l2_requestbuffers *)argument)->count = BUFFERS; return 0;
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *buffer = argument;
        buffer->length = BUFFER, buffer->m.offset = buffer->index * BUFFER;
        return 0;
    }
    case VIDIOC_DQBUF: {
        struct v4l2_buffer *buffer = argument;
        buffer->index = sequence % BUFFERS, buffer->sequence = sequence;
        fill(memory + buffer->index * BUFFER);
        snprintf(control + WORDS, WORDS, "%u", ++sequence);
        return 0;
    }
    case VIDIOC_QBUF:
    case VIDIOC_STREAMON:
    case VIDIOC_STREAMOFF: return 0;
    default: return ENOTTY;
    }
}

char *realpath(const char *path, char *resolved) {
    if (!strcmp(path, node) && !resolved) {
        if (!told("gone")) return strdup(node);
        errno = ENOENT;
        return NULL;
    }
    char *(*real)(const char *, char *) = (char *(*)(const char *, char *))dlsym(RTLD_NEXT, "realpath");
    return real(path, resolved);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    if (strcmp(path, node)) return real_syscall()(SYS_openat, AT_FDCWD, path, flags, mode);
    if (told("gone") || told("denied")) {
        errno = told("gone") ? ENOENT : EACCES;
        return -1;
    }
    load();
    if (memory) munmap(memory, BUFFER * BUFFERS);
    camera = memfd_create("fake camera", MFD_CLOEXEC);
    if (camera < 0 || ftruncate(camera, BUFFER * BUFFERS)) abort();
    memory = mmap(NULL, BUFFER * BUFFERS, PROT_READ | PROT_WRITE, MAP_SHARED, camera, 0);
    return camera;
}

int close(int file) {
    if (file == camera) camera = -1;
    return real_syscall()(SYS_close, file);
}

int poll(struct pollfd *files, nfds_t number, int timeout) {
    if (number != 1 || camera < 0 || ((volatile struct pollfd *)files)->fd != camera) {
        struct timespec limit = {timeout / 1000, timeout % 1000 * 1000000L};
        return real_syscall()(SYS_ppoll, files, number, timeout < 0 ? NULL : &limit, NULL, 0);
    }
    do {
        struct timespec pause = {0, 1000000000L / (rate ? rate : 1)};
        nanosleep(&pause, NULL);
    } while (told("stall"));
    files->revents = told("gone") ? POLLERR : POLLIN;
    return 1;
}

long syscall(long number, ...) {
    long a[6];
    va_list more;
    va_start(more, number);
    for (int n = 0; n < 6; n++) a[n] = va_arg(more, long);
    va_end(more);
    if (number != SYS_ioctl || camera < 0 || (int)a[0] != camera) return real_syscall()(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    int error = answer(a[1], (void *)a[2]);
    if (!error) return 0;
    errno = error;
    return -1;
}
