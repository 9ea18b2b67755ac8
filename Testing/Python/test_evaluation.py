"""Evaluation: each score against an answer known beforehand, and the command as a whole."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.card import ModelCard
from MRFUNetSegmentationLib.checkpoints.load import build_network, load_checkpoint, save_checkpoint
from MRFUNetSegmentationLib.cli.evaluate import EXAMPLE
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.errors import InputError
from MRFUNetSegmentationLib.evaluation import packages, peers
from MRFUNetSegmentationLib.evaluation.cases import (
    MASK_OF_MODEL,
    Case,
    CaseList,
    LoadedCase,
    Plausibility,
    load_case,
    load_case_list,
    write_case_list,
)
from MRFUNetSegmentationLib.evaluation.methods import ModelMethod
from MRFUNetSegmentationLib.evaluation.pictures import Panel, draw_grid, planes
from MRFUNetSegmentationLib.evaluation.plausibility import (
    asymmetry_percent,
    main_component_share,
    midsagittal_plane,
    plausibility,
)
from MRFUNetSegmentationLib.evaluation.raters import _single_rater, score_samples
from MRFUNetSegmentationLib.evaluation.report import _best_first, _coverage, _floors, write_report
from MRFUNetSegmentationLib.evaluation.run import (
    Results,
    _compare_scans,
    _measure,
    _segmentations,
    evaluate,
)
from MRFUNetSegmentationLib.evaluation.scores import score
from MRFUNetSegmentationLib.evaluation.statistics import mean_of_scans, paired_comparison
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.image_files import read_volume_file
from MRFUNetSegmentationLib.inference.volume import RAS, Geometry, Volume
from MRFUNetSegmentationLib.training.config import ConfigError
from MRFUNetSegmentationLib.training.metrics import dice
from MRFUNetSegmentationLib.uncertainty.disagreement import generalised_energy_distance

pytest.importorskip("surface_distance")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

REPOSITORY = Path(__file__).parents[2]


class TestScores:
    SPACING = (1.0, 2.0, 3.0)  # i, j, k

    def cube(self, shift=(0, 0, 0)):
        mask = np.zeros((20, 20, 20), bool)
        mask[tuple(slice(5 + s, 12 + s) for s in shift)] = True
        return mask

    def test_equal_masks(self):
        found = score(self.cube(), self.cube(), self.SPACING, 1.0)
        assert (found.dice, found.hd95_mm, found.surface_dice) == (1, 0, 1)
        assert found.volume_ml == found.reference_ml == pytest.approx(343 * 6 / 1000)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_shifted_cube_is_as_far_as_it_was_shifted(self, axis):
        shift = [0, 0, 0]
        shift[axis] = 2
        found = score(self.cube(shift), self.cube(), self.SPACING, 1.0)
        assert found.dice == pytest.approx(5 / 7)
        # Two of six faces are off by two voxels, so much more than 5 % of the surface.
        assert found.hd95_mm == pytest.approx(2 * self.SPACING[::-1][axis])
        assert found.volume_difference_percent == 0
        assert 0 < found.surface_dice < 1
        within = score(self.cube(shift), self.cube(), self.SPACING, 6.0)
        assert within.surface_dice == 1

    @pytest.mark.parametrize("thickness", [1.0, 5.0])
    def test_surface_of_a_single_slice_is_its_outline(self, thickness):
        """Not its two faces, which would all be at distance 0."""
        j, i = np.mgrid[:128, :128]
        small, large = (np.hypot(j - 64, i - 64)[None] <= r for r in (20, 25))
        found = score(small, large, (1.0, 1.0, thickness), 1.0)
        assert found.hd95_mm == pytest.approx(5, abs=0.2)
        assert found.surface_dice == 0
        assert score(small, large, (1.0, 1.0, thickness), 6.0).surface_dice == 1

    def test_volume_difference_has_a_sign(self):
        half = self.cube()
        half[:8] = False  # 4 of 7 slices stay
        found = score(half, self.cube(), self.SPACING, 1.0)
        assert found.volume_difference_percent == pytest.approx(-300 / 7)

    def test_missing_structures(self):
        none, cube = np.zeros((20, 20, 20), bool), self.cube()
        both = score(none, none, self.SPACING, 1.0)
        assert (both.dice, both.hd95_mm, both.surface_dice) == (1, 0, 1)
        assert np.isnan(both.volume_difference_percent)
        for a, b in ((none, cube), (cube, none)):
            found = score(a, b, self.SPACING, 1.0)
            assert (found.dice, found.surface_dice) == (0, 0)
            assert found.hd95_mm == pytest.approx(np.linalg.norm([20, 40, 60]))

    def test_a_mask_at_the_border_keeps_its_surface(self):
        mask = np.zeros((8, 8, 8), bool)
        mask[:4] = True
        other = np.zeros((8, 8, 8), bool)
        other[:5] = True
        assert score(mask, other, (1, 1, 1), 0.5).hd95_mm == pytest.approx(1)


class TestStatistics:
    def test_interval_of_a_mean_is_students_for_many_scans(self):
        values = np.random.RandomState(0).normal(0.8, 0.05, 200)
        found = mean_of_scans(values, [str(n) for n in range(200)])
        error = values.std(ddof=1) / np.sqrt(200)
        assert found.value == pytest.approx(values.mean())
        assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
        assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)

    def test_scans_of_a_subject_are_drawn_together(self):
        values = np.repeat(np.random.RandomState(1).normal(0.8, 0.05, 20), 10)
        subjects = np.repeat([str(n) for n in range(20)], 10)
        together = mean_of_scans(values, subjects)
        apart = mean_of_scans(values, [str(n) for n in range(200)])
        assert together.value == apart.value
        ratio = (together.high - together.low) / (apart.high - apart.low)
        assert ratio == pytest.approx(np.sqrt(10), rel=0.15)

    def test_few_subjects_have_students_interval(self):
        """Of its means over the scans of each; the bootstrap's would be too narrow."""
        found = mean_of_scans([0.4, 0.5, 0.2, 0.4, 0.6], ["a", "a", "b", "c", "c"])
        means = np.array([0.45, 0.2, 0.5])
        reach = 4.30265273 * means.std(ddof=1) / np.sqrt(3)
        assert found.value == pytest.approx(0.42)
        assert (found.low, found.high) == pytest.approx((0.42 - reach, 0.42 + reach))

    def test_two_subjects_have_no_interval(self):
        found = mean_of_scans([0.5, 0.7, 0.6], ["a", "a", "b"])
        assert found.value == pytest.approx(0.6) and np.isnan(found.low)

    def test_paired_comparison_stays_exact_where_a_subject_does_not_differ(self):
        found = paired_comparison(np.arange(15), np.zeros(15), [str(n) for n in range(15)])
        assert found.p == pytest.approx(2**-13) == found.smallest_p

    def test_paired_comparison_of_subjects_all_better(self):
        subjects = list("abcdef")
        second = np.array([0.5, 0.6, 0.7, 0.8, 0.55, 0.65])
        gain = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
        found = paired_comparison(second + gain, second, subjects)
        assert found.difference.value == pytest.approx(gain.mean())
        assert found.p == found.smallest_p == 2 / 2**6
        # The same subjects with two scans each are no more evidence.
        twice = paired_comparison(np.tile(second + gain, 2), np.tile(second, 2), subjects * 2)
        assert twice.p == found.p
        assert np.isnan(paired_comparison(second, second, subjects).p)
        # Subjects that do not differ are no evidence at all.
        some = paired_comparison(second + gain * (gain > 0.01), second, subjects)
        assert some.p == some.smallest_p == 2 / 2**5


