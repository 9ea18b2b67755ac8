"""A Probabilistic U-Net beside the baselines of its paper, trained as it is.

Kohl et al. (NeurIPS 2018, section 3) compare it with a U-Net of dropout, of which every pass with
channels left out is a sample, and with an ensemble of U-Nets. Here these are networks of the same
run without the latent: the same images, raters, steps and sizes, with dropout, one for each seed.
The first of them is the plain U-Net, with its channels left out that of dropout, and all are the
ensemble.

Run `python -m MRFUNetSegmentationLib.evaluation.simulated_raters --data DIR -o SCANS`, then
`python -m MRFUNetSegmentationLib.evaluation.baselines --data DIR --scans SCANS -o DIR`; started
again, it goes on where it stopped. Five networks take five times the run's time; with `--steps` all
of them, the Probabilistic U-Net too, are trained anew for so many steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
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
_PROBABILISTIC = "probabilistic"  # folder of its run
_REPORT = "report"


class DropoutMethod(ModelMethod):
    """A model whose samples are passes that leave out channels, as in training."""

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


def shortened(config: TrainingConfig, steps: int) -> TrainingConfig:
    """Return a run of few steps: like the configuration's last stage, the latent from a third on.

    Its rate begins as in the configuration's first stage, which leads up to the largest, and ends
    as in the last. A slab of slices for every four steps is enough; synthesis would take longer
    than the training.
    """
    first, last = config.stages[0], config.stages[-1]
    rising = min(first.steps, max(1, steps // 20))
    alone = max(1, steps // 3 - rising)
    low, high = first.learning_rate
    stages = (
        replace(last, steps=rising, learning_rate=(low, high), latent=False),
        replace(last, steps=alone, learning_rate=(high, high / 2), latent=False),
        replace(
            last,
            steps=max(1, steps - rising - alone),
            learning_rate=(high / 2, last.learning_rate[1]),
            latent=True,
        ),
    )
    balance = replace(config.elbo, warm_up=min(config.elbo.warm_up, steps // 6))
    slabs = config.lesions.slabs and min(config.lesions.slabs, max(1, steps // 4))
    lesions = replace(config.lesions, slabs=slabs)
    return replace(config, stages=stages, elbo=balance, lesions=lesions, validate_every=steps)


def without_latent(config: TrainingConfig, seed: int) -> TrainingConfig:
    """Return the run of a baseline: the same with dropout in place of the latent.

    Args:
        config: the run of the Probabilistic U-Net.
        seed: of weights and training pairs.
    """
    return replace(
        config,
        name=f"{config.name}-u-net",
        seed=seed,
        network=replace(config.network, latent=0, informed=False, dropout=DROPOUT),
        card=replace(config.card, title="U-Net with dropout", description="A baseline."),
    )


def trained(
    runs: Mapping[str, TrainingConfig], data: Path, folder: Path, device: str
) -> dict[str, str]:
    """Train the runs, each in the folder of its name; return their checkpoints.

    What the folder holds already is not done again.
    """
    files, source = {}, None
    for name, config in runs.items():
        trainer = prepare(config, data, folder / name, device)
        # The slabs are the same for all; the pairs that are drawn from them are not.
        source = trainer.source = source or trainer.source
        trainer.run(report=lambda line, name=name: print(name, line, flush=True))
        files[name] = str(trainer.checkpoint_file)
    return files


def compare(model: str, members: Sequence[str], scans: Path, folder: Path, device: str) -> Path:
    """Score a model and the baselines; return the report's path.

    Args:
        model: bundled model or checkpoint file.
        members: checkpoints of the U-Nets.
        scans: folder of `simulated_raters.write_scans`.
        folder: receives the report.
        device: where to compute.
    """
    cases = load_case_list(scans / CASES, scans)
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
    parser.add_argument("--model", help="in place of the configuration's own")
    parser.add_argument("--members", type=int, default=MEMBERS)
    parser.add_argument(
        "--steps",
        type=int,
        help="of every network, the Probabilistic U-Net's too, which is then trained as well; "
        "default: the configuration's, beside the bundled model",
    )
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    runs = {}
    if options.steps:
        config = shortened(config, options.steps)
        runs[_PROBABILISTIC] = config
    members = [f"seed-{seed}" for seed in range(1, options.members + 1)]
    runs |= {name: without_latent(config, seed) for seed, name in enumerate(members, start=1)}
    files = trained(runs, options.data, options.output, options.device)
    model = options.model or files.get(_PROBABILISTIC, config.name)
    report = options.output / _REPORT
    print(compare(model, [files[m] for m in members], options.scans, report, options.device))


if __name__ == "__main__":
    main()
