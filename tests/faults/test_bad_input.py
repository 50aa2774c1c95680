"""Every configuration key and every form of a command line, given wrongly: one line and status 2."""

import math
import re
from typing import Any, get_args, get_origin

import pytest
import torch

from scaled_sgd.cli import main as command
from scaled_sgd.config import KEYS
from scaled_sgd.config.parsing import read_key
from scaled_sgd.config.values import Holds, Within, takes_text
from scaled_sgd.core.errors import UserError
from scaled_sgd.steps.rules import RULES
from tests.faults.cases import Row, assert_refused

IMPOSSIBLE = [
    Row(f"scaling.rule: 'nrom' is not usable; allowed: auto, {', '.join(RULES)}", ("--scaling.rule=nrom",)),
    Row("optim.momentum: -0.1 is not usable; allowed: numbers from 0 to below 1", ("--optim.momentum=-.1",)),
    Row("optim.steps: 0 is not usable; allowed: integers from 1, or null", ("--optim.steps=0",)),
    Row("model.depth: 100001 is not usable; allowed: integers from 1 to 100000", ("--model.depth=100001",)),
    Row(
        "checkpoint.keep_steps: 0 is not usable; allowed: integers from 1",
        ("--checkpoint.keep_steps=[3,0]",),
    ),
    Row(
        (
            "sharding.offload: true is not usable; allowed: false (signals, scales and weights must be on "
            "one device)"
        ),
        ("--sharding.offload=true",),
    ),
    Row("run.dir: '' is not usable; allowed: the path of a folder", ("--run.dir=",)),
    Row(
        "run.resume: '' is not usable; allowed: no, auto, or the path of a run or checkpoint",
        ("--run.resume=",),
    ),
    Row(
        "run.accept_changes: 'optim.speed' is not usable; allowed: configuration keys or groups of them",
        ("--run.accept_changes=[optim.speed]",),
    ),
    Row(
        "run.plugins: 'no.such' cannot be imported (ModuleNotFoundError: No module named 'no'); allowed: "
        "modules that Python finds, and entry points of scaled_sgd.plugins",
        ("--run.plugins=[no.such]",),
    ),
    Row(
        (
            "model.base_width: 1000000000000 at depth 2 and width_exponent 2.0 gives a layer of "
            "1e+12; allowed: widths up to 2147483647"
        ),
        ("--model.base_width=1000000000000",),
    ),
    Row(
        "model.width_exponent: inf is not usable; allowed: finite numbers from 0",
        ("--model.width_exponent=.inf",),
    ),
    Row(
        (
            "model.base_width: 2 at depth 2 and width_exponent 400.0 gives a layer of inf; allowed: "
            "widths up to 2147483647"
        ),
        ("--model.width_exponent=400",),
    ),
    Row(
        (
            "model.activation: 'sine' is not usable; allowed: relu, abs, linear, tanh, gelu, "
            "softplus, swish, or two finite numbers [a, b], one of them not 0"
        ),
        ("--model.activation=sine",),
    ),
    Row(
        (
            "model.activation: [0.0, 0.0] is not usable; allowed: relu, abs, linear, tanh, gelu, "
            "softplus, swish, or two finite numbers [a, b], one of them not 0"
        ),
        ("--model.activation=[0,0]",),
    ),
    Row(
        (
            "model.activation: [nan, 1.0] is not usable; allowed: relu, abs, linear, tanh, gelu, "
            "softplus, swish, or two finite numbers [a, b], one of them not 0"
        ),
        ("--model.activation=[.nan,1]",),
    ),
    Row(
        (
            "model.activation: '[1, 2, 3]' does not fit; allowed: relu, abs, linear, tanh, gelu, "
            "softplus, swish, or two finite numbers [a, b], one of them not 0"
        ),
        ("--model.activation=[1,2,3]",),
    ),
    Row(
        ("data.source: no file or folder 'none.csv'; allowed: a local file or folder, a hub name, digits"),
        ("--data.source=none.csv",),
    ),
    Row(
        "data.source: '' is no file, folder or hub name; allowed: one of them ('owner/name')",
        ("--data.source=",),
    ),
    Row(
        (
            "data.source: no file or folder '~nobody/x.csv'; allowed: a local file or folder, a hub "
            "name, digits"
        ),
        ("--data.source=~nobody/x.csv",),
    ),
    Row(
        "data.source: 'a/b/c' is no file, folder or hub name; allowed: one of them ('owner/name')",
        ("--data.source=a/b/c",),
    ),
    Row(
        (
            "data.source: cannot reach the Hugging Face hub for 'owner/name' (HF_HUB_OFFLINE is "
            "set); allowed without it: a local parquet, CSV or JSON file or a save_to_disk folder"
        ),
        ("--data.source=owner/name",),
    ),
    Row(
        ("data.source: no file or folder './gone'; allowed: a local file or folder, a hub name, digits"),
        ("--data.source=./gone",),
    ),
    Row(
        "data.split: 'test' is not usable; allowed: train with data.source digits (it has one split)",
        ("--data.split=test",),
    ),
    Row(
        (
            "data.eval_split: 'test' is not usable; allowed: auto, null with data.source digits "
            "(it has one split; data.eval_fraction of it is held out)"
        ),
        ("--data.eval_split=test",),
    ),
    Row(
        "data.separator: 'ab' is not usable; allowed: one character, such as ;, or null",
        ("--data.separator=ab",),
    ),
    Row(
        "data.eval_fraction: nan is not usable; allowed: numbers between 0 and 1",
        ("--data.eval_fraction=.nan",),
    ),
    Row(
        "data.inputs: ['a'] is not usable; allowed: null with data.source digits (it has no columns)",
        ("--data.inputs=[a]",),
    ),
    Row(
        "data.target: 'lable' is not usable; allowed: null with data.source digits (it has no columns)",
        ("--data.target=lable",),
    ),
    Row(
        "data.streaming: true is not usable; allowed: false with data.source digits (it is in memory)",
        ("--data.streaming=true",),
    ),
    Row(
        "data.limit: 9223372036854775808 is not usable; allowed: integers below 2**63, or null",
        ("--data.limit=9223372036854775808",),
    ),
    Row(
        "optim.lr_factors: [(3, 0.5), (2, 1.0)] is not usable; allowed: a list of [step, factor] with steps "
        "that ascend",
        ("--optim.lr_factors=[[3, 0.5], [2, 1]]",),
    ),
    Row("optim.lr: nan is not usable; allowed: finite numbers from 0", ("--optim.lr=.nan",)),
    Row(
        "optim.lr: 1e+300 is not usable; allowed: numbers from 0 to 1e30 with model.dtype float32 (a step "
        "must fit the weights' type)",
        ("--optim.lr=1e300",),
    ),
    Row(
        "optim.weight_decay: 1e+300 is not usable; allowed: numbers from 0 to 1e8 with model.dtype float32 "
        "(a step must fit the weights' type)",
        ("--optim.weight_decay=1e300",),
    ),
    Row(
        "optim.accumulation: 1000000000 is not usable; allowed: integers from 1 to 256 with optim.batch_size "
        "256 (a microbatch has samples)",
        ("--optim.accumulation=1000000000",),
    ),
    Row("run.dir: 'a\\udcff' is not usable; allowed: text in UTF-8", ("--run.dir=a\udcff",)),
    Row("optim.lr: inf is not usable; allowed: finite numbers from 0", ("--optim.lr=.inf",)),
    Row("optim.lr: inf is not usable; allowed: finite numbers from 0", ("--optim.lr=1e400",)),
    Row(
        "optim.batch_size: 9223372036854775808 is not usable; allowed: integers below 2**63, or all",
        ("--optim.batch_size=9223372036854775808",),
    ),
    Row(
        "optim.epochs: nan is not usable; allowed: numbers above 0 to 1e9, or null",
        ("--optim.epochs=.nan", "--optim.steps=null"),
    ),
    Row(
        "optim.warmup_steps: 2 is not usable; allowed: integers from 0 to 1 with "
        "optim.steps 2 (warm-up ends before training)",
        ("--optim.warmup_steps=2",),
    ),
    Row("optim.momentum: nan is not usable; allowed: numbers from 0 to below 1", ("--optim.momentum=.nan",)),
    Row(
        "optim.clip_norm: inf is not usable; allowed: finite numbers above 0, or null",
        ("--optim.clip_norm=.inf",),
    ),
    Row(
        "diagnostics.tolerance: nan is not usable; allowed: numbers between 0 and 1",
        ("--diagnostics.tolerance=.nan",),
    ),
    Row(
        "sharding.tensor_processes: 2 is not usable; allowed: null with sharding.strategy ddp (it decides by "
        "itself how many processes share a layer)",
        ("--sharding.tensor_processes=2",),
    ),
    Row(
        (
            "run.name: '../escape' is not usable; allowed: up to 200 letters, digits, '.', '_' and "
            "'-', the first a letter or digit, or null"
        ),
        ("--run.name=../escape",),
    ),
    Row(
        (
            "run.name: '-x' is not usable; allowed: up to 200 letters, digits, '.', '_' and '-', the "
            "first a letter or digit, or null"
        ),
        ("--run.name=-x",),
    ),
    Row(
        (
            "run.name: 'x\\n' is not usable; allowed: up to 200 letters, digits, '.', '_' and '-', "
            "the first a letter or digit, or null"
        ),
        ("--run.name=x\n",),
    ),
    Row(
        "run.seed: 9223372036854775808 is not usable; allowed: integers below 2**63",
        ("--run.seed=9223372036854775808",),
    ),
    Row(
        (
            "run.device: 'cuda' has 0 devices for 1 processes here; allowed: auto, cpu, or at most 0 "
            "processes a machine"
        ),
        ("--run.device=cuda",),
    ),
    Row("run.processes: 2 were asked for, 1 run; allowed: a launcher that starts 2", ("--run.processes=2",)),
    Row("run.precision: 'fp16' needs a CUDA device; allowed on the CPU: no, bf16", ("--run.precision=fp16",)),
    Row("run.precision: 'tf32' needs a CUDA device; allowed on the CPU: no, bf16", ("--run.precision=tf32",)),
    Row(
        (
            "run.resume: 'auto' is not usable; allowed: no, or the path of a run or "
            "checkpoint with run.name null (auto finds a run by its name)"
        ),
        ("--run.resume=auto",),
    ),
    Row(
        "run.resume: no run or checkpoint at 'gone'; allowed: no, auto, or the path of a run or checkpoint",
        ("--run.resume=gone",),
    ),
    Row(
        "run.timeout_seconds: inf is not usable; allowed: numbers from 1 to 1e6",
        ("--run.timeout_seconds=.inf",),
    ),
    Row("run.metrics: 'mse' is for regression; allowed: metrics of classification", ("--run.metrics=[mse]",)),
    Row(
        (
            "run.metrics: no script 'gone.py'; allowed: accuracy, mse, r2, a local script or a module on "
            "the hub"
        ),
        ("--run.metrics=[gone.py]",),
    ),
    Row(
        "run.metrics: no script ''; allowed: accuracy, mse, r2, a local script or a module on the hub",
        ("--run.metrics=['']",),
    ),
    Row(
        (
            "run.metrics: cannot reach the Hugging Face hub for 'f1'; allowed without it: accuracy, "
            "mse, r2 and a local script"
        ),
        ("--run.metrics=[f1]",),
    ),
    Row(
        "run.trackers: 'nothing' is not installed or unknown; allowed: tensorboard",
        ("--run.trackers=[nothing]",),
    ),
]
"""Values of the right type that cannot be meant, or not here, beyond what bounds say."""

