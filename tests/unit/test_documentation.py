"""What stands in the documentation works as it stands: every command and every program of it.

documentation.py has the convention by which a block says where it runs. Places and numbers that
only fit a reader's machine are exchanged for this one's, and nothing else: see `Machine.exchanged`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from documentation import ROOT, Block, Command, blocks, loose_commands, pages, wait_for_port
from fabrics.fabric import Fabric
from fabrics.validation import compile_program

LIMIT = 300
SCRIPTS = Path(sysconfig.get_path("scripts"))

#: Programs that serve until they are ended, and the name of the port on which each does.
SERVERS = {"rpma serve": "target", "rping -s": "rping", "ib_write_bw -R": "perftest"}
SERVERS |= {"target ADDRESS PORT": "example"}

MY_APP = """
import rpma
with rpma.Peer.for_address("127.0.0.1") as peer:
    peer.register(bytearray(4096), rpma.Usage.READ_SRC).close()
"""

#: A program in C that does something wrong.
MY_RDMA_PROGRAM = """#!/bin/sh
export RPMA_TEST_PORT={port}
exec {program} local_range
"""


def on(place: str, language: str = "") -> list[Block]:
    """The blocks that run there, of all pages."""
    return [
        block for block in blocks() if block.place == place and language in ("", block.language)
    ]


def pages_with(place: str, language: str = "") -> list[str]:
    return sorted({block.page for block in on(place, language)})


def of(page: str, place: str, language: str = "") -> list[Block]:
    return [block for block in on(place, language) if block.page == page]


# ---- the convention ------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.where)
def test_a_block_says_where_it_runs(block: Block) -> None:
    assert not block.fault, f"{block.where}: {block.fault}; tests/documentation.py has what may be"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_command_stands_outside_of_a_block(page: Path) -> None:
    assert not loose_commands(page)


@pytest.mark.parametrize(
    ("info", "text", "fault"),
    [
        ("", "$ true", "it says no language"),
        ("sh", "$ true", "its language is 'sh'"),
        ("console", "$ true", "it does not say where it runs"),
        ("python", "pass", "it does not say where it runs"),
        ('console on="moon"', "$ true", "there is no place 'moon'"),
        ('console on="shell" untested="late"', "$ true", "it says where it runs in two ways"),
        ('python untested=""', "pass", "untested has no value"),
        ('python where="shell"', "pass", "where is no attribute"),
        ('console title="a.py"', "$ true", "a console is no program"),
        ('console on="shell"', "true", "no line of it begins with $ or #"),
        ("text", "$ true", "it has commands, and is said to be text"),
        ('text on="shell"', "a tree", "text runs nowhere"),
        ("text", "a tree", ""),
        ('console on="shell"', "$ true", ""),
        ('python title="a.py"', "pass", ""),
        ('python untested="it needs two machines"', "pass", ""),
    ],
)
def test_a_block_that_would_not_be_run_is_found(
    info: str, text: str, fault: str, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n```{info}\n{text}\n```\n\nafter\n")
    (block,) = blocks(page)
    assert block.where == "page.md:3"
    assert block.fault == fault


def test_a_command_outside_of_a_block_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("so:\n\n    $ rpma serve\n\n```text\n    $ no\n```\n\n- a list\n    of two\n")
    assert loose_commands(page) == ["page.md:3: $ rpma serve"]


def test_pages_and_blocks_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} < {page.name for page in pages()}
    assert {"README.md", "docs/tutorial.md", "docs/pools.md", "examples/README.md"} < {
        block.page for block in blocks()
    }


# ---- a machine -----------------------------------------------------------------------------------


class Machine:
    """Where blocks run: a folder for a machine's places, free ports for its numbers."""

    def __init__(self, folder: Path) -> None:
        free = Fabric("soft", "", "127.0.0.1")
        self.folder = folder
        self.ports = {name: free.next_port() for name in sorted(set(SERVERS.values()))}
        self.work = folder / "work"
        for place in (self.work, folder / "etc/rpma", folder / "mnt/pmem0/pools", folder / "tmp"):
            place.mkdir(parents=True)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RPMA_")
        } | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}", "COLUMNS": "120", "HOME": str(folder)}

    def exchanged(self, text: str) -> str:
        """What a reader types, with this machine's places and numbers."""
        for pattern, here in {
            r"/etc/rpma/": f"{self.folder}/etc/rpma/",
            r"/mnt/pmem0/": f"{self.folder}/mnt/pmem0/",
            r"/tmp/app\.log": f"{self.folder}/tmp/app.log",
            r"\bdb1\.example\b": "127.0.0.1",
            r":7204\b": f":{self.ports['target']}",
            r"\brping -": f"rping -p {self.ports['rping']} -",
            r"\bib_write_bw -R": f"ib_write_bw -p {self.ports['perftest']} -R",
            r" ADDRESS PORT\b": f" 127.0.0.1 {self.ports['example']}",
            r"^\./run ": f"{ROOT}/run ",
        }.items():
            text = re.sub(pattern, lambda _, here=here: here, text)
        return text

    def type(self, steps: Sequence[Command | Block], cwd: Path | None = None) -> dict[str, str]:
        """Have a shell do one after the other, and see that each does and prints what it should.

        What serves goes on in the background, as in another terminal, until all is done. Python
        sessions are compared as doctests. Returns what each printed.
        """
        script = [LISTENING]
        for number, step in enumerate(steps):
            if isinstance(step, Block):
                session = self.folder / f"session{number}.txt"
                session.write_text(step.text)
                line, server = f"python -m doctest -o ELLIPSIS {session}", None
            else:
                line = self.exchanged(step.text)
                server = next((SERVERS[text] for text in SERVERS if text in step.text), None)
                background = step.text.split(" #")[0].rstrip().endswith("&")
                if step.text.startswith("ib_write_bw") and not background:
                    server = None  # the client's side
                if server and not background:
                    line = f"{line.split(' #')[0]} &"
            script.append(line)
            script.append(f"listening {self.ports[server]}" if server else "(exit $?)")
            script.append(f"printf '\\n@@{number} %s\\n' $?")
        script.append("kill $(jobs -p) 2> /dev/null; wait; exit 0")
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=cwd or self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )
        outputs: dict[str, str] = {}
        rest = done.stdout
        for number, step in enumerate(steps):
            text = step.where if isinstance(step, Block) else f"{step.where}: {step.text}"
            output, mark, rest = rest.partition(f"\n@@{number} ")
            code, _, rest = rest.partition("\n")
            assert mark, f"{text}\nwas not reached:\n{done.stdout}"
            expected = "" if isinstance(step, Block) else "\n".join(step.output)
            assert expected in output, f"{text}\nprinted\n{output}"
            # A program that is wrong, as the pages have one, is ended by an assertion.
            ending = "134" if "my_rdma_program" in text else "0"
            assert code == ending, f"{text}\nended with {code}:\n{output}"
            outputs[text] = output
        return outputs

    def python(self, source: str, cwd: Path | None = None) -> str:
        """Run a program; what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", self.exchanged(source)],
            cwd=cwd or self.work,
            env=self.environment | {"RPMA_FABRIC": "soft"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, f"{source}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def target(self) -> Iterator[None]:
        """What README says that runs on db1.example."""
        token = self.folder / "etc/rpma/token"
        subprocess.run(["rpma", "token", token], env=self.environment, check=True)
        with subprocess.Popen(
            [
                *("rpma", "serve", self.folder / "mnt/pmem0/pools", "--token-file", token),
                *("--listen", f"0.0.0.0:{self.ports['target']}"),
            ],
            env=self.environment | {"RPMA_FABRIC": "soft"},
        ) as process:
            try:
                wait_for_port(self.ports["target"])
                yield
            finally:
                process.terminate()


#: Waits until somebody listens on a port, a minute at most.
LISTENING = f"""
listening() {{
    {sys.executable} {ROOT}/tests/documentation.py "$1"
}}
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# ---- what runs on it -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages_with("shell"))
def test_what_is_typed_on_a_machine_with_rpma_works(page: str, machine: Machine) -> None:
    if any(Path("/sys/class/infiniband").glob("*")):
        pytest.skip("it is about a machine without an RDMA device")
    (machine.work / "my_app.py").write_text(MY_APP)
    program = compile_program("mistakes", machine.folder / "mistakes")
    (machine.work / "my_rdma_program").write_text(
        MY_RDMA_PROGRAM.format(program=program, port=machine.ports["example"])
    )
    (machine.work / "my_rdma_program").chmod(0o755)
    steps: list[Command | Block] = []
    for block in of(page, "shell"):
        steps.extend([block] if block.language == "python" else block.commands())
    machine.type(steps)


