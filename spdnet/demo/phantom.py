"""The demo's synthetic data set: a bowel-like tube of which one segment is the target.

Two cues, each insufficient alone. The centreline points run along the whole tube, drift off its axis and leave
gaps in the target; the look of the target (wall, contrast, calibre) is shared by loops elsewhere that the
centreline does not pass. Owns the anatomy, the image model, the simulated centreline and the files of the data
set; knows nothing of plans, networks or training.

Shapes are made in `zyx_mm`: voxel indices of the stored array times the spacing, the origin at voxel 0.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter, gaussian_filter1d, zoom
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import DatasetError
from spdnet.geometry import ImageGeometry, nearest_index
from spdnet.prompts import Markup, write_markups

DATASET_NAME = "Dataset501_TubePhantom"
CENTRELINE_NAME = "bowel centreline"
_FILE_ENDING = ".nii.gz"
_STEP_MM = 0.5
_PIECE_TRIALS = 60
_LAYOUT_TRIALS = 200

Range = tuple[float, float]


@dataclass(frozen=True)
class PhantomSettings:
    """Numbers of the phantom; ranges are drawn from uniformly, once per case unless said otherwise.

    Attributes:
        shape_zyx: voxels of each volume; slices lie along z.
        spacing_zyx_mm: voxel spacing.
        radius_mm: outer radius of the plain tube.
        target_calibre: radius of the target as a multiple of the plain tube's.
        n_legs: how often the tube runs through the volume along z, fewest and most.
        target_share: share of the tube's length that is target.
        end_margin_share: share of the tube's length at each end that is never target.
        n_lookalikes: loops with the target's look, fewest and most.
        lookalike_share: length of all look-alikes together as a multiple of the target's length.
        stub_mm: plain tube at each end of a look-alike, so that its ends look as the target's do.
        clearance_radii: least distance of a look-alike's axis from every other axis, in radii of the target.
        point_distance_mm: mean distance of centreline points along the tube; every slice crossing has at least one.
        drift_radii: standard deviation of the centreline's slow drift off the axis, in radii of the tube.
        max_drift_radii: largest drift.
        drift_length_mm: length along the tube over which the drift changes.
        jitter_mm: standard deviation of each point's own error, per axis in plane.
        gap_share: least and largest share of the target's slices that have no point on the target.
        max_gap: longest run of such slices.
        noise: standard deviation of the Rician noise; the brightest tissue is about 1.
        bias: standard deviation of the logarithm of the bias field.
        gain: stored intensity of signal 1.
    """

    shape_zyx: tuple[int, int, int] = (24, 64, 64)
    spacing_zyx_mm: tuple[float, float, float] = (4.0, 1.5, 1.5)
    radius_mm: Range = (6.0, 7.0)
    target_calibre: Range = (1.03, 1.13)
    n_legs: tuple[int, int] = (2, 3)
    target_share: Range = (0.30, 0.40)
    end_margin_share: float = 0.12
    n_lookalikes: tuple[int, int] = (2, 4)
    lookalike_share: Range = (0.88, 1.0)
    stub_mm: float = 8.0
    clearance_radii: float = 2.5
    point_distance_mm: float = 4.5
    drift_radii: float = 0.5
    max_drift_radii: float = 1.1
    drift_length_mm: float = 30.0
    jitter_mm: float = 0.8
    gap_share: Range = (0.42, 0.58)
    max_gap: int = 4
    noise: Range = (0.03, 0.06)
    bias: Range = (0.08, 0.20)
    gain: Range = (400.0, 900.0)


_DEFAULTS = PhantomSettings()


@dataclass(frozen=True)
class PhantomCase:
    """One synthetic case.

    Attributes:
        image: int16 (z, y, x), T2-like.
        label: uint8 (z, y, x), 1 in wall and lumen of the target.
        lookalike: bool (z, y, x), wall and lumen of the look-alikes, without their plain ends.
        plain: bool (z, y, x), the rest of the tube.
        geometry: grid of the volume.
        points_zyx: float64 (N, 3), centreline points as continuous voxel indices, in order along the tube; each
            lies in the plane of a slice.
        gap_slices: bool (z,), slices with target but without a centreline point on it.
    """

    image: np.ndarray
    label: np.ndarray
    lookalike: np.ndarray
    plain: np.ndarray
    geometry: ImageGeometry
    points_zyx: np.ndarray
    gap_slices: np.ndarray


@dataclass(frozen=True)
class _Piece:
    """A tube's axis, sampled every `_STEP_MM`, and the samples [first, last) that have the target's look."""

    axis_zyx_mm: np.ndarray
    first: int
    last: int

    @property
    def is_marked(self) -> np.ndarray:
        index = np.arange(len(self.axis_zyx_mm))
        return (index >= self.first) & (index < self.last)


@dataclass(frozen=True)
class _Look:
    """How a tube looks: outer radius and wall in mm, signal of wall and lumen."""

    radius_mm: float
    wall_mm: float
    wall: float
    lumen: float

    def as_array(self) -> np.ndarray:
        return np.array([self.radius_mm, self.wall_mm, self.wall, self.lumen])


def write_tube_phantom(
    raw_root: Path, n_train: int, n_test: int, seed: int, settings: PhantomSettings = _DEFAULTS
) -> Path:
    """Write the data set in nnU-Net's raw format, with labels and prompts for training and test cases.

    The folder appears whole or not at all. Cases are numbered from 1, test cases after the training cases; a case
    depends on `seed` and its number only.

    Args:
        raw_root: folder for data sets, as `nnUNet_raw`; made if it does not exist.
        n_train: training cases.
        n_test: test cases.
        seed: seed of the data set.
        settings: numbers of the phantom.

    Returns:
        The new folder `raw_root/Dataset501_TubePhantom`.

    Raises:
        DatasetError: the folder exists already.
    """
    folder = raw_root / DATASET_NAME
    if folder.exists():
        raise DatasetError(
            f"{folder} exists already and is left as it is. Choose another folder for the demo, or move this one away."
        )
    raw_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial_", dir=raw_root) as scratch:
        partial = Path(scratch) / DATASET_NAME
        for kind in ("images", "labels", "prompts"):
            for subset in ("Tr", "Ts"):
                (partial / f"{kind}{subset}").mkdir(parents=True)
        for number in range(1, n_train + n_test + 1):
            subset = "Tr" if number <= n_train else "Ts"
            _write_case(partial, subset, f"tube_{number:03d}", make_case(seed, number, settings))
        (partial / "dataset.json").write_text(json.dumps(_dataset_json(n_train), indent=4), encoding="utf-8")
        partial.replace(folder)
    return folder


def make_case(seed: int, number: int, settings: PhantomSettings = _DEFAULTS) -> PhantomCase:
    """One case, the same for the same seed, number and settings.

    Raises:
        ValueError: the settings leave no room for the look-alikes.
    """
    rng = np.random.default_rng((seed, number))
    geometry = _draw_geometry(rng, settings)
    plain, marked = _draw_looks(rng, settings)
    tube, lookalikes = _draw_layout(rng, settings, marked.radius_mm)
    image, mark, owner = _render(rng, settings, [tube, *lookalikes], plain, marked)
    label = mark & (owner == 0)
    points_zyx, gap_slices = _draw_centreline(rng, settings, tube, label, plain.radius_mm)
    return PhantomCase(
        image, label.astype(np.uint8), mark & (owner > 0), ~mark & (owner == 0), geometry, points_zyx, gap_slices
    )


def _dataset_json(n_train: int) -> dict[str, object]:
    return {
        "channel_names": {"0": "T2"},
        "labels": {"background": 0, "terminal_ileum": 1},
        "numTraining": n_train,
        "file_ending": _FILE_ENDING,
        "name": DATASET_NAME,
        "description": "Synthetic: a bowel-like tube, one segment of it the target, and loops that look like it",
    }


def _write_case(folder: Path, subset: str, name: str, case: PhantomCase) -> None:
    image = sitk.GetImageFromArray(case.image)
    case.geometry.apply_to_sitk(image)
    sitk.WriteImage(image, str(folder / f"images{subset}" / f"{name}_0000{_FILE_ENDING}"), useCompression=True)
    SimpleITKIO().write_segmentation(folder / f"labels{subset}" / f"{name}{_FILE_ENDING}", case.label, case.geometry)
    centreline = Markup(
        name=CENTRELINE_NAME,
        kind="points",
        points_lps_mm=case.geometry.voxel_to_world(case.points_zyx),
        point_labels=tuple(f"C-{i + 1}" for i in range(len(case.points_zyx))),
    )
    write_markups(folder / f"prompts{subset}" / f"{name}.mrk.json", [centreline])


def _draw_geometry(rng: np.random.Generator, settings: PhantomSettings) -> ImageGeometry:
    """A grid tilted by up to about 10 degrees, with axes that run either way, slices along superior-inferior."""
    tilt = Rotation.from_rotvec(rng.uniform(-0.1, 0.1, 3)).as_matrix()
    direction = tilt * rng.choice([-1.0, 1.0], 3)
    centre_lps_mm = rng.uniform(-40, 40, 3)
    spacing_xyz_mm = np.array(settings.spacing_zyx_mm[::-1])
    extent_xyz_mm = (np.array(settings.shape_zyx[::-1]) - 1) * spacing_xyz_mm
    origin = centre_lps_mm - direction @ (extent_xyz_mm / 2)
    return ImageGeometry(
        settings.shape_zyx, settings.spacing_zyx_mm, tuple(origin.tolist()), tuple(direction.ravel().tolist())
    )


def _draw_looks(rng: np.random.Generator, settings: PhantomSettings) -> tuple[_Look, _Look]:
    """Look of the plain tube (thin dark wall, bright lumen) and of the target (thick bright wall, dark lumen)."""
    radius = rng.uniform(*settings.radius_mm)
    plain = _Look(radius, rng.uniform(1.5, 2.1), rng.uniform(0.14, 0.24), rng.uniform(0.52, 0.66))
    calibre = rng.uniform(*settings.target_calibre)
    marked = _Look(radius * calibre, rng.uniform(3.2, 3.9), rng.uniform(0.82, 1.0), rng.uniform(0.22, 0.36))
    return plain, marked


def _draw_layout(
    rng: np.random.Generator, settings: PhantomSettings, radius_mm: float
) -> tuple[_Piece, tuple[_Piece, ...]]:
    """The tube with its target, and the look-alikes, none of them in another's way."""
    for _ in range(_LAYOUT_TRIALS):
        axis = _draw_tube_axis(rng, settings)
        if _self_distance(axis, 5 * radius_mm) < settings.clearance_radii * radius_mm:
            continue
        length = int(len(axis) * rng.uniform(*settings.target_share))
        margin = int(len(axis) * settings.end_margin_share)
        first = int(rng.integers(margin, len(axis) - margin - length))
        tube = _Piece(axis, first, first + length)
        lookalikes = _draw_lookalikes(rng, settings, tube, radius_mm)
        if lookalikes is not None:
            return tube, lookalikes
    raise ValueError(f"no room for the look-alikes with {settings}")


