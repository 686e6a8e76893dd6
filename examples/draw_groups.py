"""Draw the groups of a learned dictionary as one picture.

python examples/draw_groups.py runs/001 docs/figures/groups.png
"""

import sys
from pathlib import Path

import numpy as np

from gramian.files import replace_file
from gramian.images import load_dictionary
from gramian.report.pictures import atoms_picture, png

ENLARGED = 3


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/draw_groups.py RUN PICTURE.png")
    run, picture = map(Path, sys.argv[1:])
    phi = load_dictionary(run / "dictionary.safetensors").phi
    pixels = atoms_picture(phi, columns=4 if phi.shape[2] > 2 else 8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    replace_file(picture, png(np.repeat(np.repeat(pixels, ENLARGED, axis=0), ENLARGED, axis=1)))


if __name__ == "__main__":
    main()
