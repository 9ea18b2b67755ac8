"""Lesions painted into synthetic images, and simulated raters who mark them."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.errors import InputError
from MRFUNetSegmentationLib.evaluation import baselines, simulated_raters
from MRFUNetSegmentationLib.evaluation.cases import load_case, load_case_list
from MRFUNetSegmentationLib.evaluation.methods import ModelMethod
from MRFUNetSegmentationLib.training.config import (
    CONFIGS,
    ConfigError,
    LesionData,
    Stage,
    load_config,
)
from MRFUNetSegmentationLib.training.labels import (
    GREY_MATTER,
    LESION_LABEL,
    WHITE_MATTER,
    WHITE_MATTER_LABEL,
    read_label_maps,
)
from MRFUNetSegmentationLib.training.lesion_validation import lesion_cases
from MRFUNetSegmentationLib.training.lesions import (
    LesionConfig,
    Rater,
    RaterConfig,
    draw_rater,
    marked,
    read_lesion_maps,
    synthesise_lesions,
)
from MRFUNetSegmentationLib.training.lesions.pair import contrast_to_noise, visible_distance
from MRFUNetSegmentationLib.training.lesions.raters import evidence
from MRFUNetSegmentationLib.training.run import prepare
from MRFUNetSegmentationLib.training.sources import LesionSource
from MRFUNetSegmentationLib.training.synthesis import SynthesisConfig
from MRFUNetSegmentationLib.training.synthesis.acquisition import Resolution
from MRFUNetSegmentationLib.training.synthesis.draw import Draw

CONFIG = CONFIGS / "white-matter-lesions.toml"
# Raters without chance: what is left are boundary and threshold.
STEADY = RaterConfig(local_boundary=0.0, hand=0.0, hesitation=1e-4)


def draw(seed: int = 0) -> Draw:
    return Draw(torch.Generator().manual_seed(seed))


def dice(a, b) -> float:
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def ball(shape, centre, radius):
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((x - c) ** 2 for x, c in zip(axes, centre, strict=True)) <= radius**2


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory):
    """A large and a small lesion, on a grid in LPS of which the first voxel is not the RAS one."""
    mask = ball((40, 50, 60), (20, 25, 30), 6) | ball((40, 50, 60), (20, 25, 50), 2)
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetOrigin((-30, 25, -20))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    path = tmp_path_factory.mktemp("lesions") / "lesions.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def lesion_map(mask_file):
    return read_lesion_maps([mask_file])[0]


def test_distances_volumes_and_places_are_those_of_the_mask(lesion_map):
    inside = lesion_map.distance > 0
    assert sorted(lesion_map.volumes.tolist()) == [33, 925]
    assert int(inside.sum()) == 958
    # Voxel (i, j, k) = (30, 25, 20) lies at LPS (0, 0, 0).
    centre = [round(-o) for o in lesion_map.origin]
    assert float(lesion_map.distance[tuple(centre)]) == pytest.approx(6, abs=1)
    large = int(lesion_map.volumes.argmax())
    assert int(lesion_map.nearest[tuple(centre)]) == large
    # i = 50 lies 20 mm to the left, which is towards the first voxel of an axis that runs right.
    small = (centre[0] - 20, *centre[1:])
    assert int(lesion_map.nearest[small]) == 1 - large
    assert float(lesion_map.distance[small]) > 0


def test_an_empty_mask_is_refused(tmp_path):
    path = tmp_path / "none.nii.gz"
    sitk.WriteImage(sitk.Image(5, 5, 5, sitk.sitkUInt8), str(path))
    with pytest.raises(InputError, match="marks no lesion"):
        read_lesion_maps([path])


def test_a_boundary_bias_moves_every_border_by_that_much():
    distance = 8 - torch.arange(24.0).sub(12).abs().view(24, 1, 1).expand(24, 6, 6)
    nearest = torch.zeros(24, 6, 6, dtype=torch.long)
    found = torch.tensor([5.0])
    widths = [
        int(marked(distance, nearest, found, Rater(b, 0.0), STEADY, 1.0, draw())[:, 0, 0].sum())
        for b in (-2.5, -0.5, 1.5)
    ]
    assert widths == [11, 15, 19]


def test_a_threshold_leaves_out_lesions_of_less_evidence():
    distance = torch.ones(3, 2, 2)
    nearest = torch.arange(3).view(3, 1, 1).expand(3, 2, 2)
    found = torch.tensor([-1.0, 0.5, 2.0])
    for threshold, accepted in ((-2.0, [1, 1, 1]), (0.0, [0, 1, 1]), (3.0, [0, 0, 0])):
        mask = marked(distance, nearest, found, Rater(0.0, threshold), STEADY, 1.0, draw())
        assert mask[:, 0, 0].int().tolist() == accepted


def test_contrast_is_in_deviations_of_the_brain_to_the_white_matter_around():
    """Of two lesions, one where the scan is bright: white matter 0.4 and 0.5, cortex 0.6."""
    shape = (40, 20, 20)
    near_first, near_second = (
        np.sqrt(sum((x - c) ** 2 for x, c in zip(np.ogrid[:40, :20, :20], centre, strict=True)))
        for centre in ((10, 10, 10), (30, 10, 10))
    )
    distance = torch.from_numpy(2.5 - np.minimum(near_first, near_second)).float()
    nearest = torch.from_numpy((near_second < near_first).astype(np.int64))
    tissue = torch.full(shape, WHITE_MATTER)
    tissue[:, :3] = GREY_MATTER
    image = torch.full(shape, 0.4)
    image[20:] = 0.5
    image[:, :3] = 0.6
    brain = float(image[distance < -3].std())
    inside = distance > 0
    image[inside] = torch.where(nearest[inside] == 0, 0.8, 0.4)
    shown = contrast_to_noise(image, tissue, distance, inside, nearest, 3)
    # The second is as bright as white matter is elsewhere, but darker than what is around it.
    assert shown.tolist() == pytest.approx([0.4 / brain, -0.1 / brain, 0], rel=1e-4)
    # Nobody marks what is no brighter than the rest, however large.
    found = evidence(torch.tensor([10.0, 1e4, 1e4]), shown, RaterConfig())
    assert found[0] > 0
    assert found[1:].max() < -20


def test_a_lesion_with_little_around_is_compared_with_the_white_matter_of_the_scan():
    distance = (2.5 - (torch.arange(40) - 8.0).abs()).view(40, 1, 1)
    tissue = torch.full((40, 1, 1), WHITE_MATTER)
    tissue[30:] = GREY_MATTER
    image = torch.where(tissue == WHITE_MATTER, 0.4, 0.6)
    image[:15], image[6:11] = 0.5, 0.7  # eight voxels between 2 and 6 mm from the lesion
    nearest = torch.zeros(40, 1, 1, dtype=torch.long)
    (shown,) = contrast_to_noise(image, tissue, distance, distance > 0, nearest, 1).tolist()
    assert shown == pytest.approx(0.3 / float(image[distance < -3].std()), rel=1e-4)


def test_size_counts_up_to_a_limit_only():
    volumes, contrast = torch.tensor([10.0, 100.0, 1e4]), torch.full((3,), 2.0)
    small, large, larger = evidence(volumes, contrast, RaterConfig()).tolist()
    assert small == 0
    assert large == larger == pytest.approx(np.log(10))


def test_a_border_is_seen_where_a_lesion_is_half_as_bright_as_at_its_brightest():
    true = 5.2 - torch.arange(31.0).sub(15).abs()  # mm from the border of a lesion 10 mm across
    for edge, strength in ((0.3, 1.0), (0.8, 0.4)):
        membership = strength * torch.sigmoid(true / edge)
        seen = visible_distance(
            membership, torch.zeros(31, dtype=torch.long), 1, edge, Resolution(1e-3, None), 1.0
        )
        assert torch.equal(seen > 0, true > 0)
        near = true.abs() <= 2 * edge
        torch.testing.assert_close(seen[near], true[near], rtol=0.05, atol=0)


def test_thick_slices_show_other_borders_than_there_are():
    """A lesion of 2 mm in a slice of 6 mm looks as thick as the slice."""
    membership = torch.zeros(20, 20, 24)
    membership[6:14, 6:14, 14:16] = 1.0
    nearest = torch.zeros(membership.shape, dtype=torch.long)
    depths = []
    for thick in (None, (20, 20, 4)):
        resolution = Resolution(0.2, thick)
        seen = visible_distance(resolution.of(membership), nearest, 1, 0.2, resolution, 1.0)
        depths.append(int((seen[10, 10] > 0).sum()))
    assert depths[0] == 2
    assert 4 <= depths[1] <= 8


def test_what_a_scan_hardly_shows_has_no_border():
    """The tail of a lesion that lies outside the image is nobody's lesion."""
    membership, nearest = torch.zeros(9, 1, 1), torch.zeros(9, 1, 1, dtype=torch.long)
    membership[:3], membership[8], nearest[6:] = 0.8, 0.02, 1
    seen = visible_distance(membership, nearest, 2, 0.3, Resolution(0.3, None), 1.0)
    assert (seen.flatten() > 0).tolist() == [True] * 3 + [False] * 6


