"""The documentation: what it says can be run is run, what it names exists.

Commands (indented blocks) and Python (fenced blocks) of every page are run in order in the tiny workspace, with ids
and sizes substituted. What cannot be run is listed in `NOT_RUN` with the reason; a block that is neither run nor listed
is an error, and so is an entry of the list that no page needs any more.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset import Labels, get_reader
from spdnet.dataset.raw_dataset import find_prompt_file
from spdnet.errors import PromptFileError
from spdnet.prompts import Markup, read_checked_markups, write_markups
from spdnet.tests.conftest import VARIABLES, Workspace
from spdnet.tests.tiny import SPACING_ZYX_MM, blob_case, write_volume

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs").is_dir() or not (ROOT / "setup.py").is_file():
    pytest.skip("the documentation is not installed", allow_module_level=True)

PAGES = sorted(f.relative_to(ROOT).as_posix() for f in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))

# Page, beginning of a command or block, and why it is not run here.
NOT_RUN: tuple[tuple[str, str, str], ...] = (
    ("README.md", "python3 -m venv", "makes an environment; .ci/run does the same"),
    ("README.md", ". ~/spdnet-env", "activates it"),
    ("README.md", "pip install", "needs a package registry; .ci/run does the same"),
    ("README.md", "pytest", "these tests"),
    ("README.md", "SPD_TEST_DATA=", "these tests"),
    ("README.md", "nnUNet_raw/Dataset501_TI/", "a picture of a folder"),
    ("README.md", "geometry - dataset", "a picture of the architecture"),
    (
        "README.md",
        "spd_find_best 501",
        "needs nnunetv2: test_comparison.py without, nnunet/test_dropin.py with it",
    ),
    (
        "README.md",
        "spd_points_to_channels -d 501 -new",
        "test_point_channels.py, and nnunet/test_channels.py all of it",
    ),
    ("README.md", "nnUNetv2_plan_and_preprocess", "needs nnunetv2: nnunet/test_channels.py"),
    ("README.md", "nnUNetv2_train", "needs nnunetv2: nnunet/test_channels.py"),
    ("README.md", "nnUNetv2_predict", "needs nnunetv2: nnunet/test_channels.py"),
    ("README.md", "spd_drop_lone_pieces", "needs what nnU-Net has predicted: nnunet/test_channels.py"),
    ("README.md", "python benchmarks/nnunet_dropin.py", "needs nnunetv2; nnunet/test_dropin.py runs it"),
    ("docs/choices.md", "benchmarks/", "hours of training"),
    ("docs/results.md", "pip install", "needs a package registry"),
    ("docs/results.md", "python benchmarks/nnunet_dropin.py", "needs nnunetv2; nnunet/test_dropin.py runs it"),
    ("docs/choices.md", "spd_plan_and_preprocess", "of the real data of the benchmark; run on README.md"),
    ("docs/speed.md", "python benchmarks/speed.py", "test_speed_benchmark.py runs it shortened"),
    ("docs/results.md", "python benchmarks/run.py", "hours of work; it is a benchmark"),
    ("docs/choices.md", "python benchmarks/run.py", "hours of work; it is a benchmark"),
    ("docs/results.md", "python benchmarks/report.py", "a test of the benchmarks runs it"),
    ("docs/speed.md", "python benchmarks/scaling.py", "minutes of work; it is a benchmark"),
    ("docs/speed.md", "python benchmarks/embedding_store.py", "minutes of work; it is a benchmark"),
    ("docs/training.md", "spd_train DATASET [2d] FOLD", "a pattern, not a command"),
    ("docs/training.md", "spd_train 501 0 -num_gpus 4", "needs four GPUs; test_distributed.py uses two processes"),
    ("docs/training.md", "torchrun", "needs machines with GPUs; test_distributed.py runs torchrun with two processes"),
    ("docs/training.md", "#!/bin/bash", "a job for Slurm"),
    ("docs/report.md", "spd_report -d 501 -f 0", "test_report.py::test_the_commands_of_the_documentation_run"),
    ("docs/report.md", "spd_predict -i imagesTs", "test_report.py::test_the_commands_of_the_documentation_run"),
    ("docs/report.md", "spd_report -i imagesTs", "test_report.py::test_the_commands_of_the_documentation_run"),
    ("docs/quick_start.md", "nnUNetv2_convert_MSD_dataset", "nnU-Net's own command"),
    ("docs/quick_start.md", "tar xf", "the downloaded archive"),
    ("docs/quick_start.md", "mkdir -p", "the workspace has the folders"),
    ("docs/prompts_and_slicer.md", "x_lps_mm,y_lps_mm", "a table: test_the_table_of_the_documentation_is_read"),
)
LANGUAGES = {"python", "csv"}
# What pages call the data, and what it is called here.
NAMES = {
    "Dataset501_TI": "Dataset507_Blobs",
    "501 all": "507 0",  # fold 0 is trained already, and several cannot be told apart
    "-f all": "-f 0",
    "501": "507",
    "TI_101": "blob_005",
    "TI_104": "blob_006",
    '"lite"': '"tiny"',
}
PLANNING = ("-sam", "tiny", "-image_size", "56", "-device", "cpu", "-gpu_memory_target", "0.6")
EXTRA_OPTIONS = {
    "spd_plan_and_preprocess": (*PLANNING, "-np", "1"),
    "spd_plan_experiment": PLANNING,
    "spd_preprocess": ("-np", "1"),
    "spd_train": ("-device", "cpu", "-epochs", "1", "1"),
    "spd_predict": ("-device", "cpu"),
    "spd_evaluate": ("-np", "1"),
    "spd_demo": ("--data_only", "-n_train", "2", "-n_test", "1"),
}
REPLACING = {"spd_train", "spd_simulate_prompts", "spd_install_pretrained_model_from_zip"}


@dataclass(frozen=True)
class Block:
    """A block of code of a page; `language` is empty for an indented one, `file` set if it is to be written there."""

    page: str
    line: int
    language: str
    file: str
    text: str


# ---- reading pages ----------------------------------------------------------------------------------------------


def blocks(page: str) -> list[Block]:
    """The fenced and indented blocks of a page, in order."""
    found: list[Block] = []
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        start = number
        if match := re.fullmatch(r"```(\w*)(?: title=(\S+))?", line):
            number = next(i for i in range(number + 1, len(lines)) if lines[i] == "```")
            found.append(Block(page, start + 1, match[1], match[2] or "", "\n".join(lines[start + 1 : number])))
        elif line.startswith("    ") and (start == 0 or not lines[start - 1].strip()) and not in_list(lines, start):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            text = "\n".join(x[4:] for x in lines[start:number]).rstrip()
            found.append(Block(page, start + 1, "", "", text))
            continue
        number += 1
    return found


def in_list(lines: list[str], number: int) -> bool:
    """Whether an indented line goes on with an item of a list."""
    before = next((x for x in reversed(lines[:number]) if x.strip() and not x.startswith("  ")), "")
    return re.match(r"\s*([-*]|\d+\.)\s", before) is not None


def commands(block: Block) -> list[str]:
    """The commands of an indented block without comments, continued lines joined; pictures and scripts as a whole."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", block.text):
        joined = paragraph.replace("\\\n", " ")
        if paragraph.startswith("#!") or "\n " in joined:
            found.append(paragraph)
            continue
        lines = [re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in joined.splitlines()]
        found += [part.strip() for line in lines if line for part in line.split(" && ")]
    return found


