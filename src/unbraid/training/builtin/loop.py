"""The training loop: spectra, loss, one step, the moving average, the schedule."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unbraid.datatypes import FloatArray
from unbraid.models.spleeter.config import SharedUNetConfig
from unbraid.models.spleeter.shared_unet import SharedUNet

__all__ = ["LoopConfig", "Training", "learning_rate", "loss_of", "random_equaliser", "start", "stem_spectra", "train"]


@dataclass(frozen=True)
class LoopConfig:
    """How the network is fitted.

    n_fft, hop : STFT of the stems, in samples
    n_frames : frames of an example
    batch_size : examples a step
    peak_rate, warm_up_steps : learning rate of AdamW at its highest, and steps until there; then half a cosine to zero
    weight_decay : of the kernels and dense layers
    average_decay : of the moving average of the weights
    error_floor : energy of a stem's error, relative to the mix, under which it hardly matters
    stem_weights : weight of each stem in the loss; basses and kick drums are the hardest to tell apart
    magnitude_weight : weight of the L1 distance beside the logarithmic error energy
    p_equalise, equalise_db : chance of a random equaliser on a stem, and standard deviation of its bands
    """

    n_fft: int = 4096
    hop: int = 1024
    n_frames: int = 128
    batch_size: int = 6
    peak_rate: float = 2e-3
    warm_up_steps: int = 100
    weight_decay: float = 1e-2
    average_decay: float = 0.998
    error_floor: float = 1e-3
    stem_weights: tuple[float, ...] = (1.0, 1.2, 1.6, 1.0)
    magnitude_weight: float = 1.0
    p_equalise: float = 0.5
    equalise_db: float = 3.5

    @property
    def n_samples(self) -> int:
        """Samples of an example."""
        return (self.n_frames - 1) * self.hop + self.n_fft


@dataclass(eq=False)
class Training:
    """A run in progress; `checkpoint` saves and restores it. What a step draws depends on seed and step alone."""

    network: SharedUNet
    average: SharedUNet
    optimizer: torch.optim.AdamW
    seed: int
    step: int = 0
    elapsed_s: float = 0.0


def start(model: SharedUNetConfig, config: LoopConfig, seed: int) -> Training:
    """Begin a run: random weights from `seed`, without touching PyTorch's global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SharedUNet(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = [p for name, p in network.named_parameters() if p.ndim < 2 or name.startswith("bin_")]
    kernels = [p for name, p in network.named_parameters() if not (p.ndim < 2 or name.startswith("bin_"))]
    groups = [{"params": kernels, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.peak_rate, betas=(0.9, 0.99))
    return Training(network, copy.deepcopy(network).eval(), optimizer, seed)


def train(
    training: Training,
    config: LoopConfig,
    draw: Callable[[np.random.Generator], FloatArray],
    progress: Callable[[Training], float],
) -> Iterator[float]:
    """Train until `progress` (0…1, decides the learning rate too) reaches one; yields the loss of every step.

    Parameters
    ----------
    training : Training
        Changed in place.
    config : LoopConfig
        Sizes and rates.
    draw : callable
        From a random generator to an example [shape=(stem, channel, config.n_samples), float32].
    progress : callable
        How far the run is: of its steps, or of its time.
    """
    n_stems, n_bins = training.network.config.n_stems, training.network.config.n_bins

    def batch(step: int) -> tuple[FloatArray, FloatArray]:
        rng = np.random.default_rng([training.seed, step])
        stems = np.stack([draw(rng) for _ in range(config.batch_size)])
        return stems, random_equaliser((config.batch_size, n_stems), n_bins, config, rng)

    window = torch.hann_window(config.n_fft)
    with ThreadPoolExecutor(1) as loader:
        upcoming = loader.submit(batch, training.step)
        while (done := progress(training)) < 1:
            begun = time.monotonic()
            stems, gains = upcoming.result()
            upcoming = loader.submit(batch, training.step + 1)
            spectra = stem_spectra(torch.from_numpy(stems), window, config, n_bins) * torch.from_numpy(gains)
            loss = loss_of(training.network, spectra, config)
            _descend(training, loss, learning_rate(done, training.step, config))
            training.step += 1
            _update_average(training, config)
            training.elapsed_s += time.monotonic() - begun
            yield float(loss.detach())


def _descend(training: Training, loss: Tensor, rate: float) -> None:
    """One step of the optimiser at the given learning rate."""
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(training.network.parameters(), 2.0)
    training.optimizer.step()


def learning_rate(done: float, step: int, config: LoopConfig) -> float:
    """Linear warm-up in steps, half a cosine over the run, down to a hundredth."""
    cosine = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))
    return config.peak_rate * min(1.0, (step + 1) / config.warm_up_steps) * cosine