def test_generous_raters_also_mark_more_lesions():
    config = RaterConfig(correlation=0.6)
    raters = [draw_rater(config, draw(seed)) for seed in range(2000)]
    boundary = np.array([r.boundary for r in raters])
    threshold = np.array([r.threshold for r in raters])
    assert boundary.std() == pytest.approx(config.boundary, rel=0.1)
    assert threshold.std() == pytest.approx(config.threshold_spread, rel=0.1)
    assert np.corrcoef(boundary, threshold)[0, 1] == pytest.approx(-0.6, abs=0.05)


def test_impossible_habits_are_refused():
    with pytest.raises(ValueError, match="hand is -1"):
        RaterConfig(hand=-1)
    with pytest.raises(ValueError, match="hesitation is 0"):
        RaterConfig(hesitation=0)
    with pytest.raises(ValueError, match="correlation is 2"):
        RaterConfig(correlation=2)


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """A label map of the training set and three patients of few, middling and many lesions."""
    maps = shared_data / "synthseg_label_maps"
    masks = shared_data / "open_ms_MNI"
    (label_map,) = read_label_maps([maps / "training_seg_01.nii.gz"])
    lesions = read_lesion_maps(
        [masks / f"patient{n}_lesion_consensus.nii.gz" for n in ("18", "28", "01")]
    )
    return label_map, lesions


