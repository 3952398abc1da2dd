/* Kills a command, with `kill -9`, just before its n-th durable operation.
 *
 * cc -shared -fPIC -O2 -o killpoint.so killpoint.c -ldl && KILLPOINT=FILE LD_PRELOAD=$PWD/killpoint.so COMMAND
 *
 * Durable operations are those that change names or flush files: all that an atomic write and a transaction of
 * SQLite are made of. FILE is shared by all processes of the command (see `Shared`); its reader sets `at` and
 * `root`, the process group to kill, and finds the count and the kind of each operation.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define KINDS (1 << 20)

struct Shared {
  long count, at, root;
  unsigned char kinds[KINDS];
};

static struct Shared *shared;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("KILLPOINT");
  int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *found = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (found != MAP_FAILED) shared = found;
}

static void tick(unsigned char kind) {
  if (!shared || shared->root == 0) return;
  long count = __sync_add_and_fetch(&shared->count, 1);
  if (count <= KINDS) shared->kinds[count - 1] = kind;
  if (count != shared->at) return;
  kill(-(pid_t)shared->root, SIGKILL);
  kill(getpid(), SIGKILL); /* a worker has a process group of its own */
}

#define DURABLE(kind, result, name, parameters, arguments)   \
  result name parameters {                                   \
    static result(*next) parameters;                         \
    if (!next) next = (result(*) parameters)dlsym(RTLD_NEXT, #name); \
    tick(kind);                                              \
    return next arguments;                                   \
  }

DURABLE(0, int, rename, (const char *from, const char *to), (from, to))
DURABLE(1, int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
DURABLE(2, int, renameat2, (int a, const char *from, int b, const char *to, unsigned how), (a, from, b, to, how))
DURABLE(3, int, link, (const char *from, const char *to), (from, to))
DURABLE(4, int, linkat, (int a, const char *from, int b, const char *to, int how), (a, from, b, to, how))
DURABLE(5, int, unlink, (const char *path), (path))
DURABLE(6, int, unlinkat, (int a, const char *path, int how), (a, path, how))
DURABLE(7, int, rmdir, (const char *path), (path))
DURABLE(8, int, mkdir, (const char *path, mode_t mode), (path, mode))
DURABLE(9, int, mkdirat, (int a, const char *path, mode_t mode), (a, path, mode))
DURABLE(10, int, fsync, (int file), (file))
DURABLE(11, int, fdatasync, (int file), (file))
DURABLE(12, int, ftruncate, (int file, off_t length), (file, length))
DURABLE(13, int, ftruncate64, (int file, off64_t length), (file, length))
DURABLE(14, ssize_t, pwrite, (int file, const void *from, size_t size, off_t at), (file, from, size, at))
DURABLE(15, ssize_t, pwrite64, (int file, const void *from, size_t size, off64_t at), (file, from, size, at))
