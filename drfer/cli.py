"""The command line: one function for each command, and no more than its arguments in it.

`drfer reproduce` runs one fold, `drfer crossval` the evaluation; `drfer doctor` says what is amiss.
"""

from __future__ import annotations

import gc
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro

from drfer import __version__
from drfer.common.errors import DrferError
from drfer.selection import Selection

NARROWEST = 40
"""Columns of a terminal below which help is set as if there were so many."""


def reproduce(
    dataset: str = "anny3dfe",
    root: Path | None = None,
    up: str = "y",
    preset: str = "classroom",
    fold: int = 0,
    seed: int = 0,
    train_share: float = 1.0,
    start: str | None = None,
    out: Path = Path("runs"),
) -> None:
    """Make the faces, train the three stages and the control on one fold, test, and draw figures.

    Args:
        dataset: anny3dfe, the open synthetic faces (made on first use); or bu3dfe, bosphorus, or
            scans (your own).
        root: the folder of bu3dfe, bosphorus or scans.
        up: the axis that points up in your own scans: x, y, z; -x, -y, -z as in --up=-z.
        preset: paper; classroom (a quarter of its sizes, a quarter of an hour on two cores); short
            (the same far from convergence, some minutes); or smoke (a test of it all in a minute).
        fold: which of the preset's folds is tested.
        seed: of weights, batches and augmentation.
        train_share: of the fold's training subjects, how many are trained on, such as 0.25.
        start: shipped, to begin with the weights of the kit's trained model.
        out: the folder for results; if interrupted, the same command goes on from there.
    """
    selection = Selection(
        dataset,
        root,
        up,
        preset,
        rows=("stage i", "stage i + ii", "stage i + ii + iii", "stage i, as long"),
        measures=("features", "curves", "samples"),
        folds=(fold,),
        seed=seed,
        train_share=train_share,
        start=start,
        out=out,
    )
    evaluation = selection.open()
    evaluation.run()
    written = _draw(out)
    print((evaluation.folder / "table.md").read_text())
    print("Written:", *written, sep="\n  ")


Selected = Annotated[Selection, tyro.conf.arg(name="")]


def crossval(
    selection: Selected,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    gpus: float = 0.0,
    threads: int = 1,
) -> None:
    """Run rows of tables and measures over folds or draws; what is done is not run again.

    Args:
        selection: what the evaluation consists of.
        engine: local, in this process; or ray, on a cluster (pip install "drfer[cluster]").
        address: HOST:PORT of a running Ray cluster; without it, Ray starts on this machine.
        workers: jobs at a time of a Ray on this machine; as many as cores if not given.
        gpus: how much of a GPU a job on Ray takes, such as 0.25.
        threads: how many threads a job on Ray takes.
    """
    if engine != "ray":
        of_ray = {
            "address": address is not None,
            "workers": workers is not None,
            "gpus": gpus != 0,
            "threads": threads != 1,
        }
        for name, is_said in of_ray.items():
            if is_said:
                raise DrferError(f"--{name} is for Ray: say --engine ray, too, or leave it away")
    evaluation = selection.open()
    try:
        if engine == "ray":
            evaluation.run_on_ray(address, workers, gpus, threads)
        else:
            evaluation.run()
    finally:
        if (evaluation.folder / "result.json").exists():
            print("Written:", *_draw(selection.out), sep="\n  ")


def status(selection: Selected) -> None:
    """Say how far an evaluation is: give it the arguments of `drfer crossval`."""
    print(selection.open(to_run=False).status())


