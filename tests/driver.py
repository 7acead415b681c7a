"""A tiny evaluation: as a request, and as a process of `drfer` that something may befall.

Run as a program, this is `drfer` with a preset of few steps, and it says aloud what it has stored.
With MADE_UP_FACES in its environment, its open faces are random numbers.
"""

import os
import subprocess
import sys
import time
from dataclasses import replace

from drfer.evaluation.collect import collect
from drfer.evaluation.plan import Request
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.rows import BASELINE, METHOD
from drfer.training.stages import STAGES

SMOKE = PRESETS["smoke"]
TINY = replace(
    SMOKE,
    schedules={
        name: replace(SMOKE.schedule(stage), epochs=2 if name == "i-expression" else 1)
        for name, stage in STAGES.items()
    },
)
ROWS = (BASELINE, METHOD, "w/o L_tri")


def tiny_request(rows=ROWS, measures=("features",), folds=(0, 1), seed=0) -> Request:
    """Return the request of an evaluation that takes seconds."""
    return Request.of_names(TINY, rows, measures, folds, repeats=1, seed=seed)


def same_result(finished, faces, request, store, folder) -> bool:
    """Whether a store's result is, to the byte, that of the evaluation done in one go."""
    written = []
    for name, of in (("again", store), ("once", finished.store)):
        collect(request, faces, of, folder / name)
        written.append((folder / name / "result.json").read_bytes())
    return written[0] == written[1]


def wait_until(condition, seconds=120):
    """Wait until a condition holds; returns what it gave."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.01)
    return found


def start(*arguments, **options) -> subprocess.Popen:
    """Start the tiny evaluation's command line as a process."""
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def counts(text):
    """The table of `drfer status`: done, running, failed and to do of each kind."""
    lines = (line.split() for line in text.splitlines())
    return {
        line[0]: tuple(map(int, line[1:])) for line in lines if len(line) == 5 and line[1].isdigit()
    }


def draw_nothing(results, out):
    """Stand in for the figures, which have tests of their own."""
    for result in results.glob("*/result.json"):
        result.with_name("table.md").write_text("no table")
    return []


def announcing(what, function):
    """Return the method, followed by a line that says what it has stored under which name."""

    def announced(self, name, *arguments):
        function(self, name, *arguments)
        print(what, name, flush=True)

    return announced


def main():
    """Run the command line."""
    from drfer import cli
    from drfer.evaluation import experiment
    from drfer.evaluation.store import Store
    from drfer.figures import paper

    experiment.CHECKPOINT_SECONDS = 0
    PRESETS["smoke"] = TINY
    Store.save = announcing("saved", Store.save)
    Store.save_checkpoint = announcing("kept", Store.save_checkpoint)
    paper.draw = draw_nothing
    if "MADE_UP_FACES" in os.environ:
        from made_up_populations import make_up

        make_up(setattr)
    cli.main()


if __name__ == "__main__":
    main()
