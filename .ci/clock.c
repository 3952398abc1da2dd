/* Moves the wall clock of a process and its children by AHEAD_S seconds: for tests on another day.
 *
 * cc -shared -fPIC -O2 -o clock.so clock.c && AHEAD_S=31536000 LD_PRELOAD=$PWD/clock.so COMMAND
 *
 * Only the wall clock moves. Monotonic clocks, which measure durations, and the times of files stay as they are.
 * A wait until a wall-clock time counts from the moved clock, so its end is moved back before the wait.
 * (Debian's libfaketime 0.9.10 makes Python's time.sleep fail: it rejects absolute waits on the monotonic clock.)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t ahead(void) {
  static time_t seconds = -1;
  if (seconds < 0) {
    const char *text = getenv("AHEAD_S");
    seconds = text ? atol(text) : 0;
  }
  return seconds;
}

static int real_time(clockid_t clock, struct timespec *out) { return (int)syscall(SYS_clock_gettime, clock, out); }

/* The end of a wait on the real clock. An end that is not about that far ahead is of a monotonic clock. */
static struct timespec real_end(const struct timespec *end) {
  struct timespec now, moved = *end;
  real_time(CLOCK_REALTIME, &now);
  if (end->tv_sec - now.tv_sec > ahead() / 2) moved.tv_sec -= ahead();
  return moved;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
  static int (*next)(clockid_t, struct timespec *);
  if (!next) next = dlsym(RTLD_NEXT, "clock_gettime");
  int result = next ? next(clock, out) : real_time(clock, out);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) out->tv_sec += ahead();
  return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

int timespec_get(struct timespec *out, int base) { return clock_gettime(CLOCK_REALTIME, out) == 0 ? base : 0; }

#define NEXT(name) __typeof__(&name) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict end) {
  NEXT(sem_timedwait);
  struct timespec moved = real_end(end);
  return next(semaphore, &moved);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict end) {
  NEXT(pthread_mutex_timedlock);
  struct timespec moved = real_end(end);
  return next(mutex, &moved);
}

int pthread_cond_timedwait(
    pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict end) {
  int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *) =
      dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"); /* without a version, x86-64 gives that of 2.2.5 */
  if (!next) next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  struct timespec moved = real_end(end);
  return next(condition, mutex, &moved);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *end, struct timespec *left) {
  NEXT(clock_nanosleep);
  struct timespec moved = *end;
  if (clock == CLOCK_REALTIME && (flags & TIMER_ABSTIME)) moved = real_end(end);
  return next(clock, flags, &moved, left);
}