TOGETHER = [
    Row(
        "optim.normalize: true is not usable; allowed: false with optim.clip_norm 1.0 (a "
        "normalised gradient has norm 1)",
        ("--optim.normalize=true", "--optim.clip_norm=1"),
    ),
    Row(
        "optim.accumulation: 2 is not usable; allowed: 1 with optim.update fused (the "
        "update would come before the gradient is whole)",
        ("--optim.update=fused", "--optim.accumulation=2"),
    ),
    Row(
        "run.precision: 'fp16' is not usable; allowed: no, tf32, bf16 with optim.update fused "
        "(loss scales are of gradients)",
        ("--optim.update=fused", "--run.precision=fp16"),
    ),
    Row(
        "sharding.activation_checkpointing: true is not usable; allowed: false with "
        "optim.update fused (signals are computed once)",
        ("--optim.update=fused", "--sharding.activation_checkpointing=true"),
    ),
    Row(
        (
            "optim.update: 'fused' is not usable; allowed: auto, autograd with "
            "sharding.strategy zero2 (only DeepSpeed's own steps reach its masters)"
        ),
        ("--optim.update=fused", "--sharding.strategy=zero2"),
    ),
    Row(
        (
            "sharding.exchange: 'factors' is not usable; allowed: auto with optim.update "
            "autograd (only fused steps have the choice)"
        ),
        ("--sharding.exchange=factors", "--optim.update=autograd"),
    ),
    Row(
        "run.precision: 'bf16' is not usable; allowed: no with model.dtype float64 "
        "(mixed precision is of float32 weights)",
        ("--run.precision=bf16", "--model.dtype=float64"),
    ),
    Row(
        "optim.steps: 5 is not usable; allowed: null with optim.epochs 2.0 (one of the two says how long)",
        ("--optim.steps=5", "--optim.epochs=2"),
    ),
    Row(
        "optim.warmup_steps: 9 is not usable; allowed: integers from 0 to 8 with "
        "optim.steps 9 (warm-up ends before training)",
        ("--optim.warmup_steps=9", "--optim.steps=9"),
    ),
    Row(
        "optim.warmup_steps: 6 is not usable; allowed: integers from 0 to 5 with optim.steps 6 "
        "(warm-up ends before training)",
        ("--optim.steps=null", "--optim.epochs=1", "--optim.warmup_steps=6"),
    ),
    Row(
        (
            "model.dtype: 'float64' is not usable; allowed: float32 with sharding.strategy "
            "zero1 (ZeRO keeps float32 masters)"
        ),
        ("--sharding.strategy=zero1", "--model.dtype=float64"),
    ),
    Row(
        "diagnostics.k: 200 is not usable; allowed: integers from 1 to the 148 weights",
        ("--diagnostics.every=1", "--diagnostics.k=200"),
    ),
    Row(
        (
            "data.task: 'regression' is not usable; allowed: auto, classification with data.source digits "
            "(it has classes)"
        ),
        ("--loss=cross_entropy", "--data.task=regression"),
    ),
    Row(
        "run.dir: cannot make 'taken/…': Not a directory; allowed: a writable folder",
        ("--run.dir=taken",),
        {"taken": "a file"},
    ),
]
"""Keys that do not go together."""

