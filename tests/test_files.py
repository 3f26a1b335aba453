"""A failed or killed write leaves the old file or none."""

import os
import signal

import processes
import pytest

from keras_rmda.platform.files import replacing, silenced


def test_replaces_on_success(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import sys, time\nfrom keras_rmda.platform.files import replacing\n"
        "with replacing(sys.argv[1]) as t:\n    t.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    program = processes.Program("-c", code, path)
    assert program.stdout.readline() == "writing\n"
    program.kill()
    assert program.wait().returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_silenced_hides_native_output_and_restores_it(capfd):
    os.write(2, b"before ")
    with silenced(1, 2):
        os.write(1, b"hidden")
        os.write(2, b"hidden")
    os.write(2, b"after")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "before after")
