"""Peers as processes of their own, spoken to in lines of JSON, and their environments."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

from openfl_aio.config import TLSConfig

ROOT = Path(__file__).parents[2]
PEERS = "INTEROP_PEERS"  # the variable that names each environment: newest=/path/to/python,oldest=...
START_SECONDS = 30.0
CASE_SECONDS = 50.0


def peers() -> dict[str, str]:
    """Return the Python of each environment with grpcio in it, by the environment's name."""
    given = os.environ.get(PEERS, "")
    if not given:
        raise RuntimeError(f"{PEERS} names no environments; run this with `nox -s interop_grpc`")
    return dict(item.split("=", 1) for item in given.split(","))


class PeerProcess:
    """A program of `tests.interop_grpc.peers`, running until it is closed. Methods block."""

    def __init__(self, python: str, program: str, *, stubs: Path, tls: TLSConfig) -> None:
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [
                *(python, "-m", f"tests.interop_grpc.peers.{program}", "--stubs", str(stubs), "--ca", str(tls.ca)),
                *("--certificate", str(tls.certificate), "--key", str(tls.private_key)),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    @property
    def running(self) -> bool:
        """Whether the program can be spoken to."""
        return self._process.poll() is None

    def tell(self, order: object) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def hear(self, seconds: float = CASE_SECONDS) -> dict[str, Any]:
        """Return the next line. Raises AssertionError with what the program said on its way out, or if nothing comes."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self._process.kill()  # its answer would be taken for the next one's
            self._process.wait()
            raise AssertionError(f"nothing from the peer within {seconds:g} s\n{self._said()}") from None
        assert line, f"the peer ended\n{self._said()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def run(self, case: str, target: str, *, tls: bool) -> Any:
        """Run a case of a client and return its value. Raises AssertionError with the peer's traceback."""
        self.tell({"case": case, "target": target, "tls": tls})
        return self.result()

    def result(self) -> Any:
        """Return the value of the case that runs. Raises AssertionError with the peer's traceback."""
        answer = self.hear()
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._errors.close()


class Started:
    """A server's process and its ports."""

    def __init__(self, process: PeerProcess) -> None:
        self.process = process
        ports = process.hear(START_SECONDS)
        self._targets = {False: ports["plaintext"], True: ports["mtls"]}

    def target(self, *, tls: bool) -> str:
        """Return host and port."""
        return f"127.0.0.1:{self._targets[tls]}"
