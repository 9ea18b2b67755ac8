"""Where training pairs come from: synthesis from label maps, with or without lesions, or real
images and their raters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..networks.probabilistic_unet import padded_to
from .config import Augmentation, LesionData, RaterData, Stage
from .labels import LabelMap
from .lesions import LesionMap, Lesions, synthesise_lesions
from .rater_data import RaterCase, about_cases
from .synthesis import synthesise
from .synthesis.draw import Draw

# Voxels across the slab that slices are cut out of, and of those on either side that are only there
# to be blurred into the others. The thicker the slab, the more its percentiles are the volume's.
SLAB, MARGIN = 24, 2
# Whole images share batches if their sides, rounded up to a multiple of this, are the same.
_MULTIPLE = 8

# Of a stage and a generator: an image (C, *shape), float32, and its labels by each of the raters
# that the stage asks for (raters, *shape), int64.
Drawing = Callable[[Stage, Generator], tuple[Tensor, Tensor]]


class Source(Protocol):
    """Draws training pairs on its device.

    Attributes:
        description: what it draws them from, in words.
    """

    description: str

    def draw(self, stage: Stage, rng: Generator) -> tuple[Tensor, Tensor]:
        """Return an image (C, *shape), float32, and its labels (raters, *shape), int64.

        Args:
            stage: what to draw.
            rng: source of all randomness, on the device.
        """
        ...

    def for_batch(self, stage: Stage, rng: Generator) -> Drawing:
        """Return what draws the pairs of one batch, all of a size.

        Args:
            stage: what will be drawn.
            rng: of what they have in common.
        """
        ...


class SynthesisSource:
    """Images synthesised from a random one of some label maps, at a random voxel size.

    Args:
        label_maps: anatomies.
        device: where to synthesise: the network's, so that nothing has to be copied.
    """

    def __init__(self, label_maps: Sequence[LabelMap], device: torch.device) -> None:
        self.label_maps = [label_map.to(device) for label_map in label_maps]
        self.description = f"{len(label_maps)} label maps"

    def draw(self, stage: Stage, rng: Generator) -> tuple[Tensor, Tensor]:
        """Return a pair; see `Source`."""
        chosen = int(torch.randint(len(self.label_maps), (), generator=rng, device=rng.device))
        low, high = stage.voxel_size
        share = torch.rand((), generator=rng, device=rng.device).item()
        spacing = low + (high - low) * share
        image, tissue = synthesise(
            self.label_maps[chosen], stage.synthesis, stage.shape, spacing, rng
        )
        return image[None], tissue[None]

    def for_batch(self, stage: Stage, rng: Generator) -> Drawing:
        """Return `draw`; see `Source`."""
        return self.draw


class LesionSource:
    """Synthesised images with lesions, each marked by random simulated raters.

    Patients are drawn in proportion to the root of the volume of their lesions.

    Args:
        label_maps: anatomies.
        lesion_maps: patients.
        options: how lesions look, how raters mark them, and how many slabs are kept.
        device: where to synthesise.
        neighbours: slices on either side that a 2D network sees beside each slice.
    """

    def __init__(
        self,
        label_maps: Sequence[LabelMap],
        lesion_maps: Sequence[LesionMap],
        options: LesionData,
        device: torch.device,
        neighbours: int = 0,
    ) -> None:
        self.neighbours = neighbours
        self.label_maps = [label_map.to(device) for label_map in label_maps]
        self.lesion_maps = [lesion_map.to(device) for lesion_map in lesion_maps]
        self.options = options
        self.description = f"{len(label_maps)} label maps, lesions of {len(lesion_maps)} patients"
        # Half of the patients have next to no lesions to learn from.
        loads = torch.stack([lesion_map.volumes.sum() for lesion_map in lesion_maps])
        self._weights = loads.sqrt()
        self._slabs: dict[int, tuple[Tensor, Lesions]] = {}
        self._ranges: tuple = ()

    def draw(self, stage: Stage, rng: Generator) -> tuple[Tensor, Tensor]:
        """Return a pair; see `Source`. In 2D it is an axial slice, cut out of a thin slab."""
        draw = Draw(rng)
        flat = len(stage.shape) == 2
        image, lesions = self._slab(stage, draw) if flat else self._synthesised(stage, draw)
        raters = self.options.painting.raters
        marks = [lesions.mark(raters, draw) for _ in range(stage.raters_per_image)]
        labels = torch.stack(marks).long()
        if flat:
            index = _slice(lesions, self.neighbours, draw)
            seen = slice(index - self.neighbours, index + self.neighbours + 1)
            return image[..., seen].movedim(-1, 0).float().contiguous(), labels[..., index]
        return image[None], labels

    def for_batch(self, stage: Stage, rng: Generator) -> Drawing:
        """Return `draw`; see `Source`."""
        return self.draw

    def _slab(self, stage: Stage, draw: Draw) -> tuple[Tensor, Lesions]:
        """Return a random slab, synthesised now if it is not among those that are kept."""
        if self.options.slabs is None:
            return _inner(*self._synthesised(stage, draw))
        ranges = (stage.shape, stage.voxel_size, stage.synthesis)
        if ranges != self._ranges:
            self._ranges, self._slabs = ranges, {}
        number = draw.integer(self.options.slabs)
        if number not in self._slabs:
            # By its number alone: a run that goes on has the slabs that it had.
            own = Draw(Generator(draw.device).manual_seed(number))
            self._slabs[number] = _inner(*self._synthesised(stage, own))
        return self._slabs[number]

    def _synthesised(self, stage: Stage, draw: Draw) -> tuple[Tensor, Lesions]:
        shape = stage.shape if len(stage.shape) == 3 else (*stage.shape, SLAB)
        return synthesise_lesions(
            self.label_maps[draw.integer(len(self.label_maps))],
            self.lesion_maps[draw.choice(self._weights)],
            self.options.painting,
            stage.synthesis,
            shape,
            draw.uniform(*stage.voxel_size),
            draw.rng,
        )


def _slice(lesions: Lesions, neighbours: int, draw: Draw) -> int:
    """Draw a slice with neighbours: half of the time any, else that of a random lesion's voxel."""
    area = (lesions.distance > 0).sum((0, 1)).float().cpu()
    area = area[neighbours : len(area) - neighbours]
    return neighbours + draw.choice(area + area.mean().clamp_min(1))


