/* SPDX-License-Identifier: BSD-3-Clause */
/* call.c -- what a call runs into when something is wrong, and how it ends in the log. */
#include "validation.h"
#include "line.h"
#include "wrapper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

__thread struct thread this_thread;

static pthread_key_t message_key;
static pthread_once_t message_once = PTHREAD_ONCE_INIT;

/* Other destructors of the thread may still call librpma. */
static void
end_thread(void *message)
{
	free(message);
	this_thread = (struct thread){0};
}

static void
make_key(void)
{
	(void)pthread_key_create(&message_key, end_thread);
}

/* The first call of a thread, or of a forked child. */
struct thread *
thread_init(void)
{
	struct thread *thread = &this_thread;
	thread->id = (pid_t)syscall(SYS_gettid);
	if (!thread->message) {
		(void)pthread_once(&message_once, make_key);
		thread->message = calloc(1, MESSAGE_SIZE);
		(void)pthread_setspecific(message_key, thread->message);
	}
	return thread;
}

struct object *
call_bad_object(struct call *call, const char *name, const void *handle, enum kind kind,
		bool optional)
{
	if (!handle) {
		if (!optional) {
			hint(call, "%s is NULL", name);
			call->refusal = RPMA_E_INVAL;
		}
		return NULL;
	}
	struct object *object = object_at(handle);
	uint32_t state = object ? atomic_load(&object->state) : 0;
	enum kind found = state >> 2;
	if (found == KIND_NONE)
		call->refusal = finding(call, NULL, "%s is %p, which is no object of librpma's",
					name, handle);
	else if (found != kind)
		call->refusal = finding(call, object, "%s is %s#%u: not a %s", name,
					kind_names[found], object->number, kind_names[kind]);
	else if (object->ended.function == FUNCTION_rpma_conn_req_connect)
		call->refusal = finding(call, object,
					"%s is %s#%u, which rpma_conn_req_connect() has used up",
					name, kind_names[kind], object->number);
	else
		call->refusal = finding(call, object, "%s is %s#%u, which has been %s", name,
					kind_names[kind], object->number,
					kind == KIND_CQ ? "deleted with what it belonged to"
							: kind_ends(kind));
	return NULL;
}

static void
tell_conflict(struct call *call, const char *name, struct object *object, uint64_t other)
{
	const char *kind = kind_names[atomic_load(&object->state) >> 2];
	if (other & CLAIMED)
		call->refusal =
			finding(call, object,
				"%s, %s#%u, is used by two threads at once: thread %d is in %s()",
				name, kind, object->number, (int)(uint32_t)other,
				functions[(other & ~CLAIMED) >> 32].name);
	else
		call->refusal = finding(call, object,
					"%s, %s#%u, is used by two threads at once: another thread "
					"reads it",
					name, kind, object->number);
}

void
call_conflict(struct call *call, const char *name, struct object *object, enum claim claim)
{
	uint64_t other = atomic_load(claim == CLAIM_WAITS ? &object->waiter : &object->user);
	if (atomic_load(&object->state) >> 2 != KIND_EP || claim != CLAIM_WAITS)
		tell_conflict(call, name, object, other);
	else
		/* Not promised, and yet a test of librpma's own. */
		warning(call, object,
			"%s, ep#%u, is used by two threads at once: thread %d is in %s(), which "
			"librpma allows to one thread",
			name, object->number, (int)(uint32_t)other,
			functions[(other & ~CLAIMED) >> 32].name);
}

/* A configuration is changed while it is made use of. */
void
call_taken(struct call *call, const char *name, struct object *object)
{
	warning(call, object,
		"%s, %s#%u, is changed while another thread makes something of it: which of its "
		"values that takes is not known",
		name, kind_names[atomic_load(&object->state) >> 2], object->number);
}

/* The object behind a pointer to a handle, for this call alone. */
struct object *
call_deletes(struct call *call, const char *name, void *const *handle, enum kind kind)
{
	if (!handle) {
		hint(call, "%s is NULL", name);
		return NULL;
	}
	struct object *object = call_object(call, name, *handle, kind, CLAIM_USES, true);
	if (object && !call->refusal &&
	    (kind == KIND_CONN || kind == KIND_EP || kind == KIND_CONN_REQ)) {
		uint64_t waiter = atomic_load(&object->waiter);
		if (waiter)
			tell_conflict(call, name, object, waiter);
	}
	for (unsigned i = 0; object && i < 2; i++) {
		struct object *cq = object->found[i];
		if (cq && !call->refusal && atomic_load(&cq->user))
			call->refusal = finding(call, object,
						"%s, %s#%u, is deleted while another thread is in "
						"a call with its cq#%u",
						name, kind_names[kind], object->number, cq->number);
	}
	return object;
}