COMMAND_LINES = [
    Row("model.depth: no value given; allowed: integers from 1 to 100000", ("--model.depth",)),
    Row("optim.lr: no value given; allowed: finite numbers from 0", ("--optim.lr", "--loss=mse")),
    Row("scaling.static: no value given; allowed: true, false", ("--scaling.static",)),
    Row("model.deph: unknown key; did you mean model.depth?", ("--model.deph=3",)),
    Row("mod.depth: unknown key; did you mean model.depth?", ("--mod.depth=3",)),
    Row("model.dep: unknown key; did you mean model.depth?", ("--model.dep=3",)),
    Row("Model.depth: unknown key; did you mean model.depth?", ("--Model.depth=3",)),
    Row("colour: unknown key; allowed: loss, model.depth, …", ("--colour=red",)),
    Row(
        "scaling.zzz: unknown key; allowed: scaling.rule, scaling.static, scaling.polar, scaling.iterations",
        ("--scaling.zzz=1",),
    ),
    Row(
        (
            "model.help: unknown key; allowed: model.depth, model.base_width, model.width_exponent, "
            "model.activation, model.parameterization, model.output_scale, "
            "model.rank, model.factor_start, model.centered, model.dtype"
        ),
        ("--model.help",),
    ),
    Row("no_scaling.static: unknown key; did you mean scaling.static?", ("--no_scaling.static",)),
    Row("argument: 'digits' is not understood; allowed: options such as --model.depth 8", ("digits",)),
    Row("argument: '-x' is not understood; allowed: options such as --model.depth 8", ("-x",)),
    Row("argument: '--' is not understood; allowed: options such as --model.depth 8", ("--",)),
    Row("argument: '' is not understood; allowed: options such as --model.depth 8", ("",)),
    Row(
        "argument: '4' is not understood; allowed: options such as --model.depth 8",
        ("--model.depth", "3", "4"),
    ),
    Row("model.depth: '=3' does not fit; allowed: integers from 1 to 100000", ("--model.depth==3",)),
    Row(
        "model.depth: 'x' does not fit; allowed: integers from 1 to 100000",
        ("--model.depth=3", "--model.depth=x"),
    ),
    Row("model.depth+: unknown key; did you mean model.depth?", ("--model.depth+=3",)),
    Row(
        (
            "model: nothing is not a group; allowed: the keys depth, base_width, width_exponent, "
            "activation, parameterization, output_scale, rank, factor_start, centered, dtype"
        ),
        ("--model",),
    ),
    Row(
        (
            "model: 3 is not a group; allowed: the keys depth, base_width, width_exponent, "
            "activation, parameterization, output_scale, rank, factor_start, centered, dtype"
        ),
        ("--model=3",),
    ),
    Row(
        (
            "model: 'x.yaml' is not a group; allowed: the keys depth, base_width, width_exponent, "
            "activation, parameterization, output_scale, rank, factor_start, centered, dtype"
        ),
        ("--model=x.yaml",),
    ),
    Row("model.deph: unknown key; did you mean model.depth?", ("--model={deph: 3}",)),
    Row(
        "--print_config: 'foo' is unknown; allowed: skip_default, skip_null",
        ("--print_config=foo",),
    ),
    Row("print_confg: unknown key; allowed: loss, model.depth, …", ("--print_confg",)),
    Row("debugg: unknown key; allowed: loss, model.depth, …", ("--debugg",)),
    Row("debug: unknown key; allowed: loss, model.depth, …", ("--debug=1",)),
    Row("--config: no value given; allowed: a YAML file", ("--config",)),
    Row("--config: no file ''; allowed: a YAML file", ("--config=",)),
    Row("--config: no file '.'; allowed: a YAML file", ("--config=.",)),
    Row("--config: no file 'none.yaml'; allowed: a YAML file", ("--config=none.yaml",)),
    Row("--config: no file 'none.yaml'; allowed: a YAML file", ("--config=none.yaml", "--config=other.yaml")),
]

