"""What an evaluation gave: flat entries, each with the hash of all that determined it.

Figures and tables read results and never run anything. To merge two results is to join two
dictionaries. A results folder holds one folder for each evaluation, with three files:

- result.json: a heading and the entries, the same to the byte whenever and wherever they were made;
- provenance.json: where, when, with what and how long each was made;
- samples.npz: arrays of the first run, for pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from drfer.common.errors import DrferError
from drfer.common.files import write_json, written_whole
from drfer.evaluation.protocol import Draws, Protocol, protocol_of
from drfer.evaluation.result_format import FORMAT, parse_result, parse_samples, position_of
from drfer.evaluation.rows import ROWS

TITLES = {
    "anny3dfe": "Anny-3DFE (synthetic)",
    "bu3dfe": "BU-3DFE",
    "bosphorus": "Bosphorus",
    "scans": "own scans",
}
"""How figures and tables call the datasets."""


@dataclass(frozen=True, eq=False)
class Result:
    """The entries of one evaluation.

    Attributes:
        heading: what was evaluated: "dataset", "data hash", "preset", "precision", "seed",
            "protocol", "expressions", "poses". Without it, a dataset that was not evaluated.
        entries: by name. Each has "kind" (such as "test", or a measure's name), "repeat", "fold"
            (of a draw its number, and 0), and "result", the name of what the store has of it; the rest depends on its kind.
        samples: arrays for pictures, by name; empty if they were not asked for.
    """

    heading: dict
    entries: dict[str, dict] = field(default_factory=dict)
    samples: dict[str, np.ndarray] = field(default_factory=dict)

    def select(self, kind: str, **wanted) -> list[dict]:
        """Return the entries of a kind whose fields have the wanted values, in order."""
        return [
            entry
            for entry in self.entries.values()
            if entry["kind"] == kind
            and all(entry.get(name) == value for name, value in wanted.items())
        ]

    def tests(self, row: str) -> list[dict]:
        """Return what was predicted in a row: one entry a fold, with "truth" and "predicted"."""
        return self.select("test", row=row)

    def merged(self, other: Result) -> Result:
        """Return the entries of both, and the samples of the run that comes first.

        Raises:
            DrferError: they are of other data, another preset, seed or protocol, or both have an
                entry for one place in a table, of different versions of drfer.
        """
        names = self.heading | other.heading
        differing = [k for k in names if self.heading.get(k) != other.heading.get(k)]
        if differing:
            raise DrferError(f"results of another {', '.join(differing)} cannot be put together")
        both = self.entries | other.entries
        if len({position_of(entry) for entry in both.values()}) < len(both):
            raise DrferError("results of another version of drfer cannot be put together")
        ordered = dict(sorted(both.items(), key=lambda item: position_of(item[1])))
        of_first_run = min((self, other), key=lambda result: (not result.samples, result._sampled))
        return replace(self, entries=ordered, samples=of_first_run.samples)

    @cached_property
    def rows(self) -> list[str]:
        """The rows that were tested, in the order of the tables."""
        tested = {entry["row"] for entry in self.select("test")}
        return [row for row in ROWS if row in tested]

    @cached_property
    def folds(self) -> list[tuple[int, int]]:
        """The (repeat, fold) of which there is anything."""
        return sorted({(entry["repeat"], entry["fold"]) for entry in self.entries.values()})

    @cached_property
    def protocol(self) -> Protocol | Draws:
        """The protocol of the evaluation."""
        return protocol_of(self.heading["protocol"])

    @property
    def _sampled(self) -> tuple[int, int]:
        """The (repeat, fold) that the samples are of; they are of the first run that has any."""
        return min(((e["repeat"], e["fold"]) for e in self.select("samples")), default=(0, 0))

    @property
    def expressions(self) -> list[str]:
        """The classes by their labels."""
        return self.heading["expressions"]

    @property
    def dataset(self) -> str:
        """The dataset's name on the command line."""
        return self.heading["dataset"]

    @property
    def name(self) -> str:
        """The name of the evaluation's folder."""
        return folder_name(
            self.dataset, self.heading["preset"], self.protocol, self.heading["seed"]
        )

    @property
    def title(self) -> str:
        """How tables and figures call the evaluation."""
        dataset = TITLES.get(self.dataset, self.dataset)
        preset = self.heading.get("preset")
        return f"{dataset}, {preset}{self.protocol.note}" if preset else dataset

    @property
    def caption(self) -> str:
        """What every figure says of its origin."""
        seed, data = self.heading["seed"], self.heading["data hash"][:8]
        dataset, preset = TITLES.get(self.dataset, self.dataset), self.heading["preset"]
        return f"{dataset}, {preset} preset{self.protocol.note}, seed {seed}, data {data}"

    def save(self, folder: Path) -> None:
        """Write result.json, and samples.npz if there are samples.

        Raises:
            DrferError: the folder cannot be written.
        """
        content = {"format": FORMAT, "heading": self.heading, "entries": self.entries}
        write_json(folder / "result.json", content)
        if self.samples:
            with written_whole(folder / "samples.npz") as target:
                np.savez_compressed(target, **dict(sorted(self.samples.items())))


def folder_name(dataset: str, preset: str, protocol: Protocol | Draws, seed: int) -> str:
    """Return the name of an evaluation's folder."""
    return f"{dataset}-{preset}{protocol.suffix}{f'-seed{seed}' if seed else ''}"


def load_results(folder: Path) -> list[Result]:
    """Return the results of every evaluation in a folder, by name.

    Raises:
        DrferError: there is no such folder, or a file in it is not what `Result.save` wrote.
    """
    if not folder.is_dir():
        raise DrferError(f"there is no folder {folder}: say with --results where the results are")
    return [load_result(path.parent) for path in sorted(folder.glob("*/result.json"))]


def load_result(folder: Path) -> Result:
    """Return the result in an evaluation's folder.

    Raises:
        DrferError: a file in it cannot be read, or is not what `Result.save` wrote.
    """
    path = folder / "result.json"
    try:
        heading, entries = parse_result(path.read_text(encoding="utf-8"))
        path = folder / "samples.npz"
        samples = parse_samples(path.read_bytes(), heading) if path.exists() else {}
    except OSError as error:
        reason = error.strerror or error
        raise DrferError(f"{path} cannot be read ({reason}); make it readable") from None
    except Exception as error:  # whatever json, numpy and zipfile make of wrong bytes
        raise DrferError(
            f"{path} is not a result of this version of drfer ({error!r}): evaluate again into "
            "another folder, or take it away"
        ) from None
    return Result(heading, entries, samples)
