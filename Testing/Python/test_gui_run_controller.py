"""The panel's run, from installation to result, with a logic that does what each test needs."""

import gc
import time
import types
import weakref
from pathlib import Path

import pytest
from MRFUNetSegmentationLib.errors import Cancelled, InputError, WorkerError
from MRFUNetSegmentationLib.gui.durations import Durations
from MRFUNetSegmentationLib.gui.run_controller import RunController

DEVICES = {"devices": [], "why_no_gpu": "no driver.", "torch": "2.9.0"}

IMAGE = types.SimpleNamespace(
    GetImageData=lambda: types.SimpleNamespace(GetNumberOfPoints=lambda: 1000),
    GetSpacing=lambda: (10.0, 10.0, 10.0),
)
SCAN = (IMAGE, "brain-tissue", "cpu")


class FakeRun:
    def __init__(self, on_progress):
        self.state, self.error, self.result, self.outputNode = "running", None, None, None
        self.on_progress = on_progress
        self.cancelled, self.number = False, 0
        self.next_steps = []

    def poll(self):
        if self.next_steps:
            self.next_steps.pop(0)()

    def cancel(self):
        self.cancelled = True

    def finish(self):
        card = types.SimpleNamespace(name="brain-tissue", segments=("a", "b", "c"))
        self.result = types.SimpleNamespace(
            card=card,
            sha256="ab12",
            device="cpu",
            timings={"U-Net": 1.5},
            warnings=["Thick slices."],
            number=self.number,
        )
        self.outputNode = "segmentation"
        self.state = "done"

    def fail(self, error):
        self.error = error
        self.state = "cancelled" if isinstance(error, Cancelled) else "failed"


class FakeLogic:
    def __init__(self):
        self.runs, self.calls, self.ended = [], [], False
        self.job = types.SimpleNamespace(state="running", result=None, poll=lambda: None)
        self.worker = types.SimpleNamespace(request_devices=lambda: self.job, ends_soon=False)

    def segment(self, volume, **options):
        return self._run("segment", volume, **options)

    def sample(self, volume, **options):
        return self._run("sample", volume, **options)

    def _run(self, name, volume, *, waitForCompletion, onProgress, **options):  # noqa: N803
        assert waitForCompletion is False
        self.calls.append((name, volume, options))
        self.runs.append(FakeRun(onProgress))
        return self.runs[-1]

    def cleanup(self):
        self.ended = True


@pytest.fixture
def logic():
    return FakeLogic()


@pytest.fixture
def results():
    return []


@pytest.fixture
def controller(logic, results):
    return RunController(logic, install=lambda: None, on_result=results.append)


def test_run_that_succeeds(controller, logic, results):
    assert not controller.active
    controller.start(*SCAN)
    assert logic.calls == [("segment", IMAGE, {"model": "brain-tissue", "device": "cpu"})]
    assert controller.running
    assert controller.progress.fraction == 0
    (run,) = logic.runs
    run.next_steps = [lambda: run.on_progress("U-Net", 0.5), run.finish]
    controller.poll()
    assert (controller.progress.stage, controller.progress.fraction) == ("U-Net", 0.5)
    assert results == []
    controller.poll()
    assert not controller.running
    assert controller.progress is None
    assert results == ["segmentation"]
    assert controller.outcome.text.startswith("3 structures segmented")
    assert "Thick slices." in controller.outcome.text
    assert "brain-tissue ab12" in controller.outcome.details
    assert "U-Net: 1.50 s" in controller.outcome.details


def test_devices_are_asked_after_the_first_success_only(controller, logic):
    controller.start(*SCAN)
    logic.runs[0].next_steps = [logic.runs[0].finish]
    controller.poll()
    assert controller.worker_busy
    assert controller.active
    controller.poll()
    assert controller.devices is None
    logic.job.state, logic.job.result = "done", DEVICES
    controller.poll()
    assert controller.devices == DEVICES
    assert not controller.active
    controller.start(*SCAN)
    logic.runs[1].next_steps = [logic.runs[1].finish]
    controller.poll()
    assert not controller.worker_busy


@pytest.mark.parametrize("error", [InputError("Constant."), Cancelled()])
def test_run_that_ends_without_result(controller, logic, results, error, caplog):
    controller.start(*SCAN)
    logic.runs[0].next_steps = [lambda: logic.runs[0].fail(error)]
    controller.poll()
    assert not controller.active
    assert results == []
    assert controller.outcome.text == str(error)
    assert controller.outcome.is_error == (not isinstance(error, Cancelled))
    assert (str(error) in caplog.text) == controller.outcome.is_error


