# SPDX-License-Identifier: BSD-3-Clause
"""Make the validation build's C of the table in interface.txt.

    generate.py interface.txt interface.h wrappers.c librpma.map

interface.h declares the normal library's functions and the hand-written checks, wrappers.c has the
exported functions, librpma.map is the version script. interface.txt says what a line means.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VERSION = "LIBRPMA_1.0"

#: Exported, and written by hand.
BY_HAND = ("rpma_check_version", "rpma_errormsg")

OBJECTS = (
    *("peer_cfg", "peer", "mr_local", "mr_remote", "conn_cfg", "srq_cfg", "srq", "ep"),
    *("conn_req", "conn", "cq"),
)

#: C type and how it is traced: line_NAME(line, value).
SCALARS = {
    "bool": ("bool ", "bool"),
    "code": ("int ", "code"),
    "completion": ("int ", "completion"),
    "completions": ("struct ibv_wc *", "pointer"),
    "const_memory": ("const void *", "pointer"),
    "context": ("const void *", "pointer"),
    "context_type": ("enum rpma_util_ibv_context_type ", "context_type"),
    "device": ("struct ibv_context *", "pointer"),
    "event": ("enum rpma_conn_event ", "event"),
    "flush": ("enum rpma_flush_type ", "flush_type"),
    "int": ("int ", "int"),
    "log_function": ("rpma_log_function *", "function"),
    "log_level": ("enum rpma_log_level ", "int"),
    "log_threshold": ("enum rpma_log_threshold ", "int"),
    "memory": ("void *", "pointer"),
    "private_data": ("const struct rpma_conn_private_data *", "private_data"),
    "private_data_out": ("struct rpma_conn_private_data ", "private_data"),
    "size": ("size_t ", "size"),
    "text": ("const char *", "text"),
    "uint32": ("uint32_t ", "size"),
    "usage": ("int ", "usage"),
    "value8": ("const char *", "value8"),
}

CLAIMS = ("uses", "reads", "sets", "takes", "waits")
HOWS = ("const", "optional", *CLAIMS, "new", "found", "kept", "delete", "out")


@dataclass(frozen=True)
class Argument:
    """One argument of a function: its kind, its name, and how the call treats it."""

    kind: str
    name: str
    how: frozenset[str]

    @property
    def is_object(self) -> bool:
        """Whether it is one of librpma's."""
        return self.kind in OBJECTS

    @property
    def is_pointer_to_handle(self) -> bool:
        """Whether the call may change the handle."""
        return bool(self.how & {"new", "found", "delete"})

    @property
    def is_checked(self) -> bool:
        """Whether the wrapper looks the object up before the call."""
        return self.is_object and not self.how & {"new", "found", "kept"}

    @property
    def is_raw(self) -> bool:
        """Whether a hook gets it as the program hands it over."""
        return not self.is_object or self.how >= {"kept"}

    @property
    def object(self) -> str:
        """The wrapper's variable with the object."""
        return f"{self.name}_object"

    @property
    def claim(self) -> str:
        """What of the object the call has for its thread alone."""
        for how in CLAIMS:
            if how in self.how:
                return f"CLAIM_{how.upper()}"
        return "CLAIM_NOTHING"

    def declaration(self) -> str:
        """The argument as <librpma.h> declares it."""
        if self.kind == "value8":
            return f"const char {self.name}[8]"
        if self.is_object:
            const = "const " if "const" in self.how else ""
            stars = "**" if self.is_pointer_to_handle else "*"
            return f"{const}struct rpma_{self.kind} {stars}{self.name}"
        star = "*" if "out" in self.how else ""
        return f"{SCALARS[self.kind][0]}{star}{self.name}"

    def hook_declaration(self, after: bool) -> str:
        """The argument as a hand-written hook gets it."""
        if self.is_checked or (after and not self.is_raw):
            return f"struct object *{self.name}"
        return self.declaration()

    def hook_value(self, after: bool) -> str:
        """What the wrapper hands to the hook."""
        return self.object if self.is_checked or (after and not self.is_raw) else self.name

    def forwarded(self) -> str:
        """What the normal library gets."""
        if self.is_pointer_to_handle:
            return f"{self.name} ? &{self.name}_normal : NULL"
        if self.is_object and "kept" in self.how:
            return f"{self.object} ? object_normal({self.object}) : {self.name}"
        if self.is_object:
            return f"object_normal({self.object})"
        return self.name


