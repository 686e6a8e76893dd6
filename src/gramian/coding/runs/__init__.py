"""Learning runs of any application: folder, metrics, loop, and available memory."""

from gramian.coding.runs.dictionary_run import DictionaryOptions, DictionaryRun
from gramian.coding.runs.memory import available_memory
from gramian.coding.runs.run import Run, RunOptions

__all__ = ["DictionaryOptions", "DictionaryRun", "Run", "RunOptions", "available_memory"]
