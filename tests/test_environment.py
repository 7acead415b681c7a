"""environment.yml names the packages and versions of pyproject.toml."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch": "torch", "pytorch_cluster": "torch-cluster"}
DIFFERENT = {"torch": "2.11"}  # conda-forge builds pytorch_cluster for this one


def test_conda_and_pip_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = dict(
        line.split("==") for line in [*project["dependencies"], *extras["test"], *extras["gpu"]]
    )
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_pip = dict(
        line.split("==")
        for line in next(entry["pip"] for entry in listed if isinstance(entry, dict))
    )
    from_conda = dict(
        entry.split("=") for entry in listed if isinstance(entry, str) and "=" in entry
    )
    assert from_conda.pop("python") == "3.11" and project["requires-python"].startswith(">=3.11")
    everything = from_pip | {
        CONDA_NAMES.get(name, name): version for name, version in from_conda.items()
    }
    assert everything == pinned | DIFFERENT
