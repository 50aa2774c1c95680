"""Incompatible keys, each combination stated once; checks, ``auto``, planner and docs read this table."""

from functools import partial

from scaled_sgd.config.combination import Allowed, Combination, by_rule, by_strategy, unless, when
from scaled_sgd.config.values import Holds, OneOf, Within
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.steps.optimizers import OPTIMIZERS, Optimizer
from scaled_sgd.steps.rules import RULES, Rule

_LATER = Holds(lambda resume: resume != "auto", "no, or the path of a run or checkpoint")
_FUSED = tuple(can.name for can in STRATEGIES.entries if can.fused)
_NUMBER = Holds(lambda steps: steps is not None, "a number of steps")
_SPLIT = Holds(lambda split: split is not None, "a split")


def _fits_gradients(rule: Rule) -> bool:
    return rule.scalar or rule.polar


def _layers_to(depth: int) -> Holds:
    def are_there(layers: object) -> bool:
        return not isinstance(layers, list) or (bool(layers) and max(layers) <= depth)

    return Holds(are_there, f"all, last or numbers of layers from 1 to {depth}")


def _if_not_0(allowed: Allowed, number: float | None) -> Allowed:
    return allowed if number else None


def _strategies_for(optimizer: Optimizer) -> tuple[str, ...]:
    return tuple(
        can.name
        for can in STRATEGIES.entries
        if (optimizer.sharded or not can.rows) and (optimizer.zero or can.zero_stage is None)
    )