PAINTING = LesionConfig()
# Scans of the middle of the brain.
FLAIR = SynthesisConfig(contrast="FLAIR", centre_spread=4.0)


def pairs(real, number):
    label_map, lesion_maps = real
    for seed in range(number):
        yield synthesise_lesions(
            label_map, lesion_maps[seed % 3], PAINTING, FLAIR, (144, 176, 24), 1.0, draw(seed).rng
        )


def test_raters_agree_as_much_as_experts_do(real):
    """Pairwise Dice 0.6 to 0.75 on average where there are lesions to speak of, in whole brains."""
    label_map, lesion_maps = real
    synthesis = replace(load_config(CONFIG).stages[-1].synthesis, axial_spread=0.0)
    scores = []
    for seed in range(24):
        _image, lesions = synthesise_lesions(
            label_map, lesion_maps[seed % 3], PAINTING, synthesis, (80, 96, 64), 2.0, draw(seed).rng
        )
        if (lesions.distance > 0).sum() < 60:
            continue
        rng = draw(1000 + seed)
        masks = [lesions.mark(PAINTING.raters, rng) for _ in range(4)]
        scores += [dice(masks[a], masks[b]) for a in range(4) for b in range(a)]
    assert len(scores) >= 72
    assert 0.6 < np.mean(scores) < 0.75


def test_images_show_the_lesions_and_nothing_is_marked_outside_white_matter(real):
    brighter = []
    for image, lesions in pairs(real, 6):
        assert image.shape == (144, 176, 24)
        assert torch.isfinite(image).all()
        inside = lesions.distance > 0.5
        around = (lesions.distance > -50) & (lesions.distance < -1)
        if inside.sum() > 100:
            brighter.append((image[inside].mean() - image[around].mean()).item())
    assert np.mean(brighter) > 0.05


def test_the_same_state_gives_the_same_pair(real):
    label_map, lesion_maps = real
    first, again = (
        synthesise_lesions(
            label_map, lesion_maps[1], PAINTING, FLAIR, (40, 44, 16), 2.0, draw(3).rng
        )
        for _ in range(2)
    )
    assert torch.equal(first[0], again[0])
    assert torch.equal(
        first[1].mark(PAINTING.raters, draw(1)), again[1].mark(PAINTING.raters, draw(1))
    )
    assert WHITE_MATTER in label_map.tissue_of_group


def test_an_anatomys_own_lesions_are_not_seen(real):
    """They would look like what raters mark, and be nobody's."""
    label_map, lesion_maps = real
    own, white = map(label_map.label_of_group.index, (LESION_LABEL, WHITE_MATTER_LABEL))
    groups = label_map.groups.clone()
    groups[groups == own] = white
    without = replace(label_map, groups=groups)
    older = torch.where((groups == white) & (torch.arange(groups.shape[2]) % 4 < 2), own, groups)
    with_lesions = replace(label_map, groups=older)
    images = [
        synthesise_lesions(
            anatomy, lesion_maps[1], PAINTING, FLAIR, (40, 44, 16), 2.0, draw(3).rng
        )[0]
        for anatomy in (without, with_lesions)
    ]
    assert torch.equal(*images)


