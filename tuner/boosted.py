"""Boosted trees that rank candidates. Needs XGBoost.

>>> rng = np.random.default_rng(0)
>>> features = rng.random((64, 4))
>>> model = Boosted(seed=0)
>>> model.fit([Group(features, 1 + features[:, 0])])
>>> bool(np.argmax(model.predict(np.array([[0.9, 0, 0, 0], [0.1, 0, 0, 0]]))) == 1)
True

Source: Ansor (OSDI 2020, arXiv 2006.06762) for normalised throughput; XGBoost, arXiv 1603.02754.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tuner.cost_model import Floats, Group, throughputs
from tuner.errors import TuningError

Objective = Literal["throughput", "rank"]

_OBJECTIVES: dict[Objective, dict[str, object]] = {
    "throughput": {"objective": "reg:squarederror"},
    # XGBoost's default pairs only the 32 best with others, and scales down what they teach: that
    # puts 77 % of the pairs of the tests in order, this 97 %.
    "rank": {
        "objective": "rank:pairwise",
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": 200,
        "lambdarank_normalization": False,
    },
}
_FEWEST = 2
"""Of fewer candidates nothing can be ranked."""


class Boosted:
    """A cost model of trees; refitted from all records whenever there are new ones."""

    def __init__(
        self,
        seed: int,
        *,
        objective: Objective = "throughput",
        rounds: int = 100,
        depth: int = 6,
        learning_rate: float = 0.2,
        n_jobs: int = 1,
    ) -> None:
        """A model that knows nothing.

        Args:
            seed: Decides which rows a tree sees.
            objective: To predict the throughput, or the order of pairs within a task.
            rounds: How many trees.
            depth: How deep each is.
            learning_rate: How much each corrects.
            n_jobs: Threads. Results do not depend on them.
        """
        self._objective = objective
        self._rounds = rounds
        self._booster: Any = None
        self._features = 0
        self._settings: dict[str, object] = {
            **_OBJECTIVES[objective],
            "max_depth": depth,
            "eta": learning_rate,
            "subsample": 0.8,
            "min_child_weight": 1,
            "tree_method": "hist",
            "seed": seed,
            "nthread": n_jobs,
            "verbosity": 0,
        }

    def fit(self, groups: Sequence[Group]) -> None:
        """See `CostModel.fit`. Tasks in which nothing could be ranked teach nothing.

        Raises:
            TuningError: Groups have different features, or XGBoost is not installed.
        """
        useful = [
            group
            for group in groups
            if len(group.seconds) >= _FEWEST and np.isfinite(group.seconds).any()
        ]
        if not useful:
            return
        widths = sorted({group.features.shape[1] for group in useful})
        if len(widths) > 1:
            raise TuningError(
                f"fit of {len(useful)} tasks: they have {widths} features; give them the same"
            )
        xgboost = _xgboost()
        # Small tasks count as much as large ones: a row's weight is its share of its task. A rank
        # objective takes one weight a task, and all are equal then.
        sizes = [len(group.seconds) for group in useful]
        data = xgboost.DMatrix(
            np.concatenate([group.features for group in useful]),
            label=np.concatenate([throughputs(group) for group in useful]),
        )
        if self._objective == "rank":
            data.set_group(sizes)
        else:
            mean = sum(sizes) / len(sizes)
            data.set_weight(np.repeat([mean / size for size in sizes], sizes))
        self._booster = xgboost.train(self._settings, data, num_boost_round=self._rounds)
        self._features = widths[0]

    def predict(self, features: Floats) -> Floats:
        """See `CostModel.predict`.

        Raises:
            TuningError: It has learnt from other features.
        """
        if self._booster is None or not len(features):
            return np.zeros(len(features))
        if features.shape[1] != self._features:
            raise TuningError(
                f"prediction from {features.shape[1]} features: the model has learnt from"
                f" {self._features}; fit it again"
            )
        scores = self._booster.predict(_xgboost().DMatrix(features, nthread=1))
        return np.asarray(scores, np.float64)

    def save(self, path: Path) -> None:
        """Writes the trees, as XGBoost's JSON.

        Raises:
            TuningError: It has not learnt yet, or the path's name does not end in .json.
        """
        if self._booster is None or path.suffix != ".json":
            raise TuningError(
                f"save a model at {path}: fit it first, and give a name that ends in .json"
            )
        self._booster.save_model(path)

    @staticmethod
    def load(path: Path, seed: int) -> Boosted:
        """A model that predicts as the saved one; fitting it begins from nothing.

        Raises:
            TuningError: The file is no saved model.
        """
        xgboost = _xgboost()
        model = Boosted(seed)
        booster = xgboost.Booster()
        try:
            booster.load_model(path)
        except (OSError, xgboost.core.XGBoostError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
            raise TuningError(f"model from {path}: {reason}; it is not a saved model") from error
        model._booster = booster
        model._features = int(booster.num_features())
        return model


def _xgboost() -> Any:
    try:
        # Here and not above: it is optional, and takes its time to import.
        import xgboost
    except ModuleNotFoundError as error:
        raise TuningError(
            f"boosted trees: {error}; install 'alt-compiler[tune]', or search without a model"
        ) from error
    return xgboost
