"""Coverage-guided search for a file that a reader neither reads nor refuses in one sentence.

Needs atheris (pip install atheris; not collected by pytest). One format a run, with libFuzzer's
options; FOLDER keeps the inputs that reached new code, and what fails is written beside it as
crash-*, timeout-* or oom-*:

    PYTHONPATH=.:tests python tests/fuzz_readers.py bnt FOLDER \\
        -max_total_time=300 -rss_limit_mb=1000 -timeout=5
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["drfer.datasets", "trimesh.exchange"]):
    import licensed
    import trimesh  # noqa: F401

from drfer.common.errors import ScanFormatError
from drfer.datasets.anny3dfe import Anny3DFE


def main() -> None:
    suffix, folder = sys.argv.pop(1), Path(sys.argv[1])
    database = Anny3DFE(1)
    folder.mkdir(parents=True, exist_ok=True)
    content, read = licensed.small_files(database.load(database.keys()[0]), 60, 12.0)[suffix]
    (folder / "sound").write_bytes(content)
    logging.disable()
    warnings.simplefilter("error")  # a warning is a second sentence
    path = Path(tempfile.mkdtemp()) / f"input.{suffix}"

    def one_input(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except ScanFormatError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
