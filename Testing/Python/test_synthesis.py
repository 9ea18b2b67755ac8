"""The generator of training pairs, part by part, on a small head of shells."""

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.training.card import BRAIN_TISSUE_CLASSES
from MRFUNetSegmentationLib.training.config import Stage
from MRFUNetSegmentationLib.training.contact_sheet import write_contact_sheet
from MRFUNetSegmentationLib.training.labels import (
    CSF,
    GREY_MATTER,
    OTHER,
    PLEXUS_LABEL,
    VENTRICLES,
    WHITE_MATTER,
    read_label_maps,
)
from MRFUNetSegmentationLib.training.sources import SynthesisSource
from MRFUNetSegmentationLib.training.synthesis import (
    SynthesisConfig,
    acquisition,
    coverage,
    pathology,
    spatial,
    synthesise,
)
from MRFUNetSegmentationLib.training.synthesis.contrast import intensities, with_mixed_borders
from MRFUNetSegmentationLib.training.synthesis.contrasts import CONTRASTS
from MRFUNetSegmentationLib.training.synthesis.draw import Draw

# No change of shape, no artefact: the head as it is.
STILL = SynthesisConfig(
    rotation=0.0, scaling=0.0, shearing=0.0, deformation=0.0, ventricles=0.0, centre_spread=0.0,
    texture=0.0, mixed_borders=(0.0, 0.0),
    mixed_surface=(0.0, 0.0), lesions=0.0, cavity=0.0, skull_strip=0.0, deface=0.0, cut=0.0,
    low_resolution=0.0, bias=0.0, artefact=0.0, noise=0.0, gamma=0.0,
)  # fmt: skip
SHAPE = (48, 48, 48)