@pytest.mark.parametrize("block", on("target", "console"), ids=lambda block: block.where)
def test_what_is_typed_at_a_target_serves_pools(block: Block, machine: Machine) -> None:
    see = "rpma list db1.example:7204 --token-file /etc/rpma/token"
    machine.environment["RPMA_FABRIC"] = "soft"
    machine.type([*block.commands(), Command("the test", "$", see, [])])


@pytest.mark.parametrize("page", pages_with("client", "console"))
def test_what_is_typed_at_a_client_works(page: str, machine: Machine) -> None:
    machine.environment["RPMA_FABRIC"] = "soft"
    (machine.work / "FILE").write_bytes(os.urandom(100_000))
    content = (machine.work / "FILE").read_bytes()
    with machine.target():
        machine.type([it for block in of(page, "client", "console") for it in block.commands()])
    assert (machine.work / "FILE").read_bytes() == content


@pytest.mark.parametrize("page", pages_with("client", "python"))
def test_the_python_of_a_client_works(page: str, machine: Machine) -> None:
    """One block goes on where the last one ended, as in a notebook."""
    with machine.target():
        machine.python("\n".join(block.text for block in of(page, "client", "python")))


@pytest.mark.parametrize("block", on("target", "python"), ids=lambda block: block.where)
def test_the_python_of_a_target_works(block: Block, machine: Machine) -> None:
    subprocess.run(
        ["rpma", "token", machine.folder / "etc/rpma/token"], env=machine.environment, check=True
    )
    machine.python(block.text)


