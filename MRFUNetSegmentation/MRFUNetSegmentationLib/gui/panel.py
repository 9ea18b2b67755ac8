"""The panel: shows what the modules without Qt say, and passes the user's actions on to them."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer

from ..errors import MRFUNetError
from ..inference.sampled import CONSENSUS_METHODS
from ..mrml.hiding import show_hidden
from ..mrml.results import overlays_of, samples_of, show_instead
from ..mrml.segmentations import MODEL, SHA256, read_provenance, reference_volume
from ..mrml.side_by_side import leave_layout
from .checkpoint_import import card_beside
from .device_list import device_entries, gpu_remark
from .durations import Durations
from .i18n import _
from .model_folder import ModelFolder
from .panel_state import Message, PanelState, Situation, error_message, panel_state
from .preselection import fits, only_result, only_volume
from .run_controller import Logic, RunController
from .sections.explore import ExploreSection
from .sections.export import ExportSection
from .sections.input import InputSection
from .sections.model import ModelSection
from .sections.results import ResultsSection
from .sections.samples import SamplesSection
from .sections.uncertainty import UncertaintySection
from .sections.widgets import Choice
from .torch_installation import ensure_installed

_POLL_MILLISECONDS = 50
# While a latent slider moves, what it shows is to follow at once.
_EXPLORE_MILLISECONDS = 10
# Both are readable: the first on a light background, the second on a dark one.
_ERROR_COLORS = "#b3261e", "#ff9b94"
_DURATIONS = "MRFUNetSegmentation/Durations"
# The map that an MRF-UNet adds.
_MAP = "entropy"


class Panel:
    """Joins the widgets, the parameter node and the current run.

    A run goes on while the panel is not visible; its result then still goes into the scene.
    """

    def __init__(self, ui, logic: Logic) -> None:
        """Take over the widgets.

        Args:
            ui: the widgets of the .ui file, by name.
            logic: the module's logic.
        """
        self.ui = ui
        self._parameters = None
        self._visible = False
        self._choices: tuple = ()
        self._message = Message("")
        self._controller = RunController(
            logic, ensure_installed, self._take_result, _durations(), self._show_state
        )
        self._input = InputSection(ui, self._schedule_refresh)
        self._model_folder = _model_folder()
        self._model_section = ModelSection(
            ui, self._model_folder, self._choose_model, self._import_checkpoint
        )
        self._devices = Choice(ui.deviceSelector, self._choose_device)
        self._consensus = Choice(ui.consensusSelector, self._choose_consensus)
        self._results = ResultsSection(ui, self._schedule_refresh)
        self._samples = SamplesSection(
            ui, self._say, self._schedule_refresh, lambda: self._explore.close()
        )
        self._uncertainty = UncertaintySection(ui, self._schedule_refresh)
        self._explore = ExploreSection(
            ui, logic, self._say, self._wake, self._samples.end_comparison
        )
        self._export = ExportSection(ui, self._say, self._schedule_refresh)
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._poll)
        # Nodes tell of each of many changes; one look at the end is enough.
        self._refresh_timer = qt.QTimer()
        self._refresh_timer.setSingleShot(True)
        self._refresh_timer.setInterval(0)
        self._refresh_timer.connect("timeout()", self.refresh)
        ui.applyButton.connect("clicked()", self._apply_or_cancel)
        ui.copyMessageButton.connect("clicked()", self._copy_message)
        ui.takeBackButton.connect("clicked()", self._take_back)

    def set_parameters(self, parameters) -> None:
        """Show the choices of another parameter node, or of none."""
        self._parameters = parameters
        self._visible = parameters is not None
        if parameters is None:
            self._choices = ()
        else:
            # A scene may have been saved while these were in use.
            show_hidden(slicer.mrmlScene)
            leave_layout(slicer.mrmlScene)
        self.refresh()
        self.follow_scene()

    def follow_scene(self) -> None:
        """Choose the volume if none is chosen and it is clear which one is meant; show the state.

        It is called whenever a node comes or goes, so it is fast.
        """
        if self._parameters and not self._parameters.inputVolume:
            volume = only_volume(slicer.mrmlScene)
            if volume:
                self._parameters.inputVolume = volume
                if not self._parameters.outputSegmentation:
                    of_sequence = self._input.sequence is not None
                    self._choose_result(only_result(volume, of_sequence=of_sequence))
        self._show_state()
        self._schedule_refresh()

    def _choose_result(self, segmentation_node) -> None:
        """Choose a result to be shown, and its model: the next run may take its place."""
        provenance = read_provenance(segmentation_node) if segmentation_node else {}
        made_by, sha256 = provenance.get(MODEL), provenance.get(SHA256)
        model = self._model_section.model_of(made_by, sha256) if made_by else ""
        if model:
            self._parameters.model = model
            self._parameters.outputSegmentation = segmentation_node

    def refresh(self) -> None:
        """Show the choices and the state as they are now."""
        if self._parameters:
            chosen = self._model_section.chosen
            # A file that could not be read may be there again.
            if self._parameters.model != chosen.model or chosen.problem:
                self._model_section.show(self._parameters.model)
        self._input.show(self._parameters, self._model_section.chosen)
        if self._parameters:
            self._compare_choices()
            self._show_options()
        self._show_results()
        self._show_state()

    def forget_scene(self) -> None:
        """End what belongs to a scene that is about to close."""
        self._controller.abandon()
        self._export.cancel()
        self.leave()
        self.set_parameters(None)

    def leave(self) -> None:
        """Stop to follow the nodes, while the panel is not visible."""
        self._input.leave()
        self._visible = False
        self._explore.close()
        self._samples.close()
        for section in (self._results, self._uncertainty):
            section.leave()
        self._refresh_timer.stop()

    def close(self) -> None:
        """End everything: the run, the worker, the timers."""
        self._timer.stop()
        self._export.cancel()
        self.leave()
        self._controller.close()

    def _choose_model(self, model: str) -> None:
        self._parameters.model = model
        self.refresh()

    def _import_checkpoint(self, path: Path) -> None:
        try:
            card = card_beside(path)
        except MRFUNetError as error:
            self._say(error_message(error))
            return
        self._explore.close()
        target = self._model_folder.place_for(path)
        self._controller.import_checkpoint(path, card, target, self._choose_model)
        self._wake()
        self._show_state()

    def _choose_device(self, device: str) -> None:
        self._parameters.device = device
        self.refresh()

    def _choose_consensus(self, consensus: str) -> None:
        self._parameters.consensus = consensus

    def _compare_choices(self) -> None:
        """Drop what belongs to choices that have changed since the last time."""
        parameters = self._parameters
        volume, output = parameters.inputVolume, parameters.outputSegmentation
        model = self._model_section
        # The file of a model may have been replaced by that of another network.
        of_what = volume, self._input.sequence, self._input.item, parameters.model, model.sha256
        choices = (of_what, parameters.device, parameters.replaceNonFinite)
        before, self._choices = self._choices, choices
        if choices == before:
            return
        if before and not self._controller.running:
            self._controller.outcome = None
        # In a scene that was loaded, too: since the last look at it the browser may have stepped,
        # or the model have been replaced by a newer one. One that is missing overwrites nothing.
        made_here = output is not None and MODEL in read_provenance(output)
        may_overwrite = of_what != before[0] if before else made_here and model.sha256 is not None
        if not volume or not may_overwrite:
            return
        # The next result must not overwrite that of something else.
        which = model.chosen.name, model.sha256, self._input.sequence is not None
        if not (output and fits(output, volume, *which)):
            result = only_result(volume, *which)
            is_of_volume = output and reference_volume(output) is volume
            show_instead(result, output if is_of_volume else None)
            parameters.outputSegmentation = result

    def _apply_or_cancel(self) -> None:
        if self._controller.running:
            self._controller.cancel()
            self._show_state()
            return
        parameters = self._parameters
        self._explore.close()
        self._samples.end_comparison()
        self._compare_choices()
        if self._number:
            options = {"seed": parameters.seed, "consensus": parameters.consensus}
        else:
            options = {"maps": self._maps}
        if self._input.sequence:
            options["shownBy"] = parameters.inputVolume
        self._controller.start(
            self._input.sequence or parameters.inputVolume,
            parameters.model,
            parameters.device,
            self._number,
            outputNode=parameters.outputSegmentation,
            replaceNonFinite=parameters.replaceNonFinite,
            **options,
        )
        # Not before: an installation may take minutes, in which there is nothing to poll.
        self._wake()
        self._show_state()

    @property
    def _draws(self) -> bool:
        """Whether a run draws samples."""
        return self._model_section.chosen.samples and self._input.sequence is None

    @property
    def _can_map(self) -> bool:
        """Whether a run can add a map of uncertainty."""
        return not self._model_section.chosen.samples and self._input.sequence is None

    @property
    def _maps(self) -> tuple[str, ...]:
        """Maps of uncertainty that a run adds."""
        return (_MAP,) if self._can_map and self._parameters.mapUncertainty else ()

    @property
    def _number(self) -> int:
        """How many samples a run draws; 0 for one segmentation."""
        return self._parameters.samples if self._draws else 0

    def _wake(self) -> None:
        exploring = self._explore.explorer is not None
        self._timer.setInterval(_EXPLORE_MILLISECONDS if exploring else _POLL_MILLISECONDS)
        self._timer.start()

    def _poll(self) -> None:
        if self._explore.explorer is not None and self._explore.explorer.busy:
            self._explore.poll()
        if self._controller.active:
            self._poll_run()
        explorer = self._explore.explorer
        if not self._controller.active and not (explorer and explorer.busy):
            self._timer.stop()

    def _poll_run(self) -> None:
        if self._export.asks:
            return  # what the user is about to export must not be replaced meanwhile
        devices = self._controller.devices
        self._controller.poll()
        if self._parameters and self._controller.devices is not devices:
            self._show_options()
        self._show_state()

    def _take_result(self, segmentation_node) -> None:
        if self._parameters:
            self._parameters.outputSegmentation = segmentation_node
        self._schedule_refresh()

    def _take_back(self) -> None:
        # They may show what goes.
        self._explore.close()
        self._samples.end_comparison()
        try:
            self._controller.take_back()
        except MRFUNetError as error:
            self._controller.outcome = error_message(error)
        # What was hidden for a comparison during the run was remembered so.
        show_hidden(slicer.mrmlScene)
        self._show_results()
        self._show_state()

    def _say(self, message: Message) -> None:
        self._controller.outcome = message
        self._show_state()

    def _show_options(self) -> None:
        ui, parameters = self.ui, self._parameters
        devices = self._controller.devices
        self._devices.show(device_entries(parameters.device, devices), parameters.device)
        remark = gpu_remark(devices)
        ui.deviceDescription.setText(remark)
        ui.deviceDescription.setVisible(bool(remark))
        labels = dict(zip(CONSENSUS_METHODS, (_("Mean"), _("Majority"), _("STAPLE")), strict=True))
        self._consensus.show(list(labels.items()), parameters.consensus)
        for widget in (
            ui.samplesLabel,
            ui.samplesSpinBox,
            ui.seedLabel,
            ui.seedSpinBox,
            ui.consensusLabel,
            ui.consensusSelector,
        ):
            widget.setVisible(self._draws)
        ui.mapUncertaintyCheckBox.setVisible(self._can_map)

    def _schedule_refresh(self) -> None:
        if self._visible:
            self._refresh_timer.start()

    def _show_results(self) -> None:
        """Show what the scene holds of the segmentation that is chosen as output."""
        if not self._visible and self._parameters is not None:
            return
        parameters, last = self._parameters, self._controller.last
        node = parameters.outputSegmentation if parameters else None
        # Without a scene it has been removed.
        if node is not None and node.GetScene() is None:
            node = None
        samples = samples_of(node) if node else None
        self._results.show(node, samples)
        overlays = overlays_of(node, samples) if node else {}
        self._uncertainty.show(node, overlays, samples is not None)
        explorable = samples is not None and _has_made(last, samples)
        self._explore.show(last if explorable else None)
        self._samples.show(samples, self._explore.explorer is not None)
        self._export.show(parameters, node, samples)
        can_take_back = last is not None and last.outputNode is node and last.can_take_back
        self.ui.takeBackButton.setVisible(can_take_back)

    def _show_state(self) -> None:
        controller, parameters = self._controller, self._parameters
        volume = parameters.inputVolume if parameters else None
        estimate = None
        if volume is not None and not controller.running:
            estimate = controller.estimate(
                self._input.sequence or volume,
                parameters.model,
                parameters.device,
                self._number,
                len(self._maps),
            )
        self._show(
            panel_state(
                Situation(
                    has_volume=volume is not None,
                    model_problem=self._model_section.chosen.problem,
                    progress=controller.progress,
                    worker_busy=controller.worker_busy,
                    outcome=controller.outcome,
                    estimate=estimate,
                )
            )
        )

    def _show(self, state: PanelState) -> None:
        ui = self.ui
        for section in (ui.inputSection, ui.modelSection, ui.optionsSection, ui.exploreSection):
            section.setEnabled(state.choices_enabled)
        ui.applyButton.setText(state.button_text)
        ui.applyButton.setEnabled(state.button_enabled)
        ui.applyButton.setToolTip(state.button_tool_tip)
        ui.progressBar.setVisible(state.percent is not None)
        ui.progressBar.setValue(state.percent or 0)
        ui.progressBar.setFormat(state.progress_text)
        if state.message != self._message:
            self._show_message(state.message)

    def _show_message(self, message: Message) -> None:
        self._message = message
        label = self.ui.messageLabel
        label.setText(message.text)
        label.setToolTip(message.details)
        label.setStyleSheet(f"color: {_error_color()}" if message.is_error else "")
        self.ui.copyMessageButton.setVisible(bool(message.details) or message.is_error)

    def _copy_message(self) -> None:
        message = self._message
        text = "\n".join(part for part in (message.text, message.details) if part)
        qt.QApplication.clipboard().setText(text)


def _has_made(run, samples) -> bool:
    """Return whether a run has made these samples, and not one of an earlier session."""
    made = getattr(run, "samples", None)
    return made is not None and made.browser is samples.browser


def _durations() -> Durations:
    """Return how long earlier runs took, as the application's settings keep it."""
    if not hasattr(slicer, "app"):
        return Durations()
    settings = slicer.app.userSettings()
    return Durations(
        settings.value(_DURATIONS, ""), lambda text: settings.setValue(_DURATIONS, text)
    )


def _model_folder() -> ModelFolder:
    """Return the folder of imported models, which is the user's and outlives a reinstallation."""
    data = qt.QStandardPaths.writableLocation(qt.QStandardPaths.AppDataLocation)
    return ModelFolder(Path(data) / "MRFUNetSegmentation" / "Models")


def _error_color() -> str:
    is_dark = qt.QApplication.palette().color(qt.QPalette.Window).lightness() < 128
    return _ERROR_COLORS[is_dark]
