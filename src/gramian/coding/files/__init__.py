"""Read and write dictionary files, with a checksum of their whole content; and read dictionaries of other tools."""

from gramian.coding.files.dictionary import Dictionary, Preparation, StoredParts, load_dictionary, save_dictionary
from gramian.coding.files.groups import read_groups

__all__ = ["Dictionary", "Preparation", "StoredParts", "load_dictionary", "read_groups", "save_dictionary"]
