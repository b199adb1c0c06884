"""The protocol of pools without a device: addresses, frames, keys, messages and errors."""

from __future__ import annotations

import copy
import errno
import pickle
import struct
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import rpma
import rpma.errors
from rpma.pool import (
    DEFAULT_PORT,
    Attributes,
    AuthenticationError,
    PoolBusyError,
    PoolError,
    PoolInfo,
    PoolNameError,
    PoolNotFoundError,
    PoolSizeError,
    PoolSpaceError,
    ProtocolError,
    TargetAddress,
    TargetLost,
)
from rpma.pool.client import logic, needs
from rpma.pool.client.datapath import again
from rpma.pool.protocol import channel, messages
from rpma.pool.protocol.address import parse_pool
from rpma.pool.protocol.channel import MAX_PAYLOAD, NONCE_SIZE, Channel, Keys
from rpma.pool.protocol.errors import BY_WIRE_CODE
from rpma.pool.protocol.tokens import check_token
from rpma.pool.protocol.words import explained

KEY, ANOTHER_KEY = bytes(32), bytes([1]) * 32
TOKENS = st.binary(min_size=1, max_size=64)
NONCES = st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE)
USERS = st.text(max_size=64)


# ---- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("db1", TargetAddress("db1")),
        ("db1.example", TargetAddress("db1.example", DEFAULT_PORT)),
        ("db1.example:1", TargetAddress("db1.example", 1)),
        ("10.0.0.1:65535", TargetAddress("10.0.0.1", 65535)),
        ("ann@db1:7204", TargetAddress("db1", 7204, "ann")),
        ("[::1]", TargetAddress("::1")),
        ("[fe80::1%eth0]:99", TargetAddress("fe80::1%eth0", 99)),
        ("ann@[2001:db8::1]:99", TargetAddress("2001:db8::1", 99, "ann")),
        ("ssh://db1/srv/pools", TargetAddress("db1", None, None, "/srv/pools")),
        ("ssh://ann@db1:22/srv", TargetAddress("db1", 22, "ann", "/srv")),
        ("ssh://[::1]/a b/c", TargetAddress("::1", None, None, "/a b/c")),
        ("ssh://db1/", TargetAddress("db1", None, None, "/")),
    ],
)
def test_an_address_says_where_a_target_is(text: str, address: TargetAddress) -> None:
    assert TargetAddress.parse(text) == address
    assert TargetAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":7204",
        "@db1",
        "db1:",
        "db1:http",
        "db1:-1",
        "db1:0",
        "db1:65536",
        "db1:99999999999999999999",
        "db1:7204/journal",
        "a@b@db1",
        "::1",
        "[::1",
        "[]:1",
        "[::1]x",
        "db 1",
        "db1\n",
        "-oProxyCommand=x",
        "ann@-oProxyCommand=x",
        "ssh://db1",
        "ssh:///srv",
        "ssh://-oProxyCommand=x/srv",
        "ssh://ann@-x/srv",
        "ssh://db1:0/srv",
        "http://db1/srv",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(rpma.InvalidArgumentError, match="target=") as caught:
        TargetAddress.parse(text)
    assert isinstance(caught.value, ValueError)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=40) | st.from_regex(r"\A(ssh://)?[a-z@:\[\]/0-9%.-]{0,30}\Z"))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = TargetAddress.parse(text)
    except rpma.InvalidArgumentError:
        return
    assert address.host
    assert not address.host.startswith("-")
    assert address.port is None or 0 < address.port < 1 << 16
    assert TargetAddress.parse(str(address)) == address


def test_an_address_is_a_string() -> None:
    for wrong in (None, 7204, b"db1", ("db1", 7204)):
        with pytest.raises(TypeError, match="target must be a string, not"):
            TargetAddress.parse(wrong)  # type: ignore[arg-type]


