"""Module "MRF-UNet Segmentation" of 3D Slicer: what it does is in MRFUNetSegmentationLib."""

# Slicer dictates the names.
# ruff: noqa: N802, N803, N806

import sys

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# Reloading the module is to reload its library as well. The library is imported inside functions,
# so that Slicer starts without it.
for _name in [name for name in sys.modules if name.split(".")[0] == "MRFUNetSegmentationLib"]:
    del sys.modules[_name]


class MRFUNetSegmentation(ScriptedLoadableModule):
    """What Slicer's module list shows."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("MRF-UNet Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.contributors = ["the MRFUNetSegmentation contributors"]
        self.parent.helpText = _(
            "Segments brain MRI with neural networks, on this computer, and shows how far to trust "
            "the result: load a scan, select it as volume and press Apply. For research; not for "
            "diagnosis or treatment."
        )
        self.parent.acknowledgementText = _(
            "The networks follow M. Brudfors, Y. Balbastre, J. Ashburner, G. Rees, P. Nachev, "
            "S. Ourselin and M. J. Cardoso: An MRF-UNet Product of Experts for Image "
            "Segmentation, Medical Imaging with Deep Learning, 2021; and S. Kohl et al.: A "
            "Probabilistic U-Net for Segmentation of Ambiguous Images, NeurIPS 2018."
        )
        # The Sample Data module may come after this one.
        slicer.app.connect("startupCompleted()", self._registerSampleData)

    def _registerSampleData(self):
        from MRFUNetSegmentationLib.gui.sample_data import register_sample_data

        register_sample_data(self.resourcePath(f"Icons/{self.__class__.__name__}.png"))


class MRFUNetSegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Ties the panel to the module's life in the application."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self._parameterNode = None
        self._guiTag = None

    def setup(self):
        """Make the panel, when the module is opened for the first time or reloaded."""
        from MRFUNetSegmentationLib.gui.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/MRFUNetSegmentation.ui"))
        self.layout.addWidget(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self.logic = MRFUNetSegmentationLogic()
        self.panel = Panel(self.ui, self.logic)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.EndBatchProcessEvent, self.onNodesChanged)
        self.addObserver(scene, scene.NodeAddedEvent, self.onNodesChanged)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodesChanged)
        self.enter()

    def cleanup(self):
        """End everything that runs, when the application closes or the module is reloaded."""
        if self.panel:
            self._setParameterNode(None)
            self.panel.close()
        self.removeObservers()

    def enter(self):
        """Show the choices of the scene's parameter node."""
        if self.panel:
            self._setParameterNode(self.logic.getParameterNode())

    def exit(self):
        """Stop to follow the widgets and the nodes; a run goes on."""
        self._disconnectGui()
        self.panel.leave()

    def onSceneStartClose(self, caller=None, event=None):
        """Let go of a scene that is about to close."""
        self._setParameterNode(None)
        self.panel.forget_scene()

    def onSceneEndClose(self, caller=None, event=None):
        """Start anew in the empty scene, if the panel is visible."""
        if self.parent.isEntered:
            self.enter()

    def onSceneEndImport(self, caller=None, event=None):
        """Connect again after a scene was loaded: during that the node lists do not follow."""
        if self.parent.isEntered:
            self.enter()

    def onNodesChanged(self, caller=None, event=None):
        """Choose a volume that has been loaded, and notice that one has been removed."""
        if self.parent.isEntered and not slicer.mrmlScene.IsBatchProcessing():
            self.panel.follow_scene()

    def onParametersChanged(self, caller=None, event=None):
        """Show choices that were made here, in a script or by loading a scene."""
        self.panel.refresh()

    def _setParameterNode(self, parameterNode):
        if self._parameterNode:
            self._disconnectGui()
            self.removeObserver(
                self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged
            )
        self._parameterNode = parameterNode
        if parameterNode:
            self._guiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.panel.set_parameters(parameterNode)

    def _disconnectGui(self):
        if self._parameterNode and self._guiTag is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self._guiTag = None