def listed(page: str, text: str) -> tuple[str, str, str] | None:
    """The entry of `NOT_RUN` that a command or block belongs to."""
    return next((e for e in NOT_RUN if e[0] == page and text.startswith(e[1])), None)


def entry_points() -> dict[str, Callable[[list[str]], None]]:
    """Every command of setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    assignment = next(n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "COMMANDS")
    targets = {name: target.split(":") for name, target in ast.literal_eval(assignment.value).items()}
    return {name: getattr(importlib.import_module(f"spdnet.cli.{m}"), f) for name, (m, f) in targets.items()}


# ---- running them -----------------------------------------------------------------------------------------------


class Session:
    """What a reader who follows a page would type, in a folder of the workspace."""

    def __init__(self, names: dict[str, str], patch: pytest.MonkeyPatch) -> None:
        self.names, self.patch = names, patch
        self.programs = entry_points()
        self.namespace: dict[str, Any] = {"__name__": "documentation"}

    def run(self, block: Block) -> None:
        """Run a block; whatever fails is named with its page and line."""
        try:
            if block.language == "python":
                self._run_python(block)
            elif not block.language:
                for command in commands(block):
                    if listed(block.page, command) is None:
                        self._run_command(self._named(command))
            else:
                assert listed(block.page, block.text), "a block that is neither run nor listed"
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{block.page}, line {block.line}: {error!r}\n{block.text}") from error

    def _named(self, text: str) -> str:
        for theirs, ours in self.names.items():
            text = text.replace(theirs, ours)
        return text

    def _run_python(self, block: Block) -> None:
        code = self._named(block.text)
        if block.file:
            file = Path(block.file)
            file.parent.mkdir(exist_ok=True)
            file.write_text(code, encoding="utf-8")
            return
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, block.page, "exec"), self.namespace)
        expected = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
        lines = printed.getvalue().splitlines()
        for text in expected:
            assert text in lines, f"{text!r} is not what is printed: {lines}"

    def _run_command(self, command: str) -> None:
        words = [os.path.expandvars(w) for w in shlex.split(command.replace("$PWD", str(Path.cwd())))]
        if words[0] == "export":
            for assignment in words[1:]:
                name, value = assignment.split("=", 1)
                if name not in VARIABLES:
                    self.patch.setenv(name, value)
            return
        if words[0] == "cd":
            self.patch.chdir(words[1])
            return
        assert words[0] in self.programs, f"{words[0]} is neither run nor listed"
        with pytest.MonkeyPatch.context() as patch:  # spd_demo sets the folders to its own
            for variable in VARIABLES:
                patch.setenv(variable, os.environ[variable])
            self.programs[words[0]](self._with_extras(words[0], words[1:]))

    def _with_extras(self, program: str, arguments: list[str]) -> list[str]:
        """Arguments for the tiny workspace; what the page itself says of size and length gives way."""
        for option, n_values in (("-sam", 1), ("-image_size", 1), ("-epochs", 2)):
            if option in arguments:
                at = arguments.index(option)
                arguments = arguments[:at] + arguments[at + 1 + n_values :]
        if program in REPLACING and not {"--c", "--val"} & {*arguments}:
            arguments = [*arguments, "--overwrite"]
        return [*arguments, *EXTRA_OPTIONS.get(program, ())]


@pytest.fixture
def session(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A reader in the raw data set's folder, with a trained model, and the three folders at hand there."""
    for variable in VARIABLES:
        (trained.raw / variable).symlink_to(trained.root / variable)
    np.save(trained.raw / "volume.npy", np.random.default_rng(0).normal(50, 20, (14, 60, 96)).astype(np.float32))
    slicer = trained.raw / "slicer"
    slicer.mkdir()
    for name in ("bright", "half"):
        write_markups(slicer / f"{name}.mrk.json", [Markup(name, "points", inside(trained)[:2], ("a", "b"))])
    monkeypatch.chdir(trained.raw)
    return Session(NAMES, monkeypatch)