def stem_spectra(stems: Tensor, window: Tensor, config: LoopConfig, n_bins: int) -> Tensor:
    """Spectra of the stems [shape=(batch, stem, channel, n_bins, frame), complex64]; no padding."""
    flat = stems.reshape(-1, stems.shape[-1])
    spectra = torch.stft(flat, config.n_fft, config.hop, window=window, center=False, return_complex=True)
    return spectra[:, :n_bins].reshape(*stems.shape[:3], n_bins, -1)


def random_equaliser(shape: tuple[int, ...], n_bins: int, config: LoopConfig, rng: np.random.Generator) -> FloatArray:
    """Gains of the bins [shape=(*shape, 1, n_bins, 1), float32]: straight lines in dB over the octaves, or all one."""
    bins = np.log2(np.maximum(np.arange(n_bins), 1))
    knots = np.linspace(0, bins[-1], 6)
    gains_db = rng.normal(0, config.equalise_db, (*shape, len(knots)))
    gains_db *= rng.random((*shape, 1)) < config.p_equalise
    curves = np.array([np.interp(bins, knots, gains) for gains in gains_db.reshape(-1, len(knots))])
    return (10 ** (curves / 20)).astype(np.float32).reshape(*shape, 1, n_bins, 1)


def loss_of(network: SharedUNet, spectra: Tensor, config: LoopConfig) -> Tensor:
    """Loss of a batch: logarithm of each stem's error energy, as SDR counts it, and an L1 distance.

    With S_j the stems, X = Σ S_j, M_j the masks and D_j = Re(S_j X*) / |X| (what a real mask on the phase of the mix
    should give), |M_j X − S_j|² is (M_j|X| − D_j)² and a rest that no mask changes. The loss is the mean over examples
    and stems, the latter weighted, of ``log10(Σ|M_j X − S_j|² / Σ|X|² + floor) + 4 Σ| M_j|X| − D_j | / Σ|X|``.
    """
    with torch.no_grad():
        mix = spectra.sum(dim=1, keepdim=True)
        magnitude = mix.abs()
        unit = mix / (magnitude + 1e-8)
        wanted = spectra.real * unit.real + spectra.imag * unit.imag
        over = (2, 3, 4)
        rest = (spectra.abs().square() - wanted.square()).sum(dim=over)
        energy = magnitude.square().sum(dim=over) + 1e-3
        total = magnitude.sum(dim=over) + 1e-3
    difference = network(magnitude[:, 0]) - wanted
    error = difference.square().sum(dim=over) + rest
    logarithmic = torch.log10(error / energy + config.error_floor)
    distance = 4 * config.magnitude_weight * difference.abs().sum(dim=over) / total
    weights = torch.tensor(config.stem_weights) / sum(config.stem_weights)
    loss: Tensor = ((logarithmic + distance).mean(dim=0) * weights).sum()
    return loss


@torch.no_grad()
def _update_average(training: Training, config: LoopConfig) -> None:
    """Move the average towards the network; sooner while the run is young."""
    decay = min(config.average_decay, (1 + training.step) / (10 + training.step))
    for mean, now in zip(training.average.state_dict().values(), training.network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)
