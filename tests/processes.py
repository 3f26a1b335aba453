"""Python programs in processes of their own, that begin with TensorFlow, Keras and keras_rmda imported.

The imports take seconds, most of the time of a short program. A server has made them once (multiprocessing's), and
each program is a fork of it: a process of its own, that is killed and prints as any other. What has to be set before
the imports, such as another backend, is for `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from keras_rmda.export import apart
from keras_rmda.export.devices import profile


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


ENVIRONMENT = _environment()
ALLOWED_NOISE = profile.NOISE
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["keras", "keras_rmda", "keras_rmda.cli.commands"])


def let_no_noise_decide() -> None:
    """Take profiles as this machine measures them, however busy it is: timing never decides a test."""
    profile.NOISE = float("inf")


def fork_what_runs_apart() -> None:
    """Let programs that `export` runs apart, such as the converter, be forks of the server, too."""
    apart.subprocess = types.SimpleNamespace(run=_forked, PIPE=subprocess.PIPE)


def _forked(
    arguments: list[str], *, input: bytes, timeout: float | None, **_: object
) -> subprocess.CompletedProcess[bytes]:
    """Do what `subprocess.run` does with a program that reads bytes and writes bytes.

    A test that has changed the environment gets a process that begins with it.
    """
    if _environment() != ENVIRONMENT:
        return subprocess.run(arguments, input=input, stdout=subprocess.PIPE, timeout=timeout, check=False)
    with tempfile.TemporaryFile() as sent, tempfile.TemporaryFile() as received:
        sent.write(input)
        sent.seek(0)
        streams = (
            Connection(os.dup(sent.fileno()), writable=False),
            Connection(os.dup(received.fileno()), readable=False),
        )
        process = CONTEXT.Process(target=_main_apart, args=(arguments[-1], *streams))
        process.start()
        for stream in streams:
            stream.close()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout)
        received.seek(0)
        return subprocess.CompletedProcess(arguments, process.exitcode, received.read())


def _main_apart(program: str, sent: Connection, received: Connection) -> None:
    """Run a program with these streams, in a fork of the server."""
    os.dup2(sent.fileno(), 0)
    os.dup2(received.fileno(), 1)
    with open(0) as sys.stdin, open(1, "w", closefd=False) as sys.stdout:
        runpy.run_path(program, run_name="__main__")


class Program:
    """A program that runs, with the arguments that Python would be given.

        Program("script.py", "argument"), Program("-c", "print(1)"), Program("-m", "module")

    `stdout` can be read while it runs.
    """

    def __init__(self, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] = os.environ):
        self.arguments = [str(each) for each in arguments]
        output, its_output = CONTEXT.Pipe(duplex=False)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  read when the program has ended
        its_errors = Connection(os.dup(self._errors.fileno()), readable=False)
        self.process = CONTEXT.Process(target=_main, args=(self.arguments, cwd, dict(env), its_output, its_errors))
        self.process.start()
        its_output.close()
        its_errors.close()
        self.stdout = open(os.dup(output.fileno()))  # noqa: SIM115  closed with the object
        output.close()

    def kill(self) -> None:
        """End it at once, as the kernel does when memory is short."""
        self.process.kill()

    def wait(self, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Return what it has printed since, and its status, when it has ended; after so many seconds it is killed."""
        alarm = threading.Timer(timeout, self.kill)
        alarm.start()
        output = self.stdout.read()
        self.process.join()
        alarm.cancel()
        self._errors.seek(0)
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, output, self._errors.read())


def run(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] = os.environ, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Return what a program has printed, and its status."""
    return Program(*arguments, cwd=cwd, env=env).wait(timeout)


def _main(
    arguments: list[str], cwd: Path | None, environment: dict[str, str], output: Connection, errors: Connection
) -> None:
    """Do what `python` does with these arguments, in a fork of the server."""
    for stream, connection in ((1, output), (2, errors)):
        os.dup2(connection.fileno(), stream)
        connection.close()
    let_no_noise_decide()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or os.getcwd())
    program, *rest = arguments
    if program == "-c":
        code, *rest = rest
        sys.argv = [program, *rest]
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif program == "-m":
        module, *rest = rest
        sys.argv = [module, *rest]
        sys.path.insert(0, "")
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(program).resolve().parent))
        runpy.run_path(program, run_name="__main__")