void
call_null(struct call *call, const char *name)
{
	hint(call, "%s is NULL", name);
}

int
call_missing(struct call *call)
{
	hint(call, "the normal library has no such function: %s", normal_path);
	return RPMA_E_NOSUPP;
}

/* What a code means for the function, where the normal library says no more. */
static const char *
explanation(const struct call *call, int ret)
{
	switch (ret) {
	case RPMA_E_SHARED_CHANNEL:
		return "the completion channel is shared by the connection's CQs: wait with "
		       "rpma_conn_wait(), on rpma_conn_get_compl_fd()";
	case RPMA_E_NOT_SHARED_CHNL:
		return "the CQs have a completion channel each: wait with rpma_cq_wait(), on "
		       "rpma_cq_get_fd(), or ask for a shared one with "
		       "rpma_conn_cfg_set_compl_channel()";
	case RPMA_E_NOMEM:
		return "out of memory";
	case RPMA_E_INVAL:
		return "an argument is invalid";
	default:
		return normal.rpma_err_2str ? normal.rpma_err_2str(ret) : call->function->name;
	}
}

/* The call failed: leave a message that says why. */
void
call_failed(struct call *call, int ret)
{
	struct thread *thread = call->thread;
	call->saved_errno = errno;
	if (call->has_finding)
		return;
	bool is_empty = ret == RPMA_E_NO_COMPLETION || ret == RPMA_E_NO_EVENT;
	if ((is_empty || call->function->asks || call->is_temporary) && !call->hint[0]) {
		/* Put into words when somebody asks. */
		if (!call->is_heard) {
			thread->unsaid = call->function;
			thread->unsaid_code = ret;
		}
		return;
	}
	if (call->is_heard) {
		size_t length = strlen(thread->message);
		if (call->hint[0])
			(void)snprintf(thread->message + length, MESSAGE_SIZE - length, " (%s)",
				       call->hint);
	} else {
		message_set(thread, "%s: %s", call->function->name,
			    call->hint[0] ? call->hint : explanation(call, ret));
		if (ret == RPMA_E_INVAL)
			librpma_log_tell(RPMA_LOG_LEVEL_ERROR, call->function->name,
					 thread->message);
	}
	if (log_level >= 1)
		log_write(1, "error", "%s: %s%s%s", call->function->name,
			  call->is_heard ? thread->message
					 : thread->message + strlen(call->function->name) + 2,
			  code_name(ret) ? ", " : "", code_name(ret) ? code_name(ret) : "");
}

void
call_enter(struct call *call, const char *name, const struct object *object)
{
	struct line line;
	(void)log_line_begin(&line, 4, "enter ");
	line_raw(&line, call->function->name);
	line_raw(&line, "(");
	line_raw(&line, name);
	line_raw(&line, "=");
	line_object(&line, object, object);
	line_raw(&line, ")");
	log_line_out(&line);
}

void
call_line_begin(struct call *call, struct line *line)
{
	call->end = log_line_begin(line, call->function->level, "call ");
	line_raw(line, call->function->name);
	line_raw(line, "(");
}

static void
end_line(struct call *call, struct line *line)
{
	if (call->is_traced) {
		line_raw(line, " <");
		line_decimal(line, call->end - call->start);
		line_raw(line, " ns>");
		log_line_out(line);
	}
}

void
call_line_end(struct call *call, struct line *line, int ret)
{
	char number[16];
	const char *name = code_name(ret);
	if (!name)
		(void)snprintf(number, sizeof(number), "%d", ret);
	line_raw(line, ") = ");
	line_raw(line, name ? name : number);
	if (call->has_finding) {
		line->text[line->length] = '\0';
		finding_report(call, strstr(line->text, call->function->name));
	}
	end_line(call, line);
	errno = call->saved_errno;
}

void
call_line_text(struct call *call, struct line *line, const char *ret)
{
	line_raw(line, ") = ");
	line_quoted(line, ret);
	end_line(call, line);
	errno = call->saved_errno;
}

void
call_abort(struct call *call)
{
	(void)call;
	if (findings_abort())
		abort();
}