def _draw(folder: Path) -> list[Path]:
    from drfer.figures.paper import draw

    return draw(folder, folder)


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
        seed: another seed gives another population.
        sheet: a new PNG file, to draw three subjects into: neutral, and at the highest intensity.
    """
    from drfer.datasets.anny3dfe import VERSION, Anny3DFE
    from drfer.figures.faces import scan_sheet
    from drfer.figures.style import save

    _check_new_picture(sheet)
    database = Anny3DFE(subjects, seed)
    count = len(database.keys())
    print(f"{count} scans of {subjects} subjects in {database.root}, hash {database.hash[:16]}")
    if sheet:
        shown = [database.subjects[number] for number in sorted({0, subjects // 2, subjects - 1})]
        scans = [
            [
                database.load(key)
                for key in database.keys()
                if key.subject == subject and key.intensity in (0, 4)
            ]
            for subject in shown
        ]
        title = f"Anny-3DFE {VERSION}, seed {seed}: scans as they come"
        print(f"three of them: {save(scan_sheet(scans, title), sheet)}")


def check(
    dataset: tyro.conf.Positional[str],
    folder: tyro.conf.Positional[Path],
    up: str = "y",
    sheet: Path | None = None,
) -> None:
    """Say what a folder of scans holds, what is missing, and whether the protocol can run on it.

    Args:
        dataset: bu3dfe, bosphorus or scans.
        folder: where it lies.
        up: the axis that points up in your own scans: x, y, z; -x, -y, -z as in --up=-z.
        sheet: a new PNG file, to draw one scan of each class into; runs/checked if not given.
    """
    from drfer.datasets import open_dataset
    from drfer.datasets.check import check as run
    from drfer.evaluation.protocol import Protocol

    if dataset == "anny3dfe":
        raise DrferError(
            "anny3dfe is made by this kit and checks itself; check takes bu3dfe, bosphorus or scans"
        )
    _check_new_picture(sheet)
    drawn = sheet or Path("runs/checked", f"{dataset}-{folder.resolve().name}.png")
    if not run(open_dataset(dataset, folder, up=up), Protocol(), drawn):
        sys.exit(1)


def bench(json: Path | None = None) -> None:
    """Time training steps, chamfer and preprocessing beside their plain forms.

    PyTorch Geometric is timed too, if it is installed.

    Args:
        json: a file for the same figures.
    """
    from drfer.bench import report

    print(report(json))


def register(
    scans: tyro.conf.Positional[tuple[Path, ...]],
    up: str = "y",
    unit: str | None = None,
    out: Path = Path("runs/registered"),
) -> None:
    """Lay the common mesh onto scans, without landmarks; write mesh, pose and picture of each.

    Args:
        scans: OBJ, PLY, STL, XYZ, NPY, .wrl or .bnt; each of one face, turned by up to 40 degrees.
        up: the axis that points up in them: x, y, z; -x, -y, -z as in --up=-z.
        unit: mm, cm, m, in or um; judged by each scan's size if not given.
        out: the folder to write into.
    """
    with _loading():
        from drfer.register import answers

    _print_all(answers(scans, up, unit, out), lambda answer: answer.as_text())


def predict(
    scans: tyro.conf.Positional[tuple[Path, ...]],
    up: str = "y",
    unit: str | None = None,
    out: Path = Path("runs/predicted"),
    neutral: Path | None = None,
    mesh: bool = False,
    json: bool = False,
) -> None:
    """Say which expression each scan shows, by the kit's trained model, and draw what it saw.

    Args:
        scans: OBJ, PLY, STL, XYZ, NPY, .wrl or .bnt; each of one face, turned by up to 40 degrees.
        up: the axis that points up in them: x, y, z; -x, -y, -z as in --up=-z.
        unit: mm, cm, m, in or um; judged by each scan's size if not given.
        out: the folder for the pictures.
        neutral: a neutral scan of the same person, which makes the answers much better; none of the
            classes is neutral then.
        mesh: write what `drfer register` writes, too.
        json: print JSON, one line for each scan, instead of text.
    """
    from json import dumps

    with _loading():
        from drfer.models.recogniser import load_recogniser
        from drfer.models.shipped import load_model
        from drfer.predict import answers, person_of

    model, _ = load_model()
    namer = person_of(neutral, up, unit) if neutral else load_recogniser()
    _print_all(
        answers(model, namer, scans, up, unit, out, mesh),
        lambda answer: dumps(answer.as_json()) if json else answer.as_text(),
    )


@contextmanager
def _loading() -> Iterator[None]:
    """Do without the garbage collector while modules are loaded.

    All that they make stays, and to look through it again and again takes a tenth of the time until
    a scan is answered.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _print_all(answers: Iterator, form: Callable[..., str]) -> None:
    """Print answers as they come; exit code 2 if any scan was refused."""
    complete = True
    for answer in answers:
        print(form(answer), flush=True)
        complete = complete and not answer.refusal
    if not complete:
        sys.exit(2)


def doctor() -> None:
    """Say what is installed, what computes where, and what is missing, with the command for it."""
    from drfer.doctor import report

    for line in report():
        print(line)


def _check_new_picture(path: Path | None) -> None:
    """Refuse to draw over a file: it may be one of the scans, or of a user's own pictures."""
    if path and path.suffix.lower() != ".png":
        raise DrferError(f"--sheet {path}: pictures are PNG; give a name that ends in .png")
    if path and path.exists():
        raise DrferError(f"--sheet {path} is there already; remove it, or give another name")


COMMANDS = (reproduce, crossval, status, figures, faces, check, register, predict, bench, doctor)


def main() -> None:
    """Run a command; a user's mistake is one sentence and exit code 2."""
    _prepare_terminal()
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()
    except DrferError as error:
        _stop(str(error), 2)
    except ModuleNotFoundError as error:
        from drfer.doctor import sentence_for

        if (sentence := sentence_for(error)) is None:
            raise
        _stop(sentence, 2)
    except BrokenPipeError:  # as in `drfer ... | head -1`: whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        _stop("interrupted; reproduce and crossval go on where they were", 130)


def _run() -> None:
    if sys.argv[1:] == ["--version"]:
        print(f"drfer {__version__}")
        return
    tyro.extras.subcommand_cli_from_dict(
        {command.__name__: command for command in COMMANDS},
        prog="drfer",
        description="DrFER: disentangled representations for 3D facial expression recognition. "
        "`drfer --version` says which drfer this is.",
    )


def _prepare_terminal() -> None:
    """Make the program's surroundings such that printing and drawing cannot fail."""
    # a stream that is closed, as by `drfer ... >&-`, is None
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    os.environ["MPLBACKEND"] = "Agg"  # all pictures go to files


def _stop(sentence: str, code: int) -> NoReturn:
    print(f"drfer: {sentence}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
