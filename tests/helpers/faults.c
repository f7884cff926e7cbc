/* Lets calls that change files fail, or ends the process at one of them: see faults.py.

   Only calls on paths in one folder count, whoever makes them: Python, or a library in C++ or Rust.
   The calls that libc makes itself (fopen, for one) do not come by here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, RENAME = 4, REMOVE = 8, MKDIR = 16, SYNC = 32 };

static char folder[PATH_MAX];
static size_t folder_length;
static volatile long calls;      /* counted since arming */
static volatile long at;         /* the call to fail at; 0: none */
static volatile int error_number; /* 0: end the process */
static volatile int persistent;  /* all calls of these kinds fail from there on */
static volatile int armed;

void fault_arm(const char *path, long number, int error, int kinds) {
  folder_length = strlen(path);
  memcpy(folder, path, folder_length + 1);
  calls = 0;
  at = number;
  error_number = error;
  persistent = kinds;
  armed = 1;
}

long fault_disarm(void) {
  armed = 0;
  return calls;
}

static int inside(int directory, const char *path) {
  char buffer[PATH_MAX * 2];
  if (path[0] != '/') {
    char link[64];
    ssize_t length;
    if (directory == AT_FDCWD)
      strcpy(link, "/proc/self/cwd");
    else
      snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    length = readlink(link, buffer, PATH_MAX - 1);
    if (length < 0) return 0;
    snprintf(buffer + length, PATH_MAX, "/%s", path);
    path = buffer;
  }
  return strncmp(path, folder, folder_length) == 0 &&
         (path[folder_length] == '/' || path[folder_length] == 0);
}

static int inside_descriptor(int descriptor) {
  char link[64], buffer[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, buffer, PATH_MAX - 1);
  if (length < 0) return 0;
  buffer[length] = 0;
  return buffer[0] == '/' && inside(AT_FDCWD, buffer);
}

/* Whether this call is to fail. */
static int fails(int kind) {
  long number = __sync_add_and_fetch(&calls, 1);
  if (!at || number < at) return 0;
  if (number > at && !(persistent & kind)) return 0;
  if (number == at && persistent && !(persistent & kind)) return 0;
  if (!error_number) kill(getpid(), SIGKILL);
  errno = error_number;
  return 1;
}

#define REAL(type, name, ...)                                      \
  static type (*real)(__VA_ARGS__);                                \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name);

#define CHANGES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))

#define MODE(flags)                        \
  mode_t mode = 0;                         \
  if ((flags) & (O_CREAT | O_TMPFILE)) {   \
    va_list list;                          \
    va_start(list, flags);                 \
    mode = va_arg(list, mode_t);           \
    va_end(list);                          \
  }

#define OPENER(name)                                                               \
  int name(const char *path, int flags, ...) {                                     \
    REAL(int, name, const char *, int, ...) MODE(flags)                            \
    if (armed && CHANGES(flags) && inside(AT_FDCWD, path) && fails(OPEN)) return -1; \
    return real(path, flags, mode);                                                \
  }
OPENER(open)
OPENER(open64)

#define OPENER_AT(name)                                                               \
  int name(int directory, const char *path, int flags, ...) {                         \
    REAL(int, name, int, const char *, int, ...) MODE(flags)                          \
    if (armed && CHANGES(flags) && inside(directory, path) && fails(OPEN)) return -1; \
    return real(directory, path, flags, mode);                                        \
  }
OPENER_AT(openat)
OPENER_AT(openat64)

#define ON_DESCRIPTOR(type, name, kind, parameters, types, arguments)      \
  type name parameters {                                                   \
    REAL(type, name, types) if (armed && inside_descriptor(file) && fails(kind)) return -1; \
    return real arguments;                                                 \
  }
#define T(...) __VA_ARGS__
ON_DESCRIPTOR(ssize_t, write, WRITE, (int file, const void *data, size_t size),
              T(int, const void *, size_t), (file, data, size))
ON_DESCRIPTOR(ssize_t, pwrite, WRITE, (int file, const void *data, size_t size, off_t place),
              T(int, const void *, size_t, off_t), (file, data, size, place))
ON_DESCRIPTOR(ssize_t, pwrite64, WRITE, (int file, const void *data, size_t size, off64_t place),
              T(int, const void *, size_t, off64_t), (file, data, size, place))
ON_DESCRIPTOR(ssize_t, writev, WRITE, (int file, const struct iovec *parts, int count),
              T(int, const struct iovec *, int), (file, parts, count))
ON_DESCRIPTOR(int, ftruncate, WRITE, (int file, off_t size), T(int, off_t), (file, size))
ON_DESCRIPTOR(int, ftruncate64, WRITE, (int file, off64_t size), T(int, off64_t), (file, size))
ON_DESCRIPTOR(int, fsync, SYNC, (int file), T(int), (file))
ON_DESCRIPTOR(int, fdatasync, SYNC, (int file), T(int), (file))

#define ON_PATH(name, kind, parameters, types, arguments, directory, path)                       \
  int name parameters {                                                                          \
    REAL(int, name, types) if (armed && inside(directory, path) && fails(kind)) return -1;        \
    return real arguments;                                                                       \
  }
ON_PATH(rename, RENAME, (const char *from, const char *to), T(const char *, const char *),
        (from, to), AT_FDCWD, to)
ON_PATH(renameat, RENAME, (int a, const char *from, int b, const char *to),
        T(int, const char *, int, const char *), (a, from, b, to), b, to)
ON_PATH(renameat2, RENAME, (int a, const char *from, int b, const char *to, unsigned flags),
        T(int, const char *, int, const char *, unsigned), (a, from, b, to, flags), b, to)
ON_PATH(unlink, REMOVE, (const char *path), T(const char *), (path), AT_FDCWD, path)
ON_PATH(unlinkat, REMOVE, (int a, const char *path, int flags), T(int, const char *, int),
        (a, path, flags), a, path)
ON_PATH(rmdir, REMOVE, (const char *path), T(const char *), (path), AT_FDCWD, path)
ON_PATH(mkdir, MKDIR, (const char *path, mode_t mode), T(const char *, mode_t), (path, mode),
        AT_FDCWD, path)
ON_PATH(mkdirat, MKDIR, (int a, const char *path, mode_t mode), T(int, const char *, mode_t),
        (a, path, mode), a, path)
