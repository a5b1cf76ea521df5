"""Makes `toys` and `saboteurs` importable by name, here and in the fresh process of L5."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
