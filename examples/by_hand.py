"""A network, an optimizer and a loop by hand: 95 % of held-out digits."""

import os

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from scaled_sgd import DepthwiseScaling, HomogeneousMLP

STEPS = int(os.environ.get("STEPS", "300"))

pixels, digits = load_digits(return_X_y=True)
x = torch.tensor(pixels, dtype=torch.float32)
x *= 8 / x.norm(dim=1, keepdim=True)  # ‖x‖ = √m_0
train, held_out, y, y_held_out = train_test_split(x, torch.tensor(digits), test_size=360, random_state=0)

model = HomogeneousMLP(64, 10, depth=6, base_width=16, activation="abs", seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=8.0, momentum=0.5)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
scaling = DepthwiseScaling(model, optimizer, rule="norm")

generator = torch.Generator().manual_seed(0)
for step in range(STEPS):
    batch = torch.randint(len(train), (256,), generator=generator)
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(train[batch]), y[batch])
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 50 == 0:
        print(f"step {step}: loss {loss:.3f}, scales {[round(xi, 2) for xi in scaling.scales.tolist()]}")

with torch.no_grad():
    accuracy = (model(held_out).argmax(1) == y_held_out).float().mean()
print(f"held-out accuracy {accuracy:.3f}")
