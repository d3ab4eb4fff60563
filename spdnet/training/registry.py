"""Trainer classes by name, for `spd_train -tr NAME`: spdnet's own, and those in the user's folders.

A user's class is found as nnU-Net finds its own: by name, in the Python files of the folders that an environment
variable lists. Only the file that defines the class is run; the others are read, not imported.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path

from spdnet.errors import ConfigurationError
from spdnet.training.trainer import SPDTrainer
from spdnet.training.variants import ablations

EXTERNAL_TRAINERS_VARIABLE = "SPD_extTrainer"

TRAINERS: dict[str, type[SPDTrainer]] = {
    trainer.__name__: trainer
    for trainer in (
        SPDTrainer,
        ablations.SPDTrainerNoPSC,
        ablations.SPDTrainerConsensus,
        ablations.SPDTrainerKeepPieces,
        ablations.SPDTrainerLocalOnly,
        ablations.SPDTrainerRawPrompts,
        ablations.SPDTrainerRawBoxes,
        ablations.SPDTrainerNoBoxes,
        ablations.SPDTrainerBoxOnly,
        ablations.SPDTrainerRawBoxOnly,
        ablations.SPDTrainerSAMTuning,
        ablations.SPDTrainerTruePoints,
        ablations.SPDTrainerEmptyMask,
        ablations.SPDTrainerKeepRandom,
        ablations.SPDTrainerSharedEncoder,
        ablations.SPDTrainerPromptsOptional,
        ablations.SPDTrainerPlateau,
    )
}


def get_trainer(name: str) -> type[SPDTrainer]:
    """Look a trainer class up: first among spdnet's own, then in the folders of `SPD_extTrainer`.

    Raises:
        ConfigurationError: unknown name, defined more than once, or not a subclass of SPDTrainer.
    """
    if name in TRAINERS:
        return TRAINERS[name]
    folders = external_folders()
    files = [file for folder in folders for file in sorted(folder.rglob("*.py")) if name in class_names(file)]
    if len(files) > 1:
        raise ConfigurationError(f"trainer {name} is defined in several files: {', '.join(map(str, files))}")
    if files:
        return _load(files[0], name)
    where = ", ".join(map(str, folders)) or f"no folder: {EXTERNAL_TRAINERS_VARIABLE} is not set"
    raise ConfigurationError(
        f"Unknown trainer {name!r}; known are {', '.join(TRAINERS)}. Own trainers are looked for in the folders that "
        f"{EXTERNAL_TRAINERS_VARIABLE} lists ({where})"
    )


def external_folders() -> list[Path]:
    """The folders that `SPD_extTrainer` lists, divided as in PATH.

    Raises:
        ConfigurationError: one of them does not exist.
    """
    folders = [Path(f) for f in os.environ.get(EXTERNAL_TRAINERS_VARIABLE, "").split(os.pathsep) if f]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigurationError(f"{EXTERNAL_TRAINERS_VARIABLE} names {folder}, which is not a folder")
    return folders


def class_names(file: Path) -> set[str]:
    """Classes that a Python file defines at its top level, without running it; none if it is not valid Python."""
    try:
        module = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    return {node.name for node in module.body if isinstance(node, ast.ClassDef)}


def _load(file: Path, name: str) -> type[SPDTrainer]:
    module_name = f"spd_external_trainers.{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that the loader's worker processes find it by name
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise ConfigurationError(f"trainer {name}: importing {file} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    trainer = getattr(module, name)
    if not (isinstance(trainer, type) and issubclass(trainer, SPDTrainer)):
        raise ConfigurationError(f"{name} in {file} is not a subclass of SPDTrainer")
    return trainer
