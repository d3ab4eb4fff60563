"""The speed benchmark runs, on the tiny backbone, and reports what it promises."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speed.py"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    if not SCRIPT.exists():
        pytest.skip("the benchmarks are not part of the installed package")
    spec = importlib.util.spec_from_file_location("speed", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "speed", module)
    spec.loader.exec_module(module)
    return module


def test_it_reports_every_route_with_its_spread(
    speed: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "time_start", lambda args: {"imports": 1.0, "network": 1.0})  # starts Python anew
    sizes = ["-image_size", "56", "-batch_size", "2", "-slices", "4", "-volumes", "1", "-file_size", "32"]
    file = tmp_path / "out" / "speed.json"
    arguments = ["-backbone", "tiny", "-device", "cpu", "-classes", "2", "-repeats", "2", *sizes]
    speed.main(
        [*arguments, "-training_batches", "1", "--no_official", "-o", str(file), "-profile", str(tmp_path / "profiles")]
    )
    report = json.loads(file.read_text(encoding="utf-8"))
    routes = {speed.PUBLISHED_ENCODER, speed.ENCODER, speed.PLAIN, speed.SPD, speed.NETWORK, speed.FILES}
    assert set(report["routes"]) == routes
    for route in report["routes"].values():
        assert 0 < route["slices_per_s"]["q1"] <= route["slices_per_s"]["median"] <= route["slices_per_s"]["q3"]
        assert route["peak_memory_mib"] > 0
    assert [stage["stage"] for stage in report["training"]] == [1, 2]
    assert all(stage["slices_per_s"]["median"] > 0 for stage in report["training"])
    assert all(0 <= stage["share_waiting_for_data"]["median"] <= 1 for stage in report["training"])
    assert len(report["ratios"]) == 3 and all(ratio["median"] > 0 for ratio in report["ratios"].values())
    assert len(list((tmp_path / "profiles").iterdir())) == len(routes)
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in routes)


@pytest.mark.slow
def test_flop_are_those_of_the_operations(speed: ModuleType) -> None:
    """vit_b at 224 px: 35 GFLOP a slice, most of it in 12 blocks of 12 * 768^2 multiplications a token."""
    network = speed.build_network("vit_b", 1, 1, 224, 0, 1, 0.0, load_weights=False)
    counted = speed.count_flop(network, "encode") / 1e9
    assert 2 * 12 * 12 * 768**2 * 14**2 / 1e9 < counted < 36


def test_ratios_are_formed_repeat_by_repeat(speed: ModuleType) -> None:
    timings = {speed.PLAIN: speed.Timings(10, [1.0, 2.0, 4.0]), speed.SPD: speed.Timings(20, [2.0, 8.0, 4.0])}
    (found,) = speed.ratios(timings).values()
    np.testing.assert_allclose([found["q1"], found["median"], found["q3"]], [0.75, 1.0, 1.5])