COMBINATIONS = (
    *(
        # Their product fits float32 too.
        Combination(key, "model.dtype", when("float32", Within(0, most)), "a step must fit the weights' type")
        for key, most in (("optim.lr", 1e30), ("optim.weight_decay", 1e8), ("optim.frobenius_decay", 1e8))
    ),
    Combination(
        "run.precision", "model.dtype", unless("float32", ("no",)), "mixed precision is of float32 weights"
    ),
    Combination(
        "run.precision",
        "sharding.strategy",
        by_strategy(lambda can: can.precisions),
        "loss scales are for replicas",
    ),
    Combination(
        "run.precision",
        "optim.update",
        when("fused", ("no", "tf32", "bf16")),
        "loss scales are of gradients",
    ),
    Combination(
        "model.dtype",
        "sharding.strategy",
        by_strategy(lambda can: can.dtypes),
        "ZeRO keeps float32 masters",
    ),
    Combination(
        "optim.accumulation",
        "optim.update",
        when("fused", (1,)),
        "the update would come before the gradient is whole",
    ),
    Combination(
        "optim.accumulation",
        "optim.batch_size",
        lambda n: Within(1, n) if isinstance(n, int) else None,
        "a microbatch has samples",
    ),
    Combination(
        "sharding.activation_checkpointing",
        "optim.update",
        when("fused", (False,)),
        "signals are computed once",
    ),
    Combination(
        "optim.update",
        "sharding.strategy",
        by_strategy(lambda can: None if can.fused else ("auto", "autograd")),
        "only DeepSpeed's own steps reach its masters",
    ),
    Combination(
        "optim.update",
        "scaling.rule",
        by_rule(lambda rule: None if _fits_gradients(rule) else ("auto", "fused")),
        "a gradient of autograd is scaled by a number only",
    ),
    Combination(
        "sharding.strategy",
        "scaling.rule",
        by_rule(lambda rule: None if rule.scalar else OneOf(_FUSED, also=("auto",))),
        "matrices need whole layers, or the fused update of row shards",
    ),
    Combination(
        "sharding.strategy",
        "optim.update",
        when("autograd", ("auto", *(name for name in _FUSED if not STRATEGIES[name].rows))),
        "part of a gradient does not have the singular values of the whole",
        also=("scaling.rule", lambda name: name in RULES and RULES[name].polar),
    ),
    Combination(
        "optim.update",
        "optim.optimizer",
        lambda name: None if OPTIMIZERS[name].fused else ("auto", "autograd"),
        "it steps by gradients",
    ),
    Combination(
        "optim.schedule",
        "optim.optimizer",
        lambda name: None if OPTIMIZERS[name].fused else ("constant", "linear", "cosine", "adas"),
        "the edge is that of the steps of SGD",
    ),
    Combination(
        "optim.schedule",
        "scaling.rule",
        by_rule(lambda rule: None if rule.scalar else ("constant", "linear", "cosine", "edge", "adas")),
        "‖H ĝ‖ is that of steps that are a number times each layer's gradient",
    ),
    Combination(
        "optim.lr_factors",
        "optim.schedule",
        lambda schedule: None if schedule in ("constant", "linear", "cosine") else ([],),
        "a measured rate follows what it finds",
    ),
    Combination(
        "optim.momentum",
        "optim.optimizer",
        lambda name: None if OPTIMIZERS[name].momentum else (0.0,),
        "it has its own, in optim.options",
    ),
    Combination(
        "optim.options",
        "optim.optimizer",
        lambda name: None if OPTIMIZERS[name].options else ({},),
        "all its options have keys",
    ),
    Combination(
        "sharding.strategy",
        "optim.optimizer",
        lambda name: OneOf(_strategies_for(OPTIMIZERS[name]), also=("auto",)),
        "where its step is right",
    ),
    Combination(
        "sharding.exchange",
        "sharding.strategy",
        by_strategy(lambda can: None if can.exchange else ("auto",)),
        "only replicas have the choice",
    ),
    Combination(
        "sharding.exchange",
        "optim.update",
        when("autograd", ("auto",)),
        "only fused steps have the choice",
    ),
    Combination(
        "sharding.tensor_processes",
        "sharding.strategy",
        by_strategy(lambda can: None if can.shares_layers else (None,)),
        "it decides by itself how many processes share a layer",
    ),
    Combination(
        "scaling.static",
        "scaling.rule",
        by_rule(lambda rule: None if rule.scalar else (False,)),
        "matrices belong to their minibatch",
    ),
    Combination(
        "sharding.exchange",
        "scaling.rule",
        by_rule(lambda rule: None if _fits_gradients(rule) else ("auto", "factors")),
        "a gradient alone does not tell its factors",
    ),
    Combination(
        "optim.normalize", "optim.clip_norm", unless(None, (False,)), "a normalised gradient has norm 1"
    ),
    Combination(
        "optim.lr_in_edges",
        "scaling.rule",
        by_rule(lambda rule: None if rule.scalar else (None,)),
        "the edge is that of a number times each layer's gradient",
    ),
    Combination(
        "optim.lr_in_edges",
        "optim.optimizer",
        lambda name: None if OPTIMIZERS[name].fused else (None,),
        "the edge is that of the steps of SGD",
    ),
    Combination(
        "optim.lr_in_edges", "optim.normalize", when(True, (None,)), "such a step does not know its curvature"
    ),
    Combination(
        "optim.clip_layers",
        "optim.clip_norm",
        when(None, ("all",)),
        "nothing is clipped",
        also=("optim.normalize", lambda normalize: not normalize),
    ),
    Combination(
        "optim.clip_layers",
        "model.depth",
        lambda depth: _layers_to(depth) if isinstance(depth, int) else None,
        "they are layers of the network",
    ),
    Combination(
        "optim.clip_layers",
        "model.rank",
        unless(None, ("all", "last")),
        "numbers would be those of factors",
    ),
    Combination("model.factor_start", "model.rank", when(None, ("spectral",)), "there are no factors"),
    Combination(
        "optim.frobenius_decay",
        "model.rank",
        when(None, (0.0,)),
        "without factors it is optim.weight_decay",
    ),
    *(
        Combination(key, "optim.frobenius_decay", partial(_if_not_0, allowed), reason)
        for key, allowed, reason in (
            ("optim.update", ("auto", "fused"), "gradients of autograd do not have it"),
            ("optim.optimizer", ("sgd",), "others step by gradients of autograd"),
            ("sharding.strategy", ("auto", *_FUSED), "it needs a fused step"),
            ("optim.accumulation", (1,), "it needs a fused step"),
            ("sharding.activation_checkpointing", (False,), "it needs a fused step"),
            ("optim.schedule", ("constant", "linear", "cosine", "adas"), "the edge is without it"),
            ("optim.lr_in_edges", (None,), "the edge is without it"),
        )
    ),
    Combination("optim.steps", "optim.epochs", unless(None, (None,)), "one of the two says how long"),
    *(
        Combination(f"data.{key}", "data.source", when(source, allowed), reason)
        for source in ("parity", "teacher")
        for key, allowed, reason in (
            ("split", ("train",), "it is generated"),
            ("eval_split", ("auto", None), "it is generated; data.eval_fraction of it is held out"),
            ("inputs", (None,), "it has one column of inputs"),
            ("target", (None,), "it has one target"),
        )
    ),
    Combination(
        "data.task", "data.source", when("teacher", ("auto", "regression")), "its targets are numbers"
    ),
    *(
        Combination(f"data.{key}", "data.source", when("digits", allowed), reason)
        for key, allowed, reason in (
            ("streaming", (False,), "it is in memory"),
            ("split", ("train",), "it has one split"),
            ("eval_split", ("auto", None), "it has one split; data.eval_fraction of it is held out"),
            ("task", ("auto", "classification"), "it has classes"),
            ("inputs", (None,), "it has no columns"),
            ("target", (None,), "it has no columns"),
        )
    ),
    Combination(
        "optim.epochs", "data.streaming", when(True, (None,)), "a stream has no length; optim.steps says it"
    ),
    Combination("optim.steps", "data.streaming", when(True, _NUMBER), "the length of a stream is unknown"),
    Combination("data.eval_split", "data.streaming", when(True, _SPLIT), "a stream holds nothing out"),
    Combination(
        "model.centered", "data.streaming", when(True, (False,)), "f_0 is computed once for every sample"
    ),
    Combination("data.limit", "data.streaming", when(True, (None,)), "optim.steps limits a stream"),
    Combination(
        "optim.warmup_steps",
        "optim.steps",
        lambda steps: None if steps is None else Within(0, steps - 1),
        "warm-up ends before training",
    ),
    Combination(
        "diagnostics.sharpness",
        "diagnostics.keep_vectors",
        when(True, (True,)),
        "the vectors are those of that search",
    ),
    Combination("run.resume", "run.name", when(None, _LATER), "auto finds a run by its name"),
)