FLAT = Stage(steps=1, learning_rate=(1e-3, 1e-3), shape=(40, 48), voxel_size=(3.0, 4.0),
             synthesis=FLAIR)  # fmt: skip


def test_slabs_are_kept_and_marked_anew(real):
    label_map, lesion_maps = real
    options = LesionData(masks=("patient01",), slabs=2)

    def source():
        return LesionSource([label_map], lesion_maps[2:], options, torch.device("cpu"))

    kept, images, labels = source(), {}, {}
    for seed in range(120):
        image, marks = kept.draw(FLAT, draw(seed).rng)
        assert image.shape == (1, 40, 48)
        assert image.dtype == torch.float32
        key = image.numpy().tobytes()
        images[key] = image
        labels.setdefault(key, set()).add(marks.numpy().tobytes())
    # Two slabs of 20 slices, most of them drawn several times and not always marked alike.
    assert 30 < len(images) <= 40
    assert sum(len(found) > 1 for found in labels.values()) > 10
    # A run that goes on draws the same, whatever was drawn before.
    again = source().draw(FLAT, draw(119).rng)
    assert torch.equal(again[0], image)
    assert torch.equal(again[1], marks)


def test_several_raters_mark_one_image(real):
    label_map, lesion_maps = real
    options = LesionData(masks=("patient01",), slabs=1)
    source = LesionSource([label_map], lesion_maps[2:], options, torch.device("cpu"))
    several = replace(FLAT, raters_per_image=4)
    different = 0
    for seed in range(20):
        image, labels = source.draw(several, draw(seed).rng)
        assert image.shape == (1, 40, 48)
        assert labels.shape == (4, 40, 48)
        different += len({marks.numpy().tobytes() for marks in labels}) > 1
    assert different > 5


def test_slices_with_lesions_are_drawn_more_often(real):
    label_map, lesion_maps = real
    options = LesionData(masks=("patient01",), slabs=1)
    source = LesionSource([label_map], lesion_maps[2:], options, torch.device("cpu"))
    drawn = [source.draw(FLAT, draw(seed).rng)[0] for seed in range(300)]
    ((_image, lesions),) = source._slabs.values()
    area = (lesions.distance > 0).sum((0, 1)).float()
    ((image, _lesions),) = source._slabs.values()
    slices = [image[..., n].float() for n in range(image.shape[-1])]
    found = [next(n for n, x in enumerate(slices) if torch.equal(x, d[0])) for d in drawn]
    counts = np.bincount(found, minlength=len(slices))
    expected = (area + area.mean().clamp_min(1)).numpy()
    assert np.abs(counts / 300 - expected / expected.sum()).max() < 0.08


def test_a_slice_comes_with_its_neighbours(real):
    label_map, lesion_maps = real
    options = LesionData(masks=("patient01",), slabs=1)
    source = LesionSource([label_map], lesion_maps[2:], options, torch.device("cpu"), neighbours=3)
    middles = set()
    for seed in range(60):
        image, (labels,) = source.draw(FLAT, draw(seed).rng)
        ((slab, lesions),) = source._slabs.values()
        windows = slab.unfold(2, 7, 1).permute(2, 3, 0, 1).float()
        (middle,) = [n for n, window in enumerate(windows) if torch.equal(window, image)]
        middles.add(middle + 3)
        # Raters move borders by few mm: what is marked is of this slice.
        assert not (labels.bool() & (lesions.distance[..., middle + 3] < -5)).any()
    assert min(middles) >= 3
    assert max(middles) <= slab.shape[-1] - 4
    assert len(middles) > 8


def test_without_kept_slabs_every_image_is_new(real):
    label_map, lesion_maps = real
    source = LesionSource(
        [label_map], lesion_maps, LesionData(masks=("patient01",)), torch.device("cpu")
    )
    images = {source.draw(FLAT, draw(seed).rng)[0].numpy().tobytes() for seed in range(6)}
    assert len(images) == 6
    with pytest.raises(ConfigError, match="slabs must be at least 1, got 0"):
        LesionData(masks=("patient01",), slabs=0)


def test_a_spread_along_the_axis_shows_slabs_at_every_height(real):
    label_map, lesion_maps = real
    shares = []
    for spread in (0.0, 40.0):
        synthesis = replace(FLAIR, axial_spread=spread, skull_strip=1.0)
        shares.append(
            [
                float((synthesise_lesions(
                    label_map, lesion_maps[0], PAINTING, synthesis, (40, 48, 8), 4.0,
                    draw(seed).rng,
                )[0] > 0.1).float().mean())
                for seed in range(48)
            ]
        )  # fmt: skip
    # Near its ends little of the brain is in a slab, which never happens in the middle.
    assert min(shares[0]) > 0.2
    assert sum(share < 0.2 for share in shares[1]) >= 5


