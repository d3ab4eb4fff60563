"""nnU-Net's own commands on what spdnet writes, from an empty folder, by `benchmarks/nnunet_dropin.py`.

    pytest -m nnunet spdnet/tests/nnunet

Several minutes for each kind of data set. With SPD_TEST_DATA set, on cases of Dataset504_Hippocampus, else on blobs.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from spdnet.tests.tiny import write_blob_dataset

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "nnunet_dropin.py"
N_CASES = 5  # the fewest that have five folds

pytestmark = [pytest.mark.nnunet, pytest.mark.slow]


@pytest.fixture(scope="session")
def dropin() -> ModuleType:
    """The script, as a module."""
    pytest.importorskip("nnunetv2")
    if not SCRIPT.exists():
        pytest.skip("the folder benchmarks is not part of an installed package")
    specification = importlib.util.spec_from_file_location("nnunet_dropin", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["nnunet_dropin"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def source(dropin: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw data set of which small ones are made."""
    if data := os.environ.get("SPD_TEST_DATA"):
        return Path(data) / dropin.NAME
    return write_blob_dataset(tmp_path_factory.mktemp("blobs"), N_CASES + dropin.N_TEST, 0)


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("plain", "nnunet"),
        ("plain", "spd"),
        ("regions", "nnunet"),
        ("ignore", "spd"),
        ("two_channels", "nnunet"),
        ("png2d", "spd"),
    ],
)
def test_every_tool_of_nnunet_works_on_spd(
    dropin: ModuleType, source: Path, tmp_path: Path, kind: str, first: str
) -> None:
    run = dropin.DropIn(tmp_path / "work", kind, first, N_CASES, n_slices=6, iterations=2)
    report = dropin.run_all(run, source)
    assert report["largest difference of any metric"] <= 1e-6
    assert {"SPD", "nnU-Net", "ensemble"} == set(report["mean Dice"])
    assert all(0 <= dice <= 1 for dice in report["mean Dice"].values())
    assert len(report["checked"]) > 100


def test_a_failing_command_and_a_wrong_result_are_errors(dropin: ModuleType, tmp_path: Path) -> None:
    run = dropin.DropIn(tmp_path)
    with pytest.raises(dropin.DropInError, match="exit status"):
        run.run("nnUNetv2_export_model_to_zip", "-d", "999", "-o", tmp_path / "x.zip")
    with pytest.raises(dropin.DropInError, match="not so: pigs fly"):
        run.check("pigs fly", False)
