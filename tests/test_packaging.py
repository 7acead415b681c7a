"""The package as others meet it: what it imports and declares, its public door, its version, and the Makefile."""

import ast
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_environment import EXTRAS, declared

import drfer

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "drfer").rglob("*.py"))
DISTRIBUTIONS = {
    "IPython": "ipython",
    "PIL": "pillow",
    "igl": "libigl",
    "sklearn": "scikit-learn",
    "torch_cluster": "torch-cluster",
    "torch_geometric": "torch-geometric",
    "warp": "warp-lang",
    "yaml": "pyyaml",
}
"""of the modules that are not called like the package that brings them"""
CORE = set(declared())
OPTIONAL = set(declared(*EXTRAS)) - CORE


def imported(path, tree=None):
    """The packages that a file imports anywhere, but for Python's own and this one."""
    found = set()
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    own = {"drfer", "tools", *sys.stdlib_module_names}
    return {DISTRIBUTIONS.get(name, name) for name in found - own}


def test_all_that_is_imported_is_declared():
    for path in MODULES:
        undeclared = imported(path) - CORE - OPTIONAL
        assert not undeclared, f"{path.relative_to(ROOT)} imports {undeclared}"


def test_all_that_is_declared_is_imported():
    """A dependency that nobody imports any more is one to take out."""
    used = set().union(*map(imported, MODULES))
    assert CORE <= used, CORE - used
    for extra in ("faces", "populations", "cluster", "gpu", "bench"):
        wanted = set(declared(extra)) - CORE
        assert wanted <= used, wanted - used


LAYERS = (
    "common",
    "fast.compiled fast.points fast",
    "datasets",
    "preprocessing",
    "models fast.groups fast.group_loops fast.moments fast.encoder",
    "training",
    "evaluation",
    "figures",
    "course each_scan register predict selection doctor bench cli",
)
"""Each may import from its own and those before it."""
UPWARD = {("datasets/check.py", "figures.faces")}
"""`drfer check` draws what it found."""


def layer(module):
    """The number of a module's layer: of itself if it has one of its own, else of its folder."""
    parts = module.split(".")
    for name in (".".join(parts[:2]), parts[0]):
        for number, layer in enumerate(LAYERS):
            if name in layer.split():
                return number
    raise AssertionError(
        f"{module} belongs to no layer: docs/architecture.md has a picture of them"
    )


def test_modules_import_downwards_only():
    """As docs/architecture.md says; what type checkers alone see does not count."""
    for path in MODULES:
        relative = path.relative_to(ROOT / "drfer")
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module.startswith("drfer"):
                continue
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = {name.removeprefix("drfer.") for name in names} - {"__version__"}
            for target in targets:
                known = any(target.startswith(upper) for at, upper in UPWARD if at == str(relative))
                assert known or layer(target) <= layer(module), f"{relative} imports {target}"


WITHOUT = """
import importlib, pkgutil, sys
for name in {blocked}:
    sys.modules[name] = None
import drfer
for module in pkgutil.walk_packages(drfer.__path__, "drfer."):
    importlib.import_module(module.name)
"""


def test_every_module_can_be_imported_without_the_extras():
    names = {distribution: name for name, distribution in DISTRIBUTIONS.items()}
    blocked = sorted(names.get(name, name) for name in OPTIONAL - {"setuptools"})
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=blocked)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_public_door_opens_late_and_is_complete():
    script = "import sys, drfer; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
    for name in drfer.__all__:
        assert getattr(drfer, name) and name in dir(drfer)
    assert drfer.load_model.__module__ == "drfer.models.shipped"
    with pytest.raises(AttributeError, match="no attribute 'load_modl'"):
        drfer.load_modl


def test_a_type_checker_sees_the_doors():
    """What `__getattr__` gives late stands under TYPE_CHECKING by the same name, and the package says that it is typed."""
    [block] = [
        node
        for node in ast.parse((ROOT / "drfer/__init__.py").read_text()).body
        if isinstance(node, ast.If)
    ]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == drfer._DOORS and {*seen, "__version__"} == set(drfer.__all__)
    assert (ROOT / "drfer/py.typed").exists()


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == drfer.__version__
    newest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert newest == drfer.__version__
    command = [sys.executable, "-m", "drfer.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"drfer {drfer.__version__}\n"


def test_a_citation_names_the_kit_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    [paper] = citation["references"]
    assert paper["title"].startswith("DrFER") and paper["url"].endswith("2403.08318")


def test_the_code_is_formatted_and_its_public_part_described():
    for what in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *what, "--no-cache", "drfer", "tools", "tests"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:]
    assert not [path for path in MODULES if re.search(r"# (noqa|fmt:)", path.read_text())]


def program(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def make(folder, *arguments):
    """What `make` would do where only the programs of a folder are there, besides the system's own shell."""
    environment = {"PATH": f"{folder}:/bin:/usr/bin"}
    command = ["make", "--dry-run", f"VENV={folder / 'venv'}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "target, gpu, compiles",
    [
        ("demo", False, False),
        ("demo", True, True),
        ("lab", False, True),
        ("test", False, True),
        ("student", True, False),
    ],
)
def test_torch_cluster_is_compiled_where_it_pays(tmp_path, target, gpu, compiles):
    program(tmp_path, "nvidia-smi", "exit 0" if gpu else "exit 9")
    done = make(tmp_path, target)
    assert done.returncode == 0, done.stderr
    assert ("torch-cluster" in done.stdout) == compiles
    assert ("jupyter" in done.stdout.lower()) == (target != "demo")
    for line in done.stdout.splitlines():
        assert "pip install" not in line or "--constraint constraints.txt" in line


def test_a_python_that_is_too_old_is_passed_over(tmp_path):
    for old in ("python3", "python3.13"):
        program(tmp_path, old, "exit 1")  # as one that is too old, or a shim of pyenv's
    program(tmp_path, "python3.12", "exit 0")
    assert "python3.12 -m venv" in make(tmp_path, "demo").stdout


def test_without_notebooks_there_are_no_students_copies(tmp_path):
    """The recipe has no folder to choose: the originals cannot be named as the target."""
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    command = ["make", "student", f"BIN={tmp_path}", "--assume-old=.venv/ready-lab"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "there are no notebooks here" in done.stderr
    recipe = (ROOT / "Makefile").read_text().split("\nstudent:")[1].split("\n\n")[0]
    assert "--output-dir student" in recipe and "--inplace" not in recipe


def test_without_a_python_there_is_one_sentence(tmp_path):
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        program(tmp_path, name, "exit 1")
    for named in ([], [f"PYTHON={tmp_path / 'python3'}"]):
        command = ["make", f"VENV={tmp_path / 'venv'}", "demo", *named]
        environment = os.environ | {"PATH": f"{tmp_path}:/bin:/usr/bin"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("Python 3.11 or later with venv")
        assert not (tmp_path / "venv").exists()
