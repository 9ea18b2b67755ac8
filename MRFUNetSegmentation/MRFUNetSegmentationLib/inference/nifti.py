"""What ITK's reader of NIfTI-1 files passes over: missing voxels, NaN, no or two places in space.

So it does of files of Analyze 7.5, whose header NIfTI's grew out of: size, type and offset of the
voxels stand in the same bytes. Offsets and types are those of nifti1.h (Cox et al., "A (sort of)
new image data format standard: NIfTI-1", 2004).
"""

from __future__ import annotations

import glob
import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError

# Ends of names: a file, or a pair of which the first holds the header.
_SINGLE, _HEADER, _VOXELS = (".nii", ".nii.gz"), ".hdr", ".img"
_COMPRESSED = ".gz"
_HEADER_BYTES = 348
_MAGIC = (b"n+1\0", b"ni1\0")
_GZIP = b"\x1f\x8b"
_BLOCK = 2**20
_FLOATS = {16: np.dtype("f4"), 64: np.dtype("f8")}
# Units of length by their code, mm. Unknown ones (0) are mm for ITK, too.
_UNITS = {1: 1000.0, 3: 0.001}
_FIRST_THREE_BITS = 7
# Two places of a scan that differ by less than this are one, mm.
_SAME_PLACE = 1.0
# Two sizes of a voxel that differ by less than this share are one.
_SAME_SIZE = 0.01


