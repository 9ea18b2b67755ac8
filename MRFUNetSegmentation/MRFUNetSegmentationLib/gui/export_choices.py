"""What can be exported, and how; knows neither Qt nor the scene."""

from __future__ import annotations

from dataclasses import dataclass

from .i18n import _

SEGMENTATION, SAMPLE = "segmentation", "sample"
ALL_SAMPLES, ALL_VOLUMES = "all samples", "all volumes"
# Of several segmentations.
SERIES = (ALL_SAMPLES, ALL_VOLUMES)
LABEL_MAP_NODE, DICOM = "label map node", "DICOM"
# The other formats are named by the suffix of their files.
FILE_FORMATS = {
    ".nii.gz": _("NIfTI label map (.nii.gz)"),
    ".nrrd": _("NRRD label map (.nrrd)"),
    ".seg.nrrd": _("Slicer segmentation (.seg.nrrd)"),
}


@dataclass(frozen=True)
class ExportChoices:
    """The entries of the section's lists, pairs of value and label, and which counts.

    Attributes:
        contents: what can be exported.
        formats: as what.
        content: what is chosen of them: the first where the choice is not there.
        format: likewise.
        has_grids: whether the file can be on the grid of the scan's file, too.
    """

    contents: list[tuple[str, str]]
    formats: list[tuple[str, str]]
    content: str
    format: str
    has_grids: bool


def export_choices(
    sampled: bool,
    volumes: int,
    content: str,
    export_format: str,
    *,
    from_dicom: bool,
    in_sequence: bool,
) -> ExportChoices:
    """Return what there is to choose from.

    Args:
        sampled: whether there are samples.
        volumes: how many volumes of a sequence have segmentations together; 0 for one alone.
        content: what was chosen to be exported, perhaps of another segmentation.
        export_format: as what.
        from_dicom: whether the volume was loaded from DICOM.
        in_sequence: whether it is an item of a sequence.
    """
    contents = [(SEGMENTATION, _("Consensus") if sampled else _("Segmentation"))]
    if sampled:
        contents += [(SAMPLE, _("Sample that is shown")), (ALL_SAMPLES, _("All samples"))]
    if volumes:
        text = _("Segmentations of all {number} volumes").format(number=volumes)
        contents.append((ALL_VOLUMES, text))
    content = content if content in dict(contents) else SEGMENTATION
    formats = [(LABEL_MAP_NODE, _("Label map in the scene")), *FILE_FORMATS.items()]
    if from_dicom and content not in SERIES:
        formats.append((DICOM, _("DICOM segmentation")))
    export_format = export_format if export_format in dict(formats) else LABEL_MAP_NODE
    # The file of a DICOM volume is that of one slice, and items of a sequence have none.
    has_file = not (from_dicom or in_sequence or content == ALL_VOLUMES)
    has_grids = has_file and export_format in FILE_FORMATS
    return ExportChoices(contents, formats, content, export_format, has_grids)
