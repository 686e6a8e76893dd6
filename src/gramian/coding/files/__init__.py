"""Dictionary files, with a checksum of their whole content."""

from gramian.coding.files.dictionary import Dictionary, Preparation, StoredParts, load_dictionary, save_dictionary

__all__ = ["Dictionary", "Preparation", "StoredParts", "load_dictionary", "save_dictionary"]