def _draw_tube_axis(rng: np.random.Generator, settings: PhantomSettings) -> np.ndarray:
    """A smooth curve that runs up and down through the volume, wriggling: float64 (N, 3), zyx_mm."""
    size = (np.array(settings.shape_zyx) - 1) * settings.spacing_zyx_mm
    low, high = 0.16 * size[1:], 0.84 * size[1:]
    n_legs = int(rng.integers(settings.n_legs[0], settings.n_legs[1] + 1))
    feet = rng.uniform(low, high, (n_legs, 2))
    upward = rng.random() < 0.5
    knots = []
    for foot in feet:
        heights = np.linspace(rng.uniform(0.05, 0.14), rng.uniform(0.86, 0.95), 5) * size[0]
        offsets = rng.normal(0, 0.08, (5, 2)) * size[1:]
        knots.append(np.column_stack([heights if upward else heights[::-1], np.clip(foot + offsets, low, high)]))
        upward = not upward
    return _smooth_curve(np.concatenate(knots))


def _smooth_curve(knots: np.ndarray) -> np.ndarray:
    """Cubic spline through knots (K, 3), resampled every `_STEP_MM` along its length: float64 (N, 3)."""
    chord = np.sqrt(np.linalg.norm(np.diff(knots, axis=0), axis=1))  # centripetal: no loops or overshoots
    parameter = np.concatenate([[0.0], np.cumsum(chord)])
    spline = CubicSpline(parameter, knots, bc_type="natural")
    fine = spline(np.linspace(0, parameter[-1], 80 * len(knots)))
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    wanted = np.arange(0, length[-1], _STEP_MM)
    return np.column_stack([np.interp(wanted, length, fine[:, a]) for a in range(3)])


