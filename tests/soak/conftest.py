"""The soak takes long: it is collected only when `make soak` asks for it. It shares the harness of the fault tests."""

import os
import sys
from pathlib import Path

collect_ignore = [] if "AUDIENCE_SOAK" in os.environ else ["test_soak.py", "test_soak_publishing.py"]
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
