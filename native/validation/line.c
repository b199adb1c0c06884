/* SPDX-License-Identifier: BSD-3-Clause */
/* line.c -- values as the log has them. */
#include "line.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What a line that has become too long ends with; room for it, the result and the end is kept. */
#define RESERVED 128

void
line_put(struct line *line, const char *text, size_t length)
{
	size_t room = line->length < LINE_SIZE - RESERVED ? LINE_SIZE - RESERVED - line->length : 0;
	if (length > room)
		length = room;
	memcpy(line->text + line->length, text, length);
	line->length += (unsigned)length;
}

/* Also where put() has no more room: the end of a line. */
void
line_raw(struct line *line, const char *text)
{
	size_t length = strlen(text);
	if (length > LINE_SIZE - 1 - line->length)
		length = LINE_SIZE - 1 - line->length;
	memcpy(line->text + line->length, text, length);
	line->length += (unsigned)length;
}

void
line_printf(struct line *line, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	size_t room = line->length < LINE_SIZE - RESERVED ? LINE_SIZE - RESERVED - line->length : 0;
	int length = room ? vsnprintf(line->text + line->length, room, format, arguments) : 0;
	va_end(arguments);
	if (length > 0)
		line->length += (unsigned)((size_t)length < room ? (size_t)length : room - 1);
}