def _self_distance(axis_zyx_mm: np.ndarray, min_length_mm: float) -> float:
    """Least distance of two places of a curve that are more than `min_length_mm` apart along it."""
    stride = 4
    places = axis_zyx_mm[::stride]
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    index = np.arange(len(places))
    return float(distance[np.abs(index[:, None] - index) * stride * _STEP_MM > min_length_mm].min(initial=np.inf))


def _draw_lookalikes(
    rng: np.random.Generator, settings: PhantomSettings, tube: _Piece, radius_mm: float
) -> tuple[_Piece, ...] | None:
    """Loops cut from the tube's own course, turned and put elsewhere, or None if one of them finds no place.

    Cut from the tube they have its bends and slopes, so that their sections in the slices are as the target's.
    """
    number = int(rng.integers(settings.n_lookalikes[0], settings.n_lookalikes[1] + 1))
    total = rng.uniform(*settings.lookalike_share) * (tube.last - tube.first)
    lengths = (rng.dirichlet(np.full(number, 12.0)) * total).astype(int)
    taken = [tube.axis_zyx_mm]
    lookalikes = []
    for length in lengths:
        piece = _place_lookalike(rng, settings, tube, int(length), np.concatenate(taken), radius_mm)
        if piece is None:
            return None
        lookalikes.append(piece)
        taken.append(piece.axis_zyx_mm)
    return tuple(lookalikes)


