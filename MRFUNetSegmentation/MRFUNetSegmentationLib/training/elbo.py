"""Objectives of the Probabilistic U-Net: the evidence lower bound, and its constrained form.

Kohl et al., NeurIPS 2018 (arXiv 1806.05034), equation 4; Rezende and Viola: "Taming VAEs", 2018
(arXiv 1810.00597), algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional

from ..networks import ProbabilisticUNet


@dataclass(frozen=True)
class ElboTerms:
    """The two terms of the negative evidence lower bound, nats for an image, mean over the batch.

    Attributes:
        reconstruction: cross-entropy summed over the image, of one sample of the posterior.
        kl: KL(q || p) from the prior to the posterior, in closed form.
    """

    reconstruction: Tensor
    kl: Tensor

    def loss(self, beta: float) -> Tensor:
        """Return reconstruction + beta KL, to be minimised."""
        return self.reconstruction + beta * self.kl


def elbo_terms(
    network: ProbabilisticUNet,
    image: Tensor,
    labels: Tensor,
    epsilon: Tensor | None = None,
    prior_share: float = 0.0,
) -> ElboTerms:
    """Compute the terms of the evidence lower bound.

    Both are means over images and raters, so that beta means the same for every size of the batch.
    With an MRF the reconstruction is that of the responsibilities after the mean field.

    Args:
        network: in training mode or not.
        image: (B, C, *spatial).
        labels: (B * R, *spatial), integers 0 .. K - 1: by R raters of the first image, then of the
            next.
        epsilon: (B * R, latent), the posterior's samples in units of its standard deviation; drawn
            from torch's default generator if None.
        prior_share: weight, 0..1, of the cross-entropy of a sample of the prior in that of the
            reconstruction: the hybrid objective of Sohn et al., NeurIPS 2015, section 4.2. It
            trains for what is done at inference, where nobody's labels are known.
    """
    raters = len(labels) // len(image)
    projected = network.project(network.features(image))
    prior = _repeated(_exact(network.prior(image)), raters)
    image, projected = (x.repeat_interleave(raters, 0) for x in (image, projected))
    posterior = _exact(network.posterior(image, labels, projected))
    if epsilon is None:
        epsilon = torch.randn_like(posterior.mean)
    # The reparametrisation: gradients reach the posterior through mean and deviation.
    z = posterior.mean + posterior.stddev * epsilon
    reconstruction = _cross_entropy(network, network.decode(projected, z), labels)
    if prior_share:
        z = prior.mean + prior.stddev * torch.randn_like(prior.mean)
        sampled = _cross_entropy(network, network.decode(projected, z), labels)
        reconstruction = torch.lerp(reconstruction, sampled, prior_share)
    return ElboTerms(reconstruction, kl_divergence(posterior, prior).mean())


def terms_without_latent(network: ProbabilisticUNet, image: Tensor, labels: Tensor) -> ElboTerms:
    """Compute the cross-entropy of the latent 0, which is that of the U-Net on its own; KL is 0.

    Args:
        network: in training mode or not.
        image: (B, C, *spatial).
        labels: (B * R, *spatial), as of `elbo_terms`.
    """
    z = image.new_zeros(len(image), network.config.latent)
    logits = network.decode(network.project(network.features(image)), z)
    reconstruction = _cross_entropy(network, logits, labels)
    # Processes that share gradients wait for those of every weight.
    unused = (w.sum() for w in network.parameters() if w.requires_grad)
    return ElboTerms(reconstruction, 0 * sum(unused, start=reconstruction.new_zeros(())))


def _cross_entropy(network: ProbabilisticUNet, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each image's raters, summed over an image."""
    if network.mrf is None:
        log_posterior = network.log_likelihood(_exact(logits))
    else:
        log_posterior = _exact(network.log_posterior(logits))
    log_posterior = log_posterior.repeat_interleave(len(labels) // len(logits), 0)
    entropy = functional.nll_loss(log_posterior, labels.long(), reduction="none")
    return entropy.flatten(1).sum(1).mean()


def kl_by_dimension(network: ProbabilisticUNet, image: Tensor, raters: Sequence[Tensor]) -> Tensor:
    """Return KL(q || p) of each latent dimension, (latent,) nats, mean over batch and raters.

    Dimensions near 0 are not used: where all are, the latent space has collapsed.

    Args:
        network: the network.
        image: (B, C, *spatial).
        raters: labels (B, *spatial) by each of them.
    """
    prior = _exact(network.prior(image)).base_dist
    projected = network.project(network.features(image))
    posteriors = (_exact(network.posterior(image, labels, projected)) for labels in raters)
    return torch.stack([kl_divergence(q.base_dist, prior).mean(0) for q in posteriors]).mean(0)


def _repeated(gaussian: Independent, number: int) -> Independent:
    """Return each Gaussian of a batch several times, one after the other."""
    mean, stddev = (x.repeat_interleave(number, 0) for x in (gaussian.mean, gaussian.stddev))
    return Independent(Normal(mean, stddev, validate_args=False), 1)


def _exact(value: Tensor | Independent) -> Tensor | Independent:
    """Return bfloat16 numbers, or a Gaussian of such, as float32: sums need its precision."""
    if isinstance(value, Independent):
        return Independent(Normal(_exact(value.mean), _exact(value.stddev), validate_args=False), 1)
    return value.float() if value.dtype == torch.bfloat16 else value


class Geco:
    """Minimises the KL term under the constraint reconstruction <= target, instead of a beta.

    The Lagrange multiplier of the constraint grows while the moving average of
    (reconstruction - target) is above 0, and shrinks below.

    Args:
        target: of the reconstruction term, nats for an image.
        decay: of the moving average, in [0, 1).
        rate: change of the multiplier's logarithm for each unit of the violation relative to the
            target, and step.
        bounds: of the multiplier.
    """

    def __init__(
        self,
        target: float,
        decay: float = 0.99,
        rate: float = 0.1,
        bounds: tuple[float, float] = (1e-6, 1e6),
    ) -> None:
        if target <= 0 or not 0 <= decay < 1 or rate <= 0 or not 0 < bounds[0] < bounds[1]:
            raise ValueError(
                f"expected target > 0, 0 <= decay < 1, rate > 0 and 0 < bounds in order, "
                f"got {target}, {decay}, {rate}, {bounds}"
            )
        self.target = target
        self.decay = decay
        self.rate = rate
        self.bounds = bounds
        self.multiplier = 1.0
        self.violation: float | None = None

    def loss(self, terms: ElboTerms, observed: float | None = None) -> Tensor:
        """Return the Lagrangian, to be minimised, and take a step of the multiplier.

        Args:
            terms: of this process's images.
            observed: the reconstruction term averaged over all processes, so that their
                multipliers stay the same; None where there is one process.
        """
        constraint = terms.reconstruction - self.target
        now = float(constraint.detach()) if observed is None else observed - self.target
        average = now if self.violation is None else self.violation
        self.violation = self.decay * average + (1 - self.decay) * now
        # The value of the moving average with the gradient of this step.
        smooth = constraint + (self.violation - now)
        loss = terms.kl + self.multiplier * smooth
        step = self.rate * max(-1.0, min(1.0, self.violation / self.target))
        low, high = self.bounds
        self.multiplier = min(high, max(low, self.multiplier * math.exp(step)))
        return loss

    def state_dict(self) -> dict[str, float | None]:
        """Return what a resumed run needs."""
        return {"multiplier": self.multiplier, "violation": self.violation}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from where `state_dict` was taken."""
        self.multiplier, self.violation = state["multiplier"], state["violation"]
