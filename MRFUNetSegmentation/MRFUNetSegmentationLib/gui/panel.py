"""The panel: shows what the modules without Qt say, and passes the user's actions on to them."""

from __future__ import annotations

import qt
import slicer

from .device_list import device_entries, gpu_remark
from .model_section import ModelSection
from .panel_state import Message, PanelState, Situation, panel_state
from .preselection import belongs_to_other_volume, only_volume
from .run_controller import Logic, RunController
from .torch_installation import ensure_installed

_POLL_MILLISECONDS = 50
# Both are readable: the first on a light background, the second on a dark one.
_ERROR_COLORS = "#b3261e", "#ff9b94"


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
        self._choices: tuple = ()
        self._devices: list[str] = []
        self._message = Message("")
        self._controller = RunController(logic, ensure_installed, self._take_result)
        self._model_section = ModelSection(ui, self._choose_model)
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MILLISECONDS)
        self._timer.connect("timeout()", self._poll)
        ui.deviceSelector.connect("activated(int)", self._choose_device)
        ui.applyButton.connect("clicked()", self._apply_or_cancel)
        ui.copyMessageButton.connect("clicked()", self._copy_message)

    def set_parameters(self, parameters) -> None:
        """Show the choices of another parameter node, or of none."""
        self._parameters = parameters
        self._choices = ()
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
        self._show_state()

    def refresh(self) -> None:
        """Show the choices and the state as they are now."""
        if self._parameters:
            self._compare_choices()
            self._model_section.show(self._parameters.model)
            self._show_devices()
        self._show_state()

    def cancel(self) -> None:
        """Ask the current run to end."""
        self._controller.cancel()
        self._show_state()

    def close(self) -> None:
        """End everything: the run, the worker, the timer."""
        self._timer.stop()
        self._controller.close()

    def _choose_model(self, model: str) -> None:
        self._parameters.model = model
        self.refresh()

    def _choose_device(self, index: int) -> None:
        self._parameters.device = self._devices[index]
        self.refresh()

    def _compare_choices(self) -> None:
        """Drop what belongs to choices that have changed since the last time."""
        parameters = self._parameters
        volume, output = parameters.inputVolume, parameters.outputSegmentation
        choices = (volume, parameters.model, parameters.device, parameters.replaceNonFinite)
        before, self._choices = self._choices, choices
        if not before or choices == before:
            return
        if not self._controller.running:
            self._controller.outcome = None
        # The next result must not overwrite the segmentation of the volume before.
        if volume and volume is not before[0] and output:
            if belongs_to_other_volume(output, volume):
                parameters.outputSegmentation = None

    def _apply_or_cancel(self) -> None:
        if self._controller.running:
            self.cancel()
            return
        parameters = self._parameters
        self._timer.start()
        self._controller.start(
            parameters.inputVolume,
            model=parameters.model,
            device=parameters.device,
            outputNode=parameters.outputSegmentation,
            replaceNonFinite=parameters.replaceNonFinite,
        )
        self._show_state()

    def _poll(self) -> None:
        devices = self._controller.devices
        self._controller.poll()
        if not self._controller.active:
            self._timer.stop()
        if self._parameters and self._controller.devices is not devices:
            self._show_devices()
        self._show_state()

    def _take_result(self, segmentation_node) -> None:
        if self._parameters:
            self._parameters.outputSegmentation = segmentation_node

    def _show_devices(self) -> None:
        entries = device_entries(self._parameters.device, self._controller.devices)
        self._devices = [device for device, _label in entries]
        selector = self.ui.deviceSelector
        selector.clear()
        for _device, label in entries:
            selector.addItem(label)
        selector.setCurrentIndex(self._devices.index(self._parameters.device))
        remark = gpu_remark(self._controller.devices)
        self.ui.deviceDescription.setText(remark)
        self.ui.deviceDescription.setVisible(bool(remark))

    def _show_state(self) -> None:
        controller, parameters = self._controller, self._parameters
        self._show(
            panel_state(
                Situation(
                    has_volume=parameters is not None and parameters.inputVolume is not None,
                    model_problem=self._model_section.problem,
                    progress=controller.progress,
                    worker_busy=controller.worker_busy,
                    outcome=controller.outcome,
                )
            )
        )

    def _show(self, state: PanelState) -> None:
        ui = self.ui
        for section in (ui.inputSection, ui.modelSection, ui.optionsSection):
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
        self.ui.copyMessageButton.setVisible(message.is_error)

    def _copy_message(self) -> None:
        message = self._message
        text = "\n".join(part for part in (message.text, message.details) if part)
        qt.QApplication.clipboard().setText(text)


def _error_color() -> str:
    is_dark = qt.QApplication.palette().color(qt.QPalette.Window).lightness() < 128
    return _ERROR_COLORS[is_dark]