def inside(workspace: Workspace) -> np.ndarray:
    """Points within the first test image, LPS mm."""
    geometry = get_reader("SimpleITKIO").read_geometry(workspace.raw / "imagesTs" / "blob_005_0000.nii.gz")
    return geometry.voxel_to_world(np.array([[2.0, 9.0, 8.0], [3.0, 10.0, 9.0], [4.0, 12.0, 12.0]]))


@pytest.mark.parametrize("page", [p for p in PAGES if p != "docs/quick_start.md"])
def test_what_a_page_shows_can_be_run(page: str, request: pytest.FixtureRequest) -> None:
    found = blocks(page)
    assert {b.language for b in found} <= {"", *LANGUAGES}
    to_run = [b for b in found if any(listed(page, part) is None for part in parts_of(b))]
    if not to_run:
        return
    session: Session = request.getfixturevalue("session")
    for block in to_run:
        session.run(block)


def parts_of(block: Block) -> list[str]:
    """What of a block is run or listed: commands, or the block as a whole."""
    return [block.text] if block.language else commands(block)


def test_the_quick_start_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the Decathlon's layout to the report, on forty small volumes of which the page takes eight."""
    write_decathlon(tmp_path / "Task04_Hippocampus", 40)
    for variable in VARIABLES:
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.chdir(tmp_path)
    session = Session({}, monkeypatch)
    for block in blocks("docs/quick_start.md"):
        session.run(block)
    raw = tmp_path / "nnUNet_raw" / "Dataset004_Hippocampus"
    assert len(list((raw / "imagesTr").iterdir())) == 6 and len(list((raw / "labelsTs").iterdir())) == 2
    told = capsys.readouterr().err
    for bar in (
        "fingerprint: ",
        "stage 1, epoch 0, 0 left: ",
        "simulating prompts: ",
        "checking prompts: ",
        "predicting: ",
    ):
        assert bar in told
    assert (raw / "preds" / "report.html").is_file() and (raw / "preds_prior" / "spd_evaluation.json").is_file()


