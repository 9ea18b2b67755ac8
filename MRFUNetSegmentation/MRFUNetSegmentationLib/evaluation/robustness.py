"""How much of a segmentation stays when the same head is scanned otherwise; needs no reference.

Real scans are changed as patients and scanners change them (a head that lies tilted, noise, a bias
field, thick slices), and the segmentation of each changed scan is compared with that of the scan as
it is, brought to the same voxels. What agrees need not be right, but what does not agree cannot be
right both times.

Run `python -m MRFUNetSegmentationLib.evaluation.robustness SCAN… -o DIR`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..checkpoints.card import SegmentClass
from ..checkpoints.load import load_checkpoint
from ..inference.engine import Segmenter
from ..inference.image_files import read_image
from ..inference.volume import Geometry, Volume
from ..training.metrics import dice

# Left-right, front-back and bottom-top are then the axes i, j, k.
_ORIENTATION = "LPS"
# Of slices across each of these axes.
_PLANES = ("sagittal", "coronal", "axial")
# Of intensities, what stands for the brightest tissue.
_BRIGHT = 99.0
_SEED = 0

# From the scan, or its label map, on the axes of `_ORIENTATION`, to the changed one.
Change = Callable[[sitk.Image], sitk.Image]


@dataclass(frozen=True)
class Otherwise:
    """A way in which a scan can be otherwise.

    Attributes:
        name: for reports.
        image: from the scan to the changed one.
        seen: from the scan's label map to what of it is in the changed scan's field of view.
        labels: from that to one on the changed scan's voxels.
    """

    name: str
    image: Change
    seen: Change = lambda labels: labels
    labels: Change = lambda labels: labels


def ways() -> list[Otherwise]:
    """Return all ways, in the order of the report."""
    return [
        *(_tilted(degrees, axis) for degrees, axis in ((15, 0), (30, 0), (20, 1), (20, 2))),
        *(Otherwise(f"Rician noise of {s:.0%}", _noise(s)) for s in (0.05, 0.1)),
        Otherwise("bias field, 2.7 times from bottom to top", _bias(1.0)),
        Otherwise("coil below, 6 times from top to bottom", _bias(-1.8)),
        *(Otherwise(f"gamma {g:g}", _gamma(g)) for g in (0.6, 1.6)),
        _coarse("voxels of 2 mm", (2.0, 2.0, 2.0)),
        *(_thick(axis) for axis in (2, 1, 0)),
        Otherwise("lower third not scanned", _without_lower_third, _without_lower_third),
        *(_slab(axis) for axis in (2, 1)),
    ]


@dataclass(frozen=True)
class Agreement:
    """Agreement of the segmentations of a changed scan and of the scan as it is.

    Attributes:
        way: name of the change.
        scan: names of the scan's folder and file.
        structure: name of the class.
        dice: of the two segmentations of the structure.
        volume: of the structure in the changed scan, as a share of what the scan as it is has in
            the same field of view, on its own voxels: on coarse ones a thin structure is nowhere
            most of a voxel. NaN if it has nothing.
    """

    way: str
    scan: str
    structure: str
    dice: float
    volume: float


def agreements(scan: Path, segmenter: Segmenter) -> Iterator[Agreement]:
    """Yield how well a scan's segmentation is found again, for each way and structure."""
    image = sitk.Cast(sitk.DICOMOrient(read_image(scan), _ORIENTATION), sitk.sitkFloat32)
    plain = _segmented(image, segmenter)
    for way in ways():
        seen, found = way.seen(plain), _segmented(way.image(image), segmenter)
        expected = way.labels(seen)
        for c in segmenter.checkpoint.card.segments:
            had = _ml(seen, c)
            yield Agreement(
                way.name,
                f"{scan.parent.name}/{scan.name}",
                c.name,
                dice(*(sitk.GetArrayFromImage(labels) == c.value for labels in (found, expected))),
                _ml(found, c) / had if had else float("nan"),
            )


def _ml(labels: sitk.Image, of: SegmentClass) -> float:
    marked = np.count_nonzero(sitk.GetArrayViewFromImage(labels) == of.value)
    return marked * Geometry.from_image(labels).voxel_ml


def _segmented(image: sitk.Image, segmenter: Segmenter) -> sitk.Image:
    return _like(segmenter.segment(Volume.from_image(image)).labels, image)


def _like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


def _tilted(degrees: float, axis: int) -> Otherwise:
    """Turn the head about one of the scan's axes; the field of view stays."""
    name = ("left-right", "front-back", "bottom-top")[axis]

    def turned(interpolator: int) -> Change:
        def change(image: sitk.Image) -> sitk.Image:
            turn = sitk.VersorRigid3DTransform()
            turn.SetCenter(image.TransformContinuousIndexToPhysicalPoint(_middle(image)))
            along = np.reshape(image.GetDirection(), (3, 3))[:, axis]
            turn.SetRotation(along.tolist(), np.deg2rad(degrees))
            outside = float(sitk.GetArrayViewFromImage(image).min())
            return sitk.Resample(image, image, turn, interpolator, outside)

        return change

    return Otherwise(
        f"head tilted by {degrees:g} degrees about the {name} axis",
        turned(sitk.sitkLinear),
        turned(sitk.sitkNearestNeighbor),
    )


