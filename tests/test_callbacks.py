"""Hills in the training loops of Lightning and Hugging Face, against a plain loop."""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_library import INPUTS, LABELS, SETTINGS, perceptron
from torch import Tensor, nn
from torch.nn import functional as F

from distancing import Hills
from distancing.callbacks import placement


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    return iter(zip(INPUTS.split(16), LABELS.split(16), strict=True))


def plain_loop(epochs: int, place_after: tuple[int, ...], clip: float | None = None) -> tuple[nn.Module, Hills]:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    hills = Hills(model, **SETTINGS, growth=1.0, steps_per_epoch=4)
    for epoch in range(1, epochs + 1):
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            hills.push()
            optimizer.step()
        if epoch in place_after:
            hills.place()
    return model, hills


def same(model: nn.Module, hills: Hills | None, expected: tuple[nn.Module, Hills]) -> None:
    assert hills is not None
    torch.testing.assert_close(list(model.parameters()), list(expected[0].parameters()))
    torch.testing.assert_close(hills.strengths, expected[1].strengths)
    assert len(hills) > 0


@pytest.mark.parametrize("epochs", [(0,), "2", (1.5,), (True,)])
def test_epochs_that_cannot_come(epochs: Any) -> None:
    with pytest.raises(ValueError, match="epochs are integers, counted from 1"):
        placement.checked(epochs)


def test_lightning(tmp_path: Path) -> None:
    """Lightning's loop with the callback is the plain loop, also when it is stopped and resumed."""
    lightning = pytest.importorskip("lightning")
    from distancing.callbacks.lightning import HillsCallback

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layers = perceptron()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return F.cross_entropy(self.layers(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    data = torch.utils.data.DataLoader(list(zip(INPUTS, LABELS, strict=True)), 16)

    def fit(epochs: int, checkpoint: str | None = None, *others: Any) -> tuple[Any, Any, Any]:
        callback, module = HillsCallback((1, 2), **SETTINGS, growth=1.0), Module()
        trainer = lightning.Trainer(
            max_epochs=epochs, callbacks=[callback, *others], accelerator="cpu", logger=False,
            enable_checkpointing=bool(others), enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, data, ckpt_path=checkpoint)
        return trainer, module, callback

    with pytest.warns(UserWarning, match="no hill was placed after epoch 2: the training ended after 1"):
        fit(1)
    expected = plain_loop(4, (1, 2))
    _, module, callback = fit(4)
    same(module, callback.hills, expected)
    stopped, *_ = fit(2)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    trainer, module, callback = fit(4, str(tmp_path / "stopped.ckpt"))
    same(module, callback.hills, expected)
    first, trainer.fit_loop.max_epochs = callback.hills, 5
    trainer.fit(module, data)  # goes on
    assert torch.equal(callback.hills.checkpoints, first.checkpoints)
    assert (callback.hills.strengths >= first.strengths).all()
    *_, callback = fit(2, str(tmp_path / "stopped.ckpt"))  # nothing is left to do
    assert len(callback.state_dict()["checkpoints"]) == 2
    again = lightning.Trainer(max_epochs=1, callbacks=[callback], accelerator="cpu", logger=False,
                              enable_checkpointing=False, enable_progress_bar=False)  # fmt: skip
    again.fit(module, data)  # begins anew
    assert len(callback.hills) == 1
    steps = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    fit(2, None, steps)  # saves before Lightning ends the epoch
    _, module, callback = fit(4, str(tmp_path / "step=4.ckpt"))
    same(module, callback.hills, expected)

    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(list(zip(INPUTS, LABELS, strict=True)))

    trainer = lightning.Trainer(max_epochs=1, callbacks=[HillsCallback((1,), **SETTINGS, growth=1.0)], logger=False,
                                accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False)  # fmt: skip
    with pytest.raises(ValueError, match="hills that grow or decay need the number of the optimiser's steps"):
        trainer.fit(Module(), torch.utils.data.DataLoader(Endless(), 16))


@pytest.mark.slow
def test_hugging_face(tmp_path: Path) -> None:
    """The Trainer's loop with the callback is the plain loop with clipping, also when it is stopped and resumed."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from distancing.callbacks.transformers import HillsCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = perceptron()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.layers(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    class Trainer(transformers.Trainer):  # type: ignore[misc,name-defined]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    data = [{"x": x, "labels": y} for x, y in zip(INPUTS, LABELS, strict=True)]

    def fit(epochs: float, resume: bool | str = False, folder: Path = tmp_path, **settings: Any) -> tuple[Any, Any]:
        model, callback = Model(), HillsCallback((1, 2), **SETTINGS, growth=1.0)
        arguments = transformers.TrainingArguments(
            str(folder), num_train_epochs=epochs, per_device_train_batch_size=16, use_cpu=True, report_to=[],
            lr_scheduler_type="constant", max_grad_norm=0.5, disable_tqdm=True,
            **{"save_strategy": "epoch", **settings},
        )  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        Trainer(model, arguments, train_dataset=data, callbacks=[callback], optimizers=(optimizer, None)).train(
            resume_from_checkpoint=resume
        )
        return model, callback

    fit(2)
    model, callback = fit(4, resume=True)
    expected = plain_loop(4, (1, 2), clip=0.5)
    same(model, callback.hills, expected)
    steps = tmp_path / "steps"
    fit(2, folder=steps, save_strategy="steps", save_steps=4)  # saves before the Trainer ends the epoch
    saved = steps / "checkpoint-4"
    model, callback = fit(4, str(saved), steps)
    same(model, callback.hills, expected)
    model, callback = fit(4, str(saved), tmp_path / "new", resume_from_checkpoint=str(saved))
    same(model, callback.hills, expected)
    missing = r"no hills\.pt that was saved with the resumed parameters in .*checkpoint-4: name the checkpoint's folder"
    with pytest.raises(ValueError, match=missing):
        fit(4, str(saved), tmp_path / "another")
    shutil.copy(steps / "checkpoint-8" / "hills.pt", saved)  # hills of other parameters
    with pytest.raises(ValueError, match=missing):
        fit(4, str(saved), steps)
    _, whole = fit(2)
    with pytest.warns(UserWarning, match="no hill was placed after epoch 2: the training ended after 1"):
        _, partly = fit(1.5)  # ends within the second epoch, at whose end a hill would be placed
    assert (len(whole.hills), len(partly.hills)) == (2, 1)
    assert partly.hills.steps_per_epoch == whole.hills.steps_per_epoch == -(-len(data) // 16)
    refused = HillsCallback((1,), **SETTINGS)
    arguments = copy.copy(transformers.TrainingArguments(str(tmp_path), use_cpu=True, max_grad_norm=0.0))
    arguments.fp16 = True
    with pytest.raises(ValueError, match="needs max_grad_norm"):
        refused.on_train_begin(arguments, transformers.TrainerState(), transformers.TrainerControl(), model=model)
