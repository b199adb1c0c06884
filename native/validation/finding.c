/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * finding.c -- what is said of what is wrong: the message of rpma_errormsg(), warnings, and failed
 * assertions, which end the program unless RPMA_DEBUG_ABORT=0.
 */
#include "validation.h"
#include "line.h"
#include "wrapper.h"

#include <execinfo.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool aborts = true;

void
findings_init(void)
{
	const char *value = secure_getenv("RPMA_DEBUG_ABORT");
	aborts = !value || strcmp(value, "0") != 0;
}

bool
findings_abort(void)
{
	return aborts;
}

void
message_set(struct thread *thread, const char *format, ...)
{
	va_list arguments;
	if (!thread->message)
		return; /* out of memory */
	va_start(arguments, format);
	(void)vsnprintf(thread->message, MESSAGE_SIZE, format, arguments);
	va_end(arguments);
	thread->unsaid = NULL;
}

static void
trace_by_hand(uint64_t start, const char *call, const char *result)
{
	struct line line;
	(void)log_line_begin(&line, 3, "call ");
	line_raw(&line, call);
	if (result)
		line_quoted(&line, result);
	else
		line_raw(&line, "NULL");
	line_printf(&line, " <%llu ns>", (unsigned long long)(log_now() - start));
	log_line_out(&line);
}

VISIBLE const char *
rpma_errormsg(void)
{
	struct thread *thread = this_thread.id ? &this_thread : thread_init();
	uint64_t start = log_level >= 3 ? log_now() : 0;
	if (thread->unsaid) {
		const struct function *function = thread->unsaid;
		message_set(thread, "%s: %s", function->name,
			    normal.rpma_err_2str(thread->unsaid_code));
	}
	const char *message = thread->message ? thread->message : "out of memory";
	if (log_level >= 3)
		trace_by_hand(start, "rpma_errormsg() = ", message);
	return message;
}

/* A static string each: what is returned stays as it is, whatever is called afterwards. */
VISIBLE const char *
rpma_check_version(unsigned major_required, unsigned minor_required)
{
	const char *reason = NULL;
	uint64_t start = log_level >= 3 ? log_now() : 0;
	if (major_required != 1)
		reason = "librpma major version mismatch: this library has API version 1.3";
	else if (minor_required > 3)
		reason = "librpma minor version mismatch: this library has API version 1.3";
	if (reason)
		message_set(this_thread.id ? &this_thread : thread_init(),
			    "%s, and %u.%u is required", reason, major_required, minor_required);
	if (log_level >= 3) {
		char call[128];
		(void)snprintf(call, sizeof(call),
			       "rpma_check_version(major_required=%u, minor_required=%u) = ",
			       major_required, minor_required);
		trace_by_hand(start, call, reason);
	}
	return reason;
}

/* ---- what a call is told ---- */

static void
add_object(struct call *call, struct object *object)
{
	unsigned i = 0;
	while (i < CALL_OBJECTS && call->about[i] && call->about[i] != object)
		i++;
	if (i < CALL_OBJECTS) {
		call->about[i] = object;
		if (i + 1 < CALL_OBJECTS)
			call->about[i + 1] = NULL;
	}
}

int
finding(struct call *call, struct object *about, const char *format, ...)
{
	char text[MESSAGE_SIZE];
	va_list arguments;
	if (call->has_finding)
		return RPMA_E_INVAL; /* the first says it */
	va_start(arguments, format);
	(void)vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	call->has_finding = true;
	call->refusal = RPMA_E_INVAL;
	message_set(call->thread, "%s: %s", call->function->name, text);
	call->about[0] = NULL;
	if (about)
		add_object(call, about);
	return RPMA_E_INVAL;
}

void
hint(struct call *call, const char *format, ...)
{
	va_list arguments;
	if (call->hint[0])
		return;
	va_start(arguments, format);
	(void)vsnprintf(call->hint, sizeof(call->hint), format, arguments);
	va_end(arguments);
}

/* ---- what is told of objects ---- */