PROGRAMS = sorted({block.page for block in blocks() if "title" in block.attributes})


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_programs_of_a_page_work(page: str, machine: Machine) -> None:
    """A target and an initiator meet; others stand for themselves."""
    sources: dict[str, str] = {}
    for block in blocks(ROOT / page):
        if title := block.attributes.get("title"):
            sources[title] = sources.get(title, "") + block.text + "\n"
    ports = {"7204": machine.ports["example"], "7205": machine.ports["rping"]}
    for title, source in sources.items():
        source = re.sub(r"\b720[45]\b", lambda match: ports[match[0]], machine.exchanged(source))
        (machine.work / title).write_text(source)
    for title in sorted(sources):
        if title.endswith("initiator.py"):
            continue  # started by its target
        environment = machine.environment | {"RPMA_FABRIC": "soft"}
        with subprocess.Popen(
            [sys.executable, title], cwd=machine.work, env=environment
        ) as process:
            try:
                if title.endswith("target.py"):
                    wait_for_port(ports["7204"])
                    initiator = title.replace("target", "initiator")
                    machine.python((machine.work / initiator).read_text())
                assert process.wait(LIMIT) == 0
            finally:
                process.kill()


@pytest.mark.parametrize("block", on("examples"), ids=lambda block: block.where)
def test_the_examples_run_as_their_page_says(block: Block, machine: Machine) -> None:
    machine.environment["RPMA_FABRIC"] = "soft"
    machine.type(block.commands(), ROOT)


@pytest.mark.parametrize("block", on("suite"), ids=lambda block: block.where)
def test_the_suite_is_selected_as_its_page_says(block: Block, machine: Machine) -> None:
    """Out of two modules, since all of them take long to import."""
    for command in block.commands():
        asked = command.text.split(" #")[0].rstrip()
        assert asked.startswith("pytest ")
        if " tests/" not in asked:
            asked += " tests/unit/test_version.py tests/fabric/test_device.py"
        only = f"{asked} --collect-only -q -p no:cacheprovider"
        machine.type([Command(command.where, "$", only, [])], ROOT)


def test_ci_runs_what_is_said_to_be_run_first() -> None:
    script = (ROOT / ".ci/run").read_text()
    commands = [command for block in on("ci") for command in block.commands()]
    assert commands
    for command in commands:
        line = re.escape(command.text.split(" #")[0].strip())
        assert re.search(rf"^[^#\n]*{line}$", script, re.MULTILINE), command
