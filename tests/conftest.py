import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

# Two pytest workers share two cores.
torch.set_num_threads(1)