def test_held_out_cases_span_the_brain_and_are_the_same_each_time(real):
    label_map, lesion_maps = real
    options = LesionData(masks=("patient01",), validation_raters=3)
    first, again = (lesion_cases([label_map], lesion_maps[:2], options, FLAT) for _ in range(2))
    assert len(first) == 2
    for a, b in zip(first, again, strict=True):
        assert a.images.shape == (24, 1, 40, 48)
        assert a.masks.shape == (3, 24, 40, 48)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.masks, b.masks)
    (wider,) = lesion_cases([label_map], lesion_maps[:1], options, FLAT, neighbours=2)
    assert wider.images.shape == (24, 5, 40, 48)
    assert torch.equal(wider.images[:, 2:3], first[0].images)
    assert torch.equal(wider.masks, first[0].masks)
    # At this size of voxel the lesions of a patient may fall between the slices.
    assert any(case.masks.any() for case in first)


SMALLER = (
    ("filters = [16, 32, 64, 96, 128]", "filters = [4, 8]"),
    ("shape = [160, 192]", "shape = [40, 48]"),
    ("voxel_size = [0.9, 1.2]", "voxel_size = [3.8, 4.2]"),
    ("slabs = 1500", "slabs = 4"),
    ("validate_every = 1000", "validate_every = 6"),
)


def test_a_run_gives_a_model_that_is_scored_against_simulated_raters(
    shared_data, tmp_path, monkeypatch
):
    text = CONFIG.read_text(encoding="utf-8")
    for old, new in SMALLER:
        assert old in text, old
        text = text.replace(old, new)
    path = tmp_path / "white-matter-lesions.toml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    patients = config.lesions.masks + config.lesions.validation_masks
    assert len(set(patients)) == 24
    assert not any(f"patient{n}_" in name for n in simulated_raters.TESTED_ON for name in patients)
    # Of each list one, for time.
    lesions = replace(
        config.lesions,
        masks=config.lesions.masks[1:2],
        validation_masks=config.lesions.validation_masks[-1:],
        validation_label_maps=config.lesions.validation_label_maps[:1],
    )
    stages = tuple(replace(stage, steps=3) for stage in config.stages)
    config = replace(config, label_maps=config.label_maps[:1], lesions=lesions, stages=stages)
    trainer = prepare(config, shared_data, tmp_path / "run", "cpu")
    assert trainer.run(report=lambda line: None)
    card = load_checkpoint(trainer.checkpoint_file).card
    assert card.training["steps"] in (12, 18, 21)  # the latent takes part after 6
    assert "GED^2, 16 samples" in card.training["metrics"]

    monkeypatch.setattr(simulated_raters, "SHAPE", (40, 48, 40))
    monkeypatch.setattr(simulated_raters, "SPACING", 4.0)
    # In a faint scan of few lesions nobody may mark any: the second has many.
    masks = [f"open_ms_MNI/patient{n}_lesion_consensus.nii.gz" for n in ("24", "12")]
    scans = tmp_path / "scans"
    cases = load_case_list(simulated_raters.write_scans(config, masks, shared_data, scans), scans)
    loaded = load_case(cases.cases[-1], cases, scans)
    (structure,) = cases.structures
    assert loaded.raters[structure].shape == (4, 40, 48, 40)
    assert loaded.raters[structure].any()
    method = ModelMethod("lesions", [str(trainer.checkpoint_file)], cases.structures, "cpu")
    assert list(method.masks(method.samples(loaded.volume, 2, 0))) == [structure]

    short = baselines.shortened(config, 6)
    runs = {
        "probabilistic": short,
        "one": baselines.without_latent(short, 1),
        "two": baselines.without_latent(short, 2),
    }
    files = baselines.trained(runs, shared_data, tmp_path / "baselines", "cpu")
    assert [load_checkpoint(f).card.training["steps"] for f in files.values()] == [6, 6, 6]
    model, *members = files.values()
    report = baselines.compare(model, members, scans, tmp_path / "report", "cpu")
    text = report.read_text(encoding="utf-8")
    for name in ("Probabilistic U-Net", "U-Net", "dropout", "ensemble of 2", "raters' floor"):
        assert f"| {name} |" in text
