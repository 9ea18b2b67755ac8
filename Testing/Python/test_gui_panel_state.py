"""What the panel shows in which situation."""

import pytest
from MRFUNetSegmentationLib.errors import Cancelled, InputError, WorkerError
from MRFUNetSegmentationLib.gui.panel_state import (
    Message,
    Progress,
    Situation,
    done_message,
    error_message,
    panel_state,
)

READY = Situation(has_volume=True)


def test_without_volume_it_says_what_to_do():
    state = panel_state(Situation(has_volume=False))
    assert (state.button_text, state.button_enabled) == ("Apply", False)
    assert "Load an MRI" in state.message.text
    assert not state.message.is_error
    assert state.button_tool_tip == state.message.text
    assert state.choices_enabled


@pytest.mark.parametrize("has_volume", [True, False])
def test_model_that_cannot_be_used_is_an_error(has_volume):
    situation = Situation(has_volume=has_volume, model_problem="a.safetensors: truncated.")
    state = panel_state(situation)
    assert not state.button_enabled
    assert state.message == Message("a.safetensors: truncated.", is_error=True)


def test_ready():
    state = panel_state(READY)
    assert (state.button_text, state.button_enabled) == ("Apply", True)
    assert state.choices_enabled
    assert state.percent is None
    assert state.message.text == ""


def test_worker_that_is_busy_for_a_moment_only_disables_the_button():
    state = panel_state(Situation(has_volume=True, worker_busy=True, outcome=Message("Done.")))
    assert (state.button_text, state.button_enabled) == ("Apply", False)
    assert state.choices_enabled
    assert state.message.text == "Done."


def test_running():
    state = panel_state(Situation(has_volume=True, progress=Progress("U-Net", 0.424)))
    assert (state.button_text, state.button_enabled) == ("Cancel", True)
    assert not state.choices_enabled
    assert state.percent == 42
    assert "U-Net" in state.progress_text
    assert "42" in state.progress_text


@pytest.mark.parametrize(("fraction", "percent"), [(-0.1, 0), (0, 0), (1, 100), (1.2, 100)])
def test_progress_stays_on_the_bar(fraction, percent):
    state = panel_state(Situation(has_volume=True, progress=Progress("U-Net", fraction)))
    assert state.percent == percent


def test_cancelling():
    progress = Progress("U-Net", 0.5, cancelling=True)
    state = panel_state(Situation(has_volume=True, progress=progress))
    assert (state.button_text, state.button_enabled) == ("Cancel", False)
    assert "Cancelling" in state.progress_text


def test_run_goes_on_although_the_volume_is_gone():
    state = panel_state(Situation(has_volume=False, progress=Progress("U-Net", 0.5)))
    assert (state.button_text, state.button_enabled) == ("Cancel", True)


def test_outcome_stays_visible_and_the_button_says_what_is_missing():
    outcome = Message("The volume Scan is no longer in the scene.", is_error=True)
    state = panel_state(Situation(has_volume=False, outcome=outcome))
    assert state.message == outcome
    assert "Load an MRI" in state.button_tool_tip


def test_done_message():
    message = done_message(4, 13.4, "cpu (2 threads)", ["Tiles were used."])
    assert message.text == "4 structures segmented in 13 s on cpu (2 threads).\nTiles were used."
    assert not message.is_error
    assert " 1 s " in done_message(4, 0.2, "cpu", []).text


def test_log_of_an_error_becomes_details():
    message = error_message(WorkerError("It ended.\nLast lines of its log:\nKilled"))
    assert message == Message("It ended.", is_error=True, details="Last lines of its log:\nKilled")


def test_cancel_is_no_error():
    assert not error_message(Cancelled()).is_error
    assert error_message(InputError("Empty.")).is_error


def test_unexpected_error_has_its_traceback_as_details():
    try:
        raise KeyError("colour")
    except KeyError as error:
        message = error_message(error)
    assert message.is_error
    assert "KeyError('colour')" in message.text
    assert "report" in message.text
    assert "Traceback" in message.details