BOMB = "a: &a [x, x]\n" + "".join(f"k{i}: &k{i} [*{'a' if i == 0 else f'k{i - 1}'}, *a]\n" for i in range(40))
FILES = [
    Row(
        "model.deph: unknown key; did you mean model.depth?",
        ("--config=c.yaml",),
        {"c.yaml": "model: {deph: 3}"},
    ),
    Row(
        "modle: unknown key; allowed: loss, model.depth, …",
        ("--config=c.yaml",),
        {"c.yaml": "modle: {depth: 3}"},
    ),
    Row(
        (
            "model: 3 is not a group; allowed: the keys depth, base_width, width_exponent, "
            "activation, parameterization, output_scale, rank, factor_start, centered, dtype"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "model: 3"},
    ),
    Row(
        (
            "model: null is not a group; allowed: the keys depth, base_width, "
            "width_exponent, activation, parameterization, output_scale, rank, factor_start, centered, dtype"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "model:"},
    ),
    Row(
        (
            "model: [] is not a group; allowed: the keys depth, base_width, width_exponent, "
            "activation, parameterization, output_scale, rank, factor_start, centered, dtype"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "model: []"},
    ),
    Row(
        "model.depth: 'deep' does not fit; allowed: integers from 1 to 100000",
        ("--config=c.yaml",),
        {"c.yaml": "model: {depth: deep}"},
    ),
    Row(
        "model.depth: '3.0' does not fit; allowed: integers from 1 to 100000",
        ("--config=c.yaml",),
        {"c.yaml": "model: {depth: 3.0}"},
    ),
    Row(
        "model.depth: 'true' does not fit; allowed: integers from 1 to 100000",
        ("--config=c.yaml",),
        {"c.yaml": "model: {depth: true}"},
    ),
    Row(
        (
            "model.activation: \"[1, 'x']\" does not fit; allowed: relu, abs, linear, tanh, gelu, "
            "softplus, swish, or two finite numbers [a, b], one of them not 0"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "model: {activation: [1, x]}"},
    ),
    Row(
        "optim.lr: -2.0 is not usable; allowed: finite numbers from 0",
        ("--config=c.yaml",),
        {"c.yaml": "optim: {lr: -2}"},
    ),
    Row(
        "optim.lr: inf is not usable; allowed: finite numbers from 0",
        ("--config=c.yaml",),
        {"c.yaml": "optim: {lr: 1e400}"},
    ),
    Row(
        "optim.lr: 3 is not nested; allowed in a file: optim: {lr: …}",
        ("--config=c.yaml",),
        {"c.yaml": "optim.lr: 3"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: it has the key lr twice; allowed: keys and values "
            "in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "optim: {lr: 1, lr: 2}"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: it has the key loss twice; allowed: keys and "
            "values in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "loss: mse\nloss: mse"},
    ),
    Row(
        "run.name: '1000.0' does not fit; allowed: up to 200 letters, digits, '.', '_' "
        "and '-', the first a letter or digit, or null",
        ("--config=c.yaml",),
        {"c.yaml": "run: {name: 1e3}"},
    ),
    Row(
        "run.dir: 'a\\x00b' is not usable; allowed: the path of a folder",
        ("--config=c.yaml",),
        {"c.yaml": 'run: {dir: "a\\0b"}'},
    ),
    Row(
        ("data.source: no file or folder './a\\x00b'; allowed: a local file or folder, a hub name, digits"),
        ("--config=c.yaml",),
        {"c.yaml": 'data: {source: "./a\\0b"}'},
    ),
    Row(
        (
            "run.metrics: no script './a\\x00b'; allowed: accuracy, mse, r2, a local script or a module on "
            "the hub"
        ),
        ("--config=c.yaml",),
        {"c.yaml": 'run: {metrics: ["./a\\0b"]}'},
    ),
    Row(
        "run.trackers: 'tensorboard' does not fit; allowed: a list such as [a, b]",
        ("--config=c.yaml",),
        {"c.yaml": "run: {trackers: tensorboard}"},
    ),
    Row(
        "config: unknown key; allowed: loss, model.depth, …",
        ("--config=c.yaml",),
        {"c.yaml": "config: other.yaml"},
    ),
    Row(
        "print_config: unknown key; allowed: loss, model.depth, …",
        ("--config=c.yaml",),
        {"c.yaml": "print_config: true"},
    ),
    Row("1: unknown key; allowed: loss, model.depth, …", ("--config=c.yaml",), {"c.yaml": "1: 2"}),
    Row("None: unknown key; allowed: loss, model.depth, …", ("--config=c.yaml",), {"c.yaml": "null: 3"}),
    Row(
        "--config: 'c.yaml' holds a list; allowed: keys and values in plain YAML",
        ("--config=c.yaml",),
        {"c.yaml": "[1, 2]"},
    ),
    Row(
        "--config: 'c.yaml' holds a str; allowed: keys and values in plain YAML",
        ("--config=c.yaml",),
        {"c.yaml": "text"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: while parsing a flow sequence in \"<unicode "
            "string>\", line 1, column 8: model: [1, ^ expected ',' or ']', but got '<stream end>' in "
            '"<unicode string>", line 2, column 2: 2 ^; allowed: keys and values in plain YAML'
        ),
        ("--config=c.yaml",),
        {"c.yaml": "model: [1,\n2"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: while constructing a mapping in \"<unicode "
            'string>", line 1, column 1: ? [a] ^ found unhashable key in "<unicode string>", line 1, '
            "column 3: ? [a] ^; allowed: keys and values in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "? [a]\n: b"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: expected a single document in the stream in "
            '"<unicode string>", line 1, column 5: --- {} ^ but found another document in "<unicode '
            'string>", line 2, column 1: --- {} ^; allowed: keys and values in plain YAML'
        ),
        ("--config=c.yaml",),
        {"c.yaml": "--- {}\n--- {}\n"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: while scanning for the next token found character "
            "'\\t' that cannot start any token in \"<unicode string>\", line 1, column 1: - x ^; "
            "allowed: keys and values in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "\t- x"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system' in \"<unicode string>\", line 1, column "
            "6: run: !!python/object/apply:os.system ... ^; allowed: keys and values in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "run: !!python/object/apply:os.system ['touch hacked']"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system' in \"<unicode string>\", line 1, column 6: "
            "run: !!python/object:os.system {} ^; allowed: keys and values in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "run: !!python/object:os.system {}"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/name:os.system' in \"<unicode string>\", line 1, column 6: run: "
            "!!python/name:os.system ^; allowed: keys and values in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "run: !!python/name:os.system"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: could not determine a constructor for the tag "
            "'!evil' in \"<unicode string>\", line 1, column 6: run: !evil {} ^; allowed: keys and "
            "values in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "run: !evil {}"},
    ),
    Row(
        (
            "model.class_path: unknown key; allowed: model.depth, model.base_width, "
            "model.width_exponent, model.activation, model.parameterization, model.output_scale, "
            "model.rank, model.factor_start, model.centered, model.dtype"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "model: {class_path: os.system}"},
    ),
    Row(
        ("--config: 'c.yaml' is not valid YAML: it has an alias; allowed: keys and values in plain YAML"),
        ("--config=c.yaml",),
        {"c.yaml": BOMB},
    ),
    Row(
        "--config: 'c.yaml' nests too deeply; allowed: keys and values in plain YAML",
        ("--config=c.yaml",),
        {"c.yaml": "[" * 3000},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: 'utf-8' codec can't decode byte 0xff in position "
            "0: invalid start byte; allowed: keys and values in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": b"\xff\xfe\x00"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: unacceptable character #x0000: special characters "
            'are not allowed in "<unicode string>", position 1; allowed: keys and values in plain '
            "YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": b"a\x00b: 3"},
    ),
    Row(
        (
            "--config: 'c.yaml' is not valid YAML: found incompatible YAML document (version "
            '1.* is required) in "<unicode string>", line 1, column 1: %YAML 2.0 ^; allowed: '
            "keys and values in plain YAML"
        ),
        ("--config=c.yaml",),
        {"c.yaml": "%YAML 2.0\n--- {loss: mse}"},
    ),
    Row(
        "optim.lr: 'null' does not fit; allowed: finite numbers from 0",
        ("--config=c.yaml",),
        {"c.yaml": "optim: {lr: null}"},
    ),
    Row(
        (
            "run.name: 'a\\x00b' is not usable; allowed: up to 200 letters, digits, '.', '_' and '-', "
            "the first a letter or digit, or null"
        ),
        ("--config=c.yaml",),
        {"c.yaml": 'run: {name: "a\\0b"}'},
    ),
    Row(
        (
            "run.name: 'a\\nb' is not usable; allowed: up to 200 letters, digits, '.', '_' and '-', "
            "the first a letter or digit, or null"
        ),
        ("--config=c.yaml",),
        {"c.yaml": 'run: {name: "a\\nb"}'},
    ),
]


def limits(hint: Any) -> list[Any]:
    """All that the parts of a type are annotated with."""
    own = [limit for limit in getattr(hint, "__metadata__", ()) if hasattr(limit, "holds")]
    return own + [limit for part in get_args(hint) if part is not hint for limit in limits(part)]


def outside(name: str) -> list[Any]:
    """Numbers just outside the bounds of a key."""
    found: list[Any] = []
    kind = int if "integers" in KEYS[name].allowed else float
    for limit in (limit for limit in limits(KEYS[name].hint) if isinstance(limit, Within)):
        for bound, sign in ((limit.least, -1), (limit.most, 1)):
            if math.isfinite(bound):
                found.append(bound + sign if kind is int else math.nextafter(bound, sign * math.inf))
        found += [bound for bound in (limit.above, limit.below) if math.isfinite(bound)]
        found += [2**63] if kind is int else [math.nan, math.inf]
    return found


LISTS = ("optim.clip_layers", "optim.lr_factors")
"""Keys whose numbers stand in lists of their own; their tests try them."""
OUTSIDE = [(name, value) for name in KEYS if name not in LISTS for value in outside(name)]


def in_a_list(name: str, value: Any) -> Any:
    return [value] if get_origin(KEYS[name].hint) is list else value


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_a_number_outside_its_bounds_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        read_key(name, in_a_list(name, value))
    assert re.fullmatch(
        rf"{name}: {re.escape(repr(value))}(\.0)? is not usable; allowed: .+", str(error.value)
    )
    assert re.search(r"from|above|between|below", str(error.value).split("allowed: ")[1])


@pytest.mark.parametrize("name", dict(OUTSIDE))
def test_a_closed_bound_is_accepted(name: str) -> None:
    for limit in (limit for limit in limits(KEYS[name].hint) if isinstance(limit, Within)):
        for bound in (bound for bound in (limit.least, limit.most) if math.isfinite(bound)):
            assert read_key(name, in_a_list(name, bound)) == in_a_list(name, bound)


def test_every_key_with_a_condition_of_its_own_has_a_row() -> None:
    """Bounds and names are tested from the schema."""
    given = {row.arguments[0].removeprefix("--").partition("=")[0] for row in IMPOSSIBLE}
    special = {name for name, key in KEYS.items() if any(isinstance(one, Holds) for one in limits(key.hint))}
    assert special <= given


@pytest.mark.parametrize("name", KEYS)
def test_another_type_is_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    group, _, leaf = name.rpartition(".")
    if takes_text(KEYS[name].hint, "banana"):
        value, files = "[1, 2]", {"c.yaml": f"{group}: {{{leaf}: [1, 2]}}"}
        row = Row("", ("--config=c.yaml",), files)
    else:
        # An activation may be text, of which only the names are allowed, or a list.
        value = "3" if name == "model.activation" else "banana"
        row = Row("", (f"--{name}={value}",))
    message = f"{name}: {value!r} does not fit; allowed: {KEYS[name].allowed}"
    assert_refused(Row(message, row.arguments, row.files), capfd)


@pytest.mark.parametrize("row", [*IMPOSSIBLE, *TOGETHER], ids=str)
def test_a_value_that_cannot_be_meant_is_refused(row: Row, capfd: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available() and {"--run.device=cuda", "--run.precision=fp16"} & {*row.arguments}:
        pytest.skip("there is a GPU")
    assert_refused(row, capfd)


@pytest.mark.parametrize("row", COMMAND_LINES, ids=str)
def test_a_malformed_command_line_is_refused(row: Row, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(row, capfd)


@pytest.mark.parametrize("row", FILES, ids=lambda row: repr(row.files["c.yaml"])[:40])
def test_a_file_with_a_mistake_is_refused(row: Row, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(row, capfd)


COMMANDS = "train, predict, evaluate, runs, export, line, flow, study, doctor, launch-files"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "command: 'fly' is unknown; allowed: " + COMMANDS),
        (["--fly"], "command: '--fly' is unknown; allowed: " + COMMANDS),
        (["Train"], "command: 'Train' is unknown; allowed: " + COMMANDS),
        (["train", "--model.deph=1"], "model.deph: unknown key; did you mean model.depth?"),
        (["train", "--run.processes=0"], "run.processes: 0 is not usable; allowed: integers from 1, or null"),
        (["launch-files"], "launch-files: allowed: one folder"),
        (["doctor", "--processes=0"], "processes: 0 is not usable; allowed: integers from 1"),
        (
            ["doctor", "--colour"],
            "unrecognized arguments: --colour; allowed: --processes N, --run.dir FOLDER, --json",
        ),
    ],
)
def test_a_mistake_in_a_command_is_refused(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(arguments) == 2
    assert capfd.readouterr() == ("", f"error: {message}\n")
