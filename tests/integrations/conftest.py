"""What pytest collects here."""

# For their doctests it would import Lightning and Transformers into every process, which takes seconds.
collect_ignore_glob = ["in_*.py"]