/* The frames of the caller of this library. */
static int
frames_of_program(void **frames, int size)
{
	extern const char __ehdr_start[] __attribute__((visibility("hidden")));
	extern const char etext[] __attribute__((visibility("hidden")));
	int depth = backtrace(frames, size), skip = 0;
	while (skip < depth && (uintptr_t)frames[skip] >= (uintptr_t)__ehdr_start &&
	       (uintptr_t)frames[skip] < (uintptr_t)etext)
		skip++;
	memmove(frames, frames + skip, (size_t)(depth - skip) * sizeof(*frames));
	return depth - skip;
}

void
place_take(struct place *place, enum function_id function)
{
	void *frames[PLACE_FRAMES + 4];
	int depth = frames_of_program(frames, PLACE_FRAMES + 4);
	place->function = function;
	place->thread = this_thread.id;
	place->depth = depth < PLACE_FRAMES ? depth : PLACE_FRAMES;
	memcpy(place->frames, frames, (size_t)place->depth * sizeof(*frames));
}

static void
say(bool loudly, const char *kind, const char *text)
{
	if (loudly)
		log_loudly(1, kind, "%s", text);
	else
		log_write(1, kind, "%s", text);
}

static void
say_frames(bool loudly, void *const *frames, int depth)
{
	char **symbols = backtrace_symbols(frames, depth);
	for (int i = 0; symbols && i < depth; i++) {
		char text[512];
		(void)snprintf(text, sizeof(text), "  %s", symbols[i]);
		say(loudly, "where", text);
	}
	free(symbols);
}

static void
say_object(bool loudly, const struct object *object)
{
	char text[256];
	uint32_t state = atomic_load(&object->state);
	enum kind kind = state >> 2;
	const char *name = kind_names[kind];
	if (kind == KIND_CQ)
		(void)snprintf(text, sizeof(text),
			       "%s#%u belongs to %s#%u, made by %s() in thread %d:", name,
			       object->number,
			       kind_names[atomic_load(&object->cq.owner->state) >> 2],
			       object->cq.owner->number, functions[object->made.function].name,
			       (int)object->made.thread);
	else
		(void)snprintf(text, sizeof(text), "%s#%u was made by %s() in thread %d:", name,
			       object->number, functions[object->made.function].name,
			       (int)object->made.thread);
	say(loudly, "where", text);
	say_frames(loudly, object->made.frames, object->made.depth);
	if ((state & 3) == ENDED) {
		(void)snprintf(text, sizeof(text), "%s#%u was ended by %s() in thread %d:", name,
			       object->number, functions[object->ended.function].name,
			       (int)object->ended.thread);
		say(loudly, "where", text);
		say_frames(loudly, object->ended.frames, object->ended.depth);
	}
}

void
finding_about(struct call *call, struct object *object)
{
	if (call)
		add_object(call, object);
	else if (log_level >= 1)
		say_object(false, object);
}

static void
say_backtrace(bool loudly)
{
	void *frames[64];
	int depth = frames_of_program(frames, 64);
	say(loudly, "where", "this thread is in:");
	say_frames(loudly, frames, depth);
}

/* The whole report of a failed assertion; call: with its arguments. */
void
finding_report(struct call *call, const char *text)
{
	say(aborts, "assertion", call->thread->message);
	say(aborts, "where", text);
	for (unsigned i = 0; i < CALL_OBJECTS && call->about[i]; i++)
		say_object(aborts, call->about[i]);
	say_backtrace(aborts);
	if (!aborts)
		librpma_log_tell(RPMA_LOG_LEVEL_ERROR, call->function->name, call->thread->message);
}

void
finding_now(struct object *about, const char *format, ...)
{
	char text[MESSAGE_SIZE];
	va_list arguments;
	va_start(arguments, format);
	(void)vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	say(aborts, "assertion", text);
	if (about)
		say_object(aborts, about);
	say_backtrace(aborts);
	if (aborts)
		abort();
}

void
warning(struct call *call, struct object *about, const char *format, ...)
{
	char text[MESSAGE_SIZE];
	va_list arguments;
	va_start(arguments, format);
	(void)vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	hint(call, "%s", text);
	if (log_level < 1)
		return;
	log_write(1, "warning", "%s: %s", call->function->name, text);
	if (about)
		say_object(false, about);
}
