"""`drfer` as a process that something may befall: with a preset of few steps, and saying aloud what it has just done."""

from dataclasses import replace

from drfer import cli
from drfer.evaluation import experiment
from drfer.evaluation.experiment import PRESETS
from drfer.evaluation.plan import BASELINE, METHOD, Request
from drfer.evaluation.store import Store
from drfer.figures import paper as paper_figures

TINY = replace(
    PRESETS["smoke"],
    trainings={
        name: replace(training, epochs=2 if name == "i-expression" else 1)
        for name, training in PRESETS["smoke"].trainings.items()
    },
)
ROWS = (BASELINE, METHOD, "w/o L_tri")


def tiny_request(rows=ROWS, measures=("features",), folds=(0, 1)) -> Request:
    return Request.of_names(TINY, rows, measures, folds, repeats=1, seed=0)


def announcing(what, function):
    def announced(self, name, *arguments):
        function(self, name, *arguments)
        print(what, name, flush=True)

    return announced


if __name__ == "__main__":
    experiment.CHECKPOINT_SECONDS = 0
    PRESETS["smoke"] = TINY
    Store.save, Store.save_checkpoint = (
        announcing("saved", Store.save),
        announcing("kept", Store.save_checkpoint),
    )
    paper_figures.draw = lambda *folders: []  # it has tests of its own
    cli.main()