def _place_lookalike(
    rng: np.random.Generator,
    settings: PhantomSettings,
    tube: _Piece,
    length: int,
    taken_zyx_mm: np.ndarray,
    radius_mm: float,
) -> _Piece | None:
    """One look-alike of `length` samples, clear of what is taken.

    Its height and its distance from the middle of the slices are about those of some place of the target.
    """
    size = (np.array(settings.shape_zyx) - 1) * settings.spacing_zyx_mm
    stub = round(settings.stub_mm / _STEP_MM)
    neighbours = cKDTree(taken_zyx_mm[::4])
    for _ in range(_PIECE_TRIALS):
        start = int(rng.integers(0, len(tube.axis_zyx_mm) - length - 2 * stub))
        course = tube.axis_zyx_mm[start : start + length + 2 * stub]
        centred = course - course[stub : stub + length].mean(axis=0)
        cosine, sine = _unit_vector(rng)
        turn = np.array([[cosine, -sine], [sine, cosine]])
        centred = np.column_stack([centred[:, 0] * rng.choice([-1, 1]), centred[:, 1:] @ turn.T])
        place = tube.axis_zyx_mm[rng.integers(tube.first, tube.last)] - size / 2
        place = np.array([place[0] + rng.normal(0, 6), *np.linalg.norm(place[1:]) * _unit_vector(rng)])
        axis = centred + size / 2 + place
        marked = axis[stub : stub + length]
        is_inside = (marked > 0.06 * size).all() and (marked < 0.94 * size).all()
        if is_inside and neighbours.query(axis[::4])[0].min() > settings.clearance_radii * radius_mm:
            return _Piece(axis, stub, stub + length)
    return None