def test_error_at_start_becomes_the_outcome(controller, logic):
    def refuse(volume, **options):
        raise InputError("No voxels.")

    logic.segment = refuse
    controller.start(*SCAN)
    assert not controller.active
    assert controller.outcome.text == "No voxels."


def test_nothing_starts_when_the_installation_fails(logic, results):
    def install():
        raise WorkerError("PyTorch was not installed.")

    controller = RunController(logic, install, results.append)
    controller.start(*SCAN)
    assert logic.calls == []
    assert controller.outcome.text == "PyTorch was not installed."


class SlowInstallation:
    """An installer that lets the user act once meanwhile, as Slicer's does; it may fail then."""

    def __init__(self, logic, results, error=None):
        self.calls, self.error = [], error
        self.meanwhile, self.shown = lambda controller: None, []
        self.controller = RunController(
            logic,
            self,
            results.append,
            on_install=lambda: self.shown.append(self.controller.progress),
        )

    def __call__(self):
        self.calls.append(self.controller.running)
        if len(self.calls) == 1:
            self.meanwhile(self.controller)
        if self.error:
            raise self.error


@pytest.fixture
def installation(logic, results):
    return SlowInstallation(logic, results)


def press_all(controller):
    controller.poll()
    controller.start(*SCAN, number=8)
    controller.import_checkpoint(Path("a.pth"), {}, Path("a.safetensors"), lambda path: None)


def test_installation_counts_as_running_and_does_not_start_twice(installation, logic, results):
    installation.meanwhile = press_all
    controller = installation.controller
    controller.start(*SCAN)
    assert installation.calls == [True]
    (shown,) = installation.shown
    assert (shown.stage, shown.cancelling) == ("Installing PyTorch", False)
    assert [name for name, *_ in logic.calls] == ["segment"]
    assert controller.progress.stage == "Starting"
    logic.runs[0].next_steps = [logic.runs[0].finish]
    controller.poll()
    assert results == ["segmentation"]
    assert controller.estimate(*SCAN) is not None
    assert controller.estimate(*SCAN, number=8) is None


@pytest.mark.parametrize("error", [WorkerError("Not installed."), ZeroDivisionError()])
def test_installation_that_fails_can_be_tried_again(installation, logic, error):
    installation.error = error
    controller = installation.controller
    controller.start(*SCAN)
    assert not controller.active and controller.progress is None
    assert controller.outcome.is_error
    installation.error = None
    controller.start(*SCAN)
    assert len(logic.runs) == 1 and controller.running


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (RunController.cancel, "The run was cancelled; nothing was changed."),
        (RunController.abandon, None),
    ],
)
def test_nothing_starts_after_an_installation_if_cancelled_meanwhile(
    installation, logic, act, said
):
    def cancel(controller):
        act(controller)
        assert controller.running and controller.progress.cancelling
        controller.start(*SCAN)

    installation.meanwhile = cancel
    controller = installation.controller
    controller.start(*SCAN)
    assert len(installation.calls) == 1
    assert logic.calls == []
    assert not controller.active and controller.progress is None
    assert (controller.outcome.text if controller.outcome else None) == said
    controller.start(*SCAN)
    assert len(logic.runs) == 1


def test_nothing_starts_after_an_installation_if_closed_meanwhile(installation, logic):
    installation.meanwhile = RunController.close
    installation.controller.start(*SCAN)
    assert logic.calls == [] and logic.ended
    assert not installation.controller.active


def test_next_start_forgets_the_outcome(controller, logic):
    controller.start(*SCAN)
    logic.runs[0].next_steps = [lambda: logic.runs[0].fail(InputError("Constant."))]
    controller.poll()
    controller.start(*SCAN)
    assert controller.outcome is None


def test_unexpected_error_ends_the_run_and_is_logged(controller, logic, caplog):
    controller.start(*SCAN)
    logic.runs[0].next_steps = [lambda: [][1]]
    controller.poll()
    assert not controller.active
    assert "IndexError" in controller.outcome.text
    assert "Traceback" in caplog.text
    assert logic.runs[0].cancelled, "the worker would wait for it"


def test_cancel(controller, logic):
    controller.cancel()  # nothing to cancel, nothing happens
    assert controller.outcome is None
    controller.start(*SCAN)
    (run,) = logic.runs
    run.on_progress("U-Net", 0.5)
    controller.cancel()
    assert run.cancelled
    assert controller.progress.cancelling
    run.on_progress("U-Net", 0.6)
    assert controller.progress.cancelling


def test_run_starts_when_the_worker_has_ended_something(controller, logic, results):
    logic.worker.ends_soon = True
    controller.start(*SCAN)
    controller.poll()
    assert logic.runs == []
    assert controller.running and controller.progress.stage == "Starting"
    logic.worker.ends_soon = False
    controller.poll()
    (run,) = logic.runs
    run.next_steps = [run.finish]
    controller.poll()
    assert results == ["segmentation"]


