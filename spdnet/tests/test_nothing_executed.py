"""Nothing in a file that someone else made is ever executed: how the package's source reads files, and files that try.

The one door is documented: `SPD_extTrainer` names folders of the user's own Python files (training/registry.py).
"""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spdnet
from spdnet.errors import DatasetError, ModelError
from spdnet.inference import ModelFolder
from spdnet.network.checkpoint import FINAL, read_checkpoint
from spdnet.planning import StoredCase
from spdnet.sharing import export_model, install_model
from spdnet.tests.conftest import Workspace

PACKAGE = Path(spdnet.__file__).parent
SOURCES = sorted(f for f in PACKAGE.rglob("*.py") if "tests" not in f.relative_to(PACKAGE).parts)
# modules that run what they read, or start programs
FORBIDDEN_MODULES = {"subprocess", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "code", "runpy", "pty"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load", "torch.jit.load"}
PICKLE_NAMES = {"dump", "dumps", "UnpicklingError", "PickleError", "HIGHEST_PROTOCOL"}
MAY_IMPORT_FILES = {"training/registry.py"}
MAY_IMPORT_BY_NAME = {"training/trackers.py"}  # two optional packages, whose names are in the source


def full_name(node: ast.expr) -> str:
    """`a.b.c` of an expression, or nothing."""
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def starts(name: str) -> bool:
    """Whether a call replaces or starts processes."""
    return name.startswith(("os.exec", "os.spawn", "os.posix_spawn"))


def faults(source: str, file_name: str) -> list[str]:
    """What in a Python file could execute data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{a.name}" for a in node.names]
        for name in names:
            if name.split(".")[0] in FORBIDDEN_MODULES:
                found.append(f"{line}: import of {name}")
            if name.startswith(("importlib.util", "importlib.machinery")) and file_name not in MAY_IMPORT_FILES:
                found.append(f"{line}: import of {name}")
            if name == "importlib" and file_name not in MAY_IMPORT_FILES | MAY_IMPORT_BY_NAME:
                found.append(f"{line}: import of {name}")
            if name.startswith("pickle.") and name.split(".")[1] not in PICKLE_NAMES:
                found.append(f"{line}: import of {name}")
        if isinstance(node, ast.Attribute) and full_name(node.value) in ("pickle", "_pickle"):
            found += [f"{line}: pickle.{node.attr}"] * (node.attr not in PICKLE_NAMES)
        if isinstance(node, ast.Call):
            found += [f"{line}: {fault}" for fault in call_faults(node)]
    return found


def call_faults(node: ast.Call) -> list[str]:
    """What is wrong with a call."""
    name, keywords = full_name(node.func), {k.arg: k.value for k in node.keywords}

    def given(keyword: str) -> Any:
        value = keywords.get(keyword)
        return value.value if isinstance(value, ast.Constant) else value

    wrong = []
    if name in FORBIDDEN_CALLS or starts(name):
        wrong.append(name)
    if name == "torch.load" and given("weights_only") is not True:
        wrong.append("torch.load without weights_only=True")
    if name.split(".")[-1] in ("load", "open_memmap") and given("allow_pickle") not in (None, False):
        wrong.append("numpy.load with allow_pickle")
    if given("shell") not in (None, False):
        wrong.append("shell=True")
    return wrong


@pytest.mark.parametrize("file", SOURCES, ids=[str(f.relative_to(PACKAGE)) for f in SOURCES])
def test_the_source_holds_nothing_that_executes_data(file: Path) -> None:
    assert faults(file.read_text(encoding="utf-8"), str(file.relative_to(PACKAGE))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load(f)", "import torch; torch.load(f, weights_only=False)",
        "import torch; torch.load(f, weights_only=flag)", "import pickle; pickle.load(f)", "from pickle import loads",
        "import pickle; pickle.Unpickler(f)", "eval(text)", "exec(text)", "import subprocess", "__import__(name)",
        "from subprocess import run", "import os; os.system(text)", "import yaml", "import importlib.util",
        "import numpy as np; np.load(f, allow_pickle=True)", "run(x, shell=True)", "import os; os.execv(a, b)",
    ],
)  # fmt: skip
def test_the_scan_finds_what_it_is_for(line: str) -> None:
    assert len(faults(line, "x.py")) > 0


# ---- files that try ---------------------------------------------------------------------------------------


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def evil_checkpoint(file: Path, mark: Path) -> None:
    """A checkpoint that is good but for one object."""
    content = torch.load(file, weights_only=True)
    torch.save({**content, "extra": Evil(mark)}, file)


def test_checkpoints_are_not_unpickled(trained: Workspace, tmp_path: Path) -> None:
    file, mark = trained.model() / "fold_0" / FINAL, tmp_path / "mark"
    evil_checkpoint(file, mark)
    folder = ModelFolder(trained.model())
    readers: list[Callable[[], Any]] = [
        lambda: read_checkpoint(file),
        lambda: folder.load_networks(["0"], FINAL, torch.device("cpu")),
        lambda: folder.training_facts("0", FINAL),
        lambda: export_model(folder, tmp_path / "model.zip", ["0"], [FINAL]),
    ]
    for read in readers:
        with pytest.raises(ModelError, match=f"{FINAL} is damaged or not a checkpoint"):
            read()
    file.write_bytes(pickle.dumps(Evil(mark)))  # the format before zip files
    with pytest.raises(ModelError, match="is damaged or not a checkpoint"):
        read_checkpoint(file)
    assert not mark.exists()


def test_packed_checkpoints_are_not_unpickled(
    trained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spdnet.sharing import export

    mark = tmp_path / "mark"
    evil_checkpoint(trained.model() / "fold_0" / FINAL, mark)
    with monkeypatch.context() as patch:
        patch.setattr(export, "check_checkpoint", lambda *_: None)  # whoever packed it did not check
        export_model(ModelFolder(trained.model()), tmp_path / "model.zip", ["0"], [FINAL])
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    with pytest.raises(ModelError, match=f"fold_0/{FINAL} cannot be used: .*is damaged or not a checkpoint"):
        install_model(tmp_path / "model.zip")
    assert not mark.exists() and not list((tmp_path / "results").iterdir())


def test_preprocessed_arrays_are_not_unpickled(planned: Workspace, tmp_path: Path) -> None:
    folder, mark = planned.preprocessed / "SPDPlans_2d", tmp_path / "mark"
    for name in ("blob_000.npy", "blob_000_seg.npy"):
        np.save(folder / name, np.array([Evil(mark)], dtype=object), allow_pickle=True)
    case = StoredCase(folder, "blob_000")
    for read in (lambda: case.slices, lambda: case.masks):
        with pytest.raises(DatasetError, match="is missing or damaged"):
            read()
    assert not mark.exists()
