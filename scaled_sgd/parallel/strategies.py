"""Capabilities of each sharding strategy: a table that checks, planner, doctor and docs read."""

from dataclasses import dataclass

from scaled_sgd.core.registry import Registry


@dataclass(frozen=True)
class Capabilities:
    """One strategy.

    Attributes:
        name: its name in ``sharding.strategy``.
        label: a short description.
        precisions: values of ``run.precision`` for autograd steps.
        dtypes: values of ``model.dtype``.
        fused: whether fused steps can update its weights.
        exchange: whether fused steps can exchange either factors or gradients.
        rows: whether a process holds full rows of every weight instead of the full weight.
        splits_samples: whether processes work on different samples of a minibatch.
        shares_layers: whether ``sharding.tensor_processes`` may be set.
        zero_stage: DeepSpeed's ZeRO stage; None: no DeepSpeed.
        fsdp_version: the version of FSDP whose launch by Accelerate selects it; None: no launch of FSDP.
        launch_file: file in configs/accelerate, if the strategy needs its own launch; None: any launch.
    """

    name: str
    label: str
    precisions: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float32", "float64")
    fused: bool = False
    exchange: bool = False
    rows: bool = False
    splits_samples: bool = True
    shares_layers: bool = False
    zero_stage: int | None = None
    fsdp_version: int | None = None
    launch_file: str | None = None


STRATEGIES: Registry[Capabilities] = Registry("sharding.strategy")
"""From the simplest to the most complex."""

for _entry in (
    Capabilities(
        "ddp", "all weights on every process", ("no", "tf32", "bf16", "fp16"), fused=True, exchange=True
    ),
    Capabilities(
        "fsdp2", "rows of every weight", ("no", "tf32", "bf16"), fused=True, rows=True, fsdp_version=2
    ),
    Capabilities(
        "tensor",
        "rows of every weight, which stay where they are",
        ("no", "tf32", "bf16"),
        fused=True,
        rows=True,
        splits_samples=False,
    ),
    Capabilities(
        "fsdp2+tensor",
        "rows of every weight, shared by groups of processes",
        ("no", "tf32", "bf16"),
        fused=True,
        rows=True,
        shares_layers=True,
    ),
    *(
        Capabilities(
            f"zero{stage}",
            f"flat parts of {parts}",
            ("no", "tf32", "bf16"),
            dtypes=("float32",),
            zero_stage=stage,
            launch_file=f"zero{stage}.yaml",
        )
        for stage, parts in (
            (1, "the optimizer's state"),
            (2, "the optimizer's state and gradients"),
            (3, "weights, gradients and state"),
        )
    ),
):
    STRATEGIES.add(_entry.name, _entry)

SIMPLEST = STRATEGIES.names[0]
"""The strategy of one process."""
