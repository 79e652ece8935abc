"""Hills in Lightning: a perceptron on scikit-learn's digits, with hills after epochs 5 and 10.

Needs `pip install 'distancing[lightning]'`. Run it with `python examples/with_lightning.py`.
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distancing.callbacks.lightning import HillsCallback


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.layers(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


lightning.seed_everything(0)
digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
batches = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=128, shuffle=True)
callback = HillsCallback(place_after=(5, 10), strength=3.0, sigma=0.5, sigma_unit="travelled")
trainer = lightning.Trainer(
    max_epochs=15,
    accelerator="cpu",
    callbacks=[callback],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Classifier(), batches)
assert callback.hills is not None
print("heights of the hills at the end:", ", ".join(f"{height:.3f}" for height in callback.hills.heights()))
