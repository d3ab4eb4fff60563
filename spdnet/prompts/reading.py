"""One way into every format of prompt file: `read_prompt_file`."""

from __future__ import annotations

from pathlib import Path

from spdnet.dataset import Labels
from spdnet.dataset.raw_dataset import PROMPT_ENDINGS
from spdnet.errors import PromptFileError
from spdnet.geometry import ImageGeometry
from spdnet.prompts.fcsv import looks_like_fcsv, parse_fcsv
from spdnet.prompts.label_marks import read_label_marks
from spdnet.prompts.markups import read_markups
from spdnet.prompts.points import Markup
from spdnet.prompts.tables import parse_table
from spdnet.prompts.text_files import Frame, read_text


def read_prompt_file(
    file: Path,
    frame: Frame | None = None,
    geometry: ImageGeometry | None = None,
    labels: Labels | None = None,
    case: str | None = None,
) -> list[Markup]:
    """Read a prompt file of any format, in LPS mm.

    The ending says which it is: `.json` Slicer markups, `.fcsv` Slicer's old fiducials, `.csv` and `.tsv` tables (or
    fiducials, if they begin like them), `.nii` and `.nii.gz` label maps of marks. What a file says of its frame is
    taken; `frame` settles what it leaves open.

    Args:
        file: the prompt file.
        frame: "lps" or "ras" (option -frame), for files that do not say theirs; one that says another is an error.
        geometry: grid of the image, which tables in voxel indices need.
        labels: classes of the data set, for the class column of tables and the values of label maps.
        case: the case that a table's column `case_id` must name.

    Returns:
        Markups in file order; those that speak for one class have its name.

    Raises:
        PromptFileError: the file cannot be read, or leaves open what its points mean; see the reader of each format.
    """
    name = file.name.lower()
    if name.endswith(".json"):
        return read_markups(file, frame)
    if name.endswith((".nii.gz", ".nii")):
        return read_label_marks(file, labels)
    if name.endswith((".fcsv", ".csv", ".tsv")):
        text = read_text(file)
        if name.endswith(".fcsv") or looks_like_fcsv(text):
            return parse_fcsv(text, file, frame)
        return parse_table(text, file, frame, geometry, labels, case)
    raise PromptFileError(f"prompt file {file} has no ending that spdnet knows. These are {', '.join(PROMPT_ENDINGS)}")
