"""Hills in a training loop of your own: a perceptron on scikit-learn's digits, Adam, a hill after every 5 epochs.

Needs scikit-learn. Run it with `python examples/plain_pytorch.py`.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from distancing import Hills

digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
batches = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=128, shuffle=True)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
hills = Hills(model, strength=3.0, sigma=0.5, sigma_unit="travelled")

for epoch in range(1, 16):
    for x, y in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        hills.push()
        optimizer.step()
    if epoch % 5 == 0:
        heights = ", ".join(f"{height:.3f}" for height in hills.heights())
        print(f"epoch {epoch}: loss {loss.item():.4f}; heights of the hills here: {heights or 'none'}")
        hills.place()
