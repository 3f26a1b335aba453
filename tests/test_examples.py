"""The examples run, briefly, as a user runs them.

Over a minute, since a MobileNetV2 is traced and trained twice, and written three times.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import processes
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, folder, *arguments):
    environment = os.environ | {"TFDS_DATA_DIR": str(folder / "tfds")}
    result = processes.run(EXAMPLES / name, folder, *arguments, cwd=folder, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_a_model_for_a_microcontroller(tmp_path):
    said = run("microcontroller.py", tmp_path, "--epochs", "10")
    content, header = (tmp_path / "digits.tflite").read_bytes(), (tmp_path / "digits.h").read_text()
    assert len(content) < 64 * 1024
    array = re.search(r"kModel\[\] = \{(.*?)\};", header, re.DOTALL)[1]
    assert bytes(int(each, 16) for each in re.findall(r"0x[0-9a-f]{2}", array)) == content
    before, after = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) multiply.* become ([\d,]+)", said)[0])
    assert after == pytest.approx(before / 4, rel=0.05)
    floats, ints = (float(each) for each in re.findall(r"accuracy ([\d.]+)%", said))
    assert floats > 90
    assert abs(floats - ints) < 3
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler:
        source = tmp_path / "main.cc"
        source.write_text('#include "digits.h"\nint main() { return sizeof(kModel) == kModelBytes ? 0 : 1; }\n')
        subprocess.run([compiler, "-std=c++17", str(source), "-o", str(tmp_path / "main")], check=True)
        assert subprocess.run([tmp_path / "main"]).returncode == 0


def test_a_network_of_keras_applications(tmp_path):
    said = run("compress_keras_application.py", tmp_path, "--epochs", "3", "--images", "160")
    rows = {line[:12].strip(): line[12:].split() for line in said.splitlines() if "%" in line and "epoch" not in line}
    assert set(rows) == {"dense", "small", "small int8"}
    number = lambda name, k: int(rows[name][k].replace(",", ""))  # noqa: E731
    assert number("small", 1) == pytest.approx(number("dense", 1) / 4, rel=0.05)
    assert number("small int8", 2) < number("small", 2) < number("dense", 2) / 2
    assert (tmp_path / "mobilenet_small_int8.tflite").stat().st_size == number("small int8", 2)


def test_data_that_is_not_prepared_is_said_before_any_work(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TFDS_DATA_DIR"}
    script = EXAMPLES / "compress_keras_application.py"
    result = processes.run(script, "--data", "cifar10", env=environment, cwd=tmp_path)
    assert result.returncode == 2
    assert "TFDS_DATA_DIR" in result.stderr