def head(angle_degrees=0.0, shaved=False):
    """A brain-like ellipsoid (R, A, S), turned about the vertical; more of it is left of its plane.

    Returns:
        brain, mask of its shell, unit normal of its plane, by how many percent of their mean the
        left of the shell exceeds the right.
    """
    grid = np.stack(np.meshgrid(*[np.arange(-60, 60, 2.0)] * 3, indexing="ij"), axis=-1)
    angle = np.deg2rad(angle_degrees)
    normal = np.array([np.cos(angle), np.sin(angle), 0])
    forward = np.array([-np.sin(angle), np.cos(angle), 0])
    right, front, up = grid @ normal - 6, grid @ forward, grid[..., 2]
    brain = (right / 35) ** 2 + (front / 50) ** 2 + (up / 30) ** 2 < 1
    inner = (right / 28) ** 2 + (front / 43) ** 2 + (up / 23) ** 2 < 1
    shell = brain & ~inner
    if shaved:
        shell &= ~((right > 0) & (up > 15))
    on_the_right, on_the_left = (shell & (right > 0)).sum(), (shell & (right < 0)).sum()
    percent = 200 * (on_the_left - on_the_right) / (on_the_left + on_the_right)
    return brain, shell, normal, percent


class TestPlausibility:
    @pytest.mark.parametrize("angle", [0, 12, -8])
    def test_plane_of_a_turned_head(self, angle):
        brain, _, normal, _ = head(angle)
        found, offset = midsagittal_plane(brain, (2, 2, 2))
        assert np.degrees(np.arccos(found @ normal)) < 1.5
        assert offset == pytest.approx(found @ (np.array([60, 60, 60]) + 6 * normal), abs=1)

    @pytest.mark.parametrize(
        "direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1)]
    )
    def test_more_on_the_left_is_positive(self, direction):
        brain, shell, _, expected = head(10, shaved=True)
        geometry = Geometry(brain.shape, (2.0, 2.0, 2.0), direction=direction)
        # Arrays are [k, j, i]; in LPS the axes of (R, A, S) run the other way.
        step = -1 if direction[0] == 1 else 1

        def stored(mask):
            return np.ascontiguousarray(mask[::step, ::step].T)

        found = asymmetry_percent(stored(shell), stored(brain), geometry)
        assert expected > 15
        assert found == pytest.approx(expected, abs=2)

    def test_symmetry(self):
        brain, shell, *_ = head(12)
        geometry = Geometry(brain.shape, (2.0, 2.0, 2.0), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
        assert asymmetry_percent(shell.T.copy(), brain.T.copy(), geometry) == pytest.approx(
            0, abs=2
        )

    @pytest.mark.parametrize("across", [1.0, 4.0])
    def test_symmetry_whatever_the_voxel_size(self, across):
        """Of an ellipsoid whose plane lies a quarter of a voxel beside the centre of one."""
        spacing = np.array([across, 2.0, 2.0])
        size = (np.array([100, 130, 90]) / spacing).astype(int)
        centre = (size // 2 + [0.25, 0, 0]) * spacing
        points = np.moveaxis(np.indices(size), 0, -1) * spacing - centre
        mask = ((points / [40, 55, 35]) ** 2).sum(-1) < 1
        geometry = Geometry(
            tuple(map(int, size)), tuple(spacing), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)
        )
        stored = np.ascontiguousarray(mask.T)
        assert asymmetry_percent(stored, stored, geometry) == pytest.approx(0, abs=2)

    def test_share_of_the_main_component(self):
        mask = np.zeros((9, 9, 9), bool)
        mask[:3, :3, :3] = True
        mask[3, 3, 3] = True  # touches at a corner
        mask[7, 7, 7] = mask[7, 7, 5] = True
        assert main_component_share(mask) == 28 / 30
        assert np.isnan(main_component_share(mask & False))

    def test_faults_are_named(self):
        limits = Plausibility(brain=("Brain",), sides="Brain", connected=("Brain",))
        mask = np.zeros((40, 40, 40), bool)
        mask[10:30, 10:30, 10:30] = True
        mask[2:5] = True
        found = plausibility({"Brain": mask}, Geometry((40, 40, 40), (1.0, 1.0, 1.0)), limits)
        assert found.brain_l == pytest.approx(mask.sum() * 1e-6)
        assert found.faults == ("brain of 0.01 l", "Brain: 62 % in one piece")
        whole = np.zeros((60, 60, 60), bool)
        whole[10:50, 10:50, 10:50] = True
        good = plausibility({"Brain": whole}, Geometry((60, 60, 60), (2.5, 2.5, 2.5)), limits)
        assert good.brain_l == pytest.approx(1.0)
        assert good.faults == ()


def phantom(seed=0) -> tuple[Volume, dict[str, np.ndarray]]:
    """A ball of fluid in white matter in grey matter, with noise and a bias field."""
    k, j, i = np.indices((36, 40, 44)) - np.array([18, 20, 22]).reshape(3, 1, 1, 1)
    radius = np.sqrt((k / 15) ** 2 + (j / 17) ** 2 + (i / 19) ** 2)
    masks = {
        "Fluid": radius < 0.45,
        "White": (radius >= 0.45) & (radius < 0.8),
        "Grey": (radius >= 0.8) & (radius < 1),
    }
    image = sum(v * masks[s] for s, v in (("Fluid", 100), ("Grey", 300), ("White", 500)))
    image = image * (1 + 0.004 * i) + np.random.RandomState(seed).normal(0, 20, image.shape)
    image[radius >= 1] = 0
    return Volume(image.astype(np.float32), Geometry((44, 40, 36), (1.0, 1.0, 1.2))), masks


class TestPeers:
    @pytest.mark.parametrize(("name", "module"), [("hmrf", "dipy"), ("atropos", "ants")])
    def test_peer_finds_the_tissues_of_a_phantom(self, name, module):
        pytest.importorskip(module)
        volume, masks = phantom()
        brain = np.logical_or.reduce(list(masks.values()))
        state = np.random.get_state()[1].copy()
        found = peers.segment(peers.PEERS[name], volume, brain, ("Fluid", "Grey", "White"))
        for structure, mask in masks.items():
            assert dice(found[structure], mask) > 0.93
        assert not (np.logical_or.reduce(list(found.values())) & ~brain).any()
        assert np.array_equal(np.random.get_state()[1], state)  # others' draws stay the same

    def test_an_empty_mask_is_refused(self):
        volume, masks = phantom()
        with pytest.raises(InputError, match="mask"):
            peers.segment(peers.hmrf, volume, masks["Fluid"] & False, ("Fluid", "Grey"))


class TestPictures:
    @pytest.mark.parametrize("flip", [False, True], ids=["LPS", "RAS"])
    def test_right_is_on_the_left_and_front_is_up(self, flip):
        # In LPS i runs to the patient's left and j to the back: a spot in front, on the right.
        array = np.random.RandomState(0).rand(20, 30, 24)
        spot = np.zeros(array.shape, bool)
        spot[:, 4, :4] = True
        centre = (10, 4, 12)
        sign = 1.0
        if flip:  # the same voxels, stored the other way round
            array, spot = array[:, ::-1, ::-1].copy(), spot[:, ::-1, ::-1].copy()
            centre, sign = (10, 25, 11), -1.0
        direction = (sign, 0, 0, 0, sign, 0, 0, 0, 1)
        volume = Volume(array, Geometry((24, 30, 20), (1.0, 1.0, 2.0), direction=direction))
        picture = planes(volume, {"Spot": spot}, {"Spot": (255, 0, 0)}, centre)
        # Axial 30 x 24 beside coronal 40 x 24: slices are 2 mm thick.
        assert picture.shape == (40, 48, 3)
        red = picture[..., 0] > picture[..., 1] + 0.3
        assert np.argwhere(red[:, :24]).tolist() == [[5 + 4, i] for i in range(4)]
        assert red[:, 24:28].all() and not red[:, 28:].any()

    @pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, np.int16, np.float32])
    def test_voxels_of_every_type(self, kind):
        """Those of scanners are unsigned often, and axes of most files are turned."""
        array = np.random.RandomState(0).randint(0, 1000, (20, 30, 24))
        geometry = Geometry((24, 30, 20), (1.0, 1.0, 2.0), direction=RAS)
        expected = planes(Volume(array, geometry), None, {}, (10, 15, 12))
        picture = planes(Volume(array.astype(kind), geometry), None, {}, (10, 15, 12))
        assert np.array_equal(picture, expected)

    @pytest.mark.parametrize(
        ("shape", "drawn"),
        [((1, 30, 24), (30, 24)), ((20, 1, 24), (20, 24)), ((20, 30, 1), (20, 30))],
    )
    def test_a_single_slice_is_drawn_without_stripes(self, shape, drawn):
        """In the plane it lies in, whichever that is."""
        array = np.random.RandomState(0).rand(*shape) + 1
        volume = Volume(array, Geometry(shape[::-1], (1.0, 1.0, 1.0)))
        assert planes(volume, None, {}, tuple(n // 2 for n in shape)).shape == (*drawn, 3)

    def test_a_few_thick_sagittal_slices_are_drawn_without_stripes(self):
        """Where i, j and k run to the back, up and to the left."""
        array = np.random.RandomState(0).rand(4, 30, 24) + 1
        direction = (0, 0, 1, 1, 0, 0, 0, 1, 0)
        volume = Volume(array, Geometry((24, 30, 4), (1.0, 1.0, 5.0), direction=direction))
        assert planes(volume, None, {}, (2, 15, 12)).shape == (30, 24, 3)

    def test_pages_of_many_scans(self, tmp_path):
        panel = Panel(np.zeros((8, 8, 3)), "scan")
        files = draw_grid(tmp_path / "scans.png", [(str(n), [panel, None]) for n in range(13)])
        assert [f.name for f in files] == ["scans.png", "scans-2.png"]
        assert all(f.stat().st_size for f in files)


CASES = """
title = "Test"
structures = ["Grey matter", "White matter"]
samples = [1, 3]
contrasts.T1 = ["Grey matter", "White matter"]
plausibility = { brain = ["Grey matter", "White matter"], sides = "Grey matter" }

[[cases]]
name = "random"
image = "scan-1.nii.gz"
labels = "random.nii.gz"
values = { "Grey matter" = [1], "White matter" = [2, 3] }

[[cases]]
name = "its own result"
image = "scan-1.nii.gz"
labels = "own.nii.gz"
values = { "Grey matter" = [1], "White matter" = [2] }
subject = "patient"
contrast = "T1"
mask = "nonzero"

[[cases]]
name = "map"
image = "scan-2.nii.gz"
probabilities = { "White matter" = "map.nii.gz" }
subject = "patient"

[[cases]]
name = "without reference"
image = "scan-2.nii.gz"
"""


def write(path: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((5.0, 4.0, 6.0))
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_checkpoint) -> Path:
    """Scans, references and a list of them; one reference is the tiny network's own result."""
    folder = tmp_path_factory.mktemp("evaluation")
    random = np.random.RandomState(0)
    for n in (1, 2):
        write(folder / f"scan-{n}.nii.gz", random.rand(24, 32, 28).astype(np.float32) + 0.1)
    write(folder / "random.nii.gz", random.randint(0, 4, (24, 32, 28)).astype(np.uint8))
    write(folder / "map.nii.gz", random.randint(0, 256, (24, 32, 28)).astype(np.uint8))
    segmenter = Segmenter(load_checkpoint(tiny_checkpoint), "cpu")
    own = segmenter.segment(read_volume_file(folder / "scan-1.nii.gz")).labels
    assert {1, 2} <= set(np.unique(own))
    write(folder / "own.nii.gz", own)
    (folder / "cases.toml").write_text(CASES, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory, tiny_card) -> Path:
    torch.manual_seed(5)
    card = replace(tiny_card, name="other")
    network = build_network(card)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_checkpoint(path, network, card)
    return path


@pytest.fixture(scope="module")
def report(folder, tiny_checkpoint, other_checkpoint, tmp_path_factory) -> Path:
    """Folder of a report on two models and a peer that cannot be imported."""
    out = tmp_path_factory.mktemp("report")

    def without_dipy(module, *arguments):
        if module.startswith("dipy"):
            raise InputError("The peer hmrf needs the package dipy")
        return real(module, *arguments)

    real, peers.need = peers.need, without_dipy
    try:
        code = main(
            ["evaluate", str(folder / "cases.toml"), "--data", str(folder), "-o", str(out),
             "--model", str(tiny_checkpoint), "--model", f"second={other_checkpoint}",
             "--peer", "hmrf", "--device", "cpu", "--debug"]
        )  # fmt: skip
    finally:
        peers.need = real
    assert code == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


class TestReport:
    def test_scores_are_those_of_the_written_segmentations(self, report, folder):
        reference = {
            ("random", "Grey matter"): read(folder / "random.nii.gz") == 1,
            ("random", "White matter"): np.isin(read(folder / "random.nii.gz"), [2, 3]),
            ("its own result", "Grey matter"): read(folder / "own.nii.gz") == 1,
            ("its own result", "White matter"): read(folder / "own.nii.gz") == 2,
            ("map", "White matter"): read(folder / "map.nii.gz") > 127.5,
        }
        found = rows(report / "scores.csv")
        assert {(r["case"], r["structure"], r["method"]) for r in found} == {
            (*key, method) for key, method in product(reference, ("tiny", "second"))
        }
        for r in found:
            file = report / "segmentations" / r["method"] / f"{r['case'].replace(' ', '_')}.nii.gz"
            mask = read(file) == {"Grey matter": 1, "White matter": 2}[r["structure"]]
            truth = reference[r["case"], r["structure"]]
            both = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
            assert float(r["dice"]) == pytest.approx(both, abs=1e-5)
            assert float(r["volume_ml"]) == pytest.approx(mask.sum() * 0.12, rel=1e-4)

    def test_a_networks_own_result_is_perfect(self, report):
        own = [r for r in rows(report / "scores.csv") if r["case"] == "its own result"]
        perfect = [r for r in own if r["method"] == "tiny"]
        assert [(float(r["dice"]), float(r["hd95_mm"])) for r in perfect] == [(1, 0), (1, 0)]
        assert all(float(r["dice"]) < 1 for r in own if r["method"] == "second")

    def test_the_text_has_every_part(self, report):
        text = (report / "report.md").read_text(encoding="utf-8")
        for part in (
            "# Test",
            "### Dice",
            "### 95 % Hausdorff distance, mm",
            "### Surface Dice at 1 mm",
            "### Dice of tiny minus that of others",
            "## Between scans of one brain",
            "## Plausibility",
            "## Every scan",
            "## How it was measured",
        ):
            assert f"{part}\n" in text
        for picture in ("scores.png", "scans.png"):
            assert f"({picture})" in text
            assert (report / picture).stat().st_size > 10_000

    def test_scans_are_ordered_from_best_to_worst(self, report):
        text = (report / "report.md").read_text(encoding="utf-8")
        table = text.split("### Dice of every scan")[1].split("##")[0]
        assert table.index("its own result") < table.index("random")
        assert "without reference" not in table

    def test_a_missing_package_is_told_and_the_others_go_on(self, report):
        text = (report / "report.md").read_text(encoding="utf-8")
        assert "hmrf on its own result: The peer hmrf needs the package dipy" in text
        assert "hmrf on random, map, without reference: the list gives no contrast" in text

    def test_agreement_between_scans(self, report):
        a, b = (
            read(report / "segmentations" / "tiny" / f"{c}.nii.gz")
            for c in ("its_own_result", "map")
        )
        for r in rows(report / "consistency.csv"):
            if r["method"] == "tiny":
                value = {"Grey matter": 1, "White matter": 2}[r["structure"]]
                assert float(r["dice"]) == pytest.approx(dice(a == value, b == value), abs=1e-5)

    def test_plausibility_is_of_all_scans(self, report):
        found = rows(report / "plausibility.csv")
        assert len(found) == 2 * 4
        assert any("brain of" in r["faults"] for r in found)

    def test_an_earlier_report_is_kept(self, report, folder, capsys):
        before = (report / "report.md").read_bytes()
        arguments = ["evaluate", str(folder / "cases.toml"), "--data", str(folder)]
        assert main([*arguments, "-o", str(report)]) == 1
        assert "--overwrite" in capsys.readouterr().err
        assert (report / "report.md").read_bytes() == before


@pytest.fixture(scope="module")
def probabilistic(tmp_path_factory, tiny_card) -> Path:
    """Checkpoint of a small Probabilistic U-Net whose samples differ."""
    card = tiny_card.to_dict()
    card["name"] = "sampling"
    card["architecture"] = {
        "type": "probabilistic-unet", "dim": 3, "classes": 2, "filters": [4, 8], "latent": 2,
    }  # fmt: skip
    card["classes"] = card["classes"][:2]
    card.pop("one_piece", None)
    card = ModelCard.from_dict(json.loads(json.dumps(card)))
    torch.manual_seed(3)
    network = build_network(card)
    with torch.no_grad():
        for parameter in network.f_comb.parameters():
            parameter.mul_(4)
    path = tmp_path_factory.mktemp("sampling") / "sampling.safetensors"
    save_checkpoint(path, network, card)
    return path


class TestRaters:
    def test_samples_against_raters(self, folder, probabilistic, tmp_path):
        method = ModelMethod("m", [str(probabilistic)], ["Grey matter"], "cpu")
        volume = read_volume_file(folder / "scan-1.nii.gz")
        # Raters that are further samples of the same model.
        for n, labels in enumerate(method.samples(volume, 3, seed=9)):
            write(tmp_path / f"rater{n}.nii.gz", labels)
        text = f"""
            title = "Raters"
            structures = ["Grey matter"]
            samples = [1, 3]
            [[cases]]
            name = "scan"
            image = "{folder / "scan-1.nii.gz"}"
            raters = ["rater0.nii.gz", "rater1.nii.gz", "rater2.nii.gz"]
            values = {{ "Grey matter" = [1] }}
        """
        (tmp_path / "cases.toml").write_text(text, encoding="utf-8")
        out = tmp_path / "out"
        arguments = ["evaluate", str(tmp_path / "cases.toml"), "--data", str(tmp_path)]
        assert main([*arguments, "-o", str(out), "--model", str(probabilistic), "--debug"]) == 0
        one, three = rows(out / "raters.csv")
        assert (one["samples"], three["samples"]) == ("1", "3")
        assert float(one["sample_diversity"]) == 0 < float(three["sample_diversity"])
        for r in (one, three):
            parts = (float(r[k]) for k in ("between", "sample_diversity", "rater_diversity"))
            between, samples, raters = parts
            assert float(r["ged_squared"]) == pytest.approx(
                2 * between - samples - raters, abs=1e-4
            )
        text = (out / "report.md").read_text(encoding="utf-8")
        assert "(energy.png)" in text and "(reliability.png)" in text
        # Of three different samples, and of three different raters.
        samples, raters = (float(three[k]) * 3 / 2 for k in ("sample_diversity", "rater_diversity"))
        distances = {"| sampling": (float(three["between"]), samples), "floor": (raters, raters)}
        table = text.partition("## Against several raters")[2]
        for name, (first, second) in distances.items():
            row = next(r for r in table.splitlines() if f"{name} |" in r)
            found = [float(cell) for cell in row.split("|")[-3:-1]]
            assert found == pytest.approx([first, second], abs=6e-4)

    def test_every_scan_has_its_own_latents(self, folder, probabilistic, tmp_path):
        """With the same for all, their chance would be the same in every scan."""
        method = ModelMethod("m", [str(probabilistic)], ["Grey matter"], "cpu")
        write(tmp_path / "rater.nii.gz", read(folder / "own.nii.gz"))
        cases = tuple(
            Case(
                name,
                str(folder / "scan-1.nii.gz"),
                raters=("rater.nii.gz",),
                values={"Grey matter": (1,)},
            )
            for name in ("a", "b", "c")
        )
        results = [
            evaluate(CaseList("t", ("Grey matter",), order, samples=(1,)), tmp_path, [method])
            for order in (cases, cases[::-1])
        ]
        text = write_report(tmp_path / "report", results[0], [method]).read_text(encoding="utf-8")
        energies = [r.distances[1].energy.squared for r in results[0].raters["m"].values()]
        mean = mean_of_scans(energies, ["a", "b", "c"])
        assert f"| m | {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}] |" in text
        first, again = (
            {c: r.distances[1].energy for c, r in o.raters["m"].items()} for o in results
        )
        assert first == again
        assert first["a"] != first["b"]

    def test_scans_of_a_group_count_as_one(self, folder, probabilistic, tmp_path):
        write(tmp_path / "rater.nii.gz", read(folder / "own.nii.gz"))
        case = Case(
            "a",
            str(folder / "scan-1.nii.gz"),
            raters=("rater.nii.gz",),
            values={"Grey matter": (1,)},
        )
        cases = [
            replace(case, name=name, group=group) for name, group in zip("abc", "xxy", strict=True)
        ]
        path = tmp_path / "cases.toml"
        write_case_list(path, "t", ["Grey matter"], cases)
        read_back = load_case_list(path, tmp_path)
        assert [c.counted_as for c in read_back.cases] == ["x", "x", "y"]
        assert replace(case, subject="s").counted_as == "s" and case.counted_as == "a"
        method = ModelMethod("m", [str(probabilistic)], ["Grey matter"], "cpu")
        found = evaluate(replace(read_back, samples=(1,)), tmp_path, [method])
        assert not found.consistency
        text = write_report(tmp_path / "report", found, [method]).read_text(encoding="utf-8")
        table = text.partition("## Against several raters")[2]
        row = next(line for line in table.splitlines() if line.startswith("| m |"))
        assert "[" not in row  # two groups have no interval

    def test_floor_is_of_all_scans_whatever_the_order_of_methods(self):
        random = np.random.RandomState(0)

        def scores(raters):
            marks = random.rand(raters, 6, 20, 20) < 0.3
            samples = random.rand(3, 6, 20, 20) < 0.3
            return score_samples({"A": samples}, {"A": marks}, (1, 1, 1), (1, 3), 5.0)

        one, two, three = scores(3), scores(4), scores(1)
        whole, part = {"one": one, "two": two, "three": three}, {"one": one}
        cases = CaseList("t", ("A",), tuple(Case(n, n) for n in whole), samples=(1, 3))
        expected = {n: (one.distances[n].floor + two.distances[n].floor) / 2 for n in (1, 3)}
        for order in ({"a": whole, "b": part}, {"b": part, "a": whole}):
            floors, scans = _floors(Results(cases, list(order), raters=order))
            assert floors == pytest.approx(expected) and scans == 2

    @pytest.mark.parametrize(
        ("samples", "said"), [(1, "-"), (4, "100 (of 60)"), (16, "100 (of 88)"), (19, "100")]
    )
    def test_coverage_of_few_samples_says_what_it_is_to_be(self, samples, said):
        volumes = np.linspace(1, 2, samples)[None]
        assert _coverage(volumes, np.array([[1.2, 1.5, np.nan]])) == said

    def test_a_single_rater_is_a_yardstick_of_calibration(self):
        raters = np.zeros((2, 4, 10, 10), bool)
        raters[0, :, :4], raters[1, :, 2:6] = True, True
        near = np.ones((4, 10, 10), bool)
        found = _single_rater(raters, near)
        # Of what either marks the other marks half; of what it does not, a third.
        assert found.confidence[[0, 9]].tolist() == [0, 1]
        assert found.frequency[[0, 9]] == pytest.approx([1 / 3, 0.5])
        assert found.expected_calibration_error == pytest.approx(0.6 / 3 + 0.4 / 2)
        assert _single_rater(raters[:1], near) is None

    def test_scans_without_a_reference_are_in_order_of_the_raters(self):
        cases = CaseList("t", ("S",), (Case("c", "c"),))
        of_mean = {"worst": 0.2, "best": 0.9}
        raters = {
            case: SimpleNamespace(structures={"S": SimpleNamespace(dice_of_mean=dice_of_mean)})
            for case, dice_of_mean in of_mean.items()
        }
        results = Results(cases, ["m"], raters={"m": raters})
        results.panels = dict.fromkeys(["neither", "worst", "best"])
        assert _best_first(results) == ["best", "worst", "neither"]

    def test_single_slices_against_raters(self, tiny_card, tmp_path):
        """As a model trained on slices is scored: 2D files of image and masks."""
        card = tiny_card.to_dict()
        card["architecture"] = {
            "type": "probabilistic-unet", "dim": 2, "classes": 1, "filters": [4, 8], "latent": 2,
        }  # fmt: skip
        card["input"] |= {"slice_plane": "axial", "voxel_size": [1.0, 1.0, 1.0]}
        card["classes"] = card["classes"][:2]
        card.pop("one_piece", None)
        torch.manual_seed(3)
        card = ModelCard.from_dict(json.loads(json.dumps(card)))
        save_checkpoint(tmp_path / "slices.safetensors", build_network(card), card)
        random = np.random.RandomState(0)
        sitk.WriteImage(
            sitk.GetImageFromArray(random.randint(0, 256, (40, 50)).astype(np.uint8)),
            str(tmp_path / "slice.png"),
        )
        for n in range(2):
            mask = np.zeros((40, 50), np.uint8)
            mask[10:20, 10 : 25 + n] = 1
            sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / f"rater{n}.png"))
        (tmp_path / "cases.toml").write_text(
            """
            title = "Slices"
            structures = ["Grey matter"]
            samples = [2]
            [[cases]]
            name = "slice"
            image = "slice.png"
            raters = ["rater0.png", "rater1.png"]
            values = { "Grey matter" = [1] }
            """,
            encoding="utf-8",
        )
        model, out = ["--model", str(tmp_path / "slices.safetensors")], tmp_path / "out"
        arguments = ["evaluate", str(tmp_path / "cases.toml"), "--data", str(tmp_path)]
        assert main([*arguments, *model, "-o", str(out), "--debug"]) == 0
        (scores,) = rows(out / "raters.csv")
        assert float(scores["rater_diversity"]) == pytest.approx(0.5 * (1 - 150 / 160), abs=1e-4)
        assert (out / "scans.png").exists()

        command = ["segment", str(tmp_path / "slice.png"), *model, "-o", str(tmp_path / "result")]
        assert main([*command, "--samples", "3", "--keep-samples", "--debug"]) == 0
        labels = sitk.ReadImage(str(tmp_path / "result" / "segmentation.nii.gz"))
        assert labels.GetSize()[:2] == (50, 40)

    def test_fewer_samples_than_any_number_compared(
        self, folder, tiny_checkpoint, other_checkpoint, tmp_path
    ):
        write(tmp_path / "rater.nii.gz", read(folder / "own.nii.gz"))
        text = f"""
            title = "Raters"
            structures = ["Grey matter", "Nodule"]
            samples = [4, 8]
            [[cases]]
            name = "scan"
            image = "{folder / "scan-1.nii.gz"}"
            raters = ["rater.nii.gz"]
            values = {{ "Grey matter" = [1] }}
            [[cases]]
            name = "nodule"
            image = "{folder / "scan-1.nii.gz"}"
            raters = ["rater.nii.gz"]
            values = {{ "Nodule" = [2] }}
        """
        (tmp_path / "cases.toml").write_text(text, encoding="utf-8")
        arguments = ["evaluate", str(tmp_path / "cases.toml"), "--data", str(tmp_path)]
        ensemble = f"both={tiny_checkpoint},{other_checkpoint}"
        out = tmp_path / "out"
        assert main([*arguments, "-o", str(out), "--model", ensemble, "--debug"]) == 0
        assert [r["samples"] for r in rows(out / "raters.csv")] == ["2"]
        text = (out / "report.md").read_text(encoding="utf-8")
        assert "both has 2 samples, fewer than any number in the table: GED² 0." in text
        assert "both has none of what the raters of nodule mark" in text

    def test_an_ensembles_samples_are_its_members(self, folder, tiny_checkpoint, other_checkpoint):
        files = [str(tiny_checkpoint), str(other_checkpoint)]
        ensemble = ModelMethod("e", [*files, files[1]], ["Grey matter"], "cpu")
        volume = read_volume_file(folder / "scan-1.nii.gz")
        samples = ensemble.samples(volume, 16, 0)
        alone = [
            ModelMethod("m", [f], ["Grey matter"], "cpu").labels(volume) for f in (*files, files[1])
        ]
        assert np.array_equal(samples, alone)
        assert np.array_equal(ensemble.labels(volume), alone[1])  # two of three