def draw(seed: int = 0) -> Draw:
    return Draw(torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def label_map(tmp_path_factory):
    """Skull, fluid, grey and white matter and ventricles, each a shell about the middle."""
    k, j, i = np.mgrid[-28:28, -28:28, -28:28] + 0.5
    radius = np.sqrt(i**2 + j**2 + k**2)
    labels = np.select(
        [radius < 5, radius < 13, radius < 17, radius < 19, radius < 24], [4, 2, 3, 24, 520], 0
    )
    path = tmp_path_factory.mktemp("maps") / "map.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(labels.astype(np.int16)), str(path))
    return read_label_maps([path])[0]


@pytest.fixture(scope="module")
def tissue(label_map):
    return still_tissue(label_map, STILL)


def still_tissue(label_map, config, seed=0):
    groups = spatial.placed(label_map, config, SHAPE, 1.0, draw(seed)).groups(label_map)
    return label_map.tissue_of_group[groups].long()


def share(mask) -> float:
    return mask.float().mean().item()


def test_without_motion_the_labels_are_those_of_the_map(label_map):
    groups = spatial.placed(label_map, STILL, (40, 40, 40), 1.0, draw()).groups(label_map)
    size = label_map.groups.shape
    middle = tuple(slice((n - 40) // 2, (n + 40) // 2) for n in size)
    shown = label_map.groups[middle]
    # The brain's centre is found on every 4th voxel: within half of that.
    best = max(
        share(torch.roll(shown, shift, (0, 1, 2)) == groups)
        for shift in [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    )
    assert best > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_the_deformation_never_folds(seed):
    """Positive Jacobian determinant for the largest velocities a configuration may ask for."""
    velocity = torch.stack([draw(3 * seed + n).smooth_field((20, 20, 20), 2) for n in range(3)])
    displacement = spatial.integrate(velocity)

    def determinant(field):
        gradient = torch.stack([torch.stack(torch.gradient(component)) for component in field])
        return torch.linalg.det(gradient.permute(2, 3, 4, 0, 1) + torch.eye(3))

    assert determinant(displacement).min() > 0
    assert determinant(velocity).min() < 0  # added as it is, the velocity would fold
    assert displacement.abs().max() > 1


def test_integration_of_a_constant_velocity_is_a_shift():
    velocity = torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1, 1).expand(3, 8, 9, 10)
    torch.testing.assert_close(spatial.integrate(velocity), velocity, atol=1e-5, rtol=0)


def test_ventricles_widen_and_narrow_at_the_cost_of_what_is_around(label_map, tissue):
    """Over the seeds: the push is from half inwards to fully outwards."""
    config = replace(STILL, ventricles=3.0)
    volumes = [
        (still_tissue(label_map, config, seed) == VENTRICLES).sum().item() for seed in range(12)
    ]
    still = (tissue == VENTRICLES).sum().item()
    assert min(volumes) < 0.9 * still
    assert max(volumes) > 1.3 * still
    # The outer border of the brain stays where it is.
    moved = still_tissue(label_map, config, int(np.argmax(volumes)))
    assert share((moved == OTHER) != (tissue == OTHER)) < 0.02


@pytest.mark.parametrize("name", CONTRASTS)
def test_tissues_are_as_bright_as_in_the_contrast(label_map, name):
    """Means over draws of each contrast, without noise, are the table's."""
    groups = spatial.placed(label_map, STILL, SHAPE, 1.0, draw()).groups(label_map)
    tissue = label_map.tissue_of_group[groups]
    config = replace(STILL, contrast=name)
    drawn = []
    for seed in range(16):
        image, _contrast = intensities(groups, label_map, config, draw(seed))
        drawn.append([image[tissue == c].mean() for c in (GREY_MATTER, WHITE_MATTER, VENTRICLES)])
    expected = CONTRASTS[name]
    typical = torch.tensor([expected.grey, expected.white, expected.fluid])
    torch.testing.assert_close(torch.tensor(drawn).mean(0), typical, atol=0.06, rtol=0)


def test_the_choroid_plexus_lies_between_fluid_and_cortex_and_belongs_to_the_ventricles(tmp_path):
    """On T1 it is a third to nine tenths as far from the fluid as cortex is."""
    labels = np.repeat(np.array([0, 4, 136, 3, 2], np.int16), 8)[:, None, None]
    path = tmp_path / "map.nii.gz"
    array = np.ascontiguousarray(np.broadcast_to(labels, (40, 8, 8)))
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    (label_map,) = read_label_maps([path])
    groups = label_map.groups.long()
    tissue = label_map.tissue_of_group[groups]
    plexus = groups == label_map.label_of_group.index(PLEXUS_LABEL)
    assert plexus.sum() == 8**3
    assert (tissue[plexus] == VENTRICLES).all()
    fluid = (tissue == VENTRICLES) & ~plexus
    config = replace(STILL, contrast="FLAIR")
    places = []
    for seed in range(40):
        image, contrast = intensities(groups, label_map, config, draw(seed))
        there = float(image[plexus].mean() - image[fluid].mean())
        places.append(there / (contrast.grey - contrast.fluid))
    assert 0.4 < np.mean(places) < 0.7
    assert np.std(places) > 0.15


@pytest.mark.parametrize("t1_share", [0.0, 1.0])
def test_share_of_t1_decides_which_contrasts_are_drawn(label_map, t1_share):
    """White matter is brighter than grey matter on T1 alone."""
    groups = spatial.placed(label_map, STILL, (24, 24, 24), 2.0, draw()).groups(label_map)
    config = replace(STILL, known_contrast=1.0, t1_share=t1_share)
    contrasts = [intensities(groups, label_map, config, draw(seed))[1] for seed in range(30)]
    brighter = np.mean([c.white > c.grey for c in contrasts])
    assert abs(brighter - t1_share) < 0.1


def test_white_matter_alone_changes_from_region_to_region(label_map):
    groups = spatial.placed(label_map, STILL, SHAPE, 1.0, draw()).groups(label_map)
    kind = label_map.tissue_of_group[groups]
    halves = (slice(0, SHAPE[0] // 2), slice(SHAPE[0] // 2, None))

    def differences(regional: float, which: int) -> list[float]:
        """Return how much brighter one half of a tissue is, over draws."""
        config = replace(STILL, contrast="FLAIR", regional=regional)
        found = []
        for seed in range(12):
            image, _contrast = intensities(groups, label_map, config, draw(seed))
            left, right = (image[h][kind[h] == which].mean().item() for h in halves)
            found.append(abs(left - right))
        return found

    assert max(differences(0.0, WHITE_MATTER)) < 0.01
    assert max(differences(2.0, WHITE_MATTER)) > 0.05
    assert max(differences(2.0, GREY_MATTER)) < 0.01


def test_mixed_borders_move_the_half_way_line_into_the_white_matter(tissue):
    contrast = CONTRASTS["T1"]
    values = torch.zeros(5)
    values[[GREY_MATTER, WHITE_MATTER, VENTRICLES, CSF]] = torch.tensor([0.5, 0.8, 0.16, 0.16])
    image = values[tissue]
    config = replace(STILL, mixed_borders=(0.0, 1.4))
    half_way = (contrast.grey + contrast.white) / 2
    moved = []
    for seed in range(10):
        mixed = with_mixed_borders(image, tissue, contrast, config, 1.0, draw(seed))
        assert torch.equal(mixed[tissue == VENTRICLES], image[tissue == VENTRICLES])
        deep = (tissue == WHITE_MATTER) & (mixed > contrast.white - 1e-3)
        assert deep.sum() > 0.3 * (tissue == WHITE_MATTER).sum()
        moved.append(share(mixed[tissue == WHITE_MATTER] < half_way))
    assert min(moved) == 0
    assert 0.02 < max(moved) < 0.4
    assert torch.equal(with_mixed_borders(image, tissue, contrast, STILL, 1.0, draw()), image)


def test_mixed_surface_darkens_the_cortex_where_it_meets_fluid(tissue):
    contrast = CONTRASTS["T1"]
    values = torch.zeros(5)
    values[[GREY_MATTER, WHITE_MATTER, VENTRICLES, CSF]] = torch.tensor([0.5, 0.8, 0.16, 0.16])
    image = values[tissue]
    config = replace(STILL, mixed_surface=(1.0, 1.0))
    mixed = with_mixed_borders(image, tissue, contrast, config, 1.0, draw())
    fluid = torch.nn.functional.max_pool3d((tissue == CSF)[None, None].float(), 3, 1, 1)[0, 0] > 0
    cortex = tissue == GREY_MATTER
    assert (mixed[cortex & fluid] < 0.5).all()
    assert mixed[cortex & fluid].mean() < 0.45
    outside = (tissue == CSF) | (tissue == OTHER)
    assert torch.equal(mixed[outside], image[outside])


@pytest.mark.parametrize(("name", "gains"), [("T1", "fluid"), ("FLAIR", "brain")])
def test_brain_covers_the_fluid_next_to_it_on_flair(tissue, name, gains):
    contrast = CONTRASTS[name]
    values = torch.zeros(5)
    values[GREY_MATTER], values[WHITE_MATTER] = contrast.grey, contrast.white
    values[[VENTRICLES, CSF]] = contrast.fluid
    image = values[tissue]
    config = replace(STILL, mixed_surface=(1.0, 1.0), brain_over_fluid=2.0)
    mixed = with_mixed_borders(image, tissue, contrast, config, 1.0, draw())
    fluid = (tissue == CSF) | (tissue == VENTRICLES)
    brain = (tissue == GREY_MATTER) | (tissue == WHITE_MATTER)
    gaining, losing = (fluid, brain) if gains == "fluid" else (brain, fluid)
    assert torch.equal(mixed[gaining], image[gaining])
    assert torch.equal(mixed[tissue == OTHER], image[tissue == OTHER])
    beside = torch.nn.functional.max_pool3d(gaining[None, None].float(), 3, 1, 1)[0, 0] > 0
    changed = (mixed - image)[losing & beside]
    assert (changed < 0).all() if gains == "fluid" else (changed > 0).all()


def test_lesions_are_as_far_from_white_matter_as_their_bounds_say(tissue):
    """1.7 times as dark as usual on T1, and not the same from lesion to lesion."""
    contrast = CONTRASTS["T1"]
    image = torch.full(SHAPE, contrast.white)
    darkest, spread = [], []
    for seed in range(20):
        changed = pathology.with_lesions(image, tissue, contrast, (0.5, 1.7), 1.0, draw(seed))
        depth = (image - changed)[tissue == WHITE_MATTER] / (contrast.white - contrast.lesion)
        assert depth.max() <= 1.7 + 1e-4
        darkest.append(float(depth.max()))
        lesions = depth[depth > 0.4]
        spread.append(float(lesions.std()) if len(lesions) > 50 else 0.0)
    assert min(darkest) < 1.0
    assert max(darkest) > 1.4
    assert max(spread) > 0.1


def test_lesions_lie_in_white_matter_more_often_at_the_ventricles(tissue):
    contrast = replace(CONTRASTS["FLAIR"], lesion=1.0)
    image = torch.full(SHAPE, 0.5)
    near = torch.zeros(SHAPE, dtype=torch.bool)
    centre = torch.stack(torch.meshgrid(*[torch.arange(48.0) - 23.5] * 3, indexing="ij"))
    near = centre.square().sum(0).sqrt() < 9
    inner, outer, loads = [], [], []
    for seed in range(20):
        changed = (
            pathology.with_lesions(image, tissue, contrast, (0.5, 1.0), 1.0, draw(seed)) - image
        )
        assert (changed[tissue != WHITE_MATTER] == 0).all()
        assert (changed >= 0).all()
        lesion = changed > 0.12
        white = tissue == WHITE_MATTER
        inner.append(share(lesion[white & near]))
        outer.append(share(lesion[white & ~near]))
        loads.append(share(lesion[white]))
    assert np.mean(inner) > 1.5 * np.mean(outer)
    assert min(loads) < 0.03
    assert max(loads) > 0.05


def test_a_cavity_is_fluid_and_a_stroke_stays_what_it_was(tissue):
    contrast = CONTRASTS["T2"]
    image = torch.full(SHAPE, 0.5)
    kinds = set()
    for seed in range(12):
        changed, labels = pathology.with_cavity(image, tissue, contrast, 1.0, draw(seed))
        where = changed != image
        assert where.any()
        assert ((tissue == GREY_MATTER) | (tissue == WHITE_MATTER))[where].all()
        if (labels != tissue).any():
            kinds.add("cavity")
            assert (labels[where] == CSF).all()
            assert changed[where].mean() == pytest.approx(contrast.fluid, abs=0.03)
        else:
            kinds.add("stroke")
        assert torch.equal(labels[~where], tissue[~where])
    assert kinds == {"cavity", "stroke"}


def test_masks_of_skull_stripping_are_perfect_leaky_and_eroded(tissue):
    image = torch.ones(SHAPE)
    brain = (tissue != OTHER) & (tissue != CSF)
    lost, kept_outside = [], []
    for seed in range(30):
        stripped, labels = coverage.skull_stripped(image, tissue, 1.0, draw(seed))
        mask = stripped > 0
        assert (labels[~mask] == OTHER).all()
        assert torch.equal(labels[mask], tissue[mask])
        lost.append(share(~mask[brain]))
        kept_outside.append(share(mask[tissue == OTHER]))
    perfect = [a == 0 and b == 0 for a, b in zip(lost, kept_outside, strict=True)]
    assert 2 <= sum(perfect) <= 25
    assert max(lost) > 0.05
    assert max(lost) < 0.6
    assert max(kept_outside) > 0.01


def test_thin_slabs_can_be_stripped(tissue):
    for seed in range(6):
        slab = tissue[..., 20:28]
        image, _labels = coverage.skull_stripped(torch.ones(slab.shape), slab, 1.0, draw(seed))
        assert image.any()


def test_a_removed_face_leaves_the_brain(label_map, tissue):
    image = torch.ones(SHAPE)
    brain = (tissue != OTHER) & (tissue != CSF)
    removed = []
    for seed in range(10):
        defaced = coverage.defaced(image, tissue, 1.0, draw(seed))
        assert (defaced[brain] == 1).all()
        gone = (defaced == 0).nonzero().float()
        removed.append(len(gone))
        if len(gone):
            centre = gone.mean(0)
            assert centre[1] > 24  # anterior
            assert centre[2] < 24  # inferior
    assert np.mean(removed) > 100


def test_artefacts_change_an_image_a_little():
    head = draw(3).smooth_field(SHAPE, 10).abs() + 1
    for artefact in (acquisition._ghosting, acquisition._motion, acquisition._spike):
        changed = artefact(head, draw(1))
        difference = (changed - head).abs().mean() / head.mean()
        assert 0.002 < difference < 0.3, artefact.__name__
        assert changed.min() >= 0


def test_rician_noise_raises_the_dark():
    """E of a Rayleigh variable: sigma sqrt(pi / 2)."""
    noisy = acquisition._rician(torch.zeros(SHAPE), 0.1, draw())
    assert noisy.mean() == pytest.approx(0.1 * math.sqrt(math.pi / 2), rel=0.02)
    bright = acquisition._rician(torch.ones(SHAPE), 0.1, draw())
    assert bright.std() == pytest.approx(0.1, rel=0.03)


def test_thick_slices_average_along_one_axis():
    """Columns along two axes keep their differences; along the third, neighbours become alike."""
    config = replace(STILL, low_resolution=1.0, slice_thickness=6.0)
    noise = draw(5).noise(SHAPE)
    thick = 0
    for seed in range(12):
        image = acquisition.drawn_resolution(SHAPE, config, 1.0, draw(seed)).of(noise)
        kept = [image.diff(dim=a).square().mean() / noise.diff(dim=a).square().mean() for a in
                range(3)]  # fmt: skip
        assert min(kept) < 0.7
        thick += max(kept) > 2 * min(kept)
    assert thick >= 4


def test_same_state_same_pair_whatever_else_is_drawn(label_map):
    config = SynthesisConfig(artefact=0.5, lesions=0.5, cavity=0.5, deface=0.5)
    pairs = []
    for _ in range(2):
        torch.rand(3)  # the global generator plays no part
        pairs.append(synthesise(label_map, config, (30, 32, 34), 1.5, draw(8).rng))
    assert torch.equal(pairs[0][0], pairs[1][0])
    assert torch.equal(pairs[0][1], pairs[1][1])


@pytest.mark.parametrize("seed", range(8))
def test_pairs_with_everything_at_once_are_finite_and_normalised(label_map, seed):
    config = SynthesisConfig(artefact=1.0, lesions=1.0, cavity=1.0, deface=1.0, cut=1.0)
    image, tissue = synthesise(label_map, config, (28, 28, 28), 2.0, draw(seed).rng)
    assert torch.isfinite(image).all()
    assert 0 <= image.min()
    assert image.max() <= 1
    assert image.std() > 0
    assert set(tissue.unique().tolist()) <= {OTHER, GREY_MATTER, WHITE_MATTER, VENTRICLES, CSF}


def test_impossible_ranges_are_refused():
    with pytest.raises(ValueError, match="cavity is"):
        SynthesisConfig(cavity=1.5)
    with pytest.raises(ValueError, match="noise is -1"):
        SynthesisConfig(noise=-1)
    with pytest.raises(ValueError, match="must be one of T1, T2, FLAIR, PD"):
        SynthesisConfig(contrast="CT")
    with pytest.raises(ValueError, match="mixed_surface is"):
        SynthesisConfig(mixed_surface=(1.0, 0.5))
    with pytest.raises(ValueError, match="lesion_contrast is"):
        SynthesisConfig(lesion_contrast=(1.0, 0.5))
    with pytest.raises(ValueError, match="plexus is"):
        SynthesisConfig(plexus=(-0.1, 0.5))


def test_contact_sheet_shows_images_and_labels(label_map, tmp_path):
    stage = Stage(
        steps=1, learning_rate=(1e-3, 1e-3), training_iterations=(1, 1), shape=(20, 22, 24),
        voxel_size=(2.0, 2.0),
    )  # fmt: skip
    colours = [c["color"] for c in BRAIN_TISSUE_CLASSES]
    source = SynthesisSource([label_map], torch.device("cpu"))
    rng = torch.Generator().manual_seed(1)
    write_contact_sheet(tmp_path / "sheet.png", source, [stage, stage], colours, rng)
    sheet = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "sheet.png")))
    assert sheet.shape[2] == 3
    grey = (sheet[..., 0] == sheet[..., 1]) & (sheet[..., 1] == sheet[..., 2])
    assert 0.02 < (~grey).mean() < 0.6  # labels are in colour, images are not
    assert sheet.std() > 20
