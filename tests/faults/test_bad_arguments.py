"""What public functions say of arguments that do not fit: one line that names the argument."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import scaled_sgd
from scaled_sgd import (
    DepthwiseScaling,
    HomogeneousMLP,
    ScaledLinear,
    ScaledSGD,
    feature_ranks,
    gradient_soft_ranks,
    hessian_vector_product,
    load_run,
    sharpness,
    taylor_coefficients,
    width_pattern,
)
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import PARAMETERIZATIONS
from scaled_sgd.steps.rules import RULES

nan = math.nan
RULE_NAMES, PARAMETERIZATION_NAMES = ", ".join(RULES), ", ".join(PARAMETERIZATIONS)


def network(**changes: Any) -> HomogeneousMLP:
    return HomogeneousMLP(4, 3, **({"depth": 3, "base_width": 2, "seed": 0} | changes))


m = network()
x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
y = torch.tensor([0, 1, 2, 0, 1])
t = torch.ones(5, 3)
V = [torch.ones_like(layer.weight) for layer in m.layers]
linear = nn.Sequential(nn.Linear(4, 3))
U = [torch.ones(3, 4), torch.ones(3)]
convolution = nn.Sequential(nn.Conv2d(1, 1, 1))
CE: dict[str, Any] = {"loss": "cross_entropy"}
SGD = torch.optim.SGD

CASES: list[tuple[Callable[[], object], str]] = [
    (
        lambda: width_pattern(0, 3, depth=2, base_width=4),
        "in_features: 0 is not usable; allowed: integers from 1 to 2147483647",
    ),
    (
        lambda: width_pattern(4, -3, depth=2, base_width=4),
        "out_features: -3 is not usable; allowed: integers from 1 to 2147483647",
    ),
    (
        lambda: width_pattern(4.0, 3, depth=2, base_width=4),
        "in_features: 4.0 is not usable; allowed: integers from 1 to 2147483647",
    ),
    (
        lambda: width_pattern(4, 3, depth=0, base_width=4),
        "depth: 0 is not usable; allowed: integers from 1 to 100000",
    ),
    (
        lambda: width_pattern(4, 3, depth=True, base_width=4),
        "depth: True is not usable; allowed: integers from 1 to 100000",
    ),
    (
        lambda: width_pattern(4, 3, depth=2, base_width="4"),
        "base_width: '4' is not usable; allowed: integers from 1",
    ),
    (
        lambda: width_pattern(4, 3, depth=2, base_width=4, exponent=-1),
        "width_exponent: -1 is not usable; allowed: finite numbers from 0",
    ),
    (
        lambda: width_pattern(4, 3, depth=2, base_width=4, exponent=nan),
        "width_exponent: nan is not usable; allowed: finite numbers from 0",
    ),
    (
        lambda: width_pattern(4, 3, depth=2, base_width=4, exponent="2"),
        "width_exponent: '2' is not usable; allowed: finite numbers from 0",
    ),
    (
        lambda: width_pattern(4, 3, depth=2, base_width=4, exponent=True),
        "width_exponent: True is not usable; allowed: finite numbers from 0",
    ),
    (
        lambda: width_pattern(4, 3, depth=10**9, base_width=1, exponent=0),
        "depth: 1000000000 is not usable; allowed: integers from 1 to 100000",
    ),
    (
        lambda: width_pattern(4, 3, depth=200, base_width=10**6),
        (
            "base_width: 1000000 at depth 200 and width_exponent 2.0 gives a layer of 3.96e+10; "
            "allowed: widths up to 2147483647"
        ),
    ),
    (
        lambda: width_pattern(10**10, 3, depth=2, base_width=1),
        "in_features: 10000000000 is not usable; allowed: integers from 1 to 2147483647",
    ),
    (
        lambda: network(activation="sine"),
        (
            "activation: 'sine' is unknown; allowed: relu, abs, linear, tanh, gelu, softplus, swish or two "
            "numbers [a, b]"
        ),
    ),
    (
        lambda: network(activation=(0, 0)),
        (
            "activation: [0.0, 0.0] cannot be normalised; allowed: two finite numbers [a, b], one "
            "of them not 0"
        ),
    ),
    (
        lambda: network(activation=(1, 2, 3)),
        ("activation: (1, 2, 3) is not usable; allowed: two finite numbers [a, b], one of them not 0"),
    ),
    (
        lambda: network(activation=(nan, 1)),
        (
            "activation: [nan, 1.0] cannot be normalised; allowed: two finite numbers [a, b], one "
            "of them not 0"
        ),
    ),
    (
        lambda: network(activation=3),
        "activation: 3 is not usable; allowed: two finite numbers [a, b], one of them not 0",
    ),
    (
        lambda: network(activation=None),
        "activation: None is not usable; allowed: two finite numbers [a, b], one of them not 0",
    ),
    (
        lambda: network(parameterization="ntk"),
        f"parameterization: 'ntk' is unknown; allowed: {PARAMETERIZATION_NAMES}",
    ),
    (
        lambda: network(parameterization=None),
        f"parameterization: None is unknown; allowed: {PARAMETERIZATION_NAMES}",
    ),
    (lambda: network(seed=-1), "seed: -1 is not usable; allowed: integers from 0 to 9223372036854775807"),
    (lambda: network(seed=1.5), "seed: 1.5 is not usable; allowed: integers from 0 to 9223372036854775807"),
    (lambda: network(seed=True), "seed: True is not usable; allowed: integers from 0 to 9223372036854775807"),
    (
        lambda: network(seed=2**63),
        ("seed: 9223372036854775808 is not usable; allowed: integers from 0 to 9223372036854775807"),
    ),
    (lambda: network(device="tpu"), "device: 'tpu' is not here; allowed: cpu, meta or a device of torch's"),
    (
        lambda: network(device="nonsense"),
        "device: 'nonsense' is not here; allowed: cpu, meta or a device of torch's",
    ),
    (lambda: network(device=3.5), "device: 3.5 is not here; allowed: cpu, meta or a device of torch's"),
    (
        lambda: network(dtype=torch.int64),
        (
            "dtype: torch.int64 is not usable; allowed: torch.float16, torch.bfloat16, "
            "torch.float32, torch.float64"
        ),
    ),
    (
        lambda: network(dtype="float32"),
        (
            "dtype: 'float32' is not usable; allowed: torch.float16, torch.bfloat16, "
            "torch.float32, torch.float64"
        ),
    ),
    (
        lambda: network(dtype=torch.complex64),
        (
            "dtype: torch.complex64 is not usable; allowed: torch.float16, torch.bfloat16, "
            "torch.float32, torch.float64"
        ),
    ),
    (lambda: network(depth=None), "depth: None is not usable; allowed: integers from 1 to 100000"),
    (lambda: m(torch.randn(5, 3)), "x: shape (5, 3) does not fit; allowed: (n, 4)"),
    (lambda: ScaledLinear(0, 3), "in_features: 0 is not usable; allowed: integers from 1 to 2147483647"),
    (lambda: ScaledLinear(4, -3), "out_features: -3 is not usable; allowed: integers from 1 to 2147483647"),
    (lambda: ScaledLinear(4, 2.5), "out_features: 2.5 is not usable; allowed: integers from 1 to 2147483647"),
    (
        lambda: ScaledLinear(4, 3, multiplier=nan),
        "multiplier: nan is not usable; allowed: finite numbers from 0",
    ),
    (lambda: ScaledLinear(4, 3, init_std=-1), "init_std: -1 is not usable; allowed: finite numbers from 0"),
    (
        lambda: ScaledLinear(4, 3, dtype=torch.int64),
        (
            "dtype: torch.int64 is not usable; allowed: torch.float16, torch.bfloat16, "
            "torch.float32, torch.float64"
        ),
    ),
    (lambda: ScaledSGD(m, -1), "lr: -1 is not usable; allowed: finite numbers from 0"),
    (lambda: ScaledSGD(m, nan), "lr: nan is not usable; allowed: finite numbers from 0"),
    (lambda: ScaledSGD(m, "1"), "lr: '1' is not usable; allowed: finite numbers from 0"),
    (lambda: ScaledSGD(m, None), "lr: None is not usable; allowed: finite numbers from 0"),
    (lambda: ScaledSGD(m, torch.tensor(1.0)), "lr: tensor(1.) is not usable; allowed: finite numbers from 0"),
    (lambda: ScaledSGD(m, 1, momentum=-1), "momentum: -1 is not usable; allowed: numbers from 0 to below 1"),
    (
        lambda: ScaledSGD(m, 1, momentum=1.5),
        "momentum: 1.5 is not usable; allowed: numbers from 0 to below 1",
    ),
    (lambda: ScaledSGD(m, 1, momentum=1), "momentum: 1 is not usable; allowed: numbers from 0 to below 1"),
    (
        lambda: ScaledSGD(m, 1, weight_decay=math.inf),
        "weight_decay: inf is not usable; allowed: finite numbers from 0",
    ),
    (lambda: ScaledSGD(m, 1, rule="nrom"), f"rule: 'nrom' is unknown; allowed: {RULE_NAMES}"),
    (lambda: ScaledSGD(m, 1, rule=None), f"rule: None is unknown; allowed: {RULE_NAMES}"),
    (lambda: ScaledSGD(m, 1, rule=[]), f"rule: [] is unknown; allowed: {RULE_NAMES}"),
    (
        lambda: ScaledSGD(convolution, 1),
        (
            "model: trainable parameter 0.weight is not in an nn.Linear layer; allowed: nn.Linear "
            "layers applied in order (freeze the rest with requires_grad_(False))"
        ),
    ),
    (lambda: ScaledSGD(nn.Sequential(), 1), "model: no trainable nn.Linear layer; allowed: at least one"),
    (lambda: ScaledSGD(m.parameters(), 1), "model: generator does not fit; allowed: a torch.nn.Module"),
    (
        lambda: ScaledSGD(nn.LayerNorm(3), 1),
        (
            "model: trainable parameter weight is not in an nn.Linear layer; allowed: nn.Linear "
            "layers applied in order (freeze the rest with requires_grad_(False))"
        ),
    ),
    (
        lambda: ScaledSGD(m, 1).step(),
        (
            "model: layer layers.0 took no part in a forward and backward pass since the last "
            "step; allowed: every layer once a microbatch"
        ),
    ),
    (
        lambda: ScaledSGD(m, 1).load_state_dict({}),
        "state_dict: it has no 'scaling'; allowed: the state of a ScaledSGD",
    ),
    (
        lambda: ScaledSGD(m, 1).load_state_dict({"scaling": {}}),
        "state_dict: it has no 'rule'; allowed: the state of a DepthwiseScaling",
    ),
    (
        lambda: ScaledSGD(m, 1).load_state_dict(ScaledSGD(m, 1, rule="gain").state_dict()),
        "scaling.rule: 'norm' differs from the saved 'gain'; allowed: the same",
    ),
    (
        lambda: ScaledSGD(m, 1).load_state_dict(ScaledSGD(network(depth=2), 1).state_dict()),
        (
            "state_dict: loaded state dict contains a parameter group that doesn't match the size "
            "of optimizer's group; allowed: the state of a ScaledSGD of the same network"
        ),
    ),
    (
        lambda: ScaledSGD(m, 1).add_param_group({"params": [nn.Parameter(x)]}),
        "param_groups: ScaledSGD trains its model's layers as one group; allowed: one",
    ),
    (lambda: DepthwiseScaling(m, rule="nrom"), f"rule: 'nrom' is unknown; allowed: {RULE_NAMES}"),
    (lambda: DepthwiseScaling(m, "sgd"), "optimizer: str does not fit; allowed: a torch.optim.Optimizer"),
    (
        lambda: DepthwiseScaling(m, SGD(linear.parameters(), lr=1)),
        "optimizer: it does not train layer layers.0; allowed: all scaled layers",
    ),
    (
        lambda: DepthwiseScaling(m, SGD(m.layers[0].parameters(), lr=1)),
        "optimizer: it does not train layer layers.1; allowed: all scaled layers",
    ),
    (
        lambda: DepthwiseScaling(convolution),
        (
            "model: trainable parameter 0.weight is not in an nn.Linear layer; allowed: nn.Linear "
            "layers applied in order (freeze the rest with requires_grad_(False))"
        ),
    ),
    (lambda: DepthwiseScaling("model"), "model: str does not fit; allowed: a torch.nn.Module"),
    (lambda: DepthwiseScaling(m, static="yes"), "static: 'yes' is not usable; allowed: True, False"),
    (
        lambda: DepthwiseScaling(m).update(),
        (
            "model: layer layers.0 took no part in a forward and backward pass since the last "
            "step; allowed: every layer once a microbatch"
        ),
    ),
    (
        lambda: DepthwiseScaling(m).attach(None),
        "optimizer: NoneType does not fit; allowed: a torch.optim.Optimizer",
    ),
    (lambda: attach_twice(), "optimizer: one is attached already; call detach() first; allowed: one"),
    (
        lambda: DepthwiseScaling(m).load_state_dict({}),
        "state_dict: it has no 'rule'; allowed: the state of a DepthwiseScaling",
    ),
    (
        lambda: DepthwiseScaling(m).load_state_dict(
            {"rule": "norm", "static": False, "scales": torch.ones(2)}
        ),
        "state_dict: its scales do not fit; allowed: a tensor (3,), one a layer",
    ),
    (
        lambda: DepthwiseScaling(m).load_state_dict({"rule": "norm", "static": False, "scales": [1, 2, 3]}),
        "state_dict: its scales do not fit; allowed: a tensor (3,), one a layer",
    ),
    (
        lambda: DepthwiseScaling(m).load_state_dict({"rule": "gain", "static": False, "scales": None}),
        "scaling.rule: 'norm' differs from the saved 'gain'; allowed: the same",
    ),
    (
        lambda: taylor_coefficients(linear, x, y, **CE, scales="norm"),
        "scales: 'norm' is not available for Sequential; allowed: None or a tensor",
    ),
    (
        lambda: taylor_coefficients(linear, x, y, **CE, chunk_size=2),
        "chunk_size: 2 is for HomogeneousMLP alone; allowed here: None",
    ),
    (lambda: taylor_coefficients(m, x[:, :3], y, **CE), "x: shape (5, 3) does not fit; allowed: (n, 4)"),
    (lambda: taylor_coefficients(m, x[0], y, **CE), "x: shape (4,) does not fit; allowed: (n, 4)"),
    (
        lambda: taylor_coefficients(m, x[:0], y[:0], **CE),
        "x: no samples on any process; allowed: at least one",
    ),
    (
        lambda: taylor_coefficients(m, x.long(), y, **CE),
        "x: torch.int64 does not fit; allowed: floating point numbers",
    ),
    (lambda: taylor_coefficients(m, x.tolist(), y, **CE), "x: list does not fit; allowed: a tensor (n, 4)"),
    (
        lambda: taylor_coefficients(m, x, y[:3], **CE),
        "y: torch.int64 of shape (3,) does not fit; allowed: int64 class ids of shape (5,)",
    ),
    (
        lambda: taylor_coefficients(m, x, y.float(), **CE),
        "y: torch.float32 of shape (5,) does not fit; allowed: int64 class ids of shape (5,)",
    ),
    (
        lambda: taylor_coefficients(m, x, y.int(), **CE),
        "y: torch.int32 of shape (5,) does not fit; allowed: int64 class ids of shape (5,)",
    ),
    (lambda: taylor_coefficients(m, x, y + 5, **CE), "y: class ids from 5 to 7; allowed: 0 to 2"),
    (lambda: taylor_coefficients(m, x, y - 1, **CE), "y: class ids from -1 to 1; allowed: 0 to 2"),
    (
        lambda: taylor_coefficients(m, x, [0, 1, 2, 0, 1], **CE),
        "y: list does not fit; allowed: a tensor of 5 targets",
    ),
    (
        lambda: taylor_coefficients(m, x, y, loss="mse"),
        ("y: torch.int64 of shape (5,) does not fit; allowed: floating point targets of shape (5, 3)"),
    ),
    (
        lambda: taylor_coefficients(m, x, t[:, :2], loss="mse"),
        ("y: torch.float32 of shape (5, 2) does not fit; allowed: floating point targets of shape (5, 3)"),
    ),
    (
        lambda: taylor_coefficients(m, x, y, loss="hinge"),
        "loss: 'hinge' is unknown; allowed: cross_entropy, mse",
    ),
    (lambda: taylor_coefficients(m, x, y, loss=None), "loss: None is unknown; allowed: cross_entropy, mse"),
    (lambda: taylor_coefficients(m, x, y, loss=[]), "loss: [] is unknown; allowed: cross_entropy, mse"),
    (
        lambda: taylor_coefficients(m, x, y, **CE, scales="nrom"),
        f"rule: 'nrom' is unknown; allowed: {RULE_NAMES}",
    ),
    (
        lambda: taylor_coefficients(m, x, y, **CE, scales=torch.ones(2)),
        "scales: (2,) does not fit; allowed: None, a rule's name or shape (3,)",
    ),
    (
        lambda: taylor_coefficients(m, x, y, **CE, scales=-torch.ones(3)),
        "scales: [-1.0, -1.0, -1.0] are not usable; allowed: finite numbers from 0",
    ),
    (
        lambda: taylor_coefficients(m, x, y, **CE, scales=torch.tensor([1.0, nan, 1])),
        "scales: [1.0, nan, 1.0] are not usable; allowed: finite numbers from 0",
    ),
    (
        lambda: taylor_coefficients(m, x, y, **CE, scales=[1.0, 1.0, 1.0]),
        "scales: [1.0, 1.0, 1.0] does not fit; allowed: None, a rule's name or shape (3,)",
    ),
    (
        lambda: taylor_coefficients(m, x, y, **CE, scales=2.0),
        "scales: 2.0 does not fit; allowed: None, a rule's name or shape (3,)",
    ),
    (
        lambda: taylor_coefficients(m, x, y, **CE, scales=torch.ones(3, dtype=torch.complex64)),
        "scales: [(1+0j), (1+0j), (1+0j)] are not usable; allowed: finite numbers from 0",
    ),
    (lambda: taylor_coefficients(m, x, y, **CE, order=4), "order: 4 is not available; allowed: 1, 2, 3"),
    (lambda: taylor_coefficients(m, x, y, **CE, order=0), "order: 0 is not available; allowed: 1, 2, 3"),
    (lambda: taylor_coefficients(m, x, y, **CE, order="3"), "order: '3' is not available; allowed: 1, 2, 3"),
    (lambda: taylor_coefficients(m, x, y, **CE, order=[3]), "order: [3] is not available; allowed: 1, 2, 3"),
    (
        lambda: taylor_coefficients(m, x, y, **CE, chunk_size=0),
        "chunk_size: 0 is not usable; allowed: integers from 1",
    ),
    (
        lambda: taylor_coefficients(m, x, y, **CE, chunk_size=1.5),
        "chunk_size: 1.5 is not usable; allowed: integers from 1",
    ),
    (
        lambda: taylor_coefficients(m, x, y, **CE, chunk_size="2"),
        "chunk_size: '2' is not usable; allowed: integers from 1",
    ),
    (
        lambda: taylor_coefficients(m, x, y, **CE, order=1).directional_sharpness,
        "order: 1 has no directional sharpness; allowed: 2 or 3",
    ),
    (
        lambda: taylor_coefficients(m, x.to("meta"), y.to("meta"), **CE),
        "x: it is on meta; allowed: cpu, where the model is",
    ),
    (
        lambda: taylor_coefficients(network(device="meta"), x, y, **CE),
        "x: it is on cpu; allowed: meta, where the model is",
    ),
    (
        lambda: taylor_coefficients(m, x, y.to("meta"), **CE),
        "y: it is on meta; allowed: cpu, where the model is",
    ),
    (lambda: hessian_vector_product(m, x, y, V[:2], **CE), "vectors: 2 tensors; allowed: 3, one a layer"),
    (
        lambda: hessian_vector_product(m, x, y, [v.T for v in V], **CE),
        "vectors: layer 1 has shape (4, 2); allowed: (2, 4)",
    ),
    (
        lambda: hessian_vector_product(m, x, y, torch.ones(3), **CE),
        "vectors: Tensor does not fit; allowed: a list of tensors, one a layer",
    ),
    (
        lambda: hessian_vector_product(m, x, y, V[0], **CE),
        "vectors: Tensor does not fit; allowed: a list of tensors, one a layer",
    ),
    (
        lambda: hessian_vector_product(m, x, y, [1, 2, 3], **CE),
        "vectors: int does not fit; allowed: a list of tensors, one a layer",
    ),
    (
        lambda: hessian_vector_product(m, x, y, None, **CE),
        "vectors: NoneType does not fit; allowed: a list of tensors, one a layer",
    ),
    (
        lambda: hessian_vector_product(m, x, y, [v.to("meta") for v in V], **CE),
        "vectors: layer 1: it is on meta; allowed: cpu, where the model is",
    ),
    (
        lambda: hessian_vector_product(m, x, y, V, loss="hinge"),
        "loss: 'hinge' is unknown; allowed: cross_entropy, mse",
    ),
    (
        lambda: hessian_vector_product(linear, x, y, [torch.ones(3, 4)], **CE),
        "vectors: shapes [(3, 4)] do not fit; allowed: [(3, 4), (3,)]",
    ),
    (
        lambda: hessian_vector_product(linear, x, y, [torch.ones(3, 4), torch.ones(2)], **CE),
        "vectors: shapes [(3, 4), (2,)] do not fit; allowed: [(3, 4), (3,)]",
    ),
    (
        lambda: hessian_vector_product(linear, x, y[:2], U, **CE),
        "y: torch.int64 of shape (2,) does not fit; allowed: int64 class ids of shape (5,)",
    ),
    (
        lambda: hessian_vector_product(linear, x[:0], y[:0], U, **CE),
        "x: no samples on any process; allowed: at least one",
    ),
    (lambda: hessian_vector_product(linear, x, y + 7, U, **CE), "y: class ids from 7 to 9; allowed: 0 to 2"),
    (
        lambda: hessian_vector_product(linear, x, y, U, **CE, scales="nrom"),
        "scales: 'nrom' is not available for Sequential; allowed: None or a tensor",
    ),
    (
        lambda: hessian_vector_product("model", x, y, V, **CE),
        "model: str does not fit; allowed: a torch.nn.Module",
    ),
    (lambda: sharpness("model", x, y, **CE), "model: str does not fit; allowed: a torch.nn.Module"),
    (lambda: sharpness(m, x, y, **CE, k=0), "k: 0 is not usable; allowed: integers from 1 to 48"),
    (lambda: sharpness(m, x, y, **CE, k=10**6), "k: 1000000 is not usable; allowed: integers from 1 to 48"),
    (lambda: sharpness(m, x, y, **CE, k=1.5), "k: 1.5 is not usable; allowed: integers from 1 to 48"),
    (lambda: sharpness(m, x, y, **CE, k="1"), "k: '1' is not usable; allowed: integers from 1 to 48"),
    (
        lambda: sharpness(m, x, y, **CE, space="sparse"),
        "space: 'sparse' is unknown; allowed: auto, dense, factor",
    ),
    (
        lambda: sharpness(linear, x, y, **CE, space="sparse"),
        "space: 'sparse' is unknown; allowed: auto, dense, factor",
    ),
    (
        lambda: sharpness(linear, x, y, **CE, space="factor"),
        "space: 'factor' is for HomogeneousMLP alone; allowed here: 'auto', 'dense'",
    ),
    (
        lambda: sharpness(m, x, y, **CE, which="smallest"),
        "which: 'smallest' is unknown; allowed: largest, magnitude",
    ),
    (
        lambda: sharpness(m, x, y, **CE, tolerance=0),
        "tolerance: 0 is not usable; allowed: finite numbers above 0",
    ),
    (
        lambda: sharpness(m, x, y, **CE, tolerance=-1),
        "tolerance: -1 is not usable; allowed: finite numbers above 0",
    ),
    (
        lambda: sharpness(m, x, y, **CE, tolerance=nan),
        "tolerance: nan is not usable; allowed: finite numbers above 0",
    ),
    (
        lambda: sharpness(m, x, y, **CE, tolerance="x"),
        "tolerance: 'x' is not usable; allowed: finite numbers above 0",
    ),
    (
        lambda: sharpness(m, x, y, **CE, max_iterations=0),
        "max_iterations: 0 is not usable; allowed: integers from 1",
    ),
    (
        lambda: sharpness(m, x, y, **CE, max_iterations=1.5),
        "max_iterations: 1.5 is not usable; allowed: integers from 1",
    ),
    (lambda: sharpness(m, x, y, **CE, basis=1), "basis: 1 is not usable; allowed: integers from 3"),
    (lambda: sharpness(m, x, y, **CE, basis=2.5), "basis: 2.5 is not usable; allowed: integers from 3"),
    (
        lambda: sharpness(m, x, y, **CE, seed=-1),
        "seed: -1 is not usable; allowed: integers from 0 to 9223372036854775807",
    ),
    (
        lambda: sharpness(m, x, y, **CE, seed="x"),
        "seed: 'x' is not usable; allowed: integers from 0 to 9223372036854775807",
    ),
    (
        lambda: sharpness(m, x, y, **CE, warm_start=torch.ones(3)),
        ("warm_start: shape (3,) does not fit; allowed: (k, 50), from the same space, samples and processes"),
    ),
    (
        lambda: sharpness(m, x, y, **CE, warm_start=torch.ones(1, 7)),
        (
            "warm_start: shape (1, 7) does not fit; allowed: (k, 50), from the same space, samples "
            "and processes"
        ),
    ),
    (
        lambda: sharpness(m, x, y, **CE, warm_start="x"),
        "warm_start: str does not fit; allowed: Eigenpairs, a tensor",
    ),
    (
        lambda: sharpness(m, x, y, **CE, warm_start=sharpness(network(depth=2), x, y, **CE)),
        (
            "warm_start: shape (1, 16) does not fit; allowed: (k, 50), from the same space, "
            "samples and processes"
        ),
    ),
    (lambda: sharpness(m, x[:0], y[:0], **CE), "x: no samples on any process; allowed: at least one"),
    (lambda: sharpness(m, x, y + 5, **CE), "y: class ids from 5 to 7; allowed: 0 to 2"),
    (lambda: sharpness(m, x, y, loss="hinge"), "loss: 'hinge' is unknown; allowed: cross_entropy, mse"),
    (
        lambda: sharpness(m, x, y, **CE, scales=-torch.ones(3)).values,
        "scales: [-1.0, -1.0, -1.0] are not usable; allowed: finite numbers from 0",
    ),
    (
        lambda: sharpness(m, x, y, **CE, chunk_size=2, space="factor"),
        "space: 'factor' needs the batch in one piece; allowed with chunk_size: 'dense'",
    ),
    (lambda: feature_ranks(x[0]), "features: torch.float32 of shape (4,); allowed: real (n, m)"),
    (lambda: feature_ranks(x[:0]), "features: torch.float32 of shape (0, 4); allowed: real (n, m)"),
    (lambda: feature_ranks(x.long()), "features: torch.int64 of shape (5, 4); allowed: real (n, m)"),
    (
        lambda: feature_ranks(x.to(torch.complex64)),
        "features: torch.complex64 of shape (5, 4); allowed: real (n, m)",
    ),
    (lambda: feature_ranks(x.tolist()), "features: list does not fit; allowed: a real tensor (n, m)"),
    (
        lambda: gradient_soft_ranks(linear, x, y, **CE),
        "model: Sequential is not available here; allowed: HomogeneousMLP",
    ),
    (
        lambda: gradient_soft_ranks(m, x, y, loss="mse"),
        ("y: torch.int64 of shape (5,) does not fit; allowed: floating point targets of shape (5, 3)"),
    ),
    (
        lambda: gradient_soft_ranks(m, x, t, loss="cross_entropy"),
        "y: torch.float32 of shape (5, 3) does not fit; allowed: int64 class ids of shape (5,)",
    ),
    (lambda: gradient_soft_ranks(m, x, y + 9, **CE), "y: class ids from 9 to 11; allowed: 0 to 2"),
    (
        lambda: gradient_soft_ranks(m, x[:0], y[:0], **CE),
        "x: no samples on any process; allowed: at least one",
    ),
    (
        lambda: gradient_soft_ranks(m, x, y, **CE, chunk_size=-1),
        "chunk_size: -1 is not usable; allowed: integers from 1",
    ),
    (lambda: load_run("nowhere"), "load_run: 'nowhere' is no folder; allowed: a run directory"),
    (lambda: load_run(3), "load_run: '3' is no folder; allowed: a run directory"),  # type: ignore[arg-type]
]


def attach_twice() -> None:
    scaling = DepthwiseScaling(m)
    for _ in range(2):
        scaling.attach(SGD(m.parameters(), lr=1))


@pytest.mark.parametrize(("call", "message"), CASES, ids=[message[:60] for _, message in CASES])
def test_unfit_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value) == message
    assert "allowed" in message


def test_every_public_name_takes_no_nonsense() -> None:
    """Results are made by the functions, not by users."""
    results = {
        "Eigenpairs", "FeatureRanks", "Predictions", "TaylorCoefficients", "TrainedRun", "__version__"
    }  # fmt: skip
    called = {name for call, _ in (*CASES, (network, "")) for name in call.__code__.co_names}
    assert set(scaled_sgd.__all__) - results <= called


@pytest.mark.parametrize("bad", [nan, math.inf])
def test_numbers_that_are_not_finite_stay_visible(bad: float) -> None:
    """They are what a diverging network gives, so they are measured and not refused."""
    broken = x.clone()
    broken[2, 1] = bad
    assert not taylor_coefficients(m, broken, y, **CE).c0.isfinite()
    found = sharpness(m, broken, y, **CE)
    assert found.values.isnan().all()
    assert not found.converged
    assert all(v.isnan() for v in vars(feature_ranks(broken)).values())
    assert gradient_soft_ranks(m, broken, y, **CE).isnan().all()


def test_a_refused_state_changes_nothing() -> None:
    optimizer = ScaledSGD(m, 1)
    before = optimizer.state_dict()
    with pytest.raises(UserError):
        optimizer.load_state_dict(ScaledSGD(network(depth=2), 2).state_dict())
    assert optimizer.state_dict() == before