def _render(
    rng: np.random.Generator, settings: PhantomSettings, pieces: list[_Piece], plain: _Look, marked: _Look
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image int16, mask of the target's look bool, and the index of the piece each voxel is in (-1: none) int."""
    axes = np.concatenate([p.axis_zyx_mm for p in pieces])
    looks = np.concatenate([_looks_along(rng, p, plain, marked) for p in pieces])
    is_marked = np.concatenate([p.is_marked for p in pieces])
    piece_of_sample = np.repeat(np.arange(len(pieces)), [len(p.axis_zyx_mm) for p in pieces])

    spacing = np.array(settings.spacing_zyx_mm)
    voxels_mm = np.moveaxis(np.indices(settings.shape_zyx), 0, -1) * spacing
    reach = looks[:, 0].max() + 3.0
    distance, sample = cKDTree(axes).query(voxels_mm, distance_upper_bound=reach)
    is_near = sample < len(axes)
    sample = np.where(is_near, sample, 0)
    radius, wall_mm, wall, lumen = np.moveaxis(looks[sample], -1, 0)

    in_tube = _soft_step(radius - distance)
    in_lumen = _soft_step(radius - wall_mm - distance)
    texture = 1 + 0.08 * _smooth_noise(rng, settings.shape_zyx, 2.0 / spacing)
    tube_signal = (wall + in_lumen * (lumen - wall)) * texture
    signal = _draw_tissue(rng, settings)
    signal = np.where(is_near, signal + in_tube * (tube_signal - signal), signal)
    image = _acquire(rng, settings, signal)

    is_tube = is_near & (distance <= radius)
    return image, is_tube & is_marked[sample], np.where(is_tube, piece_of_sample[sample], -1)


def _looks_along(rng: np.random.Generator, piece: _Piece, plain: _Look, marked: _Look) -> np.ndarray:
    """Look at each sample of a piece, columns as `_Look`: float64 (N, 4).

    Each stretch with the target's look, the target or a look-alike, varies about it in the same way.
    """
    own = marked.as_array() * rng.normal(1, [0.03, 0.06, 0.04, 0.06])
    blend = gaussian_filter1d(piece.is_marked.astype(float), 0.5 / _STEP_MM, mode="nearest")[:, None]
    looks = plain.as_array() * (1 - blend) + own * blend
    waves = np.column_stack([_smooth_noise(rng, (len(looks),), (6.0 / _STEP_MM,)) for _ in range(4)])
    return looks * (1 + waves * [0.06, 0.08, 0.05, 0.10])


def _draw_tissue(rng: np.random.Generator, settings: PhantomSettings) -> np.ndarray:
    """Signal of the tissue around the tube: soft lobes of fat in darker tissue, finely textured."""
    spacing = np.array(settings.spacing_zyx_mm)
    lobes = _soft_step(_smooth_noise(rng, settings.shape_zyx, 9.0 / spacing) - rng.uniform(0.0, 0.8), 0.3)
    dark = rng.uniform(0.24, 0.34)
    fat = dark + rng.uniform(0.12, 0.24)
    clouds = 0.03 * _smooth_noise(rng, settings.shape_zyx, 5.0 / spacing)
    grain = 0.025 * _smooth_noise(rng, settings.shape_zyx, 1.5 / spacing)
    return dark + (fat - dark) * lobes + clouds + grain


def _acquire(rng: np.random.Generator, settings: PhantomSettings, signal: np.ndarray) -> np.ndarray:
    """Bias field, contrast, Rician noise and gain, as a scanner gives them: int16."""
    coarse = _smooth_noise(rng, (6, 6, 6), (1.2, 1.2, 1.2))
    log_bias = zoom(coarse, np.array(signal.shape) / coarse.shape, order=1, grid_mode=True, mode="nearest")
    bias = np.exp(rng.uniform(*settings.bias) * log_bias)
    contrast = np.clip(signal, 0, None) ** rng.uniform(0.85, 1.2)
    sigma = rng.uniform(*settings.noise)
    real, imaginary = rng.normal(0, sigma, (2, *signal.shape))
    measured = np.hypot(contrast * bias + real, imaginary)
    return np.rint(measured * rng.uniform(*settings.gain)).astype(np.int16)


def _draw_centreline(
    rng: np.random.Generator, settings: PhantomSettings, tube: _Piece, label: np.ndarray, radius_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centreline points (N, 3), continuous voxel indices, and the target's slices without one, bool (z,)."""
    spacing = np.array(settings.spacing_zyx_mm)
    slice_of_sample = nearest_index(tube.axis_zyx_mm[:, 0] / spacing[0])
    chosen = _choose_samples(rng, slice_of_sample, settings.point_distance_mm)
    drift_yx_mm = _draw_drift(rng, settings, len(tube.axis_zyx_mm), radius_mm)[chosen]
    jitter_yx_mm = rng.normal(0, settings.jitter_mm, (len(chosen), 2))
    points_yx = (tube.axis_zyx_mm[chosen, 1:] + drift_yx_mm + jitter_yx_mm) / spacing[1:]
    points = np.column_stack([slice_of_sample[chosen], points_yx])

    last = np.array(settings.shape_zyx) - 1
    is_inside = ((points >= 0) & (points <= last)).all(axis=1)
    points, chosen = points[is_inside], chosen[is_inside]
    is_on_target = label[tuple(nearest_index(points).T)] | tube.is_marked[chosen]
    slices = points[:, 0].astype(int)
    has_target = np.asarray(label.any(axis=(1, 2)))
    has_point = np.isin(np.arange(len(label)), slices[is_on_target])
    gaps = _draw_gaps(rng, settings, has_target, has_point)
    return points[~(is_on_target & gaps[slices])], gaps


def _choose_samples(rng: np.random.Generator, slice_of_sample: np.ndarray, distance_mm: float) -> np.ndarray:
    """Samples that get a point: at least one of every run through a slice, spread over it; int64, ascending."""
    starts = np.flatnonzero(np.diff(slice_of_sample, prepend=slice_of_sample[0] - 1))
    ends = np.append(starts[1:], len(slice_of_sample))
    chosen = []
    for start, end in zip(starts, ends, strict=True):
        number = max(1, round((end - start) * _STEP_MM / distance_mm + rng.uniform(-0.5, 0.5)))
        places = (np.arange(number) + rng.uniform(0.1, 0.9, number)) / number
        chosen.append(start + (places * (end - start)).astype(int))
    return np.concatenate(chosen)


def _draw_drift(rng: np.random.Generator, settings: PhantomSettings, n_samples: int, radius_mm: float) -> np.ndarray:
    """Slow drift of the centreline in plane, at each sample of the tube: float64 (n_samples, 2), mm."""
    sigma = settings.drift_length_mm / 2 / _STEP_MM
    drift = np.column_stack([_smooth_noise(rng, (n_samples,), (sigma,)) for _ in range(2)])
    drift *= settings.drift_radii * radius_mm
    length = np.linalg.norm(drift, axis=1, keepdims=True)
    return drift * np.minimum(1, settings.max_drift_radii * radius_mm / np.maximum(length, 1e-9))


def _draw_gaps(
    rng: np.random.Generator, settings: PhantomSettings, has_target: np.ndarray, has_point: np.ndarray
) -> np.ndarray:
    """Slices of the target to be left without a point, in runs, about half of them: bool (z,).

    Slices that have none anyway, at the outside of a bend, count among them. If no draw keeps to both the share and
    the longest run, the one nearest to the share is taken.
    """
    best, best_error = has_target & ~has_point, np.inf
    middle = float(np.mean(settings.gap_share))
    for _ in range(200):
        runs = rng.integers(1, settings.max_gap + 1, len(has_target))
        is_gap = (np.repeat(np.arange(len(runs)), runs)[: len(has_target)] + rng.integers(2)) % 2 == 0
        gaps = has_target & (is_gap | ~has_point)
        share = gaps.sum() / max(1, has_target.sum())
        is_run_short = _longest_run(gaps) <= settings.max_gap
        error = abs(share - middle) + (0 if is_run_short else 1)
        if error < best_error:
            best, best_error = gaps, error
        if is_run_short and settings.gap_share[0] <= share <= settings.gap_share[1]:
            return gaps
    return best


def _unit_vector(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _longest_run(flags: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _soft_step(value: np.ndarray, width: float = 0.6) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(value / width, -30, 30)))


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: np.ndarray | tuple[float, ...]
) -> np.ndarray:
    """Gaussian noise smoothed by `sigma` samples along each axis and scaled to standard deviation about 1."""
    smooth = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap", truncate=3)
    return smooth * np.prod([np.sqrt(max(1.0, 2 * s * np.sqrt(np.pi))) for s in sigma])
