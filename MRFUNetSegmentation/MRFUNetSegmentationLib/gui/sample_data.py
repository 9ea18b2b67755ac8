"""Scans to try the module with, in Slicer's Sample Data module."""

from __future__ import annotations

from pathlib import Path

from .i18n import _

CATEGORY = "MRF-UNet Segmentation"
_URL = "https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/"
# Slicer's own, so a download of one counts for the other; donated to be used without restrictions.
_HEAD = "cc211f0dfd9a05ca3841ce1141b292898b2dd2d3f08286affadf823a7e58df93"


def register_sample_data(icon: str | Path) -> None:
    """Add the scans to the Sample Data module, if the application has it.

    Args:
        icon: picture that stands for them.
    """
    try:
        from SampleData import SampleDataLogic
    except ImportError:
        return
    SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=_("T1 of a head"),
        uris=_URL + _HEAD,
        fileNames="MR-head.nrrd",
        nodeNames="MRHead",
        checksums=f"SHA256:{_HEAD}",
        thumbnailFileName=str(icon),
    )