def test_cancel_of_a_run_that_has_not_started(controller, logic):
    logic.worker.ends_soon = True
    controller.start(*SCAN)
    controller.cancel()
    logic.worker.ends_soon = False
    controller.poll()
    assert logic.runs == []
    assert not controller.running
    assert "cancelled" in controller.outcome.text


def test_time_of_a_sequence_is_that_of_its_volumes(logic):
    sequence = types.SimpleNamespace(
        GetNumberOfDataNodes=lambda: 3, GetNthDataNode=lambda item: IMAGE
    )
    controller = RunController(logic, lambda: None, lambda node: None)
    controller.start(*SCAN)
    logic.runs[0].next_steps = [logic.runs[0].finish]
    time.sleep(0.05)
    controller.poll()
    one = controller.estimate(*SCAN)
    assert controller.estimate(sequence, *SCAN[1:]) == pytest.approx(3 * one)


@pytest.mark.parametrize("ended", [True, False])
def test_abandoned_run_holds_no_volume(controller, logic, ended):
    volume = type("Volume", (), {k: staticmethod(v) for k, v in vars(IMAGE).items()})()
    known = weakref.ref(volume)
    controller.start(volume, *SCAN[1:], number=8)
    logic.calls.clear()
    (run,) = logic.runs
    run.next_steps = [run.finish if ended else lambda: run.fail(Cancelled())]
    if ended:
        controller.poll()
    controller.abandon()
    controller.poll()
    del volume
    gc.collect()
    assert known() is None
    assert controller.last is None and controller.outcome is None


def test_close_ends_the_worker(controller, logic):
    controller.start(*SCAN)
    controller.close()
    assert logic.ended
    assert not controller.active


def test_devices_that_cannot_be_asked_leave_the_outcome(controller, logic):
    def refuse():
        raise WorkerError("Busy.")

    logic.worker.request_devices = refuse
    controller.start(*SCAN)
    logic.runs[0].next_steps = [logic.runs[0].finish]
    controller.poll()
    assert not controller.outcome.is_error
    assert not controller.active


def test_samples_are_drawn_by_the_other_call(controller, logic):
    controller.start(*SCAN, number=8, seed=3)
    expected = {"model": "brain-tissue", "device": "cpu", "number": 8, "seed": 3}
    assert logic.calls == [("sample", IMAGE, expected)]
    logic.runs[0].next_steps = [logic.runs[0].finish]
    logic.runs[0].number = 8
    controller.poll()
    assert controller.outcome.text.startswith("8 plausible segmentations drawn")


def test_time_of_a_run_is_estimated_from_the_last_of_its_kind(logic):
    kept = []
    controller = RunController(logic, lambda: None, lambda node: None, Durations("", kept.append))
    assert controller.estimate(*SCAN) is None
    controller.start(*SCAN)
    logic.runs[0].next_steps = [logic.runs[0].finish]
    time.sleep(0.05)
    controller.poll()
    assert 0.05 < controller.estimate(*SCAN) < 5
    assert controller.estimate(*SCAN, number=8) is None
    again = RunController(logic, lambda: None, lambda node: None, Durations(kept[-1]))
    assert again.estimate(*SCAN) == controller.estimate(*SCAN)


def test_samples_of_the_same_volume_again_have_a_time_of_their_own(controller, logic):
    for _ in range(2):  # the second takes the features of the first
        controller.start(*SCAN, number=8)
        logic.runs[-1].next_steps = [logic.runs[-1].finish]
        time.sleep(0.05 if len(logic.runs) == 1 else 0)
        controller.poll()
    assert controller.estimate(*SCAN, number=8) < 0.05
    controller.start(*SCAN)
    logic.runs[-1].next_steps = [logic.runs[-1].finish]
    controller.poll()
    assert controller.estimate(*SCAN, number=8) > 0.05


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": "b"}', None])
def test_durations_that_cannot_be_read_count_as_none(text):
    assert Durations(text).estimate("a", 10) is None


@pytest.mark.parametrize("running", [True, False])
def test_error_of_the_run_after_an_abandoned_one_is_said(controller, logic, running):
    if running:
        controller.start(*SCAN)
        controller.abandon()
        logic.runs[-1].next_steps = [lambda: logic.runs[-1].fail(Cancelled())]
        controller.poll()
    else:
        controller.abandon()
    controller.start(*SCAN)
    logic.runs[-1].next_steps = [lambda: logic.runs[-1].fail(InputError("Too small."))]
    controller.poll()
    assert "Too small." in controller.outcome.text
