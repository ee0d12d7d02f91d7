/* The wall clock of a process, CLOCK_OFFSET seconds wrong; its other clocks are right, and so is how long it waits. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    const char *seconds = getenv("CLOCK_OFFSET");
    return seconds ? atol(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = (int)syscall(SYS_clock_gettime, clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

/* Who adds a moment to the wrong time means that moment. Times since the machine's start are far smaller. */
int pthread_cond_timedwait(pthread_cond_t *changed, pthread_mutex_t *held, const struct timespec *until) {
    struct timespec right = *until;
    if (until->tv_sec < 1000000000) return pthread_cond_clockwait(changed, held, CLOCK_MONOTONIC, until);
    right.tv_sec -= offset();
    return pthread_cond_clockwait(changed, held, CLOCK_REALTIME, &right);
}

/* The same in C11's words, which the client of Kafka speaks. */
int cnd_timedwait(cnd_t *changed, mtx_t *held, const struct timespec *until) {
    switch (pthread_cond_timedwait((pthread_cond_t *)changed, (pthread_mutex_t *)held, until)) {
    case 0: return thrd_success;
    case ETIMEDOUT: return thrd_timedout;
    default: return thrd_error;
    }
}