@dataclass(frozen=True)
class NiftiFile:
    """A file of NIfTI-1 or Analyze that is whole.

    Attributes:
        floats: voxels as they are stored, in the file's order; None where they are integers.
        places: matrices (4, 4) from voxel indices i, j, k to mm in RAS that its header gives,
            those of its qform and its sform; Analyze has none.
        size: voxels along i, j, k.
        spacing: mm along i, j, k, as the header gives it beside those matrices.
    """

    floats: np.ndarray | None
    places: tuple[np.ndarray, ...]
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def distance(self) -> float:
        """How far apart the header's two places put a corner of the scan at most, mm."""
        if len(self.places) < 2:
            return 0.0
        corners = np.array([(*np.array(c) * np.subtract(self.size, 1), 1) for c in _CORNERS]).T
        one, other = (place @ corners for place in self.places)
        return float(np.linalg.norm((one - other)[:3], axis=0).max())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the file."""
        found = []
        if not self.places and self.size[2] > 1:
            found.append(_NO_PLACE)
        pixdim = np.array(self.spacing)
        several = np.greater(self.size, 1)  # a single slice need not say how thick it is
        said = several & np.isfinite(pixdim) & (pixdim > 0)
        if (said != several).any():
            found.append(
                "The file's header does not say how large a voxel is: "
                f"{_words(self.spacing)} mm (pixdim). 1 mm was taken where that is no size, as "
                "Slicer does; where it is wrong, so are the segmentation and all volumes in ml."
            )
        for place in self.places:
            spacing = np.linalg.norm(place[:3, :3], axis=0)
            if not np.allclose(spacing[said], pixdim[said], rtol=_SAME_SIZE, atol=0):
                found.append(
                    f"The file's header gives two sizes of a voxel: {_words(self.spacing)} mm "
                    f"(pixdim) and {_words(spacing)} mm (sform). The first was taken, as Slicer "
                    "does; where it is wrong, so are the segmentation and all volumes in ml."
                )
        if self.distance > _SAME_PLACE:
            found.append(
                "The file's header puts the scan in two places (qform and sform) that are up to "
                f"{self.distance:.0f} mm apart. One of them was taken, the one that Slicer takes; "
                "programs that go by the other one show the results beside the scan."
            )
        return tuple(found)


_NO_PLACE = (
    "The file's header does not say how the head lies. Slicer's guess was taken: rows run to the "
    "patient's left, columns to the back, slices to the head. Where the scan is on its side or its "
    "face behind, the segmentation is wrong: save it anew with its orientation, say from DICOM."
)
_CORNERS = tuple(np.ndindex(2, 2, 2))


def _words(spacing: Sequence[float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing)


def read_nifti(path: Path) -> NiftiFile | None:
    """Read what ITK's reader makes nothing of; None of another kind of file.

    Args:
        path: of a file that ITK has read.

    Raises:
        InputError: if voxels are missing or damaged, for which ITK gives zeros or noise.
    """
    header_file, voxel_file = _files(path)
    if header_file is None:
        return None
    try:
        header = _Header(_content(header_file, _HEADER_BYTES))
        if not header.known:
            return None
        voxels = _content(voxel_file, header.end, whole=True)
    except (OSError, ValueError, zlib.error) as error:
        raise InputError(
            f"{path}: the file is damaged ({error}). Get it again from where it came from."
        ) from error
    if len(voxels) < header.end:
        raise InputError(
            f"{path}: the file is truncated: it ends {header.end - len(voxels)} bytes before its "
            "last voxel. Get it again from where it came from."
        )
    return NiftiFile(header.floats(voxels), header.places, header.size, header.spacing)


class _Header:
    """The entries of a header that are needed."""

    def __init__(self, content: bytearray) -> None:
        self._content = content
        self._order = "<" if content[:2] == b"\x5c\x01" else ">"  # the header's own size, 348

    @property
    def known(self) -> bool:
        """Whether it is one of NIfTI-1 or Analyze, which gives its own size alone."""
        return len(self._content) == _HEADER_BYTES and self._entries("i4", 0)[0] == _HEADER_BYTES

    @property
    def _of_nifti(self) -> bool:
        return self._content[344:348] in _MAGIC

    @property
    def _shape(self) -> list[int]:
        dimensions, *sizes = self._entries("i2", 40, 8)
        return [int(n) for n in sizes[: int(dimensions)]]

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        return tuple([*self._shape, 1, 1, 1][:3])

    @property
    def _offset(self) -> int:
        return int(self._entries("f4", 108)[0])

    @property
    def end(self) -> int:
        """Where the voxels end in their file."""
        return self._offset + math.prod(self._shape) * int(self._entries("i2", 72)[0]) // 8

    def floats(self, content: bytearray) -> np.ndarray | None:
        """Return the voxels of a file's content; None where they are integers."""
        kind = _FLOATS.get(int(self._entries("i2", 70)[0]))
        if kind is None:
            return None
        voxels = memoryview(content)[self._offset : self.end]
        return np.frombuffer(voxels, kind.newbyteorder(self._order))

    @property
    def _scale(self) -> float:
        """Size of the header's unit of length, mm."""
        if not self._of_nifti:
            return 1.0
        return _UNITS.get(self._content[123] & _FIRST_THREE_BITS, 1.0)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm along i, j, k; the sign that some programs give it means nothing."""
        return tuple(float(abs(mm)) * self._scale for mm in self._entries("f4", 80, 3))

    @property
    def places(self) -> tuple[np.ndarray, ...]:
        """The matrices of qform and sform, as far as the header gives them."""
        if not self._of_nifti:
            return ()
        qform, sform = self._entries("i2", 252, 2)
        scale = self._scale
        found = []
        if qform > 0:
            found.append(self._qform())
        if sform > 0:
            found.append(np.vstack([self._entries("f4", 280, 12).reshape(3, 4), (0, 0, 0, 1)]))
        return tuple(np.diag([scale, scale, scale, 1.0]) @ place for place in found)

    def _qform(self) -> np.ndarray:
        b, c, d, *offset = self._entries("f4", 256, 6).astype(float)
        a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        handedness, *spacing = self._entries("f4", 76, 4).astype(float)
        place = np.eye(4)
        place[:3, :3] = rotation * spacing * (1, 1, -1 if handedness < 0 else 1)
        place[:3, 3] = offset
        return place

    def _entries(self, kind: str, offset: int, number: int = 1) -> np.ndarray:
        return np.frombuffer(self._content, self._order + kind, number, offset)


def _files(path: Path) -> tuple[Path | None, Path | None]:
    """Return the files of header and voxels; None where the name is of another format."""
    name = path.name.lower()
    if name.endswith(_SINGLE):
        return path, path
    name = path.stem if path.suffix.lower() == _COMPRESSED else path.name
    stem, kind = name[:-4], name[-4:].lower()
    pair = {}
    for file in path.parent.glob(f"{glob.escape(stem)}.*"):
        pair.setdefault(file.name[len(stem) :].lower().removesuffix(_COMPRESSED), file)
    if kind in (_HEADER, _VOXELS) and _HEADER in pair and _VOXELS in pair:
        return pair[_HEADER], pair[_VOXELS]
    return None, None


def _content(path: Path, number: int, whole: bool = False) -> bytearray:
    """Return the first bytes of a file, decompressed; fewer if it ends before.

    Args:
        path: of the file.
        number: of bytes.
        whole: read on to the end, where the checksum is.

    Raises:
        OSError: if they cannot be read, or the checksum is of other bytes.
        zlib.error: if they cannot be decompressed.
    """
    content = bytearray()
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP
    with gzip.open(path) if compressed else path.open("rb") as file:
        try:
            while block := file.read1(_BLOCK):
                content += block[: max(0, number - len(content))]
                if not whole and len(content) == number:
                    break
        except EOFError:
            pass  # the checksum may be all that is missing
        except gzip.BadGzipFile as error:
            # What follows the compressed voxels is nothing to ITK either.
            if len(content) < number or "Not a gzipped file" not in str(error):
                raise
    return content
