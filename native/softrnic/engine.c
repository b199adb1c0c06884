/* SPDX-License-Identifier: BSD-3-Clause */
/* engine.c -- progress: one epoll instance, served by whoever has time. */
#include "engine.h"

#include "../common/faults.h"
#include "uncancelled.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How long after its last poll a program is taken to be polling. */
#define POLLED_NS 200000
/* Whether it will see by itself what has come for it, and perhaps answer at once. */
#define ATTENTIVE_NS 20000000
/*
 * How long the progress thread steps aside at a time for who waits, or for who polls, and how often
 * one polls in that: to look in between takes the poller's processor away from it.
 */
#define ASIDE_NS 200000
#define ASIDE_POLLING_NS 400000
#define ASIDE_POLLS 8
/* The same when a poller was met at the very socket. */
#define STEP_BACK_NS 50000
/* A program that does not live up to its polling gets no such respect for that long. */
#define DISTRUST_NS 2000000
/*
 * One that spins on its memory polls as well, but not when something comes: if so often running it
 * has not polled for so long while something is ready, and then for longer each time.
 */
#define OVERLOOKED_MAX 6
#define STALE_NS 50000
#define DISTRUST_MAX_NS 64000000
/* So many times aside without anything happening, and the progress thread sleeps for good. */
#define ASIDE_IDLE 4

/*
 * To sleep and to be woken takes a processor some tens of microseconds: where events follow each
 * other more closely than BUSY_GAP_NS, the progress thread looks instead.
 */
#define BUSY_GAP_NS 100000
#define BUSY_MIN_NS 10000
#define BUSY_WAITS 3

#define EVENTS_AT_ONCE 16
#define SLICE_NS 100000

struct slot {
	struct source *source;
	uint32_t generation;
	unsigned next_free;
};

static struct {
	pthread_mutex_t lock;
	_Atomic int epfd; /* set last, once all else is there */
	int wake_fd;      /* wakes the progress thread */
	int kick_fd;      /* wakes the waiter that serves */
	unsigned capacity, free_slot;
	struct slot *slots;
	struct source *timed;
	_Atomic int64_t next_deadline; /* of `timed`; 0: none */
	void (*_Atomic idle)(void);
} engine = {.lock = PTHREAD_MUTEX_INITIALIZER, .epfd = -1, .wake_fd = -1, .kick_fd = -1};

/* What epoll says of the wake-up events; no source has these slots. */
#define WAKE_UP UINT64_MAX
#define KICK (UINT64_MAX - 1)

static _Atomic int64_t last_polled;
static _Atomic unsigned polls;
static _Atomic bool is_polling; /* until a thread is about to sleep */
static _Atomic bool is_aside;   /* the progress thread leaves all to who polls */
static _Atomic int serving_waiter;
static _Atomic unsigned other_waiters;
static _Atomic unsigned waits_ended;
static _Atomic uint32_t wakes;
static _Atomic bool sleeps_for_good;
/* The progress thread sleeps until something happens: it does not look at what is owed. */
static _Atomic bool sleeps = true;
static _Atomic bool is_owing;
static __thread bool is_progress_thread;
static __thread bool steps_back;
/* This thread serves while the program waits in it: it answers once it has what it waits for. */
static __thread bool is_serving_waiter;
/* ... and is about to sleep. */
static __thread bool falls_asleep;

int64_t
engine_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* ---- sources ---- */

void
source_init(struct source *source, int fd, void (*ready)(struct source *, uint32_t),
	    void (*expired)(struct source *), void (*release)(struct source *))
{
	*source = (struct source){.fd = fd, .ready = ready, .expired = expired, .release = release};
	atomic_init(&source->references, 1);
}

void
source_get(struct source *source)
{
	atomic_fetch_add_explicit(&source->references, 1, memory_order_relaxed);
}

void
source_put(struct source *source)
{
	if (atomic_fetch_sub_explicit(&source->references, 1, memory_order_acq_rel) == 1)
		source->release(source);
}

