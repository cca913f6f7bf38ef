"""The gate: who has the run's key comes through to the scheduler, nobody else does, and silence is noticed."""

import socket
import stat
import threading

import pytest

from nucseg.blockwise.address import reachable_address
from nucseg.blockwise.gate import NONCE, Gate, Passage, RunEnded, keep_watch, make_key, read_key
from nucseg.errors import InputError, NucsegError


@pytest.fixture
def echo():
    """A server on the loopback that says everything twice; its address and whom it met."""
    server = socket.create_server(("127.0.0.1", 0))
    met = []

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            met.append(connection)
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection):
        with connection:
            while data := connection.recv(2**16):
                connection.sendall(data + data)

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname(), met
    server.close()


@pytest.fixture
def gate(echo, tmp_path):
    make_key(tmp_path / "key")
    gate = Gate("127.0.0.1", echo[0], read_key(tmp_path / "key"), patience=5)
    yield gate
    gate.close()


def exactly(connection, size):
    data = b""
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return data


def test_who_has_the_key_comes_through_both_ways(gate, tmp_path):
    key = read_key(tmp_path / "key")
    for word in (b"a", b"xyz" * 50_000):
        passage = Passage(gate.address, key, patience=5)
        with socket.create_connection(passage.address) as client:
            threading.Thread(target=client.sendall, args=(word,), daemon=True).start()
            received = exactly(client, 2 * len(word))
            assert len(received) == 2 * len(word)
            assert set(received) == set(word)


def test_who_has_another_key_or_none_does_not(gate, echo):
    with pytest.raises(RunEnded, match="not the scheduler of this worker's run"):
        Passage(gate.address, b"another key", patience=5)
    with socket.create_connection(gate.address) as stranger:
        assert len(exactly(stranger, NONCE)) == NONCE
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(46))  # 64 bytes, as many as a worker sends
        assert stranger.recv(1) == b""
    assert echo[1] == [], "daisy never heard of them"


def test_a_worker_does_not_take_a_stranger_for_its_scheduler(gate):
    impostor = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = impostor.accept()
        with connection:
            connection.sendall(bytes(NONCE))
            exactly(connection, 64)
            connection.sendall(bytes(32) + b"\1")

    threading.Thread(target=answer, daemon=True).start()
    with impostor, pytest.raises(RunEnded, match="not the scheduler"):
        Passage(impostor.getsockname(), gate.key, patience=5)


def test_a_proof_that_was_overheard_is_worth_nothing(gate):
    import hashlib
    import hmac

    with socket.create_connection(gate.address) as first:
        challenge = exactly(first, NONCE)
        proof = (
            bytes(NONCE) + hmac.new(gate.key, b"worker" + challenge + bytes(NONCE), hashlib.sha256).digest()
        )
        first.sendall(proof)
        assert exactly(first, 33)[-1] == 1, "the proof as the docstring of the module has it"
    with socket.create_connection(gate.address) as second:
        assert exactly(second, NONCE) != challenge
        second.sendall(proof)
        assert second.recv(1) == b""


def test_when_the_scheduler_has_ended_workers_are_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        target = gone.getsockname()
    gate = Gate("127.0.0.1", target, b"k", patience=5)
    try:
        assert not gate.work_left()
        with pytest.raises(RunEnded, match="all blocks"):
            Passage(gate.address, b"k", patience=5)
    finally:
        gate.close()
    with pytest.raises(NucsegError, match=r"no scheduler at 127\.0\.0\.1:"):
        Passage(gate.address, b"k", patience=5)


def test_closing_the_gate_hangs_up_on_workers(echo):
    gate = Gate("127.0.0.1", echo[0], b"k", patience=5)
    passage = Passage(gate.address, b"k", patience=5)
    with socket.create_connection(passage.address) as client:
        client.sendall(b"a")
        assert exactly(client, 2) == b"aa"
        assert gate.connections == 1
        gate.close()
        client.settimeout(30)
        assert client.recv(1) == b""


def test_the_kernel_watches_connections():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
    ):
        keep_watch(one, 8)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8000
        every = [one.getsockopt(socket.IPPROTO_TCP, o) for o in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)]
        assert sum(every) + (one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) - 1) * 2 == 8


def test_a_key_is_fresh_and_only_its_owners(tmp_path):
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    make_key(path)
    first = read_key(path)
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    make_key(path)
    assert read_key(path) != first
    path.unlink()
    with pytest.raises(RunEnded, match="has ended"):
        read_key(path)
    path.write_text("no key")
    with pytest.raises(InputError, match="same user"):
        read_key(path)


def test_addresses_by_name_and_interface():
    assert reachable_address("127.0.0.1") == reachable_address("localhost") == "127.0.0.1"
    if "lo" in {name for _, name in socket.if_nameindex()}:
        assert reachable_address("lo") == "127.0.0.1"
    with pytest.raises(InputError, match=r"nowhere\.invalid"):
        reachable_address("nowhere.invalid")
    with pytest.raises(InputError, match=r"host: expected an address of this machine; received 192\.0\.2\.9"):
        Gate("192.0.2.9", ("127.0.0.1", 1), b"k", patience=5)
