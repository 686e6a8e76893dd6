r"""Formulas for a terminal: LaTeX becomes one line of Unicode.

It knows only the commands that the derivation uses. The derivation is written once, in LaTeX, and printed as plain
text, Markdown and LaTeX.
"""

import re

from gramian.errors import OptionError

__all__ = ["plain_formula", "plain_text"]

_SYMBOLS = {
    "Phi": "Φ", "Gamma": "Γ", "Delta": "Δ",
    "beta": "β", "delta": "δ", "eta": "η", "lambda": "λ", "mu": "μ", "tau": "τ",
    "partial": "∂", "cdot": "·", "ldots": "…", "top": "⊤", "|": "‖", "{": "{", "}": "}", "infty": "∞",
}  # fmt: skip
_OPERATORS = {
    "=": "=", "+": "+", "-": "−", ":": ":", "<": "<", ">": ">", ",": ",", ";": ";",
    r"\in": "∈", r"\le": "≤", r"\ge": "≥", r"\ne": "≠", r"\otimes": "⊗", r"\circ": "∘", r"\to": "→",
}  # fmt: skip
_NAMES = ("max", "min", "log", "det")
_SIZES = (r"\left", r"\bigl")
_CLOSING = (r"\right", r"\bigr")
_END = "\N{ZERO WIDTH SPACE}"
"""Marks a closing bar, which looks like an opening one, until the formula is complete."""
_SPACES = {r"\,": " ", r"\;": " ", r"\quad": "\N{EM SPACE}"}
_SUPERSCRIPTS = str.maketrans("⊤−0123456789", "ᵀ⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\s+|.")


def plain_formula(latex: str) -> str:
    r"""Convert a formula to one line of Unicode.

    Args:
        latex: The formula, with the commands of the derivation.

    Returns:
        The same formula; subscripts follow an underscore, and fractions a slash.

    Raises:
        OptionError: If the formula has a command that is not known, or a brace that is not closed.

    Examples:
        >>> plain_formula(r"\frac{\partial L}{\partial \Phi_{ab}} = 2\beta\sum_j \Phi_{aj}\,G_{jb}")
        '∂L/∂Φ_ab = 2β Σ_j Φ_aj G_jb'
    """
    reader = _Reader(latex)
    text = reader.read().replace(_END, "")
    if reader.tokens:
        raise OptionError(f"every brace of a formula must be opened before it is closed; got {latex!r}")
    text = re.sub(r" +", " ", re.sub(r" ?\N{EM SPACE} ?", "\N{EM SPACE}", text)).strip()
    return re.sub(r" (?=[),\]])", "", text).replace("\N{EM SPACE}", "   ")


def plain_text(prose: str) -> str:
    """Convert the formulas within a sentence, which stand between dollar signs, to Unicode.

    Args:
        prose: A sentence.

    Examples:
        >>> plain_text("Column $b$ of $2P G$.")
        'Column b of 2PG.'
    """
    return re.sub(r"\$(.+?)\$", lambda match: plain_formula(match[1]), prose)


class _Reader:
    """The remaining tokens of a formula; each method returns the text so far, extended by one part."""

    def __init__(self, latex: str) -> None:
        self.latex = latex
        self.tokens = _TOKEN.findall(latex)
        self.parts = {
            "{": self.group, "^": self.superscript, "_": self.index, r"\frac": self.fraction, r"\tfrac": self.fraction,
            r"\mathrm": self.words, r"\text": self.words,
        }  # fmt: skip

    def read(self) -> str:
        """Read up to a brace that closes, or to the end."""
        text = ""
        while self.tokens and self.tokens[0] != "}":
            token = self.tokens.pop(0)
            if token in _CLOSING and self.tokens:
                text = self.part(text, self.tokens.pop(0)) + _END
            elif not token.isspace() and token not in _SIZES:
                text = self.part(text, token)
        return text

    def part(self, text: str, token: str) -> str:
        if token in self.parts:
            return self.parts[token](text)
        if token in _OPERATORS:
            return text + self.operator(text, _OPERATORS[token])
        if token == r"\sum" or token[1:] in _NAMES:
            return self.named(text, token)
        if token in _SPACES:
            return text + _SPACES[token]
        if token[0] != "\\":
            return text + token
        if token[1:] not in _SYMBOLS:
            raise OptionError(f"a command must be one that the derivation uses; got {token!r} in {self.latex!r}")
        return text + _SYMBOLS[token[1:]]

    def argument(self) -> str:
        while self.tokens and self.tokens[0].isspace():
            self.tokens.pop(0)
        if not self.tokens:
            raise OptionError(f"a command must have its argument; got {self.latex!r}")
        return self.part("", self.tokens.pop(0))

    def group(self, text: str) -> str:
        inside = self.read()
        if not self.tokens:
            raise OptionError(f"every brace of a formula must be closed; got {self.latex!r}")
        self.tokens.pop(0)
        return text + inside

    def superscript(self, text: str) -> str:
        return text + self.argument().translate(_SUPERSCRIPTS)

    def index(self, text: str) -> str:
        index = self.argument().replace(" ", "").replace(_END, "")
        return text + (f"_{index}" if re.fullmatch(r"[\w,²]+", index) else f"_{{{index}}}")

    def fraction(self, text: str) -> str:
        above, below = self.argument(), self.argument()
        half = (above, below) == ("1", "2")
        return text + ("½" if half else f"{_factor(above)}/{_factor(below)}")

    def words(self, text: str) -> str:
        """Read the text between braces as it is, with its spaces."""
        if "}" not in self.tokens or self.tokens[0] != "{":
            raise OptionError(f"text in a formula must be between braces; got {self.latex!r}")
        end = self.tokens.index("}")
        inside = "".join(self.tokens[1:end])
        del self.tokens[: end + 1]
        return text + inside

    def operator(self, text: str, sign: str) -> str:
        if sign in ",;":
            return f"{sign} "
        unary = sign in "+−" and (not text.rstrip() or text.rstrip()[-1] in "(,=:≤≠∈[|‖/")
        return sign if unary else f" {sign} "

    def named(self, text: str, token: str) -> str:
        """Read a sum or the name of a function, with its index, and keep a space before and after it."""
        apart = text if not text or text[-1] in "( [|" else text + " "
        result = apart + ("Σ" if token == r"\sum" else token[1:])
        if self.tokens and self.tokens[0] == "_":
            self.tokens.pop(0)
            result = self.index(result)
        following = next((t for t in self.tokens if not t.isspace() and t not in _SIZES), "")
        return result if token != r"\sum" and following in "(|" else result + " "


def _factor(text: str) -> str:
    return f"({text})" if " " in text.strip() else text
