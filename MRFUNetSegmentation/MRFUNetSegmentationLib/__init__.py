"""Brain MRI segmentation with MRF-UNet and Probabilistic U-Net: one package for 3D Slicer,
Python and the command line. Importing it imports neither torch nor Slicer."""

__version__ = "0.1.0"