def write_decathlon(folder: Path, n_cases: int) -> None:
    """A data set in the Decathlon's own layout, with the hidden files that its archives hold."""
    names = [f"hippocampus_{i:03d}.nii.gz" for i in range(n_cases)]
    for index, name in enumerate(names):
        image, label = blob_case(index)
        for kind, array in (("imagesTr", image), ("labelsTr", label)):
            write_volume(folder / kind / name, array, np.eye(3), SPACING_ZYX_MM)
            (folder / kind / f"._{name}").write_bytes(b"mac")
    content = {
        "name": "Hippocampus",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": n_cases,
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


# ---- the list of what is not run --------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", NOT_RUN, ids=lambda e: f"{e[0]}:{e[1]}")
def test_what_is_listed_as_not_run_is_still_there(entry: tuple[str, str, str]) -> None:
    page, start, reason = entry
    assert any(part.startswith(start) for block in blocks(page) for part in parts_of(block))
    for file, name in re.findall(r"((?:nnunet/)?test_\w+\.py)(?:::(\w+))?", reason):
        assert f"def {name or 'test_'}" in (ROOT / "spdnet" / "tests" / file).read_text(encoding="utf-8")


# ---- links, options, tests that are named -----------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert {p for p in PAGES if p.startswith("docs/") and f"]({Path(p).name})" not in index} == {"docs/README.md"}


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of every command, from its help."""
    found = {}
    for name, main in entry_points().items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main(["-h"])
        found[name] = set(re.findall(r"(?<![\w-])--?[a-zA-Z]\w*", printed.getvalue()))
    return found


# Options of other programs that pages name.
FOREIGN = {
    "README.md": {"-c", "-r"},  # nnU-Net's
    "docs/choices.md": {"-data", "-o", "-part"},
    "docs/results.md": {"-data", "-o", "-case", "-first", "--n_cases"},
    "docs/speed.md": {"-profile", "-9"},
    "docs/training.md": {"-9"},
}


@pytest.mark.parametrize("page", PAGES)
def test_options_that_pages_name_exist(page: str, options: dict[str, set[str]]) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    known = set().union(*options.values())
    for code in re.findall(r"`([^`\n]+)`", text):
        words = code.split()
        if words[0].startswith("-"):
            missing = {w for w in words if re.fullmatch(r"--?[a-zA-Z]\w*", w)} - known - FOREIGN.get(page, set())
            assert not missing, f"`{code}`: no command has {missing}"
        elif words[0] in options:
            missing = {w for w in words[1:] if re.fullmatch(r"--?[a-zA-Z]\w*", w)} - options[words[0]]
            assert not missing, f"`{code}`: {words[0]} has no {missing}"
        elif re.fullmatch(r"spd_\w+", words[0]) and len(words) > 1:
            pytest.fail(f"`{code}`: there is no such command")


def test_the_promises_name_tests_that_exist() -> None:
    text = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "| ---"))]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            source = (ROOT / "spdnet" / "tests" / file).read_text(encoding="utf-8")
            assert f"def {name}(" in source, (file, name)
            if "ᴳ" in row:
                assert re.search(rf"mark\.gpu\n(?:.*\n){{0,4}}def {name}\(", source), (file, name)


def test_every_environment_variable_is_on_its_page() -> None:
    text = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    sources = [f for f in (ROOT / "spdnet").rglob("*.py") if "tests" not in f.parts]
    code = "\n".join(f.read_text(encoding="utf-8") for f in sources)
    read = set(re.findall(r'"((?:nnUNet|SPD|OMP|WANDB|CUBLAS|MASTER|LOCAL|WORLD)_[A-Za-z_]+|RANK)"', code))
    assert named == read


# ---- prompt files -----------------------------------------------------------------------------------------------


def _markups(points: np.ndarray, name: str = "", **changes: Any) -> str:
    """A markups file as Slicer writes it."""
    control = [{"label": f"F-{i + 1}", "position": p.tolist()} for i, p in enumerate(points)]
    markup = {"type": "Fiducial", "name": name, "coordinateSystem": "LPS", "controlPoints": control, **changes}
    return json.dumps({"markups": [markup]})


def _table(header: str, points: np.ndarray, *cells: str) -> str:
    return "\n".join([header, *(",".join([*map(str, p), *cells]) for p in points)])


def _write(name: str, text: Callable[[np.ndarray], str]) -> Callable[[Path, np.ndarray], None]:
    def write(folder: Path, points: np.ndarray) -> None:
        (folder / f"TI_101{name}").write_text(text(points), encoding="utf-8")

    return write


def _write_drawing(folder: Path, points: np.ndarray) -> None:
    ring = np.zeros((3, 20, 20), dtype=np.uint8)
    ring[1, 5:15, 5:15], ring[1, 7:13, 7:13] = 1, 0
    sitk.WriteImage(sitk.GetImageFromArray(ring), str(folder / "TI_101.marks.nii.gz"))


def _write_block(folder: Path, points: np.ndarray) -> None:
    block = np.zeros((8, 20, 24), dtype=np.uint8)
    block[2:6, 5:15, 6:16] = 1
    sitk.WriteImage(sitk.GetImageFromArray(block), str(folder / "TI_101.marks.nii.gz"))


def _write_two(folder: Path, points: np.ndarray) -> None:
    for ending, text in ((".mrk.json", _markups(points)), (".csv", _table("l,p,s", points))):
        (folder / f"TI_101{ending}").write_text(text, encoding="utf-8")


FAR = np.array([1.0, 1.0, 400.0])
FAULTS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "RAS numbers in a file that says LPS": _write(".mrk.json", lambda p: _markups(p * [-1, -1, 1])),
    "a point outside the image": _write(".mrk.json", lambda p: _markups(np.vstack([p[:1] + FAR, p]))),
    "voxel indices outside the image": _write(".csv", lambda p: _table("i,j,k", abs(p) + 60)),
    "bare `x, y, z`": _write(".csv", lambda p: _table("x,y,z", p)),
    "all points on one spot": _write(".mrk.json", lambda p: _markups(np.repeat(p[:1], 3, axis=0))),
    "a name with other capital letters than the class": _write(".mrk.json", lambda p: _markups(p, "Bright")),
    "points on the background": _write(".mrk.json", lambda p: _markups(p, "background")),
    "a plane among the markups": _write(".mrk.json", lambda p: _markups(p, type="Plane")),
    "a table of another case": _write(".csv", lambda p: _table("l,p,s,case_id", p, "TI_999")),
    "a segmentation in place of marks": _write_drawing,
    "a compact segmentation in place of marks": _write_block,
    "two files of one case": _write_two,
}


def fault_rows() -> dict[str, str]:
    """Message of each row of the table of faulty prompt files."""
    text = (ROOT / "docs" / "prompts_and_slicer.md").read_text(encoding="utf-8")
    table = text.split("| wrong | message | what to do |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {wrong: message.strip("`") for wrong, message, _ in rows}


@pytest.fixture
def blobs(tmp_path: Path) -> tuple[Any, Labels, np.ndarray]:
    """Geometry of a small image away from the world's origin, its labels, and three points in it, LPS mm."""
    write_volume(tmp_path / "image.nii.gz", blob_case(0)[0], np.eye(3), SPACING_ZYX_MM)
    geometry = get_reader("SimpleITKIO").read_geometry(tmp_path / "image.nii.gz")
    labels = Labels.from_dataset_json({"labels": {"background": 0, "bright": 1, "half": 2}})
    return geometry, labels, geometry.voxel_to_world(np.array([[2.0, 9.0, 8.0], [3.0, 10.0, 9.0], [4.0, 12.0, 12.0]]))


@pytest.mark.parametrize("wrong", sorted({*FAULTS, *fault_rows()}))
def test_faulty_prompt_files_give_the_message_of_the_page(
    wrong: str, blobs: tuple[Any, Labels, np.ndarray], tmp_path: Path
) -> None:
    message = fault_rows()[wrong]
    geometry, labels, points = blobs
    FAULTS[wrong](tmp_path, points)
    with pytest.raises(PromptFileError) as caught:
        read_checked_markups(find_prompt_file(tmp_path, "TI_101") or tmp_path, "TI_101", geometry, labels)
    place = 0
    for part in message.split("…"):
        place = str(caught.value).find(part, place)
        assert place >= 0, (part, str(caught.value))


def test_the_table_of_the_documentation_is_read(blobs: tuple[Any, Labels, np.ndarray], tmp_path: Path) -> None:
    geometry, labels, _ = blobs
    (block,) = (b for b in blocks("docs/prompts_and_slicer.md") if b.language == "csv")
    (tmp_path / "TI_101.csv").write_text(block.text, encoding="utf-8")
    (markup,) = read_checked_markups(tmp_path / "TI_101.csv", "TI_101", geometry, labels)
    assert (markup.kind, markup.name, len(markup.points_lps_mm)) == ("curve", "bright", 4)


# ---- numbers of the planner's page ------------------------------------------------------------------------------


def test_the_rules_of_the_page_are_those_of_the_planner() -> None:
    from spdnet.network.backbones import get_backbone
    from spdnet.planning import embedding_rule, planner, plans

    text = (ROOT / "docs" / "planner.md").read_text(encoding="utf-8")
    largest = planner.LARGEST_IMAGE
    assert f"| `lite` | {largest['lite', 'cpu']} | {largest['lite', 'cuda']} |" in text
    assert f"| `vit_*` | {largest['vit', 'cpu']} | {largest['vit', 'cuda']} |" in text
    assert planner.MIN_TOKENS_ACROSS_TARGET == 4 and embedding_rule.SHARE_OF_FREE_DISK == 0.5
    assert planner.TRAINING_BYTES_PER_PIXEL == {"lite": 18_000, "vit": 24_000}
    assert [get_backbone(n).size_multiple for n in ("lite", "vit_b")] == [56, 224]
    assert [get_backbone(n).token_stride for n in ("lite", "vit_b")] == [4, 16]
    d, c, a = plans.DistillationSettings(), plans.ConsistencySettings(), plans.AugmentationSettings()
    assert (d.tau, d.n_context, d.max_points, c.weight, c.run_length) == (0.5, 2, 10, 0.1, 4)
    assert (a.max_angle_degrees, a.scale_range, a.flip_columns, a.flip_rows) == (20.0, (0.85, 1.15), True, False)
    assert (a.intensity, a.stored_variants) == (True, 2)
    loss, lora = plans.LossSettings(), plans.LoraSettings()
    assert (loss.dice_weight, loss.focal_weight, loss.focal_gamma) == (0.7, 0.3, 2.0)
    assert (lora.rank, lora.alpha, lora.dropout) == (16, 16, 0.1)
    methods = {name for name in vars(planner.SPDPlanner) if name.startswith("choose_")}
    assert methods == set(re.findall(r"`(choose_\w+)`", text))
