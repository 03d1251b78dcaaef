"""The process that `gobelin simulate` supervises: the engine on one study."""

import sys
from pathlib import Path

from gobelin.simulation.engine import run
from gobelin.simulation.study import StudyHome

if __name__ == "__main__":
    run(StudyHome(Path(sys.argv[1])), Path(sys.argv[2]))