static void
wake_progress(void)
{
	atomic_fetch_add(&wakes, 1);
	syscall(SYS_futex, &wakes, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* With the lock held. */
static void
unlink_timed(struct source *source)
{
	if (!source->deadline)
		return;
	if (source->previous_timed)
		source->previous_timed->next_timed = source->next_timed;
	else
		engine.timed = source->next_timed;
	if (source->next_timed)
		source->next_timed->previous_timed = source->previous_timed;
	source->next_timed = source->previous_timed = NULL;
	source->deadline = 0;
}

void
engine_set_deadline(struct source *source, int64_t deadline)
{
	bool sooner = false;
	pthread_mutex_lock(&engine.lock);
	unlink_timed(source);
	if (deadline && source->slot) {
		source->deadline = deadline;
		source->next_timed = engine.timed;
		if (engine.timed)
			engine.timed->previous_timed = source;
		engine.timed = source;
		sooner = !engine.next_deadline || deadline < engine.next_deadline;
		if (sooner)
			engine.next_deadline = deadline;
	}
	pthread_mutex_unlock(&engine.lock);
	if (sooner) {
		wake_progress();
		uncancelled_event_add(engine.wake_fd);
	}
}

/* Call `expired` where it is due; returns the next deadline, or 0. */
static int64_t
serve_deadlines(void)
{
	for (;;) {
		struct source *due = NULL;
		int64_t now = engine_now(), next = 0;
		pthread_mutex_lock(&engine.lock);
		for (struct source *source = engine.timed; source; source = source->next_timed) {
			if (source->deadline <= now) {
				due = source;
				break;
			}
			if (!next || source->deadline < next)
				next = source->deadline;
		}
		engine.next_deadline = next;
		if (due) {
			unlink_timed(due);
			source_get(due);
		}
		pthread_mutex_unlock(&engine.lock);
		if (!due)
			return next;
		if (due->expired)
			due->expired(due);
		source_put(due);
	}
}

/* ---- serving ---- */

static bool
has_other_processors(void)
{
	static int count;
	if (!count) {
		cpu_set_t allowed;
		count = sched_getaffinity(0, sizeof(allowed), &allowed) ? 1 : CPU_COUNT(&allowed);
	}
	return count > 1;
}

static void
take_kick(void)
{
	if (!is_serving_waiter && atomic_load(&serving_waiter))
		return; /* that one takes it */
	uncancelled_event_clear(engine.kick_fd);
	/* Who has begun to wait meanwhile may have been meant, and would sleep through it. */
	if (!is_serving_waiter && atomic_load(&serving_waiter))
		engine_kick();
}

static int
handle(const struct epoll_event *events, int count)
{
	for (int i = 0; i < count; i++) {
		if (events[i].data.u64 == WAKE_UP) {
			/* It is for the progress thread: nobody else knows the deadlines. */
			if (is_progress_thread)
				uncancelled_event_clear(engine.wake_fd);
			else
				wake_progress();
			continue;
		}
		if (events[i].data.u64 == KICK) {
			take_kick();
			continue;
		}
		unsigned index = (unsigned)events[i].data.u64;
		uint32_t generation = (uint32_t)(events[i].data.u64 >> 32);
		struct source *source = NULL;
		pthread_mutex_lock(&engine.lock);
		if (engine.slots[index].generation == generation)
			source = engine.slots[index].source;
		if (source)
			source_get(source);
		pthread_mutex_unlock(&engine.lock);
		if (!source)
			continue;
		source->ready(source, events[i].events);
		source_put(source);
	}
	return count;
}

static int
serve(int timeout_ms)
{
	struct epoll_event events[EVENTS_AT_ONCE];
	return handle(events,
		      uncancelled_epoll_wait(engine.epfd, events, EVENTS_AT_ONCE, timeout_ms));
}

/* The progress thread's: look for a while before sleeping, where much has come of late. */
static void
serve_attentively(int timeout_ms)
{
	static int64_t typical_gap = BUSY_GAP_NS;
	int64_t began = engine_now(), now = began;
	int count = 0;
	if (typical_gap < BUSY_GAP_NS && has_other_processors()) {
		int64_t until = began + 2 * typical_gap + BUSY_MIN_NS;
		while (!(count = serve(0)) && now < until && !atomic_load(&is_owing)) {
			sched_yield(); /* who has work goes first */
			now = engine_now();
		}
	}
	atomic_store(&sleeps, true);
	if (!count && !atomic_load(&is_owing))
		(void)serve(timeout_ms);
	atomic_store(&sleeps, false);
	typical_gap += (engine_now() - began - typical_gap) / 8;
}

static void
serve_shortly(void)
{
	struct pollfd pollfd = {.fd = engine.epfd, .events = POLLIN};
	struct timespec moment = {.tv_nsec = ENGINE_OWED_NS};
	/* epoll_wait() itself knows milliseconds only, before glibc 2.35. */
	if (uncancelled_poll_moment(&pollfd, &moment) > 0)
		(void)serve(0);
}

int
engine_poll(void)
{
	return engine.epfd >= 0 ? serve(0) : 0;
}

void
engine_polled(void)
{
	atomic_store_explicit(&last_polled, engine_now(), memory_order_relaxed);
	atomic_fetch_add_explicit(&polls, 1, memory_order_relaxed);
	atomic_store_explicit(&is_polling, true, memory_order_relaxed);
}

void
engine_armed(void)
{
	atomic_store(&is_polling, false);
	if (atomic_load(&is_aside))
		wake_progress();
}

static int64_t
since_polled(void)
{
	return engine_now() - atomic_load_explicit(&last_polled, memory_order_relaxed);
}

bool
engine_is_attended(void)
{
	return is_serving_waiter || since_polled() < ATTENTIVE_NS;
}

void
engine_on_idle(void (*idle)(void))
{
	engine.idle = idle;
}

/* A thread has something to put off, and nobody looks after it: worth waking up for, if often. */
static void
want_progress(void)
{
	static __thread unsigned count;
	static __thread int64_t began;
	if (!count++)
		began = engine_now();
	if (count < BUSY_WAITS)
		return;
	count = 0;
	if (engine_now() - began >= BUSY_WAITS * BUSY_GAP_NS)
		return;
	if (atomic_load(&sleeps_for_good))
		wake_progress();
	else
		uncancelled_event_add(engine.wake_fd);
}

bool
engine_owe(void)
{
	if (falls_asleep)
		return false;
	/* It says as much of the program's attention as a poll does. */
	atomic_fetch_add_explicit(&polls, 1, memory_order_relaxed);
	atomic_store(&is_owing, true);
	if (is_progress_thread || !atomic_load(&sleeps))
		return true;
	want_progress();
	return false;
}

void
engine_step_back(void)
{
	steps_back = is_progress_thread;
}

static void
pay(void)
{
	if (atomic_load(&is_owing) && atomic_exchange(&is_owing, false))
		atomic_load (&engine.idle)();
}

/* ---- waiting ---- */

/*
 * A device's own wait is a read(): being stopped and continued, or a handler with SA_RESTART, goes
 * unnoticed there. Neither epoll_wait() nor poll() tells which signal it was; so whoever has no
 * handler that interrupts is not interrupted.
 */
static bool
is_interruptible(void)
{
	struct sigaction action;
	for (int number = 1; number < NSIG; number++) {
		if (!is_fault_signal(number) && !sigaction(number, NULL, &action) &&
		    action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN &&
		    !(action.sa_flags & SA_RESTART))
			return true;
	}
	return false;
}

/* After a wait that has failed, whose errno stays. */
static bool
is_interrupted(void)
{
	int failure = errno;
	bool is = failure != EINTR || is_interruptible();
	errno = failure;
	return is;
}

static void
end_plain_wait(void *unused)
{
	(void)unused;
	atomic_fetch_sub(&other_waiters, 1);
}

static int
wait_plainly(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	volatile int ret;
	atomic_fetch_add(&other_waiters, 1);
	pthread_cleanup_push(end_plain_wait, NULL);
	/* Whom this waiter counts on may be asleep since another one was serving. */
	do
		ret = poll(&pollfd, 1, -1);
	while (ret < 0 && !is_interrupted());
	pthread_cleanup_pop(1);
	return ret < 0 ? -1 : 0;
}

/* Also of a thread that is cancelled in its wait: somebody else has to serve now. */
static void
end_serving(void *unused)
{
	(void)unused;
	is_serving_waiter = falls_asleep = false;
	atomic_store(&serving_waiter, 0);
	atomic_fetch_add(&waits_ended, 1);
	if (atomic_load(&sleeps_for_good) || atomic_load(&other_waiters))
		wake_progress();
}

int
engine_wait(int fd, bool (*is_done)(void *argument), void *argument)
{
	int expected = 0;
	if (engine.epfd < 0 || !atomic_compare_exchange_strong(&serving_waiter, &expected, 1))
		return wait_plainly(fd);
	struct epoll_event events[EVENTS_AT_ONCE];
	volatile int count;
	is_serving_waiter = true;
	pthread_cleanup_push(end_serving, NULL);
	do {
		count = 0;
		if (is_done(argument))
			break;
		falls_asleep = true;
		pay(); /* which may bring what is waited for */
		if (!is_done(argument))
			count = epoll_wait(engine.epfd, events, EVENTS_AT_ONCE, -1);
		falls_asleep = false;
	} while (handle(events, count) > 0 || (count < 0 && !is_interrupted()));
	pthread_cleanup_pop(0);
	int failure = errno;
	end_serving(NULL);
	errno = failure;
	return count < 0 ? -1 : 0;
}

void
engine_kick(void)
{
	uncancelled_event_add(engine.kick_fd);
}

/* ---- the progress thread ---- */

/* Returns whether it was that long: false if it was woken. */
static bool
sleep_at_most(int64_t ns, uint32_t expected)
{
	struct timespec timeout = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
	return syscall(SYS_futex, &wakes, FUTEX_WAIT_PRIVATE, expected, &timeout, NULL, 0) < 0 &&
	       errno == ETIMEDOUT;
}

/* After the thread has been aside for who polls: something is ready, and they have not looked. */
static bool
is_overlooked(void)
{
	return since_polled() >= STALE_NS && engine_poll() > 0;
}

/* Step aside while the program's own threads serve. Returns whether they did. */
static bool
step_aside(void)
{
	static int64_t distrusts_until, distrust = DISTRUST_NS;
	static unsigned idle_rounds, waits_seen, overlooked;
	uint32_t woken = atomic_load(&wakes);
	if (atomic_load(&serving_waiter)) {
		unsigned ended = atomic_load(&waits_ended);
		idle_rounds = ended == waits_seen ? idle_rounds + 1 : 0;
		waits_seen = ended;
		if (idle_rounds < ASIDE_IDLE) {
			sleep_at_most(ASIDE_NS, woken);
			return true;
		}
		pay();
		if (atomic_load(&is_owing)) { /* not due yet: nobody else will think of it */
			sleep_at_most(ENGINE_OWED_NS, woken);
			return true;
		}
		atomic_store(&sleeps, true);
		atomic_store(&sleeps_for_good, true);
		if (atomic_load(&serving_waiter) && atomic_load(&waits_ended) == ended &&
		    !atomic_load(&is_owing)) {
			int64_t next = engine.next_deadline;
			int64_t left = next ? next - engine_now() : 3600 * 1000000000LL;
			sleep_at_most(left > 0 ? left : 0, woken);
		}
		atomic_store(&sleeps_for_good, false);
		atomic_store(&sleeps, false);
		idle_rounds = 0;
		return true;
	}
	idle_rounds = 0;
	if (atomic_load(&waits_ended) != waits_seen) {
		/* A thread that has served, waiting, is about to answer what it has got. */
		waits_seen = atomic_load(&waits_ended);
		sleep_at_most(ASIDE_NS, woken);
		return true;
	}
	if (steps_back) {
		steps_back = false;
		sleep_at_most(STEP_BACK_NS, woken);
		return true;
	}
	if (since_polled() >= POLLED_NS || engine_now() < distrusts_until)
		return false;
	unsigned before = atomic_load_explicit(&polls, memory_order_relaxed);
	atomic_store(&is_aside, true);
	bool is_whole = atomic_load(&is_polling) && sleep_at_most(ASIDE_POLLING_NS, woken);
	atomic_store(&is_aside, false);
	if (atomic_load(&serving_waiter))
		return true;
	if (!is_whole)
		return atomic_load(&is_polling);
	bool polled = atomic_load_explicit(&polls, memory_order_relaxed) - before >= ASIDE_POLLS;
	overlooked = polled && is_overlooked() ? overlooked + 1 : 0;
	if (polled && overlooked < OVERLOOKED_MAX) {
		if (!overlooked)
			distrust = DISTRUST_NS;
		return true;
	}
	distrusts_until = engine_now() + distrust;
	if (overlooked && distrust < DISTRUST_MAX_NS)
		distrust *= 2;
	overlooked = 0;
	return false;
}

/*
 * A program's thread that spins on memory keeps its processor until its time slice ends, unless who
 * wakes up there asks for a shorter one (Linux 6.12 and later; harmless before).
 */
static void
ask_for_short_slices(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attributes = {.size = sizeof(attributes), .policy = SCHED_OTHER, .runtime = SLICE_NS};
	attributes.nice = getpriority(PRIO_PROCESS, 0);
	(void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

static void *
progress(void *unused)
{
	(void)unused;
	is_progress_thread = true;
	atomic_store(&sleeps, false);
	ask_for_short_slices();
	prctl(PR_SET_NAME, "softrnic");
	prctl(PR_SET_TIMERSLACK, 1000);
	for (;;) {
		int64_t next = serve_deadlines();
		bool aside = step_aside();
		int timeout = -1;
		if (aside && atomic_load(&serving_waiter)) {
			uncancelled_event_clear(engine.wake_fd);
			pay();
			continue;
		} else if (aside) {
			pay();
			timeout = 0;
		} else if (atomic_load(&is_owing)) {
			/* It travels with what the program sends in this moment, or goes alone. */
			serve_shortly();
			pay();
			continue;
		} else if (next) {
			int64_t left = next - engine_now();
			timeout = left <= 0 ? 0 : (int)((left + 999999) / 1000000);
		}
		if (timeout)
			serve_attentively(timeout);
		else
			(void)serve(0);
	}
	return NULL;
}

/* ---- the epoll instance and its life ---- */

static void
stop(const int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (fds[i] >= 0)
			uncancelled_close(fds[i]);
	}
}

static bool
serve_wakes(int epfd, int fd, uint64_t data)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = data};
	return epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) == 0;
}

