"""What the samples of a Probabilistic U-Net say together; tensors in, tensors out."""

from .sampling import SampleStatistics, sample_statistics

__all__ = ["SampleStatistics", "sample_statistics"]
