"""Evidence: the contest that puts every method through the same test, and what it rests on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "ablations",
        "audit",
        "benchmark",
        "ceilings",
        "dense_ledger",
        "intervals",
        "ledger",
        "metrics",
        "recovery",
        "reference_metrics",
        "splits",
        "switches",
    ],
    submod_attrs={
        "benchmark": ["COLUMNS", "KnownTruth", "contest", "describe", "predictions_of", "seeds_of"],
        "metrics": ["hit_at_k", "pearson_per_gene", "rmse_per_gene"],
        "splits": ["Fold", "leave_one_out", "spatial_blocks"],
    },
)
