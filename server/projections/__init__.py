"""Read models: pure folds over the events, and counters beside them."""
