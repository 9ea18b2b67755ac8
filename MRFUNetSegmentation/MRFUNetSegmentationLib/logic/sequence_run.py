"""A run of a sequence of volumes: one after the other, and the scene changes when all are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from ..checkpoints.card import ModelCard
from ..errors import Cancelled, InputError, MRFUNetError
from ..inference.segmentation import Segmentation
from ..inference.volume import Volume
from ..mrml.browsers import shown_index
from ..mrml.geometry import ijk_to_ras
from ..mrml.segmentations import provenance_of
from ..mrml.sequences import SegmentationSequence, VolumeSequence
from ..worker.client import Job
from .run import Content, Run, VolumeRun, error_of, lost_node


@dataclass(frozen=True)
class SequenceResult:
    """What the runs of all volumes have in common.

    Attributes:
        card: the model's card.
        sha256: of the checkpoint.
        device: on which it was computed, in words.
        volumes: how many there were.
        timings: seconds per stage, of all volumes together.
        warnings: in words, each once.
    """

    card: ModelCard
    sha256: str
    device: str
    volumes: int = 0
    timings: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def and_of(self, result: Segmentation) -> SequenceResult:
        """Return this with the next volume's."""
        new = [warning for warning in result.warnings if warning not in self.warnings]
        return SequenceResult(
            self.card,
            self.sha256,
            self.device,
            self.volumes + 1,
            self.timings + Counter(result.timings),
            self.warnings + new,
        )


class SequenceRun(Run):
    """One segmentation of each volume of a sequence; its `result` is a `SequenceResult`."""

    def __init__(
        self,
        submit: Callable[[Volume], Job],
        sequence,
        output_node=None,
        replace_non_finite: bool = False,
        shown_by=None,
    ) -> None:
        """Start with the first volume.

        Args:
            submit: gives a volume to the worker.
            sequence: vtkMRMLSequenceNode of scalar volume nodes, with a browser.
            output_node: shows the segmentations of an earlier run, which are replaced; a new
                segmentation node if None.
            replace_non_finite: see `read_volume`.
            shown_by: volume node of the browser that is meant, where there are several.
        """
        super().__init__()
        self._submit, self._replace_non_finite = submit, replace_non_finite
        self._volumes = VolumeSequence.of(sequence, shown_by or output_node)
        self._scene = sequence.GetScene()
        self._given_node = output_node
        if error := self._lost_node():
            raise error
        if output_node is not None:
            self._volumes.check_output(output_node)
        self._items = self._volumes.items
        self._contents: list[Content] = []
        self._dropped: MRFUNetError | None = None
        self._cancelled = False
        self._segmentations: SegmentationSequence | None = None
        self._summary: SequenceResult | None = None
        self._place = 0
        self._start_item()

    @property
    def can_take_back(self) -> bool:
        """Whether the run has replaced segmentations that can still be put back; see `Run`."""
        return self._scene.IsNodePresent(self._volumes.browser) and super().can_take_back

    @property
    def _volume_nodes(self) -> list:
        return self._volumes.items

    def _places(self) -> tuple:
        # A transform that is hardened moves the node that shows a volume, and not that itself.
        volume = self._volumes.volume
        item = self._volumes.sequence.GetDataNodeAtValue(shown_index(volume) or "")
        is_in_place = item is None or (ijk_to_ras(item) == ijk_to_ras(volume)).all()
        return (*super()._places(), bool(is_in_place))

    def poll(self) -> None:
        """Take note of what has happened since the last call, without waiting."""
        if self.state != "running":
            return
        if self._dropped is None and (error := self._lost_node() or self._changed()):
            self._dropped = error
            self._item.cancel()
        if self._item.state == "done":
            self._start_next()
            return
        self._item.poll()
        if self._item.state == "running":
            return
        if self._dropped or self._item.error:
            self._end(self._dropped or self._named(self._item.error, self._place))
            return
        self._place += 1
        if self._place == len(self._items):
            self._end(error_of(self._store))

    def cancel(self) -> None:
        """Ask the run to end; within about 2 s `poll` finds it cancelled."""
        self._cancelled = True
        self._item.cancel()

    def _start_next(self) -> None:
        """Start with the next volume: not when the one before ends, for both take a moment."""
        if self._dropped or self._cancelled:
            self._end(self._dropped or Cancelled())
            return
        try:
            self._start_item()
        except MRFUNetError as error:
            self._end(self._named(error, self._place))

    def _start_item(self) -> None:
        self._item = _ItemRun(
            self._submit,
            self._items[self._place],
            replace_non_finite=self._replace_non_finite,
            placed_by=self._volumes.volume,
        )
        self._item.add = self._add
        self._item.onProgress = self._report_item

    def _add(self, result: Segmentation) -> None:
        if self._segmentations is None:
            self._segmentations = SegmentationSequence(
                self._volumes, result.card.classes, provenance_of(result)
            )
            self._summary = SequenceResult(result.card, result.sha256, result.device)
        if result.sha256 != self._summary.sha256:
            raise InputError(
                "The model's file was replaced by another one during the run, so the result was "
                "dropped: it would be of two networks. Run it again."
            )
        self._segmentations.add(result.labels)
        self._contents.append(self._item.content)
        self._summary = self._summary.and_of(result)

    def _store(self) -> None:
        # Each was looked at when its own run ended, but it could still be edited after that.
        for place, (node, content) in enumerate(zip(self._items, self._contents, strict=True)):
            try:
                content.check(node)
            except InputError as error:
                raise self._named(error, place) from error
        with ExitStack() as undo:
            self.outputNode = self._segmentations.put(self._given_node, undo)
            taking_back = undo.pop_all()
        self.result = self._summary
        if self._given_node is not None:
            self._offer_take_back(taking_back)

    def _report_item(self, stage: str, fraction: float) -> None:
        caption = self._caption(self._place)
        self._report(f"{caption}: {stage}", (self._place + fraction) / len(self._items))

    def _caption(self, place: int) -> str:
        return f"Volume {place + 1} of {len(self._items)}"

    def _named(self, error: MRFUNetError, place: int) -> MRFUNetError:
        """Return an error that says at which volume, 0 .. N - 1, it happened."""
        if isinstance(error, Cancelled):
            return error
        return type(error)(f"{self._caption(place)}: {error}")

    def _lost_node(self) -> MRFUNetError | None:
        nodes = {
            "sequence": self._volumes.sequence,
            "sequence's browser": self._volumes.browser,
            "volume": self._volumes.volume,
            "output segmentation": self._given_node,
        }
        return lost_node(self._scene, nodes)

    def _changed(self) -> MRFUNetError | None:
        if self._volumes.items == self._items:
            return None
        return InputError(
            f"Volumes of the sequence {self._volumes.sequence.GetName()} came or went during the "
            "run, so the result was dropped. Run it again."
        )


class _ItemRun(VolumeRun):
    """The run of one of the volumes; nothing of it goes into the scene.

    Attributes:
        add: called with the result.
    """

    add: Callable[[Segmentation], None]

    def _write(self, result: Segmentation, taking_back: ExitStack) -> None:
        self.add(result)
