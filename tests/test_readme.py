"""Every command and code block of README and of older pages is run, and the table is one that the demo prints.

Over a minute, since each page of docs trains networks of its own.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from training import needs_multi_optimizer

import keras_rmda as kr

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()
START = (ROOT / "docs" / "start.md").read_text()
COMMANDS = (ROOT / "docs" / "guides" / "commands.md").read_text()
QUICKSTART = (ROOT / "examples" / "quickstart.py").read_text()


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_blocks_are_of_known_kinds():
    assert set(re.findall(r"```(\w+)\n", README)) == {"sh", "text", "python"}


def test_the_readme_fits_on_a_screen():
    assert len(README.splitlines()) <= 80
    [code] = blocks(README, "python")
    assert len(code.strip().splitlines()) <= 10


def test_the_first_code_of_getting_started_is_the_quickstart_example():
    """What follows runs the file that it has written."""
    first = "\n".join(blocks(START, "python")[:3])
    assert re.sub(r"\n+", "\n", first).strip() == re.sub(r"\n+", "\n", QUICKSTART.split('"""', 2)[2]).strip()


def test_the_quickstart_runs_and_so_does_its_file(tmp_path):
    environment = os.environ | {"TFDS_DATA_DIR": str(tmp_path / "tfds")}
    result = processes.run(ROOT / "examples" / "quickstart.py", cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    whole, small = re.findall(r"^parameters +([\d,]+) +([\d,]+)", result.stdout, re.MULTILINE)[0]
    assert int(small.replace(",", "")) < int(whole.replace(",", "")) / 4
    assert float(re.findall(r"^accuracy +[\d.]+ +([\d.]+)", result.stdout, re.MULTILINE)[0]) > 0.95
    assert (tmp_path / "digits.tflite").stat().st_size < 94_634
    [on_a_device] = blocks(START, "python")[3:]
    result = processes.run("-c", on_a_device, cwd=tmp_path)
    assert re.fullmatch(r"\d is the digit\n", result.stdout), result.stderr[-2000:]


def test_the_code_of_the_readme_runs(demo_folder):
    """With fewer epochs, which are most of the time."""
    [code] = blocks(README, "python")
    assert "epochs=10" in code
    result = processes.run("-c", code.replace("epochs=10", "epochs=4"), cwd=demo_folder)
    assert result.returncode == 0, result.stderr[-2000:]
    whole, small = re.findall(r"^multiply-accumulates +([\d,]+) +([\d,]+)", result.stdout, re.MULTILINE)[0]
    assert int(small.replace(",", "")) <= int(whole.replace(",", "")) / 4
    assert float(re.findall(r"^accuracy +[\d.]+ +([\d.]+)", result.stdout, re.MULTILINE)[0]) > 0.5


def test_the_commands_run(demo_folder):
    """In order, as a user would, where the demo has run."""
    for command in "".join(blocks(README, "sh") + blocks(START, "sh") + blocks(COMMANDS, "sh")).splitlines():
        name, *arguments = shlex.split(command)
        if name == "make":
            result = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
        elif name == "pip":
            # Without network: whether the project can be built and has the extra; `make` has installed the rest.
            offline = ["--dry-run", "--no-deps", "--no-build-isolation", "--quiet"]
            pip = [sys.executable, "-m", "pip", *arguments, *offline]
            result = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True, timeout=120)
            assert "does not provide the extra" not in result.stderr
        else:
            assert name == "keras-rmda"
            result = processes.run(PROGRAMS / name, *arguments, cwd=demo_folder)
            assert result.stdout
        assert result.returncode == 0, f"{command}: {result.stderr[-500:]}"
    report = json.loads((demo_folder / "saved_models" / "quarter" / "report.json").read_text())
    assert report["stripped"]["macs"] / report["dense"]["macs"] == pytest.approx(0.25, abs=0.02)
    assert report["stripped"]["max_difference"] < 1e-5


def test_the_table_is_what_the_demo_prints(demo_folder):
    [table] = blocks(README, "text")
    printed = (demo_folder / "printed.txt").read_text()
    first = lambda text: [line.split()[0] for line in text.strip().splitlines()]  # noqa: E731
    assert first(table)[2:] == first(printed)[2:]
    assert table.splitlines()[0].split() == printed.splitlines()[0].split()