/* With the lock held. 0 or an errno. */
static int
start(void)
{
	pthread_t thread;
	pthread_attr_t attributes;
	sigset_t blocked = all_but_faults(), previous;
	if (engine.epfd >= 0 || engine_usable())
		return engine_usable();
	int fds[] = {epoll_create1(EPOLL_CLOEXEC), eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		     eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (fds[0] < 0 || fds[1] < 0 || fds[2] < 0 || !serve_wakes(fds[0], fds[1], WAKE_UP) ||
	    !serve_wakes(fds[0], fds[2], KICK)) {
		int failure = errno;
		stop(fds, 3);
		return failure;
	}
	engine_is_used(true);
	engine.wake_fd = fds[1];
	engine.kick_fd = fds[2];
	atomic_store(&engine.epfd, fds[0]);
	pthread_sigmask(SIG_SETMASK, &blocked, &previous); /* signals are the program's */
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	int ret = pthread_create(&thread, &attributes, progress, NULL);
	pthread_attr_destroy(&attributes);
	pthread_sigmask(SIG_SETMASK, &previous, NULL);
	if (ret) {
		engine_is_used(false);
		engine.epfd = -1;
		stop(fds, 3);
		return ret;
	}
	for (unsigned i = 0; i < 3; i++)
		engine_close_in_child(fds[i]);
	return 0;
}

/* With the lock held: a slot that is free, or 0. Slot 0 is never used. */
static unsigned
take_slot(void)
{
	if (!engine.free_slot) {
		unsigned capacity = engine.capacity ? 2 * engine.capacity : 64;
		struct slot *grown = realloc(engine.slots, capacity * sizeof(*grown));
		if (!grown)
			return 0;
		engine.slots = grown;
		for (unsigned i = capacity; i-- > engine.capacity;) {
			grown[i] = (struct slot){.next_free = engine.free_slot};
			if (i)
				engine.free_slot = i;
		}
		engine.capacity = capacity;
	}
	unsigned index = engine.free_slot;
	engine.free_slot = engine.slots[index].next_free;
	return index;
}

/* With the lock held. */
static void
free_slot(unsigned index)
{
	engine.slots[index].source = NULL;
	engine.slots[index].generation++;
	engine.slots[index].next_free = engine.free_slot;
	engine.free_slot = index;
}

static struct epoll_event
event_of(unsigned index, uint32_t events)
{
	uint64_t generation = engine.slots[index].generation;
	return (struct epoll_event){.events = events, .data.u64 = generation << 32 | index};
}

int
engine_add(struct source *source, uint32_t events)
{
	pthread_mutex_lock(&engine.lock);
	int ret = start();
	unsigned index = ret ? 0 : take_slot();
	if (!ret && !index)
		ret = ENOMEM;
	if (!ret) {
		struct epoll_event event = event_of(index, events);
		if (epoll_ctl(engine.epfd, EPOLL_CTL_ADD, source->fd, &event) < 0) {
			ret = errno;
			free_slot(index);
		}
	}
	if (!ret) {
		engine.slots[index].source = source;
		source->slot = index;
		source->events = events;
		source_get(source);
	}
	pthread_mutex_unlock(&engine.lock);
	return ret;
}

int
engine_change(struct source *source, uint32_t set, uint32_t clear)
{
	int ret = 0;
	pthread_mutex_lock(&engine.lock);
	uint32_t events = (source->events | set) & ~clear;
	if (source->slot && source->events != events) {
		struct epoll_event event = event_of(source->slot, events);
		if (epoll_ctl(engine.epfd, EPOLL_CTL_MOD, source->fd, &event) < 0)
			ret = errno;
		else
			source->events = events;
	}
	pthread_mutex_unlock(&engine.lock);
	return ret;
}

void
engine_remove(struct source *source)
{
	bool was_added = false;
	pthread_mutex_lock(&engine.lock);
	if (source->slot) {
		was_added = true;
		unlink_timed(source);
		epoll_ctl(engine.epfd, EPOLL_CTL_DEL, source->fd, NULL);
		free_slot(source->slot);
		source->slot = 0;
	}
	pthread_mutex_unlock(&engine.lock);
	if (was_added)
		source_put(source);
}
