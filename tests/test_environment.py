"""constraints.txt, pyproject.toml and environment.yml name the same packages, and versions that fit."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAMES = {"pytorch": "torch", "pytorch_cluster": "torch-cluster"}
DIFFERENT = {"torch": "2.11"}  # conda-forge builds pytorch_cluster for this one


def declared(*extras):
    """What an installation with these extras asks for, by canonical name."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    found = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    inner = found.pop("drfer", None)
    return found if inner is None else found | declared(*inner.extras)


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_each_declared_package_has_a_pin_within_its_range():
    pinned = pins()
    for name, requirement in declared(*EXTRAS).items():
        assert name in pinned, f"{name} has no exact version in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} excludes the pin"


def test_what_the_packages_ask_for_is_pinned_too():
    """Over all packages that are installed here, as deep as their own requirements go."""
    pinned, seen, waiting = pins(), set(), list(declared(*EXTRAS).values())
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        assert name in pinned or name.startswith("nvidia-"), f"{name} has no pin"
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue  # such as PyTorch Geometric, which only `drfer bench` takes
        for inner in map(Requirement, lines):
            wanted = [{"extra": extra} for extra in ("", *requirement.extras)]
            if inner.marker is None or any(map(inner.marker.evaluate, wanted)):
                waiting.append(inner)
    assert len(seen) > 80


def test_the_pins_are_sorted_and_exact():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    names = [line.split("==")[0] for line in lines if not line.startswith("#")]
    assert names == sorted(set(map(canonicalize_name, names)))
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines if line[0] != "#")


def test_conda_and_pip_agree():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_pip = dict(
        line.split("==")
        for line in next(entry["pip"] for entry in listed if isinstance(entry, dict))
    )
    from_conda = dict(
        entry.split("=") for entry in listed if isinstance(entry, str) and "=" in entry
    )
    assert PROJECT["requires-python"] == f">={from_conda.pop('python')}"
    everything = from_pip | {
        CONDA_NAMES.get(name, name): version for name, version in from_conda.items()
    }
    wanted = declared("test", "gpu")
    assert everything == {name: pins()[name] for name in wanted} | DIFFERENT
    assert all(wanted[name].specifier.contains(version) for name, version in DIFFERENT.items())
