"""The package as a wheel: what is in it, and that it works where nothing else is."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import trimesh
from test_environment import pins

import drfer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: setuptools leaves its work beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "drfer", source / "drfer", ignore=ignored)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    [path] = folder.glob("*.whl")
    return path


def test_a_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"drfer-{drfer.__version__}.dist-info/METADATA").decode()
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "drfer").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted == {name for name in names if name.startswith("drfer/")}
    assert {"drfer/py.typed", "drfer/models/recogniser.safetensors"} <= wanted
    assert {name.split("/")[0] for name in names} == {
        "drfer",
        f"drfer-{drfer.__version__}.dist-info",
    }
    assert "drfer/datasets/anny3dfe/heads.npz" in names
    assert wheel.stat().st_size < 18e6  # the trained models have 9.8 MB, the heads 6.3
    for line in ("License-Expression: Apache-2.0", "Requires-Python: >=3.11"):
        assert line in metadata
    assert re.search(r"^Project-URL: Paper, https://arxiv.org/abs/2403.08318$", metadata, re.M)
    assert "Provides-Extra: faces" in metadata and "==" not in metadata.split("Provides-Extra")[0]


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel, what it needs, and nothing else, far from the checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    arguments = shlex.split(os.environ.get("PIP_ARGS", ""))
    subprocess.run([*install, *arguments, wheel], check=True)
    return folder


def run(environment, *command):
    """Run a program of the environment, in its folder."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [environment / "venv" / "bin" / command[0], *command[1:]],
        cwd=environment,
        env=variables | {"DRFER_CACHE": str(environment / "cache")},
        capture_output=True,
        text=True,
    )


@pytest.mark.clean_install
def test_a_wheel_in_an_empty_environment_predicts(environment, database):
    key = next(key for key in database.keys() if str(key).endswith("surprise 4"))
    scan = database.load(key)
    mesh = trimesh.Trimesh(scan.points, scan.triangles, process=False)
    mesh.export(environment / "face.ply")
    done = run(environment, "drfer", "predict", "face.ply")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    probabilities = dict(re.findall(r"^  (\w+) +([\d.]+) %", done.stdout, re.M))
    assert max(probabilities, key=lambda name: float(probabilities[name])) == "surprise"
    assert len(list((environment / "runs" / "predicted").glob("face-*.png"))) == 1


@pytest.mark.clean_install
def test_a_wheel_brings_the_pinned_versions_and_no_extra(environment):
    done = run(environment, "python", "-m", "pip", "list", "--format=freeze")
    installed = dict(line.split("==") for line in done.stdout.splitlines())
    assert installed.pop("drfer") == drfer.__version__
    for tool in ("pip", "setuptools", "wheel"):
        installed.pop(tool, None)
    pinned = pins()
    for name, version in installed.items():
        name = re.sub(r"[-_.]+", "-", name).lower()
        if not name.startswith("nvidia-"):  # torch itself says which exact ones it takes
            assert version.split("+")[0] == pinned[name], name
    assert not {"jupyterlab", "plotly", "anny", "ray", "ipython"} & installed.keys()


@pytest.mark.clean_install
def test_a_wheel_says_what_an_extra_is_missing(environment):
    done = run(environment, "drfer", "faces", "--subjects", "1")
    assert done.returncode == 2 and "drfer[faces]" in done.stderr
    assert "Traceback" not in done.stderr
    report = run(environment, "drfer", "doctor").stdout
    assert f'{environment / "venv" / "bin" / "python"} -m pip install "drfer[notebooks]"' in report


@pytest.mark.clean_install
def test_a_wheel_opens_the_public_door(environment):
    script = "import drfer; print(drfer.__file__, drfer.load_model()[1]['training people'])"
    done = run(environment, "python", "-c", script)
    assert str(environment) in done.stdout and done.stdout.endswith(" 1000\n"), done.stderr