class MRFUNetSegmentationLogic(ScriptedLoadableModuleLogic):
    """What scripts call, and the panel. The process that computes lives as long as the logic."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from MRFUNetSegmentationLib.logic import SegmentationLogic

        self._logic = SegmentationLogic()

    @property
    def worker(self):
        """The process that computes; it starts with the first run."""
        return self._logic.worker

    def getParameterNode(self):
        """Return the panel's choices in this scene."""
        from MRFUNetSegmentationLib.gui.parameter_node import MRFUNetSegmentationParameterNode

        return MRFUNetSegmentationParameterNode(super().getParameterNode())

    def segment(
        self,
        volumeNode,
        model="brain-tissue",
        device="auto",
        outputNode=None,
        waitForCompletion=True,
        **options,
    ):
        """Segment a volume, or every volume of a sequence; shows no dialog.

        Args:
            volumeNode: a scalar volume node, or a sequence node of such.
            model: name of a bundled model, or path of a checkpoint.
            device: auto, cpu, cuda, cuda:N or mps.
            outputNode: segmentation node to write to; a new one if None.
            waitForCompletion: if not, return at once; then poll the run that is returned.
            options: see `MRFUNetSegmentationLib.logic.SegmentationLogic.segment`.

        Returns:
            The segmentation node, or the run if `waitForCompletion` is False.

        Raises:
            MRFUNetError: if it fails; the scene is then as it was.
        """
        from MRFUNetSegmentationLib.gui.torch_installation import require_installed

        require_installed()
        return self._logic.segment(
            volumeNode, model, device, outputNode, waitForCompletion, **options
        )

    def sample(self, volumeNode, model, number=32, seed=0, **options):
        """Draw plausible segmentations of a volume with a Probabilistic U-Net; shows no dialog.

        Args:
            volumeNode: a scalar volume node.
            model: name of a bundled model, or path of a checkpoint.
            number: of samples, 1 to 1000.
            seed: the same one gives the same samples.
            options: see `MRFUNetSegmentationLib.logic.SegmentationLogic.sample`.

        Returns:
            The nodes, as `MRFUNetSegmentationLib.mrml.samples.SampleSet`; or the run if the option
            `waitForCompletion` is False.

        Raises:
            MRFUNetError: if it fails; the scene is then as it was.
        """
        from MRFUNetSegmentationLib.gui.torch_installation import require_installed

        require_installed()
        return self._logic.sample(volumeNode, model, number, seed, **options)

    def explore(self, run):
        """Return sliders through the latent space of a sampling run, shown in the slice views."""
        return self._logic.explore(run)

    def cleanup(self):
        """End the process that computes."""
        self._logic.cleanup()


class MRFUNetSegmentationTest(ScriptedLoadableModuleTest):
    """The self-test that Slicer's Self Tests module and the extension's build run."""

    def runTest(self):
        """Segment a made-up head, if everything needed is installed; never installs anything."""
        import numpy as np
        from MRFUNetSegmentationLib.errors import MRFUNetError
        from MRFUNetSegmentationLib.gui.torch_installation import InstallationError

        slicer.mrmlScene.Clear()
        radius = np.sqrt(sum(x**2 for x in np.mgrid[-1:1:48j, -1:1:48j, -1:1:48j]))
        head = 100 * (radius < 0.9) + 50 * (radius < 0.6)
        volumeNode = slicer.util.addVolumeFromArray(head.astype("int16"))
        volumeNode.SetSpacing(4, 4, 4)
        logic = MRFUNetSegmentationLogic()
        try:
            self.assertRaises(MRFUNetError, logic.segment, None)
            segmentationNode = logic.segment(volumeNode, device="cpu")
            self.assertGreater(segmentationNode.GetSegmentation().GetNumberOfSegments(), 1)
            self.delayDisplay("Test passed")
        except InstallationError as error:
            self.delayDisplay(f"Nothing was segmented: {error}")
        finally:
            logic.cleanup()