void
line_decimal(struct line *line, uint64_t value)
{
	char digits[20];
	unsigned first = sizeof(digits);
	do {
		digits[--first] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	line_put(line, digits + first, sizeof(digits) - first);
}

static void
hexadecimal(struct line *line, uint64_t value)
{
	char digits[18];
	unsigned first = sizeof(digits);
	do {
		digits[--first] = "0123456789abcdef"[value & 15];
		value >>= 4;
	} while (value);
	digits[--first] = 'x';
	digits[--first] = '0';
	line_put(line, digits + first, sizeof(digits) - first);
}

static void
put_text(struct line *line, const char *text)
{
	line_put(line, text, strlen(text));
}

static void
integer(struct line *line, int64_t value)
{
	if (value < 0)
		line_put(line, "-", 1);
	line_decimal(line, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

/* The names of the bits that are set, then what has no name. */
static void
bits(struct line *line, int value, const char *const *names, int count)
{
	const char *separator = "";
	if (!value)
		line_put(line, "0", 1);
	for (int i = 0; i < count; i++) {
		if (value & 1 << i) {
			put_text(line, separator);
			put_text(line, names[i]);
			value &= ~(1 << i);
			separator = "|";
		}
	}
	if (value) {
		put_text(line, separator);
		hexadecimal(line, (uint32_t)value);
	}
}

void
line_bool(struct line *line, bool value)
{
	put_text(line, value ? "true" : "false");
}

const char *
code_name(int code)
{
	switch (code) {
	case RPMA_E_UNKNOWN:
		return "RPMA_E_UNKNOWN";
	case RPMA_E_NOSUPP:
		return "RPMA_E_NOSUPP";
	case RPMA_E_PROVIDER:
		return "RPMA_E_PROVIDER";
	case RPMA_E_NOMEM:
		return "RPMA_E_NOMEM";
	case RPMA_E_INVAL:
		return "RPMA_E_INVAL";
	case RPMA_E_NO_COMPLETION:
		return "RPMA_E_NO_COMPLETION";
	case RPMA_E_NO_EVENT:
		return "RPMA_E_NO_EVENT";
	case RPMA_E_AGAIN:
		return "RPMA_E_AGAIN";
	case RPMA_E_SHARED_CHANNEL:
		return "RPMA_E_SHARED_CHANNEL";
	case RPMA_E_NOT_SHARED_CHNL:
		return "RPMA_E_NOT_SHARED_CHNL";
	default:
		return NULL;
	}
}

void
line_code(struct line *line, int value)
{
	const char *known = code_name(value);
	if (known)
		put_text(line, known);
	else
		integer(line, value);
}

void
line_completion(struct line *line, int flags)
{
	if (flags == RPMA_F_COMPLETION_ALWAYS)
		put_text(line, "ALWAYS");
	else if (flags == RPMA_F_COMPLETION_ON_ERROR)
		put_text(line, "ON_ERROR");
	else
		line_int(line, flags);
}

void
line_context_type(struct line *line, enum rpma_util_ibv_context_type type)
{
	if (type == RPMA_UTIL_IBV_CONTEXT_LOCAL)
		put_text(line, "LOCAL");
	else if (type == RPMA_UTIL_IBV_CONTEXT_REMOTE)
		put_text(line, "REMOTE");
	else
		line_int(line, (int)type);
}

void
line_event(struct line *line, enum rpma_conn_event event)
{
	static const char *const names[] = {"UNDEFINED", "ESTABLISHED", "CLOSED",
					    "LOST",      "REJECTED",    "UNREACHABLE"};
	if (event >= RPMA_CONN_UNDEFINED && event <= RPMA_CONN_UNREACHABLE)
		put_text(line, names[event - RPMA_CONN_UNDEFINED]);
	else
		line_int(line, (int)event);
}

void
line_flush_type(struct line *line, enum rpma_flush_type type)
{
	if (type == RPMA_FLUSH_TYPE_PERSISTENT)
		put_text(line, "PERSISTENT");
	else if (type == RPMA_FLUSH_TYPE_VISIBILITY)
		put_text(line, "VISIBILITY");
	else
		line_int(line, (int)type);
}

void
line_function(struct line *line, rpma_log_function *function)
{
	line_pointer(line, (const void *)(uintptr_t)function);
}

void
line_int(struct line *line, int value)
{
	integer(line, value);
}

void
line_object(struct line *line, const void *handle, const struct object *object)
{
	if (!object) {
		line_pointer(line, handle);
		return;
	}
	const char *kind = kind_names[atomic_load(&object->state) >> 2];
	put_text(line, kind);
	line_put(line, "#", 1);
	line_decimal(line, object->number);
}

/* A pointer to a handle: the object, or else what the pointer is. */
void
line_objectp(struct line *line, const void *handle, const struct object *object)
{
	if (handle && !object)
		put_text(line, "(NULL)");
	else
		line_object(line, handle, object);
}

void
line_pointer(struct line *line, const void *pointer)
{
	if (!pointer) {
		put_text(line, "NULL");
		return;
	}
	hexadecimal(line, (uintptr_t)pointer);
}

void
line_private_data(struct line *line, const struct rpma_conn_private_data *data)
{
	if (!data) {
		put_text(line, "NULL");
		return;
	}
	line_name(line, "(ptr=");
	line_pointer(line, data->ptr);
	line_name(line, ", len=");
	line_decimal(line, data->len);
	line_name(line, ")");
}

void
line_size(struct line *line, size_t value)
{
	line_decimal(line, value);
}

void
line_quoted(struct line *line, const char *text)
{
	line_put(line, "\"", 1);
	for (unsigned i = 0; text[i] && i < 255; i++) {
		unsigned char byte = (unsigned char)text[i];
		char escaped[5];
		if (byte == '"' || byte == '\\')
			(void)snprintf(escaped, sizeof(escaped), "\\%c", byte);
		else if (byte < ' ' || byte > '~')
			(void)snprintf(escaped, sizeof(escaped), "\\x%02x", byte);
		else
			(void)snprintf(escaped, sizeof(escaped), "%c", byte);
		put_text(line, escaped);
	}
	line_put(line, "\"", 1);
}

void
line_text(struct line *line, const char *text)
{
	if (!text) {
		put_text(line, "NULL");
		return;
	}
	line_quoted(line, text);
}

void
line_usage(struct line *line, int usage)
{
	static const char *const names[] = {"READ_SRC",
					    "READ_DST",
					    "WRITE_SRC",
					    "WRITE_DST",
					    "FLUSH_TYPE_VISIBILITY",
					    "FLUSH_TYPE_PERSISTENT",
					    "SEND",
					    "RECV"};
	bits(line, usage, names, 8);
}

void
line_value8(struct line *line, const char *value)
{
	if (!value) {
		put_text(line, "NULL");
		return;
	}
	uint64_t bytes;
	memcpy(&bytes, value, sizeof(bytes));
	hexadecimal(line, bytes);
}