@needs_multi_optimizer
def test_the_code_of_the_methods_page_runs(tmp_path):
    code = (
        "\n".join(blocks((ROOT / "docs" / "methods.md").read_text(), "python"))
        + "\nprint(len(least_important_first), small.count_params() < model.count_params())"
    )
    result = processes.run("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    group_lasso, levels, gates, half, low_rank, order = result.stdout.strip().splitlines()
    zero_groups, parameters, _, before = group_lasso.split()
    assert 0 < float(zero_groups) < 1
    assert int(parameters) < int(before)
    open_gates, *_, operations, _, _, _ = gates.split()
    assert 0 < float(open_gates) < 0.9
    assert 0 < int(operations) < 16 * 24 + 4 * 24 * 32 + 24 * 2
    assert 0 < float(levels.split()[0]) < 1
    assert int(half.split()[0]) < int(half.split()[2])
    parameters, _, before = low_rank.split()
    assert int(parameters) < int(before)
    assert order == "80 True"


def test_the_code_of_the_converter_page_runs(tmp_path):
    code = blocks((ROOT / "docs" / "converter.md").read_text(), "python")
    assert len(code) == 2
    result = processes.run("-c", "\n".join(code), cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "4 tied: read by depthwise" in result.stdout


def test_the_code_of_the_deployment_page_runs(tmp_path):
    text = (ROOT / "docs" / "deployment.md").read_text()
    code = "\n".join(blocks(text, "python"))
    code += 'model.save("dense.keras"); kr.strip(model).save("small.keras")\n'
    code += 'kr.export_tflite(model, "dense.tflite", strip=False); kr.export_tflite(model, "small.tflite")\n'
    code += 'np.savez("digits.npz", x=images, y=labels)\n'
    result = processes.run("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    size, *_ = result.stdout.split()
    assert int(size) == (tmp_path / "model.tflite").stat().st_size
    (tmp_path / "history.json").write_text('{"accuracy": [0.5, 0.75]}')
    [commands] = blocks(text, "sh")
    for command in commands.strip().splitlines():
        name, *arguments = shlex.split(command)
        result = processes.run(PROGRAMS / name, *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-500:]
        assert result.stdout


def test_the_code_of_the_page_on_scale_runs_also_after_a_kill(tmp_path):
    [code] = blocks((ROOT / "docs" / "scale.md").read_text(), "python")
    environment = os.environ | {"TFDS_DATA_DIR": str(tmp_path / "tfds")}
    program = processes.Program("-c", code, cwd=tmp_path, env=environment)
    for line in program.stdout:
        if line.startswith("Epoch 9/30"):
            program.kill()
    assert program.wait().returncode != 0
    result = processes.run("-c", code, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Epoch 1/30" not in result.stdout
    assert "Epoch 30/30" in result.stdout
    assert (tmp_path / "small.keras").is_file()
    assert not (tmp_path / "backup").exists()


def test_the_commands_of_contributing_are_there():
    commands = re.findall(r"`(make [\w-]+|python \S+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(commands) > 10
    for command in sorted(set(commands)):
        program, name = command.split()
        if program == "make":
            result = subprocess.run(["make", "-n", name], cwd=ROOT, capture_output=True, text=True)
        else:
            result = processes.run(ROOT / name, "--help")
        assert result.returncode == 0, command


TEXTS = (".py", ".md", ".toml", ".yml", ".cff", ".css", ".svg", "")


def test_nothing_depends_on_a_workplace():
    """No absolute path of a developer's machine in what is shipped."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in files:
        path = ROOT / name
        if path.suffix in TEXTS and path.is_file() and name != "LICENSE":
            text = path.read_text()
            for word in ("/" + "work/", "/" + "home/", "/" + "root/"):
                assert word not in text, name


def test_what_says_the_version_agrees():
    metadata, citation = (ROOT / "pyproject.toml").read_text(), (ROOT / "CITATION.cff").read_text()
    [version] = re.findall(r'^version = "(.*)"', metadata, re.MULTILINE)
    assert re.findall(r"^version: (.*)", citation, re.MULTILINE) == [version] == [kr.__version__]


def test_the_extras_that_pages_name_are_there():
    extras = re.search(
        r"\[project.optional-dependencies\]\n(.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL
    )[1]
    names = set(re.findall(r"^(\w+) = \[", extras, re.MULTILINE))
    pages = [README, (ROOT / "Makefile").read_text(), *(page.read_text() for page in (ROOT / "docs").rglob("*.md"))]
    named = {name for page in pages for name in re.findall(r"(?:keras-rmda|\.)\[(\w+)\]", page)}
    assert {"demo", "docs", "qat"} <= named <= names


def test_the_package_is_marked_as_typed():
    assert (Path(kr.__file__).parent / "py.typed").is_file()