@dataclass(frozen=True)
class Function:
    """A line of the table."""

    level: int
    name: str
    arguments: tuple[Argument, ...]
    result: str
    flags: frozenset[str]

    @property
    def is_plain(self) -> bool:
        """Whether it has a result of its own kind, and nothing to check."""
        return self.result != "int "

    def declaration(self, name: str) -> str:
        """The function, or a pointer to it, under another name."""
        declared = ", ".join(argument.declaration() for argument in self.arguments)
        return f"{self.result}{name}({declared})"

    def names(self) -> str:
        """Its arguments, to hand on."""
        return ", ".join(argument.name for argument in self.arguments)


def parse(table: str) -> Iterator[Function]:
    """Read the table."""
    line_pattern = re.compile(
        r"(?P<level>[23]) (?P<kind>(?:asks |blocks |own )?)(?P<name>rpma_\w+)"
        r"\((?P<arguments>[^)]*)\)(?P<hooks>(?: check| after| posts| receives| text)*)"
    )
    for number, line in enumerate(table.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = line_pattern.fullmatch(line)
        if not match:
            raise SystemExit(f"interface.txt:{number}: {line}")
        arguments = []
        for text in match["arguments"].split(", "):
            *how, kind, name = text.split(" ")
            if (kind not in OBJECTS and kind not in SCALARS) or not set(how) <= set(HOWS):
                raise SystemExit(f"interface.txt:{number}: {text}")
            arguments.append(Argument(kind, name, frozenset(how)))
        flags = frozenset({*match["kind"].split(), *match["hooks"].split()})
        result = "const char *" if "text" in flags else "int "
        yield Function(int(match["level"]), match["name"], tuple(arguments), result, flags)


def header(functions: list[Function]) -> Iterator[str]:
    """interface.h."""
    yield "/* Made of interface.txt by generate.py. */"
    yield "#ifndef RPMA_VALIDATION_INTERFACE_H"
    yield "#define RPMA_VALIDATION_INTERFACE_H"
    yield ""
    yield "/* The functions of the normal library; NULL for one that it does not have. */"
    yield "struct normal {"
    for function in functions:
        if "own" not in function.flags or function.name.startswith("rpma_log"):
            yield f"\t{function.declaration(f'(*{function.name})')};"
    yield "};"
    yield "extern struct normal normal;"
    yield ""
    yield "enum function_id {"
    yield from (f"\tFUNCTION_{function.name}," for function in functions)
    yield "\tFUNCTIONS"
    yield "};"
    yield ""
    for function in functions:
        if "own" in function.flags:
            yield f"{function.declaration(function.name.replace('rpma', 'own_rpma', 1))};"
        for hook in ("check", "after"):
            if hook in function.flags:
                yield f"{hook_declaration(function, hook)};"
    yield "#endif"


def hook_declaration(function: Function, hook: str) -> str:
    """A hand-written check_NAME() or after_NAME()."""
    after = hook == "after"
    declared = ["struct call *call"]
    if after:
        declared.append("int ret")
    declared += [argument.hook_declaration(after) for argument in function.arguments]
    result = "void " if after else "int "
    return f"{result}{hook}_{function.name}({', '.join(declared)})"


def hook_call(function: Function, hook: str) -> str:
    """The wrapper's call of it."""
    after = hook == "after"
    given = ["&call"]
    if after:
        given.append("ret")
    given += [argument.hook_value(after) for argument in function.arguments]
    return f"{hook}_{function.name}({', '.join(given)})"


def wrappers(functions: list[Function]) -> Iterator[str]:
    """wrappers.c."""
    yield "/* Made of interface.txt by generate.py. */"
    yield '#include "validation.h"'
    yield '#include "line.h"'
    yield '#include "wrapper.h"'
    yield ""
    yield "const struct function functions[FUNCTIONS] = {"
    for function in functions:
        offset = f"offsetof(struct normal, {function.name})"
        asks = str("asks" in function.flags).lower()
        yield f'\t{{"{function.name}", {function.level}, {asks}, {offset}}},'
    yield "};"
    for function in functions:
        yield ""
        yield from plain_wrapper(function) if function.is_plain else wrapper(function)


def line_of(argument: Argument, is_first: bool) -> Iterator[str]:
    """The statements that trace an argument."""
    name = argument.name
    yield f'\t\tline_name(&line, "{"" if is_first else ", "}{name}=");'
    if argument.is_object:
        how = "objectp" if argument.is_pointer_to_handle else "object"
        yield f"\t\tline_{how}(&line, {name}, {argument.object});"
    elif "out" in argument.how:
        how = SCALARS[argument.kind][1]
        star = "" if argument.kind == "private_data_out" else "*"
        yield f"\t\tif ({name} && !ret)"
        yield f"\t\t\tline_{how}(&line, {star}{name});"
        yield "\t\telse"
        yield f"\t\t\tline_pointer(&line, {name});"
    else:
        yield f"\t\tline_{SCALARS[argument.kind][1]}(&line, {name});"


def plain_wrapper(function: Function) -> Iterator[str]:
    """A function that only says what a value means."""
    (argument,) = function.arguments
    yield "VISIBLE const char *"
    yield f"{function.name}({argument.declaration()})"
    yield "{"
    yield "\tstruct call call;"
    yield f"\tif (call_is_inner() || !normal.{function.name})"
    yield f'\t\treturn normal.{function.name} ? normal.{function.name}({argument.name}) : "";'
    yield f"\tcall_begin(&call, FUNCTION_{function.name});"
    yield "\tcall_forward(&call);"
    yield f"\tconst char *text = normal.{function.name}({argument.name});"
    yield "\tcall_return(&call);"
    yield "\tif (call_is_traced(&call)) {"
    yield "\t\tstruct line line;"
    yield "\t\tcall_line_begin(&call, &line);"
    yield from line_of(argument, True)
    yield "\t\tcall_line_text(&call, &line, text);"
    yield "\t}"
    yield "\tcall_leave(&call);"
    yield "\treturn text;"
    yield "}"


def wrapper(function: Function) -> Iterator[str]:
    """A function that checks, forwards and traces."""
    name, arguments = function.name, function.arguments
    own = "own" in function.flags
    target = name.replace("rpma", "own_rpma", 1) if own else f"normal.{name}"
    yield "VISIBLE int"
    yield function.declaration(name).removeprefix("int ")
    yield "{"
    if not own:
        yield "\tif (call_is_inner())"
        yield f"\t\treturn {target}({function.names()});"
    yield "\tstruct call call;"
    yield "\tint ret;"
    yield f"\tcall_begin(&call, FUNCTION_{name});"
    for argument in arguments:
        optional = str("optional" in argument.how).lower()
        kind = f"KIND_{argument.kind.upper()}"
        if "delete" in argument.how:
            yield (
                f"\tstruct object *{argument.object} = "
                f'call_deletes(&call, "{argument.name}", (void *const *){argument.name}, {kind});'
            )
            yield (
                f"\tstruct rpma_{argument.kind} *{argument.name}_normal = "
                f"object_normal({argument.object});"
            )
        elif argument.is_checked:
            yield (
                f"\tstruct object *{argument.object} = call_object(&call, "
                f'"{argument.name}", {argument.name}, {kind}, {argument.claim}, {optional});'
            )
        elif argument.is_object and not argument.is_pointer_to_handle:
            kept = f"object_if_live({argument.name}, {kind})"
            yield f"\tstruct object *{argument.object} = {kept};"
        elif argument.is_object:
            yield f"\tstruct object *{argument.object} = NULL;"
            yield f"\tstruct rpma_{argument.kind} *{argument.name}_normal = NULL;"
    for argument in arguments:
        if argument.how & {"new", "found", "kept", "out"} and "optional" not in argument.how:
            yield f"\tif (!{argument.name})"
            yield f'\t\tcall_null(&call, "{argument.name}");'
    yield "\tret = call.refusal;"
    if not own:
        yield f"\tif (!ret && !{target})"
        yield "\t\tret = call_missing(&call);"
    if "check" in function.flags:
        yield "\tif (!ret)"
        yield f"\t\tret = {hook_call(function, 'check')};"
    if "blocks" in function.flags:
        yield "\tif (!ret && __builtin_expect(log_level >= 4, 0))"
        yield f'\t\tcall_enter(&call, "{arguments[0].name}", {arguments[0].object});'
    yield "\tif (!ret) {"
    yield from (f"\t\tobject_end({a.object});" for a in arguments if "delete" in a.how)
    yield "\t\tcall_forward(&call);"
    forwarded = ", ".join(argument.name if own else argument.forwarded() for argument in arguments)
    yield f"\t\tret = {target}({forwarded});"
    yield "\t\tcall_return(&call);"
    for argument in arguments:
        if "new" in argument.how:
            kind = f"KIND_{argument.kind.upper()}"
            yield f"\t\tif (!ret && {argument.name}) {{"
            yield (f"\t\t\t{argument.object} = object_new(&call, {kind}, {argument.name}_normal);")
            yield f"\t\t\t*{argument.name} = (void *){argument.object};"
            yield "\t\t}"
        elif "found" in argument.how:
            owner = arguments[0].object
            yield f"\t\tif (!ret && {argument.name}) {{"
            yield f"\t\t\t{argument.object} = object_find({owner}, {argument.name}_normal);"
            handle = f"(void *){argument.object}"
            if "kept" in argument.how:
                handle = f"{argument.object} ? {handle} : {argument.name}_normal"
            yield f"\t\t\t*{argument.name} = {handle};"
            yield "\t\t}"
    if "after" in function.flags:
        yield f"\t\t{hook_call(function, 'after')};"
    if function.flags & {"posts", "receives"}:
        is_receive = str("receives" in function.flags).lower()
        yield "\t\tif (ret && call.is_posted)"
        yield f"\t\t\trequests_retract(&call, {arguments[0].object}, {is_receive});"
    for argument in arguments:
        if "new" in argument.how:
            yield f"\t\tif ({argument.object})"
            yield f"\t\t\tobject_publish({argument.object});"
        if "delete" in argument.how:
            yield f"\t\tif ({argument.name} && !{argument.name}_normal)"
            yield f"\t\t\t*{argument.name} = NULL;"
            yield f"\t\tobject_ended(&call, {argument.object}, !{argument.name}_normal);"
    yield "\t}"
    yield "\tcall_result(&call, ret);"
    yield "\tif (call_is_traced(&call)) {"
    yield "\t\tstruct line line;"
    yield "\t\tcall_line_begin(&call, &line);"
    for argument in arguments:
        yield from line_of(argument, argument is arguments[0])
    yield "\t\tcall_line_end(&call, &line, ret);"
    yield "\t}"
    yield "\tcall_leave(&call);"
    yield "\treturn ret;"
    yield "}"


def version_script(functions: list[Function]) -> Iterator[str]:
    """librpma.map."""
    yield f"{VERSION} {{"
    yield "\tglobal:"
    yield from (f"\t\t{name};" for name in sorted([f.name for f in functions] + [*BY_HAND]))
    yield "\tlocal:"
    yield "\t\t*;"
    yield "};"


def main(table: str, *outputs: str) -> None:
    """Write the three files."""
    functions = list(parse(Path(table).read_text()))
    for output, make in zip(outputs, (header, wrappers, version_script), strict=True):
        Path(output).write_text("\n".join(make(functions)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