def test_a_target_and_its_pool_in_one() -> None:
    assert parse_pool("db1:99/journal") == (TargetAddress("db1", 99), "journal")
    assert parse_pool("[::1]/journal") == (TargetAddress("::1"), "journal")
    address, name = parse_pool("ssh://db1/srv/pools/journal")
    assert (address.directory, name) == ("/srv/pools", "journal")
    for wrong in ("", "journal", "db1:99/", "/journal", "ssh://journal", "ssh://db1/journal"):
        with pytest.raises(rpma.InvalidArgumentError):
            parse_pool(wrong)


# ---- frames --------------------------------------------------------------------------------------


def secured() -> tuple[Channel, Channel]:
    """Two sides that have the same keys."""
    one, another = Channel(), Channel()
    one.secure(key_in=ANOTHER_KEY, key_out=KEY)
    another.secure(key_in=KEY, key_out=ANOTHER_KEY)
    return one, another


def payloads_of(side: Channel) -> list[bytes]:
    found = []
    while (payload := side.next_payload()) is not None:
        found.append(payload)
    return found


@given(
    payloads=st.lists(st.binary(max_size=100), max_size=8),
    cuts=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    is_secured=st.booleans(),
)
def test_payloads_arrive_however_the_stream_is_cut(
    payloads: list[bytes], cuts: Sequence[int], is_secured: bool
) -> None:
    one, another = secured() if is_secured else (Channel(), Channel())
    stream = b"".join(map(one.frame, payloads))
    arrived, at, turn = [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        another.feed(stream[at : at + size])
        arrived += payloads_of(another)
        at, turn = at + size, turn + 1
    assert arrived == payloads
    assert another.next_payload() is None


def test_the_longest_payload_and_one_byte_more() -> None:
    one, another = secured()
    another.feed(one.frame(bytes(MAX_PAYLOAD)))
    assert another.next_payload() == bytes(MAX_PAYLOAD)
    with pytest.raises(ProtocolError, match=f"{MAX_PAYLOAD} can be sent"):
        one.frame(bytes(MAX_PAYLOAD + 1))
    for length in (MAX_PAYLOAD + 1, (1 << 32) - 1):
        side = Channel()
        side.feed(struct.pack("<I", length))  # said before any of it is kept
        with pytest.raises(ProtocolError, match=f"{length} bytes came, {MAX_PAYLOAD} are accepted"):
            side.next_payload()


@given(
    payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    data=st.data(),
)
def test_any_bit_that_is_changed_on_the_way_is_noticed(
    payloads: list[bytes], data: st.DataObject
) -> None:
    one, another = secured()
    stream = bytearray(b"".join(map(one.frame, payloads)))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    arrived = []
    another.feed(bytes(stream))
    try:
        while (payload := another.next_payload()) is not None:
            arrived.append(payload)
    except ProtocolError:
        pass
    assert arrived == payloads[: len(arrived)]
    assert len(arrived) < len(payloads)


@given(
    payloads=st.lists(st.binary(max_size=20), min_size=2, max_size=5, unique=True),
    order=st.lists(st.integers(0, 4), min_size=1, max_size=8),
)
def test_frames_that_are_dropped_repeated_or_in_another_order_are_noticed(
    payloads: list[bytes], order: list[int]
) -> None:
    one, another = secured()
    frames = list(map(one.frame, payloads))
    sent = [index % len(frames) for index in order]
    right = 0
    while right < len(sent) and sent[right] == right:
        right += 1
    another.feed(b"".join(frames[index] for index in sent))
    for index in range(right):
        assert another.next_payload() == payloads[index]
    if right < len(sent):
        with pytest.raises(ProtocolError, match="not the other side's"):
            another.next_payload()


def test_a_frame_is_not_accepted_from_the_side_that_sent_it() -> None:
    one, _ = secured()
    one.feed(one.frame(b"to the other side"))
    with pytest.raises(ProtocolError):
        one.next_payload()


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_a_secured_channel(data: bytes) -> None:
    _, another = secured()
    another.feed(data)
    with suppress(ProtocolError):
        assert another.next_payload() is None


# ---- keys ----------------------------------------------------------------------------------------


@given(token=TOKENS, nonces=st.tuples(NONCES, NONCES), user=USERS)
def test_both_sides_derive_the_same_keys_and_none_is_another(
    token: bytes, nonces: tuple[bytes, bytes], user: str
) -> None:
    keys = Keys.derive(token, *nonces, user)
    assert keys == Keys.derive(token, *nonces, user)
    keys.check_client(keys.client_proof)
    keys.check_target(keys.target_proof)
    assert keys.check_ticket(keys.ticket)
    assert keys.check_ticket(keys.ticket + bytes(24))  # as RoCE pads it
    all_of_them = {*vars(keys).values()}
    assert len(all_of_them) == 5
    assert {len(key) for key in all_of_them} == {32}
    assert token not in all_of_them


@given(
    tokens=st.tuples(TOKENS, TOKENS),
    nonces=st.tuples(NONCES, NONCES),
    others=st.tuples(NONCES, NONCES),
    users=st.tuples(USERS, USERS),
)
def test_keys_of_another_token_nonce_or_user_are_refused(
    tokens: tuple[bytes, bytes],
    nonces: tuple[bytes, bytes],
    others: tuple[bytes, bytes],
    users: tuple[str, str],
) -> None:
    # HMAC pads keys with zeros: those at the end of a token do not count.
    assume(
        (tokens[0].rstrip(b"\0"), nonces, users[0]) != (tokens[1].rstrip(b"\0"), others, users[1])
    )
    keys = Keys.derive(tokens[0], *nonces, users[0])
    wrong = Keys.derive(tokens[1], *others, users[1])
    with pytest.raises(AuthenticationError, match="the token is not this target's"):
        keys.check_client(wrong.client_proof)
    with pytest.raises(AuthenticationError, match="another one, or an impostor"):
        keys.check_target(wrong.target_proof)
    with pytest.raises(AuthenticationError):
        keys.check_target(keys.client_proof)  # sent back
    assert not keys.check_ticket(wrong.ticket)


@given(st.binary(max_size=80))
def test_no_other_bytes_are_a_proof_or_a_ticket(data: bytes) -> None:
    keys = Keys.derive(b"token", bytes(32), bytes(32), "")
    assume(data[:32] not in vars(keys).values())
    with pytest.raises(AuthenticationError):
        keys.check_client(data)
    with pytest.raises(AuthenticationError):
        keys.check_target(data)
    assert not keys.check_ticket(data)


def test_nonces_are_new() -> None:
    assert len({channel.new_nonce() for _ in range(1000)}) == 1000
    assert len(channel.new_nonce()) == NONCE_SIZE


def test_a_token_is_text_or_bytes_that_say_something() -> None:
    assert check_token(None) == b""
    assert check_token("größe") == "größe".encode()
    assert check_token(b" a ") == b" a "
    assert check_token(memoryview(b"ab")) == b"ab"
    for empty in ("", b"", " ", b"\r\n", "\t"):
        with pytest.raises(AuthenticationError, match="token is empty") as caught:
            check_token(empty)
        assert isinstance(caught.value, PermissionError)
    with pytest.raises(TypeError):
        check_token(5)  # type: ignore[arg-type]


# ---- messages ------------------------------------------------------------------------------------

NAMES = st.text(max_size=255)
SIZES = st.integers(0, 1 << 62)
NUMBERS = st.integers(0, (1 << 32) - 1)
ATTRIBUTES = st.builds(
    Attributes,
    signature=st.binary(max_size=8),
    major=NUMBERS,
    compat_features=NUMBERS,
    incompat_features=NUMBERS,
    ro_compat_features=NUMBERS,
    poolset_uuid=st.uuids(),
    uuid=st.uuids(),
    next_uuid=st.uuids(),
    prev_uuid=st.uuids(),
    user_flags=st.binary(max_size=16),
)
ACCESSES = st.sampled_from(["read", "write", "shared"])
INFOS = st.builds(
    PoolInfo,
    name=NAMES,
    kind=st.sampled_from(["file", "dram"]),
    size=SIZES,
    allocated=SIZES,
    created=st.integers(0, (1 << 63) - 1),
    content_length=st.none() | SIZES,
    incomplete=st.booleans(),
    pool_id=st.none() | st.uuids(),
    attributes=st.none() | ATTRIBUTES,
    users=NUMBERS,
    access=st.none() | ACCESSES,
    problem=st.text(max_size=100),
)
AN_INFO = PoolInfo(
    name="x",
    kind="dram",
    size=1,
    allocated=1,
    created=0,
    content_length=None,
    incomplete=False,
    pool_id=None,
    attributes=None,
    users=0,
    access=None,
    problem="",
)
REQUESTS = (
    st.builds(
        messages.Create,
        NAMES,
        SIZES,
        ATTRIBUTES,
        st.none() | SIZES,
        st.booleans(),
        st.booleans(),
        st.booleans(),
    )
    | st.builds(messages.Open, NAMES, ACCESSES)
    | st.builds(messages.Close, NUMBERS)
    | st.builds(messages.SetContent, NUMBERS, st.none() | SIZES)
    | st.builds(messages.Commit, NUMBERS, st.none() | SIZES)
    | st.builds(messages.List, NAMES)
    | st.builds(messages.Describe, NAMES)
    | st.builds(messages.Resize, NAMES, SIZES)
    | st.builds(messages.Remove, NAMES)
)
REPLIES = (
    st.just(messages.Done())
    | st.builds(messages.Failed, NAMES, NAMES)
    | st.builds(messages.Listing, st.lists(INFOS, max_size=4), st.booleans())
    | st.builds(messages.Opened, NUMBERS, st.binary(max_size=255), NAMES, INFOS)
)
KINDS = (
    messages.Hello,
    messages.Login,
    messages.Accepted,
    messages.Session,
    messages.Ready,
    messages.Request,
    messages.Reply,
)


@given(REQUESTS)
def test_requests_arrive_as_they_were(request: Any) -> None:
    assert messages.decode(messages.encode(request), messages.Request) == request


@given(REPLIES)
def test_replies_arrive_as_they_were(reply: Any) -> None:
    assert messages.decode(messages.encode(reply), messages.Reply) == reply


@given(NONCES, NONCES, USERS)
def test_the_messages_of_coming_in_arrive_as_they_were(
    nonce: bytes, proof: bytes, user: str
) -> None:
    for message in (
        messages.Hello(1, nonce),
        messages.Login(1, user, nonce, proof),
        messages.Accepted(proof),
        messages.Session("10.0.0.1", 4711, 64, b"\x01", "software"),
        messages.Session(None, 1, 1, b"", ""),
        messages.Ready(),
    ):
        assert messages.decode(messages.encode(message), type(message)) == message


@given(data=st.binary(max_size=200), kind=st.sampled_from(KINDS))
def test_any_bytes_are_a_message_or_refused(data: bytes, kind: Any) -> None:
    with suppress(ProtocolError):
        messages.decode(data, kind)


@given(request=REQUESTS, data=st.data())
def test_a_request_of_which_a_byte_was_changed_is_a_request_or_refused(
    request: Any, data: st.DataObject
) -> None:
    raw = bytearray(messages.encode(request))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        messages.decode(bytes(raw), messages.Request)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(message=ANYTHING, kind=st.sampled_from(KINDS))
def test_any_other_message_is_refused(message: Any, kind: Any) -> None:
    assume(message != {} or kind is not messages.Ready)  # which has no fields
    with pytest.raises(ProtocolError, match="not the protocol's"):
        messages.decode(msgspec.msgpack.encode(message), kind)


@given(
    fields=st.dictionaries(
        st.sampled_from(["name", "size", "access", "number", "after", "volatile", "attributes"]),
        ANYTHING,
    ),
    tag=st.sampled_from(["create", "open", "close", "list", "describe", "resize", "remove"]),
)
def test_a_request_with_any_fields_is_a_request_or_refused(
    fields: dict[str, Any], tag: str
) -> None:
    with suppress(ProtocolError):
        messages.decode(msgspec.msgpack.encode({"type": tag} | fields), messages.Request)


@pytest.mark.parametrize("text", [b"\x80", b"\xff\xfe", b"\xed\xa0\x80", b"a\xc3"])
def test_a_text_that_is_no_utf_8_is_refused(text: bytes) -> None:
    name = b"Z" * len(text)
    good = messages.encode(messages.Describe(name.decode()))
    with pytest.raises(ProtocolError, match="not the protocol's"):
        messages.decode(good.replace(name, text), messages.Request)


def test_messages_that_nest_without_end_are_refused() -> None:
    for raw in (b"\x91" * 60_000, b"\x81\xa1a" * 20_000):
        for kind in KINDS:
            with pytest.raises(ProtocolError):
                messages.decode(raw, kind)


@pytest.mark.parametrize(
    "message",
    [
        messages.Hello(1, bytes(NONCE_SIZE - 1)),
        messages.Login(1, "x" * 65, bytes(32), bytes(32)),
        messages.Login(1, "", bytes(32), bytes(31)),
        messages.Session(None, 0, 64, b"", ""),
        messages.Session(None, 1 << 16, 64, b"", ""),
        messages.Session(None, 1, 0, b"", ""),
        messages.Session(None, 1, 5000, b"", ""),
        messages.Open("x" * 256, "read"),
        messages.Open("x", "all"),  # type: ignore[arg-type]
        messages.Close(-1),
        messages.Close(1 << 32),
        messages.Resize("x", -1),
        messages.Resize("x", (1 << 62) + 1),
        messages.Opened(1, bytes(256), "msync", AN_INFO),
        messages.Listing([AN_INFO] * (messages.LISTED_AT_ONCE + 1), False),
        messages.Failed("x" * 4097, ""),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_out_of_its_bounds_is_refused(message: Any) -> None:
    kind = type(message) if type(message) in KINDS else messages.Request
    if isinstance(message, messages.Opened | messages.Listing | messages.Failed):
        kind = messages.Reply
    with pytest.raises(ProtocolError, match="not the protocol's"):
        messages.decode(messages.encode(message), kind)


def test_a_message_with_a_field_too_many_or_too_few_is_refused() -> None:
    fields = msgspec.msgpack.decode(messages.encode(messages.Close(1)))
    for wrong in (
        fields | {"more": 1},
        {name: value for name, value in fields.items() if name != "number"},
        fields | {"type": "unheard of"},
        {"number": 1},
    ):
        with pytest.raises(ProtocolError):
            messages.decode(msgspec.msgpack.encode(wrong), messages.Request)


def test_a_full_listing_fits_into_a_frame() -> None:
    name = "n" * 128
    info = PoolInfo(
        name=name,
        kind="file",
        size=1 << 48,
        allocated=1 << 62,
        created=1 << 62,
        content_length=1 << 48,
        incomplete=True,
        pool_id=uuid.UUID(int=(1 << 128) - 1),
        attributes=Attributes(
            signature=b"\xff" * 8,
            major=(1 << 32) - 1,
            compat_features=(1 << 32) - 1,
            incompat_features=(1 << 32) - 1,
            ro_compat_features=(1 << 32) - 1,
            user_flags=b"\xff" * 16,
        ),
        users=(1 << 32) - 1,
        access="shared",
        problem="p" * 300,
    )
    listing = messages.Listing([info] * messages.LISTED_AT_ONCE, True)
    Channel().frame(messages.encode(listing))


# ---- errors --------------------------------------------------------------------------------------

EVERY_ERROR = pytest.mark.parametrize("kind", [*BY_WIRE_CODE.values(), TargetLost])


def test_every_error_has_a_code_of_its_own() -> None:
    assert {code: kind.wire_code for code, kind in BY_WIRE_CODE.items()} == {
        code: code for code in BY_WIRE_CODE
    }
    assert len(BY_WIRE_CODE) > 12


@EVERY_ERROR
def test_an_error_keeps_its_words_and_its_errno_in_a_copy(kind: type[Exception]) -> None:
    error: Any = kind("what went wrong: what to do")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error)), again(error)):
        assert type(twin) is kind
        assert str(twin) == "what went wrong: what to do"
        assert getattr(twin, "errno", None) == getattr(error, "errno", None)
        assert twin.__traceback__ is None