def _middle(image: sitk.Image) -> list[float]:
    return [(n - 1) / 2 for n in image.GetSize()]


def _on_values(change: Callable[[np.ndarray, float], np.ndarray]) -> Change:
    """Return a change of the values [k, j, i] above the least one, given the bright ones."""

    def changed(image: sitk.Image) -> sitk.Image:
        values = sitk.GetArrayFromImage(image)
        values -= values.min()
        result = change(values, float(np.percentile(values, _BRIGHT)))
        return _like(result.astype(np.float32), image)

    return changed


def _noise(share: float) -> Change:
    def noisy(values: np.ndarray, bright: float) -> np.ndarray:
        rng = np.random.default_rng(_SEED)
        real, imaginary = (rng.normal(0, share * bright, values.shape) for _ in range(2))
        return np.hypot(values + real, imaginary)

    return _on_values(noisy)


def _bias(logarithm: float) -> Change:
    """Multiply by a field that changes from bottom to top by a factor of this logarithm."""

    def biased(values: np.ndarray, bright: float) -> np.ndarray:
        height = np.linspace(-0.5, 0.5, len(values))[:, None, None]
        return values * np.exp(logarithm * height)

    return _on_values(biased)


def _gamma(exponent: float) -> Change:
    return _on_values(lambda values, bright: bright * (values / bright) ** exponent)


def _coarse(name: str, voxel_size: Sequence[float]) -> Otherwise:
    """Average to voxels of about this size, mm; a label is that of most of what is averaged."""

    def factors(image: sitk.Image) -> list[int]:
        pairs = zip(voxel_size, image.GetSpacing(), strict=True)
        return [max(1, round(wanted / spacing)) for wanted, spacing in pairs]

    def averaged(image: sitk.Image) -> sitk.Image:
        return sitk.BinShrink(image, factors(image))

    def most(labels: sitk.Image) -> sitk.Image:
        values = range(int(sitk.GetArrayViewFromImage(labels).max()) + 1)
        masks = [sitk.Cast(labels == value, sitk.sitkFloat32) for value in values]
        shares = [sitk.BinShrink(mask, factors(labels)) for mask in masks]
        share = np.stack([sitk.GetArrayFromImage(s) for s in shares])
        return _like(share.argmax(0).astype(np.uint8), shares[0])

    return Otherwise(name, averaged, labels=most)


def _thick(axis: int) -> Otherwise:
    voxel_size = [0.0, 0.0, 0.0]
    voxel_size[axis] = 6.0
    return _coarse(f"{_PLANES[axis]} slices of 6 mm", voxel_size)


def _without_lower_third(image: sitk.Image) -> sitk.Image:
    return image[:, :, image.GetSize()[2] // 3 :]


def _slab(axis: int) -> Otherwise:
    """Keep the middle third of the slices across an axis."""

    def middle(image: sitk.Image) -> sitk.Image:
        kept = [slice(None)] * 3
        third = image.GetSize()[axis] // 3
        kept[axis] = slice(third, 2 * third)
        return image[tuple(kept)]

    return Otherwise(f"middle third of the {_PLANES[axis]} slices alone", middle, middle)


def write_report(found: Sequence[Agreement], model: str, folder: Path) -> None:
    """Write robustness.csv, every agreement, and robustness.md, the means over the scans."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "robustness.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["change", "scan", "structure", "dice", "volume"])
        for a in found:
            table.writerow([a.way, a.scan, a.structure, f"{a.dice:.4f}", f"{a.volume:.4f}"])
    lines = "\n".join(_lines(found, model))
    (folder / "robustness.md").write_text(lines + "\n", encoding="utf-8")


def _lines(found: Sequence[Agreement], model: str) -> Iterator[str]:
    scans = list(dict.fromkeys(a.scan for a in found))
    structures = list(dict.fromkeys(a.structure for a in found))
    yield f"{model} on {', '.join(scans)}: Dice with the segmentation of the scan as it is, and the"
    yield "volume as a share of its; means over the scans."
    yield ""
    yield f"| the same scan with | {' | '.join(structures)} |"
    yield "|---|" + "---|" * len(structures)
    for way in dict.fromkeys(a.way for a in found):
        cells = []
        for structure in structures:
            of = [a for a in found if (a.way, a.structure) == (way, structure)]
            volumes = [a.volume for a in of if np.isfinite(a.volume)]
            volume = f"{np.mean(volumes):.0%}" if volumes else "none"
            cells.append(f"{np.mean([a.dice for a in of]):.2f} ({volume})")
        yield f"| {way} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("scans", type=Path, nargs="+", metavar="SCAN")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", default="brain-tissue", help="name or path of a checkpoint")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    segmenter = Segmenter(load_checkpoint(options.model), options.device)
    found = []
    for scan in options.scans:
        for agreement in agreements(scan, segmenter):
            found.append(agreement)
            print(f"{agreement.scan}, {agreement.way}, {agreement.structure}: {agreement.dice:.3f}")
    write_report(found, segmenter.checkpoint.card.name, options.output)


if __name__ == "__main__":
    main()
