"""What is said of volumes that a model is not made for, and of brains that cannot be."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from MRFUNetSegmentationLib.checkpoints.card import InputSpec
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.suitability import cautions, doubt
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume

WHOLE = InputSpec("MRI", (1.0, 1.0, 1.0), "RAS", {"method": "none"})
AXIAL = replace(WHOLE, slice_plane="axial")
# Voxel axes run to the front, down and to the left, as in many sagittal series (LPS).
SAGITTAL = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def test_a_usual_scan_gives_nothing_to_say():
    geometry = Geometry((192, 256, 160), (1.0, 1.0, 1.0))
    assert cautions(geometry, WHOLE) == cautions(geometry, AXIAL) == []


def test_thick_slices():
    geometry = Geometry((240, 240, 28), (0.9, 0.9, 5.5))
    (line,) = cautions(geometry, WHOLE)
    assert "slices are thick (5.5 mm)" in line
    assert cautions(geometry, AXIAL) == []  # as the model takes them


def test_slices_across_those_that_a_model_looks_at():
    geometry = Geometry((240, 240, 28), (0.9, 0.9, 5.5), direction=SAGITTAL)
    (line,) = cautions(geometry, AXIAL)
    assert "looks at axial slices" in line and "5.5 mm long" in line
    assert cautions(geometry, replace(AXIAL, slice_plane="sagittal")) == []
    assert cautions(geometry, replace(AXIAL, voxel_size=(6.0, 6.0, 6.0))) == []


@pytest.mark.parametrize("expected", [WHOLE, AXIAL])
def test_part_of_a_head(expected):
    (line,) = cautions(Geometry((192, 256, 60), (1.0, 1.0, 1.0)), expected)
    assert "covers 60 mm in one direction" in line and "found less surely" in line


@pytest.mark.parametrize(
    ("grey", "white", "size", "doubtful"),
    [
        (700.0, 500.0, 200, False),
        (20.0, 5.0, 200, True),
        (1900.0, 1200.0, 200, True),
        (20.0, 5.0, 60, False),  # of a part there may be little
        (1900.0, 1200.0, 60, True),
    ],
)
def test_brains_that_cannot_be(tiny_card, grey, white, size, doubtful):
    geometry = Geometry((200, 200, size), (1.0, 1.0, 1.0))
    text = doubt({0: 9e9, 1: grey, 2: white, 3: 30.0, 4: 200.0}, tiny_card.segments, geometry)
    assert (f"{grey + white:.0f} ml" in text) if doubtful else text == ""


def test_of_models_without_tissues_nothing_is_doubted(tiny_card):
    geometry = Geometry((200, 200, 200), (1.0, 1.0, 1.0))
    assert doubt({0: 9e9, 1: 1.0}, tiny_card.segments[:1], geometry) == ""


def test_the_report_says_it(tiny_checkpoint, tmp_path):
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((20, 60, 60), np.float32))
    image.SetSpacing([2.5, 2.5, 6.0])
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    out = tmp_path / "out"
    options = ["--model", str(tiny_checkpoint), "-o", str(out), "--device", "cpu"]
    assert main(["segment", str(tmp_path / "scan.nii.gz"), *options]) == 0
    said = json.loads((out / "report.json").read_text(encoding="utf-8"))["warnings"]
    assert any("slices are thick (6 mm)" in line for line in said)


@pytest.mark.parametrize(("values", "said"), [(2, True), (54, True), (120, False)])
def test_masks_and_label_maps_are_no_scans(tiny_checkpoint, values, said):
    segmenter = Segmenter(load_checkpoint(tiny_checkpoint), "cpu")
    array = np.random.default_rng(0).integers(0, values, (64, 64, 64), dtype=np.uint8)
    result = segmenter.segment(Volume(array, Geometry((64, 64, 64), (2.5, 2.5, 2.5))))
    text = f"only {values} different values, as a mask or a label map"
    assert any(text in line for line in result.warnings) == said


def test_the_result_says_it(tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint)
    # More grey matter than any brain has.
    checkpoint.network.unet.add_to_logits((0.0, 50.0, 0.0, 0.0, 0.0))
    array = np.random.default_rng(0).random((64, 64, 64), np.float32)
    volume = Volume(array, Geometry((64, 64, 64), (2.5, 2.5, 2.5)))
    result = Segmenter(checkpoint, "cpu").segment(volume)
    found = result.volumes_ml()[1] + result.volumes_ml()[2]
    (line,) = result.warnings
    assert f"Grey and white matter together are {found:.0f} ml" in line
