"""Where and when made-up results of benchmarks say that they were measured."""

MEASURED_ON = {
    "device": "cpu",
    "cpu": "A CPU",
    "threads": 1,
    "dtype": "float32",
    "versions": {"torch": "2"},
    "commit": None,
    "date": "2026-01-02T03:04:05",
}