class TestCaseList:
    def test_help_names_the_example_on_a_line_that_can_be_copied(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit):
            main(["evaluate", "--help"])
        assert str(EXAMPLE) in [line.strip() for line in capsys.readouterr().out.splitlines()]

    @pytest.mark.parametrize("file", sorted(EXAMPLE.parent.glob("*.toml")), ids=lambda f: f.stem)
    def test_the_examples_are_valid(self, shared_data, file):
        cases = load_case_list(file, shared_data)
        loaded = load_case(cases.cases[0], cases, shared_data)
        assert set(loaded.reference) == set(cases.cases[0].scored or cases.structures)
        assert all(mask.any() for mask in loaded.reference.values())

    @pytest.mark.parametrize("with_raters", [False, True])
    def test_the_list_of_the_readme_is_valid(self, folder, tmp_path, with_raters):
        text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
        text = text.split("```toml\n")[1].split("```")[0]
        if with_raters:
            text = text.replace("# raters", "raters")
        (tmp_path / "cases.toml").write_text(text, encoding="utf-8")
        (tmp_path / "patient1").mkdir()
        for name in ("T1", "expert", *(("anna", "ben") if with_raters else ())):
            source = "scan-1" if name == "T1" else "own"
            shutil.copy(folder / f"{source}.nii.gz", tmp_path / "patient1" / f"{name}.nii.gz")
        cases = load_case_list(tmp_path / "cases.toml", tmp_path)
        loaded = load_case(cases.cases[0], cases, tmp_path)
        for masks in [loaded.reference, loaded.raters] if with_raters else [loaded.reference]:
            assert set(masks) == {"Grey matter", "White matter"}
            assert all(mask.any() for mask in masks.values())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (('name = "map"', 'name = "random"'), "random is there twice"),
            (('name = "map"', 'name = "Its/own result"'), "would be one file's name"),
            (("[2, 3]", '["2"]'), "expected int"),
            (('"White matter" = "map', '"White" = "map'), "White is none of the structures"),
            (('contrast = "T1"', 'contrast = "T9"'), "T9 is none of the contrasts"),
            (
                ('labels = "own.nii.gz"\n', 'labels = "own.nii.gz"\nconvention = "x"\n'),
                "convention",
            ),
            (("samples = [1, 3]", "samples = [0]"), "at least 1"),
            (('mask = "nonzero"', 'masc = "nonzero"'), "no such entry"),
        ],
    )
    def test_impossible_lists_are_refused(self, folder, tmp_path, change, said):
        assert change[0] in CASES
        (tmp_path / "cases.toml").write_text(CASES.replace(*change, 1), encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            load_case_list(tmp_path / "cases.toml", folder)

    def test_a_missing_file_is_named_before_anything_is_computed(self, folder, tmp_path):
        (tmp_path / "cases.toml").write_text(
            CASES.replace("map.nii.gz", "nothing.nii.gz"), encoding="utf-8"
        )
        with pytest.raises(InputError, match=r"map: .*nothing\.nii\.gz is not there"):
            load_case_list(tmp_path / "cases.toml", folder)

    def test_a_reference_on_another_grid_is_refused(self, folder, tiny_checkpoint, tmp_path):
        image = sitk.ReadImage(str(folder / "own.nii.gz"))
        image.SetOrigin((10, 0, 0))
        sitk.WriteImage(image, str(tmp_path / "moved.nii.gz"))
        case = Case(
            name="c",
            image=str(folder / "scan-1.nii.gz"),
            labels="moved.nii.gz",
            values={"Grey matter": (1,)},
        )
        cases = CaseList("t", ("Grey matter",), (case,))
        model = ModelMethod("m", [str(tiny_checkpoint)], cases.structures, "cpu")
        with pytest.raises(InputError, match=r"No case can be used. c: .* 10\.0 mm from the scan"):
            evaluate(cases, tmp_path, [model])

    def case(self, tmp_path, folder, change, **entries) -> tuple[Case, CaseList]:
        """Return a case whose labels are its own result, changed."""
        image = sitk.ReadImage(str(folder / "own.nii.gz"))
        labels = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
        labels.CopyInformation(image)
        sitk.WriteImage(labels, str(tmp_path / "labels.nrrd"))
        entries = {"values": {"Grey matter": (1,)}, **entries}
        scan = str(folder / "scan-1.nii.gz")
        case = Case(name="c", image=scan, labels="labels.nrrd", **entries)
        return case, CaseList("t", ("Grey matter", "White matter"), (case,))

    def test_parcellations_of_freesurfer(self, folder, tmp_path):
        values = np.array([0, 1035, 3001, 11175, 13101, 5002, 2, 30000], np.int32)

        def parcels(own):
            return values[np.arange(own.size).reshape(own.shape) % len(values)]

        case, cases = self.case(tmp_path, folder, parcels, convention="freesurfer", values={})
        cases = replace(cases, structures=("grey matter", "White matter"))
        found = load_case(case, cases, tmp_path)
        labels = read(tmp_path / "labels.nrrd")
        assert np.array_equal(found.reference["grey matter"], np.isin(labels, [1035, 11175]))
        white = np.isin(labels, [3001, 13101, 5002, 2])
        assert np.array_equal(found.reference["White matter"], white)
        with pytest.raises(InputError, match=r"FreeSurfer's labels .* are known"):
            load_case(case, replace(cases, structures=("Nodule",)), tmp_path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda own: (own == 1) * np.uint8(255), r"labels are 255, and `values` names 1\."),
            (lambda own: own * np.float32(0.6), "no whole numbers"),
            # Of vectors.
            (lambda own: np.stack([own] * 2, -1), "holds 2 values a voxel.*Save the one that is"),
        ],
    )
    def test_labels_that_are_not_what_the_list_says(self, folder, tmp_path, change, said):
        case, cases = self.case(tmp_path, folder, change)
        with pytest.raises(InputError, match=said):
            load_case(case, cases, tmp_path)

    def test_labels_without_the_structure_may_be_right(self, folder, tmp_path):
        """A healthy brain has no lesions, but its other structures."""

        def others(own):
            return np.where(own == 1, 41, np.where(own == 2, 2, 0)).astype(np.uint8)

        case, cases = self.case(tmp_path, folder, others, values={"White matter": (77,)})
        found = load_case(case, cases, tmp_path)
        assert not found.reference["White matter"].any()
        assert any("the labels are 2, 41, and `values` names 77: nothing" in n for n in found.notes)

    def test_labels_of_other_kinds(self, folder, tmp_path):
        """Below 0, of thousands, or not a number, where nothing was labelled."""

        def change(own):
            odd = own.astype(np.float32)
            odd[own == 2], odd[own == 3], odd[own == 0] = -1, 2035, np.nan
            return odd

        case, cases = self.case(tmp_path, folder, change, values={"Grey matter": (1, 2035)})
        own = read(folder / "own.nii.gz")
        found = load_case(case, cases, tmp_path).reference["Grey matter"]
        assert np.array_equal(found, np.isin(own, [1, 3]))

    def test_a_map_of_probability_with_nan_where_there_is_no_brain(self, folder, tmp_path):
        image = sitk.ReadImage(str(folder / "map.nii.gz"))
        values = sitk.GetArrayFromImage(image)
        spoilt = sitk.GetImageFromArray(np.where(values == 0, np.nan, values))
        spoilt.CopyInformation(image)
        sitk.WriteImage(spoilt, str(tmp_path / "nan.nii.gz"))
        maps = {"White matter": "nan.nii.gz"}
        case = Case(name="c", image=str(folder / "scan-1.nii.gz"), probabilities=maps)
        cases = CaseList("t", ("White matter",), (case,))
        found = load_case(case, cases, tmp_path).reference["White matter"]
        assert np.array_equal(found, values > values.max() / 2)

    def test_a_reference_a_little_beside_its_scan_is_taken_and_named(self, folder, tmp_path):
        case, cases = self.case(tmp_path, folder, lambda own: own)
        image = sitk.ReadImage(str(tmp_path / "labels.nrrd"))
        image.SetOrigin((1.0, 0, 0))  # voxels have 5 mm
        sitk.WriteImage(image, str(tmp_path / "labels.nrrd"))
        (note,) = load_case(case, cases, tmp_path).notes
        assert "1.00 mm beside its scan, 0.20 voxels" in note
        image.SetOrigin((3.0, 0, 0))
        sitk.WriteImage(image, str(tmp_path / "labels.nrrd"))
        with pytest.raises(InputError, match=r"3\.0 mm from the scan"):
            load_case(case, cases, tmp_path)

    def test_a_scan_that_cannot_be_used_leaves_the_others(self, folder, tiny_checkpoint, tmp_path):
        good, cases = self.case(tmp_path, folder, lambda own: own)
        scan = sitk.ReadImage(good.image)
        array = sitk.GetArrayFromImage(scan)
        array[0, 0, 0] = np.nan
        spoilt = sitk.GetImageFromArray(array)
        spoilt.CopyInformation(scan)
        sitk.WriteImage(spoilt, str(tmp_path / "spoilt.nrrd"))
        bad = replace(good, name="bad", image=str(tmp_path / "spoilt.nrrd"))
        cases = replace(cases, cases=(bad, good))
        model = ModelMethod("m", [str(tiny_checkpoint)], cases.structures, "cpu")
        results = evaluate(cases, tmp_path, [model])
        assert list(results.scores["m"]) == ["c"]
        assert any(note.startswith("bad: ") and "not finite" in note for note in results.notes)
        text = write_report(tmp_path / "report", results, [model]).read_text(encoding="utf-8")
        assert "not finite" in text
        results = evaluate(cases, tmp_path, [model], replace_non_finite=True)
        assert list(results.scores["m"]) == ["bad", "c"]
        with pytest.raises(InputError, match=r"No case can be used\. bad: .*not finite"):
            evaluate(replace(cases, cases=(bad,)), tmp_path, [model])

    def test_a_model_without_the_structures_is_refused(self, tiny_checkpoint):
        with pytest.raises(InputError, match="none is a structure to evaluate"):
            ModelMethod("m", [str(tiny_checkpoint)], ["Liver"], "cpu")


