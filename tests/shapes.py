"""The run-time check of shapes and types: beartype, which reads `float` as any real number, as PEP 484 does."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