@pytest.mark.parametrize(
    ("kind", "builtin", "number"),
    [
        (PoolNotFoundError, FileNotFoundError, errno.ENOENT),
        (PoolBusyError, BlockingIOError, errno.EBUSY),
        (PoolNameError, ValueError, None),
        (PoolSizeError, ValueError, None),
        (PoolSpaceError, OSError, errno.ENOSPC),
        (AuthenticationError, PermissionError, errno.EACCES),
        (ProtocolError, ConnectionError, errno.EPROTO),
    ],
)
def test_errors_are_what_python_programmers_catch(
    kind: type[PoolError], builtin: type[Exception], number: int | None
) -> None:
    error: Any = kind("words")
    assert isinstance(error, rpma.RpmaError)
    assert isinstance(error, builtin)
    assert getattr(error, "errno", None) == number
    assert issubclass(TargetLost, (rpma.errors.ConnectionLost, ConnectionAbortedError))


@given(code=st.sampled_from([*BY_WIRE_CODE, "of a newer version", ""]), text=st.text(max_size=100))
def test_a_failure_is_raised_as_what_the_target_met(code: str, text: str) -> None:
    payload = messages.encode(messages.Failed(code, text))
    with pytest.raises(PoolError) as caught:
        needs.reply(payload, messages.Done)
    assert type(caught.value) is BY_WIRE_CODE.get(code, PoolError)
    assert str(caught.value) == explained(text)


