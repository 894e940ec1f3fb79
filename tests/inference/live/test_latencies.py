"""Quantiles of any number of latencies."""

import numpy as np
import pytest

from etram_det.inference.live.latencies import Latencies


def test_quantiles_are_those_of_all_to_a_tenth_of_a_millisecond():
    values_s = np.random.default_rng(0).gamma(2, 0.02, 10_000)
    latencies = Latencies()
    for value_s in values_s:
        latencies.add(value_s)
    assert len(latencies) == 10_000
    for share in (0.01, 0.5, 0.99, 1):
        exact_ms = 1000 * np.quantile(values_s, share, method="inverted_cdf")
        assert latencies.quantile_ms(share) == pytest.approx(exact_ms, abs=0.1001)


def test_none_and_those_out_of_range():
    latencies = Latencies()
    assert np.isnan(latencies.quantile_ms(0.5))
    latencies.add(-1)
    latencies.add(1e9)
    assert latencies.quantile_ms(0.5) == pytest.approx(0.1)
    assert latencies.quantile_ms(0.99) == pytest.approx(6553.6)
