"""The command line as a stranger meets it: files from a run, and one sentence for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from drfer import cli, doctor
from drfer.figures import style

TABLE = "runs/checked/scans-mine.png"


def drfer(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "drfer.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )


@pytest.fixture
def stop(monkeypatch, capsys, tmp_path):
    """A command in this process and in an empty folder: its exit code, and what it said on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["drfer", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, capsys.readouterr().err

    return run


def test_reproduce_goes_from_faces_to_figures(faces, tmp_path):
    done = drfer("reproduce", "--preset", "smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    [folder] = [path for path in tmp_path.iterdir() if (path / "result.json").exists()]
    assert folder.name.startswith("anny3dfe-smoke") and str(folder) in done.stdout
    assert "| stage i + ii + iii |" in done.stdout and "89.15" in done.stdout
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    for picture in folder.parent.rglob("*.png"):
        assert picture.stat().st_size > 2000


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["reproduce", "--dataset", "bu4dfe"], "no dataset 'bu4dfe'"),
        (["reproduce", "--preset", "huge"], "no preset 'huge'"),
        (["reproduce", "--preset", "smoke", "--fold", "4"], "no fold 4"),
        (["reproduce", "--preset", "smoke", "--fold", "-1"], "no fold -1"),
        (["reproduce", "--preset", "smoke", "--seed", "-1"], "-1 is no seed"),
        (["reproduce", "--preset", "smoke", "--seed", 2**31], "give one from 0 to 2147483647"),
        (["reproduce", "--preset", "smoke", "--out", "/proc/nowhere"], "cannot write"),
        (["reproduce", "--preset", "smoke", "--train-share", "0"], "0.0 is no share of 9"),
        (["reproduce", "--preset", "smoke", "--train-share", "1.1"], "at most 1"),
        (["reproduce", "--train-share", "nan"], "nan is no share"),
        (["reproduce", "--start", "mine", "--dataset", "scans"], "no start 'mine'"),
        (["crossval", "--draws", "2", "--train-share", "0.5"], "has no folds"),
        (["crossval", "--preset", "smoke", "--workers", "2"], "say --engine ray"),
        (["crossval", "--preset", "smoke", "--address", "localhost:1"], "--address is for Ray"),
        (
            ["crossval", "--rows", "stage"],
            'choose from main, table3, control, bounds, beyond, readings, "w/o L_tri"',
        ),
        (["crossval", "--draws", "1", "--start", "shipped", "--preset", "paper"], "say --preset"),
        (
            ["crossval", "--draws", "1", "--start", "shipped", "--rows", "w/o skip"],
            "leave w/o skip",
        ),
        (["faces", "--subjects", "12", "--seed", "-1"], "-1 is no seed"),
        (["faces", "--subjects", "0"], "1 to 100 subjects, not 0"),
        (["faces", "--subjects", "12", "--sheet", "faces.xyz"], "ends in .png"),
        (["faces", "--subjects", "12", "--sheet", "/proc/no/faces.png"], "cannot write"),
        (["check", "scans", "nowhere"], "nowhere is not a folder"),
        (["check", "anny3dfe", "."], "checks itself"),
        (["bench", "--json", "."], "is a folder"),
        (["bench", "--json", "/proc/nowhere/bench.json"], "cannot write"),
        (["predict"], "at least one scan"),
        (["predict", "face.ply", "--up", "w"], "no axis 'w'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, sentence, stop, faces, tmp_path):
    code, said = stop(*arguments)
    assert code == 2 and sentence in said and said.startswith("drfer: ")
    assert said.count("\n") == 1, said
    assert not list(tmp_path.iterdir()), "nothing half-written"


@pytest.fixture
def own_scans(database, tmp_path):
    """A folder with one scan of a user's own, below the current one."""
    import trimesh

    folder = tmp_path / "mine"
    folder.mkdir()
    scan = database.load(database.keys()[0])
    trimesh.Trimesh(scan.points, scan.triangles, process=False).export(folder / "anna.ply")
    return folder


def test_check_draws_into_a_folder_of_its_own(own_scans, tmp_path, stop, capsys):
    (tmp_path / "check.png").write_text("mine")
    assert stop("check", "scans", own_scans)[0] == 1  # one subject is too few for the protocol
    assert (tmp_path / "check.png").read_text() == "mine"
    assert Image.open(tmp_path / TABLE).size[0] > 100
    assert stop("check", "scans", own_scans)[0] == 1


def test_a_sheet_is_never_drawn_over_a_file(own_scans, stop):
    before = (own_scans / "anna.ply").read_bytes()
    texture = own_scans / "anna.png"
    texture.write_text("a texture")
    for sheet, sentence in (
        (own_scans / "anna.ply", "ends in .png"),
        (texture, "is there already"),
    ):
        for command in (["check", "scans", own_scans], ["faces", "--subjects", "12"]):
            code, said = stop(*command, "--sheet", sheet)
            assert code == 2 and sentence in said and said.count("\n") == 1
    assert (own_scans / "anna.ply").read_bytes() == before and texture.read_text() == "a texture"


def test_faces_draws_a_sheet_in_a_new_folder(faces, tmp_path):
    sheet = tmp_path / "new" / "faces.png"
    done = drfer("faces", "--subjects", 12, "--sheet", sheet)
    assert done.returncode == 0, done.stderr
    assert "300 scans of 12 subjects" in done.stdout and Image.open(sheet).size[1] > 300


def test_a_disk_that_is_full_is_one_sentence(faces, stop, monkeypatch):
    full = Path("/dev/full")
    monkeypatch.setattr(style, "png", lambda *arguments: full.write_bytes(b"x" * 10_000))
    code, said = stop("faces", "--subjects", "12", "--sheet", "faces.png")
    assert code == 2 and "No space left on device" in said and said.count("\n") == 1


@pytest.mark.parametrize("columns", ["1", "2", "5", "80"])
def test_help_comes_to_an_end_in_any_terminal(columns):
    for arguments in (["--help"], ["crossval", "--help"]):
        done = drfer(*arguments, env=os.environ | {"COLUMNS": columns}, timeout=60)
        assert done.returncode == 0 and "help" in done.stdout


def in_a_shell(command, **environment):
    command = command.replace("drfer", f"{sys.executable} -m drfer.cli")
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("command", ["drfer --help", "drfer doctor", "drfer doctor --help"])
def test_whoever_reads_may_stop_reading(command):
    done = in_a_shell(f"{command} | head -c 1")
    assert done.stderr == "" and len(done.stdout) == 1


@pytest.mark.parametrize("command", ["drfer doctor >&-", "drfer doctor 2>&-", "drfer >&- 2>&-"])
def test_streams_may_be_closed(command):
    done = in_a_shell(command)
    assert done.returncode == (2 if command.endswith(">&- 2>&-") else 0) and done.stderr == ""


def test_a_strange_matplotlib_backend_and_an_ascii_terminal_do_no_harm(own_scans):
    own_scans.joinpath("anna.ply").rename(own_scans / "änne.ply")
    command = f"cd '{own_scans.parent}'; drfer check scans mine"
    done = in_a_shell(command, MPLBACKEND="nonsense", PYTHONIOENCODING="ascii")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (own_scans.parent / TABLE).exists()


def test_doctor_names_versions_backends_and_one_command_for_each_extra(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "find_spec", lambda module: None)
    said = "\n".join(doctor.report())
    for word in ("drfer ", "torch ", "torch-cluster", "device", "precision", "FPS on cpu"):
        assert word in said
    for extra in doctor.EXTRAS:
        [line] = [line for line in said.splitlines() if f"[{extra.name}]" in line]
        assert line.startswith("not installed") and extra.serves in line
        assert line.count("pip install") == 1 and "constraints.txt" in line


def test_doctor_says_nothing_of_what_is_there(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda module: "there")
    assert not [line for line in doctor.report() if line.startswith("not installed")]


def test_the_command_for_an_extra_needs_no_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.drfer, "__file__", str(tmp_path / "drfer" / "__init__.py"))
    assert doctor.install_command("faces").endswith('-m pip install "drfer[faces]"')


@pytest.mark.parametrize(
    "cuda, built, compiler, sentence",
    [
        (True, True, True, None),
        (True, False, True, "no torch-cluster that is built for it"),
        (True, False, False, "needs a compiler"),
        (False, False, True, None),
    ],
)
def test_doctor_says_what_keeps_a_gpu_waiting(monkeypatch, cuda, built, compiler, sentence):
    from drfer.models import points

    monkeypatch.setattr(doctor, "_has_nvidia_gpu", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr(points, "torch_cluster_has_cuda", lambda: built)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if compiler else None)
    problem = doctor.gpu_problem()
    assert problem is sentence if sentence is None else sentence in problem


def test_doctor_sees_a_torch_that_cannot_use_the_gpu(monkeypatch):
    monkeypatch.setattr(doctor, "_has_nvidia_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    assert "torch is built without CUDA" in doctor.gpu_problem()


def test_a_missing_extra_is_one_sentence_with_its_command(stop, monkeypatch):
    def without(*arguments):
        raise ModuleNotFoundError("No module named 'ray'", name="ray.util")

    monkeypatch.setattr(cli, "COMMANDS", (without,))
    code, said = stop("without")
    assert code == 2 and "[cluster]" in said and said.count("\n") == 1


def test_a_module_that_belongs_to_no_extra_is_a_fault_of_ours():
    assert doctor.sentence_for(ModuleNotFoundError(name="nonsense")) is None
    assert doctor.sentence_for(ModuleNotFoundError()) is None
