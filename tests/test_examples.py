"""The examples run, briefly, as a user runs them.

Over a minute, since a MobileNetV2 is trained, compressed, and written three times.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import processes
import pytest
from nbclient import NotebookClient

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


def shown(cell):
    """Return how many pictures a cell draws, and whether it says anything: a text may come in several pieces."""
    outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return sum("image/png" in each.get("data", ()) for each in outputs), bool(outputs)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("compress_mobilenet", {"EPOCHS": 2, "IMAGES": 64}),
        ("find_a_bottleneck", {"EPOCHS": 2, "IMAGES": 64}),
        ("what_happens_in_rmda", {"EPOCHS": 4, "STEPS": 40}),
    ],
)
def test_a_notebook(name, settings, tmp_path, monkeypatch):
    """Every cell runs, with fewer epochs than in the file, and draws and prints where the file does."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    in_the_file = [shown(cell) for cell in code]
    assert sum(pictures for pictures, _ in in_the_file) >= 3
    [parameters] = [cell for cell in code if "parameters" in cell.metadata.get("tags", ())]
    for setting, value in settings.items():
        parameters.source, count = re.subn(rf"^{setting} = \d+", f"{setting} = {value}", parameters.source, flags=re.M)
        assert count == 1
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [shown(cell) for cell in code] == in_the_file
