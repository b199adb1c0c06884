/* SPDX-License-Identifier: BSD-3-Clause */
/* line.h -- a line of the log, put together without printf, which costs more than most calls. */
#ifndef RPMA_VALIDATION_LINE_H
#define RPMA_VALIDATION_LINE_H

#include "validation.h"

/* A pipe takes as much at once, unmixed (PIPE_BUF). */
#define LINE_SIZE 4096

struct line {
	unsigned length;
	char text[LINE_SIZE];
};

void line_raw(struct line *line, const char *text);
void line_printf(struct line *line, const char *format, ...) PRINTF(2, 3);
void line_decimal(struct line *line, uint64_t value);
void line_quoted(struct line *line, const char *text);

/* What is before the value of an argument: a string literal. */
#define line_name(line, literal) line_put((line), (literal), sizeof(literal) - 1)
void line_put(struct line *line, const char *text, size_t length);

/* Values of arguments. */
void line_bool(struct line *line, bool value);
void line_code(struct line *line, int value);
void line_completion(struct line *line, int flags);
void line_context_type(struct line *line, enum rpma_util_ibv_context_type type);
void line_event(struct line *line, enum rpma_conn_event event);
void line_flush_type(struct line *line, enum rpma_flush_type type);
void line_function(struct line *line, rpma_log_function *function);
void line_int(struct line *line, int value);
void line_object(struct line *line, const void *handle, const struct object *object);
void line_objectp(struct line *line, const void *handle, const struct object *object);
void line_pointer(struct line *line, const void *pointer);
void line_private_data(struct line *line, const struct rpma_conn_private_data *data);
void line_size(struct line *line, size_t value);
void line_text(struct line *line, const char *text);
void line_usage(struct line *line, int usage);
void line_value8(struct line *line, const char *value);

const char *code_name(int code);

#endif
