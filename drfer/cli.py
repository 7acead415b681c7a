"""The command line: `drfer reproduce` for one fold, `drfer crossval` for the evaluation, `drfer doctor` for oddities."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import tyro

from drfer.common.errors import DrferError

PACKAGES = ("torch", "torch-cluster", "numpy", "numba", "libigl", "embreex", "anny", "jupyterlab")


def reproduce(
    dataset: str = "anny3dfe",
    root: Path | None = None,
    up: str = "y",
    preset: str = "classroom",
    fold: int = 0,
    seed: int = 0,
    out: Path = Path("runs"),
) -> None:
    """Make the faces, train the three stages on one fold, test, and draw the figures.

    Args:
        dataset: anny3dfe, the open synthetic faces (made on first use); or bu3dfe, bosphorus, scans (your own).
        root: the folder of bu3dfe, bosphorus or scans.
        up: the axis that points up in your own scans: x, y, z; -x, -y, -z as in --up=-z.
        preset: paper, classroom (two cores, ten minutes) or smoke (a test of the whole, under a minute).
        fold: which of the preset's folds is tested.
        seed: of weights, batches and augmentation.
        out: folder for results; interrupted, the same command goes on from there.
    """
    from drfer.common import device
    from drfer.evaluation.reproduce import reproduce as run

    device.keep_freed_memory()
    run(dataset, preset, fold, seed, out, root, up)


@dataclass(frozen=True)
class Selection:
    """What an evaluation consists of."""

    dataset: str = "anny3dfe"
    """anny3dfe, bu3dfe, bosphorus or scans"""
    root: Path | None = None
    """the folder of bu3dfe, bosphorus or scans"""
    up: str = "y"
    """the axis that points up in your own scans: x, y, z; -x, -y, -z as in --up=-z"""
    preset: str = "classroom"
    """paper, classroom or smoke"""
    rows: tuple[str, ...] = ("main",)
    """main (baseline and DrFER), table3 (its nine rows and a control), readings (where the paper is silent), or names"""
    measures: tuple[str, ...] = ()
    """all, or of pose, features, disentanglement, diagnosis, samples"""
    folds: tuple[int, ...] = ()
    """which; all if none is named"""
    repeats: int = 1
    """how often all folds are run, the subjects shuffled anew each time"""
    redraw: bool = False
    """draw the subjects anew in each repeat"""
    seed: int = 0
    """of weights, batches and augmentation in the first repeat; each later one takes the next"""
    out: Path = Path("runs")
    """folder for the store and the results; interrupted, the same command goes on from there"""

    def open(self):
        """Source, request, store and the folder of results. Raises DrferError for names that it does not know."""
        from drfer import datasets
        from drfer.common.errors import check_known
        from drfer.evaluation import plan as evaluation
        from drfer.evaluation.experiment import PRESETS
        from drfer.evaluation.store import Store

        check_known("dataset", self.dataset, datasets.NAMES)
        check_known("preset", self.preset, PRESETS)
        preset = PRESETS[self.preset]
        preset = replace(preset, protocol=replace(preset.protocol, redraw=self.redraw))
        request = evaluation.Request.of_names(
            preset,
            self.rows,
            self.measures,
            self.folds or tuple(range(preset.protocol.folds)),
            self.repeats,
            self.seed,
        )
        name = f"{self.dataset}-{self.preset}{'-redrawn' if self.redraw else ''}"
        root = self.root and self.root.absolute()  # workers may stand in another folder
        return (
            evaluation.Source(self.dataset, root, self.up),
            request,
            Store(self.out / "store"),
            self.out / name,
        )


Selected = Annotated[Selection, tyro.conf.arg(name="")]


def crossval(
    selection: Selected,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    gpus: float = 0.0,
    threads: int = 1,
) -> None:
    """Run the protocol: rows of table III and measurements over folds and repeats. What the store has is not run again.

    Args:
        engine: local, in this process; or ray, on a cluster (pip install "drfer[cluster]").
        address: of a running Ray cluster; without one, Ray starts on this machine.
        workers: jobs at a time of a Ray on this machine; as many as cores if not given.
        gpus: that a job on Ray takes, such as 0.25.
        threads: that a job on Ray takes.
    """
    from drfer.common import device
    from drfer.evaluation import engine as engines
    from drfer.evaluation import plan as evaluation
    from drfer.figures import paper as paper_figures

    device.keep_freed_memory()
    source, request, store, folder = selection.open()
    store.check_writable()
    bench = evaluation.Bench(source, request.preset, store)
    jobs = evaluation.plan(request, bench.faces)
    bench.prepare(jobs)
    if engine == "ray":
        place = engines.Place(source, request.preset, store.root.absolute())
        failed = engines.run_on_ray(jobs, place, address, workers, gpus, threads)
    else:
        failed = engines.run_here(jobs, bench)
    evaluation.collect(request, source, bench.faces, store, folder)
    print("Written:", *paper_figures.draw(selection.out, selection.out), sep="\n  ")
    if failed:
        raise DrferError(
            f"{len(failed)} of {len(jobs)} jobs failed or wait for one that did; `drfer status` says why"
        )


def status(selection: Selected) -> None:
    """Say how far an evaluation is: give it the arguments of `drfer crossval`."""
    from drfer.evaluation import engine as engines
    from drfer.evaluation import plan as evaluation

    source, request, store, _ = selection.open()
    bench = evaluation.Bench(source, request.preset, store)
    print(engines.status(evaluation.plan(request, bench.faces), store))


def figures(results: Path | None = None, out: Path | None = None) -> None:
    """Draw the paper's figures 1 to 6 and tables I to III from stored results, in seconds.

    Args:
        results: the folder of evaluations; if not given, the checkout's figures folder, else ./figures.
        out: the folder to draw into; if not given, the results folder.
    """
    from drfer.figures.paper import draw

    print("Written:", *draw(results, out), sep="\n  ")


def faces(subjects: int = 100, seed: int = 0, sheet: Path | None = None) -> None:
    """Make the open faces and say where they are.

    Args:
        subjects: how many, at most 100.
        seed: another seed, another population.
        sheet: a picture to draw of three subjects, neutral and at the highest level.
    """
    from drfer.datasets.anny3dfe.database import VERSION, Anny3DFE
    from drfer.figures import run as figures

    database = Anny3DFE(subjects, seed)
    if sheet:
        shown = [database.subjects[number] for number in {0, subjects // 2, subjects - 1}]
        scans = [
            [
                database.load(key)
                for key in database.keys()
                if key.subject == subject and key.level in (0, 4)
            ]
            for subject in sorted(shown)
        ]
        figures.scan_sheet(scans, f"Anny-3DFE {VERSION}, seed {seed}: scans as they come").savefig(
            sheet, dpi=80
        )
    print(
        f"{len(database.keys())} scans of {subjects} subjects in {database.root}, hash {database.hash[:16]}"
    )


def check(
    dataset: tyro.conf.Positional[str],
    folder: tyro.conf.Positional[Path],
    up: str = "y",
    sheet: Path | None = Path("check.png"),
) -> None:
    """Say what a folder of scans holds, what is missing or broken, and whether the 10-fold protocol can run.

    Args:
        dataset: bu3dfe, bosphorus or scans.
        folder: where it lies.
        up: the axis that points up in your own scans: x, y, z; -x, -y, -z as in --up=-z.
        sheet: a picture to draw of one scan of each class.
    """
    from drfer.datasets import open_dataset
    from drfer.datasets.check import check as run
    from drfer.evaluation.protocol import Protocol

    if dataset == "anny3dfe":
        raise DrferError(
            "anny3dfe is made by this kit and checks itself; check takes bu3dfe, bosphorus or scans"
        )
    if not run(open_dataset(dataset, folder, up=up), Protocol(), sheet):
        sys.exit(1)


def bench(json: Path | None = None) -> None:
    """Time training steps, chamfer and preprocessing beside their plain forms (and PyTorch Geometric, if installed).

    Args:
        json: a file for the same figures.
    """
    from dataclasses import asdict
    from json import dumps

    from drfer.evaluation.experiment import provenance
    from drfer.fast import bench as benchmark

    rows = benchmark.run()
    print(benchmark.table(rows))
    if json:
        json.write_text(
            dumps({"rows": [asdict(row) for row in rows], "provenance": provenance()}, indent=1)
        )


def predict(
    scans: tyro.conf.Positional[tuple[Path, ...]],
    up: str = "y",
    out: Path = Path("runs/predicted"),
    json: bool = False,
) -> None:
    """Say which expression each scan shows, by the trained model that comes with the kit, and draw what it saw.

    Args:
        scans: OBJ, PLY, STL, .wrl or .bnt, each of one face, turned by up to 30 degrees from the front.
        up: the axis that points up in them: x, y, z; -x, -y, -z as in --up=-z.
        out: folder for the pictures.
        json: print JSON, one line a scan, instead of text.
    """
    from json import dumps

    from drfer import predict as predicting
    from drfer.common.files import written_whole
    from drfer.models import shipped

    loaded = shipped.load()
    if loaded is None:
        raise DrferError(f"this checkout has no trained model: {shipped.PATH.name} is missing")
    if not scans:
        raise DrferError("name at least one scan")
    refused = 0
    for number, path in enumerate(scans, 1):
        try:
            found = predicting.predict(loaded[0], predicting.read_scan(path, up))
        except DrferError as error:  # the others may be faces
            refused += 1
            print(
                dumps({"scan": str(path), "refused": str(error)})
                if json
                else f"{path}: refused\n  {error}"
            )
            continue
        drawn = out / f"{number:02d}-{path.stem}.png"
        with written_whole(drawn) as target:
            predicting.picture(found).savefig(target, dpi=80)
        print(
            dumps(found.as_json() | {"picture": str(drawn)})
            if json
            else f"{found.as_text()}\n  picture: {drawn}"
        )
    if refused:
        sys.exit(2)


def doctor() -> None:
    """Say what is installed, what computes where, and what is amiss."""
    import torch

    from drfer.common import device
    from drfer.common.files import cache_folder
    from drfer.models import points as pointops

    print(f"python          {sys.version.split()[0]}")
    for package in PACKAGES:
        print(f"{package:<15} {_version(package)}")
    cuda = torch.cuda.is_available()
    print(
        f"device          {torch.cuda.get_device_name() if cuda else f'CPU, {torch.get_num_threads()} threads'}"
    )
    print(
        f"precision       {'bfloat16 (native here)' if device.has_bfloat16() else 'float32 (no native bfloat16)'}"
    )
    for where, what in pointops.backends().items():
        print(f"FPS on {where:<8} {what}")
    if (
        cuda
        and not pointops.torch_cluster_has_cuda()
        and _version("torch-cluster") != "not installed"
    ):
        print(
            "amiss           this machine has a GPU, but torch-cluster was built without CUDA: rebuild it (README)"
        )
    print(f"faces cached in {cache_folder()}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                command.__name__: command
                for command in (
                    reproduce,
                    crossval,
                    status,
                    figures,
                    faces,
                    check,
                    predict,
                    bench,
                    doctor,
                )
            },
            prog="drfer",
            description="DrFER: disentangled representations for 3D facial expression recognition.",
        )
    except DrferError as error:
        print(f"drfer: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ndrfer: interrupted; reproduce and crossval go on where they were", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
