"""The gate between workers on other hosts and daisy's scheduler, which knows no authentication.

daisy listens on the loopback only. A gate listens on one address that workers can reach, lets those through that hold
the run's key, and passes their bytes on. Each side proves that it has the key without sending it:

    gate   -> worker   32 random bytes g
    worker -> gate     32 random bytes w, HMAC-SHA256(key, "worker" + g + w)
    gate   -> worker   HMAC-SHA256(key, "gate" + g + w), one byte: 1 goes on, 0 there is no work any more

What follows is not encrypted: it is places of blocks, never voxels or code. Either side takes the other for gone when
it has been silent for `patience` seconds, though nothing told it so (a host that vanished, a cut network).
"""

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import socket
import threading
from pathlib import Path

from nucseg.errors import InputError, NucsegError

NONCE = 32
HANDSHAKE = 10.0
"""Seconds for a connection to prove that it belongs."""
LOOPBACK = "127.0.0.1"
KEY = "key"
"""The file beside the job that holds the run's key, while the run lasts."""


class RunEnded(NucsegError):
    """There is no work for a worker: its run has ended, or is another one by now."""


def make_key(path: Path) -> None:
    """Write a fresh key that only its owner can read."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    temporary.replace(path)


def read_key(path: Path) -> bytes:
    """The key of a run.

    Raises:
        RunEnded: It is gone: it is deleted when the run has ended.
        InputError: It cannot be read.
    """
    try:
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise RunEnded(f"{path}: no key, so the run of this worker has ended") from None
    except (OSError, ValueError) as error:
        raise InputError(
            str(path),
            expected="the key of a run, readable by who started it",
            received=str(error),
            remedy="run workers as the same user as the run itself",
        ) from None


class Gate:
    """Listens for workers, in a thread of its own.

    Args:
        host: The address to listen on, and on no other.
        target: daisy's scheduler: host and port.
        key: The run's key.
        patience: Seconds of silence after which a worker is taken for gone.

    Raises:
        InputError: There is no such address on this machine.
    """

    def __init__(self, host: str, target: tuple[str, int], key: bytes, patience: float) -> None:
        self.target, self.key, self.patience = target, key, patience
        self.connections = 0
        """Workers that are connected now."""
        try:
            self._socket = socket.create_server((host, 0), backlog=1024)
        except OSError as error:
            raise InputError(
                "host",
                expected="an address of this machine",
                received=f"{host} ({error.strerror or error})",
                remedy="name an address that `ip address` lists and that the workers' hosts can reach",
            ) from None
        self.address: tuple[str, int] = (host, self._socket.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="gate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and hang up on every worker."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(HANDSHAKE)

    def work_left(self) -> bool:
        """Whether daisy's scheduler is still there; it stops listening when all blocks are done or given up."""
        try:
            socket.create_connection(self.target, HANDSHAKE).close()
        except OSError:
            return False
        return True

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._stop = asyncio.Event()
        try:
            self._loop.run_until_complete(self._listen())
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        tasks: set[asyncio.Task] = set()

        async def admitted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task:
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await self._worker(reader, writer)

        server = await asyncio.start_server(admitted, sock=self._socket)
        await self._stop.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            keep_watch(writer.get_extra_info("socket"), self.patience)
            async with asyncio.timeout(HANDSHAKE):
                proof = await self._check(reader, writer)
            if proof is None:
                return
            try:
                inner = await asyncio.open_connection(*self.target)
            except OSError:
                writer.write(proof + b"\0")
                await writer.drain()
                return
            self.connections += 1
            try:
                writer.write(proof + b"\1")
                await _relay((reader, writer), inner)
            finally:
                self.connections -= 1
                inner[1].close()
        except (OSError, EOFError, TimeoutError):  # a worker that went away, or a stranger
            pass
        finally:
            writer.close()

    async def _check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """The gate's own proof for a worker that has given a right one; else None."""
        nonce = secrets.token_bytes(NONCE)
        writer.write(nonce)
        answer = await reader.readexactly(NONCE + hashlib.sha256().digest_size)
        both, proof = nonce + answer[:NONCE], answer[NONCE:]
        if not hmac.compare_digest(proof, _proof(self.key, b"worker", both)):
            return None
        return _proof(self.key, b"gate", both)


class Passage:
    """A worker's way through the gate: a port on this host's loopback, for one connection of this process.

    `broken` says afterwards whether the connection was lost; daisy's client takes that for the end of the work.

    Args:
        address: The gate.
        key: The run's key.
        patience: Seconds of silence after which the gate is taken for gone.

    Raises:
        RunEnded: There is no work any more, or nobody at that address has this run's key.
        NucsegError: The address cannot be reached.
    """

    def __init__(self, address: tuple[str, int], key: bytes, patience: float) -> None:
        where = f"{address[0]}:{address[1]}"
        try:
            self._outer = socket.create_connection(address, timeout=min(patience, HANDSHAKE))
        except OSError as error:
            raise NucsegError(
                f"no scheduler at {where} ({error.strerror or error}): its run has ended, or this host "
                "cannot reach it; `host` of the launcher names another address"
            ) from None
        keep_watch(self._outer, patience)
        self._outer.settimeout(HANDSHAKE)
        try:
            open_ = self._prove(key)
        except (OSError, EOFError):
            self._outer.close()
            raise RunEnded(
                f"who listens at {where} is not the scheduler of this worker's run, which must have ended"
            ) from None
        if not open_:
            self._outer.close()
            raise RunEnded("all blocks of this worker's run are done or given up")
        self._outer.settimeout(None)
        self.broken, self._over = False, False
        self._listening = socket.create_server((LOOPBACK, 0), backlog=1)
        self.address: tuple[str, int] = (LOOPBACK, self._listening.getsockname()[1])
        threading.Thread(target=self._carry, name="passage", daemon=True).start()

    def _prove(self, key: bytes) -> bool:
        nonces = _exactly(self._outer, NONCE) + secrets.token_bytes(NONCE)
        self._outer.sendall(nonces[NONCE:] + _proof(key, b"worker", nonces))
        answer = _exactly(self._outer, hashlib.sha256().digest_size + 1)
        if not hmac.compare_digest(answer[:-1], _proof(key, b"gate", nonces)):
            raise EOFError
        return answer[-1] == 1

    def _carry(self) -> None:
        with self._listening:
            inner, _ = self._listening.accept()
        back = threading.Thread(
            target=self._pump, args=(self._outer, inner), name="passage back", daemon=True
        )
        with inner, self._outer:
            back.start()
            self._pump(inner, self._outer)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass bytes one way; hang up on both when either side is gone."""
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            self.broken = self.broken or not self._over
        self._over = True
        for connection in (source, sink):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def keep_watch(connection: socket.socket, patience: float) -> None:
    """Have the kernel end a connection whose other side has not answered for about `patience` seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    every = max(1, round(patience / 4))
    values = {
        "TCP_KEEPIDLE": every,
        "TCP_KEEPALIVE": every,  # the same on macOS
        "TCP_KEEPINTVL": every,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": round(1000 * patience),
    }
    for name, value in values.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _proof(key: bytes, who: bytes, nonces: bytes) -> bytes:
    return hmac.new(key, who + nonces, hashlib.sha256).digest()


async def _relay(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    other: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Pass bytes both ways until either side hangs up."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    ways = [asyncio.create_task(pump(one[0], other[1])), asyncio.create_task(pump(other[0], one[1]))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
