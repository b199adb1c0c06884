"""librpma(7), DEBUGGING AND ERROR HANDLING, sentence by sentence, and rpma_check_version().

Each test has the words of its sentence for a name. They need no device.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fabrics.validation import Done, compile_program, folder, parsed, run

INVALID = -100004


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program("manual", tmp_path_factory.mktemp("manual") / "manual")


@pytest.fixture
def debug(program: Path) -> Callable[..., Done]:
    """Run the program on the debug build."""

    def call(*arguments: str, **options: object) -> Done:
        return run(program, *arguments, debug=folder(), **options)  # type: ignore[arg-type]

    return call


@pytest.fixture
def normal(program: Path) -> Callable[..., Done]:
    """Run it on the normal one."""

    def call(*arguments: str, **options: object) -> Done:
        return run(program, *arguments, **options)  # type: ignore[arg-type]

    return call


def kinds(done: Done) -> list[str]:
    return [line["kind"] for line in done.log()]


# ---- rpma_errormsg() ----


def test_if_an_error_is_detected_the_application_may_retrieve_a_message_from_rpma_errormsg(
    debug: Callable[..., Done],
) -> None:
    code, _, message = debug("error").output.partition(" ")
    assert int(code) == INVALID
    assert "incorrect size of the descriptor: 3 bytes (should be at least: 21 bytes)" in message


def test_it_returns_a_pointer_to_a_static_buffer_containing_the_last_error_message(
    debug: Callable[..., Done],
) -> None:
    *_, buffer = debug("kept").output.splitlines()
    assert buffer == "same buffer"


def test_the_buffer_is_thread_local_errors_in_one_thread_do_not_affect_other_threads(
    debug: Callable[..., Done],
) -> None:
    mine, other = debug("threads").output.splitlines()
    assert "descriptor: 3 bytes" in mine
    assert "descriptor: 5 bytes" in other


def test_the_buffer_is_never_cleared_by_any_library_function(debug: Callable[..., Done]) -> None:
    after_success, *_ = debug("kept").output.splitlines()
    assert "descriptor: 3 bytes" in after_success


def test_the_string_may_be_modified_by_subsequent_calls_to_other_library_functions(
    debug: Callable[..., Done],
) -> None:
    _, later, _ = debug("kept").output.splitlines()
    assert "descriptor: 5 bytes" in later


# ---- two versions ----


def test_two_versions_of_librpma_are_available(program: Path) -> None:
    def library(**variables: str) -> str:
        listed = subprocess.run(
            ["ldd", program], capture_output=True, text=True, env={**os.environ, **variables}
        ).stdout
        return next(line.split()[2] for line in listed.splitlines() if "librpma.so.0" in line)

    assert library(LD_LIBRARY_PATH=str(folder())) == str(folder() / "librpma.so.0")
    assert library(LD_LIBRARY_PATH="") != str(folder() / "librpma.so.0")


def test_the_normal_version_is_accessed_when_a_program_is_linked_using_lrpma(
    normal: Callable[..., Done],
) -> None:
    """It has no rpma_errormsg() (librpma 1.2, 1.3): the program says so."""
    assert normal("error").output == f"{INVALID} -\n"


def test_the_normal_version_never_logs_any_trace_information_nor_performs_assertions(
    normal: Callable[..., Done],
) -> None:
    done = normal("asserts", level=4)
    assert done.errors == ""
    assert "assertion" not in done.output


def test_a_second_version_contains_run_time_assertions_and_trace_points(
    debug: Callable[..., Done],
) -> None:
    done = debug("asserts", level=3)
    assert done.code == -signal.SIGABRT
    assert {"call", "assertion"} <= set(kinds(done))


def test_the_typical_way_to_access_the_debug_version_is_ld_library_path(program: Path) -> None:
    path = subprocess.run(
        [sys.executable, "-m", "rpma.cli", "debug-path"], capture_output=True, text=True, check=True
    ).stdout.strip()
    variables = {"LD_LIBRARY_PATH": path}
    assert run(program, "version", "1", "3", variables=variables).output == "none\n"


# ---- the environment ----


def test_these_variables_have_no_effect_on_the_non_debug_version(
    normal: Callable[..., Done], tmp_path: Path
) -> None:
    plain = normal("error")
    with_variables = normal("error", level=4, file=tmp_path / "log")
    assert with_variables == plain
    assert list(tmp_path.iterdir()) == []


def test_debugging_output_is_controlled_using_environment_variables(
    debug: Callable[..., Done], tmp_path: Path
) -> None:
    assert debug("error", level=1, file=tmp_path / "log").errors == ""
    assert parsed((tmp_path / "log").read_text())


def test_0_is_the_default_level_when_rpma_log_level_is_not_set(debug: Callable[..., Done]) -> None:
    assert debug("error") == debug("error", level=0)


def test_no_log_messages_are_emitted_at_level_0(debug: Callable[..., Done]) -> None:
    done = debug("error", level=0)
    assert done.errors == ""
    assert done.output.startswith(str(INVALID))


def test_1_additional_details_on_any_errors_detected_are_logged(
    debug: Callable[..., Done],
) -> None:
    done = debug("error", level=1)
    assert done.output.startswith(str(INVALID))  # in addition to returning the error as usual
    assert kinds(done) == ["librpma", "error"]
    assert debug("succeed", level=1).errors == ""


def test_the_same_information_may_be_retrieved_using_rpma_errormsg(
    debug: Callable[..., Done],
) -> None:
    done = debug("error", level=1)
    message = done.output.partition(" ")[2].strip()
    assert done.log()[-1]["rest"] == (f"rpma_mr_remote_from_descriptor: {message}, RPMA_E_INVAL")


def test_2_a_trace_of_basic_operations_is_logged(debug: Callable[..., Done]) -> None:
    """The operations themselves are in tests/fabric/test_validation.py: they need a device."""
    done = debug("succeed", level=2)
    assert kinds(done) == ["start", "end"]


def test_3_enables_a_very_verbose_amount_of_function_call_tracing(
    debug: Callable[..., Done],
) -> None:
    calls = [line["rest"] for line in debug("succeed", level=3).log() if line["kind"] == "call"]
    assert [call.partition("<")[0] for call in calls] == [
        "rpma_conn_cfg_new(cfg_ptr=conn_cfg#1) = 0 ",
        "rpma_conn_cfg_set_sq_size(cfg=conn_cfg#1, sq_size=20) = 0 ",
        "rpma_conn_cfg_delete(cfg_ptr=conn_cfg#1) = 0 ",
    ]
    assert all(call.endswith(" ns>") for call in calls)


def test_4_enables_voluminous_and_fairly_obscure_tracing_information(
    debug: Callable[..., Done],
) -> None:
    """Of a device as well: tests/fabric/test_validation.py."""
    done = debug("error", level=4)
    assert {"start", "librpma", "error", "call", "end"} <= set(kinds(done))


def test_unless_rpma_log_file_is_set_debugging_output_is_written_to_stderr(
    debug: Callable[..., Done],
) -> None:
    assert debug("error", level=3).log()
    assert debug("error", level=3, file="").log()


def test_rpma_log_file_names_the_file_where_all_logging_information_is_written(
    debug: Callable[..., Done], tmp_path: Path
) -> None:
    on_stderr = debug("error", level=4)
    done = debug("error", level=4, file=tmp_path / "log")
    assert done.errors == ""
    written = parsed((tmp_path / "log").read_text())
    assert [line["kind"] for line in written] == kinds(on_stderr)


def test_if_the_last_character_is_a_dash_the_pid_is_appended_when_the_file_is_created(
    debug: Callable[..., Done], tmp_path: Path
) -> None:
    debug("error", level=3, file=tmp_path / "app.log-")
    (log,) = tmp_path.iterdir()
    pids = {line["pid"] for line in parsed(log.read_text())}
    assert pids == {log.name.removeprefix("app.log-")}


def test_if_rpma_log_file_is_not_set_logging_output_is_written_to_stderr(
    debug: Callable[..., Done],
) -> None:
    assert "error" in kinds(debug("error", level=1))


# ---- beyond the words ----


def test_the_file_is_created_when_the_library_is_loaded(
    debug: Callable[..., Done], tmp_path: Path
) -> None:
    debug("succeed", level=0, file=tmp_path / "log")
    assert (tmp_path / "log").read_text() == ""


def test_a_file_that_cannot_be_opened_is_said_once_and_stderr_takes_the_log(
    debug: Callable[..., Done], tmp_path: Path
) -> None:
    done = debug("error", level=1, file=tmp_path / "missing" / "log")
    said, *log = done.errors.splitlines()
    assert said.startswith(f"librpma: RPMA_LOG_FILE={tmp_path / 'missing' / 'log'}")
    assert "No such file or directory" in said
    assert [line["kind"] for line in parsed("\n".join(log))] == ["librpma", "error"]


@pytest.mark.parametrize("level", ["", "5", "-1", "debug", "1x", "99999999999999999999"])
def test_a_level_that_is_none_is_said_and_logs_nothing(
    debug: Callable[..., Done], level: str
) -> None:
    done = debug("error", level=level)
    assert done.errors == (
        f"librpma: RPMA_LOG_LEVEL={level} is not one of 0, 1, 2, 3, 4: nothing is logged.\n"
    )


def test_concurrent_threads_and_processes_never_mix_lines(program: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    variables = {**os.environ, "LD_LIBRARY_PATH": str(folder()), "RPMA_LOG_LEVEL": "3"}
    variables["RPMA_LOG_FILE"] = str(log)
    processes = [subprocess.Popen([program, "many"], env=variables) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    lines = parsed(log.read_text())
    assert {int(line["pid"]) for line in lines} == {process.pid for process in processes}
    for process in processes:
        calls = [x for x in lines if int(x["pid"]) == process.pid and x["kind"] == "call"]
        assert len(calls) == 4 * 500 * 4
        assert len({line["thread"] for line in calls}) == 4


def test_a_forked_child_writes_its_own_log(debug: Callable[..., Done], tmp_path: Path) -> None:
    parent, child = debug("forks", level=1, file=tmp_path / "log-").output.split()
    said = {
        path.name: [line["rest"] for line in parsed(path.read_text())]
        for path in tmp_path.iterdir()
    }
    assert set(said) == {f"log-{parent}", f"log-{child}"}
    assert all("3 bytes" in line for line in said[f"log-{parent}"])
    assert all("5 bytes" in line for line in said[f"log-{child}"])
    both = debug("forks", level=1, file=tmp_path / "both")
    pids = [line["pid"] for line in parsed((tmp_path / "both").read_text())]
    assert set(pids) == set(both.output.split())


def test_the_programs_log_function_and_thresholds_are_served_as_ever(
    debug: Callable[..., Done], normal: Callable[..., Done]
) -> None:
    on_normal, on_debug = normal("function"), debug("function")
    # Its own message, and one of the debug build's where the normal one says nothing.
    file = on_normal.output.split()[1]
    assert on_normal.output == f"1 {file} rpma_mr_remote_from_descriptor 1\n"
    assert on_debug.output.splitlines() == [
        on_normal.output.strip(),
        "1 validation rpma_conn_cfg_new 1",
    ]
    for done in (on_normal, on_debug):  # the default function, up to the auxiliary threshold
        assert "*ERROR*" in done.errors
        assert "rpma_mr_remote_from_descriptor: incorrect size of the descriptor" in done.errors
        assert len(done.errors.splitlines()) == 1


# ---- rpma_check_version() ----


@pytest.mark.parametrize(
    ("major", "minor", "reason"),
    [
        (1, 0, "none"),
        (1, 3, "none"),
        (1, 4, "librpma minor version mismatch: this library has API version 1.3"),
        (0, 0, "librpma major version mismatch: this library has API version 1.3"),
        (2, 0, "librpma major version mismatch: this library has API version 1.3"),
        (
            4294967295,
            4294967295,
            "librpma major version mismatch: this library has API version 1.3",
        ),
    ],
)
def test_any_major_mismatch_is_a_failure_and_a_newer_minor_passes(
    debug: Callable[..., Done], major: int, minor: int, reason: str
) -> None:
    assert debug("version", str(major), str(minor)).output == f"{reason}\n"


# ---- the normal library below ----


def test_it_exports_what_the_normal_library_does_and_two_functions_more() -> None:
    def symbols(library: str | Path) -> set[str]:
        shown = subprocess.run(
            ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
        ).stdout
        return {line.split()[-1] for line in shown.splitlines()}

    found = subprocess.run(
        ["gcc", "-print-file-name=librpma.so.0"], capture_output=True, text=True, check=True
    ).stdout.strip()
    more = {f"{name}@@LIBRPMA_1.0" for name in ("rpma_check_version", "rpma_errormsg")}
    assert symbols(folder() / "librpma.so.0") == symbols(found) | more


def test_the_normal_library_is_found_behind_other_copies_of_the_debug_build(
    program: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder(), copy)
    variables = {"LD_LIBRARY_PATH": f"{copy}:{folder()}"}
    done = run(program, "succeed", level=2, debug=folder(), variables=variables)
    assert done.code == 0
    over = done.log()[0]["rest"].partition(" over ")[2]
    assert str(tmp_path) not in over
    assert str(folder()) not in over


def test_rpma_debug_library_names_another_one(debug: Callable[..., Done], tmp_path: Path) -> None:
    start = debug("succeed", level=2).log()[0]["rest"]
    found = start.partition(" over ")[2].partition(":")[0]
    shutil.copy(os.path.realpath(found), tmp_path / "mine.so")
    variables = {"RPMA_DEBUG_LIBRARY": str(tmp_path / "mine.so")}
    start = debug("succeed", level=2, variables=variables).log()[0]["rest"]
    assert f" over {tmp_path / 'mine.so'}: " in start


@pytest.mark.parametrize("wrong", ["missing", "itself", "text"])
def test_without_a_normal_library_it_says_so_and_ends(
    debug: Callable[..., Done], tmp_path: Path, wrong: str
) -> None:
    (tmp_path / "text").write_text("no library")
    path = folder() / "librpma.so.0" if wrong == "itself" else tmp_path / wrong
    done = debug("succeed", variables={"RPMA_DEBUG_LIBRARY": str(path)})
    assert done.code == 127
    assert "RPMA_DEBUG_LIBRARY is not a normal librpma.so.0" in done.errors
    assert "librpma0" in done.errors


# ---- assertions, and RPMA_DEBUG_ABORT ----


def test_a_failed_assertion_tells_all_and_aborts_at_any_level(debug: Callable[..., Done]) -> None:
    done = debug("asserts")
    assert done.code == -signal.SIGABRT
    said = done.errors
    assert said.startswith(
        "librpma: assertion: rpma_conn_cfg_set_sq_size: cfg is conn_cfg#1, which has been deleted\n"
    )
    assert "rpma_conn_cfg_set_sq_size(cfg=0x" in said  # the call
    assert "conn_cfg#1 was made by rpma_conn_cfg_new() in thread" in said
    assert "conn_cfg#1 was ended by rpma_conn_cfg_delete() in thread" in said
    assert "this thread is in:" in said
    assert "manual(main+0x" in said


def test_with_rpma_debug_abort_0_it_returns_rpma_e_inval(debug: Callable[..., Done]) -> None:
    done = debug("asserts", aborts=False)
    assert (done.code, done.output, done.errors) == (0, f"{INVALID}\n", "")
    logged = debug("asserts", aborts=False, level=1).log()
    assert logged[0]["kind"] == "assertion"
    assert logged[1]["kind"] == "where"