@given(ANYTHING)
def test_a_reply_of_another_kind_is_refused(message: Any) -> None:
    for payload in (
        msgspec.msgpack.encode(message),
        messages.encode(messages.Ready()),
        messages.encode(messages.Close(1)),
    ):
        with pytest.raises(ProtocolError):
            needs.reply(payload, messages.Done)


# ---- a target that says what cannot be -----------------------------------------------------------


def told_of(name: str = "pool", **fields: Any) -> messages.PoolInfo:
    known = {
        "name": name,
        "kind": "file",
        "size": 4096,
        "allocated": 0,
        "created": 0,
        "content_length": None,
        "incomplete": False,
        "pool_id": None,
        "attributes": None,
        "users": 0,
        "access": None,
        "problem": "",
    }
    return messages.PoolInfo(**(known | fields))


def a_region(size: int) -> bytes:
    return struct.pack("<QQIB", 4096, size, 1, int(rpma.Usage.READ_SRC))


@pytest.mark.parametrize(
    ("descriptor", "words"),
    [
        (b"", "did not say where the pool is: .* 0 bytes"),
        (bytes(21), "did not say where the pool is"),
        (a_region(1)[:20], "did not say where the pool is"),
        (a_region(0), "less memory than the pool has"),
        (a_region(4095), "less memory than the pool has"),
    ],
)
def test_a_target_that_opens_no_memory(descriptor: bytes, words: str) -> None:
    path: Any = None
    steps = logic.open_(path, "pool", "read")
    next(steps)
    with pytest.raises(ProtocolError, match=words):
        steps.send(messages.encode(messages.Opened(1, descriptor, "none", told_of())))


