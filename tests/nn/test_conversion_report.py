"""The report on a conversion, as data and as a table."""

from __future__ import annotations

import pytest
from torch import nn

import kshot_ext


@pytest.mark.filterwarnings("ignore:convert left some layers:UserWarning")
def test_the_report_is_a_table() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.PReLU(4), nn.Linear(6, 20), nn.Linear(20, 20), nn.BatchNorm2d(4))
    model[3].weight = model[2].weight  # of another shape, so neither is used
    model[4].affine = False
    report = kshot_ext.conversion_report(kshot_ext.convert(model, 3))
    assert report.swapped == {"0": "Conv2d"}
    assert report.parameters == {"0": 148, "1": 4, "2": 140, "3": 20, "4": 8}
    assert str(report).splitlines()[:5] == [
        "K-shot layers: 1, with 148 parameters of one copy (46.2%)",
        "  0  Conv2d  148",
        "left as they are: 4, with 172 parameters (53.8%)",
        "  1    4  PReLU has no K-shot form",
        "  2  140  its weight is also 3.weight, which stays as it is",
    ]


def test_a_model_that_is_a_layer_has_a_name_in_the_table() -> None:
    assert str(kshot_ext.conversion_report(kshot_ext.convert(nn.Linear(4, 2), 3))).splitlines() == [
        "K-shot layers: 1, with 10 parameters of one copy (100.0%)",
        "  (the model itself)  Linear  10",
        "left as they are: 0, with 0 parameters (0.0%)",
    ]


def test_norms_without_parameters_are_counted_without() -> None:
    report = kshot_ext.conversion_report(nn.BatchNorm1d(4, affine=False))
    assert report.parameters == {"": 0}
    assert str(report).startswith("K-shot layers: 0, with 0 parameters of one copy\n")
