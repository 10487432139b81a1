"""Spaces and costs that the tests of searchers share: known optima, no measuring."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from tuner.choices import Choose, Config, Infeasible
from tuner.space import Space


def bowl(choose: Choose) -> None:
    """Five tiles, independent; the best is far from the default."""
    for name in "abcde":
        choose.tile(name, 96, default=4)


def bowl_seconds(config: Config) -> float:
    """A bowl over the logarithms, with its bottom at 24, 6, 48, 2, 12."""
    goal = dict(zip("abcde", (24, 6, 48, 2, 12), strict=True))
    return 1e-3 * (1 + sum(log2(config[name] / goal[name]) ** 2 for name in goal))


def kernel(choose: Choose) -> None:
    """Like a sketch: extents that depend on answers, decisions that may not exist, refusals."""
    tile = choose.tile("oc", 64, default=16, multiple_of=4)
    inner = choose.tile("oc_inner", tile, default=min(8, tile))
    order = choose.order("loops", ("n", "h", "w"))
    if choose.one_of("vectorise", (True, False), default=True):
        choose.one_of("lanes", ("sse", "avx", "avx512"), default="avx")
    width = choose.one_of("unroll", (0, 4, 16), default=4)
    if tile // inner * max(1, width) > 64:
        raise Infeasible("more than the registers hold")
    if order[0] == "w":
        choose.one_of("shape", ((1, 2), (2, 2), (4, 1)), default=(2, 2))


def kernel_seconds(config: Config) -> float:
    """Has several local optima."""
    cost = 1.0 + abs(log2(config["oc"] / 32)) + abs(log2(config["oc_inner"] / 16))
    cost += {"sse": 1.0, "avx": 0.5, "avx512": 0.0}.get(config.get("lanes"), 2.0)
    cost += 0.5 * ("n", "w", "h").index(config["loops"][0])
    cost += 0.25 * (config["unroll"] != 16)
    return 1e-3 * cost


def few(choose: Choose) -> None:
    """Fifteen configurations."""
    choose.tile("a", 8, default=4)
    choose.one_of("b", ("x", "y", "z"), default="y")


def few_seconds(config: Config) -> float:
    return 1e-3 * (config["a"] + (config["b"] == "y"))


@dataclass(frozen=True)
class Landscape:
    space: Space
    seconds: object
    optimum: float


BOWL = Landscape(Space(bowl), bowl_seconds, 1e-3)
KERNEL = Landscape(Space(kernel), kernel_seconds, 1e-3)
FEW = Landscape(Space(few), few_seconds, 1e-3)