def test_a_target_that_opens_more_memory_than_there_can_be() -> None:
    path: Any = None
    steps = logic.open_(path, "pool", "read")
    next(steps)
    opened = messages.Opened(1, a_region((1 << 64) - 1), "none", told_of(size=1 << 62))
    with pytest.raises(StopIteration) as ended:
        steps.send(messages.encode(opened))
    pool = ended.value.value
    with pytest.raises(rpma.OutOfMemoryError, match="do not fit into this process"):
        next(pool.read(0, None, None))
    with pytest.raises(rpma.InvalidArgumentError, match=r"more than len\(\) can tell"):
        len(pool.remote)


def test_a_target_that_has_more_in_a_pool_than_it_holds() -> None:
    path: Any = None
    steps = logic.open_(path, "pool", "read")
    next(steps)
    opened = messages.Opened(1, a_region(4096), "none", told_of(content_length=4097))
    with pytest.raises(ProtocolError, match="more is in the pool than it holds"):
        steps.send(messages.encode(opened))


@pytest.mark.parametrize("names", [["a", "a"], ["b", "a"], [""]])
def test_a_target_that_lists_without_end(names: list[str]) -> None:
    path: Any = None
    steps = logic.list_(path)
    next(steps)
    *good, bad = [messages.encode(messages.Listing([told_of(name)], True)) for name in names]
    for page in good:
        steps.send(page)
    with pytest.raises(ProtocolError, match="lists a pool twice"):
        steps.send(bad)


