"""Damaged and foreign files, made of good ones with a seed; as a program, what the command line says of each.

python tests/damage.py FOLDER FIRST COUNT      # the good files are in FOLDER; prints one JSON line for each file
"""

import contextlib
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np

KINDS = (
    "truncated", "bits", "zeros", "noise", "swapped", "inserted", "twice", "numbers", "member", "missing", "config",
    "foreign", "empty",
)  # fmt: skip
HEADS = (b"not a model", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x1c\x00\x00\x00TFL3")


def damaged(content: bytes, kind: str, random: np.random.Generator) -> bytes:
    """Return the content of a file after an accident."""
    data, size = bytearray(content), len(content)
    at, length = int(random.integers(size)), int(random.integers(1, 64))
    if kind == "empty":
        return b""
    if kind == "foreign":
        return HEADS[at % len(HEADS)] + bytes(length)
    if kind == "truncated":
        return content[:at]
    if kind == "twice":
        return content + content
    if kind == "swapped":
        return content[at:] + content[:at]
    if kind == "inserted":
        return content[:at] + random.bytes(length) + content[at:]
    if kind in ("member", "missing", "config") and zipfile.is_zipfile(io.BytesIO(content)):
        return repacked(content, kind, random)
    if kind == "bits":
        for _ in range(length):
            data[int(random.integers(size))] ^= 1 << int(random.integers(8))
    elif kind == "zeros":
        data[at : at + length] = bytes(min(length, size - at))
    elif kind == "noise":
        data[at : at + length] = random.bytes(min(length, size - at))
    else:  # offsets and sizes of a flatbuffer
        for _ in range(3):
            word = int(random.integers(size // 4)) * 4
            data[word : word + 4] = int(random.integers(-3, 2**31 - 1)).to_bytes(4, "little", signed=True)
    return bytes(data)


def repacked(content: bytes, kind: str, random: np.random.Generator) -> bytes:
    """Return a zip file in which one member is damaged or missing."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
        names = old.namelist()
        victim = "config.json" if kind == "config" else names[int(random.integers(len(names)))]
        for name in names:
            data = bytearray(old.read(name))
            if name == victim and kind == "missing":
                continue
            for _ in range(3 if name == victim and data else 0):
                at = int(random.integers(len(data)))
                data[at] = int(random.integers(32, 127)) if kind == "config" else int(random.integers(256))
            new.writestr(name, bytes(data))
    return target.getvalue()


def files(folder: Path, first: int, count: int):
    """Write damaged files into a folder, and give them one by one."""
    good = sorted(path for path in folder.iterdir() if path.suffix in (".keras", ".tflite"))
    for number in range(first, first + count):
        random = np.random.default_rng(number)
        kind, source = KINDS[number % len(KINDS)], good[number // len(KINDS) % len(good)]
        path = folder / "damaged" / f"{number}-{kind}-{source.name}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(damaged(source.read_bytes(), kind, random))
        yield path


def commands(path: Path) -> list[list[str]]:
    """Return the commands that take such a file."""
    page = ["report", str(path.with_suffix(".html")), str(path)]
    if path.suffix == ".tflite":
        return [["inspect", str(path)], ["bench", str(path), "--runs", "2"], [*page, "--runs", "2"]]
    return [["inspect", str(path)], ["strip", str(path), str(path.with_name("out.keras"))], page]


def main(folder: str, first: str, count: str) -> None:
    """Run every command on every file."""
    from keras_rmda import cli

    for path in files(Path(folder), int(first), int(count)):
        for command in commands(path):
            output, errors = io.StringIO(), io.StringIO()
            print(json.dumps([path.name, command[0]]), flush=True)
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                try:
                    status = cli.main(command)
                except BaseException as error:  # which would be a traceback
                    status = f"{type(error).__name__}: {error}"
            print(json.dumps([status, errors.getvalue()]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
