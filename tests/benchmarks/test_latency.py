"""The benchmark of predicted latencies runs, and tells errors of the networks asked for."""

from benchmarks.latency import predictions


def test_errors_of_random_networks() -> None:
    (row,) = predictions({"nas-bench-macro": 8}, networks=2, batch_size=1, seconds=1e-3)
    assert (row["space"], row["image_size"], row["batch_size"], row["networks"]) == ("nas-bench-macro", 8, 1, 2)
    assert 0 < row["mean"] <= row["worst"]
