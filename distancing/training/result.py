"""Compose the result of a run from its trainer."""

import resource
import sys
from typing import Any

import torch

from distancing.runs.ensemble import EnsembleResult
from distancing.runs.result import CheckpointInfo, Divergence, Result
from distancing.training.metrics import distances
from distancing.training.progress import Diverged
from distancing.training.provenance import provenance
from distancing.training.trainer import Trainer


def compose(trainer: Trainer, diverged: Diverged | None, ensemble: EnsembleResult | None) -> Result:
    """Return the result of a run that has finished or `diverged`."""
    config, progress = trainer.config, trainer.progress
    networks = _networks(trainer)
    final = networks[-1] if trainer.final else None
    images = len(trainer.data.train) * progress.epoch
    code: Any = provenance(config.own_modules)  # source, git_commit and versions
    return Result(
        status="diverged" if diverged else "finished",
        diverged=Divergence(phase=diverged.phase, epoch=diverged.epoch, step=diverged.step) if diverged else None,
        name=config.name,
        config_hash=config.hash,
        seed=config.seed,
        epochs=progress.epoch,
        seconds=progress.seconds,
        images_per_second=images / progress.training_seconds if progress.training_seconds else 0.0,
        peak_memory=_peak_memory(trainer.device),
        parameters=len(trainer.theta),
        threads=torch.get_num_threads(),
        gradient_check=trainer.gradient_check,
        metrics=final.metrics if final else None,
        checkpoints=networks[: len(trainer.checkpoints)],
        final=final,
        device=", then ".join(trainer.devices),
        ensemble=ensemble,
        notes=_missed_losses(trainer),
        **code,
    )


def _missed_losses(trainer: Trainer) -> list[str]:
    """Return a line for each phase that has ended at a higher training cross entropy than its `until_loss`."""
    lines = []
    for name, phase in list(trainer.plan.items())[: trainer.progress.phase]:
        losses = [float(row["train/cross_entropy"] or 0) for row in trainer.rows if row["phase"] == name]
        if phase.until_loss and losses[-1] >= phase.until_loss:
            ended = f"{name} ended after {len(losses)} epochs at a training cross entropy of {losses[-1]:.4g}"
            lines.append(f"{ended}, above its until_loss={phase.until_loss:g}")
    return lines


def _networks(trainer: Trainer) -> list[CheckpointInfo]:
    """Return the checkpoints and the final network, if there is one, with the distances between them (2.1)."""
    infos, parameters = list(trainer.checkpoints.infos), list(trainer.checkpoints.parameters)
    if trainer.final:
        infos, parameters = [*infos, trainer.final], [*parameters, trainer.theta.vector]
    names = [info["name"] for info in infos]
    return [
        CheckpointInfo(
            **info,
            file=f"checkpoints/{info['name']}.pt",
            distances=dict(zip(names, distances(theta, torch.stack(parameters)), strict=True)),
        )
        for info, theta in zip(infos, parameters, strict=True)
    ]


def _peak_memory(device: torch.device) -> int:
    """Return the largest memory in use at once, in bytes: that of the GPU, or else that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
