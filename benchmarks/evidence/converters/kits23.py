"""KiTS23 (Heller et al., arXiv 2307.01984) to nnU-Net's raw format: abdominal CT with kidneys, tumours and cysts.

    python -m evidence.converters.kits23 SOURCE TARGET [-target kidney_and_mass]

SOURCE is the folder `dataset` of the challenge's repository after its download: `case_00000/imaging.nii.gz`,
`case_00000/segmentation.nii.gz` and so on, with 1 kidney, 2 tumour, 3 cyst. The target is one of the challenge's three
hierarchical classes. The paper (arXiv 2604.23314) does not name its own; the kidney with its masses is taken because
the others are far from the Dice of 94 that it reports. Images are linked, not copied, where the file system can.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from evidence.converters.raw import Converted, parser, write_raw_dataset
from evidence.datasets import link_or_copy
from spdnet.cli.common import entry_point
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import DatasetError

TARGETS = {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)}
IMAGE, SEGMENTATION = "imaging.nii.gz", "segmentation.nii.gz"


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Parse the command line and convert."""
    arguments = parser("evidence.converters.kits23", __doc__)
    arguments.add_argument("-target", choices=TARGETS, default="kidney_and_mass", help="default: kidney_and_mass")
    args = arguments.parse_args(argv)
    cases = sorted(f.name for f in args.source.glob("case_*") if f.is_dir())
    if not cases:
        raise DatasetError(
            f"{args.source} holds no folders case_00000, ...; SOURCE must be the challenge's folder dataset"
        )
    missing = [f"{c}/{f}" for c in cases for f in (IMAGE, SEGMENTATION) if not (args.source / c / f).is_file()]
    if missing:
        raise DatasetError(
            f"{args.source} lacks {len(missing)} files, the first of them {missing[:3]}; the challenge's command "
            "kits23_download_data fetches the images"
        )
    convert = partial(convert_case, args.source, values=TARGETS[args.target])
    write_raw_dataset(args.folder, cases, convert, "CT", args.target, "KiTS23")


def convert_case(source: Path, case: str, values: tuple[int, ...]) -> Converted:
    """One case, whose target is made of the labels `values`.

    Raises:
        DatasetError: a file cannot be read, image and segmentation are on different grids, or a label is unknown.
    """
    image, segmentation = source / case / IMAGE, source / case / SEGMENTATION
    label_map, label_geometry = SimpleITKIO().read_label(segmentation, case)
    geometry = SimpleITKIO().read_geometry(image, case)
    if difference := geometry.difference(label_geometry):
        raise DatasetError(f"case {case}: {IMAGE} and {SEGMENTATION} are on different grids: {difference}")
    unknown = sorted(set(np.unique(label_map).tolist()) - {0, 1, 2, 3})
    if unknown:
        raise DatasetError(f"case {case}: {SEGMENTATION} holds {unknown}; KiTS23's labels are 0 to 3")
    return Converted(partial(link_or_copy, image), np.isin(label_map, values), geometry)


if __name__ == "__main__":
    main()