@pytest.mark.parametrize("created", [-1, 1 << 63])
def test_a_target_with_a_clock_that_cannot_be(created: int) -> None:
    payload = messages.encode(messages.Listing([told_of(created=created)], False))
    with pytest.raises(ProtocolError, match="not the protocol's"):
        needs.reply(payload, messages.Listing)


# ---- coming in, without a network ----------------------------------------------------------------


def come_in(address: TargetAddress, token: bytes, *replies: bytes) -> list[Any]:
    """What a client needs one after the other, given these replies."""
    steps = logic.connect(address, token, 1 << 20, None)
    found, left = [next(steps)], list(replies)
    while not isinstance(found[-1], needs.Run):
        waits = isinstance(found[-1], needs.Receive | needs.Exchange)
        found.append(steps.send(left.pop(0) if waits else None))
    steps.close()
    return found


HELLO = messages.Hello(messages.VERSION, bytes(32))


def test_a_client_shows_its_token_and_secures_the_channel_before_it_believes_anything() -> None:
    address = TargetAddress("db1", 99, "ann")
    hello = messages.encode(HELLO)
    steps = logic.connect(address, b"token", 1 << 20, None)
    assert next(steps) == needs.Dial(address)
    assert isinstance(steps.send(None), needs.Receive)
    need = steps.send(hello)
    assert isinstance(need, needs.Exchange)
    login = messages.decode(need.payload, messages.Login)
    assert login.user == "ann"
    keys = Keys.derive(b"token", bytes(32), login.nonce, "ann")
    keys.check_client(login.proof)
    assert b"token" not in need.payload
    assert steps.send(messages.encode(messages.Accepted(keys.target_proof))) == needs.Secure(keys)
    assert steps.send(None) == needs.Receive()
    found = messages.Session(None, 4711, 64, b"", "")
    assert isinstance(steps.send(messages.encode(found)), needs.Run)
    steps.close()


@pytest.mark.parametrize(
    ("replies", "error", "words"),
    [
        ([messages.Hello(1, bytes(32))], ProtocolError, "version 1 .* install the same rpma"),
        ([messages.Hello(4, bytes(32))], ProtocolError, "version 4 .* install the same rpma"),
        ([messages.Ready()], ProtocolError, "not the protocol's"),
        ([messages.Failed("target", "busy")], rpma.pool.TargetError, "busy"),
        ([HELLO, messages.Accepted(bytes(32))], AuthenticationError, "imp"),
        (
            [HELLO, messages.Failed("authentication", "not yours")],
            AuthenticationError,
            "not yours",
        ),
    ],
)
def test_a_client_that_is_not_let_in(
    replies: list[Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        come_in(TargetAddress("db1"), b"token", *map(messages.encode, replies))