def _inner(image: Tensor, lesions: Lesions) -> tuple[Tensor, Lesions]:
    """Return the slices of a slab that have neighbours on both sides, in half of the memory."""
    inner = slice(MARGIN, SLAB - MARGIN)
    kept = replace(
        lesions,
        distance=lesions.distance[..., inner].half(),
        nearest=lesions.nearest[..., inner].to(torch.int16),
    )
    return image[..., inner].half(), kept


class RaterSource:
    """Real images or parts of them, each with the labels of random ones of its raters.

    Where a stage names no shape, images come whole, and those of a batch are of one size: what
    averages over an image, as a prior does, would learn from padding that it never sees later.

    Training on random raters at each step is what teaches a Probabilistic U-Net the raters'
    distribution (Kohl et al., NeurIPS 2018, section 4.1).

    Args:
        cases: the images.
        options: how parts are chosen and changed.
        device: where to draw.
    """

    def __init__(
        self, cases: Sequence[RaterCase], options: RaterData, device: torch.device
    ) -> None:
        self.cases = cases
        self.options = options
        self.description = about_cases(cases)
        self.images = [case.images.to(device) for case in cases]
        self.masks = [case.masks.to(device) for case in cases]
        self.marked = [case.masks.any(0).nonzero() for case in cases]
        self._alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number in range(len(cases)):
            self._alike[self._rounded(number)].append(number)

    def draw(self, stage: Stage, rng: Generator) -> tuple[Tensor, Tensor]:
        """Return a pair; see `Source`. Without a shape it is of any image's size."""
        return self._drawn(range(len(self.cases)), stage, rng)

    def for_batch(self, stage: Stage, rng: Generator) -> Drawing:
        """Return `draw`, or what draws whole images of the size of a random one; see `Source`."""
        if stage.shape:
            return self.draw
        # An image chosen like this, then one of its size: all are drawn equally often.
        chosen = Draw(rng).integer(len(self.cases))
        return partial(self._of_one_size, self._alike[self._rounded(chosen)])

    def _rounded(self, number: int) -> tuple[int, ...]:
        return tuple(-(-n // _MULTIPLE) * _MULTIPLE for n in self.images[number].shape[2:])

    def _of_one_size(
        self, numbers: Sequence[int], stage: Stage, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return one of some cases' images whole, padded to the largest of theirs."""
        sizes = [self.images[number].shape[2:] for number in numbers]
        shape = tuple(map(max, zip(*sizes, strict=True)))
        image, labels = self._drawn(numbers, stage, rng)
        # As the network pads; labels by way of numbers that can be padded, in channels.
        labels = padded_to(labels[None].float(), shape)[0].long()
        return padded_to(image[None], shape)[0], labels

    def _drawn(self, numbers: Sequence[int], stage: Stage, rng: Generator) -> tuple[Tensor, Tensor]:
        """Return a pair of one of some cases."""
        draw = Draw(rng)
        number = numbers[draw.integer(len(numbers))]
        images, masks = self.images[number], self.masks[number]
        shape = stage.shape or tuple(images.shape[2:])
        raters = _some(len(masks), stage.raters_per_image, draw)
        index, centre = self._place(number, shape, draw)
        augmentation = self.options.augmentation
        matrix = _random_matrix(augmentation, self.cases[number].spacing, draw)
        grid = _sampling_grid(images.shape[2:], shape, matrix, centre).to(images.device)
        image = _sampled(images[index], grid, "bilinear")
        labels = _sampled(masks[raters, index].float(), grid, "nearest")
        return _with_intensities(image, augmentation, draw), labels.long()

    def _place(self, number: int, shape: tuple[int, ...], draw: Draw) -> tuple[int, list[float]]:
        """Draw one of a case's images and the centre of the part in it."""
        batch, _channels, *size = self.images[number].shape
        marked = self.marked[number]
        if len(marked) and draw.chance(self.options.foreground):
            index, *centre = marked[draw.integer(len(marked))].tolist()
            # What is marked need not be in the middle.
            centre = [c + draw.uniform(-n / 4, n / 4) for c, n in zip(centre, shape, strict=True)]
        else:
            index = draw.integer(batch)
            centre = [draw.uniform(0, n - 1) for n in size]
        inside = []
        for c, n, part in zip(centre, size, shape, strict=True):
            middle, play = (n - 1) / 2, max(0, n - part) / 2
            inside.append(min(max(c, middle - play), middle + play))
        return index, inside


def _some(number: int, wanted: int, draw: Draw) -> list[int]:
    """Draw as many of 0..number - 1 as are wanted, none again before all were drawn."""
    order = draw.uniforms(number).argsort().tolist()
    return [order[n % number] for n in range(wanted)]


def _random_matrix(augmentation: Augmentation, spacing: tuple[float, ...], draw: Draw) -> Tensor:
    """Return the matrix (dim, dim) from voxels of the part to voxels of the image."""
    dim = len(spacing)
    scales = 1 + draw.uniforms(dim, -augmentation.scaling, augmentation.scaling)
    for axis, probability in enumerate(augmentation.flip[:dim]):
        if draw.chance(probability):
            scales[axis] = -scales[axis]
    matrix = torch.diag(scales)
    for a in range(dim):
        for b in range(a + 1, dim):
            angle = math.radians(draw.uniform(-augmentation.rotation, augmentation.rotation))
            turn = torch.eye(dim)
            turn[a, a] = turn[b, b] = math.cos(angle)
            turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
            matrix = turn @ matrix
    voxel = torch.tensor(spacing)
    return matrix * voxel / voxel[:, None]  # it turns what is in mm


def _sampling_grid(
    size: Sequence[int], shape: Sequence[int], matrix: Tensor, centre: Sequence[float]
) -> Tensor:
    """Return where the voxels of a part lie in its image, (1, *shape, dim) for `grid_sample`."""
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    places = voxels @ matrix.T + torch.tensor(centre, dtype=torch.float32)
    last = (torch.tensor(size, dtype=torch.float32) - 1).clamp_min(1)
    return (2 * places / last - 1).flip(-1)[None]  # the last axis first


def _sampled(image: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Return the values (C, *shape) of an image (C, *size) at a grid; 0 beyond its edge."""
    return functional.grid_sample(image[None], grid, mode=mode, align_corners=True)[0]


def _with_intensities(image: Tensor, augmentation: Augmentation, draw: Draw) -> Tensor:
    image = image.clamp(0, 1) ** math.exp(augmentation.gamma * draw.normal())
    noise = draw.uniform(0, augmentation.noise)
    return (image + noise * draw.noise(image.shape)).clamp(0, 1)
