"""A Probabilistic U-Net beside the baselines of its paper, trained as it is.

Kohl et al. (NeurIPS 2018, section 4) compare it with a U-Net of dropout, of which every pass with
channels left out is a sample, and with an ensemble of U-Nets. Here these are networks of the same
run without the latent: the same images, raters, steps and sizes, with dropout, one for each seed.
The first of them is the plain U-Net, with its channels left out that of dropout, and all are the
ensemble.

Run `python -m MRFUNetSegmentationLib.evaluation.simulated_raters --data DIR -o SCANS`, then
`python -m MRFUNetSegmentationLib.evaluation.baselines --data DIR --scans SCANS -o DIR`; started
again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..inference.volume import Volume
from ..training.config import TrainingConfig, load_config
from ..training.run import prepare
from .cases import load_case_list
from .methods import ModelMethod
from .report import write_report
from .run import evaluate
from .simulated_raters import CASES, CONFIGURATION

MEMBERS = 4
DROPOUT = 0.3
_REPORT = "report"


class DropoutMethod(ModelMethod):
    """A model whose samples are passes that leave out channels, as in training."""

    samples_differ = True

    def samples(self, volume: Volume, number: int, seed: int) -> np.ndarray:
        """Return samples, (number, k, j, i) uint8."""
        (segmenter,) = self.segmenters
        drawn = []
        with _leaving_out_channels(segmenter.checkpoint.network):
            for sample in range(number):
                torch.manual_seed(seed + sample)
                drawn.append(segmenter.segment(volume).labels)
        return np.stack(drawn)


@contextmanager
def _leaving_out_channels(network: nn.Module) -> Iterator[None]:
    layers = [m for m in network.modules() if isinstance(m, nn.Dropout2d | nn.Dropout3d)]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


def configuration(config: TrainingConfig, seed: int, share: float = 1.0) -> TrainingConfig:
    """Return the run of a baseline's member.

    Args:
        config: the run of the Probabilistic U-Net.
        seed: of weights and training pairs.
        share: of the steps of every stage, at least one.
    """
    return replace(
        config,
        name=f"{config.name}-u-net",
        seed=seed,
        network=replace(config.network, latent=0, informed=False, dropout=DROPOUT),
        stages=tuple(replace(s, steps=max(1, round(share * s.steps))) for s in config.stages),
        card=replace(config.card, title="U-Net with dropout", description="A baseline."),
    )


def trained(
    config: TrainingConfig, members: int, share: float, data: Path, folder: Path, device: str
) -> list[Path]:
    """Train the members; return their checkpoints. What the folder holds is not done again."""
    files, source = [], None
    for seed in range(1, members + 1):
        name = f"seed-{seed}"
        trainer = prepare(configuration(config, seed, share), data, folder / name, device)
        # The slabs are the same for all; the pairs that are drawn from them are not.
        source = trainer.source = source or trainer.source
        trainer.run(report=lambda line, name=name: print(name, line, flush=True))
        files.append(trainer.checkpoint_file)
    return files


def compare(model: str, members: Sequence[Path], scans: Path, folder: Path, device: str) -> Path:
    """Score a model and the baselines; return the report's path.

    Args:
        model: bundled model or checkpoint file.
        members: checkpoints of the U-Nets.
        scans: folder of `simulated_raters.write_scans`.
        folder: receives the report.
        device: where to compute.
    """
    cases = load_case_list(scans / CASES, scans)
    members = list(map(str, members))
    options = (cases.structures, device)
    methods = [
        ModelMethod("Probabilistic U-Net", [model], *options),
        ModelMethod("U-Net", members[:1], *options),
        DropoutMethod("dropout", members[:1], *options),
    ]
    if len(members) > 1:
        methods.append(ModelMethod(f"ensemble of {len(members)}", members, *options))
    report = lambda line: print(line, flush=True)  # noqa: E731
    return write_report(folder, evaluate(cases, scans, methods, report=report), methods)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the baselines and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--scans", type=Path, required=True, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--config", type=Path, default=CONFIGURATION, metavar="FILE")
    parser.add_argument("--model", help="default: the bundled one of the configuration's name")
    parser.add_argument("--members", type=int, default=MEMBERS)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the steps of every stage of the configuration"
    )
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    members = trained(
        config, options.members, options.share, options.data, options.output, options.device
    )
    model = options.model or config.name
    print(compare(model, members, options.scans, options.output / _REPORT, options.device))


if __name__ == "__main__":
    main()