def test_a_missing_package_says_how_to_get_it():
    with pytest.raises(InputError, match="pip install such-a-package"):
        packages.need("no_such_module", "such-a-package", "The test")


def test_missing_packages_are_told_before_anything_is_computed(
    folder, tmp_path, tiny_checkpoint, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = ["evaluate", str(folder / "cases.toml"), "--data", str(folder)]
    assert main([*arguments, "-o", str(tmp_path), "--model", str(tiny_checkpoint)]) == 1
    printed = capsys.readouterr()
    assert "pip install matplotlib" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("fault", ["a file in the way", "full disk"])
def test_segmentations_that_cannot_be_written(
    folder, tmp_path, tiny_checkpoint, capsys, monkeypatch, fault
):
    def write(path, labels, geometry):
        raise OSError(f"{path.name} came out incomplete")

    if fault == "full disk":
        monkeypatch.setattr("MRFUNetSegmentationLib.evaluation.run.write_label_map", write)
    else:
        (tmp_path / "segmentations").write_text("", encoding="utf-8")
    command = ["evaluate", str(folder / "cases.toml"), "--data", str(folder), "-o", str(tmp_path)]
    assert main([*command, "--model", str(tiny_checkpoint), "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "of random cannot be written" in line and "free space" in line


def test_a_models_folder_may_be_named_with_an_equals_sign(folder, tmp_path, tiny_checkpoint):
    model, out = tmp_path / "lr=0.001" / "mine.safetensors", tmp_path / "report"
    model.parent.mkdir()
    shutil.copy(tiny_checkpoint, model)
    command = ["evaluate", str(folder / "cases.toml"), "--data", str(folder), "-o", str(out)]
    assert main([*command, "--model", str(model), "--device", "cpu"]) == 0
    assert {row["method"] for row in rows(out / "scores.csv")} == {"mine"}


def test_two_methods_of_one_name_are_refused(folder, tmp_path, tiny_checkpoint, capsys):
    arguments = ["evaluate", str(folder / "cases.toml"), "--data", str(folder)]
    arguments += ["-o", str(tmp_path), "--model", str(tiny_checkpoint)]
    assert main([*arguments, "--model", str(tiny_checkpoint)]) == 1
    assert "Two methods are named tiny" in capsys.readouterr().err


def test_half_of_the_samples_is_enough_for_their_mean():
    raters = np.zeros((2, 4, 4, 4), bool)
    raters[:, :2] = True
    samples = raters.copy()
    samples[1] = False
    for first, second in ((samples, raters), (raters, samples)):
        found = score_samples({"a": first}, {"a": second}, (1, 1, 1), [2], 5.0)
        assert found.structures["a"].dice_of_mean == 1


def test_calibration_counts_what_samples_alone_mark():
    raters, samples = np.zeros((2, 2, 20, 20, 20), bool)
    raters[:, 2:4, 2:4, 2:4] = True
    samples[:, 15:17, 15:17, 15:17] = True
    found = score_samples({"a": samples}, {"a": raters}, (1, 1, 1), [2], 0.0).structures["a"]
    assert found.reliability.counts.sum() == 16
    assert found.reliability.expected_calibration_error == 1


def test_floor_is_that_of_as_many_raters_as_samples():
    rng = np.random.default_rng(0)
    samples, raters = rng.random((8, 6, 6, 6)) > 0.5, rng.random((3, 6, 6, 6)) > 0.5
    found = score_samples({"a": samples}, {"a": raters}, (1, 1, 1), [1, 8], 5.0).distances
    for number in (1, 8):
        assert found[number].floor == pytest.approx(
            generalised_energy_distance(raters, raters).floor(number)
        )


def test_one_segmentation_stands_for_any_number_of_samples():
    mask = np.ones((1, 4, 4, 4), bool)
    found = score_samples({"a": mask}, {"a": mask}, (1, 1, 1), [1, 16], 5.0)
    assert list(found.distances) == [1, 16]


GRID = Geometry((4, 5, 6), (1.0, 1.0, 5.5))


@pytest.mark.parametrize(
    ("other", "compared"),
    [
        (GRID, True),
        (replace(GRID, origin=(0.4, 0.0, -2.0)), True),
        (replace(GRID, size=(4, 5, 7)), False),
        (replace(GRID, origin=(0.0, 0.0, 3.0)), False),
        (replace(GRID, spacing=(1.0, 1.2, 5.5)), False),
        (replace(GRID, direction=(1, 0, 0, 0, 1, 0, 0, 0, -1), origin=(0, 0, 27.5)), False),
    ],
)
def test_scans_on_different_grids_are_not_compared(other, compared):
    results = Results(CaseList("t", ("a",), (Case("c", "c.nii"),)), ["m"])
    scans = [(g, {"m": {"a": np.ones(g.size[::-1], bool)}}) for g in (GRID, other)]
    _compare_scans("twin", scans, results)
    if compared:
        assert results.consistency == {"m": {"twin": {"a": 1.0}}} and not results.notes
    else:
        assert results.consistency == {} and "not on one grid" in results.notes[0]


def test_fluid_of_peers_counts_within_what_is_labelled():
    cases = CaseList("t", ("fluid",), (Case("c", "c.nii"),), fluid="fluid")
    volume, labelled = phantom()[0], np.zeros(phantom()[0].array.shape, bool)
    labelled[:20] = True
    reference = {"fluid": labelled.copy()}
    loaded = LoadedCase(cases.cases[0], volume, reference, {}, labelled, None)
    results = Results(cases, ["m", "hmrf"])
    for method in results.methods:
        _measure(method, {"fluid": np.ones_like(labelled)}, loaded, results)
    dices = {m: found["c"]["fluid"].dice for m, found in results.scores.items()}
    assert dices["hmrf"] == 1 and dices["m"] < 1


def test_brain_mask_of_the_peers_is_the_first_models(monkeypatch):
    class Model:
        def __init__(self, name):
            self.name = name

        def labels(self, volume):
            return np.full((2, 2, 2), self.name == "first")

        foreground = staticmethod(lambda labels: labels)

        def masks(self, labels):
            return {"a": labels}

    seen = []
    monkeypatch.setattr(peers, "segment", lambda peer, volume, brain, order: seen.append(brain))
    case = Case("c", "c.nii", mask=MASK_OF_MODEL, contrast="T1")
    cases = CaseList("t", ("a",), (case,), contrasts={"T1": ("a",)})
    loaded = LoadedCase(case, None, {}, {}, None, None)
    models = [Model("first"), Model("second")]
    _segmentations(loaded, cases, models, ["hmrf"], Results(cases, []), lambda line: None)
    assert seen[0].all()


def test_distance_to_nothing_is_the_diagonal_in_mm():
    mask = np.zeros((10, 20, 30), bool)
    mask[5, 5, 5] = True
    found = score(mask, np.zeros_like(mask), (1.0, 2.0, 3.0), 1.0)
    assert found.hd95_mm == pytest.approx(np.linalg.norm([30 * 1, 20 * 2, 10 * 3]))
    assert found.dice == found.surface_dice == 0


def test_interval_is_of_the_mean_over_scans():
    """Not of the subjects' means, where one of them has most scans."""
    subjects = ["a"] * 30 + list("bcdefghijkl")
    found = mean_of_scans([0.9] * 30 + [0.5] * 11, subjects)
    assert found.value == pytest.approx(32.5 / 41)
    assert found.low < found.value < found.high
