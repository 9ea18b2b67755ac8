"""What the panel shows in which situation; knows neither Qt nor the scene."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from ..errors import Cancelled, MRFUNetError
from .i18n import _

# Share of a run from which on the time that remains can be told.
_TELLING = 0.1


@dataclass(frozen=True)
class Message:
    """The panel's message line.

    Attributes:
        text: what happened and what to do.
        is_error: whether it is shown as an error.
        details: what is copied in addition, such as the end of a log.
    """

    text: str
    is_error: bool = False
    details: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        stage: in words.
        fraction: 0..1 of the whole run.
        seconds: since it began.
        cancelling: whether the run has been asked to end.
    """

    stage: str
    fraction: float = 0.0
    seconds: float = 0.0
    cancelling: bool = False


@dataclass(frozen=True)
class Situation:
    """Everything that the panel's state depends on.

    Attributes:
        has_volume: whether a volume is chosen.
        model_problem: why the chosen model cannot be used.
        progress: of the current run, if there is one.
        worker_busy: whether the worker is answering something else, for a moment.
        outcome: of the last run, until a choice is changed.
        estimate: seconds that a run may take, if it is known.
    """

    has_volume: bool
    model_problem: str | None = None
    progress: Progress | None = None
    worker_busy: bool = False
    outcome: Message | None = None
    estimate: float | None = None


@dataclass(frozen=True)
class PanelState:
    """What the panel's widgets show.

    Attributes:
        button_text: Apply or Cancel.
        button_enabled: whether it can be pressed.
        button_tool_tip: what it does, or why it cannot be pressed.
        choices_enabled: whether volume, model and options can be changed.
        percent: of the progress bar; None hides it.
        progress_text: on the progress bar.
        message: below it.
    """

    button_text: str
    button_enabled: bool
    button_tool_tip: str
    choices_enabled: bool = True
    percent: int | None = None
    progress_text: str = ""
    message: Message = Message("")


def panel_state(situation: Situation) -> PanelState:
    """Return what to show."""
    if situation.progress:
        return _running(situation.progress, situation.outcome)
    obstacle = _obstacle(situation)
    return PanelState(
        button_text=_("Apply"),
        button_enabled=obstacle is None and not situation.worker_busy,
        button_tool_tip=obstacle.text if obstacle else _("Segment the volume."),
        message=situation.outcome or obstacle or _forecast(situation.estimate),
    )


def done_message(
    structures: int,
    seconds: float,
    device: str,
    warnings: list[str],
    samples: int = 0,
    volumes: int = 1,
) -> Message:
    """Return what is said after a run that succeeded.

    Args:
        structures: number of segments.
        seconds: that the run took.
        device: on which it ran, in words.
        warnings: of the run, in words.
        samples: how many were drawn.
        volumes: how many were segmented.
    """
    if volumes > 1:
        text = _(
            "{structures} structures segmented in {volumes} volumes in {seconds} s on {device}."
        )
    elif samples:
        text = _("{samples} plausible segmentations drawn in {seconds} s on {device}.")
    else:
        text = _("{structures} structures segmented in {seconds} s on {device}.")
    text = text.format(
        samples=samples,
        structures=structures,
        volumes=volumes,
        seconds=max(1, round(seconds)),
        device=device,
    )
    return Message("\n".join([text, *warnings]))


def error_message(error: Exception) -> Message:
    """Return what is said after an error; its further lines (a log) become the details."""
    if not isinstance(error, MRFUNetError):
        return Message(
            _("Unexpected error ({error}); please report it.").format(error=repr(error)),
            is_error=True,
            details="".join(traceback.format_exception(error)),
        )
    text, _newline, details = str(error).partition("\n")
    return Message(text, is_error=not isinstance(error, Cancelled), details=details)


def _running(progress: Progress, said: Message | None) -> PanelState:
    percent = round(100 * min(max(progress.fraction, 0.0), 1.0))
    stage = _("Cancelling") if progress.cancelling else progress.stage
    return PanelState(
        button_text=_("Cancel"),
        button_enabled=not progress.cancelling,
        button_tool_tip=_("End the run; the scene stays as it is."),
        choices_enabled=False,
        percent=percent,
        progress_text=f"{stage} … {percent} %{_remaining(progress)}",
        message=said or Message(""),
    )


def _remaining(progress: Progress) -> str:
    """Return how long it has taken, and may take still, once that can be told."""
    if progress.fraction < _TELLING or progress.seconds < 1 or progress.cancelling:
        return ""
    remaining = progress.seconds * (1 - progress.fraction) / progress.fraction
    return _(" ({elapsed} s, {remaining} s left)").format(
        elapsed=round(progress.seconds), remaining=round(remaining)
    )


def _forecast(seconds: float | None) -> Message:
    if seconds is None:
        return Message("")
    return Message(_("Takes about {seconds} s.").format(seconds=max(1, round(seconds))))


def _obstacle(situation: Situation) -> Message | None:
    if situation.model_problem:
        return Message(situation.model_problem, is_error=True)
    if not situation.has_volume:
        return Message(_("Load an MRI, then select it above as volume."))
    return None
