"""The synthetic questions as tasks of lmms-eval: two YAML files, the functions that they name, and
a writer of data."""
