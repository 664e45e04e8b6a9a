"""The charts of the report are distinct and the same each time."""

import numpy as np

from model.preprocessing import Garment
from training.charts import draw_charts


def test_charts_are_distinct_and_repeatable() -> None:
    charts = draw_charts(Garment(size=28))
    assert len(np.unique(charts.reshape(len(charts), -1), axis=0)) == len(charts)
    assert (charts == draw_charts(Garment(size=28))).all()
