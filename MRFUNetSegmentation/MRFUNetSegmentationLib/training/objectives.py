"""What is minimised: for networks that give one segmentation, and for those that sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks import MRFUNet, ProbabilisticUNet
from .config import ElboConfig, Stage, TrainingConfig
from .elbo import ElboTerms, Geco, elbo_terms, terms_without_latent

Terms = dict[str, Tensor]


class Objective(nn.Module):
    """Terms of a network on a batch, and how they make the loss.

    Args:
        network: what is trained.
        mixed: whether it computes in bfloat16 where that is safe.
    """

    def __init__(self, network: nn.Module, mixed: bool) -> None:
        super().__init__()
        self.network = network
        self.mixed = mixed

    def begin_stage(self, stage: Stage) -> None:
        """Be told the stage of the next batches."""

    def loss(self, terms: Terms, observed: Terms, step: int, voxels: int) -> Tensor:
        """Return what is minimised.

        Args:
            terms: of this process's images, by `forward`; gradients flow through them.
            observed: the same, averaged over all processes, without gradients.
            step: of the run.
            voxels: of an image.
        """
        raise NotImplementedError

    def balance_state(self) -> dict:
        """Return what a resumed run needs beside weights and settings."""
        return {}

    def load_balance_state(self, state: dict) -> None:
        """Go on from where `balance_state` was taken."""

    def _autocast(self, image: Tensor) -> torch.autocast:
        # Fabric's own mixed precision would round the image itself to the 8 bits of bfloat16.
        # No cache of rounded weights: up to torch 2.9 one that is filled without gradients (see
        # `ProbabilisticUNet.posterior`) takes them from all later uses (PyTorch's issue 158232).
        return torch.autocast(
            image.device.type, torch.bfloat16, enabled=self.mixed, cache_enabled=False
        )


class LikelihoodObjective(Objective):
    """Negative log-likelihood of the labels under the posterior, and soft Dice loss if wanted.

    With an MRF the likelihood is that of the responsibilities after the mean field, as Brudfors et
    al. train (MIDL 2021).

    Args:
        network: an MRF-UNet, or a U-Net on its own.
        mixed: as of `Objective`.
        dice_weight: weight of the soft Dice loss.
    """

    def __init__(self, network: MRFUNet, mixed: bool, dice_weight: float) -> None:
        super().__init__(network, mixed)
        self.dice_weight = dice_weight

    def forward(self, image: Tensor, labels: Tensor) -> Terms:
        """Return the terms of images (B, C, *spatial) and labels (B * R, *spatial), int64.

        Args:
            image: the images.
            labels: by R raters of the first image, then of the next; R is 1 where there are none.
        """
        with self._autocast(image):
            log_posterior = self.network.log_posterior(self.network.logits(image))
        log_posterior = log_posterior.float().repeat_interleave(len(labels) // len(image), 0)
        terms = {"likelihood": functional.nll_loss(log_posterior, labels)}
        if self.dice_weight:
            terms["dice"] = soft_dice_loss(log_posterior.exp(), labels)
        return terms

    def loss(self, terms: Terms, observed: Terms, step: int, voxels: int) -> Tensor:
        """Return what is minimised; see `Objective.loss`."""
        loss = terms["likelihood"]
        return loss + self.dice_weight * terms["dice"] if self.dice_weight else loss


class ElboObjective(Objective):
    """Negative evidence lower bound of a Probabilistic U-Net, nats for an image.

    Args:
        network: the network.
        mixed: as of `Objective`.
        balance: of the two terms.
        begins: step at which the latent first takes part.
    """

    def __init__(
        self, network: ProbabilisticUNet, mixed: bool, balance: ElboConfig, begins: int = 0
    ) -> None:
        super().__init__(network, mixed)
        self.balance = balance
        self.begins = begins
        self.geco = None if balance.target is None else Geco(balance.target)
        self._with_latent = True

    def begin_stage(self, stage: Stage) -> None:
        """Be told the stage; see `Objective.begin_stage`."""
        self._with_latent = stage.latent

    def forward(self, image: Tensor, labels: Tensor) -> Terms:
        """Return the terms of images and their raters' labels; see `elbo_terms`."""
        with self._autocast(image):
            if self._with_latent:
                share = self.balance.prior_share
                terms = elbo_terms(self.network, image, labels, prior_share=share)
            else:
                terms = terms_without_latent(self.network, image, labels)
        return {"reconstruction": terms.reconstruction, "kl": terms.kl}

    def loss(self, terms: Terms, observed: Terms, step: int, voxels: int) -> Tensor:
        """Return what is minimised; see `Objective.loss`."""
        if not self._with_latent:
            # Nothing to balance; and GECO's multiplier would grow without a bound. KL is 0, but
            # processes that share gradients wait for those of all weights that it names.
            return terms["reconstruction"] + terms["kl"]
        if self.geco is None:
            bound = ElboTerms(terms["reconstruction"], terms["kl"])
            return bound.loss(self.balance.beta_at(max(0, step - self.begins)))
        # The target is for a voxel, so that it holds for images of every size.
        per_voxel = ElboTerms(terms["reconstruction"] / voxels, terms["kl"] / voxels)
        return voxels * self.geco.loss(per_voxel, float(observed["reconstruction"]) / voxels)

    def balance_state(self) -> dict:
        """Return what a resumed run needs beside weights and settings."""
        return self.geco.state_dict() if self.geco else {}

    def load_balance_state(self, state: dict) -> None:
        """Go on from where `balance_state` was taken."""
        if self.geco and state:
            self.geco.load_state_dict(state)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision that "auto" stands for on a device; any other as it is.

    Where a device does not multiply bfloat16 itself, it is slower with it than with float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # PyTorch tells from 2.9 on.
        can = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
        native = bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return "bf16-mixed" if native else "32-true"


def objective(network: MRFUNet | ProbabilisticUNet, config: TrainingConfig) -> Objective:
    """Return the objective of a network in a run."""
    mixed = config.precision == "bf16-mixed"
    if isinstance(network, ProbabilisticUNet):
        return ElboObjective(network, mixed, config.elbo, config.latent_from)
    return LikelihoodObjective(network, mixed, config.dice_weight)


def soft_dice_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return 1 minus the soft Dice coefficient, averaged over the foreground classes.

    Beside the likelihood it gives small classes their say (Milletari et al., 3DV 2016, equation 3,
    with sums in place of squares in the denominator).

    Args:
        probabilities: (batch, classes, *spatial), class 0 is the background.
        labels: (batch, *spatial) int64.
    """
    reference = functional.one_hot(labels, probabilities.shape[1]).movedim(-1, 1)[:, 1:]
    probabilities = probabilities[:, 1:]
    space = tuple(range(2, probabilities.dim()))
    overlap = (probabilities * reference).sum(space)
    total = probabilities.sum(space) + reference.sum(space)
    # Hundred voxels smooth over classes that the image hardly shows.
    return 1 - ((2 * overlap + 100) / (total + 100)).mean()
